"""What `visionsparse soak kill` kills: seconds of training with all that makes going on hard (averaged weights, random
augmentation, drop path, accumulated gradients), saved every few iterations. It is there for that and trains no digits.

visionsparse train biformer/biformer_nano_soak
"""

_base_ = ["biformer_nano_digits.py"]

model = dict(backbone=dict(depths=(1, 1), embed_dims=(32, 64)))
train_cfg = dict(max_epochs=1)
optim_wrapper = dict(accumulative_counts=2)
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=5, max_keep_ckpts=2))
train_dataloader = dict(batch_size=24, num_workers=0)
val_dataloader = dict(num_workers=0)
