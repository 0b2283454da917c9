"""Measure speed and memory: `python -m tools.benchmark`."""
