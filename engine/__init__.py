"""Everything that runs a stage: networks, training, evaluation, checkpoints and logs."""
