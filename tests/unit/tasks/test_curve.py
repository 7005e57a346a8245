"""A curve on a planted session, in one process: its cells, its refusals, what it goes on with."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from small_corpus import make_recording, write_corpus

from ndt3_dist.cluster.search import fork
from ndt3_dist.cluster.search.advance import SettingFailed
from ndt3_dist.config import check
from ndt3_dist.data.continuous import Piece, stretch
from ndt3_dist.data.order import generator
from ndt3_dist.errors import BadInput, Ndt3DistError, RankFailed, ResumeMismatch
from ndt3_dist.model.load import read_export_config
from ndt3_dist.programs.tasks import curve
from ndt3_dist.tasks.curve import cascade, curve_table, gru, nets
from ndt3_dist.tasks.curve.gru import GruConfig, fit_gru, gru_to, load_gru
from ndt3_dist.tune.fit_data import FitData, read_fit_data
from ndt3_dist.tune.tune_config import TuneConfig

SPLITS = [{"unit": "s", "intervals": {"calibration": (0, 30), "test": (30, None)}}]
READ = "readout", "ridge"
SMALL = ["train.steps=2", "train.eval_every=1", "train.batch=2", "train.precision=fp32"]
SMALL += ["gru.steps=6", "gru.batch=4", "gru.width=16", "gru.patience=0"]


def planted(seconds: float, bend=lambda x: x) -> list[Piece]:
    """Counts that follow from a slow signal, and covariates that follow from it through `bend`."""
    draw, bins = generator("planted", 1), int(50 * seconds)
    signal = np.cumsum(draw.normal(size=(bins + 25, 2)), axis=0)
    signal = np.stack([np.convolve(s, np.ones(26) / 26, "valid") for s in signal.T], axis=1)
    signal -= signal.mean(0)
    signal /= signal.std(0)
    rates = np.exp(0.4 * signal @ draw.normal(size=(2, 24)))
    covariates = np.stack([bend(signal[:, 0]), signal[:, 1]], axis=1).astype(np.float32)
    return [Piece(0, draw.poisson(rates).astype(np.uint8), covariates)]


def fit_data(pieces: list[Piece], held: int = 400) -> FitData:
    (whole,) = pieces
    cut = len(whole) - held
    first = [Piece(0, whole.spikes[:cut], whole.covariates[:cut])]
    last = [Piece(cut, whole.spikes[cut:], whole.covariates[cut:])]
    none = None
    return FitData(none, none, first, last, pieces, pieces, 50)  # type: ignore[arg-type]


def test_a_smaller_stretch_lies_within_each_larger_one_of_its_seed():
    spikes = np.arange(100, dtype=np.uint8)[:, None]
    pieces = [Piece(0, spikes[:30], spikes[:30]), Piece(50, spikes[30:], spikes[30:])]
    places = set()
    for seed in range(20):
        before: set[int] = set()
        for bins in range(1, 101):
            parts = stretch(pieces, bins, seed)
            found = [int(x) for p in parts for x in p.spikes[:, 0]]
            assert found == list(range(found[0], found[0] + bins))  # in one, but for gaps
            for part in parts:
                assert part.start_bin == part.spikes[0, 0] + 20 * (part.spikes[0, 0] >= 30)
            assert before < {*found}
            before = {*found}
            places |= {found[0]} if bins == 10 else set()
    assert len(places) > 10


def test_a_cascade_bends_what_a_ridge_cannot_and_leaves_alone_what_it_can():
    data = fit_data(planted(40, lambda x: x**3))
    found = cascade.fit_cascade(data)
    ridge = found.ridge.predict(data.last[0])
    true = data.last[0].covariates
    bent = found.predict(data.last[0])
    errors = [((p - true) ** 2).sum(0) for p in (ridge, bent)]
    assert errors[1][0] < 0.6 * errors[0][0]
    assert found.orders[0] > 1
    (whole,) = planted(40)
    noise = generator("noise", 0).normal(size=(len(whole), 2))
    linear = (whole.spikes[:, :2] + noise).astype(np.float32)
    straight = cascade.fit_cascade(fit_data([Piece(0, whole.spikes, linear)]))
    assert straight.orders[0] == 1  # one of both by chance bends a little
    (counts,) = data.last
    apart = straight.predict(counts) - straight.ridge.predict(counts)
    assert np.abs(apart[:, 0]).max() == 0
    assert apart[:, 1].var() < 0.02 * straight.ridge.predict(counts)[:, 1].var()
    far = Piece(0, np.full((60, 24), 255, np.uint8), np.zeros((60, 2), np.float32))
    inside = found.bends[0](np.linspace(*found.bends[0].domain, 1000))
    assert inside.min() <= found.predict(far)[-1, 0] <= inside.max()  # no farther than fitted
    with pytest.raises(BadInput, match="20 bins to fit; a ridge needs at least 25"):
        cascade.histories(20)


def test_a_gru_learns_sees_nothing_later_and_is_kept_without_pickles(tmp_path, monkeypatch):
    data = fit_data(planted(40))
    values = {"run": {"name": "g", "dir": str(tmp_path)}, "data": {}, "optim": {"lr": 2e-2}}
    values["train"] = {"steps": 30, "width": 16, "dropout": 0, "eval_every": 10, "batch": 8}
    config = check(GruConfig, values, "t")
    model, score, step, steps = fit_gru(data, config)
    assert score > 0.35
    assert (step % 10, steps) == (0, 30)
    (piece,) = data.last
    changed = Piece(0, piece.spikes.copy(), piece.covariates)
    changed.spikes[200:] = 9
    one, other = model.of_piece(piece), model.of_piece(changed)
    assert np.array_equal(one[:200], other[:200])
    assert not np.allclose(one[200:], other[200:])
    monkeypatch.setattr(gru, "read_split", lambda data: ())
    monkeypatch.setattr(gru, "divided", lambda *_: data)
    (tmp_path / "g.yaml").write_text(json.dumps(values))
    found = gru_to({"config": str(tmp_path / "g.yaml")})
    assert (found["score"], found["over"]) == (score, True)
    assert np.array_equal(load_gru(tmp_path / "g").of_piece(piece), one)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a corpus of one session of two splits, 500 ms windows, and an export."""
    from hub_server import make_export

    from ndt3_dist.model.model_config import ModelConfig

    folder = tmp_path_factory.mktemp("curve")
    write_corpus(folder / "c", [make_recording(3, 41, [32])], splits=SPLITS, window_ms=500)
    only = [{"unit": "s", "intervals": {"calibration": (0, None)}}]
    write_corpus(folder / "no_test", [make_recording(3, 20, [32])], splits=only, window_ms=500)
    model = ModelConfig(
        **{"layers": 1, "dim": 32, "heads": 1, "feedforward": 16, "channels_per_token": 32},
        **{"attention_dropout": 0.0, "context_tokens": False},
    )
    make_export(folder / "init", model, 0)
    return folder


