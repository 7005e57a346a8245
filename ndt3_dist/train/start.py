"""Where a run starts: anew or from a checkpoint, as it was begun, and alike on all ranks."""

import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch.distributed as dist

from ndt3_dist import log, storage
from ndt3_dist.checkpoint import lineage
from ndt3_dist.checkpoint.export import normalisation
from ndt3_dist.checkpoint.steps import Checkpoint, newest, open_step, steps_of
from ndt3_dist.data.continuous import sessions_with
from ndt3_dist.data.patterns import named
from ndt3_dist.data.stream import Stream
from ndt3_dist.errors import BadInput, CheckpointCorrupt, ResumeMismatch, StoreFailed
from ndt3_dist.lease import Lease
from ndt3_dist.model.model_config import ModelConfig, completed
from ndt3_dist.shards.manifest import Manifest
from ndt3_dist.train.faults import FOLDER
from ndt3_dist.train.initial import InitialExport
from ndt3_dist.train.pretrain_config import PretrainConfig
from ndt3_dist.train.ranks import broadcast, gather
from ndt3_dist.train.run import Engine
from ndt3_dist.train.run_metrics import LEASE, STARTS
from ndt3_dist.train.settings import write_config

LOGS = "logs"
"""Folder of what DeepSpeed printed, by rank."""
SHARED_WITHIN_S = 10.0
"""Time that a network file system has until all hosts see what one wrote."""


def run_folder(config: PretrainConfig) -> str:
    return storage.join(config.run.dir, config.run.name)


def find_start(config: PretrainConfig, resume: str, before: int | None = None) -> Checkpoint | None:
    """The checkpoint to go on from; None for a fresh start.

    Args:
        resume: never, auto or a step number.
        before: With auto, only steps before this one.
    Raises:
        ResumeMismatch: The run exists and `resume` is never, or a step was asked for in vain.
    """
    run = run_folder(config)
    if resume == "never":
        if set(storage.list_names(run)) - {FOLDER, LEASE, LOGS}:  # of a start that failed
            raise ResumeMismatch(
                f"{run}: the run exists; go on with --resume auto, or choose another run.name"
            )
        return None
    if resume == "auto":
        found = newest(run, log.warn, before=before)
        if found is None and steps_of(run):
            raise CheckpointCorrupt(
                f"{run}: none of its checkpoints is intact; restore one, or start another run.name"
            )
        return found
    if not resume.isdigit():
        raise ResumeMismatch(f"--resume {resume}: expected never, auto or a step number")
    return open_step(run, int(resume))


def check_steps(config: PretrainConfig, windows: int) -> None:
    """Refuse a step that is more than the whole run, with so many windows in an epoch."""
    most = math.ceil(windows * config.train.epochs)
    if config.train.global_batch > most:
        raise BadInput(
            f"train.global_batch {config.train.global_batch} is more than the whole run: "
            f"{windows} windows in {config.train.epochs:g} epochs are at most {most} rows"
        )


