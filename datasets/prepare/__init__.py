"""Convert distributed datasets to the formats of the stages: `python -m datasets.prepare`."""
