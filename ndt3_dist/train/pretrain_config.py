"""The config of a pretraining, section by section."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from ndt3_dist.config import Section
from ndt3_dist.data.data_config import DataConfig
from ndt3_dist.engines.engine_config import OptimConfig, TrainConfig
from ndt3_dist.errors import BadInput
from ndt3_dist.model.model_config import NDT3_BUILD, ModelConfig, OwnModel


class RunConfig(Section):
    name: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")
    """Name of the run; its folder is `dir/name`."""
    dir: str = "runs"
    """Folder that holds the runs, shared by all hosts."""
    wait_s: float = Field(default=0, ge=0)
    """Seconds to wait for another process that writes the run, as a job that was requeued may while
    its predecessor saves; 0 = refuse at once."""
    seed: int = 0
    """Seed of the initial weights, the order of the data, dropout and masks."""


class ValidationConfig(Section):
    """Scores on held-out windows while a run trains."""

    every_steps: int = Field(default=0, ge=0)
    """Steps between validations; 0 = none."""
    split: Literal["val", "calibration", "test"] = "val"
    """Split of the corpus to score, of the sessions that `data` names."""
    windows: int = Field(default=2048, ge=1)
    """At most so many of its windows, the same ones each time."""
    metric: str = "val_loss"
    """Decides which step is the best; its checkpoint is kept. NDT3 has val_loss, val_loss_spikes,
    val_loss_covariates, val_r2, val_r2_uniform, val_r2_flat, val_bits_per_spike."""
    patience: int = Field(default=0, ge=0)
    """Stop after so many validations without a better one; 0 = never."""


class CheckpointConfig(Section):
    every_steps: int = Field(default=500, ge=1)
    keep_last: int = Field(default=3, ge=1)
    """Newest checkpoints to keep, beside the best and any with a file `pinned` in its folder."""
    keep_every: int = Field(default=0, ge=0)
    """Also keep those whose step is a multiple of this; 0 = none."""
    background: bool = True
    """Write while training goes on, from a copy in memory (12 bytes a parameter over all ranks)."""
    max_starts: int = Field(default=10, ge=1)
    """Starts in a row with --resume auto that may go on from the same step, before one is refused:
    a loop of restarts that gets nowhere ends."""
    stop_within_s: float = Field(default=90, gt=0)
    """Seconds from a signal to the end of the run, saved or not; the scheduler must leave more."""


class LogConfig(Section):
    every_steps: int = Field(default=10, ge=1)
    """Steps per console line; metrics.jsonl and W&B get every step."""
    level: Literal["info", "debug"] = "info"
    """debug shows what DeepSpeed prints, which else goes to RUN/logs/rank*.txt."""
    wandb: Literal["disabled", "offline", "online"] = "disabled"
    wandb_project: str = "ndt3_dist"
    prometheus: int = Field(default=0, ge=0, le=65535)
    """Port at which the first rank serves its last metrics to Prometheus; 0 = none."""
    prometheus_address: str = "127.0.0.1"
    """Where it listens. 0.0.0.0 lets other machines see the metrics, without a password."""


class PretrainConfig(Section):
    run: RunConfig
    data: DataConfig
    model: ModelConfig | OwnModel
    """NDT3's, or what the function takes that `model.build` names."""
    optim: OptimConfig
    train: TrainConfig
    validation: ValidationConfig = ValidationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    log: LogConfig = LogConfig()

    @property
    def ndt3(self) -> ModelConfig:
        """The section `model` of NDT3. Raises BadInput where it is of a model of a user's own."""
        if not isinstance(self.model, ModelConfig):
            raise BadInput(f"model.build is {self.model.build}; expected NDT3 here")
        return self.model

    @field_validator("model", mode="wrap")
    @classmethod
    def _of_its_kind(cls, values, handler):
        own = isinstance(values, dict) and values.get("build", NDT3_BUILD) != NDT3_BUILD
        kind = OwnModel if own or isinstance(values, OwnModel) else ModelConfig
        return kind.model_validate(values)

    @model_validator(mode="after")
    def _consistent(self):
        problems, train = [], self.train
        if train.micro_batch and train.global_batch % train.micro_batch:
            problems.append(
                f"train.global_batch {train.global_batch} is not a multiple of "
                f"train.micro_batch {train.micro_batch}"
            )
        if self.validation.patience and not self.validation.every_steps:
            problems.append("validation.patience needs validation.every_steps")
        if train.ranks and train.min_ranks > train.ranks:
            problems.append(
                f"train.min_ranks {train.min_ranks} is more than train.ranks {train.ranks}"
            )
        if train.zero_stage == 0 and train.precision == "bf16":
            problems.append("train.zero_stage 0 has no fp32 masters in bf16; use stage 1")
        if train.zero_stage == 0 and train.offload:
            problems.append("train.offload needs train.zero_stage 1 or more")
        if train.overlap and train.zero_stage != 2:
            problems.append(f"train.overlap is for train.zero_stage 2, not {train.zero_stage}")
        if problems:
            raise ValueError("; ".join(problems))
        return self
