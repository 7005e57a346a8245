"""The whole path on two CPU cores: recordings, corpus, pretraining, export, fine-tuning, scores.

Without --recordings it simulates them. Pretraining is killed with SIGKILL half-way and resumed.
runs/NAME and corpora/NAME lie in the current folder, or in the checkout if that is where it is.

Example:
    python launch/demo.py
    python launch/demo.py --recordings my_session.nwb --bin-ms 50
    ndt3 demo --recordings my_session.nwb --full
"""

import argparse
import json
import os
import re
import shutil
import sys
import time
from pathlib import Path

from ndt3_dist import log, storage
from ndt3_dist.config import PROJECT, find_file, load_config
from ndt3_dist.data.feed import Feed
from ndt3_dist.data.stream import Stream
from ndt3_dist.errors import BadInput
from ndt3_dist.evaluate.session import evaluate
from ndt3_dist.model.tokenise import NDT3Packing
from ndt3_dist.pages.decoding import meaning
from ndt3_dist.pages.run_page import write_report
from ndt3_dist.pages.words import R2
from ndt3_dist.programs._demo_plan import planned_passes, tunings
from ndt3_dist.programs._stages import launched, program, stage
from ndt3_dist.shards.corpus import Corpus
from ndt3_dist.shards.manifest import read_manifest
from ndt3_dist.shards.summary import text_table
from ndt3_dist.train.loop import total_steps
from ndt3_dist.train.pretrain_config import PretrainConfig
from ndt3_dist.train.run_metrics import read_metrics
from ndt3_dist.train.throughput import Speed, measure

MARK = "demo"
"""File in a run that says: made by this program, which may remove it."""
MADE = "made-by-demo.txt"
"""File beside corpora of recordings with the names of those that it made."""


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
        "--full", action="store_true", help="of --recordings: the whole schedule, however long"
    )
    parser.add_argument(
        "--keep", action="store_true", help="fit and score again on the export of runs/NAME"
    )
    parser.add_argument("--name", default="demo", help="runs/NAME and corpora/NAME are made anew")
    args = parser.parse_args()
    # A demo for CPUs, on machines with GPUs too.
    os.environ.update(DS_ACCELERATOR="cpu", CUDA_VISIBLE_DEVICES="")
    if args.ranks < 1:
        raise BadInput(f"--ranks {args.ranks}: expected at least 1")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", args.name):
        raise BadInput(f"--name {args.name!r}: expected letters, digits, '_', '-' and '.'")
    if args.recordings:
        args.recordings = str(Path(args.recordings).absolute())
        if not Path(args.recordings).is_file():
            raise BadInput(f"{args.recordings}: no such file; expected one NWB recording")
    refuse_other_checkout(Path(sys.argv[0]).resolve())
    if (PROJECT / "configs").is_dir() and Path.cwd().is_relative_to(PROJECT):
        os.chdir(PROJECT)
    began = time.perf_counter()
    run, corpus = Path("runs") / args.name, f"corpora/{args.name}/corpus"
    if args.recordings:
        corpus = f"corpora/{args.name}/{Path(args.recordings).stem}-{args.bin_ms:g}ms"
    elif args.seed:
        corpus = f"corpora/{args.name}/corpus-{args.seed}"
    export, kept = run / "export", args.keep and (run / "export" / "config.json").is_file()
    if run.exists() and any(run.iterdir()) and not (run / MARK).is_file():
        raise BadInput(f"{run} is not a demo's and stays as it is; choose another --name")
    if args.recordings and not kept:
        make_way(Path(corpus))
    oracle = prepare(args, corpus)
    for old in (run / "readout", run / "finetuned", run / "scratch") if kept else (run,):
        if old.exists():
            log.say(f"removing {old} of an earlier demo")
            shutil.rmtree(old)
    speed = None
    if not kept:
        speed = pretrain(args, corpus)
        stage("export", [*program("convert"), "export", str(run), str(export)])
    resumed = json.loads((run / "starts.jsonl").read_text().splitlines()[-1])["from_step"]
    commands = tunings(args, run, export, corpus, speed)
    stage(f"decoders side by side: {', '.join(commands)}", *commands.values())
    split = "train" if args.recordings else "calibration"
    decoders = {name: str(run / name / "export") for name in commands}
    result = evaluate(decoders, corpus, fit_split=split)
    summarise(args, run, corpus, export, resumed, result, oracle, time.perf_counter() - began)


def refuse_other_checkout(script: Path) -> None:
    """Raise BadInput where the package is not that beside the script that was called."""
    beside = script.parent.parent
    if script.parent.name == "launch" and (beside / "ndt3_dist").is_dir() and beside != PROJECT:
        raise BadInput(
            f"{script}: Python finds the package of {PROJECT}, and would run that; "
            f"call {beside}/.venv/bin/python (make setup), or set PYTHONPATH={beside}"
        )


def make_way(corpus: Path) -> None:
    """Remove the corpus of an earlier demo, of a recording of that name or of other covariates, and
    note that the next one is a demo's. Raises BadInput where it is not."""
    note = corpus.parent / MADE
    made = note.read_text().splitlines() if note.is_file() else []
    if corpus.exists() and any(corpus.iterdir()):
        if corpus.name not in made:
            raise BadInput(f"{corpus} is not a demo's and stays as it is; choose another --name")
        log.say(f"removing {corpus} of an earlier demo")
        shutil.rmtree(corpus)
    if corpus.name not in made:
        storage.write_bytes(note, "".join(f"{name}\n" for name in [*made, corpus.name]).encode())


