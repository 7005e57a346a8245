"""What becomes of a run that `deepspeed` starts otherwise than was meant, or `torchrun` starts."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import yaml
from launching import ROOT, SMALL, launch, log_of, losses, ranks_of, wait_for_steps
from ranks import run_ranks

from ndt3_dist.checkpoint.steps import steps_of

DEFAULT_PORT = 29500
"""Of every run whose launcher was told none."""
SHORT = ["train.max_steps=2"]


def errors_of(log: str) -> list[str]:
    return [line for line in log.splitlines() if line.startswith("error:")]


def test_two_runs_at_once_on_a_host_need_no_port(corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    folders = [tmp_path / "a", tmp_path / "b"]
    with socket.socket() as taken:
        with contextlib.suppress(OSError):  # somebody else has it, which is as good
            taken.bind(("", DEFAULT_PORT))
        processes = [launch(folder, corpus, extra=SHORT, wait=False) for folder in folders]
        codes = [process.wait(timeout=300) for process in processes]
    assert codes == [0, 0], [log_of(folder) for folder in folders]
    assert losses(folders[0]) == losses(folders[1])
    assert len(losses(folders[0])) == 2
    assert "ZeRO-1, 1 host, 2 ranks on cpu" in log_of(folders[0])
    (notes,) = tmp_path.glob("ndt3_dist-*")
    assert notes.stat().st_mode & 0o777 == 0o700
    assert not list(notes.iterdir())


def test_a_hostfile_that_is_not_there_is_refused(corpus, tmp_path):
    code, log = launch(tmp_path, corpus, extra=SHORT, options=["--hostfile", "absent/hosts"])
    assert code != 0
    (error,) = errors_of(log)
    assert "--hostfile absent/hosts: no such file" in error
    assert not (tmp_path / "r").exists()


def test_other_ranks_than_were_asked_for_are_refused(corpus, tmp_path):
    code, log = run_ranks(tmp_path, corpus, 1, [*SHORT, "train.ranks=2"])
    assert code != 0
    (error,) = errors_of(log)
    assert "train.ranks is 2, 1 was launched" in error
    assert not (tmp_path / "r").exists()
    code, log = run_ranks(tmp_path, corpus, 2, [*SHORT, "train.ranks=2"])
    assert code == 0, log
    more = ["train.max_steps=4", "train.ranks=1"]  # a resume may have another number
    code, log = run_ranks(tmp_path, corpus, 1, more, "auto")
    assert code == 0, log
    assert "1 host, 1 ranks on cpu" in log


def test_a_run_of_one_rank_leaves_no_memory_behind(corpus, tmp_path):
    before = set(Path("/dev/shm").glob("deepspeed*"))
    code, log = run_ranks(tmp_path, corpus, 1, SHORT)
    assert code == 0, log
    deadline = time.monotonic() + 20  # a run beside this one has its own for a moment
    while not set(Path("/dev/shm").glob("deepspeed*")) <= before:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_torchrun_on_two_nodes_stops_by_its_code_and_goes_on_with_one(corpus, tmp_path):
    long = ["train.max_steps=40", "checkpoint.every_steps=1000"]
    code, log = run_ranks(tmp_path / "whole", corpus, 2, long)
    assert code == 0, log
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    node = ["--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "127.0.0.1"]
    node += ["--master-port", port]
    first, second = (
        launch(
            tmp_path,
            corpus,
            extra=[*long, "--stop-code", "75", "--note", "two nodes"],
            wait=False,
            options=[*node, "--node-rank", str(number)],
            launcher="torchrun",
        )
        for number in (0, 1)
    )
    wait_for_steps(first, tmp_path)
    (rank,) = ranks_of(second)
    os.kill(rank.pid, signal.SIGUSR1)
    codes = [process.wait(timeout=60) for process in (first, second)]
    log = "".join(file.read_text() for file in tmp_path.glob("log*.txt"))
    assert 0 not in codes, log
    assert "exitcode  : 75" in log
    assert "2 hosts, 2 ranks on cpu" in log
    assert "(rank 1: SIGUSR1)" in log
    assert not (tmp_path / "r" / "lease.json").exists()
    options = ["--standalone", "--nproc-per-node", "2"]
    code, log = launch(
        tmp_path, corpus, extra=long, resume="auto", options=options, launcher="torchrun"
    )
    assert code == 0, log
    assert "1 host, 2 ranks on cpu" in log
    assert losses(tmp_path) == losses(tmp_path / "whole")
    starts = (tmp_path / "r" / "starts.jsonl").read_text().splitlines()
    assert ['"note": "two nodes"' in line for line in starts] == [True, False]


def test_torchrun_that_dies_leaves_no_rank_behind(corpus, tmp_path):
    options = ["--standalone", "--nproc-per-node", "2"]
    long = ["train.max_steps=100000", "checkpoint.every_steps=100000"]
    process = launch(tmp_path, corpus, extra=long, wait=False, options=options, launcher="torchrun")
    wait_for_steps(process, tmp_path, 3)
    ranks = ranks_of(process)
    process.kill()
    process.wait()
    left = psutil.wait_procs(ranks, timeout=30)[1]
    for rank in left:
        rank.kill()
    assert not left
    assert ": the launcher is gone)" in log_of(tmp_path)


def test_pods_of_kubernetes_train_together_and_an_eviction_saves(corpus, tmp_path):
    """The command of launch/kubernetes.yaml in two pods of a rank, as an Indexed Job has it."""
    (job,) = [
        part
        for part in yaml.safe_load_all((ROOT / "launch" / "kubernetes.yaml").read_text())
        if part["kind"] == "Job"
    ]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    values = {each["name"]: each["value"] for each in container["env"]}
    values |= {"NODES": "2", "GPUS": "1", "FIRST": "127.0.0.1"}
    small = [f"data.corpus={corpus}", f"run.dir={tmp_path}", "run.name=r", *SMALL]
    small += ["train.max_steps=100000", "checkpoint.every_steps=100000"]
    pods = []
    for index in (0, 1):
        values["JOB_COMPLETION_INDEX"] = str(index)
        words = [
            re.sub(r"\$\((\w+)\)", lambda found: values[found[1]], word).replace(
                "--master-port=29500", f"--master-port={port}"
            )
            for word in container["args"]
        ]
        words[words.index("--config=big_350m_2kh.yaml")] = "--config=demo.yaml"
        words[0] = str(Path(sys.executable).with_name(words[0]))
        environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", **values}
        with (tmp_path / f"log{index}.txt").open("w") as log:
            pods.append(
                subprocess.Popen(
                    [*words, *small], cwd=ROOT, env=environment, stdout=log, stderr=log
                )
            )
    wait_for_steps(pods[0], tmp_path, 3)
    pods[1].send_signal(signal.SIGTERM)  # as the kubelet does
    codes = [pod.wait(timeout=60) for pod in pods]
    said = "".join(file.read_text() for file in tmp_path.glob("log*.txt"))
    assert 0 not in codes, said  # they are to be started again
    assert "2 hosts, 2 ranks on cpu" in said
    assert "(rank 1: SIGTERM)" in said
    assert len(steps_of(tmp_path / "r")) == 1
