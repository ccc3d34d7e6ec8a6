"""The config of a net for three classes of 32 x 32 images, as a user's file holds it: what inference is tested with."""

CONFIG = """
model = dict(
    type="ImageClassifier",
    backbone=dict(
        type="biformer_nano", depths=(1, 1), embed_dims=(32, 64), topks=(4, 4), regions_per_side=4, num_classes=3
    ),
    data_preprocessor=dict(type="ImageNormalizer"),
)
test_dataloader = dict(dataset=dict(type="Digits", pipeline=[dict(type="Resize", size=(32, 32))]))
"""
