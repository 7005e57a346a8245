"""Each recipe of a public set reads a small file that is built as the set's files are.

The structures are those of published listings; no file of the sets themselves is here. Genuine
recordings from elsewhere close the file.
"""

import io
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from recordings import genuine

from ndt3_dist.errors import BadInput
from ndt3_dist.prep.recipe import Recipe, load_recipe
from ndt3_dist.prep.windows import cut
from ndt3_dist.readers.read import read_recording

RECIPES = Path(__file__).resolve().parents[3] / "data_prep" / "recipes"
SECONDS = 12.0
BINS = 600
IMPULSE = 333
"""Bin whose covariate sample, and whose spike on the last channel, must stay together."""
IMPULSE_S = (IMPULSE + 0.5) * 0.02


def series(name, data, unit="a.u.", **times):
    from pynwb import TimeSeries

    return TimeSeries(name=name, data=np.asarray(data), unit=unit, **times)


def velocity(samples: int, dims: int, hz: float) -> np.ndarray:
    """Noise that is nowhere constant, and one impulse in bin IMPULSE."""
    values = np.random.default_rng(0).uniform(-1, 1, (samples, dims))
    per_bin = round(hz / 50)
    values[IMPULSE * per_bin : (IMPULSE + 1) * per_bin] += 100
    return values


class Public:
    """An NWB file under construction."""

    def __init__(self, subject: str, session: str | None):
        from pynwb import NWBFile
        from pynwb.file import Subject

        self.nwb = NWBFile(
            session_description="as a public set has it",
            identifier="id",
            session_start_time=datetime(2020, 1, 1, tzinfo=UTC),
            session_id=session,
            subject=Subject(subject_id=subject, species="Macaca mulatta", sex="U", age="P7Y"),
        )

    def electrodes(self, **arrays: int):
        device = self.nwb.create_device(name="array")
        for name, channels in arrays.items():
            group = self.nwb.create_electrode_group(
                name=name, description=name, location=name, device=device
            )
            for _ in range(channels):
                self.nwb.add_electrode(group=group, location=name)

    def units(self, count: int, of_electrode=None, observed=None, shift: float = 0.0):
        """Units that fire at 5 Hz each, and the last one once, at the impulse."""
        for unit in range(count):
            times = np.arange(0.003 + 0.001 * (unit % 10), SECONDS, 0.2)
            more = {} if of_electrode is None else {"electrodes": [of_electrode(unit)]}
            if observed is not None:
                more["obs_intervals"] = observed
            times = np.array([IMPULSE_S]) if unit == count - 1 else times
            self.nwb.add_unit(spike_times=times + shift, **more)

    def trials(self, rows, **columns):
        for name in columns:
            self.nwb.add_trial_column(name, name)
        for number, (start, stop) in enumerate(rows):
            values = {name: column[number] for name, column in columns.items()}
            self.nwb.add_trial(start_time=float(start), stop_time=float(stop), **values)

    def behaviour(self, *containers):
        module = self.nwb.create_processing_module("behavior", "processed")
        for container in containers:
            module.add(container)

    def write(self, path: Path) -> Path:
        from pynwb import NWBHDF5IO

        with NWBHDF5IO(path, "w") as out:
            out.write(self.nwb)
        return path


