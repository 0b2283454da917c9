"""Supported datasets and their properties.

All share one layout of frames: `<frames>/<id>/<id>-000001.jpg`. Labels depend only on the duration and number of frames
of a video, so any frame rate works.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from datasets.annotations import Annotations, Subset, load_annotations, read_class_names

CLASS_FILE = "Charades_v1_classes.txt"  # lines such as `c000 Holding some clothes`


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Properties of a dataset.

    Attributes:
        num_classes: Classes of the full dataset; 0 for custom datasets, whose number is set in the configuration.
        videos: Videos per subset of the full dataset.
        first_class: Number of the first class in the JSON of the dataset.
        frames_per_second: Frame rate of the distributed frames; None for any.
        class_file: Class list distributed with the annotations.
    """

    num_classes: int = 0
    videos: Mapping[Subset, int] | None = None
    first_class: int = 0
    frames_per_second: float | None = None
    class_file: str | None = None

    def load(self, path: str | Path, num_classes: int | None = None) -> Annotations:
        """Load annotations; another number of classes means other data in this dataset's layout."""
        count = num_classes or self.num_classes
        full = self.videos if count == self.num_classes else None
        return load_annotations(path, num_classes=count, first_class=self.first_class, expected=full)

    def class_names(self, path: str | Path) -> list[str] | None:
        """Read class names from the list next to the annotations; None without one."""
        if self.class_file is None:
            return None
        path = Path(path)
        file = (path if path.is_dir() else path.parent) / self.class_file
        return read_class_names(file) if file.is_file() else None


# Charades (Sigurdsson et al., ECCV 2016): overlapping daily activities at home, about 30 s per video. The frames
# (Charades_v1_rgb) have 24 fps and a longer side of 320; JSON and official CSVs number classes from 0.
CHARADES = Kind(
    num_classes=157,
    videos={"training": 7985, "testing": 1863},
    frames_per_second=24.0,
    class_file=CLASS_FILE,
)

# MultiTHUMOS (Yeung et al., IJCV 2018): 65 densely labelled sports activities in the untrimmed videos of THUMOS14; the
# 200 annotated validation videos are used for training. The paper does not state its frame rate: the videos have 30
# fps, `datasets.prepare` extracts 24. multithumos.json numbers classes 1..65; the JSON of `datasets.prepare` starts
# at 0 and says so.
MULTITHUMOS = Kind(num_classes=65, videos={"training": 200, "testing": 213}, first_class=1)

# A custom dataset in the JSON format of `datasets.annotations` (printed by `python -m datasets.schema`), with
# `data.num_classes` classes numbered from 0; `data.class_names` is a file with one name per line.
GENERIC = Kind()

KINDS = {"charades": CHARADES, "multithumos": MULTITHUMOS, "generic": GENERIC}