@pytest.fixture
def typed(place, monkeypatch, capsys):
    """The program as it is typed, without Ray; runs of searches in this process."""

    def advance_here(job: dict, until: int) -> dict:
        scores, own = [], {"finetune": fork.finetune_to, gru.KIND: gru_to}[job["kind"]]
        for seed in range(job["seeds"]):
            told = {k: job[k] for k in ("init", "scratch", "metric")} | {"until": until}
            try:
                found = own({**told, "config": f"{job['folder']}/seed{seed}.yaml"})
            except BadInput as e:
                raise SettingFailed(f"seed {seed}: {e}") from e
            scores.append(found["score"])
        typed.trials += 1
        return {"scores": scores, "steps": 1, "over": True}

    def typed(*words: str, corpus: str = "c", init: bool = True) -> str:
        told = ["curve", "--corpus", str(place / corpus), "--workers", "0", *SMALL]
        told += ["--init", str(place / "init")] * init + [*words]
        monkeypatch.setattr(sys, "argv", told)
        capsys.readouterr()
        curve.main()
        return capsys.readouterr().out

    typed.trials = 0
    monkeypatch.setattr(nets, "advance", advance_here)
    return typed


def test_all_cells_are_fitted_once_and_only_what_lacks_is_done_again(typed, tmp_path):
    out = ["--out", str(tmp_path / "o"), "--rates", "1e-4,1e-2", "--seeds", "2"]
    said = typed("--shares", "20,100", "--decoders", "gru,ridge,pretrained", *out)
    assert typed.trials == 2 * 2 * 2  # decoders, amounts, rates
    files = sorted((tmp_path / "o" / "cells").iterdir())
    assert len(files) == 3 * 2 * 2
    cells = [json.loads(file.read_text()) for file in files]
    assert {c["scores"]["bins"] for c in cells} == {550}  # the same for all
    assert {c["bins"] for c in cells} == {300, 1500}
    for cell in cells:
        if cell["decoder"] != "ridge":
            assert cell["chosen"]["rate"] in (1e-4, 1e-2)
            trials = tmp_path / "o" / "searches" / f"{cell['decoder']}_{pct(cell)}" / "trials"
            lines = (trials.parent / "trials.jsonl").read_text().splitlines()
            told = [json.loads(line) for line in lines]
            means = {t["trial"]: np.mean(t["scores"]) for t in told if "scores" in t}
            rates = {t["trial"]: t["settings"]["optim.lr"] for t in told if "settings" in t}
            best = max(means, key=means.__getitem__)
            assert cell["chosen"]["rate"] == rates[best]  # by the mean of seeds held back
    rows = (tmp_path / "o" / "table.csv").read_text().splitlines()
    assert len(rows) == 13
    assert rows[0].startswith("decoder,amount,minutes,bins,seed,r2,r2_uniform,r2_flat,r2 x,r2 y")
    assert "pretrained wins against gru" in said
    page = (tmp_path / "o" / "curve.html").read_text()
    assert page.count(' band"') == 3
    assert (tmp_path / "o" / "curve.png").stat().st_size > 5000
    kept = files[0].read_bytes(), files[0].stat().st_mtime_ns
    files[-1].unlink()  # where its run is there, and its score lacks
    typed("--shares", "20,100", "--decoders", "pretrained,ridge,gru", *out)
    assert typed.trials == 8
    assert files[-1].is_file()
    assert kept == (files[0].read_bytes(), files[0].stat().st_mtime_ns)
    typed("--shares", "20,50", "--decoders", "wiener,ridge", *out)  # more of both
    assert len([*(tmp_path / "o" / "cells").iterdir()]) == 12 + 2 + 4
    typed("--shares", "20", "--decoders", "scratch", *out)
    logs = [tmp_path / f"o/searches/{d}_20pct/trials/0000/seed0" for d in ("scratch", "pretrained")]
    parents = [read_export_config(f / "export")["trained"].get("init") for f in logs]
    assert parents[0] is None
    assert parents[1]
    typed("--shares", "20", "--decoders", "readout,ridge", *out)
    cells = [json.loads((tmp_path / f"o/cells/{d}_20pct_seed0.json").read_text()) for d in READ]
    assert abs(cells[0]["scores"]["r2"] - cells[1]["scores"]["r2"]) > 1e-6  # of its own filters
    assert cells[0]["chosen"] == {}
    for words, name in (
        (["--seeds", "3"], "seeds"),
        (["--rates", "1e-3"], "rates"),
        (["train.batch=4"], "train"),
        (["gru.width=8"], "gru"),
    ):
        with pytest.raises(ResumeMismatch, match=rf"other settings \({name} differ"):
            typed("--shares", "20", "--decoders", "ridge", *out, *words)


