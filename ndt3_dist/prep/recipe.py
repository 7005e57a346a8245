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
from ndt3_dist.prep.readers.mat_recipe import MatRecipe
from ndt3_dist.shards.format import REMOVED, VERSION

Split = Literal["train", "val", "calibration", "test"]
RUNTIME_KEYS = {"source", "out", "num_workers", "ray_address", "allow_failures", "rebuild"}


class SpikesRecipe(Section):
    kind: Literal["units", "events", "counts"] = "units"
    """units = spike times of the units table; events = series at `path` whose values are channel
    ids, or that lie on one electrode each; counts = a series at `path` that is binned already,
    (bins, channels)."""
    path: str | list[str] = ""
    """Series of events or counts, such as acquisition/binned_spikes; NAME/* = all of NAME."""
    channels: Literal["auto", "electrode", "unit"] = "auto"
    """electrode = sum all units of an electrode (NDT3's rule); unit = each unit is a channel;
    auto = electrode where the file says which electrodes a unit has."""
    num_channels: int = Field(default=0, ge=0)
    """Channels of events in a file without an electrodes table: a silent one keeps its place."""
    first_channel: int = 0
    """Id of the first of them."""
    stamped: Literal["start", "end"] = "start"
    """Whether the timestamp of a count is the start or the end of its bin."""

    @model_validator(mode="after")
    def _path_where_needed(self):
        if bool(self.path) == (self.kind == "units"):
            wanted = "no path" if self.kind == "units" else "the path of a series"
            raise ValueError(f"spikes.kind {self.kind} takes {wanted}, got {self.path!r}")
        return self


class CovariatesRecipe(Section):
    path: str | list[str] = ""
    """Path of a TimeSeries inside the file, such as processing/behavior/Velocity/cursor_vel, or
    several with the same times, side by side; NAME/* = all series of NAME; empty = none."""
    columns: list[int] = []
    """Which of their dimensions to take, from 0; empty = all."""
    stamped: Literal["start", "end"] = "start"
    """Whether a sample's timestamp is the start or the end of the time that it describes."""
    clock: str = ""
    """Path of the series whose times the samples have, where their own are wrong."""
    rate_is_period: bool = False
    """The file's `rate` is the sample period in s, and not the rate in Hz."""
    offset_is_start: bool = False
    """The file's `offset` is the time of the first sample in s, and not added to the values."""
    drop: list[Literal["repeated_times", "held_values"]] = []
    """repeated_times = samples that are no later than one before them; held_values = repeats of a
    value by a clock that is faster than the sensor."""
    derivative: bool = False
    """Differentiate by time (a velocity from a position), never across a gap."""
    names: list[str] = []
    """Names of its dimensions; default x, y, z, ... as NDT3 has them."""
    quantile: float = Field(default=0.999, gt=0, le=1)
    """A dimension's scale is this quantile of its absolute value in train or calibration bins."""
    max_gap_ms: float = Field(default=100, gt=0)
    """Samples further apart than this leave a gap that is masked, not bridged."""


class ValidityRecipe(Section):
    """When a recording is valid; where both are given, both must hold."""

    table: str = ""
    """Table of intervals: trials, epochs, or another one's name; empty = always."""
    column: str = ""
    """Column of the table that decides; empty = every row counts."""
    values: list[str] = []
    """Values of that column in a valid row, as text; a truth value or number is 0, 1, 2.5, ..."""
    start: str = "start_time"
    """Column with the start of an interval in s; a row without one is not valid."""
    stop: str = "stop_time"
    """Column with its end."""
    before_ms: float = 0
    """How much earlier it begins (negative = later)."""
    after_ms: float = 0
    """How much later it ends."""
    mask: str = ""
    """Series with one truth value a sample, such as acquisition/eval_mask."""
    clock: Literal["own", "covariates"] = "own"
    """Whose times and stamps the mask has."""
    invert: bool = False
    """The mask is true where the recording is not valid."""
    outside: Literal["mask", "cut"] = "mask"
    """mask = covariates are NaN outside; cut = windows lie inside one interval."""

    @model_validator(mode="after")
    def _complete(self):
        if bool(self.column) != bool(self.values) or (self.column and not self.table):
            raise ValueError("validity.column needs a table, and the values that make a row valid")
        return self


