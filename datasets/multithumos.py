"""MultiTHUMOS (Yeung et al., IJCV 2018): 65 sports activities, densely labelled, in the untrimmed videos of THUMOS14.

Training videos are THUMOS14's 200 annotated validation videos, test videos its 213 annotated test videos. Frames are
laid out as Charades': `<frames>/<id>/<id>-000001.jpg`. Labels depend on duration and number of frames only, so any
frame rate works; the paper does not state the one it used. THUMOS14's videos have 30 a second, `datasets.prepare`
makes 24 of them, as Charades has.
"""

from pathlib import Path

from datasets.annotations import Annotations, load_annotations

NUM_CLASSES = 65
FRAMES_PER_SECOND = None  # whatever the frames have
VIDEOS = {"training": 200, "testing": 213}
FIRST_CLASS = 1  # multithumos.json counts its classes 1..65; what `datasets.prepare` writes says that it begins with 0


def load(path: str | Path, num_classes: int = NUM_CLASSES) -> Annotations:
    """Annotations of MultiTHUMOS, with classes shifted to count from 0."""
    full = VIDEOS if num_classes == NUM_CLASSES else None
    return load_annotations(path, num_classes=num_classes, first_class=FIRST_CLASS, expected=full)


def class_names(path: str | Path) -> list[str] | None:
    """None: the annotations number the classes and do not name them."""
    return None
