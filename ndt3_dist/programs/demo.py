"""The whole path on two CPU cores: recordings, corpus, pretraining, export, fine-tuning, scores.

Without --recordings it simulates them. Pretraining is killed with SIGKILL half-way and resumed.

Example:
    python launch/demo.py
    python launch/demo.py --recordings my_session.nwb --bin-ms 50
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil

from ndt3_dist import log, storage
from ndt3_dist.config import PROJECT, find_file, load_config
from ndt3_dist.data.feed import Feed
from ndt3_dist.data.stream import Stream
from ndt3_dist.errors import BadInput, Ndt3DistError
from ndt3_dist.evaluate.session import evaluate
from ndt3_dist.model.tokenise import NDT3Packing
from ndt3_dist.pages.run_page import write_report
from ndt3_dist.shards.corpus import Corpus
from ndt3_dist.shards.manifest import read_manifest
from ndt3_dist.shards.summary import text_table
from ndt3_dist.train.loop import total_steps
from ndt3_dist.train.pretrain_config import PretrainConfig
from ndt3_dist.train.run_metrics import read_metrics
from ndt3_dist.train.throughput import passes_in

MARK = "demo"
"""File in a run that says: made by this program, which may remove it."""
HISTORY = 10
"""Bins of history of the ridge."""
SECONDS = 130
"""Of pretraining, about: the whole then takes less than five minutes on two slow cores."""
PASSES = 4, 8
"""Over simulated recordings: the fewest worth showing, and the most that still help."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recordings", help="an NWB file instead of simulated ones")
    parser.add_argument("--bin-ms", type=float, default=20, help="bin size (default: 20)")
    parser.add_argument(
        "--covariates",
        default="processing/behavior/Velocity/cursor_vel",
        help="TimeSeries to decode in --recordings",
    )
    parser.add_argument("--seed", type=int, default=0, help="of simulation and training")
    parser.add_argument("--ranks", type=int, default=2, help="processes that pretrain")
    parser.add_argument(
        "--passes", type=float, help="over the corpus (default: those that fit in five minutes)"
    )
    parser.add_argument(
        "--keep", action="store_true", help="fit and score again on the export of runs/NAME"
    )
    parser.add_argument("--name", default="demo", help="runs/NAME and corpora/NAME are made anew")
    args = parser.parse_args()
    # A demo for CPUs, on machines with GPUs too.
    os.environ.update(DS_ACCELERATOR="cpu", CUDA_VISIBLE_DEVICES="")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", args.name):
        raise BadInput(f"--name {args.name!r}: expected letters, digits, '_', '-' and '.'")
    if args.recordings:
        args.recordings = str(Path(args.recordings).absolute())
        if not Path(args.recordings).is_file():
            raise BadInput(f"{args.recordings}: no such file; expected one NWB recording")
    os.chdir(PROJECT)  # runs/ and corpora/ are the project's, wherever this is called from
    began = time.perf_counter()
    run, corpus = Path("runs") / args.name, f"corpora/{args.name}/corpus"
    if args.recordings:
        corpus = f"corpora/{args.name}/{Path(args.recordings).stem}-{args.bin_ms:g}ms"
    elif args.seed:
        corpus = f"corpora/{args.name}/corpus-{args.seed}"
    export, kept = run / "export", args.keep and (run / "export" / "config.json").is_file()
    if run.exists() and any(run.iterdir()) and not (run / MARK).is_file():
        raise BadInput(f"{run} is not a demo's and stays as it is; choose another --name")
    for old in (run / "finetuned", run / "scratch") if kept else (run,):
        if old.exists():
            log.say(f"removing {old} of an earlier demo")
            shutil.rmtree(old)
    oracle = prepare(args, corpus)
    if not kept:
        pretrain(args, corpus)
        stage("export", [sys.executable, "checkpoints/convert.py", "export", str(run), str(export)])
    resumed = json.loads((run / "starts.jsonl").read_text().splitlines()[-1])["from_step"]
    fit = ["data.fit=train"] if args.recordings else []
    # Minutes of data, unlike one of them, can move all weights.
    tuned = ["train.freeze=[]", "optim.lr=3e-4"] if args.recordings else []
    # From scratch all weights learn, at a rate of their own and for more steps.
    scratch = ["--scratch", "optim.lr=1e-3", "train.steps=160", "optim.decay_epochs=160"]
    scratch += ["train.eval_every=20", "data.val_fraction=0.1"]
    commands = []
    for name, extra in (("finetuned", tuned), ("scratch", scratch)):
        command = [sys.executable, "launch/finetune.py", "--config", "tune_demo.yaml"]
        command += ["--init", str(export), *extra, f"data.corpus={corpus}", f"run.name={name}"]
        commands.append([*command, f"run.dir={run}", f"run.seed={args.seed}", *fit])
    stage("fine-tune, and the same model from scratch, side by side", *commands)
    result = evaluate(
        {name: str(run / name / "export") for name in ("finetuned", "scratch")},
        corpus,
        fit_split="train" if args.recordings else "calibration",
        history=HISTORY,
    )
    summarise(args, run, corpus, export, resumed, result, oracle, time.perf_counter() - began)


