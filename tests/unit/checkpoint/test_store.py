"""Checkpoints and files of a run in a real S3 server, which fails now and then."""

import time

import pytest
import torch
from s3_server import S3, use
from saves import SHAPES, full_state, save, slices_of, writers

from ndt3_dist import append_file as lines
from ndt3_dist import remote, storage
from ndt3_dist.append_file import AppendFile
from ndt3_dist.checkpoint.export import masters
from ndt3_dist.checkpoint.steps import (
    KINDS,
    delete_step,
    newest,
    open_step,
    prune,
    remove_remnants,
    set_aside,
    step_folder,
    steps_of,
)
from ndt3_dist.errors import CheckpointCorrupt


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    root = tmp_path_factory.mktemp("s3")
    (root / "lab").mkdir()
    s3 = S3(root)
    yield s3
    s3.close()


@pytest.fixture
def run(server, monkeypatch, request):
    monkeypatch.setattr(remote, "ATTEMPTS", 3)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    use(server)
    yield f"s3://lab/runs/{request.node.name.split('[')[0]}"
    server.faults.clear()


def equal(checkpoint, state) -> bool:
    return all(
        torch.equal(found, state[name][kind])
        for name in SHAPES
        for kind, found in checkpoint.read(name, 0, len(state[name]["master"])).items()
    )


def test_what_two_ranks_saved_reads_back(run):
    state = save(run, 5, 2)
    assert steps_of(run) == [5]
    checkpoint = open_step(run, 5)
    checkpoint.verify()
    assert equal(checkpoint, state)
    weights = masters(run, None, torch.float32, print)[1]
    assert torch.equal(weights["b"], state["b"]["master"])
    assert storage.read_text(f"{run}/latest") == "00000005\n"


def test_steps_are_kept_deleted_and_set_aside_as_on_a_disk(run):
    for step in (1, 2, 3, 4, 5):
        save(run, step)
    storage.write_bytes(f"{step_folder(run, 1)}/pinned", b"")
    prune(run, keep_last=2, best=3)
    assert steps_of(run) == [1, 3, 4, 5]
    set_aside(run, 5)
    assert steps_of(run) == [1, 3, 4]
    left = storage.list_names(f"{step_folder(run, 5)}.left")
    assert left == ["checkpoint.json", "rank00000-of-00001.safetensors", "stream.json"]
    storage.remove(f"{step_folder(run, 4)}/checkpoint.json")  # as a delete that was killed
    assert newest(run, print).meta["step"] == 3
    remove_remnants(run)
    delete_step(run, 3)
    assert storage.list_names(f"{run}/steps") == ["00000001", "00000005.left"]


def test_damage_in_the_store_is_named_and_passed_over(run, server):
    save(run, 1)
    save(run, 2)
    path = server.root / step_folder(run, 2).removeprefix("s3://")
    path /= "rank00000-of-00001.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 8
    path.write_bytes(data)
    said = []

    def read_all(checkpoint):
        checkpoint.verify()
        return checkpoint.meta["step"]

    assert newest(run, said.append, read_all) == 1
    assert "rank00000-of-00001.safetensors: " in said[0]
    path.write_bytes(data[:-4])
    time.sleep(0.1)  # until the server looks again
    with pytest.raises(CheckpointCorrupt, match=r"checkpoint\.json has"):
        open_step(run, 2)


@pytest.mark.parametrize("kind", ["503", "reset"])
def test_an_upload_that_fails_twice_is_tried_again(run, server, kind):
    server.fail("rank00000", kind, 2, "PUT")
    state = save(run, 1)
    assert equal(open_step(run, 1), state)


def test_a_store_that_stays_away_fails_the_save_and_not_the_run(run, server, monkeypatch, capsys):
    monkeypatch.setattr(remote, "LONGEST_WAIT_S", 0.1)
    save(run, 1)
    server.fail("rank00000", "403", method="PUT")
    (writer,) = writers(run)
    writer.begin(2, slices_of(full_state(2), 0, 1), {"parameters": SHAPES}, {})
    writer.finish(last=False)
    assert writer.failed == 1
    assert "earlier checkpoints are kept" in capsys.readouterr().err
    assert steps_of(run) == [1]
    assert storage.list_names(step_folder(run, 2)) == []


def test_a_store_that_goes_down_at_the_commit_ends_no_run(run, server, monkeypatch, capsys):
    monkeypatch.setattr(remote, "ATTEMPTS", 1)
    save(run, 1)
    (writer,) = writers(run)
    writer.begin(2, slices_of(full_state(2), 0, 1), {"parameters": SHAPES}, {})
    writer.under_way.thread.join()

    def down(*_, **__):
        raise ConnectionError("down")

    with monkeypatch.context() as patch:
        patch.setattr(remote, "filesystem", down)
        writer.commit()
    assert "earlier checkpoints are kept" in capsys.readouterr().err
    assert steps_of(run) == [1]
    writer.begin(2, slices_of(full_state(2), 0, 1), {"parameters": SHAPES}, {})
    writer.finish()
    assert steps_of(run) == [1, 2]


def test_a_large_file_goes_up_in_parts_and_a_torn_upload_leaves_nothing(run, server):
    piece = bytes(range(256)) * (1 << 14)  # 4 MB
    path = f"{run}/large"
    assert storage.write_pieces(path, lambda: [piece] * 20) == 80 << 20
    assert storage.read_range(path, (80 << 20) - 5, 10).tolist() == [251, 252, 253, 254, 255]

    def torn():
        yield from [piece] * 20
        raise PermissionError("torn")

    with pytest.raises(PermissionError, match="torn"):
        storage.write_pieces(f"{run}/torn", torn)
    assert storage.list_names(run) == ["large"]


def test_lines_are_there_once_they_are_flushed_and_soon_without(run, server, monkeypatch):
    monkeypatch.setattr(lines, "EVERY_S", 0.2)
    file, path = AppendFile(f"{run}/a.jsonl", "kept\n"), f"{run}/a.jsonl"
    assert storage.read_text(path) == "kept\n"
    file.add("1\n")
    deadline = time.monotonic() + 20
    while storage.read_text(path) != "kept\n1\n":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    monkeypatch.setattr(lines, "EVERY_S", 1e6)
    time.sleep(0.3)
    file.add("2\n")
    file.flush()
    assert storage.read_text(path) == "kept\n1\n2\n"
    file.add("3\n")
    file.close()
    assert storage.read_text(path) == "kept\n1\n2\n3\n"


def test_metrics_are_in_the_store_before_the_step_that_has_them(run):
    (writer,) = writers(run)
    seen = []
    writer.before_commit = lambda: seen.append(steps_of(run))
    writer.begin(3, slices_of(full_state(3), 0, 1), {"parameters": SHAPES}, {})
    writer.finish()
    assert seen == [[]]
    assert steps_of(run) == [3]
    assert set(KINDS) == {"master", "exp_avg", "exp_avg_sq"}


def test_a_store_that_refuses_is_no_damage(run, server):
    """Falling back to an older step because of a key's policy would lose work."""
    save(run, 1)
    save(run, 2)
    server.fail("00000002/rank", "403")
    with pytest.raises(PermissionError):
        newest(run, print, lambda checkpoint: checkpoint.verify())
