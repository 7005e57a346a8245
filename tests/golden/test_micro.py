"""Our model against outputs of NDT3's original code on the same weights and batch."""

import json
import subprocess
import sys
from pathlib import Path

import compare
import numpy as np
import pytest
import torch
from original import Named, Original, pack, targets_of
from safetensors.torch import load_file, save_file
from samples import sample_of
from torch.nn.utils.rnn import pad_sequence

from ndt3_dist import log
from ndt3_dist.model.ndt3 import NDT3
from ndt3_dist.model.tokenise import Layout, tokenise
from ndt3_dist.model.tokens import PackedTokens
from ndt3_dist.upstream.names import to_upstream

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden"
MICRO = GOLDEN / "micro"
pytestmark = pytest.mark.skipif(
    not GOLDEN.is_dir(), reason="golden outputs of the original code are not beside the checkout"
)
ROWS = {
    "blanked features",
    "blanked order of tokens",
    "blanked covariates",
    "blanked spike logits",
    "teacher-forced features",
    "teacher-forced covariates",
    "train losses",
    "val losses",
    "gradients (relative)",
    "AdamW losses",
    "AdamW gradient norms (relative)",
    "AdamW weights after three steps",
    "predict_all_masked covariates",
    "predict_all_masked_B4 covariates",
    "predict_mask_from_10 covariates",
    "predict_no_mask covariates",
    "predict_simple covariates",
    "tuned features",
    "tuned order of tokens",
    "tuned covariates",
    "tune_predict_all_masked covariates",
    "stream kept, window of 50 bins",
    "stream anew, window of 50 bins",
}


@pytest.fixture(scope="module")
def micro() -> Original:
    return Original.read(MICRO)


def test_every_recorded_thing_equals_the_original(micro):
    rows = compare.compare(micro)
    assert {r.what for r in rows} == ROWS
    assert not [r for r in rows if not r.passes]
    assert {r.what: r.tolerance for r in rows} == {what: tolerance_of(what) for what in ROWS}


def tolerance_of(what: str) -> float:
    for word, tolerance in (("order", 0.0), ("relative", 1e-5), ("losses", 1e-6), ("AdamW", 1e-6)):
        if word in what:
            return tolerance
    return 2e-6


