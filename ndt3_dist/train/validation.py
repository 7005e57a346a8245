"""Validation on held-out windows while a run trains: the same numbers at any number of ranks.

Windows are scored as they were cut, each from its own start, with dropout off. Rows are fixed for
the whole run; ranks take them in turn and results are summed in the order of windows.
"""

import math
import time
from dataclasses import asdict, dataclass

import numpy as np
import torch

from ndt3_dist import log
from ndt3_dist.data.order import generator
from ndt3_dist.data.patterns import named
from ndt3_dist.errors import BadInput, ShardCorrupt
from ndt3_dist.model.tokenise import Layout, TokenCounts, TokenLists, tokenise
from ndt3_dist.model.tokens import PackedTokens
from ndt3_dist.shards.corpus import Corpus, Sample
from ndt3_dist.train.engine import Engine
from ndt3_dist.train.pretrain_config import PretrainConfig
from ndt3_dist.train.ranks import first_for_all, gather


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

    def __init__(self, config: PretrainConfig, corpus: Corpus, rank: int, world_size: int):
        """
        Args:
            config: Of the run.
            corpus: Opened with `validation.split`.
            rank, world_size: Of this process.
        Raises:
            BadInput: No window of the split belongs to a session that the run may see.
        """
        self.config, self.corpus = config, corpus
        self.rank, self.world_size = rank, world_size
        self.layouts: dict[int, Layout] = {}
        self.samples: dict[int, Sample] = {}
        numbers, tokens = first_for_all(self._choose)
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
        for session in np.unique(index["session"][numbers]):
            Layout.of(sessions[session], config.model)  # refuses what the model cannot hold
        return numbers, TokenCounts(sessions, config.model).of(index[numbers])

    def _mine(self) -> list[tuple[int, list[int]]]:
        """This rank's rows with their numbers; as many on each rank, so some come twice."""
        turns = -(-len(self.rows) // self.world_size)
        own = range(self.rank, turns * self.world_size, self.world_size)
        return [(n, self.rows[n % len(self.rows)]) for n in own]

    def _read(self) -> dict[int, str]:
        """Read the windows of this rank that it has not yet; what is wrong with some of them."""
        damaged = {}
        for number in {n for _, row in self._mine() for n in row} - self.samples.keys():
            try:
                self.samples[number] = self.corpus.read(number)
            except ShardCorrupt as e:
                damaged[number] = str(e)
        return damaged

    def scores(self, engine: Engine, device: torch.device) -> dict[str, float]:
        """Metrics of all windows by name (`train.metrics.METRICS`), the same on all ranks."""
        began, results = time.perf_counter(), {}
        with engine.evaluating():
            for number, row in self._mine():
                found = self._scores_of_row(engine, row, device)
                if number < len(self.rows):
                    results[number] = found
        every = {n: r for of_rank in gather(results) for n, r in of_rank.items()}
        losses = np.array([every[n][0] for n in sorted(every)])
        windows = [w for n in sorted(every) for w in every[n][1]]
        return {**self._summary(losses, windows), "val_s": time.perf_counter() - began}

    def _scores_of_row(self, engine: Engine, row: list[int], device):
        """Sums and counts of both losses, (4,), and what each window adds to its session."""
        lists, own = TokenLists(), []
        for number in row:
            session = int(self.corpus.record(number)["session"])
            entry = self.corpus.manifest.sessions[session]
            if session not in self.layouts:
                self.layouts[session] = Layout.of(entry, self.config.model)
            layout = self.layouts[session]
            arrays, length = tokenise(self.samples[number], layout, self.config.model)
            lists.add(arrays, length)
            own.append((session, layout, arrays))
        packed = lists.pack()
        out = engine.forward(PackedTokens.from_numpy(packed, device))
        assert out.rates is not None
        rates, predicted = out.rates.double().cpu().numpy(), out.covariates.double().cpu().numpy()
        sums = [float(out.spike_sum), float(out.covariate_sum)]
        counts = [int(packed["spike_channels"].sum()), int(packed["covariate_valid"].sum())]
        windows, spike, covariate = [], 0, 0
        for session, layout, arrays in own:
            spikes, values = len(arrays["spikes"]), len(arrays["covariates"])
            windows.append(
                (
                    session,
                    likelihood(arrays["spikes"], rates[spike : spike + spikes], layout.real),
                    moments(arrays, predicted[covariate : covariate + values], layout.dims),
                )
            )
            spike, covariate = spike + spikes, covariate + values
        return sums + counts, windows

    def _summary(self, losses: np.ndarray, windows: list) -> dict[str, float]:
        spikes, squared, num_spikes, num_squared = (math.fsum(column) for column in losses.T)
        loss = {
            "val_loss_spikes": spikes / max(num_spikes, 1),
            "val_loss_covariates": squared / max(num_squared, 1),
        }
        weights = self.config.model.spike_weight, self.config.model.covariate_weight
        values = {"val_loss": sum(w * v for w, v in zip(weights, loss.values(), strict=True))}
        held: dict[int, list] = {}
        for session, *parts in windows:
            before = held.setdefault(session, [np.zeros(1), np.zeros(1)])
            held[session] = [b + p for b, p in zip(before, parts, strict=True)]
        bits = {s: bits_of(spiking) for s, (spiking, _) in held.items()}
        r2 = {s: r2_of(moved) for s, (_, moved) in held.items()}
        values |= {**loss, "val_bits_per_spike": mean(bits), "val_r2": mean(r2)}
        flat = [moved.reshape(4, -1).sum(1, keepdims=True) for _, moved in held.values()]
        values["val_r2_flat"] = r2_of(np.sum(flat, axis=0))
        entries = self.corpus.manifest.sessions
        for dataset in sorted({entries[s].dataset for s in held}):
            own = {s for s in held if entries[s].dataset == dataset}
            values[f"val_r2/{dataset}"] = mean({s: r2[s] for s in own})
            values[f"val_bits_per_spike/{dataset}"] = mean({s: bits[s] for s in own})
        return values


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


def likelihood(spikes: np.ndarray, rates: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Poisson log-likelihood of a window's counts, its bins, and the spikes of each channel.

    Args:
        spikes, rates: Counts and expected counts, (bins x patches, channels of a patch).
        real: Real channels of each patch, (patches,).
    Returns:
        (2 + channels,) float64.
    """
    shape = (-1, len(real), spikes.shape[1])
    channels = np.arange(spikes.shape[1]) < real[:, None]
    counts = spikes.reshape(shape)[:, channels].astype(np.float64)  # (bins, channels)
    expected = np.maximum(rates.reshape(shape)[:, channels], 1e-9)
    held = (counts * np.log(expected) - expected).sum()
    return np.concatenate([[held, len(counts)], counts.sum(0)])


def moments(arrays: dict[str, np.ndarray], predicted: np.ndarray, dims: int) -> np.ndarray:
    """Valid values of each dimension: number, sum, sum of squares, sum of squared errors.

    Args:
        arrays: Of one window, from `tokenise`.
        predicted: Of its covariate tokens, (bins x dims,).
        dims: Of the session; 0 where its only covariate is the dummy.
    Returns:
        (4 x dims,) float64.
    """
    if not dims:
        return np.zeros(4)
    valid = arrays["covariate_valid"].reshape(-1, dims)
    true = np.where(valid, arrays["covariates"].reshape(-1, dims), 0).astype(np.float64)
    error = np.where(valid, true - predicted.reshape(-1, dims), 0)
    return np.concatenate([valid.sum(0), true.sum(0), (true**2).sum(0), (error**2).sum(0)])


def bits_of(spiking: np.ndarray) -> float:
    """Bits per spike of a session above its channels' mean rates, from sums of `likelihood`."""
    held, bins, counts = spiking[0], spiking[1], spiking[2:]
    spikes = counts.sum()
    if not spikes:
        return math.nan
    null = (counts * np.log(np.maximum(counts, 1) / bins) - counts).sum()
    return float((held - null) / spikes / np.log(2))


def r2_of(moved: np.ndarray) -> float:
    """Variance-weighted R2 over dimensions, from sums of `moments`."""
    number, total, squares, error = moved.reshape(4, -1)
    spread = (squares - total**2 / np.maximum(number, 1)).sum()
    return float(1 - error.sum() / spread) if spread > 1e-9 else math.nan


def mean(of_sessions: dict[int, float]) -> float:
    """Mean over the sessions that have a value."""
    values = [v for _, v in sorted(of_sessions.items()) if math.isfinite(v)]
    return math.fsum(values) / len(values) if values else math.nan


@dataclass
class Best:
    """The best validated step so far; part of each checkpoint.

    Attributes:
        metric: By which.
        step, value: Its own; step 0 is none.
        waited: Validations since.
    """

    metric: str
    step: int = 0
    value: float = math.nan
    waited: int = 0

    @classmethod
    def of(cls, metric: str, kept: dict | None) -> "Best":
        """As a checkpoint has it; anew where it was kept by another metric."""
        if not kept or kept["metric"] != metric:
            return cls(metric)
        return cls(**{**kept, "value": math.nan if kept["value"] is None else kept["value"]})

    def take(self, step: int, value: float) -> bool:
        """Whether a step is the best so far; remembers it."""
        sign = -1 if self.metric.startswith("val_loss") else 1
        if math.isfinite(value) and (not self.step or sign * value > sign * self.value):
            self.step, self.value, self.waited = step, value, 0
            return True
        self.waited += 1
        return False

    def state(self) -> dict | None:
        """What a checkpoint keeps."""
        if not self.step and not self.waited:
            return None
        return {**asdict(self), "value": self.value if self.step else None}
