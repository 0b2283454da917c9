"""Evaluation of per-frame activity detection: average precision, the rules by which results are published, and how far
a score would move with other videos.

numpy and scipy only; nothing else of this project is imported here.
"""
