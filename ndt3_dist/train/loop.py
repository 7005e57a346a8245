"""The loop of a pretraining: rows in, optimiser steps, checkpoints and metrics out.

All ranks run it; rank 0 writes metrics and speaks. A step is: take the rows that the order says,
run this rank's micro-batches, sum losses in row order, step, log, perhaps validate and save.
"""

import math
import time

import numpy as np
import psutil
import torch

from ndt3_dist import log
from ndt3_dist.data.ledger import Damage
from ndt3_dist.data.stream import Step, Stream
from ndt3_dist.train.canary import Canary
from ndt3_dist.train.engine import Engine
from ndt3_dist.train.flops import peak_bf16
from ndt3_dist.train.pretrain_config import PretrainConfig
from ndt3_dist.train.ranks import gather, share
from ndt3_dist.train.run_metrics import MetricsFile, Wandb, console_line, validation_line
from ndt3_dist.train.saving import Saving
from ndt3_dist.train.schedule import learning_rate
from ndt3_dist.train.spikes import skip_line, spike_line
from ndt3_dist.train.start import run_folder
from ndt3_dist.train.step import loss_divisors, run_micro_batches
from ndt3_dist.train.stop import StopWatch
from ndt3_dist.train.validation import Best, Validation
from ndt3_dist.train.watch import WAITS, RankWatch


