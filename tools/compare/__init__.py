"""Compare the scores of several runs: `python -m tools.compare`."""
