"""Score decoders of one session on identical bins, in raw units."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ndt3_dist import log
from ndt3_dist.checkpoint import lineage
from ndt3_dist.data.continuous import Piece, choose_covariates, read_pieces, sessions_with
from ndt3_dist.errors import BadInput
from ndt3_dist.evaluate.cosmooth import channels_of, cosmooth
from ndt3_dist.evaluate.decode import predict
from ndt3_dist.evaluate.metrics import bits_per_spike, r2_scores
from ndt3_dist.evaluate.predictions import mean_of
from ndt3_dist.evaluate.ridge import FOLDS, HISTORIES, fit_ridge
from ndt3_dist.model.load import load_model, read_export_config, read_normalisation
from ndt3_dist.model.ndt3 import NDT3
from ndt3_dist.model.readout import Readout, load_readout
from ndt3_dist.model.tokenise import Layout
from ndt3_dist.shards.corpus import Corpus
from ndt3_dist.shards.manifest import Manifest, Session


@dataclass
class TestData:
    """The bins that every decoder of a session is scored on.

    Attributes:
        manifest: Of the corpus.
        session: Its entry in it.
        pieces: Test pieces in order of time.
        scale: Raw units per stored unit, (dims,).
        truth: Recorded covariates in raw units, (bins, dims), NaN where not valid.
    """

    manifest: Manifest
    session: Session
    pieces: list[Piece]
    scale: np.ndarray
    truth: np.ndarray

    def score(self, predicted: np.ndarray) -> dict:
        """Scores of predictions in stored units, (bins, dims)."""
        return r2_scores(self.truth, predicted * self.scale)

    @property
    def names(self) -> list[str]:
        return [c.name for c in self.session.covariates]

    def only(self, names: list[str]) -> "TestData":
        """The same bins with some of the covariates."""
        if names == self.names:
            return self
        columns = [self.names.index(name) for name in names]
        session, pieces = choose_covariates(self.session, self.pieces, names)
        scale, truth = self.scale[columns], self.truth[:, columns]
        return replace(self, session=session, pieces=pieces, scale=scale, truth=truth)


def read_test_data(path: str, session: str, split: str = "test") -> TestData:
    """The test bins of a session; with an empty name, of the only one that has the split."""
    corpus = Corpus(path, (split,))
    known = sessions_with(corpus)
    if not session and len(known) > 1:
        raise BadInput(f"{path}: several sessions have split {split}: {', '.join(known)}")
    entry, pieces = read_pieces(corpus, session or known[0])
    if not entry.covariates:
        raise BadInput(f"{path}: session {entry.id} has no covariates to decode")
    scale = np.array([c.scale for c in entry.covariates])
    truth = np.concatenate([r.covariates for r in pieces]).astype(np.float64) * scale
    return TestData(corpus.manifest, entry, pieces, scale, truth)


def seen_lines(folder: str, manifest: Manifest, session: Session, split: str) -> list[str]:
    """Where an export may have been fitted to the bins that it is scored on, a line each."""
    found, stages = [], lineage.of_export(read_export_config(folder))
    for stage in lineage.seen(stages, manifest, session, split):
        hashes = stage["sessions"].items()
        name = next(name for name, sha256 in hashes if sha256 == session.source_sha256)
        found.append(
            f"{folder} may have seen what it is scored on: the recording of {session.id} is "
            f"{name} of corpus {stage['corpus'][:12]}, to whose split {stage['split']} it was "
            f"fitted for {stage['steps']} steps; train without it (data.exclude), or score a "
            "recording that it has not seen"
        )
    return found


def refuse_seen(
    folders: Iterable[str], manifest: Manifest, sessions: list[Session], split: str
) -> None:
    """Raise BadInput where exports may have been fitted to what sessions are scored on.

    It says of how many sessions that is so, and the first line of `seen_lines`.
    """
    folders, lines, seen = [*folders], [], 0
    for session in sessions:
        found = [line for f in folders for line in seen_lines(f, manifest, session, split)]
        lines, seen = lines + found, seen + bool(found)
    if seen:
        raise BadInput(f"{seen} of {len(sessions)} sessions may have been trained on: {lines[0]}")


def decoded_by(folder: str, data: TestData) -> list[str]:
    """Names of the session's covariates that an export was fitted to; else all of them."""
    fitted = read_normalisation(folder)["sessions"].get(data.session.id)
    names = data.names if fitted is None else [c["name"] for c in fitted["covariates"]]
    if not names or not {*names} <= {*data.names}:
        raise BadInput(
            f"{folder} decodes {names} of {data.session.id}, the corpus has {data.names}"
        )
    return names


