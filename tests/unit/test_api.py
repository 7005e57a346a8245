"""The Python API: the same numbers as the programs, without Ray, DeepSpeed or a store."""

import pickle
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_corpus import make_recording
from torch.utils.data import DataLoader

import ndt3_dist
from ndt3_dist.config import PROJECT
from ndt3_dist.errors import BadInput, CheckpointCorrupt, ManifestMismatch
from ndt3_dist.evaluate.online import OnlineDecoder, open_export, read_units
from ndt3_dist.evaluate.session import evaluate
from ndt3_dist.model.linear import CPU_HAS_BF16
from ndt3_dist.model.load import load_model
from ndt3_dist.model.tokenise import Layout, TokenLists, tokenise
from ndt3_dist.model.tokens import PackedTokens
from ndt3_dist.prep import job
from ndt3_dist.prep.reading import read
from ndt3_dist.prep.recipe import Recipe
from ndt3_dist.shards.corpus import Corpus

ABSENT = (
    "ray deepspeed s3fs boto3 botocore aiobotocore wandb pynwb h5py scipy flash_attn matplotlib"
)
PAGE = f"""
import doctest, sys
for name in {ABSENT!r}.split():
    sys.modules[name] = None
import ndt3_dist
assert "torch" not in sys.modules, "import ndt3_dist is to stay light"
failed, tried = doctest.testfile({str(PROJECT / "docs" / "api.md")!r}, module_relative=False)
sys.exit(failed or tried < 15)
"""
SHORT = {
    "train": {"steps": 3, "eval_every": 3, "precision": "fp32"},
    "optim": {"decay_epochs": 3, "warmup_epochs": 1},
}


@pytest.fixture(scope="module")
def tiny() -> dict:
    return {"layers": 2, "dim": 64, "heads": 2, "feedforward": 64, "context_tokens": False}


@pytest.fixture(scope="module")
def export(corpus, tiny, tmp_path_factory) -> str:
    out = tmp_path_factory.mktemp("fit") / "one"
    return ndt3_dist.fit(corpus, "t-S-03", out=out, model=tiny, **SHORT)


@pytest.fixture(scope="module")
def read_out(corpus, tiny, tmp_path_factory) -> str:
    """An export whose covariates are read out in closed form."""
    out = tmp_path_factory.mktemp("fit") / "read"
    settings = {"train": {"steps": 0}, "readout": {"history": [2]}}
    return ndt3_dist.fit(corpus, out=out, model=tiny, **settings)


