"""A search over pretrainings with DeepSpeed, of one process each."""

import json

import pytest
import yaml
from forks import run_program
from small_corpus import make_recording, write_corpus

pytest.importorskip("pyarrow", reason="Ray Tune needs pyarrow: pip install ndt3_dist[search]")

SPACE = {
    "method": "asha",
    **{"trials": 3, "seeds": 2, "first_steps": 4, "reduction": 2, "draw": 2},
    "space": {"optim.lr": {"loguniform": [1e-5, 1e-1]}, "model.layers": [1, 2]},
}


@pytest.mark.drill
def test_pretrainings_are_searched_and_the_best_of_them_runs_as_it_is(tmp_path):
    splits = [{"intervals": {"train": (0, 0.7), "val": (0.7, 1)}}]
    write_corpus(tmp_path / "c", [make_recording(1, 60, [32])], splits=splits)
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(SPACE))
    words = ["--config", "demo.yaml", "--space", "space.yaml", "--out", "s", "--threads", "1"]
    words += [f"data.corpus={tmp_path}/c", f"run.dir={tmp_path}/runs", "train.max_steps=12"]
    words += ["validation.every_steps=4", "data.lanes=1", "train.epochs=1000"]
    done = run_program("launch/search.py", *words, cwd=tmp_path, timeout=400)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(x) for x in (tmp_path / "s/trials.jsonl").read_text().splitlines()]
    assert {x["ended"] for x in lines if "ended" in x} == {"done", "stopped"}
    assert max(x.get("step", 0) for x in lines) == 12
    assert "validation val_loss" in done.stdout
    best = run_program("launch/pretrain.py", "--config", "s/best.yaml", cwd=tmp_path)
    assert best.returncode == 0, best.stderr
    assert "done: 12 steps" in best.stdout
