"""From samples to batches: padding with masks, the order of samples, and the loader.

What a batch holds does not depend on how many workers or processes made it: the order comes from (seed, epoch), each
sample from (seed, epoch, index). Clips cross process borders as uint8 and are normalised where the network runs.
"""

import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import NotRequired, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Sampler

from common.errors import InputError
from datasets.clips import MISSING_LIMIT, Sample, Skipped
from datasets.transforms import normalise
from datasets.windows import Part, Window

PREFETCH_BATCHES = 2  # finished batches that each worker keeps ready


class Batch(TypedDict):
    """B samples padded with zeros to the longest clip (T), label (L) and feature (T') length among them."""

    videos: list[str]
    clip: Tensor  # (B,3,T,H,W) uint8, memory (B,T,H,W,3); float32 and normalised after `prepare`
    frames: Tensor  # (B,) int64, valid clip frames
    labels: Tensor  # (B,C,L) float32, 0 or 1
    mask: Tensor  # (B,L) float32, 1 at valid labels
    num_frames: Tensor  # (B,) int64, frames of the whole video
    duration: Tensor  # (B,) float64, seconds
    fine_features: NotRequired[dict[str, Tensor]]  # {layer: (B,C_l,T',7,7)} as stored; float32 after `prepare`
    fine_clip: NotRequired[Tensor]  # (B,3,T',H,W), as clip
    fine_labels: NotRequired[Tensor]  # (B,C,L') float32, of fine_clip
    fine_labels_mask: NotRequired[Tensor]  # (B,L') float32
    fine_mask: NotRequired[Tensor]  # (B,T') float32, 1 at valid frames of fine_features or fine_clip
    start: NotRequired[Tensor]  # (B,) int64, the clip's first frame on the fine axis
    parts: NotRequired[list[Part]]  # of test videos: the windows that the clips are
    skipped: NotRequired[list[Skipped]]  # only on the way from a worker to the loader


def collate(samples: Sequence[Sample]) -> Batch:
    """Samples of one frame size as a batch; of skipped videos alone, a batch of nothing but these."""
    skipped = [entry for sample in samples for entry in sample.get("skipped", ())]
    samples = [sample for sample in samples if "clip" in sample]
    if not samples:
        return Batch(skipped=skipped)
    clip, frames = _pad_time([sample["clip"] for sample in samples])
    labels, lengths = _pad_time([sample["labels"] for sample in samples])
    batch = Batch(
        videos=[sample["video"] for sample in samples],
        clip=clip,
        frames=frames,
        labels=labels,
        mask=_mask(lengths, labels.shape[-1]),
        num_frames=torch.tensor([sample["num_frames"] for sample in samples]),
        duration=torch.tensor([sample["duration"] for sample in samples], dtype=torch.float64),
    )
    if "fine_features" in samples[0]:
        layers = samples[0]["fine_features"]
        padded = {layer: _pad_time([sample["fine_features"][layer] for sample in samples]) for layer in layers}
        lengths = next(iter(padded.values()))[1]
        batch["fine_features"] = {layer: features for layer, (features, _) in padded.items()}
        batch["fine_mask"] = _mask(lengths, int(lengths.max()))
    if "fine_clip" in samples[0]:
        batch["fine_clip"], lengths = _pad_time([sample["fine_clip"] for sample in samples])
        batch["fine_mask"] = _mask(lengths, int(lengths.max()))
        batch["fine_labels"], lengths = _pad_time([sample["fine_labels"] for sample in samples])
        batch["fine_labels_mask"] = _mask(lengths, int(lengths.max()))
    if "start" in samples[0]:
        batch["start"] = torch.tensor([sample["start"] for sample in samples])
    if "part" in samples[0]:
        batch["parts"] = [sample["part"] for sample in samples]
    if skipped:
        batch["skipped"] = skipped
    return batch


def time_lengths(batch: Batch) -> tuple[int, int, int, int]:
    """T, L, T' and L' of a batch; 0 for what it is without."""
    fine, fine_labels = (batch[key].shape[1] if key in batch else 0 for key in ("fine_mask", "fine_labels_mask"))
    return batch["clip"].shape[2], batch["labels"].shape[2], fine, fine_labels


