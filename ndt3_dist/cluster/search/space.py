"""What is searched: dotted keys of a config with what each may be, and how (space.yaml)."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from ndt3_dist.config import Section
from ndt3_dist.data.order import generator

SCALES = "uniform", "loguniform", "int"
FACTORS = 0.8, 1.25
"""What a number of a range becomes when it is perturbed; values of a list go one to the side."""


@dataclass(frozen=True)
class Domain:
    """What one key may be.

    Attributes:
        scale: choice, or how a range is drawn: uniform, loguniform, int.
        values: Those of a choice, in order.
        low, high: Ends of a range, both included.
    """

    scale: str
    values: tuple = ()
    low: float = 0.0
    high: float = 0.0

    @classmethod
    def of(cls, key: str, said: Any) -> "Domain":
        """As space.yaml has it. Raises ValueError."""
        if isinstance(said, list):
            said = {"choice": said}
        if not isinstance(said, Mapping) or len(said) != 1:
            raise ValueError(f"{key}: expected a list, or one of choice, grid, {', '.join(SCALES)}")
        ((scale, what),) = said.items()
        if not isinstance(what, list) or not what:
            raise ValueError(f"{key}: {scale} is {what!r}; expected a list")
        if scale in ("choice", "grid"):
            if any(what.count(value) > 1 for value in what):
                raise ValueError(f"{key}: {what} has a value twice")
            return cls("choice", tuple(what))
        if scale not in SCALES:
            raise ValueError(f"{key}: {scale!r}; expected choice, grid, {', '.join(SCALES)}")
        numbers = [v for v in what if isinstance(v, int | float) and not isinstance(v, bool)]
        if len(numbers) != 2 or len(what) != 2 or not numbers[0] < numbers[1]:
            raise ValueError(f"{key}: {scale} is {what}; expected [lowest, highest]")
        if scale == "int" and not all(isinstance(v, int) for v in numbers):
            raise ValueError(f"{key}: int is {what}; expected whole numbers")
        if scale == "loguniform" and numbers[0] <= 0:
            raise ValueError(f"{key}: loguniform is {what}; expected numbers above 0")
        return cls(scale, low=numbers[0], high=numbers[1])

    def samples(self) -> list:
        """Values to be checked before anything starts: all of a choice, the ends of a range."""
        return list(self.values) if self.values else [self.low, self.high]

    def draw(self, random: np.random.Generator) -> Any:
        if self.values:
            return self.values[int(random.integers(len(self.values)))]
        if self.scale == "int":
            return int(random.integers(int(self.low), int(self.high), endpoint=True))
        if self.scale == "loguniform":
            drawn = math.exp(random.uniform(math.log(self.low), math.log(self.high)))
            return float(min(max(drawn, self.low), self.high))
        return float(random.uniform(self.low, self.high))

    def perturbed(self, value: Any, random: np.random.Generator) -> Any:
        """A value beside another one, inside of the domain."""
        up = int(random.integers(2))
        if self.values:
            place = self.values.index(value) + 2 * up - 1
            return self.values[min(max(place, 0), len(self.values) - 1)]
        moved = min(max(value * FACTORS[up], self.low), self.high)
        return round(moved) if self.scale == "int" else float(moved)


class Space(Section):
    """A space.yaml."""

    method: Literal["grid", "random", "bayes", "asha", "pbt"] = "random"
    """grid = every combination of lists; random; bayes = a tree of Parzen estimators (Optuna); asha
    = random, and those that lag behind end early; pbt = a population whose worst go on from copies
    of the best with other settings."""
    space: dict[str, Any]
    """Key of the config, as `optim.lr` -> a list of values, or {uniform: [low, high]},
    {loguniform: [low, high]}, {int: [low, high]}."""
    trials: int = Field(default=0, ge=0)
    """Settings to try; of a pbt those of the population; 0 = all of a grid."""
    seeds: int = Field(default=1, ge=1)
    """Runs of each setting, which differ by run.seed alone; their mean decides."""
    metric: str = ""
    """Of the validation; empty = the config's own."""
    direction: Literal["", "max", "min"] = ""
    """Empty = that of the metric: min where it begins with val_loss."""
    draw: int = 0
    """Seed of what is drawn here."""
    first_steps: int = Field(default=0, ge=0)
    """Of an asha: steps before a setting may be ended; then `reduction` times that, and so on."""
    reduction: int = Field(default=3, ge=2)
    """Of an asha: one in so many goes on."""
    every_steps: int = Field(default=0, ge=0)
    """Of a pbt: steps between two looks at the population."""
    share: float = Field(default=0.25, gt=0, le=0.5)
    """Of a pbt: so many of the worst go on from so many of the best."""

    @field_validator("space")
    @classmethod
    def _domains(cls, value: dict[str, Any]) -> dict[str, Any]:
        if not value:
            raise ValueError("expected at least one key")
        for key, said in value.items():
            Domain.of(key, said)
        return value

    @model_validator(mode="after")
    def _fits(self) -> "Space":
        ranges = [key for key, domain in self.domains.items() if not domain.values]
        if self.method == "grid" and ranges:
            raise ValueError(f"method grid needs lists; {', '.join(ranges)} is a range")
        if self.method != "grid" and not self.trials:
            raise ValueError(f"method {self.method} needs trials: N (or --trials N)")
        if self.method == "asha" and not self.first_steps:
            raise ValueError("method asha needs first_steps: N, before a setting may be ended")
        if self.method == "pbt" and not self.every_steps:
            raise ValueError("method pbt needs every_steps: N, between two looks at the population")
        if self.method == "pbt" and self.trials < 2:
            raise ValueError(f"trials is {self.trials}; a population has at least two")
        return self

    @property
    def domains(self) -> dict[str, Domain]:
        """By key, in the order of the file."""
        return {key: Domain.of(key, said) for key, said in self.space.items()}

    @property
    def number(self) -> int:
        """Of settings to try."""
        if self.method != "grid":
            return self.trials
        combinations = math.prod(len(d.values) for d in self.domains.values())
        return min(self.trials or combinations, combinations)

    def setting(self, number: int) -> dict[str, Any]:
        """One of a grid, or as it is drawn at random: a function of its number alone."""
        domains = self.domains
        if self.method == "grid":
            combinations = itertools.product(*(d.values for d in domains.values()))
            chosen = next(itertools.islice(combinations, number, None))
            return dict(zip(domains, chosen, strict=True))
        return {k: d.draw(generator("search", self.draw, number, k)) for k, d in domains.items()}
