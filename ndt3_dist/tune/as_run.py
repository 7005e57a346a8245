"""The settings of a fine-tune in the words of the loop of a pretraining."""

from pathlib import Path

from ndt3_dist.model.ndt3 import NDT3
from ndt3_dist.train.pretrain_config import PretrainConfig
from ndt3_dist.tune.tune_config import TuneConfig


def loop_config(
    config: TuneConfig, model: NDT3, steps: int, is_scored: bool, path: Path
) -> PretrainConfig:
    """The settings of a fine-tune in the words of the loop."""
    train, optim = config.train, config.optim.model_dump(exclude={"layer_decay"})
    scored = {"every_steps": train.eval_every, "patience": train.patience, "metric": config.metric}
    return PretrainConfig.model_validate(
        {
            "run": {"dir": str(path.parent), "name": path.name, "seed": config.run.seed},
            "data": {"corpus": config.data.corpus},
            "model": model.config,
            "optim": optim,
            "train": {
                "epochs": steps,
                "global_batch": 1,
                "precision": train.precision,
                "max_skipped": train.max_skipped,
            },
            "validation": scored if is_scored else {},
            "checkpoint": {"every_steps": 1 << 30, "keep_last": 1},
            "log": config.log.model_dump(),
        }
    )
