"""Training and evaluation loops, optimisation, checkpoints and logs; nothing in here knows the networks or the data."""
