"""The corpus of an experiment: made of its BIDS folder by the stage of `preprocess`, once."""

from collections.abc import Sequence
from pathlib import Path

from ndt3_dist import log, storage
from ndt3_dist.errors import BadInput
from ndt3_dist.prep.job import prepare
from ndt3_dist.prep.recipe import Recipe
from ndt3_dist.shards.corpus import Corpus
from ndt3_dist.shards.manifest import MANIFEST, SPLITS, read_manifest
from ndt3_dist.tasks.words.ieeg import bids_folder
from ndt3_dist.tasks.words.ieeg.read_ieeg import Ieeg, open_raw
from ndt3_dist.tasks.words.series import Series, whole_series
from ndt3_dist.tasks.words.word_config import DataParams, Experiment
from ndt3_dist.tasks.words.word_targets import TRANSCRIPT

READER = "ndt3_dist.tasks.words.ieeg.read_ieeg:read"
HIGH_GAMMA = "derivatives/ecogprep/*/ieeg/*_desc-highgamma_ieeg.fif"
BROADBAND = "derivatives/ecogprep/*/ieeg/sub-*_task-*[!a]_ieeg.fif"
"""Their names end in the task, those of an envelope in desc-highgamma."""
PER_BIN = 8
"""Samples of a bin, whatever the rate."""
WINDOW_S = 2.0


def recipe_of(data: DataParams, out: str, workers: int | str = "auto", address: str = "") -> Recipe:
    """The recipe that makes the corpus of some data_params; all its electrodes are taken.

    Raises:
        BadInput: There is no recording in data_root.
    """
    root = Path(data.data_root)
    pattern = HIGH_GAMMA if data.use_high_gamma else BROADBAND
    found = sorted(root.glob(pattern))
    if not found:
        raise BadInput(
            f"data_root {data.data_root}: no {pattern}; download the derivatives (datalad get), or "
            "say task_config.data_params.data_root or .corpus"
        )
    rate = data.target_sr or float(open_raw(found[0]).info["sfreq"])
    bin_ms = 1000 * PER_BIN / rate
    options = Ieeg(
        root=str(root.absolute()),
        transcript=TRANSCRIPT if (root / TRANSCRIPT).is_file() else "",
        target_hz=rate,
        drop_bad=data.do_drop_bads,
        stream=data.stream,
    )
    return Recipe.model_validate(
        {
            "dataset": "words",
            "source": str(root.absolute()),
            "pattern": pattern,
            "out": out,
            "reader": READER,
            "options": options.model_dump(mode="json"),
            "bin_size_ms": bin_ms,
            "window_ms": bin_ms * max(1, round(WINDOW_S * 1000 / bin_ms)),
            # A test split rejects nothing and keeps its last, shorter window.
            "splits": [{"intervals": {"test": (0, 1)}}],
            "num_workers": workers,
            "ray_address": address,
        }
    )


def corpus_of(stage: Experiment, workers: int | str = "auto", address: str = "") -> str:
    """Path of the corpus of a stage, which is made where the config names none."""
    data = stage.data
    if data.corpus:
        return data.corpus
    kind = "highgamma" if data.use_high_gamma else "broadband"
    rate = f"{data.target_sr:g}hz" if data.target_sr else "own_rate"
    said = f"{Path(data.data_root).absolute()} {data.do_drop_bads} {data.stream}"
    name = f"{kind}_{rate}_{storage.sha256_bytes(said.encode())[:8]}"
    out = str((Path(stage.output_dir) / "corpora" / name).absolute())
    if not storage.exists(storage.join(out, MANIFEST)):
        manifest = prepare(recipe_of(data, out, workers, address))
        for failure in manifest.failed:
            log.warn(f"left out {failure.source}: {failure.error}")
    return out


def series_of(stage: Experiment, corpus_path: str, folder: Path) -> list[Series]:
    """The chosen electrodes of the chosen subjects, in order of subjects.

    Raises:
        BadInput: A subject is not there, no electrode is left, or rates differ.
    """
    present = {shard.split for shard in read_manifest(corpus_path).shards}
    corpus = Corpus(corpus_path, tuple(s for s in SPLITS if s in present))
    sessions = [s for s in corpus.manifest.sessions if not s.is_removed]
    by_label = {bids_folder.label(s.subject): s for s in sessions}
    lists = electrode_lists(stage.data, list(by_label))
    wanted = [bids_folder.label(s) for s in stage.data.subject_ids] or list(lists or by_label)
    if lost := [s for s in wanted if s not in by_label]:
        raise BadInput(
            f"{corpus_path}: no subject {', '.join(lost)}; there are {', '.join(by_label)}"
        )
    found = []
    for subject in wanted:
        one = whole_series(corpus, by_label[subject], stage.data.stream, folder)
        listed = None if lists is None else lists.get(subject, [])
        if listed == []:
            continue
        found.append(with_channels(one, stage.data, listed))
    corpus.close()
    if not found:
        raise BadInput("no electrode of any subject is in the electrode list")
    if len({one.rate_hz for one in found}) > 1:
        raise BadInput("subjects have different rates; say task_config.data_params.target_sr")
    return found


def electrode_lists(data: DataParams, subjects: Sequence[str]) -> dict[str, list[str]] | None:
    """Subject -> its electrodes, where the config names any."""
    if data.per_subject_electrodes:
        return {bids_folder.label(k): v for k, v in data.per_subject_electrodes.items()}
    if not data.electrode_file_path:
        return None
    told, root = Path(data.electrode_file_path), Path(data.data_root)
    path = next((p for p in (told, root / told) if p.is_file()), told)
    found = {s: bids_folder.electrode_list(path, s, root) for s in subjects}
    return {subject: names for subject, names in found.items() if names}


def with_channels(one: Series, data: DataParams, listed: list[str] | None) -> Series:
    """Those of a session that the config chooses; electrodes that are bad are gone already."""
    known = None
    if listed is not None:
        known = [name for name in listed if name in one.labels]
        if len(known) < len(listed):
            lost = len(listed) - len(known)
            log.warn(f"{one.session}: {lost} of {len(listed)} listed electrodes are bad or absent")
        if not known:
            raise BadInput(f"{one.session}: none of {len(listed)} listed electrodes is there")
    none = bids_folder.Channels(frozenset(), {})
    names = bids_folder.chosen(list(one.labels), none, data.channel_reg_ex or "", known)
    at = [one.labels.index(name) for name in names]
    columns = tuple(one.columns[i] for i in at)
    places = tuple(one.places[i] for i in at)
    return Series(
        one.session, one.subject, one.path, one.rate_hz, columns, tuple(names), places, one.onsets
    )
