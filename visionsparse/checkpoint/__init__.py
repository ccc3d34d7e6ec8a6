"""Checkpoints: saved whole or not at all, read safely, recognised, converted to our names, loaded whole or refused.

saving.py writes; reading.py reads what may be broken or hostile, with pickles.py; layouts.py knows published names.
"""

from visionsparse.checkpoint.loading import LoadReport, convert_state_dict, load_checkpoint
from visionsparse.checkpoint.reading import read_checkpoint
from visionsparse.checkpoint.saving import save_checkpoint

__all__ = ["LoadReport", "convert_state_dict", "load_checkpoint", "read_checkpoint", "save_checkpoint"]
