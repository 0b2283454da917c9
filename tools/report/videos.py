"""Chosen test videos for `tools.report`: film strip, ground truth, scores, Grid Pool's frames, Gaussian weights.

Everything is placed in seconds. Video frame f (from 1) is at (f - 1) / n of the duration, as for the labels; official
frame j of 25 stands for (j - 1) / 25 of it and is shown from there to the next. Where a run has written the scores of
every frame, these are shown.
"""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from common.errors import InputError
from configs.schema import Config
from datasets.clips import place_window, video_length
from datasets.frames import frame_path, get_decoder, list_frames, usable_frames
from eval.average_precision import average_precision
from eval.charades_localize import Truth, frame_labels
from eval.dense import read_steps
from eval.submission import FRAMES_PER_VIDEO
from models.alignment import gaussian_weights
from models.pooling import RATIO
from tools.report.data import RunRecord, StageRecord

TIMES = 3  # digits of seconds on the page
STRIP_FRAMES = 12
STRIP_HEIGHT, JPEG_QUALITY = 120, 72  # pixels: enough for a sharp strip on a dense screen
MOST_STEPS = 400  # of a score along a video: of more, every second, third, ... frame is shown
FALSE_CLASSES = 4  # classes shown that a video does not have: those with the highest scores


class Steps(NamedTuple):
    """Scores along a video."""

    scores: np.ndarray  # (F,C), -inf where there is none
    seconds: float  # from one step to the next
    at: str  # what the steps are

    def shown(self, classes: Sequence[int]) -> dict[str, Any]:
        """What the page shows of them: a row for each of these classes."""
        rows = [[rounded(score, 4) for score in row] for row in self.scores[:, list(classes)].T.tolist()]
        return {"step": rounded(self.seconds, 5), "at": self.at, "rows": rows}


class Weights(NamedTuple):
    """Gaussian weights of a video's fine frames for each coarse frame (section 3.3 of the paper)."""

    times: np.ndarray  # (T',) seconds of the fine frames
    centres: np.ndarray  # (J,) seconds
    sigma: float  # seconds
    values: np.ndarray  # (J,T') in [0,1]

    def shown(self) -> dict[str, Any]:
        """What the page shows of them."""
        digits = {"times": TIMES, "centres": TIMES, "sigma": TIMES, "values": 2}
        return {name: np.round(value, digits[name]).tolist() for name, value in self._asdict().items()}


def rounded(value: float | None, digits: int) -> float | None:
    """A number for JSON; None for what is none, or not finite."""
    return None if value is None or not math.isfinite(value) else round(float(value), digits)


# --- which videos -----------------------------------------------------------------------------------------------------


def read_videos(
    run: RunRecord, config: Config, truth: Mapping[str, Truth], asked: Sequence[str] | None
) -> list[dict[str, Any]]:
    """The videos to show; of a video without a length there is no time axis."""
    timed = {video: known for video, known in truth.items() if known.length > 0}
    for video in asked or []:
        if video not in timed:
            remedy = f"; one is {next(iter(timed))}" if timed else ""
            raise InputError(f"--videos {video}: no test video of this run with a length{remedy}")
    chosen = choose(run, timed) if asked is None else dict.fromkeys(asked, "Asked for")
    return [read_video(run, config, video, why, timed[video]) for video, why in chosen.items()]