def pad(batch: Batch, T: int, L: int, fine: int, fine_labels: int = 0) -> Batch:
    """The batch with zeros up to the given lengths, as if a longer sample were in it."""
    shape = time_lengths(batch)
    if shape == (T, L, fine, fine_labels):
        return batch
    padded = Batch(**batch)
    padded["clip"] = _pad_time(list(batch["clip"]), T)[0]
    padded["labels"] = F.pad(batch["labels"], (0, L - shape[1]))
    padded["mask"] = F.pad(batch["mask"], (0, L - shape[1]))
    if "fine_mask" in batch:
        padded["fine_mask"] = F.pad(batch["fine_mask"], (0, fine - shape[2]))
    if "fine_clip" in batch:
        padded["fine_clip"] = _pad_time(list(batch["fine_clip"]), fine)[0]
        for key in ("fine_labels", "fine_labels_mask"):
            padded[key] = F.pad(batch[key], (0, fine_labels - shape[3]))
    if "fine_features" in batch:
        padded["fine_features"] = {layer: _pad_time(list(x), fine)[0] for layer, x in batch["fine_features"].items()}
    return padded


def _pad_time(tensors: Sequence[Tensor], least: int = 0) -> tuple[Tensor, Tensor]:
    """Stack (C,t,...) with zeros after each one's t: (B,C,T,...) in the first one's memory order, and all t (B,).

    T is the longest t, or `least` where that is more.
    """
    lengths = [x.shape[1] for x in tensors]
    channels, _, *rest = tensors[0].shape
    shape = (len(tensors), channels, max(least, *lengths), *rest)
    order = (0, *(1 + dim for dim in tensors[0].dim_order()))
    stacked = torch.empty_permuted(shape, order, dtype=tensors[0].dtype)
    for row, x, length in zip(stacked, tensors, lengths, strict=True):
        row[:, :length] = x
        row[:, length:] = 0
    return stacked, torch.tensor(lengths)


def _mask(lengths: Tensor, longest: int) -> Tensor:
    return (torch.arange(longest) < lengths[:, None]).float()


def prepare(batch: Batch, device: torch.device | str, out: Tensor | None = None) -> Batch:
    """The batch on the device, ready for the network: clip normalised with padded frames zero, features float32.

    `out`: a buffer for the clip, as for `normalise`; the caller must be done with what it held.
    """
    moved = {key: _move(value, device) for key, value in batch.items()}
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
        self.buffer: Tensor | None = None

    def __call__(self, batch: Batch, device: torch.device | str) -> Batch:
        """As `prepare`; overwrites the clip of the batch that was returned before."""
        if self.buffer is not None and self.buffer.shape != batch["clip"].shape:
            self.buffer = None
        ready = prepare(batch, device, self.buffer)
        if ready["clip"].device.type == "cpu":
            self.buffer = ready["clip"]
        return ready


def _move(value, device: torch.device | str):
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    return {key: _move(x, device) for key, x in value.items()} if isinstance(value, dict) else value


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index) keys, in an order that (seed, epoch) fixes.

    Batch sizes are global: with several processes, sample i of every batch goes to process i mod world_size. Set the
    position before iterating; `len` is the number of batches from there to the end of the epoch. An incomplete last
    batch of a shuffled epoch is topped up to a multiple of world_size with the epoch's first samples, so that all
    processes take part in it; an unshuffled pass visits every sample exactly once.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ):
        if batch_size % world_size:
            raise InputError(f"batch size {batch_size} is not a multiple of the {world_size} processes; change either")
        if drop_last and num_samples < batch_size:
            raise InputError(
                f"{num_samples} videos do not fill one batch of {batch_size}; lower the stage's batch_size, "
                "or set its drop_last to false"
            )
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.rank = rank
        self.world_size = world_size
        self.set_position(0)

    @property
    def batches_per_epoch(self) -> int:
        """Global batches of a whole epoch."""
        return self.num_samples // self.batch_size if self.drop_last else -(-self.num_samples // self.batch_size)

    def set_position(self, epoch: int, batch: int = 0) -> None:
        """Iterate over this epoch next, from this batch on."""
        self.epoch = epoch
        self.batch = batch

    def __len__(self) -> int:
        return max(0, self.batches_per_epoch - self.batch)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, order = self.epoch, self._order()
        for batch in range(self.batch, self.batches_per_epoch):
            whole = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            if self.shuffle:
                whole = np.concatenate([whole, np.resize(order, -len(whole) % self.world_size)])
            yield [(epoch, int(index)) for index in whole[self.rank :: self.world_size]]

    def _order(self) -> np.ndarray:
        if not self.shuffle:
            return np.arange(self.num_samples)
        # num_samples stands where a sample's index would: a stream of its own, whatever the samples draw.
        return np.random.default_rng([self.seed, self.epoch, self.num_samples]).permutation(self.num_samples)


