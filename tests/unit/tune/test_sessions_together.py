"""Several sessions in one fit, and earlier ones that are replayed beside them."""

import json
import re
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from small_corpus import make_recording, write_corpus

from ndt3_dist.checkpoint import lineage
from ndt3_dist.config import PROJECT, load_config
from ndt3_dist.data.order import generator
from ndt3_dist.errors import BadInput
from ndt3_dist.evaluate.session import evaluate
from ndt3_dist.model.load import read_export_config, read_normalisation
from ndt3_dist.model.readout import load_readout
from ndt3_dist.programs import finetune as finetune_program
from ndt3_dist.train.run_metrics import read_metrics
from ndt3_dist.tune.draws import Draws, Windows, draw_windows
from ndt3_dist.tune.finetune import finetune
from ndt3_dist.tune.joint import read_joint
from ndt3_dist.tune.tune_config import TuneConfig

SPLITS = [{"intervals": {"calibration": (0, 0.8), "test": (0.8, 1)}}]


@pytest.fixture(scope="module")
def days(tmp_path_factory) -> str:
    """Four sessions of 15 s; the third has another array and a third covariate."""
    out = tmp_path_factory.mktemp("days") / "c"
    recordings = [make_recording(n, 15, [8]) for n in (1, 2)]
    recordings += [make_recording(3, 15, [40], dims=3), make_recording(4, 15, [8])]
    write_corpus(out, recordings, splits=SPLITS)
    return str(out)


@pytest.fixture
def small(days, tmp_path) -> list[str]:
    found = ["model.layers=1", "model.dim=32", "model.heads=2", "model.feedforward=32"]
    found += ["train.steps=3", "train.batch=3", "train.eval_every=2", "optim.lr=3e-3"]
    return [*found, "data.fit=calibration", f"data.corpus={days}", f"run.dir={tmp_path}"]


@pytest.fixture
def tune(small):
    def made(*overrides: str) -> TuneConfig:
        return load_config(TuneConfig, PROJECT / "configs" / "stevenson.yaml", [*small, *overrides])

    return made


def test_one_model_is_fitted_to_sessions_of_other_arrays_and_covariates(days, tune, tmp_path):
    chosen = "data.sessions=[t-S-01, t-S-03]"
    found = finetune(tune(chosen, "train.refit=true"), None)
    export = found["export"]
    norms = read_normalisation(export)["sessions"]
    assert {k: (len(v["covariates"]), v["channels"]) for k, v in norms.items()} == {
        "t-S-01": (2, [8]),
        "t-S-03": (3, [40]),
    }
    (stage,) = lineage.of_export(read_export_config(export))
    assert list(stage["sessions"]) == ["t-S-01", "t-S-03"]
    assert list(found["by_session"]) == ["t-S-01", "t-S-03"]
    assert found["r2_val"] == pytest.approx(np.mean(list(found["by_session"].values())))
    line = next(m for m in read_metrics(tmp_path / "stevenson") if m["step"] == found["best_step"])
    assert line["val_r2/t-S-03"] == found["by_session"]["t-S-03"]
    gains = [load_readout(export, s, n).gain for s, n in (("t-S-01", 8), ("t-S-03", 40))]
    assert [len(g) for g in gains] == [8, 40]
    assert load_readout(export, "t-S-02", 8) is None
    for session, bins in (("t-S-01", 150), ("t-S-03", 150)):
        scores = evaluate({"m": export}, days, session, history=2)["scores"]["m"]
        assert scores["bins"] == bins
    card = (Path(export) / "README.md").read_text()
    assert "gains of its expected counts for each session" in card
    again = finetune(tune(chosen, "train.refit=true", "run.name=again"), None)
    assert again["by_session"] == found["by_session"]


def test_each_session_has_a_readout_in_closed_form(days, tune):
    read = "train.steps=0", "readout.history=[2]"
    both = finetune(tune("data.sessions=[t-S-01, t-S-03]", *read), None)
    alone = finetune(tune("data.session=t-S-03", *read, "run.name=alone"), None)
    ours, theirs = (load_readout(r["export"], "t-S-03", 40) for r in (both, alone))
    assert np.array_equal(ours.filters.counts, theirs.filters.counts)
    assert np.array_equal(ours.gain, theirs.gain)
    other = load_readout(both["export"], "t-S-01", 8).filters
    assert other.counts.shape[1:] == (8, 2)
    first = finetune(tune("data.session=t-S-01", *read, "run.name=one"), None)
    assert both["r2_val"] == pytest.approx((first["r2_val"] + alone["r2_val"]) / 2)
    told = read_export_config(first["export"])["readout"]
    assert told["session"] == "t-S-01"  # as it was before there were several


