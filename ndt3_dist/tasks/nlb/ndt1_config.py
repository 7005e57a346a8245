"""NDT1's section `model`: sizes of the tensors, of the network, and how trials are masked."""

from pydantic import Field, model_validator

from ndt3_dist.config import Section

BUILD = "ndt3_dist.tasks.nlb.ndt1:build"


class Ndt1Config(Section):
    build: str = BUILD
    heldin: int = Field(ge=1)
    """Held-in units, which are the model's input."""
    heldout: int = Field(ge=0)
    """Held-out units, which it only predicts."""
    bins: int = Field(ge=1)
    """Of a trial."""
    forward: int = Field(ge=0)
    """Behind it, where it only predicts."""
    layers: int = Field(default=4, ge=1)
    heads: int = Field(default=2, ge=1)
    hidden: int = Field(default=128, ge=1)
    """Width of the layers inside a block; the model's own is the number of units."""
    embed: int = Field(default=0, ge=0)
    """Width of a count's embedding, each unit by itself; 0 = counts are the input as they are."""
    max_count: int = Field(default=8, ge=1)
    """Counts above are taken for this one; the row behind it of the embedding is the mask's."""
    first_rate: float = Field(default=1.0, gt=0)
    """Expected count of a bin that untrained rates lie around; the original's is 1."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    dropout_rates: float = Field(default=0.2, ge=0, lt=1)
    """Before the rates are read out."""
    dropout_embedding: float = Field(default=0.2, ge=0, lt=1)
    """Behind the positions."""
    context_forward: int = Field(default=-1, ge=-1)
    """Bins that attention looks ahead; -1 = all."""
    context_backward: int = Field(default=-1, ge=-1)
    """Bins that it looks back; -1 = all."""
    pre_norm: bool = True
    fixup: bool = True
    """Smaller first weights by depth (T-Fixup)."""
    mask_ratio: float = Field(default=0.25, gt=0, le=1)
    """Share of a trial's bins whose held-in counts are to be told from the others."""
    mask_token_ratio: float = Field(default=1.0, ge=0, le=1)
    """Of the counts in them, so many are hidden."""
    mask_random_ratio: float = Field(default=0.5, ge=0, le=1)
    """Of the rest, so many become random; what is left stays as it is."""
    mask_max_span: int = Field(default=1, ge=1)
    """Masked bins come in runs of 1 to so many, one length a trial and epoch."""
    zero_mask: bool = True
    """Hidden counts are zeros; else the mask's row of the embedding (embed above 0)."""

    @model_validator(mode="after")
    def _fits(self):
        if self.width % self.heads:
            raise ValueError(
                f"{self.units} units x embed {max(self.embed, 1)} are no multiple of heads "
                f"{self.heads}; say embed: {self.heads}, or heads: 1"
            )
        if not self.zero_mask and not self.embed:
            raise ValueError("zero_mask: false needs embed above 0, whose table has a row for it")
        return self

    @property
    def units(self) -> int:
        return self.heldin + self.heldout

    @property
    def width(self) -> int:
        return self.units * max(self.embed, 1)

    @property
    def length(self) -> int:
        """Bins of a window."""
        return self.bins + self.forward

    @property
    def labelled(self) -> float:
        """Share of a window's counts that its loss is expected to be of."""
        trial = self.mask_ratio * self.heldin + self.heldout
        return (trial * self.bins + self.units * self.forward) / (self.units * self.length)
