"""Processes forked from one that has imported what programs need: a start takes no second.

For tests of what a program says and does. That the files users type start in a fresh interpreter
is shown by tests/integration/test_wheel.py and by those that call `launching.launch`.
"""

import functools
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

from ndt3_dist.config import PROJECT

PRELOAD = [
    "torch._dynamo.convert_frame",  # what DeepSpeed and AdamW import when they begin
    "torch._inductor.compile_fx",
    "deepspeed.runtime.zero.muon.muon_optimizer",
    "ndt3_dist.train.pretrain",
    "ndt3_dist.tune.finetune",
    "ndt3_dist.prep.job",
]


@functools.cache
def forks():
    """The context whose server has the imports; the first process that is asked for starts it."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return context


def _run(arguments: list[str], folder: str, cwd: str, environment: dict[str, str]) -> None:
    """In the new process: a program of the project as if it had been typed."""
    for number, name in enumerate(("in", "out", "err")):
        file = os.open(f"{folder}/{name}", os.O_RDWR | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    sys.stdin = os.fdopen(0, closefd=False)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = arguments
    runpy.run_path(arguments[0], run_name="__main__")


def run_program(program, *arguments, cwd=None, given="", timeout=120, **environment: str):
    """Run data_prep/preprocess.py, or another program, to its end.

    Args:
        program: Its path within the project.
        arguments: As typed behind it.
        cwd: Where; this process's folder where None.
        given: Its standard input.
        environment: Variables besides those of this process.
    """
    words = [str(PROJECT / program), *map(str, arguments)]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "in").write_text(given)
        settings = words, folder, str(cwd or os.getcwd()), {**os.environ, **environment}
        process = forks().Process(target=_run, args=settings)
        process.start()
        process.join(timeout)
        if process.is_alive():
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(words, timeout)
        out, err = (Path(folder, name).read_text() for name in ("out", "err"))
    return subprocess.CompletedProcess(words, process.exitcode or 0, out, err)
