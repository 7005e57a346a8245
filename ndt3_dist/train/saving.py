"""What a checkpoint of a run says, which are kept, and going back to one."""

import platform

import torch

import ndt3_dist
from ndt3_dist import log
from ndt3_dist.checkpoint.steps import prune, steps_of
from ndt3_dist.checkpoint.writer import Writer
from ndt3_dist.data.order import Place
from ndt3_dist.data.stream import Stream
from ndt3_dist.errors import Diverged, Ndt3DistError
from ndt3_dist.train import zero
from ndt3_dist.train.engine import Engine
from ndt3_dist.train.pretrain_config import PretrainConfig
from ndt3_dist.train.ranks import first_for_all
from ndt3_dist.train.spikes import SpikeWatch
from ndt3_dist.train.start import choose, restore
from ndt3_dist.train.validation import Best


class Saving:
    """Checkpoints of a run. All ranks call the same methods at the same steps.

    Attributes:
        writer: That writes them.
        step: The last that was saved, or gone on from.
        best: The best validated step so far.
        best_there: The step of the best checkpoint that exists.
        rolled_back: How often the run went back to the weights of an earlier checkpoint.
        skipped: Steps in a row that moved no weight.
        spikes: Watch of the loss.
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
        self.best_there, self.skipped, self.spikes = 0, 0, SpikeWatch()

    def restore(self, meta: dict) -> None:
        """Go on from a checkpoint.json."""
        self.step = meta["step"]
        best = Best.of(self.config.validation.metric, meta["best"])
        if best.step and not first_for_all(lambda: best.step in steps_of(self.writer.run)):
            log.warn(f"the best step, {best.step}, is not there; the best is sought anew")
            best = Best(self.config.validation.metric)
        self.best, self.best_there = best, best.step
        self.rolled_back, self.skipped = meta["rolled_back"], meta["skipped"]
        if not self.stream.plan.renewed:  # what follows is other data, with a level of its own
            self.spikes.losses.extend(meta.get("losses", ()))

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
            "skipped": self.skipped,
            "losses": list(self.spikes.losses),
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
        self._prune()  # the one before, or this one, has been committed

    def commit(self, last: bool = False) -> None:
        """Make the step that was written exist, and delete those that are no longer kept."""
        with log.one_voice():
            self.writer.finish(last)
        self._prune()

    def _prune(self) -> None:
        if self.writer.rank == 0:
            run, kept = self.writer.run, self.config.checkpoint
            try:
                if self.best.step in steps_of(run):
                    self.best_there = self.best.step  # until then the one before is kept
                prune(run, kept.keep_last, kept.keep_every, self.best_there)
            except (OSError, Ndt3DistError) as e:  # of this rank alone, and no reason to end
                log.warn(f"old checkpoints stay for now: {e}")

    def roll_back(self, why: str) -> None:
        """Take the weights and moments of the newest checkpoint; the data goes on where it is.

        Raises:
            Diverged: The run has gone back often enough, or has no checkpoint.
        """
        with log.one_voice():
            self.commit()
            allowed = self.config.train.max_rollbacks
            start = choose(self.config) if self.rolled_back < allowed else None
            if start is None:
                raise Diverged(
                    f"{why}. Lower optim.lr, or look at the windows; train.max_skipped and "
                    "train.max_rollbacks allow more"
                )
            start = restore(self.config, "auto", start, self.engine)
        self.rolled_back += 1
        self.skipped = 0
        log.warn(
            f"{why}: back to the weights of step {start.meta['step']}, on with the data that "
            f"follows ({self.rolled_back} of {allowed} times)"
        )
