"""From what datasets distribute to what the stages read: `python -m datasets.prepare`."""