def test_windows_are_drawn_from_all_starts_alike_by_seed_and_step_alone(tune):
    config = tune("data.sessions=['t-S-0[12]', t-S-03]")
    data = read_joint(config, None)
    windows = Windows(data, config.model)
    starts = [len(one.first[0]) - one.window + 1 for one in data.fitted]
    assert windows.fitted == sum(starts) == len({windows.name(n) for n in range(windows.fitted)})
    sessions = Counter(windows.name(n).split()[0] for n in range(windows.fitted))
    assert list(sessions.values()) == starts
    last = windows.start(windows.fitted - 1)
    assert last == (2, starts[2] - 1)  # the held-back part begins right behind its window
    drawn = [draw_windows(windows, 5, generator("x", i)) for i in (0, 0, 1)]
    assert drawn[0][1].tolist() == drawn[1][1].tolist() != drawn[2][1].tolist()
    for name, array in drawn[0][0].items():
        assert np.array_equal(array, drawn[1][0][name])
    one = Windows(read_joint(tune("data.session=t-S-01"), None), config.model)
    plain = generator("x").integers(0, one.fitted, 5)  # as one session was always drawn
    assert draw_windows(one, 5, generator("x"))[1].tolist() == plain.tolist()


def test_covariates_that_change_their_places_are_refused(tune, tmp_path, days):
    swapped = make_recording(2, 15, [8])
    swapped.covariate_names = ("y", "x")
    write_corpus(tmp_path / "c", [make_recording(1, 15, [8]), swapped], splits=SPLITS)
    mixed = f"data.corpus={tmp_path}/c", "data.sessions=['*']"
    with pytest.raises(BadInput, match=r"covariate y is number 2 of session t-S-01 and number 1"):
        read_joint(tune(*mixed), None)
    data = read_joint(tune(*mixed, "data.covariates=[x, y]"), None)
    assert [[c.name for c in s.covariates] for s in data.sessions] == [["x", "y"]] * 2
    with pytest.raises(BadInput, match="session and sessions: expected one of the two"):
        tune("data.session=t-S-01", "data.sessions=[t-S-02]")
    with pytest.raises(BadInput, match=r"split calibration: no session matches 'b-\*'"):
        read_joint(tune("data.sessions=[b-*]"), None)
    small = "transfer.behavior_dim=2"
    with pytest.raises(BadInput, match=r"t-S-03 has 3 covariates; model\.behavior_dim is 2"):
        finetune(tune("data.sessions=['*']", small), None)


def test_replayed_windows_have_their_share_and_are_of_no_session_that_is_fitted(tune):
    config = tune("data.session=t-S-01", "data.replay.sessions=['*']", "data.replay.weight=0.3")
    data = read_joint(config, None)
    assert [s.id for s in data.replayed.sessions] == ["t-S-02", "t-S-03", "t-S-04"]
    windows = Windows(data, config.model)
    names: Counter[str] = Counter()
    for step in range(200):
        _, numbers = draw_windows(windows, 4, generator("r", step))
        shares = (numbers >= windows.fitted).sum()
        assert shares in (1, 2)
        names.update(windows.name(n).split()[0] for n in numbers.tolist())
    assert sum(names.values()) == 800
    assert 800 - names["t-S-01"] == pytest.approx(0.3 * 800, rel=0.1)
    assert min(names[s.id] for s in data.replayed.sessions) > 50
    draws = Draws(data, type("Model", (), {"config": config.model}), 4, 0)
    step = next(draws.steps(draws.start, lambda totals, _: totals))
    assert "(replayed)" in " ".join(draws.names(step.rows))
    dims = Counter(np.diff(step.batches[0][1]["cu_seqlens"]).tolist())
    assert set(dims) <= {300, 500}  # a patch and two covariates, or two patches and three


