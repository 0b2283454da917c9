"""Names of X3D's tensors in checkpoints of PyTorchVideo and SlowFast (Feichtenhofer, "X3D", CVPR 2020; Kinetics-400).

Sources: github.com/facebookresearch/pytorchvideo 0.1.5, `models/x3d.py`, and github.com/facebookresearch/SlowFast,
`models/{stem,resnet,head}_helper.py`. Both have the same tensors as the network of the published files, with one
exception and two pitfalls:

- PyTorchVideo has no norm in the shortcut of stage 1, which changes the size but not the width. `shortcut_norm`
  supplies one that is the identity in evaluation.
- In PyTorchVideo's stem, the convolution over space is named conv_t, and the one over time conv_xy.
- SlowFast counts the stem as stage 1, so layer1 is s2.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import torch
from torch import Tensor

# published: (PyTorchVideo, SlowFast). N is the stage from 1, M = N + 1, and B is the block from 0.
NAMES = {
    "conv1_s": ("blocks.0.conv.conv_t", "s1.pathway0_stem.conv_xy"),
    "conv1_t": ("blocks.0.conv.conv_xy", "s1.pathway0_stem.conv"),
    "bn1": ("blocks.0.norm", "s1.pathway0_stem.bn"),
    "layerN.B.conv1": ("blocks.N.res_blocks.B.branch2.conv_a", "sM.pathway0_resB.branch2.a"),
    "layerN.B.bn1": ("blocks.N.res_blocks.B.branch2.norm_a", "sM.pathway0_resB.branch2.a_bn"),
    "layerN.B.conv2": ("blocks.N.res_blocks.B.branch2.conv_b", "sM.pathway0_resB.branch2.b"),
    "layerN.B.bn2": ("blocks.N.res_blocks.B.branch2.norm_b.0", "sM.pathway0_resB.branch2.b_bn"),
    "layerN.B.fc1": ("blocks.N.res_blocks.B.branch2.norm_b.1.block.0", "sM.pathway0_resB.branch2.se.fc1"),
    "layerN.B.fc2": ("blocks.N.res_blocks.B.branch2.norm_b.1.block.2", "sM.pathway0_resB.branch2.se.fc2"),
    "layerN.B.conv3": ("blocks.N.res_blocks.B.branch2.conv_c", "sM.pathway0_resB.branch2.c"),
    "layerN.B.bn3": ("blocks.N.res_blocks.B.branch2.norm_c", "sM.pathway0_resB.branch2.c_bn"),
    "layerN.B.downsample.0": ("blocks.N.res_blocks.B.branch1_conv", "sM.pathway0_resB.branch1"),
    "layerN.B.downsample.1": ("blocks.N.res_blocks.B.branch1_norm", "sM.pathway0_resB.branch1_bn"),
    "conv5": ("blocks.5.pool.pre_conv", "head.conv_5"),
    "bn5": ("blocks.5.pool.pre_norm", "head.conv_5_bn"),
    "fc1": ("blocks.5.pool.post_conv", "head.lin_5"),
    "fc2": ("blocks.5.proj", "head.projection"),
}
_SIGNS = (r"blocks\.\d+\.", r"s\d+\.pathway\d")  # prefixes used only by PyTorchVideo and only by SlowFast
_NORM_EPS = 1e-5


def naming_of(keys: Iterable[str]) -> Callable[[str], str] | None:
    """A function from published names to those in a file with these keys; None if the file is of neither kind."""
    for key in keys:
        for column, sign in enumerate(_SIGNS):
            if re.match(sign, key):
                return partial(_translate, column=column)
    return None


def _translate(name: str, column: int) -> str:
    """`layer2.5.bn1.split_bn.running_mean` -> `s3.pathway0_res5.branch2.a_bn.running_mean` and so on.

    Names of parts that X3D does not have (fusion, Grid Pool) are unchanged.
    """
    module, _, tensor = name.replace(".split_bn.", ".").rpartition(".")
    if block := re.match(r"layer(\d+)\.(\d+)\.", module):
        stage, number = int(block[1]), block[2]
        module = f"layerN.B.{module.removeprefix(block[0])}"
    if module not in NAMES:
        return name
    theirs = NAMES[module][column]
    if block:
        theirs = theirs.replace("N", str(stage)).replace("M", str(stage + 1)).replace("B", number)
    return f"{theirs}.{tensor}"


def shortcut_norm(source: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The shortcut norm of stage 1, which PyTorchVideo lacks, under PyTorchVideo's names; {} if it is not needed.

    In evaluation, it is the identity. In training, it normalises the batch like any other norm.
    """
    convolution = source.get("blocks.1.res_blocks.0.branch1_conv.weight")
    norm = "blocks.1.res_blocks.0.branch1_norm."
    if convolution is None or any(key.startswith(norm) for key in source):
        return {}
    values = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1 - _NORM_EPS}
    return {f"{norm}{name}": torch.full(convolution.shape[:1], value) for name, value in values.items()}
