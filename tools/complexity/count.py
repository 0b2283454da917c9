"""Count the parameters and multiply-adds of a network by module, as computed here and in the published code.

PyTorch's counter runs on one evaluated video of fake tensors (FakeTensorMode), so nothing is computed. It counts
convolutions, linear layers and matrix products. Two of its flops are one multiply-add.

The published code computes Multi-stage Fusion at the stages' own sizes: level l, and the mixing of levels for stage l,
at the size of stage l (56, 28, 14 and 7 px for an input of 224). Here both are computed on the 7x7 grid, with equal
results. Sums over time are matrix products here, but element-wise and therefore not counted in the published code.
"""

import math
import re
from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from configs.schema import Config
from datasets.assembly import input_size
from engine.networks import build_coarse, build_fine
from models.fusion import GRID, FeatureFusion
from models.x3d import VARIANTS

LABELS = {"grid_pool": "Grid Pool", "logit_fusion": "fusion of logits"}  # other modules keep their names
ALIGNMENT = "sums over time"  # the matrix products outside of layers


@dataclass(frozen=True)
class Count:
    """Counts of one network on one video: by module, and the total multiply-adds of the published code."""

    parameters: dict[str, int]
    multiply_adds: dict[str, int]
    as_published: int

    @property
    def total(self) -> int:
        """Total multiply-adds as computed here."""
        return sum(self.multiply_adds.values())


def count_fine(config: Config, frames: int) -> Count:
    """Count the Fine stream on T' = `frames` clip frames."""
    size = input_size(config)
    with FakeTensorMode():
        return count(build_fine(config), (torch.empty(1, 3, frames, size, size),), size)


def count_coarse(config: Config, frames: int, fine_frames: int) -> Count:
    """Count the Coarse stream on T = `frames` clip frames and the features of T' = `fine_frames`."""
    size, channels = input_size(config), VARIANTS[config.model.variant].feature_channels
    with FakeTensorMode():
        features = {level: torch.empty(1, C, fine_frames, GRID, GRID) for level, C in channels.items()}
        clip = torch.empty(1, 3, frames, size, size)
        return count(build_coarse(config), (clip, features, torch.ones(1, fine_frames), torch.zeros(1)), size)


def count(net: nn.Module, inputs: tuple[Tensor | dict[str, Tensor], ...], size: int) -> Count:
    """Count any network on inputs of `size` pixels, both built in FakeTensorMode."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net.eval()(*inputs)
    flops = counter.get_flop_counts()
    parameters, multiply_adds = Counter[str](), Counter[str]()
    published = 0.0
    for name, module in net.named_modules():
        part = part_of(name)
        parameters[part] += sum(p.numel() for p in module.parameters(recurse=False))
        if not list(module.children()):
            own = sum(flops.get(f"{type(net).__name__}.{name}", {}).values()) // 2
            multiply_adds[part] += own
            published += own * published_factor(name, size)
    products = counter.get_total_flops() // 2 - multiply_adds.total()
    if not isinstance(getattr(net, "fusion", None), FeatureFusion):
        published += products
    multiply_adds[ALIGNMENT] = products
    used = [part for part in multiply_adds if multiply_adds[part] or parameters[part]]
    return Count(
        {part: parameters[part] for part in used}, {part: multiply_adds[part] for part in used}, round(published)
    )


def part_of(name: str) -> str:
    """The table row of the module with this name."""
    top, _, below = name.removeprefix("backbone.").partition(".")
    return f"stage {int(below.split('.')[0]) + 1}" if top == "stages" and below else LABELS.get(top, top)


def published_factor(name: str, size: int) -> float:
    """Multiply-adds of this layer in the published code, relative to ours."""
    level = re.match(r"fusion\.levels\.layer(\d)\.", name)
    stage = re.match(r"fusion\.stages\.(\d)\.", name)
    if level:
        return (sides(size)[int(level[1]) - 1] / GRID) ** 2
    if stage and sides(size)[int(stage[1])] % GRID == 0:  # otherwise computed at the stage's size here too
        return (sides(size)[int(stage[1])] / GRID) ** 2
    return 1


def sides(size: int) -> list[int]:
    """Height (and width) of each stage's output: the stem and each stage halve it, rounding up."""
    return [math.ceil(size / 2 ** (stage + 2)) for stage in range(4)]
