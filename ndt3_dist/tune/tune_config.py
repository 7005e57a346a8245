"""The config of a fine-tune."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from ndt3_dist.config import Section
from ndt3_dist.engines.engine_config import OptimConfig
from ndt3_dist.model.model_config import ModelConfig
from ndt3_dist.train.pretrain_config import LogConfig, RunConfig


class ReplayConfig(Section):
    """Windows of earlier sessions beside those that are fitted, so that these are not forgotten."""

    sessions: tuple[str, ...] = ()
    """Patterns of their ids; empty = no replay. Recordings that are fitted are left out."""
    corpus: str = ""
    """Where they lie; empty = `data.corpus`."""
    split: str = ""
    """Split to draw from; empty = `data.fit`."""
    weight: float = Field(default=0.1, gt=0, lt=1)
    """Their share of the windows of a step (upstream: .1)."""


class TuneDataConfig(Section):
    corpus: str = ""
    session: str = ""
    """Session to fit; empty = the only one that has the `fit` split."""
    sessions: tuple[str, ...] = ()
    """In place of it: patterns of the ids of several, fitted together."""
    fit: str = "calibration"
    """Split to fit on."""
    covariates: list[str] = []
    """Names of the covariates to fit, in this order; empty = all of the session."""
    val_fraction: float = Field(default=0.2, gt=0, lt=1)
    """Last part of what is fitted, held back to choose the best step."""
    replay: ReplayConfig = ReplayConfig()
    decodes: str = ""
    """With `train.objective: spikes`: session of the export whose covariates and scales a session
    without labels is decoded to; empty = the same one, or the only one."""
    share: float = Field(default=1.0, gt=0, le=1)
    """Of the split that may be fitted: one stretch, whose place run.seed draws. Of one seed a
    smaller one lies within a larger one."""
    minutes: float | None = Field(default=None, gt=0)
    """So much of it, in place of a share."""

    @model_validator(mode="after")
    def _one_or_several(self):
        if self.session and self.sessions:
            raise ValueError("session and sessions: expected one of the two")
        return self

    @model_validator(mode="after")
    def _one_size(self) -> "TuneDataConfig":
        if self.minutes is not None and self.share < 1:
            raise ValueError(
                f"share is {self.share:g} and minutes {self.minutes:g}; expected one of both"
            )
        return self


class TuneConfig(Section):
    """A single-process fine-tune, or a training from scratch with the same command.

    `model` is for training from scratch without an export; a fine-tune takes its export's.
    Names of parts are those of `train.parts.PARTS`.
    """

    class Transfer(Section):
        """What differs from the export; fields that are not given stay as they are."""

        channels_per_token: int | None = None
        """Needs `reinit: [spikes]`: the shapes of read-in and head follow from it."""
        max_channels: int | None = None
        behavior_dim: int | None = None
        """Moves the space ids of all that comes after the constraints (`space_rows`)."""
        context_tokens: bool | None = None
        space_rows: Literal["by_number", "by_meaning"] = "by_number"
        """Where space ids move: by_number = a row of the table keeps its number, so that it comes
        to mean something else (upstream's transfer); by_meaning = it moves along."""
        reinit: list[str] = []
        """Parts that start from new weights."""

    class Optim(OptimConfig):
        layer_decay: float = Field(default=1.0, gt=0, le=1)
        """Learning rate of a block over that of the block above it; heads and new weights have the
        full rate, embeddings and read-ins the lowest. 1 = one rate for all."""

    class Lora(Section):
        """Low-rank updates of the attention's query, key and value weights (upstream: 8, 8)."""

        rank: int = Field(default=0, ge=0)
        """0 = off; else the backbone's own weights are frozen. Exports hold the sum."""
        alpha: float = Field(default=8.0, gt=0)
        """The update is scaled by alpha / rank."""

    class Readout(Section):
        """Covariates read from hidden states and lagged counts (`tune.closed_form`)."""

        history: list[int] = []
        """Bins of counts, of which the best by contiguous folds is taken; empty = the model's own
        covariate head. Needs `train.steps: 0`: the hidden states of a model that has been fitted to
        these bins tell more of them than of any others."""

        @field_validator("history")
        @classmethod
        def _bins(cls, value: list[int]) -> list[int]:
            if value and min(value) < 1:
                raise ValueError("expected numbers of bins, each at least 1")
            return value

    class Train(Section):
        steps: int = Field(ge=0)
        """0 = the weights stay as they are; only a readout is fitted."""
        batch: int = Field(ge=1)
        """Windows per step, each at a random start inside the fit split."""
        eval_every: int = Field(default=20, ge=1)
        """Steps between scores on the held-back part."""
        patience: int = Field(default=0, ge=0)
        """Stop after so many scores without a better one; 0 = go on to the last step."""
        max_skipped: int = Field(default=3, ge=0)
        """Steps in a row without a finite loss and gradient (no weight moves) before it ends."""
        refit: bool = False
        """Then train again for the best number of steps, on the whole fit split."""
        freeze: list[str] = []
        """Parts that keep their weights."""
        objective: Literal["all", "spikes", "covariates"] = "all"
        """spikes = the loss of spikes alone: no covariate of the sessions is looked at, and the
        covariate head keeps its weights unless sessions are replayed. covariates = theirs alone."""
        wise: tuple[float, ...] = ()
        """Shares of the way from the export's weights (0) to the tuned ones (1), of which the best
        on the held-back part is exported (WiSE-FT); empty = 1."""
        precision: Literal["bf16", "fp32"] = "bf16"
        dropout: float = Field(default=0.1, ge=0, lt=1)
        """Replaces the dropout of the export's config."""

        @field_validator("wise")
        @classmethod
        def _shares(cls, value: tuple[float, ...]) -> tuple[float, ...]:
            if not all(0 <= share <= 1 for share in value):
                raise ValueError("expected shares from 0 to 1")
            return value

    run: RunConfig
    data: TuneDataConfig
    transfer: Transfer = Transfer()
    optim: Optim
    lora: Lora = Lora()
    readout: Readout = Readout()
    train: Train
    log: LogConfig = LogConfig(every_steps=20)
    model: ModelConfig | None = None

    @model_validator(mode="after")
    def _either(self) -> "TuneConfig":
        if bool(self.train.steps) == bool(self.readout.history):
            raise ValueError(
                f"train.steps {self.train.steps} and readout.history {self.readout.history}: "
                "expected steps or a readout, and not both"
            )
        if self.train.wise and not self.train.steps:
            raise ValueError(f"train.wise {list(self.train.wise)} needs train.steps")
        if self.data.covariates and not self.has_labels:
            raise ValueError("data.covariates: train.objective spikes takes those of the export")
        if self.data.decodes and self.has_labels:
            raise ValueError("data.decodes is for train.objective spikes")
        return self

    @property
    def has_labels(self) -> bool:
        """Whether covariates of the sessions are looked at."""
        return self.train.objective != "spikes"

    @property
    def metric(self) -> str:
        """What chooses the best step, of the held-back part."""
        return "val_r2" if self.has_labels else "val_bits_per_spike"
