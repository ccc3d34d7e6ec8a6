"""BiFormer-B on ImageNet-1K: top-1 84.3 % (published; not trained here). Costs 56.8 M parameters and 9.8 GMACs
an image at 224 x 224.

The published recipe, 300 epochs of 1024 images a step: on eight GPUs, or on one that adds up eight batches for a step:
torchrun --nproc-per-node 8 -m visionsparse.tools.train biformer/biformer_base_in1k
visionsparse train biformer/biformer_base_in1k --cfg-options optim_wrapper.accumulative_counts=8

The published weights, evaluated as published (short side 256, centre 224, fp16 on a GPU):
visionsparse test biformer/biformer_base_in1k biformer_base_in1k.pth --out results.json
"""

_base_ = ["../_base_/deit_300e.py"]

model = dict(backbone=dict(type="biformer_base", drop_path_rate=0.4))  # of the paper; the code does not say it
