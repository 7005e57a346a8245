"""Checkpoints of a run: what they say, which are kept, and going back to one.

All ranks call the same functions at the same steps.
"""

import platform
import time

import torch

import ndt3_dist
from ndt3_dist import log
from ndt3_dist.checkpoint.steps import prune, steps_of
from ndt3_dist.engines.phases import CHECKPOINT, COMMIT, COMMUNICATION
from ndt3_dist.errors import Diverged, Ndt3DistError
from ndt3_dist.train.ranks import broadcast
from ndt3_dist.train.run import Run
from ndt3_dist.train.start import choose, restore
from ndt3_dist.train.state import Best, RunState


class Saving:
    """The checkpoints of a run.

    Attributes:
        step: The last that was saved, or gone on from.
        best_there: The step of the best checkpoint that exists.
    """

    def __init__(self, run: Run, state: RunState):
        self.run, self.step, self.last = run, state.step, time.monotonic()
        best = state.best
        if (
            best.step
            and not run.keep_best
            and not broadcast(lambda: best.step in steps_of(run.folder))
        ):
            log.warn(f"the best step, {best.step}, is not there; the best is sought anew")
            state.best = Best(best.metric)
        self.best_there = state.best.step

    def is_due(self, state: RunState) -> bool:
        """Whether a step is to be saved by its number, or by the time since the last one was."""
        if time.monotonic() - self.last > self.run.save_after_s:
            return True
        return state.step % self.run.config.checkpoint.every_steps == 0

    def save(self, state: RunState) -> None:
        """Begin to save this moment, unless it is saved already."""
        if state.step == self.step:
            return
        run = self.run
        describe = {
            "adam_step": run.engine.adam_step(),
            "zero_stage": run.config.train.zero_stage,
            "parameters": run.shapes,
            "config": run.config.model_dump(mode="json"),
            "fingerprint": run.stream.fingerprint,
            "epochs": run.stream.epochs(state.cursor),
            **state.state(),
            "versions": {
                "ndt3_dist": ndt3_dist.__version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
        }
        if run.writer.under_way:
            self.commit(state)
        with log.rank_0_first(), log.waiting(f"saving step {state.step}"):
            self._still_ours()
            stream = run.stream.state(state.cursor)
            with run.engine.phases.at(CHECKPOINT):
                run.writer.begin(state.step, run.engine.slices(), describe, stream)
        self.step, self.last = state.step, time.monotonic()
        with run.engine.phases.at(COMMIT):
            self._prune(state)  # the one before, or this one, has been committed

    def commit(self, state: RunState, last: bool = False) -> None:
        """Make the step that was written exist, and delete those that are no longer kept."""
        with log.rank_0_first(), log.waiting("committing the checkpoint"):
            if self.run.writer.under_way:
                with self.run.engine.phases.at(CHECKPOINT):
                    self.run.writer.join()
                self._still_ours()
            self.run.writer.finish(last)
        with self.run.engine.phases.at(COMMIT):
            self._prune(state)

    def _still_ours(self) -> None:
        """Raises, on all ranks, where another process has taken the folder over."""
        lease = self.run.lease
        if lease or self.run.stream.world_size > 1:
            with self.run.engine.phases.at(COMMUNICATION):
                broadcast(lambda: lease.check() if lease else None)

    def _prune(self, state: RunState) -> None:
        if not self.run.is_first:
            return
        folder, kept = self.run.folder, self.run.config.checkpoint
        try:
            if not self.run.keep_best and state.best.step in steps_of(folder):
                self.best_there = state.best.step  # until then the one before is kept
            prune(folder, kept.keep_last, kept.keep_every, self.best_there)
        except (OSError, Ndt3DistError) as e:  # of this rank alone, and no reason to end
            log.warn(f"old checkpoints stay for now: {e}")

    def roll_back(self, state: RunState, why: str) -> None:
        """Take the weights and moments of the newest checkpoint; the data goes on where it is.

        Raises:
            Diverged: The run has gone back often enough, or has no checkpoint.
        """
        with log.rank_0_first():
            self.commit(state)
            allowed = self.run.config.train.max_rollbacks
            start = choose(self.run.config) if state.rolled_back < allowed else None
            if start is None:
                raise Diverged(
                    f"{why}. Lower optim.lr, or look at the windows; train.max_skipped and "
                    "train.max_rollbacks allow more"
                )
            start = restore(self.run.config, "auto", start, self.run.engine)
        state.rolled_back += 1
        state.skipped = 0
        log.warn(
            f"{why}: back to the weights of step {start.meta['step']}, on with the data that "
            f"follows ({state.rolled_back} of {allowed} times)"
        )
