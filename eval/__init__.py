"""Evaluation of per-frame activity detection: average precision, the evaluation rules of published results, and
confidence intervals.

Depends only on numpy, scipy and this project's `common`.
"""
