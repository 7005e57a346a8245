"""Pretraining from a config: what it needs is opened, checked and restored, then the loop runs."""

import math

import torch
import torch.distributed as dist

from ndt3_dist import log
from ndt3_dist.checkpoint.steps import Checkpoint, remove_remnants, set_aside, steps_of
from ndt3_dist.checkpoint.writer import Writer
from ndt3_dist.data.stream import Stream
from ndt3_dist.model.attention import choose_body
from ndt3_dist.shards.cache import default_cache
from ndt3_dist.shards.corpus import Corpus
from ndt3_dist.train import zero
from ndt3_dist.train.engine import Engine, accumulation, start_distributed
from ndt3_dist.train.initial import InitialExport, initial_model
from ndt3_dist.train.loop import Loop, is_done, total_steps
from ndt3_dist.train.pretrain_config import PretrainConfig
from ndt3_dist.train.ranks import first_for_all, gather
from ndt3_dist.train.saving import Saving
from ndt3_dist.train.start import (
    agree,
    check_same,
    check_shared,
    find_start,
    refuse_loop,
    restore,
    run_folder,
    write_run_files,
)
from ndt3_dist.train.stop import StopWatch
from ndt3_dist.train.validation import Validation, open_held_out
from ndt3_dist.train.watch import RankWatch, open_store

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
        if resume == "auto" and not (start and is_over(config, start)):
            refuse_loop(config, start)
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
    zero.prepare(engine.deepspeed)
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
    step = 0
    if start:
        step = start.meta["step"]
        if rank == 0:
            # Newer steps belong to a future that is now run again; no resume may find them.
            for newer in [s for s in steps_of(run) if s > step]:
                set_aside(run, newer)
    if rank == 0:
        remove_remnants(run)
        write_run_files(config, stream, start, init)
    with log.one_voice():
        check_shared(run)
    writer = Writer(run, rank, world_size, gather, config.checkpoint.background)
    saving = Saving(config, engine, stream, writer, shapes)
    if start:
        saving.restore(start.meta)
    store = open_store(rank, world_size, first_for_all)
    watch = RankWatch(rank, world_size, config.train.slow_rank_s, store)
    try:
        found = Loop(config, engine, stream, saving, validation, stop, watch, device, step).run()
        dist.barrier()
    finally:
        watch.close()
    dist.destroy_process_group()
    resumed = start.meta["step"] if start else None
    return {**found, "resumed": resumed, "stopped": stop.agreed, "saved": saving.step}


def is_over(config: PretrainConfig, start: Checkpoint) -> bool:
    """Whether a checkpoint is the last of its run."""
    best = start.meta["best"] or {"waited": 0}
    return is_done(config, start.meta["step"], start.meta["epochs"], best["waited"])


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
    if world_size & (world_size - 1) and train.precision == "bf16":
        log.say(
            f"{world_size} ranks are no power of two: losses will be those of other numbers of "
            "ranks to about 1e-3, not to the last bit"
        )
    if start:
        log.say(f"resuming from step {start.meta['step']} ({start.folder})")