class Loop:
    """The steps of a run from a place on."""

    def __init__(
        self,
        config: PretrainConfig,
        engine: Engine,
        stream: Stream,
        saving: Saving,
        validation: Validation | None,
        stop: StopWatch,
        watch: RankWatch,
        device: torch.device,
        step: int,
    ):
        """
        Args:
            config, engine, stream, saving, validation, stop, watch, device: Of the run.
            step: Steps that it has behind it.
        """
        self.config, self.engine, self.stream, self.saving = config, engine, stream, saving
        self.validation, self.stop, self.device = validation, stop, device
        self.ranks = watch
        self.step, self.place = step, stream.start
        run, first = run_folder(config), stream.rank == 0
        self.metrics = MetricsFile(run, step) if first else None
        self.wandb = Wandb(config, run) if first else None
        if self.metrics:
            saving.writer.before_commit = self.metrics.flush
        self.total = total_steps(config, stream.plan.epoch_rows)
        self.canary = Canary(engine, step)
        bf16_gpu = device.type == "cuda" and config.train.precision == "bf16"
        self.peak = peak_bf16(torch.cuda.get_device_name(device)) if bf16_gpu else None
        lines = self.metrics.lines if self.metrics else []
        self.losses = [lines[i]["loss"] for i in (0, -1)] if lines else []

    def run(self) -> dict:
        """Take steps to the end of the run, or until all ranks are asked to stop.

        Returns:
            steps, and the first and last loss of the whole run.
        """
        try:
            return self._run()
        finally:  # also where it ends by an error, whose message may send to them
            if self.metrics and self.wandb:
                self.metrics.close()
                self.wandb.close()

    def _run(self) -> dict:
        self.engine.deepspeed.train()
        steps = self.stream.steps(self.place, self.meet)
        clock, done = time.perf_counter(), self.is_done()
        while not done:
            began = time.perf_counter()
            self.ranks.place = f"step {self.step + 1}, reading"
            with log.one_voice():
                work = next(steps)
            wait = time.perf_counter() - began
            if self.saving.writer.written:
                self.saving.commit()
            if self.stop.agreed:
                self.saving.save(self.step, self.place)
                break
            self.ranks.place = f"step {self.step + 1}"
            values, micro_losses, flops, spiked = self.take_step(work)
            values |= {"step_s": time.perf_counter() - clock, "wait_s": wait}
            values |= self.usage(flops, values["step_s"])
            clock, done = time.perf_counter(), self.is_done()
            better = False
            if self.validation and (self.step % self.config.validation.every_steps == 0 or done):
                better = self.validate(values)
                clock, done = time.perf_counter(), done or self.is_done()
            self.tell(values, done)
            self.watch(work, values, micro_losses, spiked)
            if self.step % self.config.checkpoint.every_steps == 0 or better or done:
                self.saving.save(self.step, self.place)
                clock = time.perf_counter()
        steps.close()  # type: ignore[attr-defined]
        self.saving.commit(last=True)
        first, last = self.losses or (None, float("nan"))
        return {"steps": self.step, "loss_first": first, "loss_last": last}

    def meet(self, counts: np.ndarray, found: list[Damage]):
        """Tell the other ranks what this one has for the step, and hear what they have."""
        self.ranks.place = f"step {self.step + 1}, {WAITS}"
        return share(counts, found, self.device, self.stop, self.saving.writer)

    def is_done(self) -> bool:
        epochs = self.stream.plan.epochs(self.place)
        return is_done(self.config, self.step, epochs, self.saving.best.waited)

    def take_step(self, work: Step) -> tuple[dict, list[list[float]], tuple[float, float], bool]:
        """One optimiser step.

        Returns:
            Its metrics, both losses of every micro-batch, its operations, whether its loss leaps.
        """
        epochs = self.stream.plan.epochs(self.place)
        lr = learning_rate(self.config.optim, epochs)
        divisors = loss_divisors(self.config, work)
        losses, flops, of_datasets = run_micro_batches(
            self.config, self.engine, self.stream, work, divisors, self.step, self.device
        )
        spikes, covariates = (math.fsum(column) for column in zip(*losses, strict=True))
        spiked = self.saving.spikes.is_spike(spikes + covariates)  # alike on all ranks
        taken = math.isfinite(spikes + covariates)
        taken = taken and not (spiked and self.config.train.on_spike == "skip")
        norm = self.engine.step(lr, taken)
        self.saving.skipped = 0 if taken and math.isfinite(norm) else self.saving.skipped + 1
        values = {
            "loss": spikes + covariates,
            "loss_spikes": spikes,
            "loss_covariates": covariates,
            "grad_norm": norm,
            "lr": lr,
            "epochs": epochs,
            "position": self.place.position,
            "samples": work.samples,
            "tokens": work.tokens,
            **of_datasets,
        }
        self.losses = [*self.losses[:1], values["loss"]] if self.losses else [values["loss"]] * 2
        self.step, self.place = self.step + 1, work.after
        return values, losses, flops, spiked

    def usage(self, flops: tuple[float, float], seconds: float) -> dict:
        """How much of the devices a step used: TFLOP/s, MFU and HFU where their peak is known."""
        needed, ran = (f / max(seconds, 1e-9) / self.stream.world_size for f in flops)
        values = {"tflops": needed / 1e12, "memory_gb": memory_gb(self.device)}
        if self.peak:
            values |= {"mfu": needed / self.peak, "hfu": ran / self.peak}
        return values

    def validate(self, values: dict) -> bool:
        """Add scores on held-out windows to `values`; whether they are the best so far."""
        assert self.validation
        values |= self.validation.scores(self.engine, self.device)
        best = self.saving.best
        better = best.take(self.step, values[best.metric])
        log.say(validation_line(self.step, values, best.step))
        if 0 < self.config.validation.patience <= best.waited:
            log.say(over_line(best))
        return better

    def tell(self, values: dict, done: bool) -> None:
        """Metrics of a step to their file, W&B and the console."""
        if self.metrics and self.wandb:
            self.metrics.write(self.step, values)
            self.wandb.write(self.step, values)
            if self.step % self.config.log.every_steps == 0 or done:
                left = max(self.total - self.step, 0) * values["step_s"]
                log.say(console_line(self.step, self.total, values, left))

    def watch(
        self, work: Step, values: dict, micro_losses: list[list[float]], spiked: bool
    ) -> None:
        """Say what is wrong with a step, by its windows; go back or end where it stays so."""
        skipped = self.saving.skipped
        if skipped or spiked:  # of all ranks, so all of them know
            rows = [row for of_rank in gather(work.rows) for row in of_rank]
            if self.stream.rank == 0:
                sums = [sum(pair) for pair in micro_losses]
                world = self.stream.world_size
                log.warn(
                    skip_line(self.step, sums, spiked, world, self.stream, rows)
                    if skipped
                    else spike_line(self.step, values["loss"], self.stream, rows)
                )
        if skipped > self.config.train.max_skipped:
            leap = ", or a loss that leaps" if self.config.train.on_spike == "skip" else ""
            self.saving.roll_back(
                f"{skipped} steps in a row, the last of them {self.step}, had no finite "
                f"loss and gradient{leap}"
            )
        if self.step % self.config.log.every_steps == 0 and not self.canary.moved(self.step):
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
    """Most that this rank has allocated on its GPU; on a CPU what it holds now."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return psutil.Process().memory_info().rss / 1e9


def over_line(best: Best) -> str:
    """Why a run ends before its epochs."""
    return (
        f"no better {best.metric} in {best.waited} validations; the best is step {best.step} "
        f"({best.value:.4f}), whose checkpoint is kept"
    )


def total_steps(config: PretrainConfig, epoch_rows: int) -> int:
    """About how many optimiser steps a run will take, for progress alone; `is_done` decides."""
    steps = max(1, math.ceil(config.train.epochs * epoch_rows / config.train.global_batch))
    return min(steps, config.train.max_steps) if config.train.max_steps else steps
