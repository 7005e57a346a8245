"""What preparing recordings costs: one of them by stage, and a thousand on one and two workers.

Beside it stand bare h5py reads of the same datasets and a loop of pynwb and numpy as one would
write it. Simulated recordings: Poisson spikes, a smooth velocity at 100 Hz.

Example:
    python benchmarks/prepare.py
    python benchmarks/prepare.py --recording m1_stevenson_2011.nwb --bin-ms 50 --sessions 0
"""

import argparse
import cProfile
import pstats
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ndt3_dist import log
from ndt3_dist.config import PROJECT
from ndt3_dist.prep import stages as spool
from ndt3_dist.prep.recipe import Recipe, load_recipe
from ndt3_dist.prep.recordings import find_recordings
from ndt3_dist.prep.stages import session_task
from ndt3_dist.prep.windows import cut
from ndt3_dist.readers.read import read_recording
from ndt3_dist.shards.index import index_type
from ndt3_dist.shards.summary import text_table
from ndt3_dist.simulate.write_nwb import draw_trials, write_nwb

sys.path.insert(0, str(Path(__file__).parent))
from hardware import header, save

VELOCITY = "processing/behavior/Velocity/cursor_vel"
DAY = datetime(2026, 1, 1, tzinfo=UTC)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recording", type=Path, help="an NWB file with a velocity, besides")
    parser.add_argument("--bin-ms", type=float, default=20, help="of that file")
    parser.add_argument("--hours", type=float, default=1.0, help="of the simulated recording")
    parser.add_argument("--sessions", type=int, default=1000, help="of the job; 0 = no job")
    parser.add_argument("--windows", type=int, default=1_000_000, help="to deal to shards")
    parser.add_argument("--session-s", type=float, default=60.0, help="length of each")
    args = parser.parse_args()
    text = [header("prepare.py")]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        simulated = simulate(folder / "long.nwb", 192, args.hours * 3600)
        for path, bin_ms in ((args.recording, args.bin_ms), (simulated, 20)):
            if path:
                text.append(one_recording(path, bin_ms, folder))
        text.append(growth(args.windows))
        if args.sessions:
            text.append(many(folder, args.sessions, args.session_s))
    log.say("\n\n".join(text))
    log.say(str(save("prepare", "\n\n".join(text) + "\n")))