def test_the_lineage_says_what_was_replayed(days, tune, tmp_path):
    write_corpus(tmp_path / "old", [make_recording(9, 15, [8])], source_sha256="7" * 64)
    old = [f"data.replay.corpus={tmp_path}/old", "data.replay.sessions=['*']"]
    old += ["data.replay.split=train", "data.replay.weight=0.25"]
    first = finetune(tune("data.session=t-S-01", "run.name=first"), None)["export"]
    export = finetune(tune("data.session=t-S-02", *old), first)["export"]
    before, replayed, own = lineage.of_export(read_export_config(export))
    assert [list(s["sessions"]) for s in (before, replayed, own)] == [
        ["t-S-01"],
        ["t-S-09"],
        ["t-S-02"],
    ]
    assert (replayed["split"], replayed["replayed"]) == ("train", 0.25)
    assert replayed["steps"] == own["steps"]
    assert replayed["corpus"] != own["corpus"]
    assert "25% of their windows replayed" in "\n".join(lineage.lines([replayed]))
    assert list(read_normalisation(export)["sessions"]) == ["t-S-02"]


def test_a_replay_of_nothing_or_of_other_bins_is_refused(tune, tmp_path):
    alone = "data.session=t-S-01", "data.replay.sessions=[t-S-01]"
    with pytest.raises(BadInput, match="names only what is fitted"):
        read_joint(tune(*alone), None)
    recording = [make_recording(9, 15, [8])]
    write_corpus(tmp_path / "old", recording, source_sha256="7" * 64, bin_size_ms=40)
    with pytest.raises(BadInput, match=r"old has bins of 40 ms, .* of 20"):
        read_joint(
            tune(
                "data.session=t-S-01",
                f"data.replay.corpus={tmp_path}/old",
                "data.replay.sessions=['*']",
                "data.replay.split=train",
            ),
            None,
        )
    write_corpus(tmp_path / "same", [make_recording(1, 15, [8])])  # by another name it is the same
    renamed = f"data.replay.corpus={tmp_path}/same", "data.replay.split=train"
    with pytest.raises(BadInput, match="names only what is fitted"):
        read_joint(tune("data.session=t-S-01", "data.replay.sessions=['*']", *renamed), None)


def test_another_replay_is_another_run(days, tune, tmp_path, monkeypatch):
    replay = "data.session=t-S-01", "data.replay.sessions=[t-S-02]"
    config = tune(*replay)
    assert "step 1" in finetune(config, None, until=1)["stopped"]
    kept = json.loads((tmp_path / "stevenson" / "config.json").read_text())
    assert kept["begun"]["replayed"] == kept["begun"]["corpus"]
    whole = finetune(
        tune("data.session=t-S-01", "data.replay.sessions=[t-S-02]", "run.name=w"), None
    )
    assert finetune(config, None)["r2_val"] == whole["r2_val"]


def test_the_program_says_what_each_session_has_and_how_far_it_went(
    small, tune, monkeypatch, capsys
):
    first = finetune(tune("data.session=t-S-04", "run.name=first"), None)["export"]
    words = ["--config", "stevenson.yaml", "--init", first, *small]
    words += ["data.sessions=[t-S-01, t-S-02]", "data.replay.sessions=[t-S-04]"]
    monkeypatch.setattr(sys, "argv", ["finetune", *words, "train.wise=[0, 0.5]"])
    finetune_program.main()
    said = capsys.readouterr().out
    assert "2 sessions t-S-01, t-S-02 (x, y), 1080 bins to fit, 120 held back" in said
    assert "10% of the windows are of 1 earlier sessions of" in said
    assert re.search(r"r2 by train\.wise: 0: -?\d\.\d+, 0\.5: -?\d\.\d+; 0(\.5)? is taken", said)
    scores = [float(n) for n in re.findall(r"^t-S-0[12]: R2 (-?\d\.\d{4})$", said, re.MULTILINE)]
    last = said.strip().splitlines()[-1]
    found = re.search(r"best step \d of 3, 0(\.5)? of the way from the export, R2 (\S+) on", last)
    assert found
    assert float(found[2]) == pytest.approx(np.mean(scores), abs=2e-4)
