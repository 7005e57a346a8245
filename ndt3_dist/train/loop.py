"""Pretraining: rows in, optimiser steps, checkpoints and metrics out.

All ranks run this; rank 0 writes metrics and speaks. A step is: take the rows that the order says,
run this rank's micro-batches, sum losses in row order, step, log, perhaps save.
"""

import math
import platform
import sys
import time

import torch
import torch.distributed as dist

import ndt3_dist
from ndt3_dist import log
from ndt3_dist.checkpoint.format import delete_step, prune, steps_of
from ndt3_dist.checkpoint.save import Writer
from ndt3_dist.config import PretrainConfig
from ndt3_dist.data.order import Place
from ndt3_dist.data.stream import Step, Stream
from ndt3_dist.errors import Diverged
from ndt3_dist.model.attention import choose_body
from ndt3_dist.model.tokens import PackedTokens
from ndt3_dist.shards.cache import default_cache
from ndt3_dist.shards.read import Corpus
from ndt3_dist.train import zero
from ndt3_dist.train.engine import Engine, accumulation, start_distributed
from ndt3_dist.train.initial import InitialExport, initial_model
from ndt3_dist.train.metrics import MetricsFile, Wandb, console_line, validation_line
from ndt3_dist.train.ranks import first_for_all, gather, share
from ndt3_dist.train.schedule import learning_rate
from ndt3_dist.train.spikes import SkipWatch, SpikeWatch, skip_line, spike_line
from ndt3_dist.train.start import (
    agree,
    check_same,
    find_start,
    restore,
    run_folder,
    write_run_files,
)
from ndt3_dist.train.stop import StopWatch
from ndt3_dist.train.validation import Best, Validation, open_held_out

PRECISION = {"bf16": torch.bfloat16, "fp32": torch.float32}


def pretrain(config: PretrainConfig, resume: str = "never", init: str | None = None) -> dict:
    """Run a pretraining to its end.

    Args:
        config: Checked configuration.
        resume: never, auto or a step number.
        init: Export to start a new run from; a run that is resumed goes on from its own.
    Returns:
        steps, resumed (step it went on from, or None), the first and last loss of the whole run,
        stopped (who was asked to stop and how; empty where the run went to its end), saved (step of
        the last checkpoint).
    """
    stop = StopWatch(config.checkpoint.stop_within_s)
    try:
        return _pretrain(config, resume, init, stop)
    finally:
        stop.close()


