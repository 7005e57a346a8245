"""A process that holds torch in memory and forks one for each run: a start takes no seconds.

It reads a job a line from its standard input and answers with the exit code of the run's process. A
run that is killed takes nothing with it. Where its input or itself ends (Ray kills what a worker of
its own has started), the run is asked to stop, which saves it.
"""

import ctypes
import fcntl
import importlib
import json
import os
import select
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from ndt3_dist import log, storage
from ndt3_dist.config import import_call, load_config
from ndt3_dist.errors import BadInput

PRELOAD = {"finetune": "ndt3_dist.tune.finetune", "pretrain": "ndt3_dist.train.pretrain"}
"""What runs need, without DeepSpeed: it looks at devices, which no process may before it forks."""

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Serve one line after the other until standard input ends."""
    importlib.import_module(PRELOAD.get(sys.argv[1], sys.argv[1].partition(":")[0]))
    print("ready", flush=True)
    for line in sys.stdin:  # one job at a time: nothing else is in the buffer
        print(serve(json.loads(line)), flush=True)


def serve(job: dict[str, Any]) -> int:
    """Run a job in a process of its own; its exit code, negative where a signal ended it."""
    sys.stdout.flush()
    parent, pid = os.getpid(), os.fork()
    if pid == 0:
        code = 1
        try:
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            code = child(job) if os.getppid() == parent else 1
        finally:
            os._exit(code)
    process, events = os.pidfd_open(pid), select.poll()
    events.register(process, select.POLLIN)
    events.register(sys.stdin, select.POLLHUP)
    if process not in dict(events.poll()):
        os._exit(1)  # the kernel asks the run to stop
    status = os.waitpid(pid, 0)[1]
    os.close(process)
    return os.waitstatus_to_exitcode(status)


def child(job: dict[str, Any]) -> int:
    """In the new process: write what is said to the job's log, and what comes of it to `result`."""
    null = os.open(os.devnull, os.O_RDONLY)
    out = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for number, file in ((0, null), (1, out), (2, out)):
        os.dup2(file, number)
    try:
        log.run_program(lambda: run(job))
    except SystemExit as e:
        return e.code if isinstance(e.code, int) else 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def run(job: dict[str, Any]) -> int:
    """Bring a run to the step `until`, or its end; 75 where it was asked to stop before.

    Args:
        job: kind, config (a YAML file), init, scratch, until, metric, result (a file), log.
    """
    with open(f"{job['log']}.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of a search that was killed one may still be saving
        own = {"finetune": finetune_to, "pretrain": pretrain_to}.get(job["kind"])
        found = (own or import_call(job["kind"], "kind"))(job)
        if found is None:
            return 75
        storage.write_json(job["result"], {**found, "until": job["until"]})
    return 0


def finetune_to(job: dict[str, Any]) -> dict | None:
    from ndt3_dist.tune.finetune import finetune
    from ndt3_dist.tune.tune_config import TuneConfig

    config = load_config(TuneConfig, job["config"])
    folder = Path(config.run.dir) / config.run.name
    if (folder / "export").exists():
        if config.train.steps:  # it ended, and was killed before it could say so
            return {**score_of(folder, config.metric, job["metric"]), "over": True}
        storage.remove(folder)
    found = finetune(config, job["init"], job["scratch"], job["until"])
    if found["stopped"] and f"step {job['until']}" not in found["stopped"]:
        return None
    if not config.train.steps:
        return {"score": found["r2_val"], "step": 0, "steps": 0, "over": True}
    return {**score_of(folder, config.metric, job["metric"]), "over": not found["stopped"]}


def pretrain_to(job: dict[str, Any]) -> dict | None:
    from ndt3_dist.train.pretrain import pretrain
    from ndt3_dist.train.pretrain_config import PretrainConfig
    from ndt3_dist.train.start import run_folder

    until = [f"train.max_steps={job['until']}"] if job["until"] else []
    config = load_config(PretrainConfig, job["config"], until)
    found = pretrain(config, "auto", job["init"])
    if found["stopped"]:
        return None
    over = not job["until"] or found["steps"] < job["until"]
    return {**score_of(run_folder(config), job["metric"], job["metric"]), "over": over}


def score_of(run: str | Path, decides: str, metric: str) -> dict:
    """The metric at the best step so far by the metric that decides. Raises BadInput."""
    from ndt3_dist.train.run_metrics import read_metrics
    from ndt3_dist.train.state import Best

    best, scores, last = Best(decides), {}, 0
    for line in read_metrics(run):
        last = line["step"]
        if decides in line:
            scores[last] = line.get(metric)
            best.take(last, line[decides])
    if not best.step:
        raise BadInput(f"{run}: {decides} was never a number, so nothing can be chosen by it")
    return {"score": scores[best.step], "step": best.step, "steps": last}


if __name__ == "__main__":
    main()
