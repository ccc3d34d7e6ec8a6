"""BiFormer-S on ImageNet-1K, evaluation only: top-1 83.8 % (published; short side
256, centre 224). Costs 25.5 M parameters, 4.5 GMACs an image.

visionsparse test biformer/biformer_small_in1k biformer_small_in1k.pth --out results.json
"""

_base_ = ["../_base_/imagenet.py", "../_base_/runtime.py"]

model = dict(type="ImageClassifier", backbone=dict(type="biformer_small"))  # ImageNet's mean and std are the default
test_cfg = dict()
test_evaluator = dict(type="ClassificationMetric")
