"""BiFormer-STL on ImageNet-1K, evaluation only: top-1 82.7 % (published; short side
256, centre 224). Costs 28.4 M parameters, 4.6 GMACs an image.

visionsparse test biformer/biformer_stl_in1k biformer_stl_in1k.pth --out results.json
"""

_base_ = ["../_base_/imagenet.py", "../_base_/runtime.py"]

model = dict(type="ImageClassifier", backbone=dict(type="biformer_stl"))  # ImageNet's mean and std are the default
test_cfg = dict()
test_evaluator = dict(type="ClassificationMetric")
