"""A safetensors file written along time, for tensors that are never in memory whole.

The format (github.com/huggingface/safetensors, "Format"): the header's length in 8 bytes, a JSON header padded to a
multiple of 8, then the tensors one after another. All lengths are known from the start, so that each piece goes to its
place at once; the finished file has the bytes that `safetensors.torch.save` gives.
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
    """Tensors {name: (T,...)} of one dtype, T the same in all, written from the first frame to the last."""

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
        """The next frames {name: (t,...)}, contiguous on the CPU; with the last ones the file gets its name (True)."""
        (t,) = {len(x) for x in tensors.values()}
        with naming(self.path):
            for name, shape in self.shapes.items():
                x = tensors[name]
                if x.shape[1:] != shape[1:] or x.dtype != self.dtype or self.frames + t > self.total:
                    raise ValueError(f"{self.path}: {name} {tuple(x.shape)} {x.dtype} does not continue {shape}")
                self.file.seek(self.places[name] + self.frames * math.prod(shape[1:]) * self.dtype.itemsize)
                self.file.write(x.numpy().data)
        self.frames += t
        if self.frames == self.total:
            self.opened.close()
        return self.frames == self.total

    def drop(self) -> None:
        """Remove what has been written of an incomplete file, also where a full disk keeps it from being closed."""
        with suppress(EOFError, OSError), self.opened:
            raise EOFError  # an error keeps the file from getting its name
