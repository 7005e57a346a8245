"""FALCON's recordings by tag, and bin by bin as its evaluator serves them."""

import numpy as np
import pytest
from falcon_files import TEXTS, public_name, write_file

from ndt3_dist.errors import BadInput
from ndt3_dist.tasks.falcon.served import find_files, read_served
from ndt3_dist.tasks.falcon.tags import TASKS, day_of, tag_of, task_of


@pytest.mark.parametrize("task", TASKS.values(), ids=str)
def test_names_of_files_are_tags(task):
    for split in ("minival", "held-in-calib"):
        assert tuple(tag_of(task, public_name(task, tag, split)) for tag in task.tags) == task.tags
    assert tuple(tag_of(task, tag) for tag in task.tags) == task.tags


def test_names_of_the_evaluators_own_files_and_its_sessions():
    named = {
        "h1": ("S10_set_2_held_out_eval.nwb", "S10_set_2", "S10"),
        "h2": ("T5_2023.04.17_held_out_eval.nwb", "2023.04.17", "2023.04.17"),
        "m1": ("L_20121004_held_out_eval.nwb", "20121004", "20121004"),
        "m2": ("sub-MonkeyNRun2_20201030_held_out_eval.nwb", "Run2_20201030", "20201030"),
    }
    for name, (file, tag, day) in named.items():
        assert tag_of(task_of(name), f"/data/{file}") == tag
        assert day_of(tag) == day
        assert tag in task_of(name).held_out


def test_other_names_are_refused():
    with pytest.raises(BadInput, match=r"'L_20130101' is no session of FALCON m1.*20120924"):
        tag_of(task_of("m1"), "L_20130101.nwb")
    with pytest.raises(BadInput, match=r"no FALCON task 'b1'.*falcon_b1_001046"):
        task_of("b1")


@pytest.mark.parametrize("name", ["m1", "m2"])
def test_a_spike_is_in_the_bin_of_the_evaluator_and_gaps_are_not_served(name, tmp_path):
    from pynwb import NWBHDF5IO

    task = TASKS[name]
    path = write_file(tmp_path / public_name(task, task.held_in[0]), task, 60, gap=30)
    served = read_served(task, path)
    with NWBHDF5IO(path, "r") as file:
        nwb = file.read()
        spikes = [np.array(t) for t in nwb.units["spike_times"][:]]
        held = nwb.acquisition["finger_vel" if name == "m2" else "preprocessed_emg"]
        first = next(iter(held.time_series.values()))
        stops = first.timestamps[:] + 0.02 * (name == "m2")
        mask = nwb.acquisition["eval_mask"].data[:]
        np.testing.assert_array_equal(served.truth[:, 0], first.data[:])
    edges = np.r_[stops[0] - 0.02, stops[:30], stops[30] - 0.02, stops[30:]]
    counts = np.stack([np.histogram(t, edges)[0] for t in spikes], axis=1)
    np.testing.assert_array_equal(served.counts, np.delete(counts, 30, axis=0))
    np.testing.assert_array_equal(served.mask, mask.astype(bool))
    assert len(served.counts) == 60 > served.mask.sum()  # what is not scored is served as well
    on_borders = np.isin(np.concatenate(spikes), edges)
    assert on_borders.any()


def test_trials_of_text_end_where_the_clock_leaps(tmp_path):
    task = TASKS["h2"]
    path = write_file(tmp_path / public_name(task, task.held_in[0]), task, 50, gap=20)
    served = read_served(task, path)
    assert served.texts == TEXTS
    assert np.flatnonzero(served.ends).tolist() == [19, 49]
    assert served.counts.shape == (50, 192)


def test_a_file_of_another_task_is_refused_by_name(tmp_path):
    path = write_file(tmp_path / public_name(TASKS["m2"], "Run1_20201019"), TASKS["m1"], 20)
    with pytest.raises(BadInput, match=r"Run1.*no .* at acquisition/finger_vel"):
        read_served(TASKS["m2"], path)


def test_files_are_sought_where_the_evaluator_seeks_them(tmp_path):
    task = TASKS["m1"]
    with pytest.raises(BadInput, match="no folder m1 or 000941"):
        find_files(tmp_path, task)
    folder = tmp_path / "000941" / "sub-MonkeyL-held-in-minival"
    folder.mkdir(parents=True)
    with pytest.raises(BadInput, match=r"no files \*val\*.nwb of phase minival"):
        find_files(tmp_path, task)
    (folder / "b_minival.nwb").touch()
    (folder / "a_minival.nwb").touch()
    assert [p.name for p in find_files(tmp_path, task)] == ["a_minival.nwb", "b_minival.nwb"]
    with pytest.raises(BadInput, match="phase test are not public"):
        find_files(tmp_path, task, "test")
