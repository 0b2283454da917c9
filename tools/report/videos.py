"""Selected test videos for `tools.report`: film strip, ground truth, scores, Grid Pool's frames, Gaussian weights.

All positions are in seconds. Video frame f (from 1) is at (f - 1) / n of the duration, as for the labels. Official
frame j of 25 is at (j - 1) / 25 of the duration and is shown until the next one. If a run has written the scores of
every frame, these are shown instead.
"""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from common.errors import InputError
from common.files import JsonObject
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

TIMES = 3  # decimal places of seconds on the page
STRIP_FRAMES = 12
STRIP_HEIGHT, JPEG_QUALITY = 120, 72  # height in pixels, sharp on a high-density screen
MOST_STEPS = 400  # per video; with more, every second, third, ... frame is shown
FALSE_CLASSES = 4  # number of absent classes shown: those with the highest scores


def rounded(value: float | None, digits: int) -> float | None:
    """Round a number for JSON; None if it is missing or not finite."""
    return None if value is None or not math.isfinite(value) else round(float(value), digits)


# --- which videos -----------------------------------------------------------------------------------------------------


def read_videos(
    run: RunRecord, config: Config, truth: Mapping[str, Truth], asked: Sequence[str] | None
) -> list[JsonObject]:
    """Read the videos to show. Videos of unknown duration are excluded, since they have no time axis."""
    timed = {video: known for video, known in truth.items() if known.length > 0}
    for video in asked or []:
        if video not in timed:
            remedy = f"; one is {next(iter(timed))}" if timed else ""
            raise InputError(f"--videos {video}: not a test video of this run with a known duration{remedy}")
    chosen = choose(run, timed) if asked is None else dict.fromkeys(asked, "Requested")
    return [read_video(run, config, video, why, timed[video]) for video, why in chosen.items()]