def prepare(args, corpus: str) -> float | None:
    """Recordings to corpus; the best possible R2 of the held-out session, where it is known."""
    preprocess = [sys.executable, "data_prep/preprocess.py", "--recipe"]
    if args.recordings:
        recipe = ["one_recording.yaml", f"source={args.recordings}", f"out={corpus}"]
        recipe += [f"bin_size_ms={args.bin_ms:g}", f"covariates.path={args.covariates}"]
        stage("preprocess", [*preprocess, *recipe])
        return None
    nwb = f"corpora/{args.name}/nwb" + (f"-{args.seed}" if args.seed else "")
    size = ["--sessions", "20", "--subjects", "2", "--minutes", "4", "--seed", str(args.seed)]
    size += ["--oracle", "last"]
    stage("simulate", [sys.executable, "data_prep/simulate.py", nwb, *size])
    recipe = ["demo.yaml", f"source={nwb}", f"out={corpus}", f"bin_size_ms={args.bin_ms:g}"]
    stage("preprocess", [*preprocess, *recipe])
    truth = storage.read_json(Path(nwb) / "simulation.json")
    held_out = [s for s in truth["sessions"] if s["file"].endswith("sub-A_ses-10.nwb")]
    return held_out[0]["oracle_r2"]


def pretrain(args, corpus: str) -> None:
    """Pretrain in two lives: killed after half of the steps, then resumed to the end."""
    overrides = [f"data.corpus={corpus}", f"run.name={args.name}", f"run.seed={args.seed}"]
    overrides += ["checkpoint.every_steps=100"]
    file = find_file("demo.yaml", "configs")
    config, opened = load_config(PretrainConfig, file, overrides), Corpus(corpus)
    epochs = args.passes or round(passes_in(SECONDS, config, opened, args.ranks), 1)
    if not (args.passes or args.recordings):
        epochs = min(max(epochs, PASSES[0]), PASSES[1])
    overrides += [f"train.epochs={epochs}", f"optim.decay_epochs={epochs}"]
    if args.recordings:
        overrides += ["model.dropout=0.1"]  # many passes do overfit
    config = load_config(PretrainConfig, file, overrides)
    packing = NDT3Packing(opened.manifest.sessions, config.ndt3)
    stream = Stream(Feed(opened, config.data, packing, args.seed, config.train.global_batch))
    run, total = Path("runs") / args.name, total_steps(config, stream.steps_in(epochs))
    # The launcher beside this interpreter: it works without the environment being activated.
    deepspeed = str(Path(sys.executable).with_name("deepspeed"))
    command = [deepspeed, "--num_accelerators", str(args.ranks), "--master_port", free_port()]
    command += ["launch/pretrain.py", "--config", "demo.yaml", *overrides, "--resume", "auto"]

    def half_way() -> bool:
        return len(read_metrics(run)) >= total // 2

    storage.write_bytes(run / MARK, b"")
    stage(f"pretrain on {args.ranks} processes, to be killed half-way", command, kill_when=half_way)
    log.say(f"killed with SIGKILL at step {len(read_metrics(run))}")
    stage("pretrain, resumed", command)


