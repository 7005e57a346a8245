"""Which windows a step of a run was trained on: planned again, read again, verified again."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ndt3_dist import log, plain_yaml, storage
from ndt3_dist.checkpoint.steps import step_folder, steps_of
from ndt3_dist.data.data_config import DataConfig
from ndt3_dist.data.feed import Feed
from ndt3_dist.data.order import Cursor
from ndt3_dist.data.stream import Step, Stream
from ndt3_dist.errors import BadInput, ResumeMismatch
from ndt3_dist.shards.cache import default_cache
from ndt3_dist.shards.corpus import Corpus
from ndt3_dist.shards.index import streams_of
from ndt3_dist.shards.verify import shard_problems
from ndt3_dist.train.initial import build_model
from ndt3_dist.train.pretrain_config import PretrainConfig
from ndt3_dist.train.run_metrics import read_metrics
from ndt3_dist.train.settings import STARTS


@dataclass
class Replay:
    """A step of a run.

    Attributes:
        stream: One rank that reads everything.
        step: The step as it was built.
        rows: One record per window: row, segment, session, subject, window, shard, offset, tokens.
        damaged: What does not have the bytes that its index or manifest promises.
    """

    stream: Stream
    step: Step
    rows: list[dict]
    damaged: list[str]


def replay(run: str | Path, step: int, corpus: str | None = None) -> Replay:
    """Find, read and verify the windows of a step.

    Args:
        step: Number of the step, from 1, as in metrics.jsonl.
        corpus: Where the corpus lies now; the config's, if None.
    Raises:
        BadInput: The folder is no run, or never took the step.
        ResumeMismatch: The corpus is not the one the step was trained on.
    """
    if not storage.exists(storage.join(run, "config.yaml")):
        raise BadInput(f"{run}: no config.yaml, so no run of pretrain; expected runs/NAME")
    lines = {m["step"]: m for m in read_metrics(run)}
    if step not in lines:
        raise BadInput(
            f"{run}: no step {step} in metrics.jsonl; it has 1 to {max(lines, default=0)}"
        )
    config = plain_yaml.load(storage.read_bytes(storage.join(run, "config.yaml")))
    data = DataConfig(**{**config["data"], "workers": 0})
    opened = Corpus(corpus or data.corpus, cache=default_cache(data.cache, data.cache_gb))
    starts = storage.read_text(storage.join(run, STARTS)).splitlines()
    started = [json.loads(entry) for entry in starts]
    line = lines[step]
    if "epochs" not in started[-1]:
        raise BadInput(f"{run}: written by a version with another order; no replay can find it")
    trained_on, state = started[-1]["fingerprint"], _state(run, line["position"])
    if not state and opened.manifest.fingerprint != trained_on:
        raise ResumeMismatch(
            f"{opened.path} is corpus {opened.manifest.fingerprint[:12]}, {run} was trained on "
            f"{trained_on[:12]}; name its folder with --corpus"
        )
    train = config["train"]
    with torch.device("meta"):  # its packing alone is needed
        model = build_model(PretrainConfig.model_validate(config).model)
    packing = model.packing(opened.manifest.sessions)
    size = config["run"]["seed"], train["global_batch"], train["micro_batch"]
    stream = Stream(Feed(opened, data, packing, *size), state, started[0]["epochs"])
    stream.plan.row(line["position"])  # ResumeMismatch where it is of a corpus that is not here
    built = next(stream.steps(Cursor(line["position"]), lambda totals, found: (totals, [])))
    rows = list(_records(stream, built))
    damaged = [d.reason for d in built.damage]
    used = {r["shard"] for r in rows}
    shards = [shard for shard in opened.shards if shard.name in used]
    for shard in log.progress(shards, "verifying, shards"):
        damaged += shard_problems(opened.path, opened.manifest, shard)
    return Replay(stream, built, rows, damaged)


def _state(run: str | Path, position: int) -> dict | None:
    """State of the newest checkpoint, which knows all that older ones do, but for later damage.

    What was met after it is read again, and found again: the damaged window, not its stand-in.
    """
    steps = steps_of(run)
    if not steps:
        return None
    state = storage.read_json(storage.join(step_folder(run, steps[-1]), "stream.json"))
    return {**state, "ledger": [e for e in state["ledger"] if e["position"] <= position]}


def _records(stream: Stream, step: Step):
    corpus = stream.corpus
    for row, epoch, samples in step.rows:
        tokens = stream.tokens_of(samples)
        for segment, number in enumerate(samples.tolist()):
            session = corpus.session_of(number)
            yield {
                "row": row,
                "segment": segment,
                "epoch": epoch,
                "session": session.id,
                "subject": session.subject,
                "window": corpus.key(number),
                "shard": corpus.shards[int(corpus.shard_of(number))].name,
                "offset": first_byte(corpus.record(number)),
                "tokens": int(tokens[segment]),
            }


def first_byte(record: np.ndarray) -> int:
    """Where a window's first member lies in its shard."""
    return min(int(record[s]["offset"]) for s in streams_of(record) if record[s]["size"])


def dump(found: Replay, path: str | Path) -> None:
    """Write the packed arrays of a step as .npz, `MICRO-BATCH/ARRAY` each."""
    arrays = {f"{m}/{k}": v for m, part in found.step.batches for k, v in part.items()}
    with Path(path).open("wb") as f:
        np.savez_compressed(f, **arrays)  # pyright: ignore[reportArgumentType]