def pct(cell: dict) -> str:
    return cell["amount"].replace(" %", "pct")


def test_a_decoder_that_fails_is_named_and_the_others_are_shown(typed, tmp_path):
    words = ["--decoders", "ridge,gru", "--minutes", "0.2", "--seeds", "1", "--no-tune"]
    with pytest.raises(RankFailed, match=r"1 of the decoders failed, the first gru 0.2 min: "):
        typed(*words, "--out", str(tmp_path / "o"), "gru.lr=1e30", init=False)
    assert [p.name for p in (tmp_path / "o" / "cells").iterdir()] == ["ridge_0.2min_seed0.json"]
    assert (tmp_path / "o" / "curve.html").is_file()


@pytest.mark.parametrize(
    ("words", "corpus", "said"),
    [
        (["--shares", "0,10"], "c", "--shares 0,10: 0 is not above 0 and at most 100"),
        (["--shares", "50,101"], "c", "101 is not above 0 and at most 100"),
        (["--shares", "ten"], "c", "--shares ten: expected numbers such as 3,10,25"),
        (["--minutes", "1"], "c", "calibration has 0.5 minutes; data.minutes is 1, expected no"),
        (["--decoders", "pretraind"], "c", "no decoder 'pretraind' .did you mean pretrained"),
        (["--decoders", "ridge,ridge"], "c", "one is named twice"),
        (["--shares", "1"], "c", "15 bins of split calibration: too short to hold back 20%"),
        ([], "no_test", r"no .*test"),
        (["--fit-split", "train"], "c", "no .*train"),
        (["--split", "calibration"], "c", "calibration would be fitted and scored"),
        (["--session", "t-S-04"], "c", "no session 't-S-04' in the corpus; there are: t-S-03"),
        (["--rates", "1e-3,1e-4", "--no-tune"], "c", "--no-tune takes one rate"),
        (["data.share=0.5"], "c", "data.share=0.5: --shares and --minutes say how much"),
        (["--out", "s3://lab/o"], "c", "--out s3://lab/o: expected a folder on a disk"),
        (["data.sessions=[t-*]"], "c", "a curve is of one session with its labels"),
        (["train.objective=spikes"], "c", "a curve is of one session with its labels"),
        (["gru.widht=8"], "c", "unknown key train.widht .did you mean width"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_fitted(
    typed, tmp_path, words, corpus, said
):
    with pytest.raises(Ndt3DistError, match=said) as found:
        typed("--out", str(tmp_path / "o"), *words, corpus=corpus)
    assert "\n" not in str(found.value)
    assert not (tmp_path / "o").exists()


def test_an_export_of_other_bins_is_refused(typed, place, tmp_path):
    norms = json.loads((place / "init" / "normalisation.json").read_text())
    other = tmp_path / "init"
    other.mkdir()
    for name in ("config.json", "model.safetensors"):
        (other / name).write_bytes((place / "init" / name).read_bytes())
    (other / "normalisation.json").write_text(json.dumps({**norms, "bin_size_ms": 10}))
    with pytest.raises(BadInput, match=r"was trained on bins of 10 ms, .* has 20; prepare"):
        typed("--out", str(tmp_path / "o"), "--init", str(other), init=False)
    with pytest.raises(BadInput, match="need --init EXPORT, or leave them out"):
        typed("--out", str(tmp_path / "o"), init=False)


def cells_of(**scores: list[list[float]]) -> list[dict]:
    """Of each decoder R2 by amount and seed."""
    return [
        {"decoder": d, "amount": f"{10 * n} %", "seed": s, "scores": {"r2": r2}, "chosen": {}}
        for d, amounts in scores.items()
        for n, seeds in enumerate(amounts, 1)
        for s, r2 in enumerate(seeds)
    ]


@pytest.mark.parametrize(
    ("pretrained", "said"),
    [
        ([[0.6, 0.7], [0.6, 0.7]], "at every amount, on every seed (+0.100 at 10 %; +0.100 at 20"),
        ([[0.6, 0.7], [0.7, 0.5]], "up to 10 %, on every seed; from 20 % on it does not (+0.100 a"),
        ([[0.7, 0.5], [0.6, 0.7]], "at 20 %, on every seed, and not at the others (+0.050 at 10 %"),
        ([[0.9, 0.5], [0.5, 0.6]], "at no amount (+0.150 at 10 %, ahead on 1 of 2 seeds; +0.000 a"),
    ],
)
def test_who_wins_is_said_seed_by_seed(pretrained, said):
    """Means alone would let it win at 10 % in the last case and in the one before."""
    amounts = [SimpleNamespace(label=f"{n} %") for n in (10, 20)]
    asked = SimpleNamespace(amounts=amounts, seeds=2, decoders=["pretrained", "ridge"])
    cells = cells_of(pretrained=pretrained, ridge=[[0.5, 0.6], [0.5, 0.6]])
    (line,) = curve_table.summary(asked, cells)  # type: ignore[arg-type]
    assert line.startswith(f"pretrained wins against ridge {said}")
    assert ("no difference" in line) == ("no amount" in said)


def test_a_rate_at_the_edge_of_the_grid_is_said():
    cells = cells_of(pretrained=[[0.5]], ridge=[[0.4]])
    cells[0]["chosen"] = {"rate": 1e-3, "at_edge": "highest"}
    amounts = [SimpleNamespace(label="10 %")]
    asked = SimpleNamespace(amounts=amounts, seeds=1, decoders=["pretrained", "ridge"])
    first, second = curve_table.summary(asked, cells)  # type: ignore[arg-type]
    assert "on the one seed, which may be chance" in first
    assert "the highest learning rate was best at 10 %; a better one may lie beyond" in second


def test_a_fine_tune_sees_its_share_alone(place):
    values = {"run": {"name": "t"}, "data": {"corpus": str(place / "c"), "fit": "calibration"}}
    values |= {"optim": {"lr": 1e-3}, "train": {"steps": 1, "batch": 1}}

    def read(**data) -> FitData:
        told = {**values, "data": {**values["data"], **data}}
        optim = {"lr_min": 0, "schedule": "cosine", "warmup_epochs": 0, "decay_epochs": 1}
        told["optim"] = {**told["optim"], **optim}
        return read_fit_data(check(TuneConfig, told, "t"))

    whole, share, minutes = read(), read(share=0.4), read(minutes=0.2)
    assert [sum(map(len, d.pieces)) for d in (whole, share, minutes)] == [1500, 600, 600]
    assert share.pieces[0].start_bin == minutes.pieces[0].start_bin > 0
    assert sum(map(len, share.last)) == 120
    assert share.last[-1].start_bin + len(share.last[-1]) == share.pieces[0].start_bin + 600
    with pytest.raises(BadInput, match=r"share is 0.4 and minutes 0.2; expected one of both"):
        read(share=0.4, minutes=0.2)