def prepare(args, corpus: str) -> float | None:
    """Recordings to corpus; the best possible R2 of the held-out session, where it is known."""
    preprocess = [*program("preprocess"), "--recipe"]
    if args.recordings:
        recipe = ["one_recording.yaml", f"source={args.recordings}", f"out={corpus}"]
        recipe += [f"bin_size_ms={args.bin_ms:g}", f"covariates.path={args.covariates}"]
        stage("preprocess", [*preprocess, *recipe])
        return None
    nwb = f"corpora/{args.name}/nwb" + (f"-{args.seed}" if args.seed else "")
    size = ["--sessions", "20", "--subjects", "2", "--minutes", "4", "--seed", str(args.seed)]
    size += ["--oracle", "last"]
    stage("simulate", [*program("simulate"), nwb, *size])
    recipe = ["demo.yaml", f"source={nwb}", f"out={corpus}", f"bin_size_ms={args.bin_ms:g}"]
    stage("preprocess", [*preprocess, *recipe])
    truth = storage.read_json(Path(nwb) / "simulation.json")
    held_out = [s for s in truth["sessions"] if s["file"].endswith("sub-A_ses-10.nwb")]
    return held_out[0]["oracle_r2"]


def pretrain(args, corpus: str) -> Speed:
    """Pretrain in two lives: killed after half of the steps, then resumed to the end."""
    overrides = [f"data.corpus={corpus}", f"run.name={args.name}", f"run.seed={args.seed}"]
    overrides += ["checkpoint.every_steps=100"]
    file = find_file("demo.yaml", "configs")
    config, opened = load_config(PretrainConfig, file, overrides), Corpus(corpus)
    speed = measure(config, opened)
    epochs = planned_passes(args, config.train.epochs, speed)
    overrides += [f"train.epochs={epochs}", f"optim.decay_epochs={epochs}"]
    overrides += [f"optim.warmup_epochs={min(config.optim.warmup_epochs, 0.1 * epochs):.4g}"]
    if args.recordings:
        overrides += ["model.dropout=0.1"]  # many passes do overfit
    config = load_config(PretrainConfig, file, overrides)
    packing = NDT3Packing(opened.manifest.sessions, config.ndt3)
    stream = Stream(Feed(opened, config.data, packing, args.seed, config.train.global_batch))
    run, total = Path("runs") / args.name, total_steps(config, stream.steps_in(epochs))
    command = launched("pretrain", args.ranks)
    command += ["--config", "demo.yaml", *overrides, "--resume", "auto"]

    def half_way() -> bool:
        return len(read_metrics(run)) >= total // 2

    storage.write_bytes(run / MARK, b"")
    stage(f"pretrain on {args.ranks} processes, to be killed half-way", command, kill_when=half_way)
    log.say(f"killed with SIGKILL at step {len(read_metrics(run))}")
    stage("pretrain, resumed", command)
    return speed


def summarise(args, run: Path, corpus: str, export: Path, resumed, result, oracle, seconds) -> None:
    """The closing sentence and tables, summary.json and report.html."""
    metrics, manifest = read_metrics(run), read_manifest(corpus)
    scores = {name: s["r2"] for name, s in result["scores"].items()}
    spoken = {name: s["bits_per_spike"] for name, s in result["scores"].items()}
    bits = {name: value for name, value in sorted(spoken.items()) if value is not None}
    tokens = sum(m["tokens"] for m in metrics)
    summary = {
        "windows": sum(s.samples for s in manifest.shards),
        "tokens": tokens,
        "passes": round(metrics[-1]["epochs"], 1),
        "tokens_per_s": round(tokens / sum(m["step_s"] for m in metrics)),
        "loss_first": metrics[0]["loss"],
        "loss_last": metrics[-1]["loss"],
        "r2_readout": scores.get("readout"),
        "r2_finetuned": scores["finetuned"],
        "r2_scratch": scores["scratch"],
        "r2_ridge": scores["ridge"],
        "ridge_bins": result["history"],
        "ridge_penalty": result["penalty"],
        "r2_best_possible": oracle,
        "resumed": resumed,
        "export": str(export),
        "seconds": round(seconds),
        "seed": args.seed,
    }
    summary |= {f"bits_per_spike_{name}": value for name, value in bits.items()}
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
        {"what": "seconds", "value": round(seconds)},
    ]
    if told := "".join(map(str, meaning(result, oracle))).replace(R2, "R2"):
        log.say(f"\n{told}.")
    log.say(f"\n{text_table(decoder_rows(result, oracle))}\n\n{text_table(rows)}")
    log.say(f"{run / 'summary.json'}\n{report}")


def decoder_rows(result: dict, oracle: float | None) -> list[dict]:
    """A row a decoder, the best one first, and above all what is possible."""
    called = {
        "readout": "readout: pretrained, read out in closed form",
        "finetuned": "finetuned: pretrained and fine-tuned",
        "scratch": "scratch: trained on this session alone",
        "mean": "mean of these models",
        "ridge": f"ridge ({result['history']} bins of history, penalty {result['penalty']:.3g})",
    }
    scores = dict(sorted(result["scores"].items(), key=lambda s: s[1]["r2"], reverse=True))
    rows = [("best possible", oracle, None)] if oracle is not None else []
    rows += [(called.get(n, n), s["r2"], s["bits_per_spike"]) for n, s in scores.items()]
    return [
        {
            "decoder": name,
            "R2": f"{r2:.4f}",
            **({"of the best possible": f"{r2 / oracle:.1%}"} if oracle else {}),
            "bits per spike": "-" if bits is None else f"{bits:.4f}",
        }
        for name, r2, bits in rows
    ]


if __name__ == "__main__":
    log.run_program(main)
