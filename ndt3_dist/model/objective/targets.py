"""What NDT3 learns to predict, by its objective."""

from ndt3_dist.model.contract import Target
from ndt3_dist.model.model_config import ModelConfig


def targets(config: ModelConfig) -> tuple[Target, ...]:
    """Counts and covariates; of a masked model those counts that were hidden."""
    masked = config.objective == "masked"
    return (
        Target(
            "spikes",
            "spikes",
            "softened cross-entropy per real channel and bin" + " that was hidden" * masked,
            config.spike_weight,
            f"ndt3_dist.evaluate.metrics:{'BitsPerHiddenSpike' if masked else 'BitsPerSpike'}",
        ),
        Target(
            "covariates",
            "covariates",
            "squared error per valid covariate value, in units of its scale",
            config.covariate_weight,
            "ndt3_dist.evaluate.metrics:R2",
        ),
    )
