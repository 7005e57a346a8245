"""Data of the Algonauts challenge's public structure: features, BOLD that follows them, lengths.

BOLD of a subject is a mixture of what the features were three and four samples before, the same for
all but for a part of each subject's own. `sub-02` lacks a run, one film was shown twice, and
features have a sample more than BOLD.
"""

from pathlib import Path

import h5py
import numpy as np
import torch

SUBJECTS = "sub-01", "sub-02", "sub-03", "sub-05"
DIMS = {"video": 6, "audio": 4, "text": 5}
ENDINGS = {"video": ".npy", "audio": ".pt", "text": ".h5"}
PARCELS = 8
CLIPS = ["s01e01a", "s01e01b", "s01e02a", "s01e02b", "s06e01a", "s06e01b", "bourne01", "life01"]
WITHHELD = ["s07e01a", "s07e01b", "chaplin1", "chaplin2"]
MISSING = "sub-02", "s01e02a"
BOLD = "sub-{0}/func/sub-{0}_task-{1}_space-MNI_atlas-Schaefer18_parcel-1000Par7Net_{2}bold.h5"


def rows_of(clip: str) -> int:
    """Samples of BOLD of a clip."""
    return 90 + 3 * (sum(map(ord, clip)) % 5)


def features_of(clip: str, rows: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(sum(ord(c) * 31**i for i, c in enumerate(clip)) % 2**32)
    return {n: draw.normal(size=(rows, d)).astype(np.float32) for n, d in DIMS.items()}


def bold_of(clip: str, subject: str, showing: int = 1, noise: float = 0.7) -> np.ndarray:
    """(rows, parcels) float32 in units of its own."""
    rows, number = rows_of(clip), SUBJECTS.index(subject)
    x = np.concatenate([*features_of(clip, rows + 1).values()], axis=1)[:rows]
    of_all = np.random.default_rng(0).normal(size=(x.shape[1], PARCELS))
    own = np.random.default_rng(1 + number).normal(size=(x.shape[1], PARCELS))
    driven, y = x @ (of_all + 0.5 * own) / x.shape[1] ** 0.5, np.zeros((rows, PARCELS))
    y[3:] += driven[:-3]
    y[4:] += 0.7 * driven[:-4]
    draw = np.random.default_rng([number, showing, sum(map(ord, clip))])
    return (50 + 3 * (y + noise * draw.normal(size=y.shape))).astype(np.float32)


def write_feature(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, values)
    elif path.suffix == ".pt":
        torch.save(torch.from_numpy(values)[None], path)
    else:
        with h5py.File(path, "w") as file:
            file["layers.20"] = values
            file["layers.30"] = values[:, :2]


def write_tree(root: Path) -> Path:
    """ROOT/features and ROOT/data."""
    for clip in CLIPS + WITHHELD:
        prefix = "friends_" if clip.startswith("s0") else ""
        for stream, values in features_of(clip, rows_of(clip) + 1).items():
            name = f"{prefix if stream == 'video' else ''}{clip}{ENDINGS[stream]}"
            write_feature(root / "features" / stream / clip[:3] / name, values)
    for subject in SUBJECTS:
        number = subject[4:]
        for task, desc in (("friends", "desc-s123456_"), ("movie10", "")):
            path = root / "data" / BOLD.format(number, task, desc)
            path.parent.mkdir(parents=True, exist_ok=True)
            with h5py.File(path, "w") as file:
                for i, clip in enumerate(CLIPS):
                    if clip.startswith("s0") == (task == "friends") and (subject, clip) != MISSING:
                        runs = ["_run-1", "_run-2"] if clip == "life01" else [""]
                        for showing, run in enumerate(runs, 1):
                            key = f"ses-{i + 1:03d}_task-{clip}{run}"
                            file[key] = bold_of(clip, subject, showing)
        folder = root / "data" / subject / "target_sample_number"
        folder.mkdir()
        s7 = {c: rows_of(c) - (c == "s07e01b") for c in WITHHELD[:2]}  # a sample short
        np.save(folder / f"{subject}_friends-s7_fmri_samples.npy", s7)  # type: ignore[arg-type]
        ood = {c: np.int64(rows_of(c)) for c in WITHHELD[2:]}
        np.save(folder / f"{subject}_ood_fmri_samples.npy", ood)  # type: ignore[arg-type]
    return root


def truth_of(clips: list[str]) -> dict[str, dict[str, np.ndarray]]:
    """BOLD of withheld clips, as long as the sample numbers say."""
    return {
        s: {c: bold_of(c, s, noise=0.7)[: rows_of(c) - (c == "s07e01b")] for c in clips}
        for s in SUBJECTS
    }


def settings(root: Path, **model) -> dict:
    """A config of what `write_tree` made, as plain data."""
    return {
        "run": {"name": "tiny", "dir": str(root / "runs"), "seed": 1},
        "data": {
            "features_dir": str(root / "features"),
            "data_dir": str(root / "data"),
            "streams": {"video": "video", "audio": "audio", "text": "text#layers.20"},
        },
        "model": {"width": 16, "kernel": 9, **model},
        "optim": {"lr": 0.01, "warmup_epochs": 0, "schedule": "cosine", "weight_decay": 0.01},
        "train": {"epochs": 12, "batch": 8, "window": 48, "patience": 0, "device": "cpu"},
        "log": {"every_steps": 1000},
    }
