"""What a checkpoint of a run says, which are kept, and going back to one."""

import platform

import torch

import ndt3_dist
from ndt3_dist import log
from ndt3_dist.checkpoint.format import prune
from ndt3_dist.checkpoint.save import Writer
from ndt3_dist.config import PretrainConfig
from ndt3_dist.data.order import Place
from ndt3_dist.data.stream import Stream
from ndt3_dist.errors import Diverged
from ndt3_dist.train import zero
from ndt3_dist.train.engine import Engine
from ndt3_dist.train.start import find_start, restore
from ndt3_dist.train.validation import Best


class Saving:
    """Checkpoints of a run. All ranks call the same methods at the same steps.

    Attributes:
        writer: That writes them.
        step: The last that was saved, or gone on from.
        best: The best validated step so far.
        rolled_back: How often the run went back to the weights of an earlier checkpoint.
    """

    def __init__(
        self, config: PretrainConfig, engine: Engine, stream: Stream, writer: Writer, shapes: dict
    ):
        """
        Args:
            config, engine, stream, writer: Of the run.
            shapes: Of each parameter by name.
        """
        self.config, self.engine, self.stream = config, engine, stream
        self.writer, self.shapes = writer, shapes
        self.step, self.best, self.rolled_back = 0, Best(config.validation.metric), 0

    def restore(self, meta: dict) -> None:
        """Go on from a checkpoint.json."""
        self.step = meta["step"]
        self.best = Best.of(self.config.validation.metric, meta.get("best"))
        self.rolled_back = meta.get("rolled_back", 0)

    def save(self, step: int, place: Place) -> None:
        """Begin to save this moment, unless it is saved already."""
        if step == self.step:
            return
        describe = {
            "adam_step": zero.adam_step(self.engine.deepspeed),
            "zero_stage": self.config.train.zero_stage,
            "parameters": self.shapes,
            "config": self.config.model_dump(mode="json"),
            "fingerprint": self.stream.corpus.manifest.fingerprint,
            "epochs": self.stream.plan.epochs(place),
            "best": self.best.state(),
            "rolled_back": self.rolled_back,
            "versions": {
                "ndt3_dist": ndt3_dist.__version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
        }
        slices = zero.local_slices(self.engine.deepspeed)
        with log.one_voice():
            self.writer.begin(step, slices, describe, self.stream.state(place))
        self.step = step

    def commit(self, last: bool = False) -> None:
        """Make the step that was written exist, and delete those that are no longer kept."""
        with log.one_voice():
            self.writer.finish(last)
        if self.writer.rank == 0:
            kept = self.config.checkpoint
            prune(self.writer.run, kept.keep_last, kept.keep_every, self.best.step)

    def roll_back(self, why: str) -> None:
        """Take the weights and moments of the newest checkpoint; the data goes on where it is.

        Raises:
            Diverged: The run has gone back often enough, or has no checkpoint.
        """
        with log.one_voice():
            self.commit()
            allowed = self.config.train.max_rollbacks
            start = find_start(self.config, "auto") if self.rolled_back < allowed else None
            if start is None:
                raise Diverged(
                    f"{why}. Lower optim.lr, or look at the windows; train.max_skipped and "
                    "train.max_rollbacks allow more"
                )
            start = restore(self.config, "auto", start, self.engine)
        self.rolled_back += 1
        log.warn(
            f"{why}: back to the weights of step {start.meta['step']}, on with the data that "
            f"follows ({self.rolled_back} of {allowed} times)"
        )
