"""Thimble on the embedded digits: it scores nothing, it is made up.

visionsparse train thimble/thimble_s_digits
"""

_base_ = ["../_base_/digits.py", "../_base_/runtime.py"]

model = dict(type="ImageClassifier", backbone=dict(type="thimble_s", num_classes=10))
train_cfg = dict(max_epochs=1)
val_cfg = dict()
val_evaluator = dict(type="ClassificationMetric")
optim_wrapper = dict(optimizer=dict(type="AdamW", lr=1e-3))
