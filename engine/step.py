"""One optimizer step: the gradients of a batch, by autocast, in parts and over all processes.

The network and what it learns from arrive as arguments:

    forward(model, batch) -> logits (B,C,L), at the frames of batch["labels"]
    criterion(logits, labels, mask, mask_total=...) -> {"loss", "cls_loss", "loc_loss"}
"""

import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from common.signals import requested
from engine import distributed
from engine.evaluation import Batch, Criterion, Forward

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class TrainingScores(Protocol):
    """The mAP of the clips trained on since it was last asked."""

    def add(self, batch: Batch, probabilities: Tensor) -> None: ...

    def compute(self) -> float | None: ...


@dataclass(frozen=True, kw_only=True)
class SecondHead:
    """Another output of the network that is trained beside its logits.

    Its losses are reported as NAME_loss and so on, and `weight` times its loss is part of the loss.

    Attributes:
        forward: model, batch -> logits as of the trainer's `forward`, and this head's (B,C,L') at its own labels.
        labels, mask: where a batch has these, (B,C,L') and (B,L').
        criterion: as the trainer's.
    """

    name: str
    forward: Callable[[nn.Module, Batch], tuple[Tensor, Tensor]]
    labels: str
    mask: str
    criterion: Criterion
    weight: float


def parts_of(batch: Batch, parts: int) -> Iterator[tuple[Batch, float, bool]]:
    """A batch in interleaved parts of whole samples: each part, its share of the samples, and whether it is the last.

    Sample i is in part i mod `parts`, as in a norm with so many groups.
    """
    samples = len(batch["videos"])
    parts = min(parts, samples)
    for number in range(parts):
        part = _rows(batch, slice(number, None, parts))
        yield part, len(part["videos"]) / samples, number == parts - 1


def _rows(value: Any, rows: slice) -> Any:
    return {key: _rows(item, rows) for key, item in value.items()} if isinstance(value, Mapping) else value[rows]


class Step:
    """Gradients of a batch, then an update of the weights by them.

    Args:
        scores: is fed the probabilities of every clip.
        accumulate: parts of whole samples in which a batch goes through the network.
        clip_grad: the largest norm of all gradients together; None: any.
        precision: "fp32", or "bf16" or "fp16" by autocast, fp16 with scaled gradients.
        second_head: what else is trained; None where the logits are all.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        forward: Forward,
        criterion: Criterion,
        optimizer: Optimizer,
        scores: TrainingScores,
        accumulate: int,
        clip_grad: float | None,
        device: torch.device,
        precision: str = "fp32",
        second_head: SecondHead | None = None,
    ) -> None:
        self.model, self.forward, self.criterion = model, forward, criterion
        self.optimizer, self.scores, self.second_head = optimizer, scores, second_head
        self.accumulate, self.clip_grad, self.device = accumulate, clip_grad, device
        self.autocast = torch.autocast(device.type, PRECISIONS[precision], enabled=precision != "fp32")
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self.network = model
        if distributed.size() > 1:  # every process keeps running statistics of its own
            with warnings.catch_warnings():  # its successor would overwrite them at the start
                warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")
                self.network = DistributedDataParallel(model, broadcast_buffers=False)

    def gradients(self, batch: Batch) -> tuple[dict[str, float], int]:
        """Gradients of the batch, summed over its parts as if it were one.

        Returns its losses over all processes, and the signal on which all of them stop (0: none).
        """
        self.optimizer.zero_grad(set_to_none=True)
        masks = ["mask"] if self.second_head is None else ["mask", self.second_head.mask]
        mask_totals = [distributed.mean(batch[mask].sum()) for mask in masks]  # as gradients, averaged over processes
        sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=self.device))
        for part, share, is_last in parts_of(batch, self.accumulate):
            alone = nullcontext() if is_last or self.network is self.model else self.network.no_sync()
            with alone:
                logits, losses = self._losses(part, [total * share for total in mask_totals])
                self.scaler.scale(losses["loss"] * share).backward()
            for name, value in losses.items():
                sums[name] = sums[name] + value.detach() * share
            self.scores.add(part, torch.sigmoid(logits.detach()))
        asked = torch.tensor(float(requested()), device=self.device)
        *values, asked = distributed.mean(torch.stack([*sums.values(), asked])).tolist()
        return dict(zip(sums, values, strict=True)), distributed.highest(requested())[0] if asked else 0

    def _losses(self, part: Batch, mask_totals: list[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits and losses of a part of a batch, those of the second head included."""
        second = self.second_head
        with self.autocast:
            output = (second or self).forward(self.network, part)
        logits, *others = output if second else (output,)
        losses = self.criterion(logits, part["labels"], part["mask"], mask_total=mask_totals[0])
        if second:
            beside = second.criterion(*others, part[second.labels], part[second.mask], mask_total=mask_totals[1])
            losses["loss"] = losses["loss"] + second.weight * beside["loss"]
            losses |= {f"{second.name}_{name}": value for name, value in beside.items()}
        return logits, losses

    def update(self) -> None:
        """New weights by the gradients."""
        if self.clip_grad is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
