"""Dense per-frame average precision, rule "dense", the metric reported on MultiTHUMOS.

All steps of all videos are ranked together, so long videos weigh more than short ones. mAP is the mean AP over classes,
where classes without positives count as 0. A step is positive for a class iff an action of this class has
start < time of the step < end, both strict (like the training labels). Source: the average precision meter (torchnet's
APMeter) in the published super-event and TGM code, with which this paper's MultiTHUMOS results are compared. That meter
has no fixed order for ties; here, ties keep the order of the rows. In a stage's metrics, `mAP_frames` is this rule on
every frame of the videos with at least `data.min_frames` frames. With `eval.save_frames`, the stage also writes
predictions/dense.npz with every frame of every video.

Predictions are stored as an .npz file: scores (F,C) as `<id>` for each video, and optionally the times (F,) of the
steps as `<id>/seconds`. Without times, step k of F is at k/F of the video's length.
"""

import zipfile
import zlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.errors import InputError
from common.files import written_whole
from common.text import first_few
from eval.charades_localize import Truth

SECONDS = "/seconds"


class Steps(NamedTuple):
    """Predictions of one video: scores (F,C), and the times (F,) of its steps in seconds unless evenly spaced."""

    scores: np.ndarray
    seconds: np.ndarray | None = None


def step_labels(actions: Sequence[tuple[int, float, float]], times: np.ndarray, num_classes: int) -> np.ndarray:
    """Boolean labels (F,C) at `times` (F,); both ends of an action are excluded."""
    labels = np.zeros((len(times), num_classes), bool)
    for name, start, end in actions:
        labels[:, name] |= (start < times) & (times < end)
    return labels


def rows(
    predictions: Mapping[str, Steps], truth: Mapping[str, Truth], num_classes: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Scores and labels (F,C) for each video of `truth`, as input of `eval.per_frame.frame_ap`.

    All of them must have predictions; those of other videos are ignored.
    """
    missing = [video for video in truth if video not in predictions]
    if missing or not truth:
        raise InputError(
            f"{len(missing)} of {len(truth)} videos of the ground truth have no predictions: {first_few(missing)}"
        )
    scores, labels = [], []
    for video, (actions, length) in truth.items():
        steps, seconds = predictions[video]
        scores.append(steps)
        times = np.arange(len(steps)) * length / len(steps) if seconds is None else seconds
        labels.append(step_labels(actions, times, num_classes))
    return scores, labels


def read_steps(path: str | Path, videos: Collection[str] | None = None) -> dict[str, Steps]:
    """Read {video id: Steps} from an .npz file; with `videos`, only those of them that it contains.

    Raises InputError for files that do not have the format described in the module docstring.
    """
    try:
        with np.load(path) as file:
            wanted = [name for name in file.files if videos is None or name.removesuffix(SECONDS) in videos]
            arrays = {name: file[name] for name in wanted}
    except (ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:  # TypeError: a single .npy array
        raise InputError(f"{path}: not an .npz file of arrays ({error})") from None
    predictions = {
        name: Steps(array, arrays.get(name + SECONDS)) for name, array in arrays.items() if not name.endswith(SECONDS)
    }
    if not predictions and videos is None:
        raise InputError(f"{path}: contains no predictions; expected an array (steps, classes) per video")
    first_shape: tuple[int, ...] | None = None
    for video, (scores, seconds) in predictions.items():
        place = f"{path}: video {video}"
        if scores.ndim != 2 or scores.dtype.kind not in "fiu" or not scores.size:
            raise InputError(f"{place}: an array of {scores.dtype} {scores.shape}, not scores (steps, classes)")
        first_shape = first_shape or scores.shape
        if scores.shape[1] != first_shape[1]:
            raise InputError(f"{place}: {scores.shape[1]} scores per step, but the first video has {first_shape[1]}")
        if np.isnan(scores).any():
            raise InputError(f"{place}: contains NaN scores")
        if seconds is not None and (seconds.shape != scores.shape[:1] or not np.isfinite(seconds).all()):
            raise InputError(f"{place}: {SECONDS[1:]} must be {len(scores)} finite times")
    return predictions


def write_steps(path: str | Path, predictions: Mapping[str, Steps]) -> None:
    """Write {video id: Steps} as an .npz file, atomically."""
    with written_whole(Path(path)) as partial, zipfile.ZipFile(partial, "w") as archive:
        for video, (scores, seconds) in predictions.items():  # np.savez does not allow the name "file"
            for name, array in ((video, scores), (video + SECONDS, seconds)):
                if array is not None:
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                        np.lib.format.write_array(file, array)
