"""Load videos, labels and features as batches for the three stages (section 5 of the paper).

annotations (of one of the kinds) -> frames -> transforms -> clips (+ features) -> batch, combined in assembly.
"""
