"""Scores of the val trials while NDT1 trains (`train.run.Validator`), and its second snapshot."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ndt3_dist import storage
from ndt3_dist.errors import BadInput
from ndt3_dist.shards.corpus import Corpus
from ndt3_dist.tasks.nlb.ndt1 import NDT1
from ndt3_dist.tasks.nlb.ndt1_packing import observed
from ndt3_dist.tasks.nlb.nlb_metrics import bits_per_spike
from ndt3_dist.tasks.nlb.nlb_snapshots import TRIALS_AT_ONCE, rates_of, save_weights
from ndt3_dist.train.validation import masks


class ValTrials:
    """The val trials of a corpus; masks are the same at every look.

    Attributes:
        best: Lowest loss of unmasked held-in counts so far, whose weights lie at `keep`.
    """

    def __init__(self, path: str, model: NDT1, keep: Path):
        """
        Args:
            path: Of the corpus.
            keep: Where the weights with the best unmasked loss are kept.
        """
        corpus = Corpus(path, ("val",))
        if not len(corpus):
            raise BadInput(f"{path} has no val trial; expected a corpus of ndt3 nlb data")
        self.model, self.keep, packing = model, keep, model.packing(corpus.manifest.sessions)
        packing.check(np.unique(corpus.index["session"]).tolist())
        samples = [corpus.read(n) for n in range(len(corpus))]
        keys = [corpus.key(n) for n in range(len(corpus))]
        self.windows = [
            packing.window(s, 0, lambda key=key: masks(key))
            for s, key in zip(samples, keys, strict=True)
        ]
        seen = np.stack([observed(s, model.config) for s in samples])
        counts = np.stack([s["spikes"] for s in samples]).astype(np.float64)
        self.counts, self.packing = np.where(seen, counts, np.nan), packing
        kept = storage.read_json(said) if (said := keep.with_suffix(".json")).exists() else None
        self.best = kept["scores"]["val_loss_unmasked"] if kept else float("inf")
        self.fingerprint = corpus.manifest.fingerprint

    def scores(self, engine: Any, device: torch.device) -> dict[str, float]:
        """val_loss of masked trials; val_loss_unmasked, val_co_bps and val_fp_bps of whole ones."""
        began, c = time.perf_counter(), self.model.config
        with engine.evaluating():
            total = sum(
                float(self.model(self.packed(first, device), 1.0).sums[0])
                for first in range(0, len(self.windows), TRIALS_AT_ONCE)
            )
            rates = rates_of(self.model, self.counts[:, : c.bins, : c.heldin])
        found = {"val_loss": total / self.counts.size}
        trial, ahead = slice(0, c.bins), slice(c.bins, None)
        heldin, given = self.counts[:, trial, : c.heldin], rates[:, trial, : c.heldin]
        found["val_loss_unmasked"] = float(np.nanmean(given - heldin * np.log(given)))
        heldout = self.counts[:, trial, c.heldin :]
        if np.nansum(heldout):
            found["val_co_bps"] = bits_per_spike(rates[:, trial, c.heldin :], heldout)
        behind = self.counts[:, ahead]
        if np.nansum(behind):
            found["val_fp_bps"] = bits_per_spike(rates[:, ahead], behind)
        if found["val_loss_unmasked"] < self.best:
            self.best = found["val_loss_unmasked"]
            options = c.model_dump(mode="json")
            save_weights(self.keep, engine.optimizer.snapshot(), options, found, self.fingerprint)
        return {**found, "val_s": time.perf_counter() - began}

    def packed(self, first: int, device: torch.device) -> Any:
        some = self.windows[first : first + TRIALS_AT_ONCE]
        return self.model.batch(self.packing.pack(some), device)
