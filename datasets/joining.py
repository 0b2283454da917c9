"""From batches of windows back to whole videos, since losses and scores are of whole videos."""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from datasets.batch import Batch, Labelled
from datasets.windows import Joins, Part, borders


def chosen_frames(part: Part, locations: Sequence[float], stride: int) -> list[float]:
    """Grid Pool's frames of one window as video frames from 1; `locations` are theirs in the window, in clip frames.

    Of a window these are the ones nearer to its middle than to its neighbours', so that a video's frames ascend.
    """
    start, _ = part.windows[part.number]
    low, high = [-math.inf, *borders(part.windows), math.inf][part.number : part.number + 2]
    times = [start + t for t in locations if low <= start + t + 0.5 < high]  # frame t is from t to t + 1
    return [round(1 + stride * t, 2) for t in times]


class WholeVideos:
    """Joins the logits of windows, which come in order, and their labels.

    Logits are blended, not probabilities: the loss of a video is then that of the very prediction that is scored. What
    is kept of a video is its logits and labels, 8 C bytes for each of its frames.
    """

    def __init__(self, stride: int) -> None:
        """`stride`: label columns in a clip frame."""
        self.joins = Joins({"logits": stride, "labels": stride})
        self.pieces: dict[str, list[dict[str, Tensor]]] = defaultdict(list)

    def __call__(self, batch: Batch, logits: Tensor) -> Iterator[tuple[Labelled, Tensor]]:
        """A batch of test videos and its logits (B,C,L): as they are where the videos fit one window each.

        Otherwise each video by itself, without its clip, once its last window is there; one of which a window could
        not be read never comes.
        """
        if all(len(part.windows) == 1 for part in batch["parts"]):
            yield batch, logits
            return
        for row, (video, part) in enumerate(zip(batch["videos"], batch["parts"], strict=True)):
            piece = self.joins.add(video, part, {"logits": logits[row], "labels": batch["labels"][row]})
            self.pieces[video].append(piece)
            if part.number + 1 < len(part.windows):
                continue
            pieces = self.pieces.pop(video)
            if piece:
                yield self._whole(batch, row, pieces)

    def _whole(self, batch: Batch, row: int, pieces: list[dict[str, Tensor]]) -> tuple[Labelled, Tensor]:
        logits, labels = (torch.cat([piece[name] for piece in pieces], 1)[None] for name in ("logits", "labels"))
        one = slice(row, row + 1)
        whole = Labelled(
            videos=batch["videos"][one],
            labels=labels,
            mask=labels.new_ones(1, labels.shape[2]),
            num_frames=batch["num_frames"][one],
        )
        return whole, logits
