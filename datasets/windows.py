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
    at = torch.arange(stop - start) + 0.5
    weights = torch.full_like(at, torch.inf)
    if index > 0:
        weights = torch.minimum(weights, at)
    if index < len(windows) - 1:
        weights = torch.minimum(weights, stop - start - at)
    return weights


def borders(windows: Sequence[Window]) -> list[float]:
    """Where the windows take over from each other, the middles of their overlaps: one fewer than windows, ascending."""
    return [(after.start + before.stop) / 2 for before, after in pairwise(windows)]


class Blend:
    """Joins what is said of a video's windows, given in order, to one sequence, of which it holds a window at most.

    Values may be logits, probabilities or features, with time as their second dimension. Where only one window covers
    a frame, its value is exactly that window's; elsewhere the mean, weighted by `fade`.
    """

    def __init__(self, windows: Sequence[Window]) -> None:
        """`windows`: from `split`, on the axis of the values (see `scale`)."""
        self.windows = list(windows)
        self.added = 0
        self.held: Tensor | None = None  # values and weights from the next window's start on
        self.weights = torch.empty(0)

    @property
    def complete(self) -> bool:
        """Whether all windows have been added."""
        return self.added == len(self.windows)

    def add(self, values: Tensor) -> Tensor:
        """The next window's values (C,t,...) -> the frames (C,f,...) that are final now.

        These follow on from the ones returned before, and end where the window after this one starts.
        """
        start = self.windows[self.added].start
        if len(self.windows) > 1:
            values = self._with_held(values, fade(self.windows, self.added).to(values.device))
        self.added += 1
        if self.complete:
            self.held = None
            return values
        final = self.windows[self.added].start - start
        self.held, self.weights = values[:, final:], self.weights[final:]
        return values[:, :final]

    def _with_held(self, values: Tensor, weights: Tensor) -> Tensor:
        if self.held is None:
            self.weights = weights
            return values
        common = self.held.shape[1]
        total = self.weights + weights[:common]
        share = (weights[:common] / total).to(values.dtype).view(-1, *[1] * (values.dim() - 2))
        self.weights = torch.cat([total, weights[common:]])
        return torch.cat([self.held.lerp(values[:, :common], share), values[:, common:]], 1)


class Joins:
    """Blends the windows of videos as they come, each video's in order, by name of what is said of them.

    A window that does not follow on from the one before, because that could not be read, ends its video: nothing more
    comes of it.
    """

    def __init__(self, factors: Mapping[str, int] | None = None) -> None:
        """`factors`: by name, how much finer than clip frames an axis is; 1 where not given."""
        self.factors = factors or {}
        self.open: dict[str, dict[str, Blend]] = {}

    def add(self, video: str, part: Part, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A window's {name: (C,t,...)} -> what is final now (see `Blend.add`); {} of a video that has ended."""
        if part.number == 0:
            self.open[video] = {name: Blend(scale(part.windows, self.factors.get(name, 1))) for name in values}
        blends = self.open.pop(video, {})
        if any(blend.added != part.number for blend in blends.values()):
            return {}
        final = {name: blend.add(values[name]) for name, blend in blends.items()}
        if part.number + 1 < len(part.windows):
            self.open[video] = blends
        return final
