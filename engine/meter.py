"""What a training reports of its latest steps."""

from collections import defaultdict
from collections.abc import Mapping

from engine.step import TrainingScores


class Meter:
    """Means over the steps since it was made: losses, and where the time went."""

    def __init__(self, scores: TrainingScores) -> None:
        self.scores, self.steps = scores, 0
        self.losses: dict[str, float] = defaultdict(float)
        self.data_seconds = self.compute_seconds = 0.0

    def add(self, losses: Mapping[str, float], *, data: float, compute: float) -> None:
        self.steps += 1
        for name, value in losses.items():
            self.losses[name] += value
        self.data_seconds += data
        self.compute_seconds += compute

    def compute(self) -> dict[str, float | None]:
        return {
            **{name: total / self.steps for name, total in self.losses.items()},
            "mAP": self.scores.compute(),
            "steps": self.steps,
            "data_seconds": round(self.data_seconds, 3),
            "compute_seconds": round(self.compute_seconds, 3),
        }
