"""Generate the demo dataset of videos and annotations: `python -m datasets.demo`."""
