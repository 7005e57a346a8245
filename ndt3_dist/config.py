"""One schema for every run: YAML on disk, frozen and checked in memory.

Precedence: the defaults below < the YAML file < `section.key=value` on the command line. Unknown
keys are refused with the nearest known name, and every problem is reported at once. YAML files are
whole: no includes, anchors or interpolation.
"""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ndt3_dist.errors import BadInput

PROJECT = Path(__file__).resolve().parent.parent
"""Where `configs/` and `data_prep/recipes/` of a checkout lie; bare names are sought there."""


class Section(BaseModel):
    """A frozen part of a config that refuses unknown keys."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        validate_default=True,
        allow_inf_nan=False,
        coerce_numbers_to_str=True,  # run.name=7 is a name
    )


class RunConfig(Section):
    name: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")
    """Name of the run; its folder is `dir/name`."""
    dir: str = "runs"
    """Folder that holds the runs, shared by all hosts."""
    seed: int = 0
    """Seed of the initial weights, the order of the data, dropout and masks."""


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
    """Threads of a rank that build steps ahead; 0 builds each when it is asked for."""
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


class ModelConfig(Section):
    """NDT3's architecture (paper: Ye et al. 2025; sizes of its published configurations)."""

    layers: int = Field(ge=1)
    dim: int = Field(ge=32)
    """Width of the residual stream; a multiple of `heads` and of `channels_per_token`."""
    heads: int = Field(ge=1)
    feedforward: int = Field(ge=1)
    """Hidden width of the SwiGLU (each of its two halves)."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout of embeddings and of each attention and MLP branch."""
    attention_dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout of attention probabilities (upstream: equal to `dropout`)."""
    attention: Literal["auto", "flash", "varlen", "sdpa", "blocked", "reference"] = "auto"
    """Attention body; auto = blocked on CPUs; on CUDA in bf16 flash-attn where it is installed,
    else varlen, the flash kernels that torch brings; in float32 SDPA."""
    channels_per_token: int = Field(default=32, ge=1)
    """Channels of one array that make one neural token (patch)."""
    max_channels: int = Field(default=320, ge=1)
    """Channels a session may have, all arrays padded to whole patches."""
    behavior_dim: int = Field(default=17, ge=1)
    """Covariate dimensions that have a space id; fixes the ids of everything after them."""
    max_space: int = Field(default=48, ge=1)
    """Highest space id, kept for padding; the table has one row more."""
    count_clip: int = Field(default=20, ge=1)
    """Highest spike count with an input embedding of its own."""
    count_classes: int = Field(default=22, ge=2)
    """Classes of the spike head: counts 0 .. count_classes - 1."""
    max_return: int = Field(default=50, ge=1)
    """Highest return-to-go; 0 means absent."""
    context_tokens: bool = True
    """Emit constraint and return tokens (zeros where a recording has none), as in pretraining."""
    dummy_covariate: bool = False
    """Score one token of value 0 behind a window without covariates, as upstream does."""
    covariate_mask_rate: float = Field(default=1.0, ge=0, le=1)
    """Share of covariate inputs that are blanked; 1 is what NDT3's code does in every step."""
    spike_weight: float = Field(default=1.0, ge=0)
    """Weight of the spike loss (upstream's task_weights)."""
    covariate_weight: float = Field(default=1.0, ge=0)
    """Weight of the covariate loss."""
    rope_base: float = Field(default=10000.0, gt=1)

    @model_validator(mode="after")
    def _consistent(self):
        problems = []
        for divisor in ("heads", "channels_per_token"):
            if self.dim % getattr(self, divisor):
                problems.append(f"dim {self.dim} is not a multiple of {divisor}")
        if (self.dim // self.heads) % 2:
            problems.append(f"head dimension {self.dim // self.heads} is odd; rotary needs pairs")
        patches = -(-self.max_channels // self.channels_per_token)
        if 2 + 2 * self.behavior_dim + patches > self.max_space:
            problems.append(
                f"space ids run to {1 + 2 * self.behavior_dim + patches}, max_space is "
                f"{self.max_space}; lower max_channels ({self.max_channels}: {patches} tokens a "
                f"bin) or behavior_dim ({self.behavior_dim}: two ids each)"
            )
        if problems:
            raise ValueError("; ".join(problems))
        return self


TRAINING_FIELDS = {
    *("attention", "dropout", "attention_dropout", "covariate_mask_rate", "dummy_covariate"),
    *("spike_weight", "covariate_weight"),
}
"""Fields of a ModelConfig that are its training's: none decides a weight's shape or meaning."""


class OptimConfig(Section):
    lr: float = Field(gt=0)
    """Peak learning rate."""
    lr_min: float = Field(default=1e-6, ge=0)
    schedule: Literal["ndt3", "cosine", "wsd"] = "ndt3"
    """ndt3 = linear warm-up, then a cosine not shifted by it (upstream's); cosine = shifted; wsd =
    warm-up, the peak up to `stable_epochs`, a straight line down."""
    stable_epochs: float = Field(default=0, ge=0)
    """Where the decay of `wsd` begins."""
    warmup_epochs: float = Field(default=50, ge=0)
    """Warm-up in epochs (samples seen over samples in the corpus)."""
    warmup_init_factor: float = Field(default=0.1, ge=0, le=1)
    """Learning rate at the start of the warm-up over the peak."""
    decay_epochs: float = Field(default=500, gt=0)
    """Epoch at which the learning rate reaches `lr_min`."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (
        0.9,
        0.999,
    )
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    """Applied to every parameter, as upstream."""
    grad_clip: float = Field(default=1.0, gt=0)
    """Largest global gradient norm."""


class TrainConfig(Section):
    epochs: float = Field(default=400, gt=0)
    """Stop after this many passes over the corpus."""
    slow_rank_s: float = Field(default=30, gt=0)
    """Seconds that a rank is waited for before it is named."""
    on_spike: Literal["warn", "skip"] = "warn"
    """What a step does whose loss leaps far above the last ones: it is told with its sessions, or
    it also moves no weight, as one without a finite loss."""
    max_skipped: int = Field(default=3, ge=0)
    """Steps in a row without a finite loss and gradient (no weight moves) before it goes back."""
    max_rollbacks: int = Field(default=1, ge=0)
    """Times that a run goes back to the weights of its newest checkpoint, on with the data that
    follows, before it ends."""
    max_steps: int = Field(default=0, ge=0)
    """Stop after this many optimiser steps, if sooner; 0 = no such limit."""
    global_batch: int = Field(ge=1)
    """Rows per optimiser step over all ranks."""
    micro_batch: int = Field(default=1, ge=1)
    """Rows per forward pass; accumulation is derived, so that the curve ignores the rank count."""
    zero_stage: Literal[0, 1, 2, 3] = 1
    offload: bool = False
    """Keep fp32 masters and AdamW's moments in the host's memory, and step there: a larger model
    fits a GPU, at the price of time. ZeRO-1 and up."""
    precision: Literal["bf16", "fp32"] = "bf16"
    upstream_means: bool = False
    """Average the means of micro-batches, as upstream does, for comparison; the curve then hangs on
    how windows share rows."""
    compile: bool = False
    """torch.compile each block; sums may round differently than without."""
    recompute: bool = False
    """Activation checkpointing: less memory for a second forward pass of each block."""


class ValidationConfig(Section):
    """Scores on held-out windows while a run trains."""

    every_steps: int = Field(default=0, ge=0)
    """Steps between validations; 0 = none."""
    split: Literal["val", "calibration", "test"] = "val"
    """Split of the corpus to score, of the sessions that `data` names."""
    windows: int = Field(default=2048, ge=1)
    """At most so many of its windows, the same ones each time."""
    metric: Literal[
        "val_loss", "val_loss_spikes", "val_loss_covariates", "val_r2", "val_bits_per_spike"
    ] = "val_loss"
    """Decides which step is the best; its checkpoint is kept."""
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
    wandb: Literal["disabled", "offline", "online"] = "disabled"
    wandb_project: str = "ndt3_dist"


class PretrainConfig(Section):
    run: RunConfig
    data: DataConfig
    model: ModelConfig
    optim: OptimConfig
    train: TrainConfig
    validation: ValidationConfig = ValidationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    log: LogConfig = LogConfig()

    @model_validator(mode="after")
    def _batch_divides(self):
        if self.train.global_batch % self.train.micro_batch:
            raise ValueError(
                f"train.global_batch {self.train.global_batch} is not a multiple of "
                f"train.micro_batch {self.train.micro_batch}"
            )
        if self.validation.patience and not self.validation.every_steps:
            raise ValueError("validation.patience needs validation.every_steps")
        if self.train.zero_stage == 0 and self.train.precision == "bf16":
            raise ValueError("train.zero_stage 0 has no fp32 masters in bf16; use stage 1")
        if self.train.zero_stage == 0 and self.train.offload:
            raise ValueError("train.offload needs train.zero_stage 1 or more")
        return self


class TuneDataConfig(Section):
    corpus: str = ""
    session: str = ""
    """Session to fit; empty = the only one that has the `fit` split."""
    fit: str = "calibration"
    """Split to fit on."""
    covariates: list[str] = []
    """Names of the covariates to fit, in this order; empty = all of the session."""
    val_fraction: float = Field(default=0.2, gt=0, lt=1)
    """Last part of the fit split, held back to choose the best step."""


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

    class Train(Section):
        steps: int = Field(ge=1)
        batch: int = Field(ge=1)
        """Windows per step, each at a random start inside the fit split."""
        eval_every: int = Field(default=20, ge=1)
        """Steps between scores on the held-back part."""
        patience: int = Field(default=0, ge=0)
        """Stop after so many scores without a better one; 0 = go on to the last step."""
        refit: bool = False
        """Then train again for the best number of steps, on the whole fit split."""
        freeze: list[str] = []
        """Parts that keep their weights."""
        precision: Literal["bf16", "fp32"] = "bf16"
        dropout: float = Field(default=0.1, ge=0, lt=1)
        """Replaces the dropout of the export's config."""

    run: RunConfig
    data: TuneDataConfig
    transfer: Transfer = Transfer()
    optim: Optim
    lora: Lora = Lora()
    train: Train
    model: ModelConfig | None = None


C = TypeVar("C", bound=BaseModel)


def find_file(name: str | Path, folder: str) -> Path:
    """Seek a bare file name in the current folder, then in `folder` of the project."""
    path = Path(name)
    candidates = [path] if path.parent != Path(".") else [path, PROJECT / folder / path]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    places = " or ".join(str(c.parent.absolute()) for c in candidates)
    known = sorted(p.name for p in (PROJECT / folder).glob("*.yaml"))
    near = difflib.get_close_matches(path.name, known, n=1)
    hint = f"; nearest: {near[0]}" if near else f"; there are: {', '.join(known)}"
    raise BadInput(f"no file {path.name} in {places}{hint}")


def load_config(schema: type[C], path: str | Path, overrides: Sequence[str] = ()) -> C:
    """Read a YAML file into `schema`, with `a.b=value` overrides on top.

    Raises:
        BadInput: The file cannot be read, or keys or values do not fit; names all of them at once.
    """
    try:
        values = yaml.safe_load(Path(path).read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise BadInput(f"{path}: not valid YAML: {e}") from e
    if not isinstance(values, dict):
        raise BadInput(f"{path}: expected sections with keys, found {type(values).__name__}")
    for override in overrides:
        key, eq, text = override.partition("=")
        if not eq or not key:
            raise BadInput(f"{override!r} is not an override; expected section.key=value")
        set_key(values, key, parse_scalar(text))
    return check(schema, values, str(path))


def parse_scalar(text: str) -> Any:
    """A command-line value as YAML would read it; what is not YAML stays text."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def set_key(values: dict, dotted: str, value: Any) -> None:
    """Set `a.b.c` in nested dictionaries, making those that are missing."""
    *parents, last = dotted.split(".")
    for parent in parents:
        child = values.setdefault(parent, {})
        if not isinstance(child, dict):
            raise BadInput(f"{dotted}: {parent} is a value, not a section")
        values = child
    values[last] = value


def check(schema: type[C], values: Mapping, where: str) -> C:
    """Validate `values`; all problems in one BadInput, unknown keys with the nearest name."""
    try:
        return schema.model_validate(_numbers(values))
    except ValidationError as e:
        problems = [_explain(schema, error) for error in e.errors()]
        raise BadInput(f"{where}: " + "; ".join(problems)) from e


def _numbers(value: Any) -> Any:
    """YAML 1.1 reads 1e-4 as text; turn such text into the number that was meant."""
    if isinstance(value, Mapping):
        return {k: _numbers(v) for k, v in value.items()}
    if isinstance(value, str) and "e" in value and value[:1].isdigit():
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _explain(schema: type[BaseModel], error: Any) -> str:
    """One pydantic error in words: the key, what was found, what was expected."""
    *parents, last = error["loc"] or ("",)
    dotted = ".".join(str(p) for p in error["loc"])
    if error["type"] == "extra_forbidden":
        owner: Any = schema
        for parent in (p for p in parents if isinstance(p, str)):
            field = owner.model_fields.get(parent) if hasattr(owner, "model_fields") else None
            owner = field.annotation if field else None
            owner = next((a for a in get_args(owner) if hasattr(a, "model_fields")), owner)
        known = list(getattr(owner, "model_fields", {}))
        near = difflib.get_close_matches(str(last), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(known)}"
        return f"unknown key {dotted} ({hint})"
    found = error.get("input")
    if error["type"] == "missing":
        return f"{dotted} is missing"
    if isinstance(found, Mapping):
        return f"{dotted + ': ' if dotted else ''}{error['msg'].removeprefix('Value error, ')}"
    return f"{dotted} is {found!r}: {error['msg']}"