def stage(name: str, *commands: list[str], kill_when=None) -> None:
    """Run programs of the project side by side, output shown; Ndt3DistError where one fails."""
    began = time.perf_counter()
    log.say(f"\n== {name}")
    one_thread = {"OMP_NUM_THREADS": "1"} if len(commands) > 1 else {}
    running = [
        subprocess.Popen(command, cwd=PROJECT, env={**os.environ, **one_thread})
        for command in commands
    ]
    try:
        while None in [process.poll() for process in running]:
            if kill_when and kill_when():
                kill_all(running)
                return
            time.sleep(0.2)
    except BaseException:
        kill_all(running)
        raise
    for process in running:
        if process.returncode:
            code = process.returncode
            raise Ndt3DistError(f"stage {name} failed with exit code {code}, see above")
    if kill_when:
        raise Ndt3DistError(f"stage {name} ended before it could be killed")
    log.say(f"== {name}: {time.perf_counter() - began:.0f} s")


def kill_all(running: list[subprocess.Popen]) -> None:
    """SIGKILL processes and all that they started."""
    for process in running:
        kill_tree(process.pid)
        process.wait()


def kill_tree(pid: int) -> None:
    """SIGKILL a process and all that it started."""
    try:
        parent = psutil.Process(pid)
        family = [*parent.children(recursive=True), parent]
    except psutil.NoSuchProcess:
        return
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def free_port() -> str:
    """A port of the loopback address that nobody listens on."""
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


def summarise(args, run: Path, corpus: str, export: Path, resumed, result, oracle, seconds) -> None:
    """The closing table, summary.json and report.html."""
    metrics, manifest = read_metrics(run), read_manifest(corpus)
    scores = {name: s["r2"] for name, s in result["scores"].items()}
    tokens = sum(m["tokens"] for m in metrics)
    summary = {
        "windows": sum(s.samples for s in manifest.shards),
        "tokens": tokens,
        "passes": round(metrics[-1]["epochs"], 1),
        "tokens_per_s": round(tokens / sum(m["step_s"] for m in metrics)),
        "loss_first": metrics[0]["loss"],
        "loss_last": metrics[-1]["loss"],
        "r2_finetuned": scores["finetuned"],
        "r2_scratch": scores["scratch"],
        "r2_ridge": scores["ridge"],
        "r2_best_possible": oracle,
        "resumed": resumed,
        "export": str(export),
        "seconds": round(seconds),
        "seed": args.seed,
    }
    storage.write_json(run / "summary.json", summary)
    report = write_report(run, manifest, result, summary)
    rows = [
        {"what": "windows in the corpus", "value": f"{summary['windows']:,}"},
        {"what": "tokens trained on", "value": f"{tokens:,}"},
        {"what": "tokens/s", "value": f"{summary['tokens_per_s']:,}"},
        {
            "what": "loss first -> last",
            "value": f"{summary['loss_first']:.4f} -> {summary['loss_last']:.4f}",
        },
        {"what": "killed and resumed from step", "value": resumed},
        {"what": "R2 fine-tuned", "value": f"{scores['finetuned']:.4f}"},
        {"what": "R2 from scratch", "value": f"{scores['scratch']:.4f}"},
        {"what": "R2 ridge", "value": f"{scores['ridge']:.4f}"},
    ]
    if oracle is not None:
        rows.append({"what": "R2 best possible", "value": f"{oracle:.4f}"})
    rows.append({"what": "seconds", "value": round(seconds)})
    log.say(f"\nheld-out bins of {result['session']}\n{text_table(rows)}")
    log.say(f"{run / 'summary.json'}\n{report}")


if __name__ == "__main__":
    log.run_program(main)
