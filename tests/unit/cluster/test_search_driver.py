"""What a search asks next, without Ray: each method, and the same after any kill."""

import json
import math

import pytest

from ndt3_dist.cluster.search import fork
from ndt3_dist.cluster.search.ask import moves
from ndt3_dist.cluster.search.base import Base
from ndt3_dist.cluster.search.driver import Driver, Search
from ndt3_dist.cluster.search.outcome import best_of, headline, ranked, table_rows
from ndt3_dist.cluster.search.record import Record, Trial
from ndt3_dist.cluster.search.space import Space
from ndt3_dist.config import PROJECT, Section
from ndt3_dist.errors import BadInput, ResumeMismatch
from ndt3_dist.train.pretrain_config import RunConfig

LR = {"optim.lr": {"loguniform": [1e-6, 1.0]}}
BASE = Base.load(PROJECT / "configs" / "tune_demo.yaml", ["train.steps=60", "train.eval_every=10"])
SPACES = {
    "grid": Space(method="grid", space={"optim.lr": [1e-5, 1e-3, 1e-1], "train.batch": [4, 8]}),
    "random": Space(trials=6, space=LR),
    "bayes": Space(method="bayes", trials=9, space=LR),
    "pbt": Space(method="pbt", trials=4, every_steps=20, space=LR),
}


class Killed(Exception):
    """In the place of a SIGKILL."""


def lines(record: Record) -> list[dict]:
    return [json.loads(x) for x in (record.out / "trials.jsonl").read_text().splitlines()]


def drive(folder, space: Space, at_once: int = 1, kill_after: int = 1 << 30) -> Record:
    """Run a search whose score is best at lr 1e-3, each result told as a worker would."""
    space = space.model_copy(
        update={"trials": space.number, "metric": "val_r2", "direction": "max"}
    )
    with Record(folder, space.model_dump(mode="json")) as record:
        driver = Driver(Search(BASE, space, record, None, False, 1), at_once, lambda _: None)
        running: dict[str, dict] = {}
        while not driver.is_over:
            name = f"t{kill_after}"
            while job := driver.next_job(name := name + "+"):
                running[name] = job
            assert running, "nothing runs, and nothing is over"
            name, job = running.popitem()
            for look in job["looks"]:
                if kill_after <= 0:
                    raise Killed
                kill_after -= 1
                steps = look or 60
                trial = record.trials[job["trial"]]
                run = record.folder(trial.number) / "seed0"
                run.mkdir(exist_ok=True)
                config = {**BASE.values, "begun": {}}
                (run / "config.json").write_text(json.dumps(config))
                (record.folder(trial.number) / "seed0.json").write_text("{}")
                score = -abs(math.log10(trial.settings["optim.lr"]) + 3) + steps / 1000
                told = {"scores": [score], "steps": steps, "over": not look, "seconds": 1.0}
                driver.take(name, told)
                if job := driver.next_job(name + "early"):  # Tune asks before a worker is free
                    running[name + "early"] = job
            driver.over(name, told, False)
        return record


def until_over(folder, space: Space, kill_after: int) -> int:
    """Killed after so many results, again and again; how often."""
    for kills in range(100):
        try:
            drive(folder, space, 1, kill_after)
        except Killed:
            continue
        return kills
    raise AssertionError("it gets nowhere")


@pytest.mark.parametrize("method", SPACES)
@pytest.mark.parametrize("kill_after", [1, 2, 3])
def test_a_search_that_is_killed_again_and_again_asks_the_same(tmp_path, method, kill_after):
    if method == "bayes":
        pytest.importorskip("optuna", reason="pip install ndt3_dist[search]")
    whole = drive(tmp_path / "whole", SPACES[method])
    kills = until_over(tmp_path / "killed", SPACES[method], kill_after)
    assert kills >= 1
    asked = json.loads((tmp_path / "whole" / "search.json").read_text())
    with Record(tmp_path / "killed", asked) as found:
        assert [t.settings for t in found.trials] == [t.settings for t in whole.trials]
        assert [t.scores for t in found.trials] == [t.scores for t in whole.trials]
        assert [t.moves for t in found.trials] == [t.moves for t in whole.trials]
        assert sorted(map(str, lines(found))) == sorted(map(str, lines(whole)))


