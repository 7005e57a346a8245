"""The architecture: the section `model` of a config, kept with every checkpoint and export."""

from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from ndt3_dist import plain_yaml
from ndt3_dist.config import Section

NDT3_BUILD = "ndt3_dist.model.ndt3:build"


class OwnModel(BaseModel):
    """The section `model` of a model of a user's own: whatever its `build` takes."""

    model_config = ConfigDict(frozen=True, extra="allow")

    build: str
    """Import path of the function that builds it (`model.contract`), called with this section."""

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, values: Any) -> Any:
        return plain_yaml.as_numbers(values)


class ModelConfig(Section):
    """NDT3's architecture (paper: Ye et al. 2025; sizes of its published configurations)."""

    build: Literal["ndt3_dist.model.ndt3:build"] = NDT3_BUILD
    """NDT3; a model of one's own is named here by package.module:function."""

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
    attention: Literal["auto", "flash3", "flash", "varlen", "sdpa", "blocked", "reference"] = "auto"
    """Attention body; auto = blocked on CPUs; on CUDA in bf16 FlashAttention 3 where it is
    installed on a Hopper and `attention_dropout` is 0, else flash-attn where it is installed, else
    varlen, the flash kernels that torch brings; in float32 SDPA."""
    attention_fixed_order: bool = True
    """Flash kernels' backward passes add in a fixed order, so that a run repeats bit for bit."""
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
    objective: Literal["causal", "masked"] = "causal"
    """causal = each token is predicted from those before it, as NDT3. masked = some neural tokens
    are hidden and predicted from the whole window, before and behind them, as NDT2 (Ye et al.
    2023); covariates are predicted from it likewise."""
    mask_ratio: float = Field(default=0.3, gt=0, lt=1)
    """masked: share of each patch's bins that are hidden; of a window always as many."""
    mask_span: int = Field(default=1, ge=1)
    """masked: bins in a row that are hidden together."""
    context: tuple[Literal["session", "subject", "array", "task"], ...] = ()
    """Kinds of identities that a window begins with, a learned token for each; `array` has one for
    each array, `task` is the dataset. (`context_tokens` are constraints and returns.)"""
    identities: tuple[str, ...] = ()
    """With `context`, KIND:NAME of each learned token; a start fills in those of its corpus."""

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
        if self.objective == "masked" and self.covariate_mask_rate < 1:
            problems.append(
                f"covariate_mask_rate is {self.covariate_mask_rate:g}; in a masked model a "
                "covariate is read at its own token, so that all are to be blanked: 1"
            )
        for name in ("context", "identities"):
            if len(set(values := getattr(self, name))) < len(values):
                problems.append(f"{name} has one value twice: {', '.join(values)}")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler):
        """What came later and is not used is not written: runs and exports stay what they were."""
        unused = () if self.objective == "masked" else MASKED
        unused += () if self.context else CONTEXT
        return {name: value for name, value in dump(self).items() if name not in unused}


TRAINING_FIELDS = {
    *("attention", "attention_fixed_order", "dropout", "attention_dropout"),
    *("covariate_mask_rate", "dummy_covariate"),
    *("spike_weight", "covariate_weight", "mask_ratio", "mask_span"),
}
"""Fields of a ModelConfig that are its training's: none decides a weight's shape or meaning."""
MASKED = "objective", "mask_ratio", "mask_span"
CONTEXT = "context", "identities"
"""Fields that came later; they are written where they are used."""


def completed(values: dict) -> dict:
    """A section `model` as it was written, with the fields that were not used."""
    if values.get("build", NDT3_BUILD) != NDT3_BUILD:
        return values
    unused = {name: ModelConfig.model_fields[name].default for name in (*MASKED, *CONTEXT)}
    return {**unused, **values}
