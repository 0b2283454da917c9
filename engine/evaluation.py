"""One pass over the test videos; as in training, the network, the data and the metrics arrive as arguments."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from common.progress import progress
from common.signals import Stopped, requested
from engine import distributed

Batch = Mapping[str, Any]
Forward = Callable[[nn.Module, Batch], Tensor]
Criterion = Callable[..., dict[str, Tensor]]
Prepare = Callable[[Batch, torch.device], Batch]
Join = Callable[[Batch, Tensor], Iterable[tuple[Batch, Tensor]]]


class Evaluator(Protocol):
    """Collects one pass over the test videos (see eval.detection)."""

    def add(self, batch: Batch, probabilities: Tensor) -> None: ...

    def gather(self) -> None:
        """Bring what the other processes have collected into the main one."""

    def finish(self) -> dict[str, Any]: ...


def as_they_are(batch: Batch, logits: Tensor) -> list[tuple[Batch, Tensor]]:
    """The `join` of batches that hold whole videos."""
    return [(batch, logits)]


@torch.no_grad()
def evaluate(
    model: nn.Module,
    *,
    forward: Forward,
    criterion: Criterion,
    loader: Iterable[Batch],
    prepare: Prepare,
    evaluator: Evaluator,
    device: torch.device,
    join: Join = as_they_are,
) -> dict[str, Any]:
    """Metrics of one pass over `loader`; the losses are means over the videos.

    Where the loader's batches are of parts of videos, `join` makes whole ones of these and their logits.

    With several processes each has its share of the videos, and the main one alone the metrics. They are those of
    one process to the last bit: the losses' sums are exact, hence in any order the same.

    Raises:
        Stopped: when a signal asked for it.
    """
    losses: dict[str, list[float]] = defaultdict(list)
    batches = progress(loader, len(loader), "Evaluating")
    (rounds,) = distributed.highest(len(loader))  # shares may differ by a batch, but all must hear of a signal
    for _ in range(rounds):
        (signal,) = distributed.highest(requested())
        if signal:
            raise Stopped(signal)
        batch = next(batches, None)
        if batch is None:
            continue
        batch = prepare(batch, device)
        for whole, logits in join(batch, forward(model, batch)):
            for video in range(len(logits)):
                one = slice(video, video + 1)
                for name, value in criterion(logits[one], whole["labels"][one], whole["mask"][one]).items():
                    losses[name].append(value.item())
            evaluator.add(whole, torch.sigmoid(logits))
    next(batches, None)  # the bar's last word
    evaluator.gather()
    shares = distributed.gather(dict(losses))
    if not distributed.is_main():
        return {}
    metrics = evaluator.finish()
    for name in dict.fromkeys(name for share in shares for name in share):
        values = [value for share in shares for value in share.get(name, [])]
        metrics[name] = math.fsum(values) / len(values)
    return metrics