def test_the_page_holds_where_ray_deepspeed_and_a_store_are_not_installed(tmp_path):
    environment = {"PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PAGE], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.mark.parametrize("which", ["export", "read_out"])
def test_it_decodes_what_the_programs_do(which, corpus, request):
    path = request.getfixturevalue(which)
    test = ndt3_dist.open_corpus(corpus, "test").session("t-S-03")
    decoder = ndt3_dist.open_decoder(path, context=20)
    scored = evaluate({"m": path}, corpus, context=20, history=2)["predictions"]["m"]
    np.testing.assert_allclose(decoder.decode(test.spikes), scored, rtol=1e-5, atol=1e-6)
    units = read_units(path)
    opened = open_export(path, units, [40])
    filters = opened.readout.filters if opened.readout else None
    online = OnlineDecoder(opened.model, opened.layout, 20, False, filters)
    steps = [online.step(counts) * units.scale for counts in test.spikes[:50]]
    found = decoder.decode(test.spikes[:50], stride=1)
    np.testing.assert_allclose(found, np.stack(steps), rtol=1e-3, atol=1e-4)
    changed = test.spikes[:50].copy()
    changed[30:] += 1
    after = decoder.decode(changed, stride=1)
    np.testing.assert_allclose(after[:30], found[:30], rtol=1e-4, atol=1e-5)
    assert np.abs(after[30:] - found[30:]).max() > 1e-4


@pytest.mark.parametrize("which", ["export", "read_out"])
def test_bins_that_arrive_are_decoded_as_all_at_once(which, corpus, request):
    path = request.getfixturevalue(which)
    spikes = ndt3_dist.open_corpus(corpus, "test").session("t-S-03").spikes[:40]
    decoder = ndt3_dist.open_decoder(path, context=20, dtype="fp32")
    found, whole = np.stack([decoder.step(counts) for counts in spikes]), decoder.decode(spikes)
    np.testing.assert_allclose(found, whole, rtol=1e-3, atol=1e-4)
    two = ndt3_dist.open_decoder(path, context=20, dtype="fp32", streams=2)
    both = [two.step(np.stack(counts)) for counts in zip(spikes, spikes[::-1], strict=True)]
    np.testing.assert_allclose(np.stack(both)[:, 0], found, rtol=1e-3, atol=1e-4)
    decoder.reset()
    for counts in spikes[:12]:
        decoder.observe(counts)
    np.testing.assert_array_equal(decoder.step(spikes[12]), found[12])
    with pytest.raises(BadInput, match=r"bin of \(40,\) counts; expected 2 streams of 40 channels"):
        two.step(spikes[0])
    with pytest.raises(BadInput, match="no whole numbers"):
        decoder.step(np.full(40, 0.5))


@pytest.mark.parametrize(("which", "dtype"), [("export", "bf16"), ("read_out", "fp32")])
def test_a_decoder_goes_on_from_what_was_saved_to_the_bit(which, dtype, corpus, request, tmp_path):
    path = request.getfixturevalue(which)
    spikes = ndt3_dist.open_corpus(corpus, "test").session("t-S-03").spikes[:40]
    kind = dtype if dtype == "fp32" or CPU_HAS_BF16 else "int8"
    how = {"context": 12, "dtype": kind}
    one = ndt3_dist.open_decoder(path, **how)
    for number, counts in enumerate(spikes[:25]):
        if number in (1, 25 - 1):  # within the first window and behind it
            np.savez(tmp_path / f"{number}.npz", **one.state())
        one.step(counts)
    for number in (1, 24):
        other = ndt3_dist.open_decoder(path, **how)
        other.observe(spikes[0])
        with np.load(tmp_path / f"{number}.npz", allow_pickle=False) as saved:
            other.restore(saved)
            one.restore(saved)
        found = [[d.step(counts) for counts in spikes[number:]] for d in (one, other)]
        np.testing.assert_array_equal(*found)
        again = ndt3_dist.open_decoder(path, **how)
        whole = np.stack([again.step(counts) for counts in spikes])
        np.testing.assert_array_equal(found[0], whole[number:])
    state = one.state()
    wrong = [
        ({"session": np.array("x")}, "of session x, this one is t-S-03"),
        ({"exports": np.array(2)}, "of 2 exports, this one has 1"),
        ({"0.kind": np.array("int9")}, "of a decoder in int9"),
        ({"0.num_bins": np.array(-1)}, "-1 bins; expected 0 or more"),
        ({"0.num_bins": np.array(0.5)}, "num_bins of"),
        ({"0.lags": np.zeros((99, 1, 40), np.uint8)}, "lags of"),
        ({"0.keys": state["0.keys"][:1]}, "keys of"),
    ]
    kept = one.step(spikes[0])
    one.restore(state)
    for change, message in wrong:
        with pytest.raises(BadInput, match=message):
            one.restore({**state, **change})
    with pytest.raises(BadInput, match="state: no keys"):
        one.restore({k: v for k, v in state.items() if k != "0.keys"})
    np.testing.assert_array_equal(one.step(spikes[0]), kept)  # nothing of them was taken


def test_several_exports_give_the_mean_of_their_predictions(export, read_out, corpus, tmp_path):
    spikes = ndt3_dist.open_corpus(corpus, "test").session("t-S-03").spikes[:30]
    both = ndt3_dist.open_decoder([export, read_out], context=20, dtype="fp32")
    each = [ndt3_dist.open_decoder(e, context=20, dtype="fp32") for e in (export, read_out)]
    one, two = (decoder.decode(spikes) for decoder in each)
    np.testing.assert_allclose(both.decode(spikes), (one + two) / 2, rtol=1e-5, atol=1e-6)
    steps = np.stack([both.step(counts) for counts in spikes[:10]])
    alone = np.stack([[d.step(counts) for d in each] for counts in spikes[:10]])
    np.testing.assert_allclose(steps, alone.mean(1), rtol=1e-5, atol=1e-6)
    both.reset()
    both.observe(spikes[0])
    np.testing.assert_array_equal(both.step(spikes[1]), steps[1])
    saved, after = both.state(), both.step(spikes[2])
    both.reset()
    both.restore(saved)
    np.testing.assert_array_equal(both.step(spikes[2]), after)
    with pytest.raises(BadInput, match="features of 2 exports have no mean"):
        both.embed(spikes)
    other = ndt3_dist.fit(corpus, "t-S-03", export, out=tmp_path / "y", covariates=["y"], **SHORT)
    with pytest.raises(BadInput, match="fitted to one session"):
        ndt3_dist.open_decoder([export, other])
    with pytest.raises(BadInput, match="no export"):
        ndt3_dist.open_decoder([])


def test_features_are_what_the_model_has_at_each_layer(export, corpus):
    spikes = ndt3_dist.open_corpus(corpus, "test").session("t-S-03").spikes[:20]
    decoder, model = ndt3_dist.open_decoder(export, context=20), load_model(export)
    layout = Layout.from_counts([40], 2, model.config, "s")
    hidden, lists = np.full((20, 2), np.nan, np.float32), TokenLists()
    lists.add(*tokenise({"spikes": spikes, "covariates": hidden}, layout, model.config))
    tokens = PackedTokens.from_numpy(lists.pack(), "cpu")
    kept = []
    for block in model.blocks:
        block.register_forward_hook(lambda _, __, out: kept.append(out))
    last = model.features(tokens)
    expected = {0: kept[0][0] + kept[0][1], -1: last, 1: last}
    for layer, states in expected.items():
        of_bins = states[tokens.covariate_slot].detach().numpy().reshape(20, 2, -1).mean(1)
        found = decoder.embed(spikes, layer, stride=20)
        np.testing.assert_allclose(found, of_bins, rtol=1e-4, atol=1e-5)
    assert decoder.embed(spikes).shape == (20, 64)
    with pytest.raises(BadInput, match="layer 2: expected -2 to 1"):
        decoder.embed(spikes, 2)


def test_windows_are_those_of_the_corpus_however_many_workers_share_them(corpus):
    windows, plain = ndt3_dist.open_corpus(corpus), Corpus(corpus)
    found = list(windows)
    assert [w["key"] for w in found] == [plain.key(n) for n in range(len(plain))]
    np.testing.assert_array_equal(found[3]["spikes"], plain.read(3)["spikes"])
    assert found[3]["key"].startswith(found[3]["session"])
    shared = [w["key"] for w in DataLoader(windows, batch_size=None, num_workers=2)]
    assert sorted(shared) == sorted(w["key"] for w in found)
    again = pickle.loads(pickle.dumps(windows))  # noqa: S301 (as spawned workers get it)
    assert len(list(again)) == len(found)
    both = ndt3_dist.open_corpus(corpus, ("calibration", "test")).session("t-S-03")
    assert both.bin.tolist() == list(range(1550))
    with pytest.raises(BadInput, match="no session 'x'"):
        windows.session("x")


def _bytes(corpus) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in Path(corpus).rglob("*") if p.is_file()}


