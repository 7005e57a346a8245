"""What a GPU makes of this project: one call, in parts, one dated text file.

Each part is a process with a time box of its own: one that fails, hangs or is out of memory stops
no other. What parts print appears at once, and stands in benchmarks/results/gpu_DATE.txt (or _2,
_3: never over one that is there) with card, versions and commit. Parts share the minutes in their
order; those that are not begun are listed at the end. On a machine without a GPU, or by --short,
models are tiny, a part takes seconds, and nothing is kept unless --results says where. Exit status
1 where a part failed.

Example:
    python benchmarks/gpu.py --minutes 8.5
    python benchmarks/gpu.py --only shipped,4
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TextIO

import torch

from ndt3_dist import log
from ndt3_dist.config import PROJECT
from ndt3_dist.errors import BadInput
from ndt3_dist.shards.summary import text_table

sys.path.insert(0, str(Path(__file__).parent))
from hardware import header, new_result

HERE = Path(__file__).resolve().parent

LEAST = 10
"""Seconds that must be left for a part to begin."""
SHORT = 200
"""Box of a part in the short form, which takes seconds, but perhaps on a busy host."""


@dataclass(frozen=True)
class Part:
    """A program of `gpu_parts`, and the most that it may take."""

    name: str
    seconds: float
    title: str


PARTS = (
    Part("kernels", 90, "kernels and attention bodies against the plain operations (tests/gpu)"),
    Part("goldens", 40, "outputs, losses and gradients of NDT3's own code, in bf16"),
    Part("shipped", 150, "launch/pretrain.py by the deepspeed launcher, with the stream"),
    Part("steps", 100, "training steps, tokens on the device"),
    Part("peers", 60, "the same windows in a plain encoder and in NDT3's own layout"),
    Part("resume", 90, "a run that is killed at half and resumed"),
    Part("streaming", 45, "seconds from a bin's counts to its prediction"),
    Part("profile", 45, "where a 350M step goes"),
    Part("attention", 40, "attention alone, forward and backward, by body and window"),
)


class Report:
    """What is said, on the screen and in a file that already stands while it is written."""

    def __init__(self, path: Path | None):
        self.path = path
        self.file: TextIO | None = path.open("w") if path else None

    def add(self, text: str) -> None:
        print(text, end="", flush=True)
        if self.file:
            self.file.write(text)
            self.file.flush()


def run_part(part: Part, seconds: float, work: Path, short: bool, report: Report) -> str:
    """Run one part to its end or the end of its box; what became of it."""
    places = [str(HERE), str(PROJECT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))}
    if short:  # on a busy host threads would wait for each other
        environment["OMP_NUM_THREADS"] = "1"
    command = [sys.executable, "-u", "-m", f"gpu_parts.{part.name}", "--work", str(work)]
    command += ["--seconds", f"{seconds:.0f}", *(["--short"] if short else [])]
    # A file, not a pipe, which a process that outlives the part would keep open.
    file = work / f"{part.name}.out"
    with file.open("w") as into, file.open(errors="replace") as output:
        process = subprocess.Popen(
            command,
            cwd=PROJECT,
            env=environment,
            stdout=into,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        ends = time.monotonic() + seconds
        try:
            while process.poll() is None and time.monotonic() < ends:
                report.add(output.read())
                time.sleep(0.1)
            code = process.poll()
        finally:
            end(process)
        report.add(output.read())
    if code is None:
        return f"ended: {seconds:.0f} s were over"
    if code < 0:
        return f"failed: {signal.Signals(-code).name}"
    return f"failed: exit {code}" if code else "ok"


def end(process: subprocess.Popen) -> None:
    """End what is left of a part, and all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):  # one that hangs in the driver
        process.wait(10)


def versions() -> str:
    """Of what the numbers depend on besides torch."""
    found = [f"CUDA {torch.version.cuda}"]
    for name in ("triton", "deepspeed", "flash-attn"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"no {name}")
    return ", ".join(found)


def choose(only: str) -> list[tuple[int, Part]]:
    """Numbers and parts that a list of numbers or names means; all where it is empty."""
    numbered = list(enumerate(PARTS, start=1))
    wanted = {word.strip() for word in only.split(",") if word.strip()}
    unknown = wanted - {word for n, part in numbered for word in (str(n), part.name)}
    if unknown:
        known = ", ".join(f"{n} {part.name}" for n, part in numbered)
        raise BadInput(f"--only {', '.join(sorted(unknown))}: expected numbers or names of {known}")
    return [(n, p) for n, p in numbered if not wanted or wanted & {str(n), p.name}]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=8.5, help="for all (default: 8.5)")
    parser.add_argument("--only", default="", metavar="3,peers", help="parts, by number or name")
    parser.add_argument("--short", action="store_true", help="the short form, on a GPU too")
    parser.add_argument("--results", metavar="FOLDER", help="default: benchmarks/results")
    args = parser.parse_args()
    ends, short = time.monotonic() + 60 * args.minutes, args.short or not torch.cuda.is_available()
    chosen = choose(args.only)
    kept = Path(args.results) if args.results else HERE / "results"
    report = Report(new_result("gpu", kept) if args.results or not short else None)
    report.add(f"{header('python benchmarks/gpu.py')}\n{versions()}\n")
    if short:
        report.add("the short form: tiny models, whose figures mean nothing\n")
    table = []
    with tempfile.TemporaryDirectory(prefix="ndt3_gpu_", ignore_cleanup_errors=True) as work:
        for number, part in chosen:
            began = time.monotonic()
            box = max(part.seconds, SHORT) if short else part.seconds
            seconds = min(box, ends - began)
            if seconds < LEAST:
                outcome = "out of time"
            else:
                report.add(f"\n== {number} {part.name}: {part.title}\n")
                outcome = run_part(part, seconds, Path(work), short, report)
            took = f"{time.monotonic() - began:.0f}"
            table.append({"part": f"{number} {part.name}", "s": took, "outcome": outcome})
    report.add(f"\n== parts\n{text_table(table)}\n")
    if report.path:
        print(report.path)
    return int(any(row["outcome"].startswith(("failed", "ended")) for row in table))


if __name__ == "__main__":
    log.run_program(main)
