"""The scores of two runs side by side: `python -m tools.compare`."""
