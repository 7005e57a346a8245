"""What words from nine subjects at full size take: 1,268 channels, 30 minutes at 512 Hz, simulated.

Recordings that no file holds go through the stage of preparation into a corpus, are put in order of
time, and the windows of all words at one lag are taken and averaged. Memory is what the process had
of its own (RssAnon: without pages of mapped files, which the kernel takes back when it needs them).

Example:
    python benchmarks/words_memory.py --folder /big/disk
    python benchmarks/words_memory.py --minutes 2 --words 300
"""

import argparse
import contextlib
import resource
import shutil
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from ndt3_dist import log
from ndt3_dist.prep.job import prepare
from ndt3_dist.prep.recipe import Recipe
from ndt3_dist.readers.options import ReadOptions
from ndt3_dist.readers.recording import Recording, Signal
from ndt3_dist.shards.summary import text_table
from ndt3_dist.tasks.words.ieeg.resampling import BLOCK
from ndt3_dist.tasks.words.lag_features import make_features
from ndt3_dist.tasks.words.prepare_words import series_of
from ndt3_dist.tasks.words.word_config import Experiment

CHANNELS = 99, 90, 235, 143, 159, 166, 116, 72, 188
RATE = 512


def read(path: Path, options: ReadOptions) -> Recording:
    """A recording of noise, written block by block into an unnamed file as FIF recordings are."""
    channels, samples = (int(number) for number in path.read_text().split())
    tile = np.random.default_rng(channels).standard_normal((BLOCK, channels), np.float32)
    with tempfile.TemporaryFile(dir=path.parent) as file:
        file.truncate(4 * samples * channels)
        values = np.memmap(file, np.float32, "r+", shape=(samples, channels))
    for first in range(0, samples, BLOCK):
        values[first : first + BLOCK] = tile[: min(BLOCK, samples - first)]
    times, labels = np.arange(samples) / RATE, tuple(f"G{n}" for n in range(channels))
    signal = Signal("ecog", values, times, "uV", per_bin=8, labels=labels)
    words = np.full((samples // 8, 2), np.nan, np.float32)
    signals = [signal, Signal("words", words, np.arange(samples // 8) * 8 / RATE, "word, s")]
    return Recording(path.stem, "podcast", [], [], 0.0, samples / RATE, signals=signals)


class Watched:
    """Most memory of its own that the process had in a block, in MB."""

    def __enter__(self) -> "Watched":
        self.most, self.over, self.began = 0.0, threading.Event(), time.perf_counter()
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()
        return self

    def watch(self) -> None:
        while not self.over.wait(0.05):
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("RssAnon"):
                    self.most = max(self.most, int(line.split()[1]) / 1000)

    def __exit__(self, *_) -> None:
        self.over.set()
        self.thread.join()
        self.seconds = time.perf_counter() - self.began


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", help="where there is room (17 GB; default: a temporary one)")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--words", type=int, default=5136)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="words_memory_", dir=args.folder))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        log.say(
            f"{datetime.now(UTC):%Y-%m-%d} words_memory.py, {args.minutes:g} minutes, {RATE} Hz"
        )
        log.say(text_table(measured(args, folder)))


def measured(args: argparse.Namespace, folder: Path) -> list[dict]:
    """A row for each step."""
    samples, rows = int(args.minutes * 60 * RATE), []
    (folder / "source").mkdir()
    for number, channels in enumerate(CHANNELS, 1):
        (folder / f"source/sub{number}.sim").write_text(f"{channels} {samples}")
    recipe = {"dataset": "words", "source": str(folder / "source"), "pattern": "*.sim"}
    recipe |= {"out": str(folder / "corpus"), "reader": "words_memory:read", "num_workers": 0}
    recipe |= {
        "bin_size_ms": 15.625,
        "window_ms": 2000,
        "splits": [{"intervals": {"test": (0, 1)}}],
    }

    def row(step: str, watched: Watched, gigabytes: float) -> None:
        rows.append(
            {
                "step": step,
                "GB": f"{gigabytes:.2f}",
                "own memory, MB": f"{watched.most:.0f}",
                "s": f"{watched.seconds:.0f}",
            }
        )

    total = 4e-9 * samples * sum(CHANNELS)
    with Watched() as watched:
        prepare(Recipe.model_validate(recipe))
    row("recordings to a corpus", watched, total)
    data = {"corpus": str(folder / "corpus"), "preprocessing_fn_name": "window_average_neural_data"}
    data["preprocessor_params"] = {"num_average_samples": 32}  # pyright: ignore
    stage = Experiment.model_validate({"task_config": {"data_params": data}})
    with Watched() as watched:
        series = series_of(stage, str(folder / "corpus"), folder / "cache")
    row("in order of time", watched, total)
    starts = np.linspace(3, args.minutes * 60 - 3, args.words)
    with Watched() as watched:
        make_features(stage, series, starts, 200, folder / "lag_200.npy")
    row("windows of one lag, averaged", watched, 4e-9 * args.words * sum(CHANNELS) * 320)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    rows.append(
        {"step": "all, with mapped pages", "GB": "", "own memory, MB": f"{most:.0f}", "s": ""}
    )
    return rows


if __name__ == "__main__":
    log.run_program(main)