def export_scale(folder: str, data: TestData) -> np.ndarray:
    """Raw units per unit of an export's predictions for this session, (dims,).

    An export that was fitted to the session keeps the scales of its own corpus; another one speaks
    in units of the session's scale. Raises BadInput for another bin size or other covariates.
    """
    norms = read_normalisation(folder)
    if norms["bin_size_ms"] != data.manifest.bin_size_ms:
        raise BadInput(
            f"{folder} decodes bins of {norms['bin_size_ms']:g} ms, the corpus has "
            f"{data.manifest.bin_size_ms:g}; prepare the recording with the export's bin size"
        )
    fitted = norms["sessions"].get(data.session.id)
    if fitted is None:
        return data.scale
    ours = [(c.name, c.unit) for c in data.session.covariates]
    theirs = [(c["name"], c["unit"]) for c in fitted["covariates"]]
    if ours != theirs:
        raise BadInput(f"{folder} decodes {theirs} of {data.session.id}, the corpus has {ours}")
    return np.array([c["scale"] for c in fitted["covariates"]])


def model_predictions(
    model: NDT3, data: TestData, context: int, stride: int, readout: Readout | None = None
) -> tuple[np.ndarray, float]:
    """Sliding predictions of every test bin, (bins, dims), in stored units; bits per spike."""
    layout = Layout.of(data.session, model.config)
    predicted, rates = [], []
    for piece in data.pieces:
        covariates, counts = predict(model, piece, layout, context, stride, True, readout)
        predicted.append(covariates)
        rates.append(counts)
    counts, expected = np.concatenate([r.spikes for r in data.pieces]), np.concatenate(rates)
    expected = readout.rates(expected) if readout else expected
    return np.concatenate(predicted), bits_per_spike(counts, expected)


def co_bits(model: NDT3, data: TestData, arrays: Sequence[str], context: int) -> float:
    """Bits per spike of held-out arrays, from all others."""
    held_out, layout = channels_of(data.session, arrays), Layout.of(data.session, model.config)
    rates = [cosmooth(model, piece, layout, held_out, context) for piece in data.pieces]
    counts = np.concatenate([piece.spikes[:, held_out] for piece in data.pieces])
    return bits_per_spike(counts, np.concatenate(rates))


def ridge_predictions(path: str, data: TestData, fit_split: str, history: int, folds: int):
    """Predictions of a ridge fitted on the fit split.

    Args:
        path: Of the corpus.
        data: Bins to predict.
        fit_split: Split that may be fitted.
        history: Bins of history; 0 = the best of `HISTORIES`.
        folds: Contiguous parts of the split, held back in turn to choose it and the penalty.
    Returns:
        (bins, dims) in stored units, and the ridge.
    """
    session, pieces = read_pieces(Corpus(path, (fit_split,)), data.session.id)
    _, pieces = choose_covariates(session, pieces, data.names)
    ridge = fit_ridge(pieces, history or HISTORIES, folds)
    return np.concatenate([ridge.predict(r) for r in data.pieces]), ridge


