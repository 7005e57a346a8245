"""A preparation whose driver, workers and node are killed again and again, and its bytes."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time

import psutil
import pytest
from launching import ROOT

from ndt3_dist.shards.verify import verify_corpus
from ndt3_dist.storage import sha256_file

SETTINGS = ["dataset=t", "covariates.path=processing/behavior/Velocity/cursor_vel"]


def start(folder, out, log):
    program = [sys.executable, "data_prep/preprocess.py", "--recipe", "nwb.yaml", *SETTINGS]
    program += [f"source={folder / 'nwb'}", f"out={out}", "num_workers=2", "shard_mb=0.1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        program, cwd=ROOT, stdout=log, stderr=log, env=environment, start_new_session=True
    )


def victims(job, family: set) -> dict[str, list[psutil.Process]]:
    """Processes of a job by what they are; all of them are remembered in `family`."""
    try:
        found = psutil.Process(job.pid).children(recursive=True)
        named = [(p, " ".join(p.cmdline())) for p in found]
    except psutil.Error:
        return {}
    family |= set(found)
    return {
        "driver": [psutil.Process(job.pid)],
        "worker": [p for p, name in named if name.startswith("ray::")],
        "node": [p for p, name in named if "raylet/raylet" in name],
    }


def end(job, family: set) -> None:
    """Kill what is left of a job: a driver that was killed leaves its Ray for a while."""
    job.wait(timeout=600)
    for process in family:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(family, timeout=30)


def hashes(folder) -> dict[str, str]:
    files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    return {p.relative_to(folder).as_posix(): sha256_file(p) for p in files}


@pytest.mark.parametrize(
    ("kills", "sessions", "seconds"),
    [
        pytest.param(2, 6, 60.0, id="short"),
        pytest.param(
            20, 40, 300.0, id="long", marks=[pytest.mark.drill, pytest.mark.timeout(1800)]
        ),
    ],
)
def test_kills_change_no_byte(tmp_path, write_session, kills, sessions, seconds):
    for number in range(sessions):
        write_session(tmp_path / "nwb" / f"{number:03d}.nwb", seed=number, seconds=seconds)
    draw, done, out, told = random.Random(7), [], 0, tmp_path / "log.txt"
    with told.open("w") as log:
        assert start(tmp_path, tmp_path / "whole", log).wait(timeout=600) == 0, told.read_text()
        expected = hashes(tmp_path / "whole")
        while len(done) < kills:
            job = start(tmp_path, tmp_path / f"out{out}", log)
            family: set[psutil.Process] = set()
            kind = ("driver", "worker", "node")[len(done) % 3]
            deadline = time.time() + 60
            while job.poll() is None and not victims(job, family).get("worker"):
                assert time.time() < deadline
                time.sleep(0.05)
            time.sleep(draw.uniform(0, 3))
            found = victims(job, family).get(kind)
            if job.poll() is None and found:
                draw.choice(found).send_signal(signal.SIGKILL)
                done.append(kind)
            end(job, family)
            if job.returncode == 0:
                assert hashes(tmp_path / f"out{out}") == expected
                out += 1
        last = start(tmp_path, tmp_path / f"out{out}", log)
        assert last.wait(timeout=600) == 0, told.read_text()
    assert hashes(tmp_path / f"out{out}") == expected
    assert verify_corpus(str(tmp_path / f"out{out}")) == []
    print(f"{kills} kills ({', '.join(sorted(set(done)))}), {out + 1} corpora with the same bytes")
