"""Measures ops, models and training against what a user would otherwise pick, side by side in one process.

`plan.py` says what a measurement is, `measure.py` takes it, `report.py` shows and keeps it; `ops.py`, `models.py` and
`training.py` say what there is to measure.
"""
