"""How long programs say nothing: each on small simulated recordings, output stamped as it comes.

A gap is the time from the start, or from the last output, to the next one or the end. The table has
the longest of each program with the line before it; `gaps` counts those of more than two seconds.
DeepSpeed's operator is compiled anew.

Example:
    python benchmarks/silence.py
    python benchmarks/silence.py --tty
    python benchmarks/silence.py --keep /tmp/silence --only pretrain finetune
"""

import argparse
import os
import pty
import re
import subprocess
import sys
import tempfile
import termios
import time
from itertools import pairwise
from pathlib import Path

from ndt3_dist import log
from ndt3_dist.config import PROJECT
from ndt3_dist.shards.summary import text_table

sys.path.insert(0, str(Path(__file__).parent))
from hardware import header, save

LONG_S = 2.0
SPLITS = """splits=[
  {match: demo-A-03, unit: s, intervals: {calibration: [0, 60], test: [60, null]}},
  {match: "*", unit: fraction, intervals: {train: [0, 0.9], val: [0.9, 1]}}]"""
TRAIN = "train.max_steps=150 validation.every_steps=75 checkpoint.every_steps=75 data.workers=1"
COMMANDS = {
    "simulate": "data_prep/simulate.py {0}/nwb --sessions 3 --subjects 1 --minutes 4",
    "simulate, other": "data_prep/simulate.py {0}/nwb2 --sessions 2 --subjects 1 --minutes 0.5 "
    "--seed 1",
    "preprocess, Ray": "data_prep/preprocess.py --recipe demo.yaml num_workers=2 source={0}/nwb "
    "out={0}/corpus SPLITS",
    "preprocess": "data_prep/preprocess.py --recipe demo.yaml num_workers=0 source={0}/nwb2 "
    "out={0}/other dataset=other",
    "combine": "data_prep/combine.py {0}/both {0}/corpus {0}/other",
    "verify corpus": "data_prep/verify.py {0}/corpus",
    "report corpus": "data_prep/report.py {0}/corpus",
    "pretrain": "-m deepspeed.launcher.runner --num_accelerators 2 launch/pretrain.py --config "
    f"demo.yaml data.corpus={{0}}/corpus run.dir={{0}}/runs run.name=run {TRAIN}",
    "verify run": "checkpoints/verify.py {0}/runs/run",
    "convert export": "checkpoints/convert.py export {0}/runs/run {0}/export --verify",
    "lineage": "checkpoints/lineage.py {0}/export",
    "replay": "launch/replay.py --run {0}/runs/run --step 150",
    "finetune": "launch/finetune.py --config tune_demo.yaml --init {0}/export run.dir={0}/runs "
    "data.corpus={0}/corpus",
    "finetune, read out": "launch/finetune.py --config tune_demo.yaml --init {0}/export "
    "run.dir={0}/runs data.corpus={0}/corpus run.name=read_out train.steps=0 readout.history=[10]",
    "evaluate": "launch/evaluate.py --model {0}/runs/tune_demo/export --corpus {0}/corpus",
    "decode": "launch/decode.py --model {0}/runs/tune_demo/export --out {0}/decoded.csv "
    "--recording {0}/nwb2/sub-A/sub-A_ses-01.nwb",
    "report": "launch/report.py {0}/runs/run",
    "remove": "data_prep/remove.py {0}/corpus --session demo-A-02 --runs {0}/runs",
}
"""Name -> what is typed behind `python`; {0} is the folder of all files."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tty", action="store_true", help="give programs a terminal, not a pipe")
    parser.add_argument("--keep", metavar="FOLDER", help="where files stay, for --only")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these programs")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for name, text in COMMANDS.items():
            if args.only and name not in args.only:
                continue
            words = [SPLITS if word == "SPLITS" else word for word in text.split()]
            words = [word.replace("{0}", args.keep or folder) for word in words]
            rows.append(row_of(name, stamped(words, args.keep or folder, args.tty)))
    where = "a terminal" if args.tty else "a pipe"
    text = f"{header('silence.py')}\noutput to {where}\n\n{text_table(rows)}\n"
    log.say(text)
    if not args.only:
        log.say(str(save(f"silence{'_tty' * args.tty}", text)))


def stamped(words: list[str], folder: str, tty: bool) -> list[tuple[float, str]]:
    """Run a program; seconds from its start and text of all that it puts out, and its end."""
    reading, writing = pty.openpty() if tty else os.pipe()
    if tty:
        termios.tcsetwinsize(writing, (24, 100))
    home = {"TORCH_EXTENSIONS_DIR": f"{folder}/operators", "DS_ACCELERATOR": "cpu"}
    began, found = time.monotonic(), []
    program = subprocess.Popen(
        [sys.executable, *words],
        cwd=PROJECT,
        env={**os.environ, **home},
        stdin=subprocess.DEVNULL,
        stdout=writing,
        stderr=writing,
    )
    os.close(writing)
    while piece := read(reading):
        found.append((time.monotonic() - began, piece))
        sys.stdout.write(piece)
        sys.stdout.flush()
    os.close(reading)
    if program.wait():
        raise SystemExit(f"{' '.join(words)} ended with exit code {program.returncode}")
    return [*found, (time.monotonic() - began, "")]


def read(file: int) -> str:
    """What comes next; "" at the end, which a terminal tells by an error."""
    try:
        return os.read(file, 1 << 16).decode(errors="replace")
    except OSError:
        return ""


def row_of(name: str, found: list[tuple[float, str]]) -> dict[str, str]:
    """A row of the table: the longest gap, and what had been said."""
    times = [0.0, *(when for when, _ in found)]
    gaps = [b - a for a, b in pairwise(times)]
    longest = max(range(len(gaps)), key=gaps.__getitem__)
    before = "(the start)" if not longest else last_line("".join(p for _, p in found[:longest]))
    return {
        "program": name,
        "s": f"{times[-1]:.1f}",
        "first s": f"{gaps[0]:.1f}",
        "longest s": f"{gaps[longest]:.1f}",
        "gaps": str(sum(gap > LONG_S for gap in gaps)),
        "after": before,
    }


def last_line(text: str) -> str:
    """The last line, or state of a bar, that is not empty; cut to fit a table."""
    plain = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)
    lines = [line.strip() for line in re.split(r"[\r\n]", plain) if line.strip()]
    return lines[-1][:60] if lines else "(nothing)"


if __name__ == "__main__":
    log.run_program(main)
