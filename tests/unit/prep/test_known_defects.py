"""The 19 defects of NDT3's own data path, by number, and the tests that show ours has none.

Most stand with what they are about; those that had no place of their own are here.
"""

import ast
import io
from pathlib import Path

import numpy as np
import pytest

from ndt3_dist.prep import job
from ndt3_dist.prep.recipe import Recipe, SplitRule, load_recipe
from ndt3_dist.prep.windows import cut
from ndt3_dist.readers.recording import Recording
from ndt3_dist.shards.index import index_type
from ndt3_dist.shards.manifest import Array
from ndt3_dist.shards.write import write_shard

UNIT = Path(__file__).resolve().parents[1]
STREAMS = ("spikes", "covariates")
NWB_YAML = Path(__file__).resolve().parents[3] / "data_prep" / "recipes" / "nwb.yaml"
SHOWN_BY = {
    1: "readers/test_defects.py::test_the_first_bin_does_not_swallow_spikes_from_before_the_"
    "recording",
    2: "readers/test_defects.py::test_an_impulse_meets_the_spike_of_its_own_bin_however_bins_are_"
    "stamped",
    3: "readers/test_defects.py::test_what_is_over_at_the_end_is_cut_at_the_end_of_both",
    4: "readers/test_defects.py::test_a_mask_covers_exactly_its_samples_in_every_window",
    5: "prep/test_windows.py::test_nothing_of_the_test_part_leaks_into_scales_or_windows_to_fit",
    6: "prep/test_known_defects.py::test_no_bin_looks_further_ahead_than_one_sample",
    7: "readers/test_defects.py::test_what_moves_faster_than_the_bins_is_averaged_and_not_aliased",
    8: "model/test_ndt3.py::test_poisson_targets_are_distributions_but_for_the_last_row",
    9: "prep/test_known_defects.py::test_a_window_takes_its_own_bytes_and_few_more",
    10: "prep/test_known_defects.py::test_whole_sessions_are_held_out_by_their_id",
    11: "shards/test_shards.py::test_pickles_archives_and_trailing_bytes_are_no_arrays",
    12: "readers/test_defects.py::test_a_rate_that_holds_the_period_is_read_where_said_and_else_"
    "refused",
    13: "test_lease.py::test_of_two_that_come_at_once_one_works",
    14: "readers/test_defects.py::test_bins_before_the_first_spike_are_kept_in_spikes_and_"
    "covariates",
    15: "readers/test_defects.py::test_a_channel_is_its_electrode_id_whatever_the_order_and_"
    "whoever_is_silent",
    16: "readers/test_defects.py::test_series_side_by_side_have_one_clock_and_keep_their_names_"
    "and_units",
    17: "shards/test_cache.py::test_processes_of_a_host_fetch_a_shard_once",
    18: "readers/test_defects.py::test_a_derivative_has_no_spurious_sample_at_a_seam",
    19: "readers/test_defects.py::test_counts_above_255_are_refused_by_name_and_never_wrap",
}


def test_each_of_the_nineteen_is_shown_by_a_test_that_exists():
    assert SHOWN_BY.keys() == set(range(1, 20))
    for shown in SHOWN_BY.values():
        file, name = shown.split("::")
        tree = ast.parse((UNIT / file).read_text())
        assert name in {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}, shown


def recording_of(times, values, spikes=None, channels: int = 4, bins: int = 600) -> Recording:
    seconds = bins * 0.02
    rng = np.random.default_rng(0)
    return Recording(
        subject="A",
        session="1",
        spike_times=spikes or [np.sort(rng.uniform(0, seconds, 300)) for _ in range(channels)],
        arrays=[Array(name="M1", channels=channels)],
        start_s=0.0,
        stop_s=seconds,
        covariate_times=times,
        covariates=values,
        covariate_names=tuple(f"d{d}" for d in range(values.shape[1])),
        covariate_unit="cm",
    )


@pytest.mark.parametrize("hz", [5, 30, 50, 100, 1000])
def test_no_bin_looks_further_ahead_than_one_sample(hz):
    """A step changes no bin that ends more than a sample period before it, at any rate."""
    times = np.arange(12 * hz) / hz
    recipe = Recipe(dataset="t", covariates={"quantile": 1.0, "max_gap_ms": 500.0})

    def binned(at: float) -> np.ndarray:
        values = np.sin(times)[:, None] + 10 * (times >= at)[:, None]
        values[times >= 11.5] = 100  # the same scale with the step and without
        samples = cut(recording_of(times, values), recipe, "a", "0" * 64)[1]
        return np.concatenate([np.load(io.BytesIO(s[2]["covariates"])) for s in samples])

    step_s = 6.0
    changed = np.flatnonzero((binned(step_s) != binned(np.inf)).any(axis=1))
    period = 1 / hz if hz < 50 else 0.0
    assert changed.min() * 0.02 >= step_s - period - 0.02
    assert changed.min() * 0.02 <= step_s + 1e-9


@pytest.mark.parametrize("channels", [96, 192, 256])
def test_a_window_takes_its_own_bytes_and_few_more(tmp_path, channels):
    """Not those of the recording that it is a view of, nor float64; 1.25 times at most in a tar."""
    times = np.arange(600) * 0.02
    recording = recording_of(times, np.random.default_rng(1).standard_normal((600, 2)))
    recording.spike_times *= channels // 4
    recording.arrays = [Array(name="M1", channels=channels)]
    _, samples = cut(recording, Recipe(dataset="t"), "a", "0" * 64)
    raw = 100 * channels + 100 * 2 * 4
    for _, _, members, _ in samples:
        assert sum(map(len, members.values())) == raw + 2 * 128
    rows = ((key, members, {**f, "session": 0}) for _, key, members, f in samples)
    written = write_shard(str(tmp_path / "a.tar"), str(tmp_path / "a.npy"), rows, STREAMS)
    assert (
        written["bytes"] + index_type(STREAMS).itemsize * len(samples)
        <= 1.25 * raw * len(samples) + 10_240
    )


def test_whole_sessions_are_held_out_by_their_id(tmp_path, write_session, without_ray):
    for number, name in enumerate("abc"):
        write_session(tmp_path / "nwb" / f"{name}.nwb", seed=number)
    keys = [f"source={tmp_path / 'nwb'}", f"out={tmp_path / 'c'}", "dataset=t"]
    keys += ["covariates.path=processing/behavior/Velocity/cursor_vel"]
    rules = [SplitRule(match="t-A-b", intervals={"train": (0, 0.5), "test": (0.5, 1)})]
    rules += [SplitRule(intervals={"train": (0, 1)})]
    manifest = job.prepare(load_recipe(NWB_YAML, keys).model_copy(update={"splits": rules}))
    splits = {s.session: set(s.windows) for s in manifest.sessions}
    assert splits == {"a": {"train"}, "b": {"train", "test"}, "c": {"train"}}
