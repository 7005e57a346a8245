"""Samples per second: this project's stream beside the loaders that a lab would otherwise take.

The same simulated windows in each loader's own format, decoded to numpy, shuffled, page cache warm;
workers hand their batches over as one tensor of bytes each, the fastest that each loader can.
Every measurement is a process of its own, on one core (no workers) or on two (two workers). The
others are measured where they are installed (`pip install webdataset mosaicml-streaming litdata
megatron-energon`), in --python's environment.

Example:
    python benchmarks/loader.py
    python benchmarks/loader.py --python other-venv/bin/python --windows 2000 --seconds 3
"""

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from ndt3_dist import log, storage
from ndt3_dist.config import PROJECT
from ndt3_dist.data.order import generator
from ndt3_dist.shards.manifest import (
    Array,
    Covariate,
    Interval,
    Manifest,
    Session,
    Shard,
    Windows,
    index_path,
    sample_key,
    shard_path,
)
from ndt3_dist.shards.summary import text_table
from ndt3_dist.shards.write import npy_bytes, write_shard

sys.path.insert(0, str(Path(__file__).parent))
from hardware import header, save

STREAMS = {"spikes": "counts", "covariates": "in units of their scale"}
BINS, DIMS, SHARDS = 100, 6, 16
CHANNELS = (64, 96, 128, 192)
OTHERS = ("webdataset", "energon", "mosaicml-streaming", "litdata")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--windows", type=int, default=8000, help="in the corpus (default: 8000)")
    parser.add_argument("--seconds", type=float, default=8, help="of each measurement")
    parser.add_argument("--repeats", type=int, default=3, help="the median is shown (default: 3)")
    parser.add_argument("--python", default=sys.executable, help="with the other loaders installed")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), args.windows)
        log.say(f"{args.windows} windows, {storage_mb(Path(folder)):.0f} MB")
        names = ("ndt3_dist, read", "ndt3_dist, packed", *OTHERS)
        found: dict = {(name, workers): [] for name in names for workers in (0, 2)}
        for _ in range(args.repeats):  # in turn: what else the machine does then meets them alike
            for name, workers in found:
                python = sys.executable if name.startswith("ndt3_dist") else args.python
                measured = measure(python, name, folder, workers, args.seconds)
                found[name, workers].append(measured)
            rows = [summary(name, {w: found[name, w] for w in (0, 2)}) for name in names]
            log.say(text_table(rows))
        starts = text_table(from_disk_and_s3(folder))
        text = f"{header('loader.py')}\n{args.windows} windows\n{text_table(rows)}\n\n{starts}\n"
        log.say(f"\n{text}{save('loader', text)}")


def summary(name: str, found: dict[int, list[dict]]) -> dict:
    """Medians of a loader's measurements by number of workers."""
    row = {"loader": name, "version": next((f["version"] for f in found[0] if f), "")}
    for workers, measured in found.items():
        for key in ("samples/s", "tokens/s", "MB"):
            values = [f[key] for f in measured if key in f]
            label = f"{key}, {'1 core' if not workers else '2 workers'}"
            row[label] = f"{np.median(values):,.0f}" if values else "-"
    return row


def from_disk_and_s3(folder: str) -> list[dict]:
    """First steps and an epoch from the disk and a local rclone S3, its cache cold and warm."""
    rows, program = [], Path(__file__).with_name("loaders.py")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{s.getsockname()[1]}"
    rclone = [Path(sys.executable).with_name("rclone"), "serve", "s3", Path(folder).parent]
    serving = subprocess.Popen([*rclone, "--addr", address, "--auth-key", "key,secret"])
    with tempfile.TemporaryDirectory() as cache:
        environment = {
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_ENDPOINT_URL": f"http://{address}",
            "AWS_DEFAULT_REGION": "us-east-1",
            "XDG_CACHE_HOME": cache,
            "OMP_NUM_THREADS": "1",
        }
        time.sleep(2)
        remote = f"s3://{Path(folder).name}"
        try:
            for name, corpus in (("disk", folder), ("S3, cold", remote), ("S3, warm", remote)):
                command = [sys.executable, program, "ndt3_dist, first steps", corpus, "1", "0"]
                done = subprocess.run(
                    command, env={**os.environ, **environment}, stdout=subprocess.PIPE, check=True
                )
                rows.append({"stream from": name, **json.loads(done.stdout)})
        finally:
            serving.kill()
    return rows


def measure(python: str, name: str, folder: str, workers: int, seconds: float) -> dict:
    """What a process of its own found; {} with its last line where it failed."""
    program = Path(__file__).with_name("loaders.py")
    cores = "0" if not workers else "0,1"
    running = subprocess.Popen(
        ["taskset", "-c", cores, python, program, name, folder, str(workers), str(seconds)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = running.communicate(timeout=60 + 5 * seconds)
        return json.loads(out.splitlines()[-1])
    except (ValueError, IndexError):
        log.warn(f"{name}, {workers} workers: {(err.strip().splitlines() or ['no output'])[-1]}")
    except subprocess.TimeoutExpired:
        log.warn(f"{name}, {workers} workers: nothing after a minute")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
    return {}


def write(folder: Path, windows: int) -> None:
    """A corpus of sessions with 64 to 192 channels, dealt to shards in random order."""
    draw = generator("loader")
    sessions, samples = [], []
    for number in range(40):
        channels, kept = CHANNELS[number % len(CHANNELS)], windows // 40
        session = Session(
            id=f"bench-S-{number:02d}",
            dataset="bench",
            subject="S",
            session=f"{number:02d}",
            source="none",
            source_sha256="0" * 64,
            licence="",
            bins=kept * BINS,
            start_s=0,
            arrays=[Array(name="M1", channels=channels)],
            covariates=[Covariate(name=str(i), unit="cm/s", scale=1) for i in range(DIMS)],
            intervals=[Interval(split="train", start_bin=0, stop_bin=kept * BINS)],
            windows={"train": Windows(kept=kept)},
            spikes=0,
            spikes_outside=0,
        )
        sessions.append(session)
        for window in range(kept):
            members = {
                "spikes": npy_bytes(draw.poisson(0.3, (BINS, channels)).astype(np.uint8)),
                "covariates": npy_bytes(draw.normal(0, 0.3, (BINS, DIMS)).astype(np.float32)),
            }
            fields = {
                "session": number,
                "start_bin": window * BINS,
                "bins": BINS,
                "values": {"spikes": BINS * channels, "covariates": BINS * DIMS},
            }
            samples.append((sample_key(session.id, window * BINS), members, fields))
    samples = [samples[i] for i in draw.permutation(len(samples))]
    shards = []
    for number in range(SHARDS):
        name = f"{number:06d}"
        paths = shard_path(str(folder), name), index_path(str(folder), name)
        shards.append(
            Shard(
                name=name,
                split="train",
                **write_shard(*paths, samples[number::SHARDS], tuple(STREAMS)),
            )
        )
    manifest = Manifest.of(
        bin_size_ms=20.0,
        window_bins=BINS,
        streams=STREAMS,
        recipe={},
        recipe_sha256="",
        sessions=sessions,
        shards=shards,
    )
    storage.write_json(folder / "manifest.json", manifest.dump())


def storage_mb(folder: Path) -> float:
    return sum(f.stat().st_size for f in folder.rglob("*.tar")) / 1e6


if __name__ == "__main__":
    log.run_program(main)
