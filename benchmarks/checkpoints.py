"""What checkpoints cost: steps while one is written, loading with and without hashes, exporting.

The state is a model's own, in one process: float32 masters and both moments of AdamW. The disk's
cache is emptied of the checkpoint for the cold figures. A process of its own exports.

Example:
    python benchmarks/checkpoints.py
    python benchmarks/checkpoints.py --config big_350m_2kh.yaml --steps 0
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import torch

from ndt3_dist import log, storage
from ndt3_dist.checkpoint.steps import KINDS, open_step, step_folder
from ndt3_dist.checkpoint.writer import Writer
from ndt3_dist.config import PROJECT, find_file, load_config
from ndt3_dist.model.ndt3 import NDT3
from ndt3_dist.shards.summary import text_table
from ndt3_dist.train.pretrain_config import PretrainConfig

sys.path.insert(0, str(Path(__file__).parent))
from hardware import header, save
from train_step import training_step


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="base_45m_200h.yaml")
    parser.add_argument("--steps", type=int, default=6, help="timed in each way; 0 = none")
    parser.add_argument("--folder", help="disk to write to (default: that of temporary files)")
    args = parser.parse_args()
    overrides = ["model.dropout=0", "model.attention_dropout=0"]
    config = load_config(PretrainConfig, find_file(args.config, "configs"), overrides)
    torch.manual_seed(0)
    model = NDT3(config.ndt3)
    state = {
        name: {k: torch.randn(p.numel()) if k != KINDS[0] else p.detach().view(-1) for k in KINDS}
        for name, p in model.named_parameters()
    }
    text = [header("python benchmarks/checkpoints.py"), f"{args.config}, {size(state):.2f} GB"]
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        run = Path(folder) / "run"
        rows = []
        if args.steps:
            step = training_step(config, model, "fp32")
            step()
            for how in ("none", "in the background", "waited for"):
                rows.append(time_steps(run, state, model, config, step, args.steps, how))
            text.append(text_table(rows))
        write(run, state, model, config, background=False)
        text.append(text_table([*load_rows(run), export_row(run)]))
    whole = "\n\n".join(text) + "\n"
    log.say(whole)
    log.say(str(save(f"checkpoints_{Path(args.config).stem}", whole)))


def size(state: dict) -> float:
    """In GB."""
    return sum(4 * t.numel() for kinds in state.values() for t in kinds.values()) / 1e9


def write(run: Path, state: dict, model: NDT3, config: PretrainConfig, background: bool) -> Writer:
    """Begin to save step 1; its writer."""
    writer = Writer(run, 0, 1, lambda value: [value], background)
    describe = {
        "parameters": {name: list(p.shape) for name, p in model.named_parameters()},
        "config": config.model_dump(mode="json"),
        "fingerprint": "0" * 64,
        "epochs": 1.0,
    }
    slices = [(name, 0, kinds) for name, kinds in state.items()]
    norms = {"bin_size_ms": 20, "window_bins": 100, "sessions": {}}
    storage.write_json(run / "normalisation.json", norms)
    writer.begin(1, slices, describe, {})
    return writer


def time_steps(run, state, model, config, step, count: int, how: str) -> dict:
    """Steps with a save begun before the second of them."""
    seconds, begin_s, written_s = [step()], 0.0, 0.0
    if how != "none":
        began = time.perf_counter()
        writer = write(run, state, model, config, how != "waited for")
        begin_s = time.perf_counter() - began
    while len(seconds) < count:
        seconds.append(step())
        if how != "none" and not written_s and not writer.pending:
            written_s = time.perf_counter() - began
    if how != "none":
        writer.finish()
    return {
        "save": how,
        "step s, median": f"{statistics.median(seconds):.2f}",
        "steps and save, s": f"{sum(seconds) + begin_s:.2f}",
        "of these, held up": f"{begin_s:.2f}",
        "seen written after": f"{written_s:.1f}" if written_s else "-",
    }


def load_rows(run: Path) -> list[dict]:
    """Reading every slice, cold and warm, with and without hashes."""
    rows, true = [], storage.fast_hash
    for cached in ("cold", "warm"):
        for verified in (True, False):
            took = []
            for _ in range(3):
                if cached == "cold":
                    forget(run)
                checkpoint = open_step(run, 1)
                if not verified:
                    pieces = [s["pieces"] for s in checkpoint.meta["shards"].values()]
                    known = iter(p[2] for of_shard in pieces for p in of_shard.values())
                    storage.fast_hash = lambda _, known=known: next(known)
                began = time.perf_counter()
                try:
                    for name in checkpoint.meta["parameters"]:
                        checkpoint.read(name, 0, sum(p[1] for p in checkpoint.pieces[name]))
                finally:
                    storage.fast_hash = true
                took.append(time.perf_counter() - began)
            total = sum(s["bytes"] for s in checkpoint.meta["shards"].values()) / 1e9
            seconds = statistics.median(took)
            what = f"load, {cached}, {'verified' if verified else 'not verified'}"
            rows.append({"what": what, "s": f"{seconds:.2f}", "GB/s": f"{total / seconds:.2f}"})
    return rows


def forget(run: Path) -> None:
    """Empty the disk's cache of a checkpoint."""
    for file in Path(step_folder(run, 1)).iterdir():
        with file.open("rb") as f:
            os.fsync(f.fileno())
            os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def export_row(run: Path) -> dict:
    """An export in a process of its own: seconds, and the most memory that it took."""
    program = [sys.executable, PROJECT / "checkpoints" / "convert.py", "export", run]
    began, most = time.perf_counter(), 0
    exporting = subprocess.Popen([*map(str, program), str(run / "export")])
    process = psutil.Process(exporting.pid)
    while exporting.poll() is None:
        try:
            most = max(most, process.memory_info().rss)
        except psutil.Error:
            break
        time.sleep(0.02)
    took = time.perf_counter() - began
    model = (run / "export" / "model.safetensors").stat().st_size
    what = f"export, {most / 1e9:.2f} GB of memory, {model / 1e9:.2f} GB of weights"
    return {"what": what, "s": f"{took:.1f}", "GB/s": f"{model / 1e9 / took:.2f}"}


if __name__ == "__main__":
    log.run_program(main)
