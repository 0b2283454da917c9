"""Split long videos into windows, and blend the results of the windows.

    clip frames  0                                  T'
    windows      [-----------]
                         [-----------]
                                    [-----------]     the last one is moved back to end with the video
    weights      ‾‾‾‾‾‾‾‾\\__/‾‾‾‾‾‾\\__/‾‾‾‾‾‾‾‾‾‾‾     within an overlap one window fades linearly into the next

A video that fits one window is unchanged: its values are those of that window, bit for bit. The published code only
processes whole videos; with windows, temporal means and normalisations (squeeze-and-excitation, Grid Pool) cover one
window.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor


class Window(NamedTuple):
    """Frames start..stop-1 of a video, from 0; clip frames unless stated otherwise."""

    start: int
    stop: int


class Part(NamedTuple):
    """One window of a video, windows[number], in clip frames."""

    number: int
    windows: list[Window]


def split(length: int, window: int | None, overlap: int) -> list[Window]:
    """Split a video of `length` frames into windows; a single one if it fits or `window` is None.

    Otherwise each window has exactly `window` frames and overlaps the previous one by `overlap` frames. The last one is
    moved back to end with the video and may overlap more.
    """
    if window is None or length <= window:
        return [Window(0, length)]
    if not 0 <= overlap < window:
        raise ValueError(f"windows of {window} frames cannot overlap by {overlap}")
    last = length - window
    return [Window(start, start + window) for start in (*range(0, last, window - overlap), last)]


def scale(windows: Sequence[Window], factor: int) -> list[Window]:
    """Scale windows to an axis that is `factor` times finer, such as label columns."""
    return [Window(start * factor, stop * factor) for start, stop in windows]


def fade(windows: Sequence[Window], index: int) -> Tensor:
    """Return weights (t,) of a window's frames: the distance to the nearer end with a neighbouring window.

    In an overlap of two windows, their shares are linear in time. Weights are `inf` for a single window.
    """
    start, stop = windows[index]
    at, endless = torch.arange(stop - start) + 0.5, torch.full((stop - start,), torch.inf)
    from_start = at if index > 0 else endless
    return torch.minimum(from_start, stop - start - at if index < len(windows) - 1 else endless)


def borders(windows: Sequence[Window]) -> list[float]:
    """Return the midpoints of the overlaps, ascending: one fewer than windows."""
    return [(after.start + before.stop) / 2 for before, after in pairwise(windows)]


Held = tuple[Tensor, Tensor]  # overlap with the next window: values (C,t,...) and weights (t,)


def blend(
    windows: Sequence[Window], number: int, values: Tensor, held: Held | None = None
) -> tuple[Tensor, Held | None]:
    """Blend the values of a video's windows into one sequence, one window at a time.

    Frames covered by a single window keep its exact values; others get the mean weighted by `fade`.

    Args:
        windows: From `split`, on the axis of the values (see `scale`).
        number: Index of the window of `values`.
        values: (C,t,...) logits, probabilities or features.
        held: Second result of the previous call.

    Returns:
        The next final frames (C,f,...), up to the start of the next window, and the overlap to pass to the next call.
    """
    if len(windows) == 1:
        return values, None
    weights = fade(windows, number).to(values.device)
    if held is not None:
        before, total = held
        common = len(total)
        total = total + weights[:common]
        share = (weights[:common] / total).to(values.dtype).view(-1, *[1] * (values.dim() - 2))
        values = torch.cat([before.lerp(values[:, :common], share), values[:, common:]], 1)
        weights = torch.cat([total, weights[common:]])
    if number + 1 == len(windows):
        return values, None
    final = windows[number + 1].start - windows[number].start
    return values[:, :final], (values[:, final:], weights[final:])


class Joins:
    """Blend named values of videos as their windows arrive, in order for each video.

    If a window is missing because it could not be read, its video ends: later windows return nothing. Only the overlap
    of a video is kept in memory.
    """

    def __init__(self) -> None:
        self.open: dict[str, tuple[int, dict[str, Held | None]]] = {}  # {video: (next window, overlaps)}

    def add(self, video: str, part: Part, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Add values {name: (C,t,...)} of a window; return the final frames (see `blend`), {} if the video has ended.

        The axis t may be an integer factor finer than clip frames, as for labels.
        """
        number, windows = part
        start, stop = windows[number]
        due, held = self.open.pop(video, (0, {}))
        if number == 0:
            held = {}
        elif number != due:
            return {}
        final = {}
        for name, x in values.items():
            axis = scale(windows, x.shape[1] // (stop - start))
            final[name], held[name] = blend(axis, number, x, held.get(name))
        if number + 1 < len(windows):
            self.open[video] = number + 1, held
        return final
