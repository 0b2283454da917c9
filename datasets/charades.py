"""Charades (Sigurdsson et al., ECCV 2016): daily activities at home, about 30 s a video, several at a time.

Videos come as JPEG frames, `<frames>/<id>/<id>-000001.jpg`, 24 a second, longer side 320 (Charades_v1_rgb).
"""

from pathlib import Path

from datasets.annotations import Annotations, load_annotations, read_class_names

NUM_CLASSES = 157
FRAMES_PER_SECOND = 24.0
VIDEOS = {"training": 7985, "testing": 1863}
CLASS_FILE = "Charades_v1_classes.txt"


def load(path: str | Path, num_classes: int = NUM_CLASSES) -> Annotations:
    """Annotations of Charades, JSON or official CSVs; classes are counted from 0 in both."""
    full = VIDEOS if num_classes == NUM_CLASSES else None  # other class counts are other data in Charades' layout
    return load_annotations(path, num_classes=num_classes, expected=full)


def class_names(path: str | Path) -> list[str] | None:
    """Names by class from the official list (`c000 Holding some clothes`) beside the annotations; None without it."""
    path = Path(path)
    file = (path if path.is_dir() else path.parent) / CLASS_FILE
    return read_class_names(file) if file.is_file() else None
