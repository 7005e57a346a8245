"""A recipe says what to read from which recordings, and how to turn it into a corpus.

Everything that changes the bytes of a corpus is in here; `out`, `num_workers` and the like are not
part of a recipe's identity (`identity`).
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from ndt3_dist import storage
from ndt3_dist.config import Section, load_config
from ndt3_dist.readers.options import ReadOptions
from ndt3_dist.shards.manifest import REMOVED

Split = Literal["train", "val", "calibration", "test"]
RUNTIME_KEYS = {"source", "out", "num_workers", "ray_address", "allow_failures", "rebuild"}


LATER_KEYS = {
    "": ("options", "preprocess", "session_from"),
    "spikes": ("table", "peak", "peak_is", "observed", "trial_of", "repair", "trust_clock"),
    "covariates": ("repair", "resample", "causal", "outside"),
}
"""Keys by section that recipes did not have at first: their defaults are no part of the identity,
so that corpora of before stay those of the same recipe."""


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


class Recipe(ReadOptions):
    dataset: str
    """First part of every session id."""
    source: str = ""
    """A recording or a folder of recordings."""
    pattern: str = "**/*.nwb"
    """Which files of a source folder to take."""
    out: str = ""
    """Folder or s3:// URL of the corpus."""
    preprocess: list[str | dict[str, Any]] = []
    """Functions that each recording goes through once it is read, in order, each as
    package.module:function or, with arguments, {call: package.module:function, KEY: VALUE, ...}. It
    takes a Recording (`readers.recording`) and returns one."""
    licence: str = "unknown"
    window_ms: float = Field(default=2000, gt=0)
    """Length of a window (chop); NDT3's is 2 s."""
    splits: list[SplitRule] = [SplitRule(intervals={"train": (0, 1)})]
    shard_mb: float = Field(default=32, gt=0)
    num_workers: int | Literal["auto"] = "auto"
    """Workers of a local Ray; 0 = this process alone, without Ray; auto = this process where the
    recordings have less than 16 MB together (one counts as 1 MB at least), else a worker for each
    core. A cluster has one for each of its CPUs."""
    ray_address: str = ""
    """local = this machine; else HOST:PORT of a cluster's head, or auto on one of its hosts; empty
    = the cluster of RAY_ADDRESS where that is set and num_workers is auto, else this machine."""
    allow_failures: int = Field(default=0, ge=0)
    """Exit with 0 although so many recordings failed."""
    rebuild: bool = False
    """Make the corpus anew where recordings that it has have changed."""
    privacy: PrivacyRecipe = PrivacyRecipe()

    @field_validator("num_workers", mode="before")
    @classmethod
    def _workers(cls, value: Any) -> Any:
        if value != "auto" and not (isinstance(value, int) and value >= 0):
            raise ValueError("expected auto, or a whole number from 0")
        return value

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
    def _one_place_to_run(self):
        if self.num_workers == 0 and self.ray_address not in ("", "local"):
            raise ValueError(
                f"num_workers 0 is this process alone, and ray_address {self.ray_address} is a "
                "cluster; leave one of them out"
            )
        return self

    @model_validator(mode="after")
    def _calls_are_complete(self):
        for call in self.preprocess:
            if isinstance(call, dict) and not isinstance(call.get("call"), str):
                raise ValueError(f"preprocess {call}: expected call: package.module:function in it")
        return self

    @model_validator(mode="after")
    def _session_from_has_an_effect(self):
        if self.session_from != "content" and self.reader != "nwb" and ":" not in self.reader:
            raise ValueError(
                f"session_from is for NWB; reader {self.reader} takes mat.session, mat.file_name"
            )
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
        fields = self.model_dump(mode="json", exclude=RUNTIME_KEYS)
        for section, keys in LATER_KEYS.items():
            model, found = (getattr(self, section), fields[section]) if section else (self, fields)
            for key in keys:
                if getattr(model, key) == type(model).model_fields[key].default:
                    del found[key]
        if self.privacy.pseudonyms:
            fields["pattern"] = ""  # it may name somebody
        return {"version": 1, **fields, "privacy": {"pseudonyms": self.privacy.pseudonyms}}

    def sha256(self) -> str:
        return storage.sha256_bytes(storage.canonical_json(self.identity()))

    def rule_for(self, session: str) -> SplitRule | None:
        """The first split rule whose glob matches a session id."""
        return next((r for r in self.splits if fnmatchcase(session, r.match)), None)


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe with `key=value` overrides; BadInput names every problem."""
    return load_config(Recipe, path, overrides)
