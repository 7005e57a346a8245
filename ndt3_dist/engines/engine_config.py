"""How steps are taken: the sections `optim` and `train` of a config."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ndt3_dist.config import Section


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
    hang_s: float = Field(default=900, ge=0)
    """Seconds in which no rank goes on, before all write down where they are (RUN/faults/) and end:
    more than the ten minutes that a store is waited for. 0 = never."""
    on_leap: Literal["warn", "skip"] = "warn"
    """What a step does whose loss leaps far above the last ones: it is named with its sessions, or
    it also moves no weight, as one without a finite loss. `on_spike` is its earlier name."""
    max_skipped: int = Field(default=3, ge=0)
    """Steps in a row without a finite loss and gradient (no weight moves) before it goes back."""
    max_rollbacks: int = Field(default=1, ge=0)
    """Times that a run goes back to the weights of its newest checkpoint, on with the data that
    follows, before it ends."""
    max_steps: int = Field(default=0, ge=0)
    """Stop after this many optimiser steps, if sooner; 0 = no such limit."""
    ranks: int = Field(default=0, ge=0)
    """Ranks that a start must have, or it is refused; 0 = as many as were launched."""
    min_ranks: int = Field(default=0, ge=0)
    """Fewest ranks that a start may have, as when hosts are lost; 0 = no fewer than `ranks`."""
    global_batch: int = Field(ge=1)
    """Rows per optimiser step over all ranks."""
    micro_batch: int = Field(default=1, ge=0)
    """Rows per forward pass; accumulation is derived, so that the curve ignores the rank count. 0 =
    what the GPUs' memory takes, up to 32,768 tokens, when the run begins; it then stays."""
    zero_stage: Literal[0, 1, 2, 3] = 1
    offload: bool = False
    """Keep fp32 masters and AdamW's moments in the host's memory, and step there: a larger model
    fits a GPU, at the price of time. ZeRO-1 and up."""
    overlap: bool = False
    """ZeRO-2: let ranks add gradients while a backward pass goes on. ZeRO-3 does so by itself, and
    ZeRO-1, whose gradients are added once a step, cannot with DeepSpeed in bf16."""
    precision: Literal["bf16", "fp32"] = "bf16"
    fp8: Literal["off", "tensorwise", "rowwise"] = "off"
    """Matrix products of blocks in 8-bit floats with a scale for each tensor or row, by torchao."""
    upstream_means: bool = False
    """Average the means of micro-batches, as upstream does, for comparison; the curve then
    depends on how windows share rows."""
    compile: bool = False
    """torch.compile each block; sums may round differently than without."""
    recompute: bool = False
    """Activation checkpointing: less memory for a second forward pass of each block."""

    @model_validator(mode="before")
    @classmethod
    def _earlier_name(cls, values: Any) -> Any:
        if isinstance(values, dict) and "on_spike" in values:
            last = [key for key in values if key in ("on_spike", "on_leap")][-1]  # overrides are
            others = {k: v for k, v in values.items() if k not in ("on_spike", "on_leap")}
            return {**others, "on_leap": values[last]}
        return values
