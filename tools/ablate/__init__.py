"""Variants of an experiment, trained and tabulated: `python -m tools.ablate`."""
