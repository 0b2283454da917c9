"""Check a dataset against its configuration before training."""
