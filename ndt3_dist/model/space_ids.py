"""Where each modality's space ids begin; numpy and torch are not needed for it."""

from dataclasses import dataclass

from ndt3_dist.model.model_config import ModelConfig


@dataclass(frozen=True)
class SpaceIds:
    """First space id of each modality; they depend on `behavior_dim` and `max_channels`.

    Source: joel99/ndt3 at 472466a (0 is null; ids of padding are never used here).
    """

    constraint: int
    spikes: int
    returns: int
    covariates: int

    @classmethod
    def of(cls, config: ModelConfig) -> "SpaceIds":
        dims = config.behavior_dim
        patches = -(-config.max_channels // config.channels_per_token)
        return cls(1, 1 + dims, 1 + dims + patches, 2 + dims + patches)
