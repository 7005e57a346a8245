"""The live service for an hour: bins on schedule, beside processes that burn cores.

Starts `launch/decode.py --serve` as a process and sends bins at times that are fixed beforehand, so
that no delay adds up. A line a minute, and a table at the end: what the service counted, what the
client saw from when a bin was due to when its covariates were there, and memory of the service at
the start (behind its first minute or tenth) and at the end.

Example:
    python benchmarks/soak.py --minutes 60 --load 1 --size 45M --out benchmarks/results
"""

import argparse
import contextlib
import json
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil

from ndt3_dist import log, storage
from ndt3_dist.config import PROJECT, find_file, load_config
from ndt3_dist.errors import BadInput
from ndt3_dist.live.client import Client
from ndt3_dist.live.frames import Flag
from ndt3_dist.live.histogram import Histogram
from ndt3_dist.shards.summary import text_table

sys.path.insert(0, str(Path(__file__).parent))
from hardware import header, new_result

CHANNELS, DIMS, CONTEXT = 96, 2, 100
CONFIGS = {"45M": "base_45m_200h", "350M": "big_350m_2kh"}
LAST_S = 5.0
"""For which covariates of the last bins are waited for."""


def make_export(folder: str, size: str, rate: float) -> None:
    """Random weights for one session whose bins are what the rate says."""
    import torch

    from ndt3_dist.checkpoint.export import describe_export, write_export
    from ndt3_dist.model.model_config import ModelConfig
    from ndt3_dist.model.ndt3 import NDT3
    from ndt3_dist.train.pretrain_config import PretrainConfig

    config = ModelConfig(layers=1, dim=32, heads=1, feedforward=16)
    if size != "tiny":
        file = find_file(f"{CONFIGS[size]}.yaml", "configs")
        config = load_config(PretrainConfig, file, []).ndt3
    # As recordings without them have it: constraint and return tokens would be zeros.
    config = config.model_copy(update={"context_tokens": False})
    torch.manual_seed(0)
    weights = {n: p.detach() for n, p in NDT3(config).named_parameters()}
    trained = {"run": "soak", "step": 0, "epochs": 0.0, "corpus": "0" * 64}
    covariates = [{"name": n, "unit": "cm/s", "scale": 1.0} for n in "xy"]
    session = {"covariates": covariates, "channels": [CHANNELS]}
    norms = {"bin_size_ms": 1000 / rate, "window_bins": CONTEXT, "sessions": {"soak": session}}
    write_export(folder, weights, describe_export(config, weights, "fp32", trained), norms)


@contextlib.contextmanager
def started(command: list[str]) -> Iterator[subprocess.Popen]:
    """A process that ends with the block."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


class Soak:
    """Attributes:
    seen: From when a bin was due to when its covariates were there.
    sent, answers, stood_in: Bins that were sent, covariates and fall-backs that came.
    behind_ms: Most that a bin was sent behind its time, by this process's own fault.
    first_mb: Memory of the service behind the first bins.
    """

    def __init__(self, client: Client, service: psutil.Process, rate: float):
        self.client, self.service, self.rate = client, service, rate
        draw = np.random.default_rng(0).poisson(0.3, (1000, client.about["channels"]))
        self.counts = draw.astype(np.uint8)
        self.seen, self.sent, self.answers, self.stood_in = Histogram(), 0, 0, 0
        self.behind_ms, self.first_mb = 0.0, 0.0

    def run(self, bins: int) -> None:
        """Send all bins on schedule, and read meanwhile."""
        a_minute = round(60 * self.rate)
        first = min(a_minute, max(bins // 10, 1))
        # What is sent is less than what the kernel keeps: only reading is waited for.
        self.began = time.monotonic() + 0.1
        while self.sent < bins:
            wait_s = self._due_s(self.sent) - time.monotonic()
            if wait_s > 0:
                if select.select([self.client.sock], [], [], wait_s)[0]:
                    self._receive()
                continue
            self.behind_ms = max(self.behind_ms, -1000 * wait_s)
            self.client.send(self.counts[self.sent % len(self.counts)])
            self.sent += 1
            if self.sent == first:
                self.first_mb = self.resident_mb
            if self.sent % a_minute == 0:
                log.say(self.line())
        last = time.monotonic() + LAST_S
        while self.answers < bins and select.select([self.client.sock], [], [], LAST_S)[0]:
            self._receive()
            if time.monotonic() > last:
                break

    def _due_s(self, number: int) -> float:
        return self.began + number / self.rate

    def _receive(self) -> None:
        found = self.client.receive()
        if found.flags & Flag.FALLBACK:
            self.stood_in += 1
            return
        self.answers += 1
        self.seen.add(1000 * (time.monotonic() - self._due_s(found.sequence)))

    @property
    def resident_mb(self) -> float:
        return self.service.memory_info().rss / 1e6

    def line(self) -> str:
        took = "  ".join(f"{name} {ms:.2f}" for name, ms in self.seen.summary().items())
        return (
            f"{self.sent / self.rate / 60:.1f} min: {self.sent} bins, {self.stood_in} fall-backs; "
            f"ms from due to received: {took}; service {self.resident_mb:.1f} MB"
        )


def soak(export: str, args: argparse.Namespace, folder: str) -> tuple[dict, list[dict]]:
    """Run it; gives the service's numbers and the rows of the table."""
    stats, address = f"{folder}/stats.json", f"unix:{folder}/s"
    command = [sys.executable, str(PROJECT / "launch" / "decode.py"), "--model", export]
    command += ["--serve", address, "--stats", stats, "--dtype", args.dtype]
    command += ["--cores", args.cores, "--threads", str(args.threads)]
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        service = stack.enter_context(started(command))
        assert service.stdout
        if "serving on" not in service.stdout.readline():
            raise BadInput(f"the service did not start: {' '.join(command)}")
        client = stack.enter_context(Client(address, timeout_s=60))
        first_s = time.monotonic() - began
        rate = 1000 / client.about["bin_ms"]
        if abs(args.rate / rate - 1) > 0.01:
            raise BadInput(f"--rate {args.rate:g}: the export has {rate:g} bins a second")
        for _ in range(args.load):
            stack.enter_context(started([sys.executable, "-c", "while True: pass"]))
        run = Soak(client, psutil.Process(service.pid), args.rate)
        run.run(round(60 * args.minutes * args.rate))
        last_mb = run.resident_mb
        about = client.about
    told = json.loads(Path(stats).read_text())
    return told, rows_of(run, told, about, first_s, last_mb)


