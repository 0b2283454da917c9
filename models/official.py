"""Reading and writing published checkpoints, and reading X3D checkpoints of PyTorchVideo and SlowFast.

The published files are `{"model_state_dict": {...}, ...}` with names like `layer1.0.conv1.weight`. Two details need
care: each norm has the statistics `split_bn.running_*` and a stale aggregate of them, `bn.running_*`; and the
Kinetics-400 file has no Grid Pool, no fusion and a different classifier. Files of PyTorchVideo and SlowFast are
`{"model_state": {...}, ...}`; see `models.x3d_names` for their names.
"""

import os
import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from common.errors import InputError
from common.files import written_whole
from common.text import first_few
from models.norm import SubBatchNorm3d
from models.x3d_names import naming_of, shortcut_norm

KINETICS_CLASSES = 400
CLASSIFIER = ("fc2.weight", "fc2.bias")
STALE = re.compile(r"\.bn\.running_(mean|var)$")
OPTIONAL_PARTS = {"pool_1", "rw2", "rw3", "rw4", "rw5", "rw6", "mix2", "mix3", "mix4", "mix5"}

# Our name -> official name, applied in this order: first the beginning of a name, then the rest.
_NAMES = (
    (r"^backbone\.stem\.spatial", "conv1_s"),
    (r"^backbone\.stem\.temporal\.conv", "conv1_t"),
    (r"^backbone\.stem\.temporal\.norm", "bn1"),
    (r"^backbone\.stages\.(\d+)", lambda m: f"layer{int(m[1]) + 1}"),
    (r"^backbone\.conv5\.conv", "conv5"),
    (r"^backbone\.conv5\.norm", "bn5"),
    (r"^head\.hidden", "fc1"),
    (r"^head\.classify", "fc2"),
    (r"^grid_pool", "pool_1"),
    (r"^fusion\.levels\.layer(\d+)", lambda m: f"rw{int(m[1]) + 1}"),
    (r"^logit_fusion", "rw6"),
    (r"^fusion\.stages\.(\d+)", lambda m: f"mix{int(m[1]) + 2}"),
    (r"\.expand\.conv\.", ".conv1."),
    (r"\.expand\.norm\.", ".bn1."),
    (r"\.depthwise\.conv\.", ".conv2."),
    (r"\.depthwise\.norm\.", ".bn2."),
    (r"\.project\.conv\.", ".conv3."),
    (r"\.project\.norm\.", ".bn3."),
    (r"\.squeeze_excite\.reduce\.", ".fc1."),
    (r"\.squeeze_excite\.expand\.", ".fc2."),
    (r"\.shortcut\.conv\.", ".downsample.0."),
    (r"\.shortcut\.norm\.", ".downsample.1."),
    (r"^(pool_1)\.norm(\d)\.", r"\1.bn\2."),
    (r"^(rw\d)\.attention\.0\.", r"\1.at1."),
    (r"^(rw\d)\.attention\.3\.", r"\1.at2."),
    (r"^(rw\d)\.shift\.0\.", r"\1.fc1."),
    (r"^(rw\d)\.shift\.3\.", r"\1.fc2."),
    (r"^(rw\d)\.scale\.0\.", r"\1.fc3."),
    (r"^(rw\d)\.scale\.3\.", r"\1.fc4."),
    (r"^(mix\d)\.shift\.", r"\1.conv_at."),
    (r"^(mix\d)\.scale\.", r"\1.conv_at2."),
    (r"\.running_(mean|var)$", r".split_bn.running_\1"),
)


class CheckpointError(InputError):
    """A checkpoint cannot be read or does not match the network. The message contains the file and the cause."""


@dataclass
class LoadReport:
    """Result of `load_official`: the tensors `loaded` and those newly initialised (`fresh`), by our names, and the
    unused tensors of the file (`left`), by its names. `neutral` are the tensors, by our names, of a norm that is absent
    from the file and is initialised to the identity (in evaluation)."""

    loaded: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    neutral: list[str] = field(default_factory=list)


