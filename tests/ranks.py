"""Ranks of a pretraining forked from one process that has imported all they need.

A start takes a second where the launcher takes eight: for tests of what ranks do together. What the
launcher, signals and kills do is tested with `launching.launch`, which takes the same arguments.
"""

import gc
import os
import signal
import socket
import sys
import time
from pathlib import Path

from forks import forks
from launching import SMALL

LEAVE_S = 20
"""Time that ranks have to leave when another has failed."""


def give_nan(where: str) -> None:
    """Let this rank have NaN in its first covariates at some positions: "position == 4"."""
    from ndt3_dist.data.stream import Stream

    whole = Stream._fill

    def fill(self, step, position):
        whole(self, step, position)
        if eval(where):
            step.batches[0][1]["covariates"][0] = float("nan")

    Stream._fill = fill


def run_rank(
    rank: int, ranks: int, port: int, arguments: list[str], log: str, nan_where: str
) -> None:
    """One rank: `launch/pretrain.py` in this process, as the launcher would have started it."""
    import torch

    from ndt3_dist import log as own_log
    from ndt3_dist.programs.pretrain import main

    gc.freeze()  # DeepSpeed collects again and again as it begins
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(out, stream)
    job = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_SIZE": ranks}
    job |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "DS_ACCELERATOR": "cpu"}
    os.environ.update({key: str(value) for key, value in job.items()})
    torch.set_num_threads(1)  # the order in which threads share a sum shows in bf16 gradients
    if nan_where and rank == 1:
        give_nan(nan_where)
    sys.argv = ["pretrain.py", *arguments]
    own_log.run_program(main)


def run_ranks(run_dir, corpus, ranks=2, extra=(), resume="never", nan_where="") -> tuple[int, str]:
    """Train to the end; the exit code of the first rank that failed, or 0, and what they said.

    Args:
        nan_where: Python over `position`, the rows before a step: where rank 1 has NaN.
    """
    with socket.socket() as free:  # runs of other tests may be under way
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = ["--config", "demo.yaml", f"data.corpus={corpus}", f"run.dir={run_dir}"]
    arguments += ["run.name=r", "--resume", resume, *SMALL, *extra]
    Path(run_dir).mkdir(parents=True, exist_ok=True)
    log = Path(run_dir) / f"log-{time.time_ns()}.txt"
    processes = [
        forks().Process(target=run_rank, args=(rank, ranks, port, arguments, str(log), nan_where))
        for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    deadline, code = time.monotonic() + 300, 0
    while any(p.is_alive() for p in processes) and time.monotonic() < deadline:
        failed = [p.exitcode for p in processes if p.exitcode]
        if failed and not code:
            code, deadline = failed[0], min(deadline, time.monotonic() + LEAVE_S)
            time.sleep(0.5)
            for process in processes:  # as the launcher does
                process.terminate()
        time.sleep(0.02)
    for process in processes:
        if process.is_alive():
            os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
    return code or next((p.exitcode for p in processes if p.exitcode), 0), log.read_text()
