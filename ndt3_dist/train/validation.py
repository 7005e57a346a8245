"""Validation on held-out windows while a run trains: the same numbers at any number of ranks.

Windows are scored as they were cut, each from its own start, with dropout off. Rows are fixed for
the whole run; ranks take them in turn and results are summed in the order of windows.
"""

import math
import time
from typing import Any

import numpy as np
import torch

from ndt3_dist import log
from ndt3_dist.config import import_call
from ndt3_dist.data.order import generator
from ndt3_dist.data.patterns import named
from ndt3_dist.engines.phases import COMMUNICATION
from ndt3_dist.errors import BadInput, ShardCorrupt
from ndt3_dist.evaluate.metrics import Metric, mean
from ndt3_dist.model.contract import Model, Target
from ndt3_dist.shards.corpus import Corpus, Sample
from ndt3_dist.train.pretrain_config import PretrainConfig
from ndt3_dist.train.ranks import broadcast, gather
from ndt3_dist.train.run import Engine


def metrics_of(targets: tuple[Target, ...]) -> dict[str, Metric]:
    """The metric of each target that has one, by the target's name."""
    return {t.name: import_call(t.metric, f"metric of {t.name}")() for t in targets if t.metric}


def check_metric(wanted: str, targets: tuple[Target, ...]) -> None:
    """Refuse a `validation.metric` that no validation of a model with these targets gives."""
    known = ["val_loss", *(f"val_loss_{t.name}" for t in targets)]
    for metric in metrics_of(targets).values():
        empty = metric.sums(np.zeros((1, 1)), np.zeros((1, 1)))
        known += [f"val_{name}" for name in {**metric.scores(empty), **metric.pooled([empty])}]
    if wanted not in known:
        raise BadInput(f"validation.metric is {wanted!r}; this model has {', '.join(known)}")


def open_held_out(config: PretrainConfig, corpus: Corpus) -> Corpus | None:
    """The corpus opened for validation; None with a warning where it has no window for it.

    Raises:
        BadInput: It has none, and validation is to decide when the run ends.
    """
    split = config.validation.split
    if any(s.split == split and s.samples for s in corpus.manifest.shards):
        return Corpus(corpus.path, (split,), corpus.cache)
    why = (
        f"{corpus.path} has no window in split {split}, so nothing is validated; a recipe's "
        "`splits` make one"
    )
    if config.validation.patience:
        raise BadInput(f"{why}; validation.patience needs it")
    log.warn(why)
    return None


