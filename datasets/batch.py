"""Collate samples into batches: padding with masks, the order of samples, and the loader.

The content of a batch does not depend on the number of workers or processes: the order is a function of (seed, epoch),
each sample of (seed, epoch, index). Clips are passed between processes as uint8 and normalised on the network's device.
"""

import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NotRequired, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset, Sampler

from common.errors import InputError
from datasets.clips import MISSING_LIMIT, Sample, Skipped, TestVideos, TrainClips
from datasets.transforms import normalise
from datasets.windows import Part, Window

PREFETCH_BATCHES = 2  # batches prefetched by each worker


class Batch(TypedDict):
    """B samples, zero-padded to their longest clip (T), label (L) and feature (T') length."""

    videos: list[str]
    labels: Tensor  # (B,C,L) float32, 0 or 1
    mask: Tensor  # (B,L) float32, 1 for valid labels
    num_frames: Tensor  # (B,) int64, frames in the whole video
    clip: Tensor  # (B,T,H,W,3) uint8; after `prepare` (B,3,T,H,W) float32, normalised
    frames: Tensor  # (B,) int64, valid clip frames
    fine_features: NotRequired[dict[str, Tensor]]  # {layer: (B,C_l,T',7,7)} as stored; after `prepare` float32
    fine_clip: NotRequired[Tensor]  # (B,T',H,W,3), same form as clip
    fine_labels: NotRequired[Tensor]  # (B,C,L') float32, labels of fine_clip
    fine_labels_mask: NotRequired[Tensor]  # (B,L') float32
    fine_mask: NotRequired[Tensor]  # (B,T') float32, 1 for valid frames of fine_features or fine_clip
    start: NotRequired[Tensor]  # (B,) int64, first clip frame on the fine axis
    parts: NotRequired[list[Part]]  # test videos only: the window of each clip


def collate(samples: Sequence[Sample]) -> Batch:
    """Collate samples of equal frame size into a batch."""
    labels, mask = _pad_labels([sample["labels"] for sample in samples])
    batch = Batch(
        videos=[sample["video"] for sample in samples],
        clip=pad_sequence([sample["clip"] for sample in samples], batch_first=True),
        frames=torch.tensor([len(sample["clip"]) for sample in samples]),
        labels=labels,
        mask=mask,
        num_frames=torch.tensor([sample["num_frames"] for sample in samples]),
    )
    if "fine_features" in samples[0]:
        features = [sample["fine_features"] for sample in samples]
        batch["fine_features"] = {
            layer: pad_sequence([x[layer].transpose(0, 1) for x in features], batch_first=True).transpose(1, 2)
            for layer in features[0]
        }
        batch["fine_mask"] = _mask([next(iter(x.values())).shape[1] for x in features])
    if "fine_clip" in samples[0]:
        batch["fine_clip"] = pad_sequence([sample["fine_clip"] for sample in samples], batch_first=True)
        batch["fine_mask"] = _mask([len(sample["fine_clip"]) for sample in samples])
        batch["fine_labels"], batch["fine_labels_mask"] = _pad_labels([sample["fine_labels"] for sample in samples])
    if "start" in samples[0]:
        batch["start"] = torch.tensor([sample["start"] for sample in samples])
    if "part" in samples[0]:
        batch["parts"] = [sample["part"] for sample in samples]
    return batch