def simulate(path: Path, channels: int, seconds: float, seed: int = 0) -> Path:
    """A recording of Poisson spikes at 10 Hz a channel."""
    rng = np.random.default_rng(seed)
    per_unit = [
        np.sort(rng.uniform(0, seconds, rng.poisson(10 * seconds))) for _ in range(channels)
    ]
    ends = np.cumsum([len(t) for t in per_unit])
    t = np.arange(int(seconds * 100)) / 100
    velocity = np.column_stack([10 * np.sin(t), 5 * np.cos(2 * t)])
    halves = (("M1", channels // 2), ("PMd", channels - channels // 2))
    times = np.concatenate(per_unit)
    electrode = np.arange(channels)
    trials = draw_trials(velocity, rng)
    arrays = electrode, times, ends, velocity, velocity, trials
    write_nwb(path, path.stem, DAY, "A", halves, seconds, *arrays)
    return path


def recipe_of(source: Path, out: Path, bin_ms: float, *more: str) -> Recipe:
    keys = [f"source={source}", f"out={out}", "dataset=b", f"bin_size_ms={bin_ms}"]
    recipe = PROJECT / "data_prep" / "recipes" / "nwb.yaml"
    return load_recipe(recipe, [*keys, f"covariates.path={VELOCITY}", *more])


def one_recording(path: Path, bin_ms: float, folder: Path) -> str:
    """A table of stages of one recording, and where the time goes."""
    recipe = recipe_of(path, folder / "out", bin_ms)
    recording = read_recording(path, recipe)
    hours = (recording.stop_s - recording.start_s) / 3600
    bare, whole = timed(bare_read, path), timed(read_recording, path, recipe)
    cutting = timed(cut, recording, recipe, path.name, "0" * 64)
    (source,) = find_recordings(recipe)

    def prepared():
        shutil.rmtree(folder / "out", ignore_errors=True)
        session_task(recipe, b"", source)

    rows = [("bare h5py reads of the same datasets", bare), ("reading", whole)]
    rows += [("binning, scaling, cutting", cutting), ("these two", whole + cutting)]
    rows.append(("the whole session task: hashed, written", timed(prepared)))
    rows.append(("these two by pynwb and numpy", timed(naive, path, bin_ms / 1000)))
    rows.append(("the same by window and unit", timed(by_window, path, bin_ms / 1000, times=1)))
    table = [
        {"what": what, "s": f"{s:.2f}", "x bare": f"{s / bare:.1f}", "hours/s": f"{hours / s:.2f}"}
        for what, s in rows
    ]
    size = sum(len(t) for t in recording.spike_times) * 8 + recording.covariates.nbytes
    memory = peak_memory(recipe)
    profile = cProfile.Profile()
    profile.runcall(prepared)
    slow = sorted(pstats.Stats(profile).stats.items(), key=lambda item: -item[1][2])[:6]  # type: ignore
    lines = [f"  {s[2]:6.2f} s  {name[2]} ({Path(name[0]).name})" for name, s in slow]
    return (
        f"{path.name}: {hours:.2f} h, {len(recording.spike_times)} channels, "
        f"{path.stat().st_size / 1e6:.0f} MB on disk, {size / 1e6:.0f} MB of arrays\n\n"
        f"{text_table(table)}\n\n"
        f"memory of the task above an idle process: {memory / 1e6:.0f} MB, "
        f"{memory / size:.1f} x its arrays\nown time of the slowest:\n" + "\n".join(lines)
    )


def timed(call, *args, times: int = 5) -> float:
    best = float("inf")
    for _ in range(times):
        began = time.perf_counter()
        call(*args)
        best = min(best, time.perf_counter() - began)
    return best


def bare_read(path: Path) -> None:
    import h5py

    with h5py.File(path) as f:
        names = [f"units/{n}{i}" for n in ("spike_times", "obs_intervals") for i in ("", "_index")]
        for name in (*names, f"{VELOCITY}/data", f"{VELOCITY}/timestamps"):
            if name in f:
                f[name][()]  # pyright: ignore


def naive(path: Path, bin_s: float) -> list[dict]:
    """What a student would write: a histogram for each unit, and windows of two seconds."""
    from pynwb import NWBHDF5IO

    with NWBHDF5IO(path=str(path), mode="r") as io:  # pyright: ignore
        nwb: Any = io.read()
        series = nwb.processing["behavior"]["Velocity"]["cursor_vel"]
        rate = series.rate or 1 / np.median(np.diff(series.timestamps[:]))
        start = series.starting_time or 0.0
        if series.timestamps is not None:
            start = series.timestamps[0]
        velocity = series.data[:]
        bins = int(len(velocity) / rate / bin_s)
        edges = start + np.arange(bins + 1) * bin_s
        counts = np.stack(
            [np.histogram(nwb.units["spike_times"][u], edges)[0] for u in range(len(nwb.units))], 1
        )
        times = start + np.arange(len(velocity)) / rate
        centres = (edges[:-1] + edges[1:]) / 2
        behaviour = np.stack([np.interp(centres, times, v) for v in velocity.T], 1)
        behaviour /= np.quantile(np.abs(behaviour), 0.999, axis=0)
        per = round(2 / bin_s)
        return [
            {"spikes": counts[s : s + per].astype(np.uint8), "velocity": behaviour[s : s + per]}
            for s in range(0, bins - per + 1, per)
        ]


def by_window(path: Path, bin_s: float) -> list[np.ndarray]:
    """Spikes as a beginner would cut them: a histogram for each window and unit."""
    from pynwb import NWBHDF5IO

    with NWBHDF5IO(path=str(path), mode="r") as io:  # pyright: ignore
        nwb: Any = io.read()
        times = [nwb.units["spike_times"][u] for u in range(len(nwb.units))]
        last = max(float(t[-1]) for t in times if len(t))
        found = []
        for start in np.arange(0, last - 2, 2.0):
            edges = start + np.arange(round(2 / bin_s) + 1) * bin_s
            found.append(np.stack([np.histogram(t, edges)[0] for t in times], 1))
        return found


def growth(windows: int) -> str:
    """What the driver needs to deal so many windows to shards, and what a manifest takes."""
    import tracemalloc

    per = 1800  # an hour of 2 s
    index = np.zeros(per, index_type(("spikes", "covariates")))
    index["start_bin"], index["spikes"]["size"] = np.arange(per) * 100, 19_328
    index["covariates"]["size"] = 928
    recipe, spools = Recipe(dataset="b"), []
    for number in range(windows // per):
        session = {"id": f"b-A-{number:06d}", "streams": []}
        spools.append({"session": session, "base": "", "index_sha256": "", "sha256": "0" * 64})
        spools[-1] |= {"splits": [0] * per, "size": [6, 2]}
    held = spool.load_spool_index
    spool.load_spool_index = lambda *_: index
    began = time.perf_counter()
    spool.plan_shards(spools, recipe)
    took = time.perf_counter() - began
    tracemalloc.start()
    plans = spool.plan_shards(spools, recipe)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    spool.load_spool_index = held
    return (
        f"dealing {windows} windows to {len(plans)} shards: {took:.1f} s, "
        f"{peak / windows:.0f} bytes a window at most"
    )


def peak_memory(recipe: Recipe) -> int:
    """Bytes that a session task takes at most above a process that has imported what it needs."""
    program = (
        "import sys\n"
        "import pynwb, h5py\n"
        "from ndt3_dist.prep.recipe import Recipe\n"
        "from ndt3_dist.prep.recordings import find_recordings\n"
        "from ndt3_dist.prep.stages import session_task\n"
        "recipe = Recipe.model_validate_json(sys.argv[1])\n"
        "def status(key):\n"
        "    lines = open('/proc/self/status').read().splitlines()\n"
        "    return next(int(line.split()[1]) for line in lines if line.startswith(key))\n"
        "open('/proc/self/clear_refs', 'w').write('5')\n"  # the peak begins anew
        "before = status('VmRSS')\n"
        "session_task(recipe, b'', *find_recordings(recipe))\n"
        "print((status('VmHWM') - before) * 1024)\n"
    )
    shutil.rmtree(recipe.out, ignore_errors=True)
    done = subprocess.run(
        [sys.executable, "-c", program, recipe.model_dump_json()], capture_output=True, text=True
    )
    return int(done.stdout.split()[-1])


def many(folder: Path, sessions: int, seconds: float) -> str:
    """A job of many sessions with one worker and with two."""
    import h5py

    first = simulate(folder / "seed.nwb", 96, seconds)
    (folder / "nwb").mkdir()
    for number in range(sessions):
        path = folder / "nwb" / f"{number:05d}.nwb"
        shutil.copy(first, path)
        with h5py.File(path, "r+") as f:
            del f["general/session_id"]
            f["general/session_id"] = f"{number:05d}"
    rows, took, stages = [], {}, []
    for workers in (1, 2):
        out = folder / f"corpus{workers}"
        program = [sys.executable, PROJECT / "data_prep" / "preprocess.py", "--recipe", "nwb.yaml"]
        program += [f"source={folder / 'nwb'}", f"out={out}", "dataset=b", f"num_workers={workers}"]
        program += [f"covariates.path={VELOCITY}"]
        began = time.perf_counter()
        done = subprocess.run([*map(str, program)], capture_output=True, text=True, cwd=PROJECT)
        if done.returncode:
            raise SystemExit(done.stderr[-2000:])
        took[workers] = time.perf_counter() - began
        lines = done.stdout.splitlines()
        told = next(line for line in lines if " sessions in " in line)
        rows.append({"workers": workers, "s": f"{took[workers]:.1f}", "session tasks": told})
        first = next(n for n, line in enumerate(lines) if line.startswith("stage "))
        last = next(n for n in range(first, len(lines)) if lines[n].startswith("all "))
        stages.append(f"{workers} workers\n" + "\n".join(lines[first : last + 1]))
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
    efficiency = took[1] / (2 * took[2])
    manifest = manifest_of(folder / "corpus2")
    same = manifest_of(folder / "corpus1") == manifest
    return (
        f"{sessions} sessions of {seconds:g} s, 96 channels\n\n{text_table(rows)}\n\n"
        + "\n\n".join(stages)
        + "\n\n"
        f"parallel efficiency from 1 to 2 workers: {efficiency:.2f}; the same bytes: {same}; "
        f"most memory of any process: {memory:.2f} GB; "
        f"{len(manifest) / sessions:.0f} bytes of manifest a session"
    )


def manifest_of(corpus: Path) -> str:
    return (corpus / "manifest.json").read_text()


if __name__ == "__main__":
    log.run_program(main)