def _pretrain(config: PretrainConfig, resume: str, init: str | None, stop: StopWatch) -> dict:
    with log.one_voice():
        cache = default_cache(config.data.cache, config.data.cache_gb)
        corpus = Corpus(config.data.corpus, cache=cache)
        start = find_start(config, resume)
        if start:
            check_same(config, start)
        initial = InitialExport(init, config.model) if init and not start else None
    rank, world_size, device = start_distributed()
    with log.one_voice():
        accumulation(config, world_size)
        choose_body(config.model.attention, device, PRECISION[config.train.precision])
        agree(config, corpus.manifest, start)
    run, model = run_folder(config), initial_model(config)
    shapes = {name: list(p.shape) for name, p in model.named_parameters()}
    engine = Engine(config, model.to(device), world_size)
    with log.one_voice():
        if start:
            start = restore(config, resume, start, engine)
        if initial:
            zero.fill(engine.deepspeed, initial.read, initial.adam_step)
            zero.refresh(engine.deepspeed)
        stream = Stream(
            corpus,
            config.data,
            config.model,
            config.run.seed,
            config.train.global_batch,
            config.train.micro_batch,
            rank,
            world_size,
            first_for_all,
            start.stream if start else None,
            initial.epochs if initial else 0.0,
        )
        held_out = open_held_out(config, corpus) if config.validation.every_steps else None
        validation = Validation(config, held_out, rank, world_size) if held_out else None
    announce(config, stream, shapes, world_size, device, start)
    step, place, plan = 0, stream.start, stream.plan
    if start:
        step = start.meta["step"]
        if rank == 0:
            # Newer steps belong to a future that is now run again; no resume may find them.
            for newer in [s for s in steps_of(run) if s > step]:
                delete_step(run, newer)
    if rank == 0:
        write_run_files(config, stream, start, init)
    writer = Writer(run, rank, world_size, gather, config.checkpoint.background)
    metrics = MetricsFile(run, step) if rank == 0 else None
    wandb = Wandb(config, run) if rank == 0 else None
    first = metrics.lines[0]["loss"] if metrics and metrics.lines else None
    loss = metrics.lines[-1]["loss"] if metrics and metrics.lines else float("nan")
    total = total_steps(config, plan.epoch_rows)
    engine.deepspeed.train()
    steps = stream.steps(place, lambda counts, found: share(counts, found, device, stop, writer))
    watch, skips, saved, clock = SpikeWatch(), SkipWatch(), step, time.perf_counter()
    best = Best.of(config.validation.metric, start.meta.get("best") if start else None)
    done = is_done(config, step, plan.epochs(place)) or is_over(config, best)
    while not done:
        began = time.perf_counter()
        with log.one_voice():
            work = next(steps)
        if writer.written:
            with log.one_voice():
                keep(config, writer, best)
        if stop.agreed:
            if step > saved:
                save_step(writer, engine, config, stream, shapes, step, place, best)
            break
        wait = time.perf_counter() - began
        epochs = plan.epochs(place)
        lr = learning_rate(config.optim, epochs)
        divisors = loss_divisors(config, work)
        losses = run_micro_batches(engine, work, divisors, step, device)
        spikes, covariates = (math.fsum(column) for column in zip(*losses, strict=True))
        norm = engine.step(lr, math.isfinite(spikes + covariates))
        now = time.perf_counter()
        values = {
            "loss": spikes + covariates,
            "loss_spikes": spikes,
            "loss_covariates": covariates,
            "grad_norm": norm,
            "lr": lr,
            "epochs": epochs,
            "position": place.position,
            "samples": work.samples,
            "tokens": work.tokens,
            "step_s": now - clock,
            "wait_s": wait,
        }
        step, place, clock, loss = step + 1, work.after, now, values["loss"]
        first = loss if first is None else first
        done = is_done(config, step, plan.epochs(place))
        better = False
        if validation and (step % config.validation.every_steps == 0 or done):
            values |= validation.scores(engine, device)
            better = best.take(step, values[best.metric])
            log.say(validation_line(step, values, best.step)) if rank == 0 else None
            if is_over(config, best):
                done = True
                log.say(over_line(best)) if rank == 0 else None
            clock = time.perf_counter()
        if metrics and wandb:
            metrics.write(step, values)
            wandb.write(step, values)
            if step % config.log.every_steps == 0 or done:
                log.say(console_line(step, total, values, max(total - step, 0) * values["step_s"]))
        if skips.is_skipped(loss, norm):  # of all ranks, so all of them know
            rows = [row for of_rank in gather(work.rows) for row in of_rank]
            if rank == 0:
                log.warn(skip_line(step, [sum(pair) for pair in losses], world_size, stream, rows))
            if skips.in_row > config.train.max_skipped:
                if rank:
                    sys.exit(1)  # rank 0 says why
                raise Diverged(
                    f"{skips.in_row} steps in a row, the last of them {step}, had no finite loss "
                    f"and gradient; the weights are those of step {step - skips.in_row}. Lower "
                    "optim.lr, or look at the windows; train.max_skipped allows more"
                )
        if watch.is_spike(loss):
            rows = [row for of_rank in gather(work.rows) for row in of_rank]
            if rank == 0:
                log.warn(spike_line(step, loss, stream, rows))
        if step % config.checkpoint.every_steps == 0 or better or done:
            save_step(writer, engine, config, stream, shapes, step, place, best)
            saved, clock = step, time.perf_counter()
    steps.close()  # type: ignore[attr-defined]
    with log.one_voice():
        keep(config, writer, best, last=True)
    if metrics and wandb:
        metrics.close()
        wandb.close()
    resumed = start.meta["step"] if start else None
    dist.barrier()
    dist.destroy_process_group()
    found = {"steps": step, "resumed": resumed, "loss_first": first, "loss_last": loss}
    return {**found, "stopped": stop.agreed, "saved": saved}


def loss_divisors(config: PretrainConfig, work: Step) -> list[tuple[int, int]]:
    """What each of this rank's micro-batches divides its sums of spike and covariate loss by.

    The counts of the whole step; or, with `train.upstream_means`, those of the micro-batch itself
    times the number of micro-batches, which makes the step's loss a mean of means.
    """
    if not config.train.upstream_means:
        return [(work.num_spikes, work.num_covariates)] * len(work.batches)
    number = config.train.global_batch // config.train.micro_batch
    return [
        (
            number * int(arrays["spike_channels"].sum()),
            number * int(arrays["covariate_valid"].sum()),
        )
        for _, arrays in work.batches
    ]