class Validation:
    """Fixed rows of held-out windows. Every rank makes one and calls `scores` at the same steps."""

    def __init__(
        self, config: PretrainConfig, corpus: Corpus, model: Model, rank: int, world_size: int
    ):
        """
        Args:
            corpus: Opened with `validation.split`.
            model: What is validated.
        Raises:
            BadInput: No window of the split belongs to a session that the run may see.
        """
        self.config, self.corpus, self.model = config, corpus, model
        self.packing = model.packing(corpus.manifest.sessions)
        self.metrics = metrics_of(model.targets)
        self.rank, self.world_size = rank, world_size
        self.samples: dict[int, Sample] = {}
        numbers, tokens = broadcast(self._choose)
        while True:
            self.rows = rows_of(numbers, tokens, config.data.row_tokens)
            damaged = {d: why for found in gather(self._read()) for d, why in found.items()}
            for number in sorted(damaged) if rank == 0 else ():
                log.warn(f"not validated on: {damaged[number]}")
            kept = ~np.isin(numbers, list(damaged))
            numbers, tokens = numbers[kept], tokens[kept]
            if not len(numbers):
                raise BadInput(f"{corpus.path}: no intact window in split {corpus.splits[0]}")
            if not damaged:
                break

    def _choose(self) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the windows and their tokens, both (windows,)."""
        corpus, config = self.corpus, self.config
        sessions, index = corpus.manifest.sessions, corpus.index
        taken = named(corpus.path, [s.id for s in sessions], config.data)[index["session"]]
        if not taken.any():
            raise BadInput(
                f"{corpus.path}: no window in split {corpus.splits[0]} of the sessions that "
                "data.sessions and data.exclude leave; validation.every_steps=0 does without"
            )
        numbers = np.flatnonzero(taken)
        draw = generator("validation", corpus.manifest.fingerprint)
        numbers = np.sort(draw.permutation(numbers)[: config.validation.windows])
        self.packing.check(np.unique(index["session"][numbers]).tolist())
        return numbers, self.packing.tokens(index[numbers])

    def _mine(self) -> list[tuple[int, list[int]]]:
        """This rank's rows with their numbers; as many on each rank, so some come twice."""
        turns = -(-len(self.rows) // self.world_size)
        own = range(self.rank, turns * self.world_size, self.world_size)
        return [(n, self.rows[n % len(self.rows)]) for n in own]

    def _read(self) -> dict[int, str]:
        """Read the windows of this rank that it has not yet; what is wrong with some of them."""
        damaged = {}
        missing = {n for _, row in self._mine() for n in row} - self.samples.keys()
        for number in log.progress(missing, "reading held-out windows"):
            try:
                self.samples[number] = self.corpus.read(number)
            except ShardCorrupt as e:
                damaged[number] = str(e)
        return damaged

    def scores(self, engine: Engine, device: torch.device) -> dict[str, float]:
        """Losses and scores of all windows by name, the same on all ranks."""
        began, results = time.perf_counter(), {}
        with engine.evaluating():
            for number, row in log.progress(self._mine(), "validating, rows"):
                found = self._scores_of_row(engine, row, device)
                if number < len(self.rows):
                    results[number] = found
        with engine.phases.at(COMMUNICATION):
            of_ranks = gather(results)
        every = {n: r for of_rank in of_ranks for n, r in of_rank.items()}
        losses = np.array([every[n][0] for n in sorted(every)])
        windows = [w for n in sorted(every) for w in every[n][1]]
        return {**self._summary(losses, windows), "val_s": time.perf_counter() - began}

    def _scores_of_row(self, engine: Engine, row: list[int], device: torch.device):
        """Sum and count of each loss, (2, targets), and what each window adds to its session."""
        index = self.corpus.records(np.array(row))
        sessions, samples = index["session"].tolist(), [self.samples[n] for n in row]
        windows: list[Any] = []
        for session, sample, number in zip(sessions, samples, row, strict=True):
            key = self.corpus.key(number)
            windows.append(self.packing.window(sample, session, lambda key=key: masks(key)))
        batch = self.model.batch(self.packing.pack(windows), device)
        out = engine.forward(batch)
        counts = self.packing.counts(index).sum(axis=0).tolist()
        added = []
        predicted = self.model.predictions(out, windows)
        for session, sample, found in zip(sessions, samples, predicted, strict=True):
            sums = {
                t.name: self.metrics[t.name].sums(sample[t.stream], found[t.name])
                for t in self.model.targets
                if t.name in self.metrics
            }
            added.append((session, sums))
        return [out.sums.tolist(), counts], added

    def _summary(self, losses: np.ndarray, windows: list) -> dict[str, float]:
        """Of sums and counts (rows, 2, targets), and of what windows add."""
        targets, values = self.model.targets, {}
        sums, counts = ([math.fsum(c) for c in losses[:, i].T] for i in (0, 1))
        for target, total, count in zip(targets, sums, counts, strict=True):
            values[f"val_loss_{target.name}"] = total / max(count, 1)
        weighted = sum(t.weight * v for t, v in zip(targets, values.values(), strict=True))
        values = {"val_loss": weighted, **values}
        entries = self.corpus.manifest.sessions
        for name, metric in self.metrics.items():
            held: dict[int, np.ndarray] = {}
            for session, added in windows:
                held[session] = held.get(session, 0) + added[name]
            scores = {s: metric.scores(total) for s, total in held.items()}
            values |= {f"val_{k}": v for k, v in means(scores, list(scores)).items()}
            values |= {f"val_{k}": v for k, v in metric.pooled(list(held.values())).items()}
            for dataset in sorted({entries[s].dataset for s in held}):
                own = [s for s in held if entries[s].dataset == dataset]
                values |= {f"val_{k}/{dataset}": v for k, v in means(scores, own).items()}
        return values


def masks(key: str) -> np.random.Generator:
    """Draws what a model draws for a held-out window: the same at every validation."""
    return generator("validation mask", key)


def means(scores: dict[int, dict[str, float]], sessions: list[int]) -> dict[str, float]:
    """Mean of each score over some sessions, in order of their rows."""
    names = scores[sessions[0]]
    return {name: mean([scores[s][name] for s in sorted(sessions)]) for name in names}


def rows_of(numbers: np.ndarray, tokens: np.ndarray, row_tokens: int) -> list[list[int]]:
    """Windows in rows of about so many tokens, in their order."""
    rows, room = [], 0
    for number, length in zip(numbers.tolist(), tokens.tolist(), strict=True):
        if length > room:
            rows.append([])
            room = row_tokens
        rows[-1].append(number)
        room -= length
    return rows
