"""Write a safetensors file incrementally along time, for tensors that do not fit in memory.

The format (github.com/huggingface/safetensors, "Format"): the length of the header in 8 bytes, a JSON header padded to
a multiple of 8 bytes, then the tensors in sequence. All lengths are known in advance, so each piece is written directly
to its place. The finished file is identical to that of `safetensors.torch.save`, byte for byte.
"""

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import torch
from torch import Tensor

from common.files import naming, written_whole

DTYPE_NAMES = {torch.float16: "F16", torch.float32: "F32"}


class SafetensorsWriter:
    """Write tensors {name: (T,...)} of one dtype and equal T, frame by frame in order."""

    def __init__(self, path: Path, shapes: Mapping[str, Sequence[int]], dtype: torch.dtype) -> None:
        self.path, self.dtype = path, dtype
        self.shapes = {name: tuple(shapes[name]) for name in sorted(shapes)}
        self.total, self.frames = next(iter(self.shapes.values()))[0], 0
        begins, header, end = {}, {}, 0
        for name, shape in self.shapes.items():
            begins[name], end = end, end + math.prod(shape) * dtype.itemsize
            header[name] = {"dtype": DTYPE_NAMES[dtype], "shape": shape, "data_offsets": [begins[name], end]}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self.places = {name: 8 + len(text) + begin for name, begin in begins.items()}
        with ExitStack() as opened:
            temporary = opened.enter_context(written_whole(path, durable=True))
            self.file = opened.enter_context(temporary.open("wb"))
            self.file.write(len(text).to_bytes(8, "little") + text)
            self.opened = opened.pop_all()

    def append(self, tensors: Mapping[str, Tensor]) -> bool:
        """Append frames {name: (t,...)}, contiguous on the CPU; return True once the file is complete and renamed."""
        (t,) = {len(x) for x in tensors.values()}
        with naming(self.path):
            for name, shape in self.shapes.items():
                x = tensors[name]
                if x.shape[1:] != shape[1:] or x.dtype != self.dtype or self.frames + t > self.total:
                    raise ValueError(f"{self.path}: {name} {tuple(x.shape)} {x.dtype} is incompatible with {shape}")
                self.file.seek(self.places[name] + self.frames * math.prod(shape[1:]) * self.dtype.itemsize)
                self.file.write(x.numpy().data)
        self.frames += t
        if self.frames == self.total:
            self.opened.close()
        return self.frames == self.total

    def drop(self) -> None:
        """Discard an incomplete file, even if a full disk prevents closing it."""
        with suppress(EOFError, OSError), self.opened:
            raise EOFError  # an error prevents the rename
