"""A recipe says what to read from which recordings, and how to turn it into a corpus.

Everything that changes the bytes of a corpus is in here; `out`, `num_workers` and the like are not
part of a recipe's identity (`identity`).
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from ndt3_dist import storage
from ndt3_dist.config import Section, load_config
from ndt3_dist.shards.format import VERSION

Split = Literal["train", "val", "calibration", "test"]
RUNTIME_KEYS = {"source", "out", "num_workers", "ray_address", "allow_failures"}


class SpikesRecipe(Section):
    channels: Literal["auto", "electrode", "unit"] = "auto"
    """electrode = sum all units of an electrode (NDT3's rule); unit = each unit is a channel;
    auto = electrode where the file says which electrodes a unit has."""


class CovariatesRecipe(Section):
    path: str = ""
    """Path of a TimeSeries inside the file, such as processing/behavior/Velocity/cursor_vel;
    empty = no covariates."""
    stamped: Literal["start", "end"] = "start"
    """Whether a sample's timestamp is the start or the end of the time that it describes."""
    names: list[str] = []
    """Names of its dimensions; default x, y, z, ... as NDT3 has them."""
    quantile: float = Field(default=0.999, gt=0, le=1)
    """A dimension's scale is this quantile of its absolute value in train or calibration bins."""
    max_gap_ms: float = Field(default=100, gt=0)
    """Samples further apart than this leave a gap that is masked, not bridged."""


class SplitRule(Section):
    match: str = "*"
    """Glob on the session id; the first rule that matches a session decides."""
    unit: Literal["fraction", "s"] = "fraction"
    intervals: dict[Split, tuple[float, float | None]]
    """Label -> [from, to) in the unit above; null = the end of the session."""


class Recipe(Section):
    dataset: str
    """First part of every session id."""
    source: str = ""
    """A recording or a folder of recordings."""
    pattern: str = "**/*.nwb"
    """Which files of a source folder to take."""
    out: str = ""
    """Folder or s3:// URL of the corpus."""
    reader: Literal["nwb"] = "nwb"
    """Which of `prep/readers` reads the files."""
    licence: str = "unknown"
    bin_size_ms: float = Field(default=20, gt=0)
    window_ms: float = Field(default=2000, gt=0)
    """Length of a window (chop); NDT3's is 2 s."""
    spikes: SpikesRecipe = SpikesRecipe()
    covariates: CovariatesRecipe = CovariatesRecipe()
    splits: list[SplitRule] = [SplitRule(intervals={"train": (0, 1)})]
    shard_mb: float = Field(default=32, gt=0)
    num_workers: int = Field(default=0, ge=0)
    """Ray workers; 0 = one for each core."""
    ray_address: str = "local"
    """local = a Ray of our own on the loopback address; else the address of a running cluster."""
    allow_failures: bool = False
    """Exit with 0 although some recordings failed."""

    @model_validator(mode="after")
    def _whole_windows(self):
        if round(self.window_ms / self.bin_size_ms, 6) % 1 or self.window_bins < 1:
            raise ValueError(
                f"window_ms {self.window_ms:g} is not a multiple of bin_size_ms "
                f"{self.bin_size_ms:g}"
            )
        for rule in self.splits:
            for split, (start, stop) in rule.intervals.items():
                if not start >= 0 or (stop is not None and not stop > start):
                    raise ValueError(
                        f"split rule {rule.match!r}: {split} is [{start:g}, {stop}); "
                        "expected 0 <= from < to"
                    )
                if rule.unit == "fraction" and max(start, stop or 0) > 1:
                    raise ValueError(
                        f"split rule {rule.match!r}: {split} reaches beyond 1, the whole session; "
                        "for seconds say unit: s"
                    )
            spans = sorted(rule.intervals.values(), key=lambda span: span[0])
            for (_, stop), (start, _) in pairwise(spans):
                if stop is None or stop > start:
                    raise ValueError(f"split rule {rule.match!r}: intervals overlap")
        return self

    @property
    def window_bins(self) -> int:
        return round(self.window_ms / self.bin_size_ms)

    def identity(self) -> dict:
        """The part of the recipe that decides the corpus."""
        return {"version": VERSION, **self.model_dump(mode="json", exclude=RUNTIME_KEYS)}

    def sha256(self) -> str:
        return storage.sha256_bytes(storage.canonical_json(self.identity()))

    def rule_for(self, session: str) -> SplitRule | None:
        """The first split rule whose glob matches a session id."""
        return next((r for r in self.splits if fnmatchcase(session, r.match)), None)


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe with `key=value` overrides; BadInput names every problem."""
    return load_config(Recipe, path, overrides)
