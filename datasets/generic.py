"""An own dataset: any number of classes, in a JSON file of the form that `datasets.annotations` describes.

Frames are laid out as Charades': `<frames>/<id>/<id>-000001.jpg`, at any rate. Classes are counted from 0, as many as
`data.num_classes` says; `data.class_names` names them, a line each. `python -m datasets.schema` prints the form.
"""

from pathlib import Path

from datasets.annotations import Annotations, load_annotations

FRAMES_PER_SECOND = None  # whatever the frames have


def load(path: str | Path, num_classes: int) -> Annotations:
    """Annotations of an own dataset."""
    return load_annotations(path, num_classes=num_classes)


def class_names(path: str | Path) -> list[str] | None:
    """None: the annotations number the classes and do not name them."""
    return None
