"""Evaluation of per-frame activity detection: average precision, the official Charades rule and the published one.

numpy and scipy only; nothing else of this project is imported here.
"""
