"""Write a report of a run as one HTML page: `python -m tools.report`."""
