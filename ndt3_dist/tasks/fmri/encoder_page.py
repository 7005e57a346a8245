"""What an encoder has learned, on its held-out films: by parcel, network, lag and stream."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from ndt3_dist import log, storage
from ndt3_dist.config import load_config
from ndt3_dist.errors import BadInput
from ndt3_dist.model.load import load_model
from ndt3_dist.pages.chart import Series, as_chart, as_charts
from ndt3_dist.pages.page import as_page, as_table, section, sentence
from ndt3_dist.tasks.fmri.clips.clip_source import Clip, hold_out
from ndt3_dist.tasks.fmri.encoders.build import build
from ndt3_dist.tasks.fmri.encoders.clip_scales import ClipScales
from ndt3_dist.tasks.fmri.encoders.encode import CONFIG, SCALES, open_source
from ndt3_dist.tasks.fmri.encoders.encoder import Encoder
from ndt3_dist.tasks.fmri.encoders.held_out import HeldOut, predict
from ndt3_dist.tasks.fmri.fmri_config import FmriConfig
from ndt3_dist.tasks.fmri.parcel_score import TRIM, Score, by_network, noise_ceiling, pearson

LAGS = range(-4, 9)
"""Samples by which predictions are moved; the best is 0 where time is right."""
PAGE = "encoder.html"


class Look:
    """A run that has ended, with the clips that it did not see.

    Its own export is looked at, not the retrained one, which has seen them.
    """

    def __init__(self, run: str | Path):
        self.path = Path(run)
        if not (self.path / "export" / "config.json").is_file():
            raise BadInput(f"{run}: no export; expected the folder of a run that has ended")
        config = load_config(FmriConfig, self.path / CONFIG)
        self.source = open_source(config)
        _, self.held = hold_out(self.source.clips, config.data.val, config.data.val_run)
        if not self.held:
            raise BadInput(f"{run}: nothing was held out (data.val is empty)")
        scale = config.data.scale
        self.scales = ClipScales.kept(self.source, self.path / SCALES, (), scale)
        self.model: Encoder = load_model(self.path / "export", build=build)

    def score(self) -> Score:
        return HeldOut(self.scales, self.held).score(self.model, torch.device("cpu"))

    def by_lag(self) -> dict[int, float]:
        """Mean r with predictions that many samples later, over subjects and parcels."""
        pairs: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
        for clip in self.held:
            features, bold = self.scales.read(clip, 0, clip.rows)
            found = predict(self.model, features, torch.device("cpu"))
            for number, subject in enumerate(self.source.subjects):
                known = np.isfinite(bold[:, number]).all(1)
                if known.any():
                    pair = bold[known, number], found[known, number]
                    pairs.setdefault(subject, []).append(pair)
        most, scores = max(map(abs, LAGS)) + TRIM, {}
        for lag in LAGS:
            each = [
                np.nan_to_num(
                    pearson(
                        np.concatenate([t[most:-most] for t, _ in of]),
                        np.concatenate([p[most - lag : len(p) - most - lag] for _, p in of]),
                    )
                ).mean()
                for of in pairs.values()
            ]
            scores[lag] = float(np.mean(each))
        return scores

    def without_stream(self) -> dict[str, float]:
        """r that is lost where a stream is at its mean."""
        whole, found, first = self.score().value, {}, 0
        for name, dims in log.progress(self.model.dims.items(), "leaving streams out"):
            kept = self.model.scale.detach().clone()
            with torch.no_grad():
                self.model.scale[first : first + dims] = 0
            found[name] = whole - self.score().value
            with torch.no_grad():
                self.model.scale.copy_(kept)
            first += dims
        return found

    def ceiling(self) -> dict[str, np.ndarray]:
        """Of each subject who saw clips twice, (parcels,)."""
        found = {}
        twice = [c for c in self.source.clips if c.number == 2]
        for number, subject in enumerate(self.source.subjects):
            showings: tuple[dict, dict] = {}, {}
            for second in twice:
                first = next(
                    c for c in self.source.clips if c.name == second.name and c.number == 1
                )
                rows = min(first.rows, second.rows)
                both = [self._bold(c, rows)[:, number] for c in (first, second)]
                known = np.isfinite(both[0]).all(1) & np.isfinite(both[1]).all(1)
                if known.sum() > 2 * TRIM + 1:
                    showings[0][second.name], showings[1][second.name] = (b[known] for b in both)
            if showings[0]:
                found[subject] = noise_ceiling(*showings)
        return found

    def _bold(self, clip: Clip, rows: int) -> np.ndarray:
        return self.source.bold(clip, 0, rows)


def write_page(run: str | Path, out: Path, networks: Sequence[str] = ()) -> tuple[Path, Score]:
    """OUT/encoder.html: tables and charts of a run's held-out films.

    Args:
        networks: Of each parcel; empty = none are shown.
    """
    look = Look(run)
    scored, lags, ceilings = look.score(), look.by_lag(), look.ceiling()
    films = [
        {
            "subject": s,
            **{f: f"{r:.4f}" for f, r in of.items()},
            "mean": f"{scored.subjects[s]:.4f}",
        }
        for s, of in scored.films.items()
    ]
    parts = [section("Films", as_table(films))]
    if networks:
        each = {s: by_network(scored.parcels_of(s), [*networks]) for s in scored.by_parcel}
        rows = [row_of(s, values) for s, values in each.items()]
        parts.append(section("Networks", as_table(rows)))
    if ceilings:
        rows = [
            {
                "subject": s,
                "noise ceiling": f"{values.mean():.4f}",
                "r over ceiling": f"{scored.subjects[s] / values.mean():.3f}"
                if s in scored.subjects and values.mean() > 0
                else "-",
            }
            for s, values in ceilings.items()
        ]
        parts.append(section("Noise ceiling, of films seen twice", as_table(rows)))
    x = np.array(list(lags))
    over_lags = as_chart("held-out r", [Series(x, np.array([*lags.values()]))], "samples later")
    edges = np.linspace(-0.2, 1, 25)
    spread = [
        Series(edges[:-1], np.histogram(scored.parcels_of(s), edges)[0].astype(float), s, i + 1)
        for i, s in enumerate(scored.by_parcel)
    ]
    parts.append(
        section("Time and parcels", as_charts(over_lags, as_chart("parcels", spread, "r")))
    )
    lost = [
        {"stream": n, "r lost without it": f"{r:.4f}"} for n, r in look.without_stream().items()
    ]
    parts.append(section("Streams", as_table(lost)))
    best = max(lags, key=lambda lag: lags[lag])
    said = f"held-out r {scored.value:.4f}; the best lag of its predictions is {best} samples"
    out.mkdir(parents=True, exist_ok=True)
    page = as_page("Encoder", look.path.name, sentence(said), parts)
    storage.write_bytes(out / PAGE, page)
    return out / PAGE, scored


def row_of(subject: str, values: Mapping[str, float]) -> dict[str, str]:
    """A line of a table."""
    return {"subject": subject, **{name: f"{value:.4f}" for name, value in values.items()}}
