"""A stage, from its configuration to its results: networks, training, evaluation, checkpoints and logs."""