def rows_of(run: Soak, told: dict, about: dict, first_s, last_mb) -> list[dict]:
    def ms(summary: dict) -> str:
        return "  ".join(f"{name} {summary[name]:.2f}" for name in ("p50", "p99", "p99.9", "max"))

    rows = {
        "bins sent on schedule, answered": f"{run.sent}, {run.answers}",
        "computed in": f"{about['kind']}, {about['context']} bins of context",
        "on": about["process"],
        "from start to the first bin": f"{first_s:.2f} s",
        "bins that took longer than a bin": told["missed"],
        "late, fall-backs": f"{told['late']}, {told['fallbacks']}",
        "lost, duplicates, refused": f"{told['lost']}, {told['duplicates']}, {told['refused']}",
        "service, read to answered, ms": ms(told["took_ms"]),
        "client, due to received, ms": ms(run.seen.summary()),
        "client, most behind its schedule, ms": f"{run.behind_ms:.2f}",
        "resident MB, start and end": f"{run.first_mb:.1f}, {last_mb:.1f}",
    }
    return [{"measured": what, "value": value} for what, value in rows.items()]


def histogram_of(told: dict) -> str:
    """Bins by what they took, in steps of a factor of two."""
    steps: dict[int, int] = {}
    for edge, number in told["took_ms"]["histogram"]:
        step = int(np.ceil(np.log2(edge)))
        steps[step] = steps.get(step, 0) + number
    rows = [{"up to ms": f"{2.0**s:g}", "bins": n} for s, n in sorted(steps.items())]
    return text_table(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--rate", type=float, default=50, help="bins a second")
    parser.add_argument("--load", type=int, default=1, help="processes that burn a core")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--model", metavar="EXPORT", help="instead of random weights")
    which.add_argument("--size", choices=[*CONFIGS, "tiny"], default="45M")
    parser.add_argument("--dtype", choices=["auto", "fp32", "bf16", "int8"], default="auto")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--cores", default="", help="of the service")
    parser.add_argument("--out", metavar="FOLDER", help="keep the table there, with its date")
    args = parser.parse_args()
    if args.minutes <= 0 or args.rate <= 0 or args.load < 0:
        raise BadInput("--minutes and --rate: expected more than 0; --load: 0 or more")
    with tempfile.TemporaryDirectory() as folder:
        export = args.model or f"{folder}/export"
        if not args.model:
            make_export(export, args.size, args.rate)
        told, rows = soak(export, args, folder)
    what = "given export" if args.model else f"{args.size}, random weights"
    text = (
        f"{header('python benchmarks/soak.py')}\n{args.minutes:g} min at {args.rate:g} bins a "
        f"second, {what}, {args.load} processes burn a core each\n\n{text_table(rows)}\n\n"
        f"{histogram_of(told)}\n"
    )
    log.say(text)
    if args.out:
        path = new_result("soak", Path(args.out))
        storage.write_bytes(path, text.encode())
        log.say(str(path))


if __name__ == "__main__":
    log.run_program(main)
