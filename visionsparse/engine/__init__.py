"""What mmengine's Runner lacks: whole checkpoints, resuming to the same bits, refusals before training starts.

`runner.py` has the two calls, `train` and `test`; importing this package registers hooks, loops and optimiser rules.
"""

from visionsparse.engine.checkpoint_hook import CheckpointHook
from visionsparse.engine.ema import EMAHook
from visionsparse.engine.evaluation import TestLoop, ValLoop
from visionsparse.engine.finite_loss import FiniteLossHook
from visionsparse.engine.loops import EpochBasedTrainLoop
from visionsparse.engine.optim import AmpOptimWrapper, NoDecayConstructor
from visionsparse.engine.progress import ProgressBarHook, ProgressLogProcessor
from visionsparse.engine.scalars import LocalVisBackend
from visionsparse.engine.schedule import WarmupCosineLR
from visionsparse.engine.seeding import StatelessSeedHook
from visionsparse.engine.skipped_images import SkippedImagesHook
from visionsparse.engine.stopping import StopHook
from visionsparse.engine.visualizer import Visualizer

__all__ = [
    "AmpOptimWrapper",
    "CheckpointHook",
    "EMAHook",
    "EpochBasedTrainLoop",
    "FiniteLossHook",
    "LocalVisBackend",
    "NoDecayConstructor",
    "ProgressBarHook",
    "ProgressLogProcessor",
    "SkippedImagesHook",
    "StatelessSeedHook",
    "StopHook",
    "TestLoop",
    "ValLoop",
    "Visualizer",
    "WarmupCosineLR",
]
