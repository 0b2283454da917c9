"""The networks of Coarse-Fine Networks (Kahatapitiya & Ryoo, CVPR 2021)."""

from models.coarse import CoarseNet
from models.coarse_fine import CoarseFineNet
from models.fine import FineNet
from models.inference import prepare_for_inference
from models.official import CheckpointError, load_official, save_official

__all__ = [
    "CheckpointError",
    "CoarseFineNet",
    "CoarseNet",
    "FineNet",
    "load_official",
    "prepare_for_inference",
    "save_official",
]