def equal_length_batches(lengths: Sequence[object], batch_size: int) -> list[list[tuple[int, int]]]:
    """Keys (epoch 0, index) of one pass over a test set, at most `batch_size` videos of equal length together.

    Nothing is padded then, so results do not depend on the batch size.
    """
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    groups = [list(group) for _, group in groupby(order, key=lambda index: lengths[index])]
    return [[(0, i) for i in group[b : b + batch_size]] for group in groups for b in range(0, len(group), batch_size)]


def window_batches(
    batches: Iterable[Sequence[tuple[int, int]]], windows: Sequence[Sequence[Window]], batch_size: int
) -> list[list[tuple[int, ...]]]:
    """Batches of videos of equal length, with keys (epoch, index), as batches of windows.

    A batch of videos that fit one window each stays as it is. Of longer ones, a video's windows follow each other in
    batches of their own, at most `batch_size` together: only one such video is under way at a time.
    """
    made: list[list[tuple[int, ...]]] = []
    for batch in batches:
        count = len(windows[batch[0][1]])
        if count == 1:
            made.append(list(batch))
            continue
        for epoch, index in batch:
            keys = [(epoch, index, number) for number in range(count)]
            made += [keys[first : first + batch_size] for first in range(0, count, batch_size)]
    return made


class Loader(DataLoader):
    """A DataLoader that reports a user's mistake found in a worker as it was raised there: in one line.

    It also counts the videos that its dataset skips. More than 1% of them, and more than one, are an error.
    """

    def __init__(self, dataset: Dataset, *, report: Callable[[str], object] = print, **options: object) -> None:
        super().__init__(dataset, **options)
        self.report = report
        self.skipped: dict[str, str] = {}  # why, by video

    def __iter__(self) -> Iterator[Batch]:
        try:
            for batch in super().__iter__():
                self._count(batch.pop("skipped", ()))
                if batch:
                    yield batch
        except InputError as error:  # from a worker: the whole traceback as text, our line at its end
            raise InputError(str(error).rstrip().rpartition("\n")[2].removeprefix(f"{_RAISED_AS}: ")) from None

    def _count(self, skipped: Iterable[Skipped]) -> None:
        most = max(1, int(MISSING_LIMIT * len(self.dataset)))
        for video, reason in skipped:
            if video in self.skipped:
                continue
            self.skipped[video] = reason
            if len(self.skipped) > most:
                raise InputError(
                    f"{reason}; more than {most} of {len(self.dataset)} videos cannot be read: "
                    f"{', '.join(self.skipped)}; repair them, --data.on_bad_sample skip is for a few"
                )
            self.report(f"{reason}; skipped, as {len(self.skipped)} of {len(self.dataset)} videos")


_RAISED_AS = f"{InputError.__module__}.{InputError.__qualname__}"


def outlive_a_stop(worker: int = 0) -> None:
    """A worker leaves when the loader does: signals that ask a whole group of processes to stop are the main one's.

    A second SIGTERM ends it, so that no worker can be stuck for ever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.signal(number, signal.SIG_DFL))


def make_loader(
    dataset: Dataset,
    batches: EpochBatches | Sequence[Sequence[tuple[int, ...]]],
    *,
    workers: int = 4,
    pin_memory: bool = False,
    report: Callable[[str], object] = print,
) -> Loader:
    """A loader of `Batch`es. Before each epoch, `batches.set_position` says where it is.

    Args:
        dataset: `TrainClips` or `TestVideos`.
        batches: The order, for this process; a plain list of batches of keys for a pass that never changes.
        workers: Processes that decode; 0 decodes in this one. They live until the loader is dropped.
        pin_memory: Page-locked batches, for copies to a GPU beside its work.
        report: Called with a line for each video that is skipped.
    """
    return Loader(
        dataset,
        report=report,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=workers,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
        prefetch_factor=PREFETCH_BATCHES if workers else None,
        worker_init_fn=outlive_a_stop,
        generator=torch.Generator(),  # each pass draws a seed from it: the global one is the network's alone
    )
