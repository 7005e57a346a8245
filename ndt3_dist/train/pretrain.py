"""Pretraining from a config: what it needs is opened, checked and restored, then the loop runs."""

import math
import socket
from contextlib import ExitStack

import torch
import torch.distributed as dist

from ndt3_dist import log, storage
from ndt3_dist.checkpoint.steps import Checkpoint, remove_remnants, set_aside, steps_of
from ndt3_dist.checkpoint.writer import Writer
from ndt3_dist.data.feed import Feed
from ndt3_dist.data.patterns import sources_of
from ndt3_dist.data.stream import Stream
from ndt3_dist.engines.aside import keep_said
from ndt3_dist.engines.engine import DeepSpeedEngine, accumulation, start_distributed
from ndt3_dist.engines.fp8 import use_fp8
from ndt3_dist.engines.launcher import check_launch
from ndt3_dist.engines.phase_names import COMMIT, COMMUNICATION
from ndt3_dist.model import fused
from ndt3_dist.model.attention import FLASH, choose_body
from ndt3_dist.model.flops import device_name
from ndt3_dist.model.model_config import ModelConfig
from ndt3_dist.shards.cache import default_cache
from ndt3_dist.shards.corpus import Corpus
from ndt3_dist.train.initial import InitialExport, initial_model
from ndt3_dist.train.loop import Loop, is_done, total_steps
from ndt3_dist.train.pretrain_config import PretrainConfig
from ndt3_dist.train.ranks import broadcast, gather, num_hosts
from ndt3_dist.train.run import Run
from ndt3_dist.train.settings import (
    as_begun,
    change_line,
    changed,
    fitted,
    with_identities,
    write_config,
)
from ndt3_dist.train.start import (
    LOGS,
    agree,
    check_possible,
    check_same,
    check_shared,
    find_start,
    hold,
    refuse_loop,
    restore,
    run_folder,
    write_run_files,
)
from ndt3_dist.train.state import Best, RunState
from ndt3_dist.train.stop import StopSignal
from ndt3_dist.train.validation import Validation, check_metric, open_held_out
from ndt3_dist.train.watch import RankWatch, open_store

PRECISION = {"bf16": torch.bfloat16, "fp32": torch.float32}


def pretrain(
    config: PretrainConfig, resume: str = "never", init: str | None = None, note: str = ""
) -> dict:
    """Run a pretraining to its end.

    Args:
        resume: never, auto or a step number.
        init: Export to start a new run from, a folder or an address; a run that is resumed goes on
            from its own.
        note: Why it starts, for starts.jsonl.
    Returns:
        steps, resumed (step it went on from, or None), the first and last loss of the whole run,
        stopped (who was asked to stop and how; empty where the run went to its end), saved (step of
        the last checkpoint).
    """
    stop = StopSignal(config.checkpoint.stop_within_s)
    with ExitStack() as held:
        held.callback(stop.close)
        return _pretrain(config, resume, init, note, stop, held)


def _pretrain(
    config: PretrainConfig,
    resume: str,
    init: str | None,
    note: str,
    stop: StopSignal,
    held: ExitStack,
) -> dict:
    with log.rank_0_first():
        check_launch(config.train.ranks, config.train.min_ranks)
        cache = default_cache(config.data.cache, config.data.cache_gb)
        corpus = Corpus(config.data.corpus, cache=cache)
        sources_of(corpus.path, [s.id for s in corpus.manifest.sessions], config.data)
        check_possible(config, int(corpus.first[-1]))
        with log.waiting(f"looking for checkpoints in {run_folder(config)}"):
            start = find_start(config, resume)
        if resume == "auto" and not (start and is_over(config, start)):
            refuse_loop(config, start)
        if start:
            config = as_begun(config, start)
            check_same(config, start)
        initial = InitialExport(init, config.model) if init and not start else None
        if not start:
            begun = initial.config["model"].get("identities", ()) if initial else ()
            config = with_identities(config, begun, corpus)
        if initial:
            initial.grow(config.model)
    shown = config.log.level == "debug"
    rank, world_size, device = start_distributed(shown)
    with log.rank_0_first():
        config = fitted(config, device)
        accumulation(config.train, world_size)
        body = attention_body(config, device)
        agree(config, corpus.manifest, start, initial)
        with log.waiting("making the model"):
            model = initial_model(config)
            if config.train.fp8 != "off":
                use_fp8(model, config.train.fp8, device)
        check_metric(config.validation.metric, model.targets)
        lease, start = held.enter_context(hold(config, resume, start))
        initial = None if start else initial
    folder = run_folder(config)
    shapes = {name: list(p.shape) for name, p in model.named_parameters()}
    with log.waiting("setting up DeepSpeed"):
        engine = DeepSpeedEngine(
            config.optim, config.train, config.run.seed, model.to(device), world_size, shown
        )
    keep_said(storage.join(folder, LOGS, f"rank{rank:05d}.txt"))
    with log.rank_0_first():
        if start:
            with log.waiting(f"restoring step {start.meta['step']}"):
                start = restore(config, resume, start, engine)
        if initial:
            with log.waiting(f"taking the weights of {init}"):
                engine.fill(initial.read, initial.adam_step)
                engine.refresh()
        feed = Feed(
            corpus,
            config.data,
            model.packing(corpus.manifest.sessions),
            config.run.seed,
            config.train.global_batch,
            config.train.micro_batch,
            rank,
            world_size,
            broadcast,
        )
        epochs = initial.epochs if initial else 0.0
        with log.waiting("laying out the order"):
            stream = Stream(feed, start.stream if start else None, epochs)
        held_out = open_held_out(config, corpus) if config.validation.every_steps else None
        validation = Validation(config, held_out, model, rank, world_size) if held_out else None
    announce(config, stream, shapes, device, body, start)
    metric, changes = config.validation.metric, {}
    state = RunState(Best(metric), cursor=stream.start)
    if start:
        state = RunState.of(metric, start.meta, stream.start)
        changes = changed(start.meta["config"], config.model_dump(mode="json"))
        if is_over(config, start):
            log.say(over_run(folder, state, changes))
        elif changes:
            log.warn(change_line(state.step, changes))
            state.settings = [*state.settings, {"from_step": state.step, "changed": changes}]
        if rank == 0:
            # Newer steps belong to a future that is now run again; no resume may find them.
            for newer in [s for s in steps_of(folder) if s > state.step]:
                set_aside(folder, newer)
    if rank == 0:
        remove_remnants(folder)
        write_run_files(config, stream, start, initial, changes, device_name(device), note)
    with log.rank_0_first():
        check_shared(folder)
    phases, train = engine.phases, config.train
    gather_waiting = phases.timed(COMMUNICATION, gather)
    writer = Writer(folder, rank, world_size, gather_waiting, config.checkpoint.background)
    writer.moved = phases.moved
    writer.clear = phases.timed(COMMIT, writer.clear)
    writer.commit = phases.timed(COMMIT, writer.commit)
    store, hosts = open_store(rank, world_size, broadcast), gather(socket.gethostname())
    watch = RankWatch(rank, hosts, phases, store, train.slow_rank_s, train.hang_s, folder)
    parts = engine, stream, validation, writer, stop, watch
    run = Run(config, folder, *parts, shapes, stream.plan.renewed, lease=lease)
    if start:  # until then config.yaml is what trained the newest step
        run.before_commit = lambda: write_config(config, folder)
    try:
        loop = Loop(run, state)
        found = loop.go()
    finally:
        watch.close()
    with log.waiting("ending all ranks"):
        dist.barrier()  # the watch's store lives in the first rank, which must not end first
        dist.destroy_process_group()
    resumed = start.meta["step"] if start else None
    return {**found, "resumed": resumed, "stopped": stop.agreed, "saved": loop.saving.step}


