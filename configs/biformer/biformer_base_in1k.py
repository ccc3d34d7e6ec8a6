"""BiFormer-B on ImageNet-1K, evaluation only: top-1 84.3 % (published; short side
256, centre 224). Costs 56.8 M parameters, 9.8 GMACs an image.

visionsparse test biformer/biformer_base_in1k biformer_base_in1k.pth --out results.json
"""

_base_ = ["../_base_/imagenet.py", "../_base_/runtime.py"]

model = dict(type="ImageClassifier", backbone=dict(type="biformer_base"))  # ImageNet's mean and std are the default
test_cfg = dict()
test_evaluator = dict(type="ClassificationMetric")
