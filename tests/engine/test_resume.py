"""Runs that continue: bit for bit what an uninterrupted one is, or refused."""

import shutil
import signal

import pytest
import torch
from torch import nn

from common.errors import InputError
from engine.checkpoint import read_checkpoint
from models import CheckpointError
from tests.engine.toy import Killed, ToyLoader, checkpoint, contents, lines, make_trainer, same


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    make_trainer(folder, scores=[0.5, 0.7]).run()
    return folder


def resumed(folder, **options):
    trainer = make_trainer(folder, **options)
    torch.manual_seed(12345)  # the state of a fresh process
    trainer.resume()
    trainer.run()
    return trainer


@pytest.mark.parametrize("killed_at", [(0, 1), (1, 0), (2, 1), (3, 3)])
def test_killed_and_resumed_equals_uninterrupted(tmp_path, uninterrupted, killed_at):
    """Weights, momentum, rate, best score and log, bit for bit, with dropout; from any half epoch."""
    with pytest.raises(Killed):
        make_trainer(tmp_path, scores=[0.5, 0.7], loader=ToyLoader(fail_at=killed_at)).run()
    resumed(tmp_path, scores=[0.7] if killed_at[0] >= 2 else [0.5, 0.7])
    for name in ("last.pt", "best.pt"):
        ours, theirs = (contents(folder, name) for folder in (tmp_path, uninterrupted))
        assert same(ours, theirs), name
    assert lines(tmp_path, timed=False) == lines(uninterrupted, timed=False)


def test_killed_while_validating(tmp_path, uninterrupted):
    trainer = make_trainer(tmp_path)

    def evaluation(net):
        raise Killed

    trainer.evaluation = evaluation
    with pytest.raises(Killed):
        trainer.run()
    resumed(tmp_path, scores=[0.5, 0.7])
    assert same(*(contents(folder) for folder in (tmp_path, uninterrupted)))
    assert lines(tmp_path, timed=False) == lines(uninterrupted, timed=False)


def test_a_worker_dies_while_saving(tmp_path, uninterrupted, monkeypatch):
    """PyTorch's handler of SIGCHLD raises there and then: the checkpoint is finished first, and the run continues."""

    def complain(number, frame):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")

    def save(contents, file, saves=[]):  # noqa: B006 - the calls so far
        saves.append(None)
        if len(saves) == 3:
            signal.raise_signal(signal.SIGCHLD)
        original(contents, file)

    original, before = torch.save, signal.signal(signal.SIGCHLD, complain)
    try:
        monkeypatch.setattr(torch, "save", save)
        with pytest.raises(RuntimeError, match="DataLoader worker"):
            make_trainer(tmp_path, scores=[0.5, 0.7]).run()
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert read_checkpoint(checkpoint(tmp_path))["position"]["step"] > 0
    resumed(tmp_path, scores=[0.5, 0.7])
    assert same(*(contents(folder) for folder in (tmp_path, uninterrupted)))


@pytest.mark.parametrize("steps", [1, 4, 7])
def test_a_raised_limit_continues_the_same_training(tmp_path, uninterrupted, steps):
    """Stopping validates at once, but moves neither weights nor schedule."""
    make_trainer(tmp_path, scores=[0.1], max_steps=steps).run()
    trainer = resumed(tmp_path, scores=[0.5, 0.7])
    theirs = read_checkpoint(checkpoint(uninterrupted))
    ours = read_checkpoint(trainer.last)
    for part in ("model", "optimizer", "scheduler", "rng"):
        assert same(ours[part], theirs[part]), part


def test_dropout_is_on(tmp_path, uninterrupted):
    """Without the saved random state, the weights would differ: the tests above can fail."""
    make_trainer(tmp_path, max_steps=2).run()
    trainer = make_trainer(tmp_path)
    trainer.resume()
    torch.manual_seed(12345)
    trainer.run()
    theirs = read_checkpoint(checkpoint(uninterrupted))
    assert not same(read_checkpoint(trainer.last)["model"], theirs["model"])


def test_starting_again_forgets_the_old_run(tmp_path, uninterrupted):
    """`--run.resume never`: were the new run killed at once, `auto` would continue it and not the old one."""
    shutil.copytree(uninterrupted, tmp_path, dirs_exist_ok=True)
    with pytest.raises(Killed):
        make_trainer(tmp_path, loader=ToyLoader(fail_at=(0, 0))).run()
    assert lines(tmp_path) == []
    assert read_checkpoint(checkpoint(tmp_path))["position"]["step"] == 0
    resumed(tmp_path, scores=[0.5, 0.7])
    assert lines(tmp_path, timed=False) == lines(uninterrupted, timed=False)


def test_a_finished_run_is_finished(uninterrupted):
    trainer = make_trainer(uninterrupted)
    trainer.resume()
    assert trainer.finished
    longer = make_trainer(uninterrupted, epochs=6)
    longer.resume()
    assert not longer.finished


# --- options that have changed ----------------------------------------------------------------------------------------


def test_another_stage_or_network_is_not_continued(tmp_path):
    make_trainer(tmp_path, max_steps=1).run()
    shutil.copytree(tmp_path / "fine", tmp_path / "coarse")
    with pytest.raises(CheckpointError, match="stage fine, but stage coarse"):
        make_trainer(tmp_path, stage="coarse").resume()
    other = make_trainer(tmp_path)
    other.net.layers[0] = nn.Conv1d(3, 8, 1)
    with pytest.raises(CheckpointError, match=r"last\.pt: belongs to a differently configured network"):
        other.resume()


def test_changed_settings_are_said_and_hold(tmp_path, capsys):
    make_trainer(tmp_path, max_steps=9).run()
    assert make_trainer(tmp_path).step.optimizer.param_groups[0]["lr"] == 0.1
    capsys.readouterr()
    trainer = make_trainer(tmp_path, max_steps=9, lr=0.2, momentum=0.5)
    trainer.resume()
    said = ["fine.lr was 0.1, from here on it is 0.2", "fine.momentum was 0.9, from here on it is 0.5"]
    assert capsys.readouterr().out.splitlines() == said
    (group,) = trainer.step.optimizer.param_groups
    assert (group["lr"], group["momentum"]) == (0.2 * 0.1, 0.5), "one round is done, after which the rate falls"
    assert len(trainer.step.optimizer.state) == 6, "momentum buffers"


def test_larger_batches_from_within_an_epoch(tmp_path):
    """Beyond the last of the larger batches, the next epoch begins."""
    make_trainer(tmp_path, max_steps=3).run()
    trainer = make_trainer(tmp_path, loader=ToyLoader(batch_size=4))
    trainer.resume()
    trainer.run()
    assert trainer.position.epoch == 4


def test_another_network_is_not_continued(tmp_path):
    make_trainer(tmp_path, max_steps=1, variant="M").run()
    with pytest.raises(InputError, match=r"started with model\.variant M, not S"):
        make_trainer(tmp_path, variant="S").resume()
