"""Folders that DeepSpeed itself has made of upstream's parameters, imported."""

import os
import shutil

import pytest
import torch
from deepspeed_files import FROZEN, VARIANTS, write_folders
from safetensors.torch import load_file

from ndt3_dist.errors import BadInput, CheckpointCorrupt, Unsupported
from ndt3_dist.upstream.deepspeed_folder import open_checkpoint
from ndt3_dist.upstream.from_ndt3 import import_checkpoint
from ndt3_dist.upstream.names import to_upstream
from ndt3_dist.upstream.state_dict import EXTRA, POISSON
from ndt3_dist.upstream.to_ndt3 import to_ndt3

SHARD = "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    out = tmp_path_factory.mktemp("deepspeed")
    write_folders(out)
    return out


@pytest.fixture
def copied(folders, tmp_path):
    """A copy of ZeRO-1's folder, to be damaged; the folder of its files."""
    shutil.copytree(folders / "bf16_1.ckpt", tmp_path / "a.ckpt")
    return tmp_path / "a.ckpt" / "checkpoint"


@pytest.mark.parametrize("variant", VARIANTS)
def test_imported_weights_are_the_engines_masters_to_the_last_bit(folders, tmp_path, variant):
    shared = VARIANTS[variant].get("shared", False)
    path = folders / f"{variant}.ckpt"
    config, rows = import_checkpoint(path, tmp_path / "out", allow_partial=shared)
    assert config["trained"]["new"] == []
    assert (config["trained"]["run"], config["trained"]["step"]) == (path.name, 7)
    masters = load_file(folders / f"{variant}.masters")
    found = load_file(tmp_path / "out" / "model.safetensors")
    for name, weight in found.items():
        assert torch.equal(weight, masters[to_upstream(name)]), name
    trained = masters["start_of_sentence"]
    assert not torch.equal(trained, trained.bfloat16().float())  # no 16-bit copy of it has them
    skipped = {row["upstream"] for row in rows if row["parameter"] == "-"}
    assert skipped == {POISSON, EXTRA} | ({"tied.weight"} if shared else set())


@pytest.mark.parametrize("variant", ["bf16_2", "bf16_3"])
def test_shared_and_frozen_parameters_are_where_they_belong(folders, variant):
    masters = load_file(folders / f"{variant}.masters")
    with open_checkpoint(folders / f"{variant}.ckpt" / "checkpoint") as opened:
        state = opened.content["state_dict"]
        for tied in ("tied.weight", "start_of_sentence"):
            assert torch.equal(opened.tensor(state[tied]), masters["start_of_sentence"])
        assert torch.equal(opened.tensor(state[FROZEN]).float(), masters[FROZEN])


def refused(copied, kind, *words):
    """The error of an import from its folder; nothing is left behind."""
    path = copied.parent
    with pytest.raises(kind) as e:
        import_checkpoint(path, path.parent / "out")
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    for word in words:
        assert word in str(e.value)
    assert "\n" not in str(e.value)


def test_a_folder_without_a_ranks_part_says_which(copied, folders, tmp_path):
    (copied / SHARD).unlink()
    told = "by 2 ranks without the optim_states.pt of rank 1", "copy the whole folder again"
    refused(copied, CheckpointCorrupt, str(copied.parent), "DeepSpeed", *told)
    (copied / SHARD.replace("rank_1", "rank_0")).unlink()
    refused(copied, CheckpointCorrupt, "without the optim_states.pt of rank 0, 1;")
    shutil.rmtree(copied.parent)
    shutil.copytree(folders / "bf16_3.ckpt", copied.parent)
    (copied / "zero_pp_rank_1_mp_rank_00_model_states.pt").unlink()
    refused(copied, CheckpointCorrupt, "without the model_states.pt of rank 1")
    (copied / "zero_pp_rank_0_mp_rank_00_model_states.pt").unlink()
    refused(copied, CheckpointCorrupt, "without the model_states.pt of rank 0")


def test_empty_files_are_named(copied):
    for name in ("mp_rank_00_model_states.pt", SHARD):
        (copied / name).write_bytes(b"")
    refused(copied, CheckpointCorrupt, "DeepSpeed", "no bytes", "mp_rank_00_model_states.pt", SHARD)


def test_latest_decides_between_several(copied):
    path = copied.parent
    (path / "latest").write_text("../elsewhere")
    refused(copied, CheckpointCorrupt, "`latest` names ../elsewhere")
    (path / "latest").unlink()
    shutil.copytree(copied, path / "other")
    refused(copied, BadInput, "several checkpoints", "checkpoint, other")
    (path / "latest").write_text("other")
    import_checkpoint(path, path.parent / "out")


def test_other_folders_are_refused(copied):
    (copied / SHARD).rename(copied / SHARD.replace("rank_00", "rank_01"))
    refused(copied, Unsupported, "mp_rank_01")
    for file in copied.iterdir():
        file.unlink()
    (copied.parent / "latest").unlink()
    refused(copied, BadInput, "a folder without mp_rank_00_model_states.pt")


def test_a_folder_is_no_template(copied, folders, tmp_path):
    import_checkpoint(copied.parent, tmp_path / "out")
    with pytest.raises(BadInput, match="a folder, as DeepSpeed writes"):
        to_ndt3(tmp_path / "out", tmp_path / "back.ckpt", copied.parent)


class Call:
    """Pickles as a call of os.mkdir."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def test_a_shard_runs_nothing_and_must_have_the_elements_that_are_needed(copied, tmp_path):
    from deepspeed.utils.tensor_fragment import fragment_address

    with torch.serialization.safe_globals([fragment_address]):
        shard = torch.load(copied / SHARD, weights_only=True)
    torch.save({**shard, "more": Call(str(tmp_path / "made"))}, copied / SHARD)
    refused(copied, CheckpointCorrupt, SHARD, "names posix.mkdir")
    groups = shard["optimizer_state_dict"]["single_partition_of_fp32_groups"]
    whole = groups[0]
    groups[0] = whole[:-100].clone()
    torch.save(shard, copied / SHARD)
    refused(copied, CheckpointCorrupt, "group 0 needs 185,707 elements", "have 185,608")
    groups[0] = whole.double()
    torch.save(shard, copied / SHARD)
    refused(copied, CheckpointCorrupt, SHARD, "no flat float32 tensor 0 of 1")