def _pad_labels(labels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Pad the labels (C,l) of each sample to (B,C,L), and return their mask (B,L)."""
    lengths = [x.shape[1] for x in labels]
    padded = torch.stack([F.pad(x, (0, max(lengths) - x.shape[1])) for x in labels])
    return padded, _mask(lengths)


def time_lengths(batch: Batch) -> tuple[int, int, int, int]:
    """Return T, L, T' and L' of a batch from `collate`; 0 for absent entries."""
    fine, fine_labels = (batch[key].shape[1] if key in batch else 0 for key in ("fine_mask", "fine_labels_mask"))
    return batch["clip"].shape[1], batch["labels"].shape[2], fine, fine_labels


def pad(batch: Batch, T: int, L: int, fine: int, fine_labels: int = 0) -> Batch:
    """Zero-pad a batch from `collate` to the given lengths, as if it included a longer sample."""
    padded = batch.copy()
    padded["clip"] = _lengthen(batch["clip"], 1, T)
    padded["labels"], padded["mask"] = _lengthen(batch["labels"], 2, L), _lengthen(batch["mask"], 1, L)
    if "fine_mask" in batch:
        padded["fine_mask"] = _lengthen(batch["fine_mask"], 1, fine)
    if "fine_clip" in batch:
        padded["fine_clip"] = _lengthen(batch["fine_clip"], 1, fine)
        padded["fine_labels"] = _lengthen(batch["fine_labels"], 2, fine_labels)
        padded["fine_labels_mask"] = _lengthen(batch["fine_labels_mask"], 1, fine_labels)
    if "fine_features" in batch:  # memory layout (B,T',C,7,7)
        padded["fine_features"] = {
            layer: _lengthen(x.transpose(1, 2), 1, fine).transpose(1, 2) for layer, x in batch["fine_features"].items()
        }
    return padded


def _lengthen(x: Tensor, dim: int, length: int) -> Tensor:
    """Zero-pad `dim` to a length."""
    missing = length - x.shape[dim]
    return F.pad(x, (*[0, 0] * (x.dim() - 1 - dim), 0, missing)) if missing else x


def _mask(lengths: Sequence[int]) -> Tensor:
    """Return a mask (B,longest) float32 with 1 below each length."""
    return (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).float()


def prepare(batch: Batch, device: torch.device | str, out: Tensor | None = None) -> Batch:
    """Move a batch from `collate` to the device: clips normalised, padded frames zero, features float32.

    `out` is an optional buffer for the clip, as in `normalise`; its contents are overwritten.
    """
    moved: Batch = _move(batch, device)
    moved["clip"] = normalise(moved["clip"], batch["frames"], out)
    if "fine_clip" in moved:
        moved["fine_clip"] = normalise(moved["fine_clip"], batch["fine_mask"].sum(1).int())
    if "fine_features" in moved:
        moved["fine_features"] = {layer: x.float() for layer, x in moved["fine_features"].items()}
    return moved


class Preparer:
    """`prepare` with a reused clip buffer, for loops that finish each batch before the next.

    Only used on the CPU, where allocating a clip takes longer than filling it; GPU memory is cached by its allocator.
    """

    def __init__(self) -> None:
        self.buffer: Tensor | None = None  # (B,T,H,W,3) float32

    def __call__(self, batch: Batch, device: torch.device | str) -> Batch:
        """Like `prepare`, but overwrites the clip of the previous batch."""
        shape = batch["clip"].shape
        if torch.device(device).type == "cpu" and (self.buffer is None or self.buffer.shape != shape):
            self.buffer = torch.empty(shape)
        return prepare(batch, device, self.buffer)


def _move(value: Any, device: torch.device | str) -> Any:  # TypedDict values cannot be mapped with their types
    """Move tensors, also in dictionaries, to the device; return other values unchanged."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    return {key: _move(x, device) for key, x in value.items()} if isinstance(value, dict) else value


@dataclass(eq=False)
class EpochBatches(Sampler[list[tuple[int, int]]]):
    """Shuffled batches of (epoch, index) keys, in an order determined by (seed, epoch).

    Batch sizes are global and divisible by `processes`: sample i of a batch goes to process i mod `processes`. Set the
    position before iterating; `len` is the number of batches left in the epoch. An incomplete last batch is filled up
    to a multiple of `processes` with the first samples of the epoch, so that all processes take part.
    """

    num_samples: int
    batch_size: int
    seed: int = 0
    drop_last: bool = False
    rank: int = 0
    processes: int = 1
    epoch: int = 0  # position: epoch and next batch
    batch: int = 0

    @property
    def batches_per_epoch(self) -> int:
        """Number of global batches per epoch."""
        return self.num_samples // self.batch_size if self.drop_last else -(-self.num_samples // self.batch_size)

    def set_position(self, epoch: int, batch: int = 0) -> None:
        """Start the next iteration at this epoch and batch."""
        self.epoch, self.batch = epoch, batch

    def __len__(self) -> int:
        return max(0, self.batches_per_epoch - self.batch)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch = self.epoch
        # num_samples is no sample index, so the order has its own random stream.
        order = np.random.default_rng([self.seed, epoch, self.num_samples]).permutation(self.num_samples)
        for batch in range(self.batch, self.batches_per_epoch):
            whole = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            whole = np.concatenate([whole, np.resize(order, -len(whole) % self.processes)])
            yield [(epoch, int(index)) for index in whole[self.rank :: self.processes]]


def evaluation_batches(
    lengths: Sequence[tuple[int, int]],
    windows: Sequence[Sequence[Window]],
    batch_size: int,
    *,
    rank: int = 0,
    processes: int = 1,
) -> list[list[tuple[int, ...]]]:
    """Return batches of keys (epoch 0, index, window) for this process's share of a test set.

    Up to `batch_size` videos of equal length that fit one window form a batch. The windows of a longer video follow
    one another in separate batches, so that only one such video is in progress at a time. Nothing is padded: results
    do not depend on the batch size.

    Args:
        lengths: Clip and label length of each video, in any units; equal lengths imply equally many windows.
        windows: Windows of each video.
    """
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    groups = [list(group) for _, group in groupby(order, key=lambda index: lengths[index])]
    together = [group[b : b + batch_size] for group in groups for b in range(0, len(group), batch_size)]
    batches: list[list[tuple[int, ...]]] = []
    for videos in together[rank::processes]:
        count = len(windows[videos[0]])
        if count == 1:
            batches.append([(0, index, 0) for index in videos])
        else:
            keys: list[list[tuple[int, ...]]] = [[(0, index, number) for number in range(count)] for index in videos]
            batches += [own[b : b + batch_size] for own in keys for b in range(0, count, batch_size)]
    return batches


class Readable(Dataset[Sample]):
    """The items of a dataset, a batch at a time. An `InputError` is returned, since a worker would raise it as text."""

    def __init__(self, dataset: TrainClips | TestVideos) -> None:
        self.dataset = dataset

    def __getitems__(self, keys: Sequence[tuple[int, ...]]) -> list[Sample | Skipped] | InputError:
        try:
            return [self.dataset[key] for key in keys]
        except InputError as error:
            return error


def collate_readable(items: list[Sample | Skipped] | InputError) -> tuple[Batch | InputError | None, list[Skipped]]:
    """Collate the readable items into a batch (None if there are none), and return it with the skipped ones."""
    if isinstance(items, InputError):
        return items, []
    samples = [item for item in items if not isinstance(item, Skipped)]
    skipped = [item for item in items if isinstance(item, Skipped)]
    skipped += [entry for sample in samples for entry in sample.get("skipped", ())]
    return collate(samples) if samples else None, skipped


class Loader:
    """Load batches of a dataset with worker processes that live as long as the loader.

    Skipped videos are counted and reported on stderr by every process. More than one and more than 1% is an error. An
    `InputError` in a worker is raised again here.
    """

    def __init__(
        self,
        dataset: TrainClips | TestVideos,
        batch_sampler: EpochBatches | Sequence[list[tuple[int, ...]]],
        *,
        workers: int,
        pin_memory: bool = False,
    ) -> None:
        """
        Args:
            batch_sampler: Batches of keys for this process: a list, or `EpochBatches`, whose position is where each
                pass begins.
            workers: Number of worker processes; 0 decodes in this one.
            pin_memory: Use page-locked memory, for asynchronous copies to a GPU.
        """
        self.batch_sampler, self.videos = batch_sampler, len(dataset)
        self.skipped: dict[str, str] = {}  # {video: reason}
        self._loader = DataLoader(
            Readable(dataset),
            batch_sampler=batch_sampler,
            collate_fn=collate_readable,
            num_workers=workers,
            pin_memory=pin_memory,
            persistent_workers=workers > 0,
            prefetch_factor=PREFETCH_BATCHES if workers else None,
            worker_init_fn=outlive_a_stop,
            generator=torch.Generator(),  # each pass draws a seed; leave the global generator to the network
        )

    def __len__(self) -> int:
        """Number of batches from the position to the end of the pass."""
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[Batch]:
        for batch, skipped in self._loader:
            if isinstance(batch, InputError):
                raise batch
            self._count(skipped)
            if batch is not None:
                yield batch

    def _count(self, skipped: Iterable[Skipped]) -> None:
        most = max(1, int(MISSING_LIMIT * self.videos))
        for video, reason in skipped:
            if video in self.skipped:
                continue
            self.skipped[video] = reason
            if len(self.skipped) > most:
                raise InputError(
                    f"{reason}; more than {most} of {self.videos} videos are unreadable: "
                    f"{', '.join(self.skipped)}; repair them (--data.on_bad_sample skip tolerates only a few)"
                )
            line = f"{reason}; skipped ({len(self.skipped)} of {self.videos} videos so far)"
            print(line, file=sys.stderr, flush=True)


def outlive_a_stop(worker: int = 0) -> None:
    """Make a worker ignore the first stop signal to its process group; it exits with the loader instead.

    A second SIGTERM terminates it, so that no worker hangs forever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.signal(number, signal.SIG_DFL))