def check_possible(config: PretrainConfig, windows: int) -> None:
    """Refuse, before anything begins, a folder that cannot be written and a step beyond the run.

    Args:
        windows: Of the corpus in an epoch.
    """
    check_steps(config, windows)
    run = run_folder(config)
    if storage.is_remote(run):
        return
    folder = Path(run).absolute()
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise BadInput(f"run.dir {config.run.dir}: {folder} is a file; expected a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise BadInput(f"run.dir {config.run.dir}: nothing can be written in {folder}")


@contextmanager
def hold(
    config: PretrainConfig, resume: str, start: Checkpoint | None
) -> Iterator[tuple[Lease | None, Checkpoint | None]]:
    """The run's lease in a block, which rank 0 holds and has; all ranks call it.

    Returns:
        The lease (None on other ranks), and the checkpoint to go on from: a newer one than `start`
        where another process has written it meanwhile.
    Raises:
        ResumeMismatch: On all ranks: another process writes this run, or has begun it.
    """
    lease = Lease(
        run_folder(config),
        LEASE,
        "wait for it (run.wait_s), stop it, or choose another run.name",
        ResumeMismatch,
        config.run.wait_s,
    )

    def take() -> bool:
        """Whether there is another start than before."""
        lease.__enter__()
        try:
            now = find_start(config, resume)
        except BaseException:
            lease.__exit__()
            raise
        return (now and now.meta["step"]) != (start and start.meta["step"])

    moved, first = broadcast(take), dist.get_rank() == 0
    try:
        if moved:
            start = choose(config)
            if start:
                check_same(config, start)
        yield lease if first else None, start
    finally:
        if first:
            lease.__exit__()


def choose(config: PretrainConfig, before: int | None = None) -> Checkpoint | None:
    """The newest checkpoint that rank 0 sees, on all ranks; None where there is none.

    Raises:
        ResumeMismatch, CheckpointCorrupt: There is none that is whole, or a rank cannot see it.
    """

    def newest_step() -> int | None:
        found = find_start(config, "auto", before)
        return found.meta["step"] if found else None

    step = broadcast(newest_step)
    if step is None:
        return None
    deadline, found, error = time.monotonic() + SHARED_WITHIN_S, None, ""
    while found is None:
        try:
            found = open_step(run_folder(config), step)
        except CheckpointCorrupt as e:
            if time.monotonic() > deadline:
                error = str(e)
                break
            time.sleep(0.2)
    errors = [e for e in gather(error) if e]
    if errors:
        raise ResumeMismatch(f"not all ranks can go back to step {step}: {errors[0]}")
    return found


def restore(config: PretrainConfig, resume: str, start: Checkpoint, engine: Engine) -> Checkpoint:
    """Load the training state, each slice verified on the way; all ranks call it.

    Returns:
        The checkpoint that it came from: an older one, where a rank found this one damaged.
    """
    while True:
        error = ""
        try:
            engine.fill(start.read, start.meta["adam_step"])
        except CheckpointCorrupt as e:
            error = str(e)
        errors = [e for e in gather(error) if e]
        if not errors:
            engine.refresh()
            return start
        if resume.isdigit():
            raise CheckpointCorrupt(errors[0])
        step = start.meta["step"]
        log.warn(f"step {step} is damaged, falling back: {errors[0]}")
        older = choose(config, before=step)
        assert older  # it raises where there is none
        check_same(config, older)
        start = older


def refuse_loop(config: PretrainConfig, start: Checkpoint | None) -> None:
    """End a loop of restarts that no longer gets anywhere.

    Raises:
        ResumeMismatch: The last `checkpoint.max_starts` starts were all from this step.
    """
    run, step = run_folder(config), start.meta["step"] if start else 0
    most = config.checkpoint.max_starts
    lines = storage.read_text(storage.join(run, STARTS)).splitlines()[-most:]
    if len(lines) < most or any(f'"from_step": {step},' not in line for line in lines):
        return
    faults = storage.list_names(storage.join(run, FOLDER))
    last = f"; the last fault is in {storage.join(run, FOLDER, faults[-1])}" if faults else ""
    again = f"--resume {step} tries once more, or " if start else ""
    raise ResumeMismatch(
        f"{run}: its last {most} starts were all from step {step} and none reached the next "
        f"checkpoint{last}; {again}raise checkpoint.max_starts"
    )


def check_same(config: PretrainConfig, start: Checkpoint) -> None:
    """Refuse to go on with another model or order than the checkpoint's."""
    theirs, ours = {**start.meta["config"]}, config.model_dump(mode="json")
    for values in (theirs, ours):  # weights may change, what they weigh may not
        values["model"] = completed(values["model"])
        mixture = [source["sessions"] for source in values["data"].get("mixture", ())]
        values["data"] = {**values["data"], "mixture": mixture}
    fixed = [("model", k) for k in ours["model"]] + [("run", "seed")]
    free_data = {"corpus", "on_corrupt", "max_quarantined", "cache", "cache_gb", "workers"}
    free_data |= {"mixture_by", "another_corpus"}
    fixed += [("data", k) for k in ours["data"] if k not in free_data] + [("train", "micro_batch")]
    free = {"attention", "attention_fixed_order", "dropout", "attention_dropout"}
    for section, key in fixed:
        if key in free or ((section, key) == ("model", "build") and key not in theirs[section]):
            continue
        if theirs[section].get(key) != ours[section][key]:
            raise ResumeMismatch(
                f"{start.folder}: {section}.{key} was {theirs[section].get(key)}, "
                f"is now {ours[section][key]}; restore it, or start another run"
            )


def check_shared(run: str | Path, wait_s: float = SHARED_WITHIN_S) -> None:
    """Refuse a run folder in which some rank does not see what rank 0 wrote; all ranks call it.

    Args:
        run: With starts.jsonl.
        wait_s: Time that a network file system has.
    Raises:
        ResumeMismatch: On all ranks; names those that do not see it.
    """

    def last() -> str:
        try:
            return storage.read_text(storage.join(run, STARTS)).splitlines()[-1]
        except (OSError, StoreFailed, IndexError):
            return ""

    expected, deadline = gather(last())[0], time.monotonic() + wait_s
    while last() != expected and time.monotonic() < deadline:
        time.sleep(0.2)
    apart = [rank for rank, seen in enumerate(gather(last())) if seen != expected]
    if apart:
        raise ResumeMismatch(
            f"{run}: rank{'s' * (len(apart) > 1)} {', '.join(map(str, apart[:8]))} cannot see what "
            "rank 0 wrote there; all hosts must share the run folder (run.dir)"
        )


def write_run_files(
    config: PretrainConfig,
    stream: Stream,
    start: Checkpoint | None,
    initial: InitialExport | None,
    changes: dict[str, list],
    device: str,
    note: str = "",
) -> None:
    """normalisation.json and lineage.json (for exports), a line of starts.jsonl for this start, and
    of a new run config.yaml, which else follows with its first checkpoint.

    Args:
        changes: Settings that differ from those before (`settings.changed`).
        device: What rank 0 runs on.
        note: Why it starts.
    """
    run, corpus = run_folder(config), stream.corpus
    manifest = corpus.manifest
    allowed = named(corpus.path, [s.id for s in manifest.sessions], config.data)
    with_windows = set(sessions_with(corpus))
    seen = [
        s
        for s, taken in zip(manifest.sessions, allowed, strict=True)
        if taken and s.id in with_windows
    ]
    if not start:
        write_config(config, run)
    context = config.model.context if isinstance(config.model, ModelConfig) else ()
    norms = normalisation(manifest, seen, context)
    path = storage.join(run, "normalisation.json")
    if start and storage.exists(path):  # sessions that a run has seen stay seen
        norms["sessions"] = {**storage.read_json(path)["sessions"], **norms["sessions"]}
    storage.write_json(path, norms)
    step, was = (start.meta["step"], start.meta["fingerprint"]) if start else (0, "")
    before = lineage.of_export(initial.config) if initial else []
    passes = stream.plan.epochs(stream.start)
    now = lineage.stage(manifest, seen, "train", from_step=step, from_epochs=passes)
    lineage.begin(run, now, before, was)
    entry = {"from_step": step, "ranks": dist.get_world_size(), "device": device}
    entry["fingerprint"] = manifest.fingerprint
    entry["epochs"] = passes
    if initial:
        entry["init"] = initial.name
    if changes:
        entry["changed"] = changes
    if note:
        entry["note"] = note
    entry["time"] = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    starts = storage.join(run, STARTS)
    storage.write_bytes(starts, (storage.read_text(starts) + json.dumps(entry) + "\n").encode())


def agree(
    config: PretrainConfig,
    manifest: Manifest,
    start: Checkpoint | None,
    initial: InitialExport | None,
) -> None:
    """Refuse a start that ranks see differently, as on hosts that do not share the run folder."""
    step, settings = start.meta["step"] if start else 0, config.model_dump_json()
    ours = (step, manifest.fingerprint, initial.folder.name if initial else "", settings)
    for rank, theirs in enumerate(gather(ours)):
        if theirs != ours:
            if theirs[2] != ours[2]:
                raise ResumeMismatch(
                    f"rank {rank} starts from {theirs[2] or 'no export'}, this rank from "
                    f"{ours[2] or 'none'}; it changed, or a host cannot reach it: start again"
                )
            raise ResumeMismatch(
                f"rank {rank} starts from step {theirs[0]} of corpus {theirs[1][:12]}, this rank "
                f"from step {ours[0]} of {ours[1][:12]}; all hosts must share the run folder "
                f"{run_folder(config)}, the corpus and the config"
            )
