"""The loop of a training: rows in, optimiser steps, checkpoints and metrics out.

All ranks run it; rank 0 writes metrics and speaks. A step is: take the rows that the order says,
run this rank's micro-batches, sum losses in row order, step, log, perhaps validate and save.
"""

import math
import resource
import time

import numpy as np
import torch

from ndt3_dist import log, voice
from ndt3_dist.data.ledger import Damage
from ndt3_dist.data.stream import Step
from ndt3_dist.engines.phases import COMMUNICATION, DATA, SlowRanks, phase_metrics
from ndt3_dist.model.flops import peak_bf16
from ndt3_dist.train.health import Canary, leap_line, leaps, skip_line
from ndt3_dist.train.pretrain_config import PretrainConfig
from ndt3_dist.train.ranks import agree_on_step, gather
from ndt3_dist.train.run import Run
from ndt3_dist.train.run_metrics import (
    MetricsFile,
    Prometheus,
    Wandb,
    console_line,
    validation_line,
)
from ndt3_dist.train.saving import Saving
from ndt3_dist.train.schedule import learning_rate
from ndt3_dist.train.state import Best, RunState
from ndt3_dist.train.step import Losses, run_micro_batches


class Loop:
    """The steps of a run from its state on."""

    def __init__(self, run: Run, state: RunState):
        self.run, self.state, self.config = run, state, run.config
        self.saving = Saving(run, state)
        if run.renewed:  # what follows is other data, with a level of its own
            state.losses.clear()
        self.metrics = MetricsFile(run.folder, state.step, run.targets) if run.is_first else None
        self.wandb = Wandb(run.config, run.folder) if run.is_first else None
        self.prometheus = Prometheus(run.config) if run.is_first else None
        if self.metrics:
            run.writer.before_commit = self.before_commit
        self.total = total_steps(run.config, run.stream.steps_in(run.config.train.epochs))
        self.canary = Canary(run.engine, state.step)
        bf16_gpu = run.device.type == "cuda" and run.config.train.precision == "bf16"
        self.peak = peak_bf16(torch.cuda.get_device_name(run.device)) if bf16_gpu else None
        lines = self.metrics.lines if self.metrics else []
        self.first_last = [lines[i]["loss"] for i in (0, -1)] if lines else []
        self.slow = SlowRanks(run.watch.hosts)
        self.began = self.window = state.step
        self.of_window: dict[str, float] = {}

    def go(self) -> dict:
        """Take steps to the end of the run, or until all ranks are asked to stop.

        Returns:
            steps, and the first and last loss of the whole run.
        """
        try:
            with log.counting("training", self.total, self.state.step, "steps") as shown:
                return self._go(shown)
        finally:  # also where it ends by an error, whose message may send to them
            if self.metrics and self.wandb and self.prometheus:
                self.metrics.close()
                self.wandb.close()
                self.prometheus.close()

    def _go(self, shown: voice.Step) -> dict:
        run, state = self.run, self.state
        run.engine.train()
        steps = run.stream.steps(state.cursor, self.agree)
        clock, done = time.perf_counter(), self.is_done()
        while not done:
            began = time.perf_counter()
            if 0 < run.until <= state.step:
                run.stop.ask(f"step {run.until}")
            run.watch.doing = f"step {state.step + 1}"
            with log.rank_0_first(), run.engine.phases.at(DATA):
                work = next(steps)
            wait = time.perf_counter() - began
            if run.writer.written:
                self.saving.commit(state)
            if run.stop.agreed:
                self.saving.save(state)
                break
            values, losses, leapt = self.take_step(work)
            shown.add()
            values |= {"step_s": time.perf_counter() - clock, "wait_s": wait}
            values |= self.usage(losses, values["step_s"])
            clock, done = time.perf_counter(), self.is_done()
            better = False
            if run.validation and (state.step % self.config.validation.every_steps == 0 or done):
                better = self.validate(values)
                clock, done = time.perf_counter(), done or self.is_done()
            self.report(values | self.of_window, done)
            self.of_window = {}
            self.look_after(work, values, losses, leapt)
            if better and run.keep_best:
                run.keep_best()
            if self.saving.is_due(state) or ((better or done) and not run.keep_best):
                self.saving.save(state)
                clock = time.perf_counter()
        steps.close()  # type: ignore[attr-defined]
        self.saving.commit(state, last=True)
        first, last = self.first_last or (None, float("nan"))
        return {"steps": state.step, "loss_first": first, "loss_last": last}

    def before_commit(self) -> None:
        """What rank 0 writes before a checkpoint exists."""
        assert self.metrics
        self.metrics.flush()
        if self.run.before_commit:
            self.run.before_commit()

    def agree(self, totals: np.ndarray, found: list[Damage]) -> tuple[np.ndarray, list[Damage]]:
        """What all ranks have for the step; and whether one is to stop, or still writes."""
        run, phases, step, seconds = self.run, self.run.engine.phases, self.state.step, None
        if self.is_window_over(step):
            seconds = phases.take()
        asked, writing = run.stop.asked, run.writer.pending
        with phases.at(COMMUNICATION):
            agreed = agree_on_step(totals, found, asked, writing, run.device, seconds)
        if agreed.seconds is not None:
            self.look_at(agreed.seconds, step)
        run.writer.written = not agreed.writing and run.writer.under_way is not None
        if agreed.stop and not run.stop.agreed:
            run.stop.agreed = ", ".join(agreed.stop)
            run.stop.ask("another rank was")
        for damage in agreed.damage:
            log.warn(f"damaged, met at row {damage.position}: {damage.reason}")
        return agreed.totals, agreed.damage

    def is_window_over(self, step: int) -> bool:
        """Whether ranks are to tell where their time went, before the step that follows."""
        first = step == self.began + 1  # what is made once is no measure: it is told and forgotten
        due = first or step % self.config.log.every_steps == 0
        return due and step > self.window

    def look_at(self, seconds: np.ndarray, step: int) -> None:
        """Name ranks that were slow since the last window; `of_window` is for metrics."""
        steps, self.window = step - self.window, step
        if step == self.began + 1:
            return
        self.of_window = phase_metrics(seconds, steps)
        for line in self.slow.lines(seconds, steps):
            log.note(line)

    def is_done(self) -> bool:
        epochs = self.run.stream.epochs(self.state.cursor)
        return is_done(self.config, self.state.step, epochs, self.state.best.waited)

    def take_step(self, work: Step) -> tuple[dict, Losses, bool]:
        """One optimiser step.

        Returns:
            Its metrics, the losses of its micro-batches, whether its loss leaps.
        """
        run, state = self.run, self.state
        epochs = run.stream.epochs(state.cursor)
        lr = learning_rate(self.config.optim, epochs)
        losses = run_micro_batches(run, work, state.step)
        of_targets = [math.fsum(column) for column in zip(*losses.of_batches, strict=True)]
        loss = sum(of_targets)
        leapt = leaps(loss, state.losses)  # alike on all ranks
        taken = math.isfinite(loss)
        if taken:
            state.losses.append(loss)
        taken = taken and not (leapt and self.config.train.on_leap == "skip")
        norm = run.engine.step(lr, taken)
        state.skipped = 0 if taken and math.isfinite(norm) else state.skipped + 1
        named = zip(run.targets, of_targets, strict=True)
        values = {
            "loss": loss,
            **{f"loss_{target.name}": value for target, value in named},
            "grad_norm": norm,
            "lr": lr,
            "epochs": epochs,
            "position": state.cursor.position,
            "samples": work.samples,
            "tokens": work.tokens,
            **losses.of_datasets,
        }
        self.first_last = [*self.first_last[:1], loss] if self.first_last else [loss] * 2
        state.step, state.cursor = state.step + 1, work.after
        return values, losses, leapt

    def usage(self, losses: Losses, seconds: float) -> dict:
        """How much of the devices a step used: TFLOP/s, MFU and HFU where their peak is known."""
        devices = max(seconds, 1e-9) * self.run.stream.world_size
        needed, ran = (operations / devices for operations in losses.operations)
        values = {"tflops": needed / 1e12, "memory_gb": memory_gb(self.run.device)}
        if self.peak:
            values |= {"mfu": needed / self.peak, "hfu": ran / self.peak}
        return values

    def validate(self, values: dict) -> bool:
        """Add scores on held-out data to `values`; whether they are the best so far."""
        assert self.run.validation
        values |= self.run.validation.scores(self.run.engine, self.run.device)
        best = self.state.best
        better = best.take(self.state.step, values[best.metric])
        log.say(validation_line(self.state.step, values, best.step))
        if 0 < self.config.validation.patience <= best.waited:
            log.say(over_line(best))
        return better

    def report(self, values: dict, done: bool) -> None:
        """Metrics of a step to their file, W&B and the console."""
        step = self.state.step
        if self.metrics and self.wandb and self.prometheus:
            if self.run.lease:
                self.run.lease.still_held()
            self.metrics.write(step, values)
            self.wandb.write(step, values)
            self.prometheus.write(step, values)
            if step % self.config.log.every_steps == 0 or done:
                left = max(self.total - step, 0) * values["step_s"]
                log.say(console_line(step, self.total, values, left))

    def look_after(self, work: Step, values: dict, losses: Losses, leapt: bool) -> None:
        """Say what is wrong with a step, by its windows; go back or end where it stays so."""
        run, state = self.run, self.state
        if state.skipped or leapt:  # of all ranks, so all of them know
            rows = [row for of_rank in gather(work.rows) for row in of_rank]
            if run.is_first:
                log.warn(
                    skip_line(run, state.step, losses, leapt, rows)
                    if state.skipped
                    else leap_line(run, state.step, values["loss"], rows)
                )
        if state.skipped > self.config.train.max_skipped:
            leap = ", or a loss that leaps" if self.config.train.on_leap == "skip" else ""
            self.saving.roll_back(
                state,
                f"{state.skipped} steps in a row, the last of them {state.step}, had no finite "
                f"loss and gradient{leap}",
            )
        if state.step % self.config.log.every_steps == 0 and not self.canary.moved(state.step):
            log.warn(
                f"no weight has moved since step {self.canary.since}: look at optim.lr "
                f"({values['lr']:.2g}), the gradient's norm ({values['grad_norm']:.2g}), and at "
                "steps that were skipped"
            )


def is_done(config: PretrainConfig, step: int, epochs: float, waited: int = 0) -> bool:
    """Whether a run has taken its steps, seen its epochs, or waited for a better validation."""
    train, patience = config.train, config.validation.patience
    if train.max_steps and step >= train.max_steps:
        return True
    return epochs >= train.epochs or 0 < patience <= waited


def memory_gb(device: torch.device) -> float:
    """Most that this rank has allocated on its GPU; on a CPU the most that it held."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def over_line(best: Best) -> str:
    """Why a run ends before its epochs."""
    return (
        f"no better {best.metric} in {best.waited} validations; the best is step {best.step} "
        f"({best.value:.4f}), whose checkpoint is kept"
    )


def total_steps(config: PretrainConfig, steps: float) -> int:
    """About how many optimiser steps a run will take, for progress alone; `is_done` decides."""
    most = max(1, math.ceil(steps))
    return min(most, config.train.max_steps) if config.train.max_steps else most
