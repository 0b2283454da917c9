"""What the checkpoint tests share: networks to save, and comparisons of all that a network holds."""

import pytest
import torch

from models import CheckpointError, load_official
from tests.models.drawing import coarse_net, fine_net

NETS = {
    "fine": (fine_net, {}),
    "coarse": (coarse_net, {}),
    "per_stage": (coarse_net, {"fusion": "per_stage"}),
    "no_fusion": (coarse_net, {"fusion": "none"}),
    "fine_fine": (coarse_net, {"pool": "none"}),
}


def copied_state(net):
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def same_state(net, state):
    now = net.state_dict()
    return now.keys() == state.keys() and all(torch.equal(tensor, state[name]) for name, tensor in now.items())


def read_state(path):
    return torch.load(path, weights_only=True)["model_state_dict"]


def refused(net, path, *words):
    """Loading raises one line naming the file and `words`, and leaves the network as it was."""
    before = copied_state(net)
    with pytest.raises(CheckpointError) as caught:
        load_official(net, path)
    assert "\n" not in str(caught.value)
    for word in (str(path), *words):
        assert word in str(caught.value)
    assert same_state(net, before)
