"""ImageNet-1K at 224 x 224: random resized crops and flips for training; for evaluation the short side becomes 256
(bicubic) and the centre 224 x 224 is cut out. data/README.md shows how the images have to lie.
"""

train_dataloader = dict(
    batch_size=128,
    num_workers=8,
    prefetch_factor=4,
    persistent_workers=True,
    pin_memory=True,
    drop_last=True,
    sampler=dict(type="EpochSampler"),
    collate_fn=dict(type="default_collate"),
    dataset=dict(
        type="ImageNet",
        data_root="data/imagenet",
        split="train",
        pipeline=[
            dict(type="RandomResizedCrop", size=224, interpolation="bicubic"),
            dict(type="RandomHorizontalFlip"),
        ],
    ),
)
val_dataloader = dict(
    batch_size=128,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type="EpochSampler", shuffle=False, round_up=False),
    collate_fn=dict(type="default_collate"),
    dataset=dict(
        type="ImageNet",
        data_root="data/imagenet",
        split="val",
        pipeline=[
            dict(type="Resize", size=256, interpolation="bicubic"),
            dict(type="CenterCrop", size=224),
        ],
    ),
)
test_dataloader = dict(
    batch_size=128,
    num_workers=8,
    pin_memory=True,
    sampler=dict(type="EpochSampler", shuffle=False, round_up=False),
    collate_fn=dict(type="default_collate"),
    dataset=dict(
        type="ImageNet",
        data_root="data/imagenet",
        split="val",
        pipeline=[
            dict(type="Resize", size=256, interpolation="bicubic"),
            dict(type="CenterCrop", size=224),
        ],
    ),
)