class SplitRule(Section):
    match: str = "*"
    """Glob on the session id; the first rule that matches a session decides."""
    unit: Literal["fraction", "s"] = "fraction"
    intervals: dict[Split, tuple[float, float | None]]
    """Label -> [from, to) in the unit above; null = the end of the session."""


class PrivacyRecipe(Section):
    pseudonyms: bool = False
    """Replace subjects, sessions and file names by keyed hashes, in all that is written and said.
    Split rules then match the replaced ids."""
    key_file: str = ""
    """A secret of 16 bytes or more; who has it can make the same names again. It stays outside of
    corpora, and so does its path."""

    @model_validator(mode="after")
    def _key_has_an_effect(self):
        if self.key_file and not self.pseudonyms:
            raise ValueError("privacy.key_file is for privacy.pseudonyms, which is false")
        return self


class Recipe(Section):
    dataset: str
    """First part of every session id."""
    source: str = ""
    """A recording or a folder of recordings."""
    pattern: str = "**/*.nwb"
    """Which files of a source folder to take."""
    out: str = ""
    """Folder or s3:// URL of the corpus."""
    reader: Literal["nwb", "mat", "rtt", "xds", "pyaldata"] = "nwb"
    """Which of `prep/readers` reads the files."""
    licence: str = "unknown"
    bin_size_ms: float = Field(default=20, gt=0)
    window_ms: float = Field(default=2000, gt=0)
    """Length of a window (chop); NDT3's is 2 s."""
    spikes: SpikesRecipe = SpikesRecipe()
    covariates: CovariatesRecipe = CovariatesRecipe()
    mat: MatRecipe = MatRecipe()
    validity: ValidityRecipe = ValidityRecipe()
    splits: list[SplitRule] = [SplitRule(intervals={"train": (0, 1)})]
    shard_mb: float = Field(default=32, gt=0)
    num_workers: int = Field(default=0, ge=0)
    """Workers of a local Ray; 0 = one for each core. A cluster has one for each of its CPUs."""
    ray_address: str = "local"
    """local = a Ray of our own on the loopback address; else HOST:PORT of a cluster's head, or
    auto on one of its hosts."""
    allow_failures: int = Field(default=0, ge=0)
    """Exit with 0 although so many recordings failed."""
    rebuild: bool = False
    """Make the corpus anew where recordings that it has have changed."""
    privacy: PrivacyRecipe = PrivacyRecipe()

    @model_validator(mode="after")
    def _whole_windows(self):
        if not self.pattern or self.pattern.startswith("/") or ".." in self.pattern.split("/"):
            raise ValueError(f"pattern {self.pattern!r}; expected one below the source: **/*.nwb")
        if self.dataset == REMOVED:
            raise ValueError(f"dataset {REMOVED} is kept for sessions that were taken out")
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

    @model_validator(mode="after")
    def _validity_has_an_effect(self):
        v = self.validity
        if (v.table or v.mask) and v.outside == "mask" and not self.covariates.path:
            raise ValueError("validity masks covariates and there are none; say outside: cut")
        if v.clock == "covariates" and not self.covariates.path:
            raise ValueError("validity.clock is that of the covariates and there are none")
        return self

    @property
    def window_bins(self) -> int:
        return round(self.window_ms / self.bin_size_ms)

    def identity(self) -> dict:
        """The part of the recipe that decides the corpus."""
        told = self.model_dump(mode="json", exclude=RUNTIME_KEYS)
        if self.privacy.pseudonyms:
            told["pattern"] = ""  # it may name somebody
        return {"version": VERSION, **told, "privacy": {"pseudonyms": self.privacy.pseudonyms}}

    def sha256(self) -> str:
        return storage.sha256_bytes(storage.canonical_json(self.identity()))

    def rule_for(self, session: str) -> SplitRule | None:
        """The first split rule whose glob matches a session id."""
        return next((r for r in self.splits if fnmatchcase(session, r.match)), None)


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe with `key=value` overrides; BadInput names every problem."""
    return load_config(Recipe, path, overrides)