def perich() -> Public:
    from pynwb.behavior import BehavioralTimeSeries

    file = Public("C", "sub-C_ses-CO-20160909")
    file.electrodes(electrode_group_M1=96, electrode_group_PMd=96)
    file.units(246, of_electrode=lambda u: u * 191 // 245)
    file.trials(
        [(1, 5), (5.5, 6.5), (6.6, 11)], result=["R", "A", "R"], target_dir=[0.0, 1.0, np.nan]
    )
    vel = series("cursor_vel", velocity(1200, 2, 100), "cm/s", rate=100.0)
    file.behaviour(BehavioralTimeSeries(time_series=vel, name="Velocity"))
    return file


def hand_position(hz: float, dims: int) -> np.ndarray:
    """Position whose velocity is smooth but for an impulse in bin IMPULSE."""
    t = np.arange(round(SECONDS * hz)) / hz
    moved = np.clip(t - IMPULSE * 0.02, 0, 0.02) * 100
    return np.column_stack([np.sin(t + d) + moved for d in range(dims)])


def position_of(data, **times):
    from pynwb.behavior import Position, SpatialSeries

    hand = SpatialSeries(name="Hand", data=data, reference_frame="screen", unit="m", **times)
    return Position(spatial_series=hand)


def churchland_maze() -> Public:
    file = Public("Jenkins", None)
    file.electrodes(**{"1": 96, "2": 96})
    trials = [(0.1, 4.0), (4.5, 9.0), (9.2, 11.9)]
    file.units(192, of_electrode=lambda u: u, observed=trials)
    file.trials(
        trials,
        discard_trial=np.array([0, 0, 1], np.uint8),
        move_begins_time=[1.0, 5.0, 10.0],
        move_ends_time=[2.0, 8.0, 11.0],
    )
    file.behaviour(position_of(hand_position(1000, 2), rate=1000.0))
    return file


def delay_reach() -> Public:
    file = Public("JenkinsC", None)
    file.electrodes(**{"1": 96, "2": 96})
    file.units(192, of_electrode=lambda u: u, observed=[[0.0, SECONDS]])
    held = np.arange(12_000) // 4 * 4  # the tracker's last value, at 250 Hz
    position = hand_position(1000, 3)[held]
    position[3000:3400] = np.nan
    times = np.arange(12_000) / 1000
    times[7001] = times[7000]
    file.behaviour(position_of(position, timestamps=times))
    return file


def falcon_h1() -> Public:
    file = Public("HumanPitt-held-out-calib", None)
    file.units(176, shift=4.0)
    wrong = {"rate": 0.02, "offset": 4.02}
    file.nwb.add_acquisition(series("OpenLoopKinematics", np.zeros((BINS, 7)), **wrong))
    vel = series("OpenLoopKinematicsVelocity", velocity(BINS, 7, 50), rate=0.02)
    file.nwb.add_acquisition(vel)
    file.nwb.add_acquisition(series("eval_mask", np.arange(BINS) % 100 >= 5, rate=0.02))
    return file


def falcon_h2() -> Public:
    file = Public("T5-held-in-calib", None)
    counts = np.random.default_rng(0).poisson(1, (BINS, 192)).astype(np.uint8)
    times = np.arange(BINS) * 0.02
    times[250:] += 3.7
    file.nwb.add_acquisition(series("binned_spikes", counts, timestamps=times))
    file.nwb.add_acquisition(series("eval_mask", np.ones(BINS, bool), timestamps=times))
    file.trials([(0, 5), (8.7, 15.7)], cue=["hello>there", "again"], block_num=[1, 1])
    return file


def falcon_b1() -> Public:
    """Trials of 1 s laid end to end, crossings at 30 kHz; the covariate is a picture of each."""
    file = Public("Finch-z-r12r13-21-held-in-calib", None)
    crossings = np.zeros((60_000, 85), np.uint8)
    crossings[np.arange(0, 60_000, 997)] = 1
    times = np.arange(60_000) / 30_000
    file.nwb.add_acquisition(series("tx", crossings, timestamps=times))
    sound = np.zeros(50_000)
    file.nwb.add_acquisition(series("vocalizations", sound, timestamps=np.arange(50_000) / 25_000))
    file.trials([(0, times[29_999]), (1, times[-1])])
    return file


MUSCLES = "APL BCPs DLTa DLTp ECRB ECU EDC FCR FCU FDI FDPr FDPu Hypoth PECmaj TCPlat Thenar"


def falcon_m1() -> Public:
    from pynwb.behavior import BehavioralTimeSeries

    file = Public("MonkeyL-held-in-calib", None)
    file.electrodes(H=16, I=16, J=16, K=16)
    file.units(64, of_electrode=lambda u: u, observed=[[0.0, SECONDS]])
    ends = (np.arange(BINS) + 1) * 0.02
    emg = np.abs(velocity(BINS, 16, 50))
    emg = [series(m, emg[:, i], timestamps=ends) for i, m in enumerate(MUSCLES.split())]
    file.nwb.add_acquisition(BehavioralTimeSeries(time_series=emg, name="preprocessed_emg"))
    mask = np.arange(BINS) % 100 >= 5
    file.nwb.add_acquisition(series("eval_mask", mask, timestamps=ends))
    return file


def falcon_m2() -> Public:
    from pynwb.behavior import BehavioralTimeSeries

    file = Public("MonkeyN-held-in-calib", "2020-10-19_Run1")
    file.electrodes(M1_array=96)
    file.units(96, of_electrode=lambda u: u, observed=[[0.0, SECONDS]])
    vel, starts = velocity(BINS, 2, 50), np.arange(BINS) * 0.02
    vel = [series(n, vel[:, i], timestamps=starts) for i, n in enumerate(("index", "mrs"))]
    file.nwb.add_acquisition(BehavioralTimeSeries(time_series=vel, name="finger_vel"))
    mask = np.arange(BINS) % 100 >= 5
    file.nwb.add_acquisition(series("eval_mask", mask, timestamps=starts))
    return file


def nlb(units: int, name: str | None, **arrays: int) -> Public:
    file = Public("Indy", "20170202_02")
    file.electrodes(**arrays)
    observed = [[0.0, 5.0], [5.5, SECONDS]]
    with_electrodes = None if name is None else (lambda u: u % sum(arrays.values()))
    file.units(units, of_electrode=with_electrodes, observed=observed)
    file.trials([(0.5, 3.0), (6.0, 9.0)], split=["train", "val"])
    if name:
        t = np.arange(12_000) / 1000
        kept = (t < 5.0) | (t >= 5.5)
        vel = velocity(12_000, 2, 1000)[kept]
        file.behaviour(series(name, vel, "mm/s", timestamps=t[kept]))
    return file


FALCON_MASK = np.arange(BINS) % 100 >= 5
OBSERVED = np.r_[0:250, 275:600]

EXPECTED = {
    # recipe: (builder, channels of the arrays, names, unit, first bins of all windows)
    "perich_000688": (
        perich, [96, 96], "x y", "cm/s", [0, 100, 200, 300, 400, 500],
    ),
    "churchland_maze_000070": (
        churchland_maze, [96, 96], "x y", "m/s", [5, 225, 325, 460],
    ),
    "delay_reach_000121": (
        delay_reach, [96, 96], "x y", "m/s", [0, 100, 200, 300, 400, 500],
    ),
    "falcon_h1_000954": (
        falcon_h1, [176], "x y z rx g1 g2 g3", "a.u.", [0, 100, 200, 300, 400, 500],
    ),
    "falcon_h2_000950": (falcon_h2, [192], "", "", [0, 100, 435, 535, 635]),
    "falcon_b1_001046": (falcon_b1, [85], "", "", [0, 50]),
    "falcon_m1_000941": (
        falcon_m1, [64], MUSCLES, "a.u.", [0, 100, 200, 300, 480, 580],
    ),
    "falcon_m2_000953": (
        falcon_m2, [96], "index mrs", "a.u.", [0, 100, 200, 300, 480, 580],
    ),
    "nlb_maze_000128": (
        lambda: nlb(182, "hand_vel", electrode_group_M1=96, electrode_group_PMd=96),
        [182], "x y", "mm/s", [0, 100, 275, 375, 480, 580],
    ),
    "nlb_rtt_000129": (
        lambda: nlb(130, "finger_vel", electrode_group=96),
        [130], "x y", "mm/s", [0, 100, 275, 375, 480, 580],
    ),
    "nlb_area2_000127": (
        lambda: nlb(65, "hand_vel", electrode_group=96),
        [65], "x y", "mm/s", [0, 100, 275, 375, 480, 580],
    ),
    "nlb_dmfc_000130": (
        lambda: nlb(54, None, p1=24, p2=24, p3=24), [54], "", "", [0, 100, 275, 375, 480, 580],
    ),
}  # fmt: skip


def read(name: str, path: Path):
    recipe = load_recipe(RECIPES / f"{name}.yaml")
    recording = read_recording(path, recipe)
    return recipe, recording, *cut(recording, recipe, path.name, "0" * 64)


def load(sample, name: str) -> np.ndarray:
    return np.load(io.BytesIO(sample[2][name]))


def test_every_recipe_of_a_public_set_is_tried():
    assert {p.stem for p in RECIPES.glob("*_00*.yaml")} == set(EXPECTED)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Recipe name -> its file; each is written once."""
    folder, files = tmp_path_factory.mktemp("public"), {}

    def path_of(name: str) -> Path:
        if name not in files:
            files[name] = EXPECTED[name][0]().write(folder / f"sub-X_ses-9_{name}.nwb")
        return files[name]

    return path_of


@pytest.mark.parametrize("name", EXPECTED)
def test_a_recipe_reads_its_set(written, name):
    _, channels, names, unit, starts = EXPECTED[name]
    recipe, _, session, samples = read(name, written(name))
    assert session.dataset == recipe.dataset
    assert session.licence == recipe.licence != "unknown"
    assert [a.channels for a in session.arrays] == channels
    assert [c.name for c in session.covariates] == names.split()
    assert {c.unit for c in session.covariates} <= {unit}
    assert [s[3]["start_bin"] for s in samples] == starts
    for sample in samples:
        spikes, covariates = load(sample, "spikes"), load(sample, "covariates")
        assert spikes.shape == (sample[3]["bins"], sum(channels))
        assert covariates.shape == (sample[3]["bins"], len(names.split()))
        assert spikes.any()


@pytest.mark.parametrize(
    "name", [n for n in EXPECTED if n not in {"falcon_h2_000950", "falcon_b1_001046"}]
)
def test_the_impulse_of_behaviour_is_in_the_bin_of_its_spike(written, name):
    _, _, _, samples = read(name, written(name))
    window = next(
        s for s in samples if s[3]["start_bin"] <= IMPULSE < s[3]["start_bin"] + s[3]["bins"]
    )
    at = IMPULSE - window[3]["start_bin"]
    assert np.flatnonzero(load(window, "spikes")[:, -1]).tolist() == [at]
    covariates = load(window, "covariates")
    if covariates.shape[1]:
        largest = np.nanargmax(np.abs(covariates), axis=0)
        assert largest.tolist() == [at] * covariates.shape[1]


def finite_bins(written, name) -> np.ndarray:
    """Bins of a session whose covariates are all there, those of rejected windows left out."""
    _, _, _, samples = read(name, written(name))
    found = [
        s[3]["start_bin"] + np.flatnonzero(np.isfinite(load(s, "covariates")).all(axis=1))
        for s in samples
    ]
    return np.concatenate(found)


def test_perich_masks_trials_without_reward(written):
    expected = np.r_[50:250, 330:550]
    np.testing.assert_array_equal(finite_bins(written, "perich_000688"), expected)


def test_churchland_masks_all_but_movements_that_are_not_discarded(written):
    inside = np.r_[38:105, 238:325, 325:405]  # 0.75 to 2.1 s, 4.75 to 8.1 s, in whole bins
    np.testing.assert_array_equal(finite_bins(written, "churchland_maze_000070"), inside)


def test_delay_reach_has_no_velocity_where_the_tracker_was_lost_and_none_of_its_clock(written):
    found = finite_bins(written, "delay_reach_000121")
    missing = np.setdiff1d(np.arange(600), found)
    assert set(range(150, 170)) <= set(missing.tolist()) <= {149, *range(150, 170), 170, 599}
    _, _, session, samples = read("delay_reach_000121", written("delay_reach_000121"))
    scale = np.array([c.scale for c in session.covariates])
    speed = np.abs(np.concatenate([load(s, "covariates") * scale for s in samples]))
    assert np.nanmax(speed[np.setdiff1d(np.arange(600), [332, 333, 334])]) < 1.5


@pytest.mark.parametrize("name", ["falcon_h1_000954", "falcon_m1_000941", "falcon_m2_000953"])
def test_falcon_masks_are_the_mask(written, name):
    expected = np.flatnonzero(FALCON_MASK)
    if name != "falcon_h1_000954":  # 80 bins before the test part are no whole window
        expected = expected[(expected < 400) | (expected >= 480)]
    np.testing.assert_array_equal(finite_bins(written, name), expected)


def test_falcon_h1_is_refused_where_the_recipe_does_not_know_of_its_period(written):
    recipe = load_recipe(
        RECIPES / "falcon_h1_000954.yaml",
        ["covariates.rate_is_period=false", "covariates.offset_is_start=false"],
    )
    with pytest.raises(BadInput, match=r"rate 0\.02 last 30000 s.*rate_is_period=true"):
        read_recording(written("falcon_h1_000954"), recipe)


@pytest.mark.parametrize("name", ["nlb_maze_000128", "nlb_rtt_000129", "nlb_area2_000127"])
def test_nlb_shows_all_that_was_observed_and_nothing_else(written, name):
    shown = finite_bins(written, name)
    # The train windows are whole, so what is over before the split and the hole is not shown.
    assert set(shown.tolist()) <= set(OBSERVED.tolist())
    assert set(range(480, 600)) <= set(shown.tolist())


def test_genuine_epochs_and_trials_cut_a_recording():
    """DANDI 000207 has three tables of intervals; windows lie inside the one that is named."""
    path = genuine("dandi000207_sub-4_ses-4.nwb")
    rule = {"table": "encoding_table", "outside": "cut"}
    recipe = Recipe.model_validate({"dataset": "t", "validity": rule})
    recording = read_recording(path, recipe)
    assert recording.spans is not None
    assert 1 < len(recording.spans) <= 90
    session, samples = cut(recording, recipe, path.name, "0" * 64)
    spans = (recording.spans - recording.start_s) / 0.02
    assert samples
    for *_, fields in samples:
        first, last = fields["start_bin"], fields["start_bin"] + fields["bins"]
        assert ((spans[:, 0] <= first + 1e-6) & (last <= spans[:, 1] + 1e-6)).any()
    everything = cut(read_recording(path, Recipe(dataset="t")), Recipe(dataset="t"), "", "")[1]
    assert len(samples) < len(everything)
    assert session.channels == 19
    wrong = Recipe.model_validate({"dataset": "t", "validity": {**rule, "table": "trials"}})
    with pytest.raises(BadInput, match=r"'trials'.*encoding_table, recognition_table"):
        read_recording(path, wrong)


def test_a_genuine_table_of_epochs_is_found_by_its_name():
    rule = {"table": "epochs", "outside": "cut"}
    recipe = Recipe.model_validate({"dataset": "t", "validity": rule})
    recording = read_recording(genuine("pynapple_A8604.nwb"), recipe)
    assert recording.spans is not None
    assert len(recording.spans) == 1


def test_stevenson_2011_differentiates_to_the_acceleration_of_its_velocity():
    """Both read from the genuine file: the derivative is that of np.gradient on its own times."""
    path = "processing/behavior/Velocity/cursor_vel"
    plain = Recipe.model_validate({"dataset": "t", "covariates": {"path": path}})
    steep = Recipe.model_validate(
        {"dataset": "t", "covariates": {"path": path, "derivative": True, "columns": [1]}}
    )
    one, other = (read_recording(genuine("m1_stevenson_2011.nwb"), r) for r in (plain, steep))
    expected = np.gradient(one.covariates[:, 1], one.covariate_times)
    np.testing.assert_allclose(other.covariates[:, 0], expected, rtol=1e-12)
    assert other.covariate_names == ("y",)
