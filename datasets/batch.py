"""From samples to batches: padding with masks, the order of samples, and the loader.

What a batch holds does not depend on how many workers or processes made it: the order comes from (seed, epoch), each
sample from (seed, epoch, index). Clips cross process borders as uint8 and are normalised where the network runs.
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

PREFETCH_BATCHES = 2  # finished batches that each worker keeps ready


class Batch(TypedDict):
    """B samples padded with zeros to the longest clip (T), label (L) and feature (T') length among them."""

    videos: list[str]
    labels: Tensor  # (B,C,L) float32, 0 or 1
    mask: Tensor  # (B,L) float32, 1 at valid labels
    num_frames: Tensor  # (B,) int64, frames of the whole video
    clip: Tensor  # (B,T,H,W,3) uint8; (B,3,T,H,W) float32 and normalised after `prepare`
    frames: Tensor  # (B,) int64, valid clip frames
    fine_features: NotRequired[dict[str, Tensor]]  # {layer: (B,C_l,T',7,7)} as stored; float32 after `prepare`
    fine_clip: NotRequired[Tensor]  # (B,T',H,W,3), as clip
    fine_labels: NotRequired[Tensor]  # (B,C,L') float32, of fine_clip
    fine_labels_mask: NotRequired[Tensor]  # (B,L') float32
    fine_mask: NotRequired[Tensor]  # (B,T') float32, 1 at valid frames of fine_features or fine_clip
    start: NotRequired[Tensor]  # (B,) int64, the clip's first frame on the fine axis
    parts: NotRequired[list[Part]]  # of test videos: the windows that the clips are


def collate(samples: Sequence[Sample]) -> Batch:
    """Samples of one frame size as a batch."""
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
    """Labels (C,l) of each sample -> (B,C,L), and their mask (B,L)."""
    lengths = [x.shape[1] for x in labels]
    padded = torch.stack([F.pad(x, (0, max(lengths) - x.shape[1])) for x in labels])
    return padded, _mask(lengths)


def time_lengths(batch: Batch) -> tuple[int, int, int, int]:
    """T, L, T' and L' of a batch from `collate`; 0 for what it is without."""
    fine, fine_labels = (batch[key].shape[1] if key in batch else 0 for key in ("fine_mask", "fine_labels_mask"))
    return batch["clip"].shape[1], batch["labels"].shape[2], fine, fine_labels


def pad(batch: Batch, T: int, L: int, fine: int, fine_labels: int = 0) -> Batch:
    """The batch from `collate` with zeros up to the given lengths, as if a longer sample were in it."""
    padded = batch.copy()
    padded["clip"] = _lengthen(batch["clip"], 1, T)
    padded["labels"], padded["mask"] = _lengthen(batch["labels"], 2, L), _lengthen(batch["mask"], 1, L)
    if "fine_mask" in batch:
        padded["fine_mask"] = _lengthen(batch["fine_mask"], 1, fine)
    if "fine_clip" in batch:
        padded["fine_clip"] = _lengthen(batch["fine_clip"], 1, fine)
        padded["fine_labels"] = _lengthen(batch["fine_labels"], 2, fine_labels)
        padded["fine_labels_mask"] = _lengthen(batch["fine_labels_mask"], 1, fine_labels)
    if "fine_features" in batch:  # whose memory is (B,T',C,7,7)
        padded["fine_features"] = {
            layer: _lengthen(x.transpose(1, 2), 1, fine).transpose(1, 2) for layer, x in batch["fine_features"].items()
        }
    return padded


def _lengthen(x: Tensor, dim: int, length: int) -> Tensor:
    """With zeros along `dim`, up to a length."""
    missing = length - x.shape[dim]
    return F.pad(x, (*[0, 0] * (x.dim() - 1 - dim), 0, missing)) if missing else x


def _mask(lengths: Sequence[int]) -> Tensor:
    """(B,longest) float32, 1 below each length."""
    return (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).float()


def prepare(batch: Batch, device: torch.device | str, out: Tensor | None = None) -> Batch:
    """A batch from `collate` on the device, for the network: clips normalised, padded frames zero, features float32.

    `out`: a buffer for the clip, as for `normalise`; the caller must be done with what it held.
    """
    moved: Batch = _move(batch, device)
    moved["clip"] = normalise(moved["clip"], batch["frames"], out)
    if "fine_clip" in moved:
        moved["fine_clip"] = normalise(moved["fine_clip"], batch["fine_mask"].sum(1).int())
    if "fine_features" in moved:
        moved["fine_features"] = {layer: x.float() for layer, x in moved["fine_features"].items()}
    return moved


class Preparer:
    """`prepare` for a loop that is done with each batch before the next: clips of one shape share a buffer.

    That is for the CPU, where fresh memory for a clip costs more than to fill it; a GPU's allocator keeps its own.
    """

    def __init__(self) -> None:
        self.buffer: Tensor | None = None  # (B,T,H,W,3) float32

    def __call__(self, batch: Batch, device: torch.device | str) -> Batch:
        """As `prepare`; overwrites the clip of the batch that was returned before."""
        shape = batch["clip"].shape
        if torch.device(device).type == "cpu" and (self.buffer is None or self.buffer.shape != shape):
            self.buffer = torch.empty(shape)
        return prepare(batch, device, self.buffer)


def _move(value: Any, device: torch.device | str) -> Any:  # a TypedDict's values cannot be mapped with their types
    """Tensors, in dictionaries too, on the device; all else as it is."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    return {key: _move(x, device) for key, x in value.items()} if isinstance(value, dict) else value


@dataclass(eq=False)
class EpochBatches(Sampler[list[tuple[int, int]]]):
    """Shuffled batches of (epoch, index) keys, in an order that (seed, epoch) fixes.

    Batch sizes are global: sample i of every batch goes to process i mod `processes`, whose multiple the batch size is.
    Set the position before iterating; `len` is the number of batches from there to the end of the epoch. An incomplete
    last batch is topped up to a multiple of `processes` with the epoch's first samples, so that all processes take part
    in it.
    """

    num_samples: int
    batch_size: int
    seed: int = 0
    drop_last: bool = False
    rank: int = 0
    processes: int = 1
    epoch: int = 0  # the position: this epoch, from this batch on
    batch: int = 0

    @property
    def batches_per_epoch(self) -> int:
        """Global batches of a whole epoch."""
        return self.num_samples // self.batch_size if self.drop_last else -(-self.num_samples // self.batch_size)

    def set_position(self, epoch: int, batch: int = 0) -> None:
        """Iterate over this epoch next, from this batch on."""
        self.epoch, self.batch = epoch, batch

    def __len__(self) -> int:
        return max(0, self.batches_per_epoch - self.batch)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch = self.epoch
        # num_samples stands where a sample's index would: a stream of its own, whatever the samples draw.
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
    """Keys (epoch 0, index, window) of one pass over a test set, this process's share of the videos.

    Videos of equal lengths that fit one window each are together, at most `batch_size` of them. Of longer ones, each
    video's windows follow each other in batches of their own: only one such video is under way at a time. Nothing is
    padded, so results do not depend on the batch size.

    Args:
        lengths: Of each video's clip and labels, in any units; equal ones have as many windows.
        windows: Of each video.
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
    """A dataset's items by batches. A user's mistake is returned: raised in a worker, it would arrive as a text."""

    def __init__(self, dataset: TrainClips | TestVideos) -> None:
        self.dataset = dataset

    def __getitems__(self, keys: Sequence[tuple[int, ...]]) -> list[Sample | Skipped] | InputError:
        try:
            return [self.dataset[key] for key in keys]
        except InputError as error:
            return error


def collate_readable(items: list[Sample | Skipped] | InputError) -> tuple[Batch | InputError | None, list[Skipped]]:
    """What a worker makes of items: a batch of those that could be read, None of nothing, and those that could not."""
    if isinstance(items, InputError):
        return items, []
    samples = [item for item in items if not isinstance(item, Skipped)]
    skipped = [item for item in items if isinstance(item, Skipped)]
    skipped += [entry for sample in samples for entry in sample.get("skipped", ())]
    return collate(samples) if samples else None, skipped


class Loader:
    """Batches of a dataset, made by worker processes that live as long as the loader.

    Videos that the dataset skips are counted and named on stderr, where a line of any process is seen. More than 1% of
    them, and more than one, are an error. A user's mistake that a worker finds is raised here.
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
            batch_sampler: The order, for this process: `EpochBatches`, whose position says where each pass begins, or
                a plain list of batches of keys.
            workers: Processes that decode; 0 decodes in this one.
            pin_memory: Page-locked batches, for copies to a GPU beside its work.
        """
        self.batch_sampler, self.videos = batch_sampler, len(dataset)
        self.skipped: dict[str, str] = {}  # why, by video
        self._loader = DataLoader(
            Readable(dataset),
            batch_sampler=batch_sampler,
            collate_fn=collate_readable,
            num_workers=workers,
            pin_memory=pin_memory,
            persistent_workers=workers > 0,
            prefetch_factor=PREFETCH_BATCHES if workers else None,
            worker_init_fn=outlive_a_stop,
            generator=torch.Generator(),  # each pass draws a seed from it: the global one is the network's alone
        )

    def __len__(self) -> int:
        """Batches from the position to the end of the pass."""
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
                    f"{reason}; more than {most} of {self.videos} videos cannot be read: "
                    f"{', '.join(self.skipped)}; repair them, --data.on_bad_sample skip is for a few"
                )
            line = f"{reason}; skipped, as {len(self.skipped)} of {self.videos} videos"
            print(line, file=sys.stderr, flush=True)


def outlive_a_stop(worker: int = 0) -> None:
    """A worker leaves when the loader does: signals that ask a whole group of processes to stop are the main one's.

    A second SIGTERM ends it, so that no worker can be stuck for ever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.signal(number, signal.SIG_DFL))
