"""Predictions of clips that nobody has BOLD of: by one run or several, weighted for each parcel."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ndt3_dist import log, storage
from ndt3_dist.config import load_config
from ndt3_dist.errors import BadInput
from ndt3_dist.tasks.fmri.clips.clip_source import check_length
from ndt3_dist.tasks.fmri.clips.feature_tree import FeatureTree
from ndt3_dist.tasks.fmri.encoders.clip_fit import device_of
from ndt3_dist.tasks.fmri.encoders.encode import CONFIG, VAL, open_encoder
from ndt3_dist.tasks.fmri.encoders.encoder import Encoder
from ndt3_dist.tasks.fmri.encoders.held_out import predict
from ndt3_dist.tasks.fmri.fmri_config import FmriConfig

TEMPERATURE = 0.3
"""Of the softmax over models of a parcel's held-out r; lower ones trust the best model more."""
Samples = dict[str, dict[str, int]]


@dataclass
class Member:
    """A run of an ensemble.

    Attributes:
        run: Its folder.
        config: As it was trained.
        subjects: In the order of its output.
        val: Held-out r of each subject, (parcels,); {} where nothing was held out.
    """

    run: Path
    config: FmriConfig
    model: Encoder
    subjects: list[str]
    val: dict[str, np.ndarray]

    @classmethod
    def open(cls, run: Path, device: str | None = None) -> "Member":
        if not (run / CONFIG).is_file():
            raise BadInput(f"{run}: no {CONFIG}; expected the folder of a run of `ndt3 fmri train`")
        config = load_config(FmriConfig, run / CONFIG)
        if device:
            train = config.train.model_copy(update={"device": device})
            config = config.model_copy(update={"train": train})
        model, val = open_encoder(run, device_of(config)), run / VAL
        kept = dict(np.load(val, allow_pickle=False)) if val.exists() else {}
        return cls(run, config, model, subjects_of(run), kept)


def subjects_of(run: Path) -> list[str]:
    """Subjects of a run, in the order of its output."""
    return storage.read_json(run / "config.json")["begun"]["subjects"]


def weights_of(members: Sequence[Member], subject: str, temperature: float) -> np.ndarray:
    """Weight of each member for each parcel, (members, 1 or parcels), summing to 1 over members."""
    known = [m.val.get(subject) for m in members]
    if len(members) == 1 or any(r is None for r in known):
        return np.full((len(members), 1), 1 / len(members))
    r = np.stack([r for r in known if r is not None]) / temperature
    r = np.exp(r - r.max(0))
    return r / r.sum(0)


def standardised(values: np.ndarray) -> np.ndarray:
    """Columns of mean 0 and deviation 1: only their shape is scored, and members share no unit."""
    values = values - values.mean(0)
    deviation = values.std(0)
    return values / np.where(deviation > 0, deviation, 1)


def predict_clips(
    members: Sequence[Member],
    samples: Samples,
    features_dir: str = "",
    temperature: float = TEMPERATURE,
) -> dict[str, dict[str, np.ndarray]]:
    """Predictions of an ensemble, (samples, parcels) float32 of each subject and clip.

    Features are cut or their last row repeated to the samples that are asked for.

    Args:
        samples: Subject -> clip -> samples.
        features_dir: Instead of that of the runs.
        temperature: Of the weights.
    Raises:
        BadInput: A clip lacks features, or a member does not know a subject.
    """
    for member in members:
        if lost := [s for s in samples if s not in member.subjects]:
            raise BadInput(
                f"{member.run}: knows {', '.join(member.subjects)}, asked for {', '.join(lost)}"
            )
    weights = {s: weights_of(members, s, temperature) for s in samples}
    lengths: dict[str, dict[int, list[str]]] = {}
    for subject, clips in samples.items():
        for clip, rows in clips.items():
            lengths.setdefault(clip, {}).setdefault(rows, []).append(subject)
    found: dict[str, dict[str, np.ndarray]] = {s: {} for s in samples}
    for number, member in enumerate(members):
        data = member.config.data
        if not (features_dir or data.features_dir) or not data.streams:
            raise BadInput(f"{member.run}: was trained on a corpus; say --features_dir and streams")
        tree = FeatureTree(features_dir or data.features_dir, data.streams)
        check_streams(member, tree)
        tree.check(lengths)
        device = next(member.model.parameters()).device
        for clip in log.progress(lengths, f"predicting by {member.run}, clips"):
            for rows, subjects in lengths[clip].items():
                check_length(clip, tree.rows(clip), rows)
                features = np.nan_to_num(tree.read(clip, 0, rows), posinf=0, neginf=0)
                values = predict(member.model, features, device)
                for subject in subjects:
                    own = standardised(values[:, member.subjects.index(subject)])
                    part = (own * weights[subject][number]).astype(np.float32)
                    found[subject][clip] = found[subject].get(clip, 0) + part
    return found


def check_streams(member: Member, tree: FeatureTree) -> None:
    """Raise BadInput where features are not those that a member was trained on."""
    if tree.dims != member.model.dims:
        raise BadInput(
            f"{tree.root}: streams have {tree.dims} columns, {member.run} was trained on "
            f"{member.model.dims}"
        )
