"""Thin commands over the library; each is `visionsparse NAME` and `python tools/NAME.py`."""
