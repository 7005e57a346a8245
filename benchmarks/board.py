"""How `ndt3 board` does with many runs and a long one: first page, requests, stalls, memory.

It makes runs of a few thousand steps and one of a million, starts the board as users do, and asks
it as its page does: the list all along, then views of several runs, of the long one while it is
read and when it grows. A stall is the longest time that the list took meanwhile.

Example:
    python benchmarks/board.py
    python benchmarks/board.py --runs 100 --steps 500 --long 50000
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

from ndt3_dist import log
from ndt3_dist.config import PROJECT
from ndt3_dist.shards.summary import text_table

sys.path.insert(0, str(Path(__file__).parent))
from hardware import header, save

CONFIG = PROJECT / "configs" / "big_350m_2kh.yaml"
REPEATS = 20


def write_run(folder: Path, first: int, last: int, draw: random.Random) -> None:
    """Lines of metrics as a pretraining has them."""
    folder.mkdir(parents=True, exist_ok=True)
    if first == 1:
        lr = f"\n  lr: {10 ** draw.uniform(-5, -2):.3g}\n"
        text = CONFIG.read_text().replace("\n  lr: ", lr + "  was_lr: ", 1)
        (folder / "config.yaml").write_text(text)
    level = draw.uniform(0.5, 1.5)
    with (folder / "metrics.jsonl").open("a") as f:
        for step in range(first, last + 1):
            loss = level + 5 / step**0.5 + 0.1 * draw.random()
            values = {"loss": loss, "loss_spikes": 0.7 * loss, "loss_covariates": 0.3 * loss}
            values |= {"grad_norm": 1 + draw.random(), "lr": 1e-3 / (1 + step / 1000)}
            values |= {"epochs": step / 5000, "position": 64 * step, "samples": 512}
            values |= {"tokens": 524_288, "step_s": 1 + 0.1 * draw.random(), "wait_s": 0.01}
            values |= {"tflops": 300.1, "memory_gb": 61.2, "mfu": 0.4, "hfu": 0.41}
            if step % 1000 == 0:
                values |= {"val_loss": loss, "val_r2": 1 - loss / 10, "val_s": 10.0}
            f.write(json.dumps({"step": step, **values}) + "\n")


def ms(seconds: float) -> str:
    return f"{1e3 * seconds:.0f}"


class Asker:
    """Asks a board and times it."""

    def __init__(self, address: str):
        self.address = address

    def __call__(self, path: str) -> tuple[float, dict | str]:
        """Seconds and the answer."""
        began = time.perf_counter()
        with urllib.request.urlopen(f"{self.address}{path}", timeout=120) as answer:
            data = answer.read().decode()
        took = time.perf_counter() - began
        return took, json.loads(data) if data.startswith("{") else data

    def many(self, path: str) -> dict:
        """Median and longest of some requests, in ms."""
        times = sorted(self(path)[0] for _ in range(REPEATS))
        return {
            "median ms": f"{1e3 * times[len(times) // 2]:.0f}",
            "most ms": f"{1e3 * times[-1]:.0f}",
        }


class Stall(threading.Thread):
    """Asks for the list all the time; the longest that it took, in seconds."""

    def __init__(self, ask: Asker):
        super().__init__(daemon=True)
        self.ask, self.over, self.longest = ask, threading.Event(), 0.0
        self.start()

    def run(self) -> None:
        while not self.over.wait(0.1):
            self.longest = max(self.longest, self.ask("runs?filter=run&count=50")[0])

    def end(self) -> str:
        self.over.set()
        self.join()
        return f"{self.longest:.2f}"


def memory_mb(pid: int) -> str:
    """Most that a process has held."""
    text = Path(f"/proc/{pid}/status").read_text()
    return f"{int(text.split('VmHWM:')[1].split()[0]) / 1024:.0f}"


def measure(folder: Path, long_steps: int, draw: random.Random) -> list[str]:
    """Start a board of a folder and ask it."""
    began = time.perf_counter()
    program = [sys.executable, PROJECT / "launch" / "board.py", folder, "--port", "0"]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        address = process.stdout.readline().split()[2]
        ask = Asker(address)
        ask("")
        facts = {"address after s": f"{time.perf_counter() - began:.2f}"}
        while not (found := ask("runs?count=50")[1])["runs"]:  # type: ignore[index]
            time.sleep(0.02)
        facts["first runs after s"] = f"{time.perf_counter() - began:.2f}"
        stall = Stall(ask)
        while "looked at" in (found := ask("runs?count=50&sort=name")[1])["said"]:  # type: ignore[index]
            time.sleep(0.05)
        facts |= {"all runs after s": f"{time.perf_counter() - began:.2f}", "stall s": stall.end()}
        facts["MB"] = memory_mb(process.pid)
        names = [run["id"] for run in found["runs"] if run["name"] != "long"]  # type: ignore[index]
        rows = []
        for what, path in {
            "list, 50 of all": "runs?count=50",
            "list, a filter": "runs?filter=r0007&count=50",
            "list, by a setting": "runs?filter=optim.lr%3D0.00&sort=loss&count=50",
            "view of 1 run": f"view?runs={names[0]}",
            "view of 6 runs": f"view?runs={','.join(names[:6])}",
            "view of 24 runs": f"view?runs={','.join(names[:24])}",
            "view of 24 runs, log, by time": f"view?runs={','.join(names[:24])}&log=1&x=time",
        }.items():
            first, _ = ask(path)
            rows.append({"request": what, "first ms": ms(first), **ask.many(path)})
        lines = [text_table([facts]), ""]
        long_id = ask("runs?filter=long")[1]["runs"][0]["id"]  # type: ignore[index]
        stall, longest, parts, start = Stall(ask), 0.0, 0, time.perf_counter()
        while True:
            took, view = ask(f"view?runs={long_id}")
            longest, parts = max(longest, took), parts + 1
            if not view["reading"]:  # type: ignore[index]
                break
        read = {"steps": f"{long_steps:,}", "read after s": f"{time.perf_counter() - start:.1f}"}
        read |= {"views meanwhile": str(parts), "longest view s": f"{longest:.2f}"}
        read |= {"stall s": stall.end(), "MB": memory_mb(process.pid)}
        lines += [text_table([read]), ""]
        for what, more in {
            "": "",
            ", a part": "&left=500&right=900",
            ", by tokens": "&x=tokens",
        }.items():
            path = f"view?runs={long_id}{more}"
            first, _ = ask(path)
            name = f"view of the long run{what}"
            rows.append({"request": name, "first ms": ms(first), **ask.many(path)})
        write_run(folder / "long", long_steps + 1, long_steps + 10, draw)
        first, _ = ask(f"view?runs={long_id}")
        rows.append({"request": "view after it grew by 10 steps", "first ms": ms(first)})
        rows[-1] |= {"median ms": "", "most ms": ""}
        return [*lines, text_table(rows), "", f"most memory {memory_mb(process.pid)} MB"]
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=1000, help="of each of them")
    parser.add_argument("--long", type=int, default=1_000_000, help="steps of the long one")
    args = parser.parse_args()
    draw = random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "runs"
        for number in log.progress(range(args.runs), "making runs"):
            write_run(folder / f"r{number:05d}", 1, args.steps, draw)
        with log.waiting("making the long run"):
            write_run(folder / "long", 1, args.long, draw)
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        what = f"{args.runs:,} runs of {args.steps:,} steps and one of {args.long:,}"
        lines = measure(folder, args.long, draw)
    text = "\n".join([header("board.py"), f"{what}: {size / 1e6:.0f} MB", "", *lines, ""])
    log.say(text)
    log.say(str(save("board", text)))


if __name__ == "__main__":
    log.run_program(main)