def test_recordings_in_memory_become_a_corpus_that_grows_and_stays_the_same(tmp_path):
    one, two = make_recording(1, 10, [40]), make_recording(2, 10, [32, 20])
    out = ndt3_dist.prepare([two, one], tmp_path / "c", dataset="t")
    assert ndt3_dist.open_corpus(out).sessions == ["t-S-01", "t-S-02"]
    before = _bytes(out)
    assert ndt3_dist.prepare([one, two], out, dataset="t") == out
    assert _bytes(out) == before
    grown = ndt3_dist.prepare([make_recording(3, 10, [40])], out, dataset="t")
    assert ndt3_dist.open_corpus(grown).sessions == ["t-S-01", "t-S-02", "t-S-03"]
    changed = make_recording(1, 10, [40])
    changed.covariates[5] += 1
    with pytest.raises(ManifestMismatch, match="S-01 changed since the corpus was made"):
        ndt3_dist.prepare([changed], out, dataset="t")


def test_arrays_give_the_windows_that_a_file_of_the_same_numbers_gives(write_session, tmp_path):
    path = write_session(tmp_path / "a" / "01.nwb", seed=4)
    keys = {"dataset": "t", "covariates": {"path": "processing/behavior/Velocity/cursor_vel"}}
    recipe = Recipe(**keys, source=str(path), out=str(tmp_path / "file"), num_workers=0)
    job.prepare(recipe)
    file = read(path, recipe)
    plain = ndt3_dist.recording(
        file.subject,
        file.session,
        spike_times=[t.tolist() for t in file.spike_times],
        covariates=file.covariates.tolist(),
        covariate_times=np.arange(len(file.covariates)) / 100,
        names=["x", "y"],
        unit="cm/s",
    )
    memory = ndt3_dist.prepare([plain], tmp_path / "memory", dataset="t")
    both = [list(ndt3_dist.open_corpus(tmp_path / place)) for place in ("file", "memory")]
    assert memory
    assert len(both[0]) == len(both[1]) == 6
    for a, b in zip(*(sorted(w, key=lambda w: w["key"]) for w in both), strict=True):
        assert a["key"] == b["key"]
        np.testing.assert_array_equal(a["spikes"], b["spikes"])
        np.testing.assert_array_equal(a["covariates"], b["covariates"])


def test_recordings_stay_as_they_are_under_pseudonyms_too(tmp_path):
    (tmp_path / "key").write_bytes(b"k" * 32)
    keys = {"privacy": {"pseudonyms": True, "key_file": str(tmp_path / "key")}}
    one = make_recording(1, 10, [4])
    one.covariates[:, 1] = np.nan  # which is said of it
    out = ndt3_dist.prepare([one], tmp_path / "c", dataset="t", **keys)
    assert (one.subject, one.session, one.said) == ("S", "01", [])
    before = _bytes(out)
    ndt3_dist.prepare([one], out, dataset="t", **keys)
    assert _bytes(out) == before
    assert b"S-01" not in before["manifest.json"]


