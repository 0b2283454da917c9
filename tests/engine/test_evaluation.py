"""Losses and probabilities of an evaluation."""

from functools import partial

import pytest

from engine.evaluation import evaluate
from models.losses import detection_loss
from tests.engine.toy import CPU, ToyLoader, build_net


def test_evaluation_weighs_videos_equally():
    """Losses are means over videos, whatever the batches; probabilities reach the evaluator in order."""

    class Collector:
        def __init__(self):
            self.videos = []

        def add(self, batch, probabilities):
            assert ((probabilities > 0) & (probabilities < 1)).all()
            assert not probabilities.requires_grad
            self.videos += batch["videos"]

        def gather(self):
            pass

        def finish(self):
            return {"mAP": 0.5}

    net = build_net().eval()
    results = []
    for batches in ([[0, 1, 2], [3]], [[0], [1], [2], [3]]):
        collector = Collector()
        metrics = evaluate(
            net,
            forward=lambda model, batch: model(batch["clip"]),
            criterion=partial(detection_loss, align_corners=True),
            loader=[ToyLoader.collate([(0, i) for i in batch]) for batch in batches],
            prepare=lambda batch, device: batch,
            evaluator=collector,
            device=CPU,
        )
        assert collector.videos == ["video0", "video1", "video2", "video3"]
        results.append(metrics)
    assert results[0] == pytest.approx(results[1], rel=1e-6)
    assert results[0].keys() == {"mAP", "loss", "cls_loss", "loc_loss"}
