"""What ranks read off the launcher that started them."""

import os
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

from ndt3_dist.engines import command as command_above
from ndt3_dist.engines import launcher
from ndt3_dist.engines.command import told_launcher
from ndt3_dist.engines.launcher import check_launch, port_of_job
from ndt3_dist.errors import BadInput

RUN = ["launch/pretrain.py", "--config", "demo.yaml", "run.name=r"]


@pytest.fixture
def started(monkeypatch, tmp_path):
    """Makes this process look as if `deepspeed` had started it with some options."""

    def start(*options, command=("/bin/deepspeed",)):
        launch = ["python", "-m", "deepspeed.launcher.launch", "--master_port=29500", *RUN]
        found = []
        for words in (launch, ["python", *command, *options, *RUN]):
            called = SimpleNamespace(
                pid=os.getpid(), cmdline=lambda w=words: w, cwd=lambda: str(tmp_path)
            )
            found.append(called)
        for module in (command_above, launcher):
            monkeypatch.setattr(module, "launchers", lambda: found)
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        monkeypatch.setattr("tempfile.tempdir", None)
        monkeypatch.setenv("CROSS_SIZE", "1")
        monkeypatch.setenv("MASTER_PORT", "29500")

    return start


@pytest.mark.parametrize("form", [["--hostfile", "hosts"], ["--hostfile=hosts"], ["-H", "hosts"]])
@pytest.mark.parametrize("command", [["/bin/deepspeed"], ["-m", "deepspeed.launcher.runner"]])
def test_a_hostfile_that_is_not_there_is_refused(started, tmp_path, form, command):
    started("--num_accelerators", "2", *form, command=command)
    with pytest.raises(BadInput, match="--hostfile hosts: no such file"):
        check_launch(0)
    (tmp_path / "hosts").write_text("localhost slots=2\n")  # in the launcher's own folder
    check_launch(0)


def test_without_a_launcher_nothing_is_asked_of_it(monkeypatch):
    monkeypatch.setattr(command_above, "launchers", list)
    assert told_launcher() is None
    check_launch(0)


def test_the_number_of_ranks_is_held_against_what_was_launched(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    check_launch(4)
    with pytest.raises(BadInput, match=r"train\.ranks is 8, 4 were launched"):
        check_launch(8)


def test_fewer_ranks_will_do_within_bounds(monkeypatch):
    for found, allowed in ((1, False), (2, True), (3, True), (4, True), (5, False)):
        monkeypatch.setenv("WORLD_SIZE", str(found))
        if allowed:
            check_launch(4, 2)
        else:
            with pytest.raises(BadInput, match=rf"ranks is 4 and train.min_ranks is 2, {found}"):
                check_launch(4, 2)
    check_launch(0, 2)
    monkeypatch.setenv("WORLD_SIZE", "1")
    with pytest.raises(BadInput, match=r"^train.min_ranks is 2, 1 was launched"):
        check_launch(0, 2)


def test_a_port_is_chosen_where_none_was_named(started, monkeypatch, tmp_path):
    started("--num_accelerators", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with port_of_job():
        port = os.environ["MASTER_PORT"]
        assert port != "29500"
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("", int(port)))  # it is held from the first moment
        monkeypatch.setenv("RANK", "1")
        monkeypatch.setenv("MASTER_PORT", "29500")
        with port_of_job():
            assert os.environ["MASTER_PORT"] == port
    assert not list(tmp_path.glob("ndt3_dist-*/*"))


@pytest.mark.parametrize("why", ["named", "several hosts", "no launcher"])
def test_a_port_that_was_named_stays(started, monkeypatch, why):
    started(*(["--master_port", "29500"] if why == "named" else []))
    monkeypatch.setenv("RANK", "0")
    if why == "several hosts":
        monkeypatch.setenv("CROSS_SIZE", "2")
    if why == "no launcher":
        for module in (command_above, launcher):
            monkeypatch.setattr(module, "launchers", list)
    with port_of_job():
        assert os.environ["MASTER_PORT"] == "29500"


def test_a_port_that_is_taken_is_said_in_a_line(started, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        started("--master_port", port)
        monkeypatch.setenv("MASTER_PORT", port)
        with (
            pytest.raises(BadInput, match=f"port {port} .* is taken.*--master_port"),
            port_of_job(),
        ):
            TCPStore("127.0.0.1", int(port), None, True, wait_for_workers=False)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_folder_that_others_may_write_to_is_refused(started, monkeypatch, tmp_path):
    started()
    monkeypatch.setenv("RANK", "0")
    folder = Path(tmp_path, f"ndt3_dist-{os.getuid()}")
    folder.mkdir(mode=0o755)
    with pytest.raises(BadInput, match=r"not a folder of yours alone.*mode 755"), port_of_job():
        pass
