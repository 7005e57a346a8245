"""Pretraining for real: the deepspeed launcher, two processes, SIGKILL, resume, export."""

import hashlib
import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from launching import kill_all, launch, losses
from modes import assert_modes
from ranks import run_ranks

import ndt3_dist
from ndt3_dist import plain_yaml
from ndt3_dist.checkpoint.export import export, verify_export
from ndt3_dist.checkpoint.steps import open_step, steps_of
from ndt3_dist.errors import BadInput, CheckpointCorrupt
from ndt3_dist.model.flops import device_name
from ndt3_dist.shards.corpus import Corpus
from ndt3_dist.train.replay import dump, replay
from ndt3_dist.train.run_metrics import read_metrics


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, corpus):
    """Twelve ZeRO-1 bf16 steps on two ranks, checkpoints at 4, 8 and 12."""
    folder = tmp_path_factory.mktemp("undisturbed")
    code, log = run_ranks(folder, corpus)
    assert code == 0, log
    return folder


def test_a_run_trains_and_reports(undisturbed):
    metrics = read_metrics(undisturbed / "r")
    assert [m["step"] for m in metrics] == list(range(1, 13))
    assert all(0 < m["tflops"] < 10 and m["memory_gb"] > 0.1 for m in metrics)
    assert metrics[-1]["loss"] < metrics[0]["loss"]
    assert steps_of(undisturbed / "r") == [4, 8, 12]
    assert (undisturbed / "r" / "latest").read_text() == "00000012\n"
    assert_modes(undisturbed / "r")
    (said,) = undisturbed.glob("log-*.txt")
    # What DeepSpeed prints as it begins, the first rank most of it.
    assert "Max_MA" in (undisturbed / "r" / "logs" / "rank00000.txt").read_text()
    assert "Max_MA" not in said.read_text()
    assert "FutureWarning" not in said.read_text()


def test_a_killed_and_resumed_run_has_the_same_losses_to_the_last_bit(
    undisturbed, corpus, tmp_path
):
    before = set(Path("/dev/shm").glob("deepspeed*"))
    chosen = ["train.micro_batch=0"]  # one row on a CPU, at the start and at the resume
    process = launch(tmp_path, corpus, extra=chosen, wait=False)
    deadline = time.time() + 200
    while not {6, 7} & set(losses(tmp_path)):
        assert process.poll() is None
        assert time.time() < deadline
        time.sleep(0.02)
    kill_all(process)
    assert set(Path("/dev/shm").glob("deepspeed*")) <= before  # no memory is left behind
    reached = max(losses(tmp_path))
    assert reached < 12
    overlapped = ["train.zero_stage=2", "train.overlap=true"]
    code, log = run_ranks(tmp_path, corpus, 2, [*chosen, *overlapped], "auto")
    assert code == 0, log
    assert (
        plain_yaml.load((tmp_path / "r" / "config.yaml").read_text())["train"]["micro_batch"] == 1
    )
    assert f"resuming from step {steps_of(tmp_path / 'r')[0]}" in log
    assert losses(tmp_path) == losses(undisturbed)
    starts = (tmp_path / "r" / "starts.jsonl").read_text().splitlines()
    assert [json.loads(s)["from_step"] for s in starts] == [0, 4]
    assert all(json.loads(s)["device"] == device_name(torch.device("cpu")) for s in starts)


@pytest.mark.parametrize(("ranks", "stage"), [(1, 1), (2, 3)])
def test_another_world_size_or_stage_goes_on_with_the_same_loss(
    undisturbed, corpus, tmp_path, ranks, stage
):
    shutil.copytree(undisturbed / "r", tmp_path / "r")
    for step in (8, 12):
        shutil.rmtree(tmp_path / "r" / "steps" / f"{step:08d}")
    code, log = run_ranks(
        tmp_path, corpus, ranks, [f"train.zero_stage={stage}", "train.max_steps=8"], "auto"
    )
    assert code == 0, log
    ours, theirs = losses(tmp_path), losses(undisturbed)
    assert ours == {step: theirs[step] for step in range(1, 9)}  # to the last bit


