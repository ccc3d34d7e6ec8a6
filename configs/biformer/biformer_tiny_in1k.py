"""BiFormer-T on ImageNet-1K, evaluation only: top-1 81.4 % (published; short side
256, centre 224). Costs 13.1 M parameters, 2.2 GMACs an image.

visionsparse test biformer/biformer_tiny_in1k biformer_tiny_in1k.pth --out results.json
"""

_base_ = ["../_base_/imagenet.py", "../_base_/runtime.py"]

model = dict(type="ImageClassifier", backbone=dict(type="biformer_tiny"))  # ImageNet's mean and std are the default
test_cfg = dict()
test_evaluator = dict(type="ClassificationMetric")