def choose(run: RunRecord, truth: Mapping[str, Truth]) -> dict[str, str]:
    """{video: why}: the best, the median and the worst predicted test video, by AP over all scores of a video.

    Without predictions, the first video that has activities.
    """
    if run.scored is None:
        return dict.fromkeys([v for v, known in truth.items() if known.actions][:1], "First test video")
    scores = run.scored.scores
    precision = {video: video_precision(scores[video], truth[video]) for video in truth if video in scores}
    ranked = sorted((v for v in precision if not np.isnan(precision[v])), key=lambda v: (-precision[v], v))
    if not ranked:
        return {}
    worst, median, best = ranked[-1], ranked[(len(ranked) - 1) // 2], ranked[0]
    reasons = {worst: "Worst predicted", median: "Median"} | {best: "Best predicted"}  # of few videos one is several
    return {video: reasons[video] for video in (best, median, worst)}


def video_precision(scores: np.ndarray, truth: Truth) -> float:
    """AP over the scores (25,C) of a video taken as one list; NaN without a positive."""
    labels = frame_labels(*truth, scores.shape[1])
    return float(average_precision(scores.reshape(-1, 1), labels.reshape(-1, 1))[0])


def shown_classes(actions: Sequence[tuple[int, float, float]], scores: Mapping[str, np.ndarray]) -> list[int]:
    """A video's own classes in the order of their first action, then those wrongly scored highest."""
    own = list(dict.fromkeys(label for label, _, _ in sorted(actions, key=lambda action: (action[1], action[0]))))
    if not scores:
        return own
    peaks = np.max([values.max(0) for values in scores.values()], axis=0)
    others = [int(label) for label in np.argsort(-peaks, kind="stable") if label not in own and peaks[label] > 0]
    return own + others[:FALSE_CLASSES]


# --- one video --------------------------------------------------------------------------------------------------------


def read_video(run: RunRecord, config: Config, video: str, why: str, truth: Truth) -> dict[str, Any]:
    """All there is to show of one video, in the form that the page's scripts read; what is not there becomes a note."""
    predicted = [stage for stage in run.stages if video in stage.scores]
    scores = {stage.key: stage.scores[video] for stage in predicted}
    classes = shown_classes(truth.actions, scores)
    n, strip, notes = read_frames(Path(config.data.frames), video, truth.length)
    notes += [f"{stage.title}: no predictions of this video." for stage in run.stages
              if stage.scores and stage not in predicted]  # fmt: skip

    places = next((stage.chosen[video] for stage in reversed(run.stages) if video in stage.chosen), [])
    stride = config.data.stride
    T = video_length(n, stride) if n else round((max(places, default=1) - 1) / stride) + 1
    per_frame = truth.length / (n or T * stride)  # without the frames, their number is known to one stride
    weights, note = fine_weights(config, places, T, per_frame) if places else (None, "")
    return {
        "id": video,
        "why": why,
        "seconds": rounded(truth.length, TIMES),
        "truth": [[c, rounded(start, TIMES), rounded(end, TIMES)] for c, start, end in truth.actions if end > start],
        "classes": classes,
        "scores": {stage.key: score_steps(stage, video, truth.length).shown(classes) for stage in predicted},
        "precision": {key: rounded(video_precision(values, truth), 4) for key, values in scores.items()},  # AP
        "strip": strip,
        "chosen": [[rounded(frame, 1), rounded((frame - 1) * per_frame, TIMES)] for frame in places],
        "weights": weights and weights.shown(),
        "notes": [*notes, note] if note else notes,
    }


def read_frames(frames: Path, video: str, seconds: float) -> tuple[int, list[list], list[str]]:
    """Number of frames of a video (0 where unknown), its film strip, and notes on what is missing."""
    n = 0
    try:
        n = usable_frames(frames, video, list_frames(frames, video), allow_gaps=True)
        return n, film_strip(frames, video, n, seconds), [] if n else [f"No frames of this video in {frames}."]
    except InputError as error:
        return n, [], [f"No film strip: {error}"]


def score_steps(stage: StageRecord, video: str, seconds: float) -> Steps:
    """The scores of every frame where they were kept, else those of the official frames."""
    official = stage.scores[video]
    kept = read_steps(stage.every_frame, [video]).get(video) if stage.every_frame else None
    if kept is None or kept.seconds is None or len(kept.scores) < 2:
        return Steps(official, seconds / FRAMES_PER_VIDEO, "the 25 official frames")
    if kept.scores.shape[1] != official.shape[1]:
        number = kept.scores.shape[1]
        raise InputError(f"{stage.every_frame}: {number} scores a frame, another number than in official.txt")
    every = -(-len(kept.scores) // MOST_STEPS)
    at = "every frame" if every == 1 else f"one of {every} frames"
    return Steps(kept.scores[::every], every * float(kept.seconds[1] - kept.seconds[0]), at)


def film_strip(frames: Path, video: str, n: int, seconds: float) -> list[list]:
    """Evenly spaced frames, each from the middle of its share of the video: [number, seconds, base64 of a JPEG]."""
    numbers = [int((k + 0.5) / STRIP_FRAMES * n) + 1 for k in range(STRIP_FRAMES)] if n else []
    return [[number, rounded((number - 1) * seconds / n, TIMES), thumbnail(frame_path(frames, video, number))]
            for number in numbers]  # fmt: skip


def thumbnail(path: Path) -> str:
    """The frame as a small JPEG, base64."""
    image = Image.fromarray(get_decoder()(path).numpy())
    image.thumbnail((4 * STRIP_HEIGHT, STRIP_HEIGHT))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return base64.b64encode(file.getvalue()).decode("ascii")


def fine_weights(config: Config, places: Sequence[float], T: int, per_frame: float) -> tuple[Weights | None, str]:
    """Gaussian weights of the fine frames that the network sees of a video of T clip frames; or why there are none.

    places: Grid Pool's frames, video frames from 1; place 1 + stride g (T - 1) stands for location g.
    per_frame: seconds of a video frame.
    """
    data, model = config.data, config.model
    if model.fusion in ("none", "lateral") or model.alignment != "gaussian":
        return None, ""
    in_windows = config.eval.window is not None and config.eval.window < T
    if in_windows or len(places) != -(-T // RATIO) + 1:
        return None, "Evaluated in several windows, each aligned on its own: no Gaussian weights are drawn."
    window, start = place_window(0, T, T, length=data.fine_frames, mode=data.fine_window)
    seen = min(T - window, data.fine_frames)
    grid = (np.array(places) - 1) / (data.stride * max(T - 1, 1))
    centres = torch.from_numpy(grid * T + start)
    mask = torch.ones(1, seen, dtype=torch.float64)
    values = gaussian_weights(centres[None], mask, scale=model.gaussian_scale)[0].T
    clip_frame = data.stride * per_frame
    return Weights(
        times=(window + np.arange(seen)) * clip_frame,
        centres=(window + centres.numpy()) * clip_frame,
        sigma=model.gaussian_scale * seen * clip_frame,
        values=values.numpy(),
    ), ""