def evaluate(
    exports: dict[str, str],
    corpus: str,
    session: str = "",
    *,
    split: str = "test",
    fit_split: str = "calibration",
    history: int = 0,
    folds: int = FOLDS,
    context: int = 0,
    stride: int = 0,
    held_out: Sequence[str] = (),
) -> dict:
    """Score one or more exports and a ridge on the same bins of one session.

    An export that was fitted to some of the covariates decodes these; all are then scored on the
    covariates that every export decodes. Of several the mean of their predictions is scored too.

    Args:
        exports: Name -> folder of an export.
        corpus: Where the session lies.
        session: Its id; empty = the only one with the split.
        split: Split to score.
        fit_split: Split that the ridge may fit.
        history: Bins of history of the ridge; 0 = as many as do best, of `ridge.HISTORIES`.
        folds: Contiguous parts of `fit_split`, held back in turn to choose penalty and history.
        context: Bins that a prediction sees; 0 = a corpus window.
        stride: As in `evaluate.decode`: 0 = each bin is computed once.
        held_out: Arrays that masked exports are to predict from all others (`evaluate.cosmooth`).
    Returns:
        session, bin_ms, context, seen (what is warned of), dims (names with units), history and
        penalty of the ridge, scores by decoder, and for plots truth and predictions by decoder in
        raw units, (bins, dims).
    """
    if split == fit_split:
        raise BadInput(
            f"split {split} would both fit the ridge and score it; give another --fit-split"
        )
    if reserved := {"ridge", "mean"} & {*exports}:
        raise BadInput(f"an export is called {reserved.pop()}, as a row of ours is; rename it")
    data = read_test_data(corpus, session, split)
    context = context or data.manifest.window_bins
    if history < 0 or folds < 2:
        raise BadInput(f"history {history}, folds {folds}: expected at least 0, and at least 2")
    if not 0 <= stride <= context:
        raise BadInput(f"--stride {stride}: expected 0, or 1 to the context of {context} bins")
    folders = exports.values()
    seen = [line for f in folders for line in seen_lines(f, data.manifest, data.session, split)]
    for line in seen:
        log.warn(line)
    decoded = {name: decoded_by(folder, data) for name, folder in exports.items()}
    common = [n for n in data.names if all(n in names for names in decoded.values())]
    if not common:
        raise BadInput(f"no covariate of {data.session.id} is decoded by all of {list(exports)}")
    found: dict[str, np.ndarray] = {}
    bits: dict[str, float] = {}
    together: dict[str, float] = {}
    for name, folder in exports.items():
        with log.waiting(f"loading {folder}"):
            model = load_model(folder, "cuda" if torch.cuda.is_available() else "cpu")
        own = data.only(decoded[name])
        factor = export_scale(folder, own) / own.scale
        readout = load_readout(folder, data.session.id, data.pieces[0].spikes.shape[1])
        found[name], bits[name] = model_predictions(model, own, context, stride, readout)
        found[name] = found[name] * factor
        if held_out:
            together[name] = co_bits(model, own, held_out, context)
        if decoded[name] != common:
            found[name] = found[name][:, [decoded[name].index(n) for n in common]]
    if common != data.names:
        log.say(f"scored on {', '.join(common)} of {', '.join(data.names)}")
        data = data.only(common)
    if len(exports) > 1:
        found["mean"] = mean_of(list(found.values()))
    found["ridge"], ridge = ridge_predictions(corpus, data, fit_split, history, folds)
    return {
        "session": data.session.id,
        "bin_ms": data.manifest.bin_size_ms,
        "context": context,
        "seen": seen,
        "dims": [f"{c.name} ({c.unit})" for c in data.session.covariates],
        "history": ridge.history,
        "penalty": ridge.penalty,
        "scores": {
            name: {
                **data.score(p),
                "bits_per_spike": bits.get(name),
                **({"co_bits_per_spike": together.get(name)} if held_out else {}),
            }
            for name, p in found.items()
        },
        "truth": data.truth,
        "predictions": {name: p * data.scale for name, p in found.items()},
    }