COUNTS = np.ones((200, 3), int)
TIMES = [np.array([0.1, 0.5, 3.9])]
WRONG = [
    ({}, "either spike_times or spike_counts"),
    ({"spike_counts": COUNTS - 2}, "counts that are negative"),
    ({"spike_counts": COUNTS + 0.5}, "no whole numbers"),
    ({"spike_counts": COUNTS, "arrays": {"a": 2}}, "3 channels, arrays have"),
    ({"spike_counts": COUNTS, "covariates": np.ones((90, 2))}, "90 samples .* give these"),
    ({"spike_counts": COUNTS, "count_bin_ms": 0}, "count_bin_ms 0; expected a number above 0"),
    ({"spike_counts": COUNTS, "start_s": float("nan")}, "seems to last nan h"),
    ({"spike_counts": COUNTS, "covariates": np.ones((200, 2)), "unit": ["m"]}, "have 1 units"),
    ({"spike_times": [np.array([2.0, 1.0])]}, r"spike_times\[0\] has unsorted spike times"),
    ({"spike_times": TIMES, "stop_s": -1}, "expected start_s < stop_s"),
    ({"spike_times": []}, "no channel"),
    ({"spike_counts": np.array(["a"])}, "spike_counts is an array of <U1"),
]


@pytest.mark.parametrize(("given", "said"), WRONG, ids=[w[1][:20] for w in WRONG])
def test_arrays_that_cannot_be_are_refused_by_name(given, said):
    with pytest.raises(BadInput, match=f"session d: .*{said}"):
        ndt3_dist.recording("A", "d", **given)


def test_what_cannot_be_prepared_or_fitted_is_one_line(corpus, tiny, tmp_path):
    one, out = make_recording(1, 10, [4]), tmp_path / "c"
    for keys, said in [
        ({}, "dataset is missing"),
        ({"dataset": "t", "licens": "x"}, "unknown key licens .did you mean licence"),
        ({"dataset": "t", "reader": "mat"}, "reader say how files are read"),
        ({"dataset": "t", "covariates": {"path": "x"}}, r"covariates\.path say how files"),
    ]:
        with pytest.raises(BadInput, match=said):
            ndt3_dist.prepare([one], out, **keys)
    with pytest.raises(BadInput, match=r"two recordings are called S-01"):
        ndt3_dist.prepare([one, one], out, dataset="t")
    with pytest.raises(BadInput, match="no recording was given"):
        ndt3_dist.prepare([], out, dataset="t")
    short = make_recording(2, 1, [4])
    with pytest.raises(BadInput, match=r"1 of 2 recordings cannot be used, such as S-02: .*short"):
        ndt3_dist.prepare([one, short], out, dataset="t")
    assert ndt3_dist.open_corpus(out).sessions == ["t-S-01"]
    with pytest.raises(BadInput, match=r"unknown key train\.step .did you mean steps"):
        ndt3_dist.fit(corpus, out=tmp_path / "f", model=tiny, train={"step": 3})
    with pytest.raises(BadInput, match="train is 3; expected its keys in a dict"):
        ndt3_dist.fit(corpus, out=tmp_path / "f", train=3)  # pyright: ignore


def test_a_folder_that_is_no_export_is_said_to_be_none(tmp_path):
    with pytest.raises(CheckpointCorrupt, match=r"none: no config\.json, so no export; make one"):
        ndt3_dist.open_decoder(tmp_path / "none")


def test_counts_of_other_channels_or_kinds_are_refused(export):
    decoder = ndt3_dist.open_decoder(export)
    for counts, said in [
        (np.ones((5, 39)), r"shape \(5, 39\); expected \(bins, 40\)"),
        (np.ones(40), "expected two dimensions"),
        (np.full((5, 40), 0.5), "no whole numbers"),
        (np.full((5, 40), 256), "at most 255 fit"),
    ]:
        with pytest.raises(BadInput, match=said):
            decoder.decode(counts)
    with pytest.raises(BadInput, match="stride 101: expected 0, or 1 to"):
        decoder.decode(np.ones((5, 40), int), stride=101)
    with pytest.raises(BadInput, match="fit a decoder to this recording first"):
        ndt3_dist.open_decoder(export, arrays=[20, 20])
    assert decoder.decode(np.ones((3, 40))).shape == (3, 2)


def test_the_examples_run_one_after_the_other(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("make_corpus", "fit_decoder", "embed_counts"):
        runpy.run_path(str(PROJECT / "examples" / f"{name}.py"), run_name="__main__")
    said = capsys.readouterr().out
    assert said.startswith("corpora/example\nR2 [")
    scores = [float(v) for v in said.split("[")[1].split("]")[0].split()]
    assert min(scores) > 0.3, said
    assert "layer 1 (600, 64)" in said
