"""Which processes of a host belong to a run."""

import os
import signal
import subprocess
import sys

from launching import ROOT

WORDS = ["run.dir=/x", "run.name=own_ranks_test"]


def call(name: str, folder) -> int:
    command = [sys.executable, "-m", "ndt3_dist.cluster.launch.own_ranks", name, *WORDS]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return int(subprocess.run(command, cwd=folder, env=environment, capture_output=True).stdout)


def test_only_ranks_of_the_run_in_its_folder_are_signalled(tmp_path):
    (tmp_path / "other").mkdir()
    wait = ["-c", "import time; print(flush=True); time.sleep(60)"]
    kinds = {
        "rank": (WORDS, {"RANK": "0"}, tmp_path),
        "launcher": (WORDS, {}, tmp_path),
        "another run": (["run.dir=/x", "run.name=b"], {"RANK": "0"}, tmp_path),
        "another folder": (WORDS, {"RANK": "0"}, tmp_path / "other"),
    }
    without = {key: value for key, value in os.environ.items() if key != "RANK"}
    started = {
        kind: subprocess.Popen(
            [sys.executable, *wait, *words],
            cwd=folder,
            env={**without, **rank},
            stdout=subprocess.PIPE,
        )
        for kind, (words, rank, folder) in kinds.items()
    }
    try:
        for process in started.values():
            assert process.stdout
            process.stdout.readline()
        assert call("NONE", tmp_path) == 1
        assert all(process.poll() is None for process in started.values())
        assert call("KILL", tmp_path) == 1
        assert started["rank"].wait(timeout=20) == -signal.SIGKILL
        assert call("KILL", tmp_path) == 0
        others = [process for kind, process in started.items() if kind != "rank"]
        assert all(process.poll() is None for process in others)
    finally:
        for process in started.values():
            process.kill()
            process.wait()
