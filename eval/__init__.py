"""Evaluation of per-frame activity detection: average precision, the rules by which results are published, and how far
a score would move with other videos.

numpy and scipy; of this project only `common` is imported here.
"""