def test_a_copy_that_a_kill_cut_is_made_again(tmp_path, monkeypatch):
    whole = drive(tmp_path / "whole", SPACES["pbt"])
    add = Record.add

    def cut(self, number, **what):
        if "from" in what:
            raise Killed
        return add(self, number, **what)

    monkeypatch.setattr(Record, "add", cut)
    with pytest.raises(Killed):
        drive(tmp_path / "killed", SPACES["pbt"])
    monkeypatch.setattr(Record, "add", add)
    found = drive(tmp_path / "killed", SPACES["pbt"])
    assert [t.moves for t in found.trials] == [t.moves for t in whole.trials]
    loser = next(t for t in found.trials if t.moves)
    config = json.loads((found.folder(loser.number) / "seed0" / "config.json").read_text())
    assert config["begun"] == {}


@pytest.mark.parametrize("method", SPACES)
def test_each_method_comes_near_the_best(tmp_path, method):
    if method == "bayes":
        pytest.importorskip("optuna", reason="pip install ndt3_dist[search]")
    record = drive(tmp_path / "s", SPACES[method], at_once=2)
    space = SPACES[method].model_copy(update={"metric": "val_r2", "direction": "max"})
    best = best_of(space, record.trials)
    assert best
    assert best.score == max(t.score for t in record.trials)
    assert len(record.trials) == SPACES[method].number


def test_a_population_moves_when_all_have_reached_a_step(tmp_path):
    alone, two = (drive(tmp_path / str(n), SPACES["pbt"], at_once=n) for n in (1, 2))
    assert [t.moves for t in alone.trials] == [t.moves for t in two.trials]
    assert sorted(m["step"] for t in two.trials for m in t.moves) == [20, 40]


def test_bayes_asks_where_scores_were_good(tmp_path):
    pytest.importorskip("optuna", reason="pip install ndt3_dist[search]")
    drawn = SPACES["bayes"].model_copy(update={"trials": 16})
    away = [
        abs(math.log10(t.settings["optim.lr"]) + 3) for t in drive(tmp_path / "s", drawn).trials
    ]
    random = [abs(math.log10(drawn.setting(n)["optim.lr"]) + 3) for n in range(16)]
    assert away[:4] == random[:4]
    assert sum(away[4:]) < 0.6 * sum(random[4:])


def test_the_worst_of_a_population_get_settings_beside_those_of_the_best():
    space = Space(method="pbt", trials=8, every_steps=5, space=LR, direction="max", metric="val_r2")
    known = [Trial(n, {"optim.lr": 10.0**-n}, {5: [float(-n)]}) for n in range(8)]
    found = moves(space, known, 5)
    assert [loser for loser, _, _ in found] == [6, 7]
    assert {winner for _, winner, _ in found} <= {0, 1}
    for _, winner, settings in found:
        ratio = settings["optim.lr"] / known[winner].settings["optim.lr"]
        assert round(ratio, 9) in (0.8, 1.25) or settings["optim.lr"] == 1.0  # the end of the range
    known[0].ended = known[7].ended = "failed"  # at a later step: this one stays as it was
    assert found == moves(space, known, 5)
    lower = space.model_copy(update={"direction": "min"})
    assert [loser for loser, _, _ in moves(lower, known, 5)] == [1, 0]


@pytest.mark.parametrize("cut", [1, 7])
def test_a_line_that_a_kill_cut_is_forgotten(tmp_path, cut):
    record = drive(tmp_path / "s", SPACES["random"])
    asked = json.loads((record.out / "search.json").read_text())
    path = record.out / "trials.jsonl"
    whole = path.read_text()
    path.write_text(whole[:-cut])
    with Record(record.out, asked) as again:
        assert [t.ended for t in again.trials] == ["done"] * 5 + [""]
        assert path.read_text() == "".join(whole.splitlines(keepends=True)[:-1])


