"""Whether a dataset is as its configuration says, before a training."""
