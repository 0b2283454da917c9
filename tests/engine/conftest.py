"""What the tests of the engine share."""

import pytest
import torch


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """For networks this small, threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