def choose(run: RunRecord, truth: Mapping[str, Truth]) -> dict[str, str]:
    """{video: reason} for the test videos with the best, median and worst predictions, by AP over all their scores.

    Without predictions, the first video with activities.
    """
    if run.scored is None:
        return dict.fromkeys([v for v, known in truth.items() if known.actions][:1], "First test video")
    scores = run.scored.scores
    precision = {video: video_precision(scores[video], truth[video]) for video in truth if video in scores}
    ranked = sorted((v for v in precision if not np.isnan(precision[v])), key=lambda v: (-precision[v], v))
    if not ranked:
        return {}
    worst, median, best = ranked[-1], ranked[(len(ranked) - 1) // 2], ranked[0]
    reasons = {worst: "Worst prediction", median: "Median"} | {best: "Best prediction"}  # may coincide
    return {video: reasons[video] for video in (best, median, worst)}


def video_precision(scores: np.ndarray, truth: Truth) -> float:
    """AP over the scores (25,C) of a video as a single list; NaN without positives."""
    labels = frame_labels(*truth, scores.shape[1])
    return float(average_precision(scores.reshape(-1, 1), labels.reshape(-1, 1))[0])


def shown_classes(actions: Sequence[tuple[int, float, float]], scores: Mapping[str, np.ndarray]) -> list[int]:
    """The classes of a video in the order of their first action, then absent classes with the highest scores."""
    own = list(dict.fromkeys(label for label, _, _ in sorted(actions, key=lambda action: (action[1], action[0]))))
    if not scores:
        return own
    peaks = np.max([values.max(0) for values in scores.values()], axis=0)
    others = [int(label) for label in np.argsort(-peaks, kind="stable") if label not in own and peaks[label] > 0]
    return own + others[:FALSE_CLASSES]


# --- one video --------------------------------------------------------------------------------------------------------


def read_video(run: RunRecord, config: Config, video: str, why: str, truth: Truth) -> JsonObject:
    """The values shown for one video, in the form that the page's scripts read. Notes list what is missing."""
    predicted = [stage for stage in run.stages if video in stage.scores]
    scores = {stage.key: stage.scores[video] for stage in predicted}
    classes = shown_classes(truth.actions, scores)
    n, strip, notes = film_strip(Path(config.data.frames), video, truth.length)
    notes += [f"{stage.title}: no predictions for this video." for stage in run.stages
              if stage.scores and stage not in predicted]  # fmt: skip

    places = next((stage.chosen[video] for stage in reversed(run.stages) if video in stage.chosen), [])
    stride = config.data.stride
    T = video_length(n, stride) if n else round((max(places, default=1) - 1) / stride) + 1
    per_frame = truth.length / (n or T * stride)  # without frames, their number is known only to within a stride
    weights, note = fine_weights(config, places, T, per_frame) if places else (None, "")
    return {
        "id": video,
        "why": why,
        "seconds": rounded(truth.length, TIMES),
        "truth": [[c, rounded(start, TIMES), rounded(end, TIMES)] for c, start, end in truth.actions if end > start],
        "classes": classes,
        "scores": {stage.key: score_steps(stage, video, truth.length, classes) for stage in predicted},
        "precision": {key: rounded(video_precision(values, truth), 4) for key, values in scores.items()},  # AP
        "strip": strip,
        "chosen": [[rounded(frame, 1), rounded((frame - 1) * per_frame, TIMES)] for frame in places],
        "weights": weights
        and {name: np.round(x, 2 if name == "values" else TIMES).tolist() for name, x in weights.items()},
        "notes": [*notes, note] if note else notes,
    }


def film_strip(frames: Path, video: str, seconds: float) -> tuple[int, list[list], list[str]]:
    """The number of frames of a video (0 if unknown), its film strip, and notes on missing data.

    The strip consists of evenly spaced frames, each from the middle of its interval: [number, seconds, base64 JPEG].
    """
    n = 0
    try:
        n = usable_frames(frames, video, list_frames(frames, video), allow_gaps=True)
        numbers = [int((k + 0.5) / STRIP_FRAMES * n) + 1 for k in range(STRIP_FRAMES)] if n else []
        places = [(number, rounded((number - 1) * seconds / n, TIMES)) for number in numbers]
        strip = [[number, time, thumbnail(frame_path(frames, video, number))] for number, time in places]
        return n, strip, [] if n else [f"No frames of this video in {frames}."]
    except InputError as error:
        return n, [], [f"No film strip: {error}"]


def score_steps(stage: StageRecord, video: str, seconds: float, classes: Sequence[int]) -> JsonObject:
    """Scores of these classes over time, in rows: of every frame if available, otherwise of the official frames.

    "step": seconds between scores; "at": description of the scored frames.
    """
    scores, step, at = stage.scores[video], seconds / FRAMES_PER_VIDEO, "the 25 official frames"
    kept = read_steps(stage.every_frame, [video]).get(video) if stage.every_frame else None
    if kept is not None and kept.seconds is not None and len(kept.scores) > 1:
        every = -(-len(kept.scores) // MOST_STEPS)
        scores, step = kept.scores[::every], every * float(kept.seconds[1] - kept.seconds[0])
        at = "every frame" if every == 1 else f"1 of {every} frames"
    rows = [[rounded(score, 4) for score in row] for row in scores[:, list(classes)].T.tolist()]
    return {"step": rounded(step, 5), "at": at, "rows": rows}


def thumbnail(path: Path) -> str:
    """The frame as a small JPEG in base64."""
    image = Image.fromarray(get_decoder()(path).numpy())
    image.thumbnail((4 * STRIP_HEIGHT, STRIP_HEIGHT))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return base64.b64encode(file.getvalue()).decode("ascii")


def fine_weights(
    config: Config, places: Sequence[float], T: int, per_frame: float
) -> tuple[dict[str, np.ndarray | float] | None, str]:
    """Gaussian weights of the fine frames of a video that the network uses, for each coarse frame (section 3.3).

    Args:
        places: Grid Pool's frames (J,), as video frames from 1; location g is frame 1 + stride g (T - 1).
        T: Number of clip frames of the video.
        per_frame: Seconds per video frame.

    Returns:
        "times" (T',) of the fine frames, "centres" (J,) and "sigma" in seconds, and "values" (J,T') in [0,1]; or None
        and a note if there is a reason to report.
    """
    data, model = config.data, config.model
    if model.fusion in ("none", "lateral") or model.alignment != "gaussian":
        return None, ""
    in_windows = config.eval.window is not None and config.eval.window < T
    if in_windows or len(places) != -(-T // RATIO) + 1:
        return None, "Evaluated in several windows, each with its own alignment, so no Gaussian weights are shown."
    window, start = place_window(0, T, T, length=data.fine_frames, mode=data.fine_window)
    seen = min(T - window, data.fine_frames)
    grid = (np.array(places) - 1) / (data.stride * max(T - 1, 1))
    centres = torch.from_numpy(grid * T + start)
    mask = torch.ones(1, seen, dtype=torch.float64)
    values = gaussian_weights(centres[None], mask, scale=model.gaussian_scale)[0].T
    clip_frame = data.stride * per_frame
    return {
        "times": (window + np.arange(seen)) * clip_frame,
        "centres": (window + centres.numpy()) * clip_frame,
        "sigma": model.gaussian_scale * seen * clip_frame,
        "values": values.numpy(),
    }, ""
