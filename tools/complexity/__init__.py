"""Count multiply-adds and parameters of the networks: `python -m tools.complexity`."""