def attention_body(config: PretrainConfig, device: torch.device) -> str:
    """What attention runs on, in words; empty for a model of a user's own."""
    if not isinstance(config.model, ModelConfig):
        return f", model {config.model.build}"
    dtype, model = PRECISION[config.train.precision], config.model
    body = choose_body(model.attention, device, dtype, model.attention_dropout)
    order = "" if model.attention_fixed_order or body not in FLASH else " in any order"
    how = ", fused kernels" if fused.runs_on(device, dtype) and not config.train.compile else ""
    if config.train.fp8 != "off":
        imitated = "" if device.type == "cuda" else ", imitated"
        how = f"{how}, products in fp8 ({config.train.fp8}{imitated})"
    if config.train.compile:
        padded = f", micro-batches padded to multiples of {config.data.row_tokens} tokens"
        how = f"{how}, compiled{padded if device.type == 'cuda' else ''}"
    return f", attention {body}{order}{how}"


def is_over(config: PretrainConfig, start: Checkpoint) -> bool:
    """Whether a checkpoint is the last of its run."""
    best = start.meta["best"] or {"waited": 0}
    return is_done(config, start.meta["step"], start.meta["epochs"], best["waited"])


def over_run(folder: str, state: RunState, changes: dict[str, list]) -> str:
    """What is said of a run that has nothing left to do."""
    unused = f"; {', '.join(changes)} trained nothing" if changes else ""
    return (
        f"{folder} is over with step {state.step}: train.max_steps, train.epochs or "
        f"validation.patience are reached, and nothing more is trained{unused}"
    )


def announce(config, stream: Stream, shapes, device, body: str, start) -> None:
    """Print what will run, with every derived number; all ranks call it."""
    world_size, hosts = stream.world_size, num_hosts()
    train, parameters = config.train, sum(math.prod(s) for s in shapes.values())
    sources, shares, width = stream.plan.sources, stream.plan.shares, config.data.row_tokens
    windows, tokens, rows = sources.num_samples, sources.tokens.sum(), stream.plan.epoch_rows
    blocks = sum(len(s.blocks.rows) for s in sources.every)
    log.say(
        f"run {run_folder(config)}: {parameters:,} parameters, {train.precision}, "
        f"ZeRO-{train.zero_stage}, {hosts} host{'s' * (hosts > 1)}, {world_size} ranks on "
        f"{device.type}{body}"
    )
    log.say(
        f"corpus {stream.corpus.manifest.fingerprint[:12]}: {windows} windows, {tokens} tokens, "
        f"{tokens / windows:.0f} per window; {rows} rows an epoch, "
        f"{sources.fill(shares):.1%} full, of {blocks} blocks"
    )
    for line in sources.lines(shares):
        log.say(line)
    log.say(
        f"step: {train.global_batch} rows of {width} tokens = micro-batch "
        f"{train.micro_batch} x accumulation {accumulation(train, world_size)} x {world_size} "
        f"ranks; about {total_steps(config, stream.steps_in(train.epochs))} steps"
    )
    if world_size & (world_size - 1) and train.precision == "bf16":
        log.say(
            f"{world_size} ranks are no power of two: losses will be those of other numbers of "
            "ranks to about 1e-3, not to the last bit"
        )
    if start:
        log.say(f"resuming from step {start.meta['step']} ({start.folder})")
