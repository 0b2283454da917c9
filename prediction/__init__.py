"""Predict activities in any video with a trained network: the modules of predict.py."""
