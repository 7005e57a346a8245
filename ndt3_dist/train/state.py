"""What a run knows of itself from step to step, as data: all of it goes into each checkpoint."""

import math
from collections import deque
from dataclasses import asdict, dataclass, field

from ndt3_dist.data.order import Cursor

LOSSES = 100
"""That a new one is compared to (`train.health`)."""


@dataclass
class Best:
    """The best validated step so far.

    Attributes:
        metric: By which.
        step, value: Its own; step 0 is none.
        waited: Validations since.
    """

    metric: str
    step: int = 0
    value: float = math.nan
    waited: int = 0

    @classmethod
    def of(cls, metric: str, kept: dict | None) -> "Best":
        """As a checkpoint has it; anew where it was kept by another metric."""
        if not kept or kept["metric"] != metric:
            return cls(metric)
        return cls(**{**kept, "value": math.nan if kept["value"] is None else kept["value"]})

    def take(self, step: int, value: float) -> bool:
        """Whether a step is the best so far; remembers it."""
        sign = -1 if self.metric.startswith("val_loss") else 1
        if math.isfinite(value) and (not self.step or sign * value > sign * self.value):
            self.step, self.value, self.waited = step, value, 0
            return True
        self.waited += 1
        return False

    def state(self) -> dict | None:
        """What a checkpoint keeps."""
        if not self.step and not self.waited:
            return None
        return {**asdict(self), "value": self.value if self.step else None}


@dataclass
class RunState:
    """Where a run stands, the same on all ranks.

    Attributes:
        best: The best validated step.
        step: Optimiser steps that it has behind it.
        cursor: Of the next row.
        skipped: Steps in a row that moved no weight.
        rolled_back: How often it went back to the weights of an earlier checkpoint.
        losses: The last ones, oldest first.
        settings: The first start, and those that changed any: its step and what it changed.
    """

    best: Best
    step: int = 0
    cursor: Cursor = field(default_factory=Cursor)
    skipped: int = 0
    rolled_back: int = 0
    losses: deque[float] = field(default_factory=lambda: deque(maxlen=LOSSES))
    settings: list[dict] = field(default_factory=lambda: [{"from_step": 0, "changed": {}}])

    @classmethod
    def of(cls, metric: str, meta: dict, cursor: Cursor) -> "RunState":
        """As a checkpoint.json has it."""
        losses = deque(meta.get("losses", ()), LOSSES)
        best, counts = Best.of(metric, meta["best"]), (meta["skipped"], meta["rolled_back"])
        found = cls(best, meta["step"], cursor, *counts, losses)
        found.settings = meta.get("settings", found.settings)
        return found

    def state(self) -> dict:
        """What checkpoint.json keeps besides the step; the cursor goes into stream.json."""
        return {
            "best": self.best.state(),
            "rolled_back": self.rolled_back,
            "skipped": self.skipped,
            "losses": list(self.losses),
            "settings": self.settings,
        }
