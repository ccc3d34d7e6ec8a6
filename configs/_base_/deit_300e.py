"""The DeiT recipe on ImageNet-1K, with which BiFormer and many others were trained: 300 epochs of 1024 images a step.

Eight processes of 128 images each, or fewer that add up gradients (optim_wrapper.accumulative_counts). A config on top
of it names the net and its drop path. docs/training.md tells what each part does and how to change it.
Source: arXiv 2012.12877, and the arguments of BiFormer's published training script.
"""

_base_ = ["imagenet.py", "runtime.py"]

train_dataloader = dict(
    sampler=dict(repeats=3),  # repeated augmentation: an epoch sees a third of the images, three times each
    dataset=dict(
        pipeline=[
            dict(type="RandomResizedCrop", size=224, interpolation="bicubic"),
            dict(type="RandomHorizontalFlip"),
            # published: "colour jitter 0.4" is an argument too, but timm's create_transform drops it beside RandAugment
            dict(type="RandAugment", policy="rand-m9-mstd0.5-inc1", interpolation="bicubic"),
        ],
    ),
)
model = dict(
    type="ImageClassifier",  # ImageNet's mean and std are the default
    label_smoothing=0.1,
    batch_augments=[
        dict(type="RandomErasing", probability=0.25, mode="pixel", max_count=1),
        dict(type="Mixup", mixup_alpha=0.8, cutmix_alpha=1.0, switch_prob=0.5, prob=1.0),
    ],
)

train_cfg = dict(max_epochs=300)
val_cfg = dict(fp16=True)  # float32 on a CPU, here too
test_cfg = dict(fp16=True)
val_evaluator = dict(type="ClassificationMetric")
test_evaluator = dict(type="ClassificationMetric")

optim_wrapper = dict(
    type="AmpOptimWrapper",
    dtype="float16",  # float32 on a CPU; --amp bf16 or --amp off change it
    constructor="NoDecayConstructor",  # biases and norms don't decay
    optimizer=dict(type="AdamW", lr=5e-4, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05),
)
auto_scale_lr = dict(enable=True, base_batch_size=512)  # lr is for 512 images a step: 1e-3 for 1024
param_scheduler = dict(type="WarmupCosineLR", warmup_epochs=5, warmup_lr=1e-6, eta_min=1e-5)
default_hooks = dict(
    # decay 0.99996, of batch norm's statistics too; averaged weights are what is validated and saved
    ema=dict(type="EMAHook", momentum=4e-5, update_buffers=True),
)