def run_micro_batches(
    engine: Engine, work: Step, divisors: list[tuple[int, int]], step: int, device
) -> list[list[float]]:
    """Forward and backward of this rank's micro-batches, losses of the whole step.

    Args:
        engine: The engine.
        work: This rank's part of the step.
        divisors: Of each micro-batch, from `loss_divisors`.
        step: Number of the step.
        device: Of the model.
    Returns:
        Spike and covariate loss of every micro-batch of the global step, in their order, float64;
        their sums are the step's means.
    """
    sums = []
    for done, ((number, arrays), counts) in enumerate(zip(work.batches, divisors, strict=True), 1):
        tokens = PackedTokens.from_numpy(arrays, device)
        out = engine.micro_step(tokens, *counts, (step, number))
        scale = torch.tensor(counts, dtype=torch.float64, device=device).clamp(min=1)
        sums.append(torch.stack((out.spike_sum, out.covariate_sum)).double() / scale)
        if done < len(work.batches):
            engine.accumulated()
    ours = torch.stack(sums)  # (accumulation, 2)
    every = [torch.empty_like(ours) for _ in range(dist.get_world_size())]
    dist.all_gather(every, ours)
    in_order = torch.stack(every, dim=1).flatten(0, 1).cpu()  # micro-batch a * world + rank
    return in_order.tolist()


def save_step(
    writer: Writer, engine, config, stream, shapes, step: int, place: Place, best: Best
) -> None:
    """Begin to save a checkpoint of this moment."""
    describe = {
        "adam_step": zero.adam_step(engine.deepspeed),
        "zero_stage": config.train.zero_stage,
        "parameters": shapes,
        "config": config.model_dump(mode="json"),
        "fingerprint": stream.corpus.manifest.fingerprint,
        "epochs": stream.plan.epochs(place),
        "best": best.state(),
        "versions": {
            "ndt3_dist": ndt3_dist.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }
    writer.begin(step, zero.local_slices(engine.deepspeed), describe, stream.state(place))


def keep(config: PretrainConfig, writer: Writer, best: Best, last: bool = False) -> None:
    """Make the step that was written exist, and delete those that are no longer kept."""
    writer.finish(last)
    if writer.rank == 0:
        kept = config.checkpoint
        prune(writer.run, kept.keep_last, kept.keep_every, best.step)


def is_done(config: PretrainConfig, step: int, epochs: float) -> bool:
    """Whether a run has seen its epochs, or taken its `max_steps`."""
    if config.train.max_steps and step >= config.train.max_steps:
        return True
    return epochs >= config.train.epochs


def is_over(config: PretrainConfig, best: Best) -> bool:
    """Whether the run has waited long enough for a better validation."""
    return 0 < config.validation.patience <= best.waited


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


def announce(config, stream: Stream, shapes, world_size: int, device, start) -> None:
    """Print what will run, with every derived number."""
    train, parameters = config.train, sum(math.prod(s) for s in shapes.values())
    sources, shares, width = stream.plan.sources, stream.plan.shares, config.data.row_tokens
    windows, tokens, rows = sources.num_samples, sources.tokens.sum(), stream.plan.epoch_rows
    blocks = sum(len(s.blocks.rows) for s in sources.every)
    body = choose_body(config.model.attention, device, PRECISION[train.precision])
    log.say(
        f"run {run_folder(config)}: {parameters:,} parameters, {train.precision}, "
        f"ZeRO-{train.zero_stage}, {world_size} ranks on {device.type}, attention {body}"
    )
    log.say(
        f"corpus {stream.corpus.manifest.fingerprint[:12]}: {windows} windows, {tokens} tokens, "
        f"{tokens / windows:.0f} per window; {rows} rows an epoch, "
        f"{sources.fill(shares):.1%} full, of {blocks} blocks"
    )
    for line in sources.told(shares):
        log.say(line)
    log.say(
        f"step: {train.global_batch} rows of {width} tokens = micro-batch "
        f"{train.micro_batch} x accumulation {accumulation(config, world_size)} x {world_size} "
        f"ranks; about {total_steps(config, rows)} steps"
    )
    if start:
        log.say(f"resuming from step {start.meta['step']} ({start.folder})")
