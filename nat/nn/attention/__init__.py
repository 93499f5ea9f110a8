"""Attention components, one file per family. Their contract is `Attention` in `base.py`."""
