"""Speed and memory: `python -m tools.benchmark`."""
