"""Long videos a window at a time: where the windows lie, and how what is said of each becomes one answer.

    clip frames  0                                  T'
    windows      [-----------]
                         [-----------]
                                    [-----------]     the last one is moved back to end with the video
    weights      ‾‾‾‾‾‾‾‾\\__/‾‾‾‾‾‾\\__/‾‾‾‾‾‾‾‾‾‾‾     within an overlap one window fades into the next, linearly

A video that fits one window is not touched: its values are those of that window, bit for bit. The published code knows
whole videos only; its temporal means and normalisations (squeeze-and-excitation, Grid Pool) then see a window instead.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor


class Window(NamedTuple):
    """Frames start..stop-1 of a video, from 0; clip frames, unless said otherwise."""

    start: int
    stop: int


class Part(NamedTuple):
    """Which of a video's windows: windows[number], all of them in clip frames."""

    number: int
    windows: list[Window]


def split(length: int, window: int | None, overlap: int) -> list[Window]:
    """Windows that cover a video of `length` frames, in order; one where it fits a window, or `window` is None.

    Otherwise each has exactly `window` frames, `overlap` of them in common with the one before; the last one, moved
    back to end with the video, may have more.
    """
    if window is None or length <= window:
        return [Window(0, length)]
    if not 0 <= overlap < window:
        raise ValueError(f"windows of {window} frames cannot overlap by {overlap}")
    last = length - window
    return [Window(start, start + window) for start in (*range(0, last, window - overlap), last)]


def scale(windows: Sequence[Window], factor: int) -> list[Window]:
    """The same windows on an axis `factor` times as fine, as of the label columns of clip frames."""
    return [Window(start * factor, stop * factor) for start, stop in windows]


def fade(windows: Sequence[Window], index: int) -> Tensor:
    """Weight (t,) of each frame of a window: its distance to the nearer end at which the video goes on.

    Where two windows overlap, their shares are linear in time; `inf` for a window alone.
    """
    start, stop = windows[index]
    at, endless = torch.arange(stop - start) + 0.5, torch.full((stop - start,), torch.inf)
    from_start = at if index > 0 else endless
    return torch.minimum(from_start, stop - start - at if index < len(windows) - 1 else endless)


def borders(windows: Sequence[Window]) -> list[float]:
    """Where the windows take over from each other, the middles of their overlaps: one fewer than windows, ascending."""
    return [(after.start + before.stop) / 2 for before, after in pairwise(windows)]


Held = tuple[Tensor, Tensor]  # what windows have in common with the next one: values (C,t,...) and their weights (t,)


def blend(
    windows: Sequence[Window], number: int, values: Tensor, held: Held | None = None
) -> tuple[Tensor, Held | None]:
    """Joins what is said of a video's windows, one after the other, to one sequence.

    Where only one window covers a frame, its value is exactly that window's; elsewhere the mean, weighted by `fade`.

    Args:
        windows: From `split`, on the axis of the values (see `scale`).
        number: Which of them `values` is of.
        values: (C,t,...) logits, probabilities or features, with time as their second dimension.
        held: What was returned for the window before.

    Returns:
        The frames (C,f,...) that are final now: they follow on from the ones returned before, and end where the next
        window starts. And what to hold for that one.
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
    """Blends the windows of videos as they come, each video's in order, by name of what is said of them.

    A window that does not follow on from the one before, because that could not be read, ends its video: nothing more
    comes of it. No more of a video is held than its windows have in common.
    """

    def __init__(self) -> None:
        self.open: dict[str, tuple[int, dict[str, Held | None]]] = {}  # by video: its next window, what is held

    def add(self, video: str, part: Part, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A window's {name: (C,t,...)} -> what is final now (see `blend`); {} of a video that has ended.

        An axis t may be a whole number of times as fine as clip frames, as that of labels is.
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
