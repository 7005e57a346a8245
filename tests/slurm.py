"""A SLURM cluster of this machine alone: munged, slurmctld and slurmd in a folder.

Needs root and Debian's packages. Two partitions: jobs of `high` preempt and requeue those of `low`.
All daemons are gone afterwards.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import ExitStack, suppress
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
GRACE_S = 60
"""Time that a preempted job has to end by itself."""

CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=30
MpiDefault=none
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 GraceTime={grace} State=UP
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF State=UP
"""


def missing() -> str:
    """What this machine lacks; empty where it can play a cluster."""
    if os.geteuid():
        return "it needs root"
    lacking = [tool for tool in (*DAEMONS, "sbatch") if not shutil.which(tool, path=PATH)]
    if lacking:
        return f"no {', '.join(lacking)} (apt-get install slurm-wlm munge)"
    return ""


def free_ports(number: int) -> list[int]:
    with ExitStack() as stack:
        servers = [stack.enter_context(socket.create_server(("", 0))) for _ in range(number)]
        return [server.getsockname()[1] for server in servers]


class Slurm:
    """A context.

    Attributes:
        environment: With which its commands find it.
    """

    def __init__(self, folder: Path):
        self.folder, self.processes = folder, []
        self.environment = {**os.environ, "PATH": PATH, "SLURM_CONF": str(folder / "slurm.conf")}

    def __enter__(self):
        try:
            self._begin()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        with suppress(subprocess.SubprocessError, AssertionError):
            for job in self.jobs() if len(self.processes) == len(DAEMONS) else ():
                self.call("scancel", "--signal=KILL", "--full", job)
            deadline = time.time() + 10
            while self.jobs() and time.time() < deadline:
                time.sleep(0.2)
        for process in reversed(self.processes):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _begin(self):
        folder = self.folder
        folder.chmod(0o755)
        for name in ("state", "spool"):
            (folder / name).mkdir()
        key = folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        text = CONF.format(
            host=socket.gethostname(), ports=free_ports(2), folder=folder, grace=GRACE_S
        )
        (folder / "slurm.conf").write_text(text)
        munge = {"key-file": key, "socket": folder / "munge.socket", "seed-file": folder / "seed"}
        munge |= {"pid-file": folder / "munge.pid", "log-file": folder / "munge.log"}
        self._start("munged", "-F", "--force", *(f"--{k}={v}" for k, v in munge.items()))
        self._wait(lambda: (folder / "munge.socket").exists())
        self._start("slurmctld", "-D", "-c")
        self._start("slurmd", "-D", "-c")
        self._wait(lambda: self.call("sinfo", "-h", "-o", "%T", "-p", "low").strip() == "idle")

    def _start(self, *words: str):
        with (self.folder / f"{words[0]}.out").open("w") as f:
            process = subprocess.Popen(words, env=self.environment, stdout=f, stderr=f, cwd="/")
        self.processes.append(process)

    def _wait(self, what, seconds: float = 40):
        deadline = time.time() + seconds
        while not what():
            logs = "".join(file.read_text() for file in self.folder.glob("*.out"))
            assert all(p.poll() is None for p in self.processes), logs
            assert time.time() < deadline, logs
            time.sleep(0.2)

    def call(self, *words: str) -> str:
        """What a command of SLURM prints."""
        done = subprocess.run(
            words, env=self.environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def jobs(self) -> list[str]:
        """Numbers of those that are not over."""
        return self.call("squeue", "-h", "-o", "%i").split()

    def state(self, job: str) -> str:
        """PENDING, RUNNING, COMPLETED ...; of a job that ended not long ago, too."""
        shown = self.call("scontrol", "show", "job", job, "--oneliner")
        return dict(w.split("=", 1) for w in shown.split() if "=" in w).get("JobState", "")
