"""Train and compare variants of an experiment: `python -m tools.ablate`."""