def test_nothing_behind_a_damaged_line_counts(tmp_path):
    record = drive(tmp_path / "s", SPACES["random"])
    lines = (record.out / "trials.jsonl").read_text().splitlines(keepends=True)
    (record.out / "trials.jsonl").write_text("".join([*lines[:5], "?\n", *lines[6:]]))
    asked = json.loads((record.out / "search.json").read_text())
    with Record(record.out, asked):
        assert (record.out / "trials.jsonl").read_text() == "".join(lines[:5])
    again = drive(tmp_path / "s", SPACES["random"])
    assert [t.scores for t in again.trials] == [t.scores for t in record.trials]


def test_another_search_and_one_at_work_are_refused(tmp_path):
    record = drive(tmp_path / "s", SPACES["random"])
    asked = json.loads((record.out / "search.json").read_text())
    with pytest.raises(ResumeMismatch, match=r"other settings \(draw differ\).*another --out"):
        Record(record.out, {**asked, "draw": 3})
    with pytest.raises(ResumeMismatch, match="of 6 trials was begun there, and 5 are asked for"):
        Record(record.out, {**asked, "trials": 5})
    with Record(record.out, {**asked, "trials": 8}), pytest.raises(ResumeMismatch, match="at work"):
        Record(record.out, {**asked, "trials": 8})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(ResumeMismatch, match="the folder exists; choose another --out"):
        Record(tmp_path / "mine", asked)
    with pytest.raises(BadInput, match="expected a folder on a disk"):
        Record("s3://bucket/search", asked)  # type: ignore[arg-type]


def test_more_trials_of_the_same_search_come_behind_those_that_are_known(tmp_path):
    first = drive(tmp_path / "s", SPACES["random"])
    more = drive(tmp_path / "s", SPACES["random"].model_copy(update={"trials": 9}))
    assert [t.settings for t in more.trials[:6]] == [t.settings for t in first.trials]
    assert len(more.trials) == 9


def test_the_winner_went_to_its_end_and_the_table_says_validation(tmp_path):
    space = Space(trials=4, seeds=3, space=LR, metric="val_loss", direction="min")
    lr = {"optim.lr": 0.1}
    known = [
        Trial(0, lr, {60: [2.0, 2.5, 3.0]}, "done", seconds=9.0),
        Trial(1, lr, {20: [0.1, 0.1, 0.1]}, "stopped"),
        Trial(2, lr, {}, "failed", "seed 0: killed by SIGKILL; out of memory?"),
        Trial(3, lr, {60: [1.0, 1.5, 2.0]}, "done"),
    ]
    assert [t.number for t in ranked(space, known)] == [3, 0, 1, 2]
    rows = table_rows(space, known)
    assert (rows[0]["validation val_loss"], rows[0]["seeds' spread"]) == ("1.5000", "0.5000")
    assert [row["rank"] for row in rows] == ["1", "2", "-", "-"]
    assert rows[3]["end"] == "seed 0: killed by SIGKILL; out of memory?"
    said = headline(space, known)
    assert "1.5000, mean of 3 seeds, whose standard deviation is 0.5000" in said
    assert "the best of 3 is chosen by this very score" in said
    assert headline(space, known[1:3]) == "no setting went to its end"


def test_a_search_runs_a_program_of_another_room_by_its_import_path(tmp_path, monkeypatch):
    class Own(Section):
        class Train(Section):
            steps: int = 7
            patience: int = 0

        run: RunConfig
        optim: dict[str, float] = {}
        train: Train = Train()

    base = Base("own_program:to", {"run": {}, "optim": {}, "train": {"steps": 7}}, Own)
    assert base.steps == 7
    config = base.config({"optim.lr": 0.5}, "trial 0", name="seed0", seed=3)
    assert (config.optim, config.run.seed) == ({"lr": 0.5}, 3)
    with pytest.raises(BadInput, match=r"unknown key train\.stesp"):
        base.config({"train.stesp": 1}, "trial 0")
    (tmp_path / "own_program.py").write_text("def to(job): return {'score': job['n'] + 1}")
    monkeypatch.syspath_prepend(tmp_path)
    result = tmp_path / "result.json"
    job = {"kind": base.kind, "log": str(tmp_path / "log"), "result": str(result), "until": 0}
    assert fork.run({**job, "n": 2}) == 0
    assert json.loads(result.read_text()) == {"score": 3, "until": 0}
