"""The seven datasets of the Neural Latents Benchmark: where they lie, how trials become tensors.

Source: nlb_tools 0.0.4 (make_tensors) for alignment, lags and PSTHs; sizes of the winning ensembles
as AE Studio published them.
"""

import difflib
from dataclasses import dataclass

from ndt3_dist.errors import BadInput

FORWARD_MS = 200
"""Behind each trial, for forward prediction."""
BIN_SIZES_MS = (5, 20)
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Dataset:
    """One dataset.

    Attributes:
        name: In files of the benchmark; at 20 ms followed by `_20` (`key`).
        dandiset: Its number on DANDI.
        align: Column of the trials that windows are aligned to.
        window_ms: First and last + 1 ms around it.
        behavior: Series of the velocity; "" = columns of the trials.
        columns: Those columns.
        lag_ms: The velocity that a bin's rates are to tell is that of so much later.
        conditions: Columns of the trials that make a condition of PSTHs; () = none.
        psth_sd_ms: Of the Gaussian that spikes are smoothed by for PSTHs.
        scored: Columns with the first and last time that held-out spikes are scored in; None = the
            whole window.
        jitter_ms: Most that a training window is moved behind its alignment.
        decoders: Column by whose values (0 and 1) trials have velocity decoders of their own.
        overlaps, target_overlaps: Whether a window may reach into the next trial, of inputs and of
            targets; where not, the lagged velocity ends there.
        ensemble: Members that the winning entry chose.
    """

    name: str
    dandiset: str
    align: str = "move_onset_time"
    window_ms: tuple[int, int] = (-250, 450)
    behavior: str = "processing/behavior/hand_vel"
    columns: tuple[str, ...] = ()
    lag_ms: int = 120
    conditions: tuple[str, ...] = ("trial_type", "trial_version")
    psth_sd_ms: int = 50
    scored: tuple[str, str] | None = None
    jitter_ms: int = 0
    decoders: str = ""
    overlaps: bool = False
    target_overlaps: bool = False
    ensemble: int = 8

    def key(self, bin_ms: int) -> str:
        """Its group in files of targets and submissions."""
        return self.name if bin_ms == 5 else f"{self.name}_{bin_ms}"

    def bins(self, bin_ms: int) -> int:
        """Of a trial's window."""
        return (self.window_ms[1] - self.window_ms[0]) // bin_ms

    def forward_bins(self, bin_ms: int) -> int:
        return FORWARD_MS // bin_ms


DATASETS = {
    d.name: d
    for d in (
        Dataset("mc_maze", "000128", lag_ms=100, psth_sd_ms=70),
        Dataset(
            "mc_rtt",
            "000129",
            align="start_time",
            window_ms=(0, 600),
            behavior="processing/behavior/finger_vel",
            lag_ms=140,
            conditions=(),
            overlaps=True,
            target_overlaps=True,
            ensemble=13,
        ),
        Dataset(
            "area2_bump",
            "000127",
            window_ms=(-100, 500),
            lag_ms=-20,
            conditions=("cond_dir", "ctr_hold_bump"),
            psth_sd_ms=40,
            decoders="ctr_hold_bump",
            target_overlaps=True,
            ensemble=21,
        ),
        Dataset(
            "dmfc_rsg",
            "000130",
            align="go_time",
            window_ms=(-1500, 0),
            behavior="",
            columns=("is_eye", "theta", "is_short", "ts", "tp"),
            lag_ms=0,
            conditions=("is_eye", "theta", "is_short", "ts"),
            psth_sd_ms=70,
            scored=("set_time", "go_time"),
            jitter_ms=300,
            overlaps=True,
            ensemble=13,
        ),
        Dataset("mc_maze_large", "000138"),
        Dataset("mc_maze_medium", "000139"),
        Dataset("mc_maze_small", "000140", ensemble=7),
    )
}


def dataset_of(name: str) -> Dataset:
    """A dataset by name, a file's `_20` left out. Raises BadInput with the nearest name."""
    known = name.removesuffix("_20")
    if known not in DATASETS:
        near = difflib.get_close_matches(known, DATASETS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(DATASETS)}"
        raise BadInput(f"no dataset {name!r} ({hint})")
    return DATASETS[known]


def check_bin(bin_ms: int) -> None:
    """Raises BadInput for bins that the benchmark does not have."""
    if bin_ms not in BIN_SIZES_MS:
        raise BadInput(f"bins of {bin_ms} ms; the benchmark has bins of 5 or 20 ms")
