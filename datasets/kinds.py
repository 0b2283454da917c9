"""The kinds of dataset, and all that is particular to each.

Frames are laid out alike: `<frames>/<id>/<id>-000001.jpg`. Labels depend on a video's duration and number of frames
only, so any frame rate works.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from datasets.annotations import Annotations, Subset, load_annotations, read_class_names

CLASS_FILE = "Charades_v1_classes.txt"  # `c000 Holding some clothes`, a line each


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What differs between datasets.

    Attributes:
        num_classes: Classes of the full dataset; 0 for a dataset of one's own, of which the configuration says it.
        videos: Videos per subset of the full dataset.
        first_class: The number that its own JSON gives to the first class.
        frames_per_second: Of its frames as distributed; None for any.
        class_file: The list of classes that is distributed with the annotations.
    """

    num_classes: int = 0
    videos: Mapping[Subset, int] | None = None
    first_class: int = 0
    frames_per_second: float | None = None
    class_file: str | None = None

    def load(self, path: str | Path, num_classes: int | None = None) -> Annotations:
        """The annotations; with another number of classes they are other data in this dataset's layout."""
        count = num_classes or self.num_classes
        full = self.videos if count == self.num_classes else None
        return load_annotations(path, num_classes=count, first_class=self.first_class, expected=full)

    def class_names(self, path: str | Path) -> list[str] | None:
        """Names by class from the list beside the annotations; None without one."""
        if self.class_file is None:
            return None
        path = Path(path)
        file = (path if path.is_dir() else path.parent) / self.class_file
        return read_class_names(file) if file.is_file() else None


# Charades (Sigurdsson et al., ECCV 2016): daily activities at home, about 30 s a video, several at a time. Its frames
# (Charades_v1_rgb) are 24 a second, longer side 320; both the JSON and the official CSVs count classes from 0.
CHARADES = Kind(
    num_classes=157,
    videos={"training": 7985, "testing": 1863},
    frames_per_second=24.0,
    class_file=CLASS_FILE,
)

# MultiTHUMOS (Yeung et al., IJCV 2018): 65 sports activities, densely labelled, in the untrimmed videos of THUMOS14,
# of which 200 annotated validation videos are for training. The paper does not state the frame rate that it used; the
# videos have 30 a second, `datasets.prepare` makes 24 of them. multithumos.json counts classes 1..65, while what
# `datasets.prepare` writes says that it begins with 0.
MULTITHUMOS = Kind(num_classes=65, videos={"training": 200, "testing": 213}, first_class=1)

# A dataset of one's own, in the JSON form of `datasets.annotations` (`python -m datasets.schema` prints it), with as
# many classes as `data.num_classes` says, counted from 0; `data.class_names` names them, a line each.
GENERIC = Kind()

KINDS = {"charades": CHARADES, "multithumos": MULTITHUMOS, "generic": GENERIC}
