"""What the demo makes of its time: passes below one, fewer steps, the share said; or --full."""

from argparse import Namespace
from pathlib import Path

import pytest

from ndt3_dist.programs import _demo_plan as plan
from ndt3_dist.shards.corpus import Corpus
from ndt3_dist.train.throughput import Speed


def arguments(**given):
    return Namespace(**{"recordings": "x.nwb", "passes": None, "full": False, "ranks": 2, **given})


def test_a_long_recording_gets_the_part_of_a_pass_that_ends_in_time(capsys):
    slow = Speed(a_window=2.0, windows=1000)
    assert plan.planned_passes(arguments(), 8, slow) == pytest.approx(0.13)
    said = capsys.readouterr().out
    assert "0.13 passes over 1000 windows" in said
    assert "2% of the 8 in configs/demo.yaml; --full makes all" in said
    assert plan.planned_passes(arguments(full=True), 8, slow) == 8
    assert plan.planned_passes(arguments(passes=0.5), 8, slow) == 0.5


def test_simulated_recordings_get_four_to_eight_passes():
    for a_window, expected in ((9.0, 4), (0.001, 8)):
        found = plan.planned_passes(arguments(recordings=None), 8, Speed(a_window, 1000))
        assert found == expected


def value(command: list[str], key: str) -> str:
    """Of the last override, which is the one that counts."""
    return [part for part in command if part.startswith(f"{key}=")][-1].partition("=")[2]


def commands(corpus: str, **given) -> dict[str, list[str]]:
    speed = given.pop("speed", None)
    args = arguments(seed=3, **given)
    return plan.tunings(args, Path("runs/d"), Path("runs/d/export"), corpus, speed)


def test_fine_tuning_on_a_recording_takes_the_steps_that_fit(corpus, monkeypatch, capsys):
    slow = Speed(plan.TUNE_SECONDS / 16 / 30.5, 1000)  # thirty steps of sixteen windows
    monkeypatch.setattr(plan, "HELD_BINS", 10)
    found = commands(corpus, speed=slow)
    assert {name: value(c, "train.steps") for name, c in found.items()} == {
        "finetuned": "30",
        "scratch": "30",
    }
    assert "30 of 160 steps" in capsys.readouterr().out
    bins = Corpus(corpus, ("train",)).index["bins"].sum()
    assert float(value(found["scratch"], "data.val_fraction")) == pytest.approx(10 / bins, rel=1e-3)
    full = commands(corpus, speed=slow, full=True)
    assert value(full["scratch"], "train.steps") == "160"
    assert value(full["finetuned"], "train.steps") == "120"


def test_only_bins_that_pretraining_never_saw_are_read_out_in_closed_form(corpus):
    found = commands(corpus, recordings=None)
    assert sorted(found) == ["finetuned", "readout", "scratch"]
    assert value(found["readout"], "train.steps") == "0"
    assert value(found["readout"], "readout.history") == "[10]"
    assert "data.fit=train" not in found["readout"]
    assert "readout" not in commands(corpus)