def official_name(name: str) -> str:
    """The published name of a parameter or buffer."""
    for pattern, replacement in _NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def holds_coarse(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the tensors of a published file, or of one in the same format, belong to a Coarse stream."""
    return any(key.split(".")[0] in OPTIONAL_PARTS for key in tensors)


def read_checkpoint(path: str | os.PathLike) -> dict:
    """Read a checkpoint to the CPU. Only tensors and plain values are accepted, never code."""
    if not Path(path).is_file():
        raise CheckpointError(f"{path}: no such checkpoint file")
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch may raise any kind of error for a damaged file
        cause = "not a readable checkpoint (truncated?)"
        if isinstance(error, pickle.UnpicklingError):
            cause = "not loaded: it contains more than tensors and plain values, or is not a checkpoint"
        said = str(error).strip().split("\n")[0].split(". ")[0] or type(error).__name__
        raise CheckpointError(f"{path}: {cause}: {said}") from error
    if not isinstance(contents, dict):
        raise CheckpointError(f"{path}: not a checkpoint: expected a dictionary, found a {type(contents).__name__}")
    return contents


def load_official(net: nn.Module, path: str | os.PathLike) -> LoadReport:
    """Load a published checkpoint (or one in the same format), or an X3D checkpoint of PyTorchVideo or SlowFast.

    The kind of file is detected by its tensor names. `module.` prefixes are removed. A Kinetics file, detected by its
    400 classes, initialises everything except the classifier, the fusion and Grid Pool. Running statistics with a
    different number of groups are aggregated into one, which is repeated.

    Raises:
        CheckpointError: naming the first missing, unknown or differently shaped tensors. The network is unchanged.
    """
    return load_published(net, tensors_of(read_checkpoint(path), path), path=path)


def load_published(net: nn.Module, source: Mapping[str, Tensor], *, path: str | os.PathLike) -> LoadReport:
    """`load_official` for the result of `tensors_of`; `path` is used in messages."""
    source = dict(source)
    if naming := naming_of(source):
        supplied = shortcut_norm(source)
        source |= supplied
    else:
        naming, supplied = str, {}
        source = {key: tensor for key, tensor in source.items() if not STALE.search(key)}

    def file_name(name: str) -> str:
        return naming(official_name(name))

    parts = {official_name(name).split(".")[0] for name in net.state_dict()}
    classes = source.get(naming("fc2.bias"))
    is_kinetics = (  # and the network has other classes or further parts
        classes is not None
        and classes.shape == (KINETICS_CLASSES,)
        and naming("fc2.weight") in source
        and (
            net.state_dict()["head.classify.bias"].shape != classes.shape
            or (not parts.isdisjoint({*OPTIONAL_PARTS, "fusion"}) and not holds_coarse(source))
        )
    )
    classifier = [naming(name) for name in CLASSIFIER if is_kinetics]
    for key in classifier:
        del source[key]
    report = load_matching(
        net,
        source,
        path=path,
        source_name=file_name,
        may_be_fresh=lambda name: is_kinetics and ("fusion" in name or name.startswith(("head.classify", "grid_pool"))),
        may_be_left=lambda key: key.split(".")[0] in OPTIONAL_PARTS - parts,
    )
    report.left += classifier
    report.neutral = [name for name in report.loaded if file_name(name) in supplied]
    report.loaded = [name for name in report.loaded if name not in report.neutral]
    return report


def load_matching(
    net: nn.Module,
    source: Mapping[str, Tensor],
    *,
    path: str | os.PathLike,
    source_name: Callable[[str], str] = str,
    may_be_fresh: Callable[[str], bool] = lambda name: False,
    may_be_left: Callable[[str], bool] = lambda key: False,
) -> LoadReport:
    """Load tensors by name, all or nothing.

    Args:
        source: tensors by the names in the file; `path` is the file, used in messages.
        source_name: our name -> name in the file.
        may_be_fresh: whether a parameter or buffer of the network may be missing from the file.
        may_be_left: whether a tensor of the file may remain unused.

    Raises:
        CheckpointError: with the tensors that do not match; the network is then unchanged.
    """
    target, left = net.state_dict(), dict(source)
    new: dict[str, Tensor] = {}
    fresh, missing, shapes = [], [], []
    for name, ours in target.items():
        key = source_name(name)
        if key in left:
            tensor = left.pop(key)
            if tensor.dim() == ours.dim() + 1 == 3 and tensor.shape[2] == 1:
                tensor = tensor.squeeze(2)  # a Conv1d with kernel 1 there, a Linear here
            wanted = ours.shape
            if name.endswith("running_mean"):  # any number of groups
                channels = len(target[name.replace("running_mean", "weight")])
                wanted = torch.Size([max(1, tensor.numel() // channels) * channels])
            elif name.endswith("running_var"):  # the same number of groups
                wanted = new.get(name.replace("running_var", "running_mean"), ours).shape
            if tensor.shape != wanted:
                shapes.append(f"{key} {tuple(tensor.shape)}, expected {tuple(wanted)}")
            new[name] = tensor.to(ours.dtype)
        elif may_be_fresh(name):
            fresh.append(name)
        else:
            missing.append(key)
    unknown = [key for key in left if not may_be_left(key)]
    problems = {"missing": missing, "not in the network": unknown, "different variant or classes? shape of": shapes}
    if said := [f"{what} {first_few(names)}" for what, names in problems.items() if names]:
        raise CheckpointError(f"{path}: does not match the network: {'; '.join(said)}")
    net.load_state_dict(new, strict=False)
    return LoadReport(loaded=list(new), fresh=fresh, left=list(left))


def save_official(net: nn.Module, path: str | os.PathLike) -> None:
    """Write the weights of a FineNet or CoarseNet in the published format, atomically."""
    norms = {name: module for name, module in net.named_modules() if isinstance(module, SubBatchNorm3d)}
    if not norms:
        raise ValueError("a network from prepare_for_inference has no norms to save; save the original network")
    if any(official_name(name).startswith("fusion") for name in net.state_dict()):
        raise ValueError("lateral connections have no published format; save this network as one of our checkpoints")
    state: dict[str, Tensor] = {}
    for name, tensor in net.state_dict().items():
        official = official_name(name)
        is_fusion_weight = official.startswith(("rw", "mix")) and tensor.dim() == 2
        state[official] = (tensor.unsqueeze(-1) if is_fusion_weight else tensor).detach().cpu().clone()
    for name, norm in norms.items():
        prefix = official_name(f"{name}.weight").removesuffix(".weight")
        mean, var = norm.statistics()
        state[f"{prefix}.bn.running_mean"] = mean.detach().cpu().clone()
        state[f"{prefix}.bn.running_var"] = var.detach().cpu().clone()
        for part in ("bn", "split_bn"):
            state[f"{prefix}.{part}.num_batches_tracked"] = torch.zeros((), dtype=torch.int64)
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: no such folder")
    with written_whole(path) as partial, partial.open("wb") as file:
        torch.save({"model_state_dict": state, "optimizer_state_dict": {}, "scheduler_state_dict": {}}, file)


def tensors_of(contents: Mapping, path: str | os.PathLike) -> dict[str, Tensor]:
    """The tensors of a checkpoint by their names in the file, without batch counters."""
    state = contents.get("model_state_dict", contents.get("model_state", contents))
    if not isinstance(state, Mapping) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()
    ):
        raise CheckpointError(
            f"{path}: contains neither `model_state_dict` nor `model_state` nor a plain dictionary of tensors"
        )
    return {k.removeprefix("module."): v for k, v in state.items() if not k.endswith(".num_batches_tracked")}
