"""benchmarks/gpu.py: parts that fail stop no other, results are kept, peers see one batch."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from ndt3_dist.config import PROJECT, find_file, load_config
from ndt3_dist.model.ndt3 import NDT3
from ndt3_dist.model.tokens import PackedTokens
from ndt3_dist.train.pretrain_config import PretrainConfig

BEGINS = """import argparse
parser = argparse.ArgumentParser()
parser.add_argument("--work")
parser.add_argument("--seconds", type=float)
print("begun", flush=True)
"""
ENDS = {
    "well": "print('a table')",
    "wrong": "raise SystemExit(3)",
    "aborts": "import os; os.abort()",
    "hangs": """
import subprocess, time
child = subprocess.Popen(["sleep", "600"])
print("child", child.pid, flush=True)
time.sleep(600)
""",
    "last": "print('the last table')",
}


@pytest.fixture
def gpu(monkeypatch):
    """The program as a module."""
    monkeypatch.syspath_prepend(str(PROJECT / "benchmarks"))
    import gpu

    return gpu


@pytest.fixture
def run(gpu, tmp_path, monkeypatch, capsys):
    """Call the program with stand-in parts; its exit status and what it printed."""
    folder = tmp_path / "parts" / "gpu_parts"
    folder.mkdir(parents=True)
    for name, text in ENDS.items():
        (folder / f"{name}.py").write_text(BEGINS + text)
    monkeypatch.setenv("PYTHONPATH", str(folder.parent))
    boxes = {name: 2 if name == "hangs" else 60 for name in ENDS}
    parts = tuple(gpu.Part(name, seconds, f"it {name}") for name, seconds in boxes.items())
    monkeypatch.setattr(gpu, "PARTS", parts)
    monkeypatch.setattr(gpu, "LEAST", 1)
    monkeypatch.setattr(gpu, "SHORT", 1)

    def call(*arguments):
        results = ["--short", "--results", str(tmp_path / "results")]
        monkeypatch.setattr(sys, "argv", ["gpu.py", *results, *arguments])
        return gpu.main(), capsys.readouterr().out

    return call


def outcomes(said: str) -> dict[str, str]:
    """What became of each part, by its name."""
    lines = said.split("== parts\n")[1].splitlines()[1 : len(ENDS) + 1]
    return {words[1]: words[3] for words in (line.split(None, 3) for line in lines)}


def test_a_part_that_fails_aborts_or_hangs_stops_no_other(run, tmp_path):
    code, said = run()
    assert code == 1
    assert outcomes(said) == {
        "well": "ok",
        "wrong": "failed: exit 3",
        "aborts": "failed: SIGABRT",
        "hangs": "ended: 2 s were over",
        "last": "ok",
    }
    assert said.count("begun") == len(ENDS)
    (file,) = (tmp_path / "results").iterdir()
    assert file.read_text() + f"{file}\n" == said
    child = said.split("child ")[1].split()[0]
    listed = subprocess.run(["ps", "-o", "stat=", "-p", child], capture_output=True, text=True)
    assert listed.stdout.strip()[:1] in ("", "Z")  # what a part started ends with it


def test_only_some_parts_and_no_file_twice(run, tmp_path):
    for _ in range(3):
        code, said = run("--only", "last, 1")
        assert code == 0
        assert "the last table" in said
        assert said.count("begun") == 2
    names = sorted(file.stem for file in (tmp_path / "results").iterdir())
    date = names[0].removeprefix("gpu_")
    assert names == [f"gpu_{date}", f"gpu_{date}_2", f"gpu_{date}_3"]


def test_parts_that_there_is_no_time_for_are_listed(run):
    code, said = run("--minutes", "0")
    assert code == 0
    assert set(outcomes(said).values()) == {"out of time"}
    assert "begun" not in said


def test_an_unknown_part_is_named(gpu):
    with pytest.raises(gpu.BadInput, match=r"--only 99, nope: expected .* 3 shipped"):
        gpu.choose("nope,99,3")


def small_config():
    """Of a model without dropout."""
    small = ["model.layers=2", "model.dim=64", "model.heads=2", "model.feedforward=64"]
    small += ["model.dropout=0", "model.attention_dropout=0", "model.attention=sdpa"]
    file = find_file("base_45m_200h.yaml", "configs")
    return load_config(PretrainConfig, file, small).ndt3


def test_padded_windows_give_what_packed_ones_give(gpu):
    from gpu_parts.peers import Encoder, mixed_windows, rectangle

    config = small_config()
    packed = mixed_windows(config, 3)
    padded = rectangle(packed, config)
    assert len(padded["time"]) == 3 * np.diff(packed["cu_seqlens"]).max() > len(packed["time"])
    torch.manual_seed(0)
    model = NDT3(config)
    one, other = (model(PackedTokens.from_numpy(arrays), 1000, 100) for arrays in (packed, padded))
    for name, value in one.details.items():
        torch.testing.assert_close(other.details[name], value, rtol=1e-4, atol=1e-5)
    encoder, blocks = Encoder(config).encoder, model.blocks
    ours, theirs = (sum(p.numel() for p in m.parameters()) for m in (blocks, encoder))
    assert theirs == pytest.approx(ours, rel=0.02)


def test_the_encoder_is_causal_and_of_one_window(gpu):
    from gpu_parts.peers import Encoder, mixed_windows, rectangle

    config = small_config()
    torch.manual_seed(0)
    tokens = PackedTokens.from_numpy(rectangle(mixed_windows(config, 2), config))
    model = Encoder(config)
    before, longest = model.features(tokens), tokens.seqlens[0]
    middle = int((tokens.spike_slot < longest // 2).sum())
    tokens.spikes[middle] += 5
    changed = (model.features(tokens) - before).abs().amax(1) > 1e-6
    first = int(changed.nonzero()[0])
    assert first == int(tokens.spike_slot[middle]) + 1  # content enters one slot on
    assert changed[:longest].any()
    assert not changed[longest:].any()


@pytest.mark.parametrize(
    ("kernel", "group"),
    [
        (
            "void pytorch_flash::flash_bwd_kernel<Flash_bwd_traits<cutlass::bfloat16_t>>",
            "attention",
        ),
        ("fmha_cutlassF_bf16_aligned_64x64_rf_sm80", "attention"),
        ("nvjet_sm90_tst_128x256_64x4_1x2_h_bz_coopA_NTN", "products"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64", "products"),
        ("void cutlass::Kernel2<cutlass_80_wmma_tensorop_bf16_s161616gemm>", "products"),
        ("add_norm_backward", "ours"),
        ("norm_rotate_forward", "ours"),
        ("swiglu_forward", "ours"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor>", "the rest"),
    ],
)
def test_kernels_are_grouped_by_their_names(gpu, kernel, group):
    from gpu_parts.profile import group_of

    assert group_of(kernel) == group


@pytest.mark.parametrize("short", [False, True])
def test_the_runs_of_both_forms_are_valid(gpu, short):
    from gpu_parts import resume, shipped
    from gpu_parts.common import SIZES

    given = [(f"{SIZES[size]}.yaml", shipped.overrides(size, short)) for size in SIZES]
    for name, overrides in [*given, (resume.CONFIG, resume.overrides(short))]:
        config = load_config(PretrainConfig, find_file(name, "configs"), overrides)
        assert config.train.max_steps
        width = config.ndt3.dim // config.ndt3.heads
        assert short or width in (64, 128)  # what flash kernels are made for