def linked(folder: Path, changed: str) -> Path:
    """A copy of the recorded run, of which only one file is to be rewritten."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in MICRO.iterdir():
        if file.name != changed:
            (folder / file.name).symlink_to(file)
    return folder / changed


def perturbed(folder: Path, name: str, key: str, at: tuple, amount: float) -> Path:
    """A copy in which one element of one tensor is moved."""
    file = linked(folder, name + ".safetensors")
    tensors = load_file(MICRO / file.name)
    tensors[key][at] += amount
    save_file(tensors, file)
    return folder


def run_main(folder: Path, monkeypatch, capsys):
    """Exit code, standard output and error of the program, run in this process."""
    monkeypatch.setattr(sys, "argv", ["compare.py", str(folder)])
    with pytest.raises(SystemExit) as e:
        log.run_program(compare.main)
    return e.value.code, *capsys.readouterr()


LAST_MLP = "backbone.layers.1.mlp.fc2.weight"


@pytest.mark.parametrize(
    ("name", "key", "at", "amount", "row"),
    [
        ("weights", "backbone.layers.0.mlp.fc2.weight", (0, 0), 1e-3, "blanked features"),
        ("weights", LAST_MLP, (5, 7), 1e-3, "stream kept"),
        ("outputs", "all_masked.features", (0, 3, 5), 5e-6, "blanked features"),
        ("outputs", "all_masked.features", (0, 3, 5), float("nan"), "blanked features"),
        ("outputs", "all_masked.spike_logits", (601, 4, 9), 5e-6, "blanked spike logits"),
        ("outputs", "all_masked.kin_pred", (500,), 5e-6, "blanked covariates"),
        ("outputs", "all_masked.space", (1, 7), 1, "blanked order of tokens"),
        ("outputs", "teacher_forced.features", (3, 100, 0), 5e-6, "teacher-forced features"),
        ("outputs", "grad." + LAST_MLP, (0, 0), 1e-4, "gradients"),
        ("outputs", "predict_mask_from_10.behavior_pred", (70,), 5e-6, "predict_mask_from_10"),
        ("outputs", "predict_simple.out", (0,), 5e-6, "predict_simple"),
        ("outputs", "tune_trace.kin_pred", (5,), 5e-6, "tuned covariates"),
        ("outputs", "stream.kv_cache", (69, 1), 5e-6, "stream kept"),
        ("outputs", "stream.recompute", (69, 1), 5e-6, "stream anew"),
        ("weights_after_3_adamw_steps", LAST_MLP, (0, 0), 3e-6, "AdamW weights"),
    ],
)
def test_a_perturbed_tensor_is_seen(tmp_path, monkeypatch, capsys, name, key, at, amount, row):
    """The comparison can fail: one number of one file, moved a little, is told by its row."""
    code, out, err = run_main(perturbed(tmp_path / "c", name, key, at, amount), monkeypatch, capsys)
    assert (code, err) == (1, "")
    failed = [line for line in out.splitlines() if line.endswith("FAIL")]
    assert any(line.startswith(row) for line in failed), out
    if name != "weights":
        assert len(failed) == 1, out


@pytest.mark.parametrize(
    ("path", "row"),
    [
        (("train", "spike_infill_loss"), "train losses"),
        (("val", "loss"), "val losses"),
        (("grad_norms", LAST_MLP), "gradients"),
        (("adamw_3steps", 2, "kin"), "AdamW losses"),
        (("adamw_3steps", 1, "gnorm"), "AdamW gradient norms"),
    ],
)
def test_a_perturbed_loss_is_seen(tmp_path, monkeypatch, capsys, path, row):
    file = linked(tmp_path / "c", "expected.json")
    expected = json.loads((MICRO / "expected.json").read_text())
    inner = expected
    for part in path[:-1]:
        inner = inner[part]
    inner[path[-1]] += 1e-5
    file.write_text(json.dumps(expected))
    code, out, _ = run_main(tmp_path / "c", monkeypatch, capsys)
    failed = [line for line in out.splitlines() if line.endswith("FAIL")]
    assert code == 1
    assert len(failed) == 1, out
    assert failed[0].startswith(row)


def test_bad_folders_are_one_clear_line(tmp_path, monkeypatch, capsys):
    def refused(folder, *words):
        code, _, err = run_main(folder, monkeypatch, capsys)
        assert code == 1
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        for word in words:
            assert word in err

    refused(tmp_path / "nope", "nope: no such folder")
    linked(tmp_path / "a", "batch.safetensors")
    refused(tmp_path / "a", "batch.safetensors: no such file")
    linked(tmp_path / "b", "expected.json").write_text("{")
    refused(tmp_path / "b", "expected.json: not valid JSON")
    linked(tmp_path / "c", "weights.safetensors").write_bytes(b"x" * 100)
    refused(tmp_path / "c", "weights.safetensors: not a readable safetensors file")
    for number, (name, key) in enumerate(
        [
            ("outputs", "all_masked.features"),
            ("outputs", "grad.start_of_sentence"),
            ("outputs", "stream.recompute"),
            ("weights", "start_of_sentence"),
            ("batch", "covariate_length"),
        ]
    ):
        file = linked(tmp_path / f"key{number}", f"{name}.safetensors")
        tensors = load_file(MICRO / file.name)
        del tensors[key]
        save_file(tensors, file)
        refused(file.parent, f"{name}.safetensors: no {key} in it")
    file = linked(tmp_path / "rows", "outputs.safetensors")
    tensors = load_file(MICRO / file.name)
    tensors["all_masked.kin_pred"] = tensors["all_masked.kin_pred"][:-1].clone()
    save_file(tensors, file)
    refused(file.parent, "all_masked.kin_pred has 1999 tokens, which 4 rows do not share")
    file = linked(tmp_path / "loss", "expected.json")
    expected = json.loads((MICRO / "expected.json").read_text())
    del expected["adamw_3steps"][1]["gnorm"]
    file.write_text(json.dumps(expected))
    refused(file.parent, "expected.json: no gnorm in it")
    file = linked(tmp_path / "shape", "weights.safetensors")
    tensors = load_file(MICRO / file.name)
    tensors[LAST_MLP] = tensors[LAST_MLP][:, :128].contiguous()
    save_file(tensors, file)
    refused(file.parent, "weights.safetensors", LAST_MLP, "(128, 128)", "(128, 256)")


def test_the_program_agrees_and_exits_with_0():
    done = subprocess.run(
        [sys.executable, compare.__file__, str(MICRO)], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "all within tolerance" in done.stdout


def record_another_size(folder: Path, micro: Original) -> None:
    """What the original would write for a model of other sizes, by our own model."""
    config = micro.config().model_copy(
        update={"layers": 3, "dim": 192, "heads": 3, "feedforward": 64, "max_space": 60}
    )
    torch.manual_seed(1)
    model = NDT3(config)
    weights = {to_upstream(n): p.detach().clone() for n, p in model.named_parameters()}
    arrays = pack(micro.batch, config)
    arrays["covariates"], arrays["covariate_valid"] = targets_of(micro.batch)
    tokens = PackedTokens.from_numpy(arrays)
    counts = int(arrays["spike_channels"].sum()), int(arrays["covariate_valid"].sum())
    out = model(tokens, *counts)
    out.loss.backward()
    features = model.features(tokens).detach().split(tokens.seqlens)
    lengths = micro.batch["covariate_length"].tolist()
    predicted = out.details["covariates"].split(lengths)
    outputs = {
        "all_masked.features": pad_sequence(list(features), batch_first=True),
        "all_masked.kin_pred": pad_sequence(list(predicted), True).flatten(),
    }
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        outputs["grad." + to_upstream(name)] = parameter.grad
    losses = {
        "loss": float(out.loss.detach()),
        "spike_infill_loss": float(out.sums[0]) / counts[0],
        "kinematic_linear_loss": float(out.sums[1]) / counts[1],
    }
    sizes = {"n_state": 192, "n_heads": 3, "n_layers": 3, "dropout": 0.0}
    expected = {
        "transformer": sizes,
        "dataset": micro.expected["dataset"],
        "train": losses,
        "val": losses,
        "adamw_3steps": [],
        "grad_norms": {k[5:]: float(g.norm()) for k, g in outputs.items() if k[:5] == "grad."},
        "lr_init": 1e-4,
        "weight_decay": 0.01,
    }
    folder.mkdir()
    save_file(weights, folder / "weights.safetensors")
    save_file(weights, folder / "weights_after_3_adamw_steps.safetensors")
    save_file(outputs, folder / "outputs.safetensors")
    (folder / "batch.safetensors").symlink_to(MICRO / "batch.safetensors")
    (folder / "expected.json").write_text(json.dumps(expected))


def test_a_run_of_another_size_is_read_by_its_own_sizes(tmp_path, micro):
    record_another_size(tmp_path / "other", micro)
    other = Original.read(tmp_path / "other")
    config = other.config()
    assert (config.layers, config.dim, config.heads, config.feedforward) == (3, 192, 3, 64)
    assert config.max_space == 60
    rows = compare.compare(other)
    assert {r.what for r in rows} < ROWS
    assert not [r for r in rows if not r.passes]


@pytest.mark.parametrize("number", [0, 1])
def test_tokenising_a_trial_equals_the_original_batch(micro, number):
    trial = np.load(GOLDEN / f"trial_{number}.npz")
    spikes = [trial[k] for k in trial.files if k.startswith("spikes.")]
    covariates = trial["bhvr_vel"].copy()
    if "bhvr_mask" in trial.files:
        covariates[~trial["bhvr_mask"]] = np.nan
    constraint = trial["constraint"] if "constraint" in trial.files else None
    returns = None
    if "task_return" in trial.files:
        returns = np.concatenate([trial["task_return"], trial["task_reward"]], axis=1)
    sample = sample_of(np.concatenate(spikes, axis=1), covariates, constraint, returns)
    config = micro.config()
    layout = Layout.from_counts([s.shape[1] for s in spikes], covariates.shape[1], config, "trial")
    ours, length = tokenise(sample, layout, config)
    row = {k: v[number : number + 1] for k, v in micro.batch.items()}
    theirs = pack(Named(micro.batch.file, row), config)
    budget = len(theirs["time"])  # upstream crops where its token budget is smaller (trial 1)
    assert length >= budget
    if length == budget:
        for name, expected in theirs.items():
            if name in ("cu_seqlens", "covariates"):
                continue
            np.testing.assert_array_equal(ours[name], expected, err_msg=name)
        np.testing.assert_allclose(
            ours["covariates"], np.where(ours["covariate_valid"], theirs["covariates"], 0)
        )
