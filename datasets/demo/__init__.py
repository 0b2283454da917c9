"""Generated videos with their annotations: `python -m datasets.demo`."""