def test_a_damaged_checkpoint_is_passed_over_by_name(undisturbed, corpus, tmp_path):
    shutil.copytree(undisturbed / "r", tmp_path / "r")
    shard = tmp_path / "r" / "steps" / "00000012" / "rank00001-of-00002.safetensors"
    data = bytearray(shard.read_bytes())
    data[-5] ^= 1
    shard.write_bytes(data)
    code, log = run_ranks(tmp_path, corpus, resume="auto")
    assert code == 0, log
    assert "step 12 is damaged, falling back" in log
    assert shard.name in log
    assert "resuming from step 8" in log
    assert losses(tmp_path) == losses(undisturbed)


def test_a_damaged_window_is_replaced_on_all_ranks_and_after_a_resume(corpus, tmp_path):
    shutil.copytree(corpus, tmp_path / "c")
    opened = Corpus(corpus)
    shard = tmp_path / "c" / "shards" / f"{opened.shards[0].name}.tar"
    data = bytearray(shard.read_bytes())
    data[int(opened.index[3]["spikes"]["offset"]) + 150] ^= 1
    shard.write_bytes(data)
    quarantine = ["data.on_corrupt=quarantine", "data.max_quarantined=0.1"]
    code, log = run_ranks(tmp_path, tmp_path / "c", extra=quarantine)
    assert code == 0, log
    assert log.count(f"window {opened.key(3)} has crc32") == 1  # said once, not by every rank
    for step in (8, 12):
        shutil.rmtree(tmp_path / "r" / "steps" / f"{step:08d}")
    before = losses(tmp_path)
    code, log = run_ranks(tmp_path, tmp_path / "c", extra=quarantine, resume="auto")
    assert code == 0, log
    assert losses(tmp_path) == before
    code, log = run_ranks(tmp_path / "raise", tmp_path / "c")
    assert code != 0
    errors = [line for line in log.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert f"window {opened.key(3)} has crc32" in errors[0]


def test_replay_lists_what_a_step_was_trained_on(undisturbed, corpus, tmp_path):
    metrics = {m["step"]: m for m in read_metrics(undisturbed / "r")}
    for step in (1, 12):
        found = replay(undisturbed / "r", step)
        assert len(found.rows) == metrics[step]["samples"]
        assert sum(r["tokens"] for r in found.rows) == metrics[step]["tokens"]
        assert not found.damaged
    assert found.rows[-1]["epoch"] > 0  # another pass than the first step's
    dump(found, tmp_path / "batch.npz")
    with np.load(tmp_path / "batch.npz") as arrays:
        assert sum(len(arrays[k]) for k in arrays if k.endswith("/time")) == metrics[12]["tokens"]
    with pytest.raises(BadInput, match=r"no step 13 in metrics\.jsonl; it has 1 to 12"):
        replay(undisturbed / "r", 13)
    shutil.copytree(corpus, tmp_path / "c")
    shard = tmp_path / "c" / "shards" / f"{found.rows[0]['shard']}.tar"
    data = bytearray(shard.read_bytes())
    data[found.rows[0]["offset"] + 150] ^= 1
    shard.write_bytes(data)
    damaged = replay(undisturbed / "r", 12, str(tmp_path / "c")).damaged
    assert found.rows[0]["window"] in damaged[0]
    assert "sha256 is not the manifest's" in damaged[-1]


def test_an_existing_run_is_an_error_not_a_silent_exit(undisturbed, corpus):
    code, log = run_ranks(undisturbed, corpus)
    assert code != 0
    errors = [line for line in log.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert "--resume auto" in errors[0]
    assert len(losses(undisturbed)) == 12  # nothing of it was touched


def test_rank_counts_that_do_not_divide_the_batch_name_those_that_do(corpus, tmp_path):
    code, log = run_ranks(tmp_path, corpus, 2, ["train.global_batch=3"])
    assert code != 0
    assert "these can: 1, 3" in log


def test_an_export_holds_the_fp32_masters_bit_for_bit(undisturbed, corpus, tmp_path):
    import torch

    config = export(undisturbed / "r", tmp_path / "e", None, "fp32", print)
    assert config["trained"]["step"] == 12
    manifest = Corpus(corpus).manifest
    (stage,) = config["trained"]["lineage"]
    seen = {name: manifest.named(name).source_sha256 for name in ("t-S-01", "t-S-02")}
    assert stage == {
        "corpus": manifest.fingerprint,
        "split": "train",
        "steps": 12,
        "epochs": config["trained"]["epochs"],
        "sessions": seen,  # the third has no train split
    }
    model = ndt3_dist.load_model(tmp_path / "e")
    checkpoint = open_step(undisturbed / "r", 12)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, checkpoint.master(name)), name
    told = {name: sha256 for name, _, sha256 in verify_export(undisturbed / "r", tmp_path / "e")}
    sos = checkpoint.master("sos").numpy().tobytes()
    assert told.keys() == checkpoint.meta["parameters"].keys()
    assert told["sos"] == hashlib.sha256(sos).hexdigest()
    file = tmp_path / "e" / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(CheckpointCorrupt, match="is not that of"):
        verify_export(undisturbed / "r", tmp_path / "e")
    export(undisturbed / "r", tmp_path / "b", 8, "bf16", print)
    assert len(verify_export(undisturbed / "r", tmp_path / "b")) == len(told)
    rounded = ndt3_dist.load_model(tmp_path / "b")
    eight = open_step(undisturbed / "r", 8)
    for name, parameter in rounded.named_parameters():
        assert torch.equal(parameter, eight.master(name).to(torch.bfloat16)), name


@pytest.mark.parametrize(("ranks", "stage"), [(2, 1), pytest.param(1, 3, marks=pytest.mark.drill)])
def test_a_new_run_starts_from_an_exports_masters_and_optimiser(
    undisturbed, corpus, tmp_path, ranks, stage
):
    import torch
    from safetensors.torch import save_file

    folder = tmp_path / "e"
    config = export(undisturbed / "r", folder, None, "fp32", print)
    weights = dict(ndt3_dist.load_model(folder).named_parameters())
    still = ["optim.lr=1e-30", "optim.lr_min=1e-30", "optim.weight_decay=0", "train.max_steps=1"]
    still.append(f"train.zero_stage={stage}")
    code, log = run_ranks(tmp_path / "plain", corpus, ranks, [*still, "--init", str(folder)])
    assert code == 0, log
    begun = json.loads((tmp_path / "plain" / "r" / "starts.jsonl").read_text())
    assert begun["init"] == str(folder)
    first = open_step(tmp_path / "plain" / "r", 1)
    assert first.meta["adam_step"] == 1
    assert first.meta["epochs"] < 1
    stages = config["trained"]["lineage"]
    after = export(tmp_path / "plain" / "r", tmp_path / "after", None, "fp32", print)
    last = {**stages[0], "steps": 1, "epochs": after["trained"]["epochs"]}
    assert after["trained"]["lineage"] == [*stages, last]
    assert 0 < last["epochs"] < stages[0]["epochs"]
    for name, weight in weights.items():
        assert torch.equal(first.master(name), weight), name
    # Moments so large that a step's own gradient is lost in them.
    moments = {
        f"{k}.{n}": torch.full_like(w, 1e6).detach()
        for n, w in weights.items()
        for k in ("exp_avg", "exp_avg_sq")
    }
    save_file(moments, folder / "optimizer.safetensors")
    config["trained"].update(epochs=3.5, optimizer={"step": 70})
    (folder / "config.json").write_text(json.dumps(config))
    code, log = run_ranks(tmp_path / "more", corpus, ranks, [*still, "--init", str(folder)])
    assert code == 0, log
    gone_on = open_step(tmp_path / "more" / "r", 1)
    assert gone_on.meta["adam_step"] == 71
    assert 3.5 < gone_on.meta["epochs"] < 4.5
    found = gone_on.read("covariate_out.weight", 0, 64)
    torch.testing.assert_close(found["exp_avg"], torch.full((64,), 0.9e6), rtol=1e-5, atol=0)
    torch.testing.assert_close(found["exp_avg_sq"], torch.full((64,), 0.95e6), rtol=1e-5, atol=0)


def test_an_export_of_another_model_starts_no_run(undisturbed, corpus, tmp_path):
    export(undisturbed / "r", tmp_path / "e", None, "fp32", print)
    code, log = run_ranks(tmp_path, corpus, 1, ["model.layers=1", "--init", str(tmp_path / "e")])
    assert code != 0
    assert "model.layers is 1, there 2" in log
    assert not (tmp_path / "r").exists()


def history(path: Path) -> list[dict]:
    """Lines of history in a W&B file: records of a LevelDB log after a header of seven bytes."""
    from wandb.proto import wandb_internal_pb2

    data, at, whole, found = path.read_bytes(), 7, b"", []
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:  # no record begins in the last bytes of a block
            at += left
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole, at = whole + data[at + 7 : at + 7 + size], at + 7 + size
        if kind in (1, 4):  # complete, or the last part
            record = wandb_internal_pb2.Record.FromString(whole)
            whole = b""
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                found.append({i.key or i.nested_key[0]: json.loads(i.value_json) for i in items})
    return found


def test_wandb_offline_has_the_lines_of_metrics_jsonl(corpus, tmp_path):
    code, log = run_ranks(tmp_path, corpus, 1, ["log.wandb=offline", "train.max_steps=3"])
    assert code == 0, log
    (file,) = (tmp_path / "r" / "wandb").glob("offline-run-*/*.wandb")
    lines = history(file)
    own = {"_step", "_timestamp", "_runtime"}
    assert [line["_step"] for line in lines] == [1, 2, 3]
    told = [{k: v for k, v in line.items() if k not in own} for line in lines]
    metrics = [{k: v for k, v in m.items() if k != "step"} for m in read_metrics(tmp_path / "r")]
    assert told == metrics
    assert {"loss", "grad_norm", "lr", "tokens", "wait_s", "tflops"} <= set(told[0])


def test_other_settings_are_said_kept_by_step_and_are_those_of_the_newest_step(corpus, tmp_path):
    run = tmp_path / "r"
    code, log = run_ranks(tmp_path, corpus, 1)
    assert code == 0, log
    before = (run / "config.yaml").read_text()
    code, log = run_ranks(tmp_path, corpus, 1, ["optim.lr=1e-4"], "auto")
    assert code == 0, log
    assert "is over with step 12" in log
    assert "optim.lr trained nothing" in log
    assert (run / "config.yaml").read_text() == before
    changes = ["optim.lr=1e-4", "train.max_steps=16", "checkpoint.every_steps=3"]
    code, log = run_ranks(tmp_path, corpus, 1, changes, "auto")
    assert code == 0, log
    lr = plain_yaml.load(before)["optim"]["lr"]
    assert "settings changed after step 12: " in log
    assert f"optim.lr {lr} -> 0.0001" in log
    assert plain_yaml.load((run / "config.yaml").read_text())["optim"]["lr"] == 1e-4
    kept = open_step(run, 16).meta["settings"]
    assert [start["from_step"] for start in kept] == [0, 12]
    assert kept[1]["changed"]["optim.lr"] == [lr, 1e-4]
    last = json.loads((run / "starts.jsonl").read_text().splitlines()[-1])
    assert last["changed"] == kept[1]["changed"]
    # From an older step on with its own settings: they train the newest step again.
    code, log = run_ranks(tmp_path, corpus, 1, (), "8")
    assert code == 0, log
    assert "settings changed" not in log
    assert steps_of(run) == [4, 8, 12]
    assert plain_yaml.load((run / "config.yaml").read_text())["optim"]["lr"] == lr
