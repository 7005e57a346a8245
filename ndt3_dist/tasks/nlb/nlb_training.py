"""Train NDT1 on the trials of a corpus in one process: the loop of a pretraining (`train.loop`).

Steps are those of any corpus (`data.stream`); the run keeps two snapshots. One that was killed
goes on with the same command. The same config trains on many ranks with launch/pretrain.py.
"""

from pathlib import Path
from typing import Any

import torch

from ndt3_dist import log
from ndt3_dist.checkpoint.steps import newest, remove_remnants
from ndt3_dist.cluster.search.fork import score_of
from ndt3_dist.config import load_config
from ndt3_dist.data.feed import Feed
from ndt3_dist.data.stream import Stream
from ndt3_dist.engines.plain import PlainEngine
from ndt3_dist.errors import BadInput, Diverged
from ndt3_dist.shards.corpus import Corpus
from ndt3_dist.tasks.nlb.ndt1 import NDT1
from ndt3_dist.tasks.nlb.nlb_snapshots import UNDER_WAY, save_weights
from ndt3_dist.tasks.nlb.nlb_validation import ValTrials
from ndt3_dist.train.initial import initial_model
from ndt3_dist.train.pretrain_config import PretrainConfig
from ndt3_dist.train.run_metrics import read_metrics
from ndt3_dist.train.state import Best, RunState
from ndt3_dist.tune.alone import restore, train_alone
from ndt3_dist.tune.folder import TuneFolder

METRIC = "val_loss"
"""Which step is the best: that of the masked snapshot."""


def train(config: PretrainConfig, until: int = 0) -> dict[str, Any]:
    """Train to the end, from the newest checkpoint where the run has one.

    Args:
        until: Stop behind this step, saved; 0 = go to the end.
    Returns:
        run, steps, best_step, stopped (who asked to stop before the end; empty at the end).
    """
    path = Path(config.run.dir) / config.run.name
    if config.validation.metric != METRIC or not config.validation.every_steps:
        raise BadInput(
            f"validation.metric {config.validation.metric}; expected {METRIC}, looked at"
        )
    corpus = Corpus(config.data.corpus)
    model = initial_model(config)
    if not isinstance(model, NDT1):
        raise BadInput(
            f"model.build is {config.model.build}; expected NDT1 (or launch/pretrain.py)"
        )
    begun = {"corpus": corpus.manifest.fingerprint}
    settings = config.model_dump(mode="json")
    settings["log"] = settings["checkpoint"] = {}  # they change no number
    with TuneFolder(path, {**settings, "begun": begun}) as folder:
        state, engine, stopped = _fit(config, corpus, model, path, until)
        fields = {"run": str(path), "steps": state.step, "best_step": state.best.step}
        if stopped:
            return {**fields, "stopped": stopped}
        if state.skipped:
            raise Diverged(f"run {path}: its last steps had no finite loss; lower optim.lr")
        if not state.best.step:
            raise BadInput(
                f"run {path}: {METRIC} was never looked at; lower validation.every_steps"
            )
        part, options = path / UNDER_WAY, model.config.model_dump(mode="json")
        line = next(m for m in read_metrics(path) if m["step"] == state.best.step)
        scores = {k: v for k, v in line.items() if k == "step" or k.startswith("val_")}
        known = begun["corpus"]
        save_weights(part / "masked.safetensors", engine.best, options, scores, known)
        part.rename(folder.export)
        folder.ended()
        return {**fields, "stopped": ""}


def _fit(config: PretrainConfig, corpus: Corpus, model: NDT1, path: Path, until: int):
    """Run the loop; its state, the engine, and who stopped it."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    seed, start = config.run.seed, newest(path, log.warn)
    engine = PlainEngine(model, config.optim, config.train.precision, seed, device)
    feed = Feed(
        corpus,
        config.data,
        model.packing(corpus.manifest.sessions),
        seed,
        config.train.global_batch,
        config.train.micro_batch,
    )
    stream = Stream(feed, start.stream if start else None)
    state = RunState(Best(METRIC), cursor=stream.start)
    if start:
        state = RunState.of(METRIC, start.meta, stream.start)
        restore(engine, start, bool(state.best.step))
        log.say(f"{path}: goes on behind step {state.step}")
    remove_remnants(path)
    trials = ValTrials(config.data.corpus, model, path / UNDER_WAY / "unmasked.safetensors")
    return state, engine, train_alone(config, path, engine, stream, trials, state, until)


def search_to(job: dict[str, Any]) -> dict[str, Any] | None:
    """A trial of a search brought to the step `until` (`cluster.search.fork`)."""
    config = load_config(PretrainConfig, job["config"])
    folder = Path(config.run.dir) / config.run.name
    if (folder / "export").exists():  # it ended, and was killed before it could say so
        return {**score_of(folder, METRIC, job["metric"]), "over": True}
    found = train(config, job["until"])
    if found["stopped"] and f"step {job['until']}" not in found["stopped"]:
        return None
    return {**score_of(folder, METRIC, job["metric"]), "over": not found["stopped"]}
