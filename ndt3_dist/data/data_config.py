"""What of a corpus a run trains on, and how it is read: the section `data` of its config."""

from typing import Literal

from pydantic import Field, model_validator

from ndt3_dist.config import Section


class SourceConfig(Section):
    sessions: tuple[str, ...] = Field(min_length=1)
    """Patterns of its session ids; a session is of the first source that names it."""
    weight: float = Field(ge=0)
    """Its part of the mixture, beside the weights of the others."""


class DataConfig(Section):
    corpus: str = ""
    """Folder or s3:// URL of a prepared corpus."""
    row_tokens: int = Field(default=4096, ge=1)
    """Capacity of a packed row in tokens."""
    sessions: tuple[str, ...] = ("*",)
    """Patterns of the session ids (DATASET-SUBJECT-SESSION) that are trained on."""
    exclude: tuple[str, ...] = ()
    """Patterns of session ids that are not, whatever `sessions` says."""
    scale_ratio: float = Field(default=1.0, gt=0, le=1)
    """Share of each session's windows that is trained on; smaller shares lie within larger ones."""
    max_windows_per_session: int | None = Field(default=None, ge=1)
    """Most windows of a session that are trained on."""
    mixture: tuple[SourceConfig, ...] = ()
    """Sources by weight; empty = every window once an epoch. Weights may change on a resume."""
    mixture_by: Literal["windows", "tokens", "hours"] = "windows"
    """What the weights share out."""
    block_samples: int = Field(default=8192, ge=1)
    """Windows that are fitted into rows together, at least: blocks are whole shards."""
    lanes: int = Field(default=64, ge=1)
    """Blocks that a step's rows come from. Where it is a multiple of the ranks times
    `train.micro_batch`, each rank reads shards of its own."""
    cache: str = ""
    """Folder on each host's disk for the shards of an s3:// corpus; empty = ~/.cache/ndt3_dist."""
    cache_gb: float = Field(default=50, gt=0)
    """Size that it may grow to."""
    workers: int = Field(default=1, ge=0)
    """Steps that a rank builds ahead: 1 = in a thread, more = in as many processes; 0 = none, each
    is built when it is asked for."""
    another_corpus: bool = False
    """Go on with a corpus that does not begin with the run's own; what it was trained on before can
    then no longer be replayed."""
    on_corrupt: Literal["raise", "quarantine"] = "raise"
    """What a damaged window does: end the run, or be replaced by another, in every epoch."""
    max_quarantined: float = Field(default=0.01, ge=0, le=1)
    """Share of all windows that may be quarantined before the run ends after all."""

    @model_validator(mode="after")
    def _weighs_something(self):
        if self.mixture and not any(source.weight for source in self.mixture):
            raise ValueError("mixture: all weights are 0")
        return self
