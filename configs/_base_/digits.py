"""The embedded handwritten digits, 32 x 32: shifted, turned and scaled for training, as they are for evaluation
(where resizing and cropping only matter for images of one's own).
"""

train_dataloader = dict(
    batch_size=64,
    num_workers=2,
    prefetch_factor=4,
    persistent_workers=True,
    sampler=dict(type="EpochSampler"),
    collate_fn=dict(type="default_collate"),
    dataset=dict(
        type="Digits",
        data_root="data/digits",
        split="train",
        pipeline=[
            # mild: the digits fill the image, so a larger shift or scale cuts strokes off
            dict(
                type="RandomAffine",
                degrees=10,
                translate=(0.06, 0.06),
                scale=(0.9, 1.1),
                shear=10,
                interpolation="bilinear",
            ),
        ],
    ),
)
val_dataloader = dict(
    batch_size=120,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="EpochSampler", shuffle=False, round_up=False),
    collate_fn=dict(type="default_collate"),
    dataset=dict(
        type="Digits",
        data_root="data/digits",
        split="val",
        pipeline=[
            dict(type="Resize", size=32, interpolation="bicubic"),
            dict(type="CenterCrop", size=32),
        ],
    ),
)
test_dataloader = dict(
    batch_size=120,
    num_workers=2,
    sampler=dict(type="EpochSampler", shuffle=False, round_up=False),
    collate_fn=dict(type="default_collate"),
    dataset=dict(
        type="Digits",
        data_root="data/digits",
        split="val",
        pipeline=[
            dict(type="Resize", size=32, interpolation="bicubic"),
            dict(type="CenterCrop", size=32),
        ],
    ),
)
