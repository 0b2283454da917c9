"""Programs beside the three stages; each runs as `python -m tools.NAME`."""
