"""BiFormer-S on ImageNet-1K: top-1 83.8 % (published; not trained here). Costs 25.5 M parameters and 4.5 GMACs
an image at 224 x 224.

The published recipe, 300 epochs of 1024 images a step: on eight GPUs, or on one that adds up eight batches for a step:
torchrun --nproc-per-node 8 -m visionsparse.tools.train biformer/biformer_small_in1k
visionsparse train biformer/biformer_small_in1k --cfg-options optim_wrapper.accumulative_counts=8

The published weights, evaluated as published (short side 256, centre 224, fp16 on a GPU):
visionsparse test biformer/biformer_small_in1k biformer_small_in1k.pth --out results.json
"""

_base_ = ["../_base_/deit_300e.py"]

model = dict(backbone=dict(type="biformer_small", drop_path_rate=0.15))
