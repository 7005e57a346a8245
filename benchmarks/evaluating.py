"""Seconds that decoding a whole session takes: each bin computed once, and windows run anew.

Random weights, 96 channels, two covariates, 100 bins of context, in float32; or an export and the
test bins of a corpus: then the scores that each way gives, and those of decoding bin by bin in each
type. Ways in turn in one process.

Example:
    python benchmarks/evaluating.py --size 45M --seconds 48
    python benchmarks/evaluating.py --model runs/demo/finetuned/export --corpus corpora/demo/corpus
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch

from ndt3_dist import log
from ndt3_dist.api import open_decoder
from ndt3_dist.config import find_file, load_config
from ndt3_dist.data.continuous import Piece
from ndt3_dist.evaluate.decode import slide
from ndt3_dist.evaluate.metrics import r2_scores
from ndt3_dist.evaluate.session import export_scale, model_predictions, read_test_data
from ndt3_dist.model.load import load_model
from ndt3_dist.model.model_config import ModelConfig
from ndt3_dist.model.ndt3 import NDT3
from ndt3_dist.model.readout import load_readout
from ndt3_dist.model.tokenise import Layout
from ndt3_dist.shards.summary import text_table
from ndt3_dist.train.pretrain_config import PretrainConfig

sys.path.insert(0, str(Path(__file__).parent))
from decode import SIZES
from hardware import header, save

CHANNELS, DIMS, CONTEXT, BIN_S = 96, 2, 100, 0.02
WAYS = {"each bin once": 0, "windows anew, stride 10": 10, "windows anew, stride 1": 1}


def timed(size: str, seconds: float) -> list[dict[str, str]]:
    """Of a model with random weights."""
    file = find_file(f"{SIZES[size]}.yaml", "configs")
    torch.manual_seed(0)
    config = load_config(PretrainConfig, file, ["data.corpus=none"]).model
    assert isinstance(config, ModelConfig)
    model = NDT3(config).eval()
    layout = Layout.from_counts([CHANNELS], DIMS, model.config, "benchmark")
    rows, bins = [], round(seconds / BIN_S)
    spikes = np.random.default_rng(0).poisson(0.3, (bins, CHANNELS)).astype(np.uint8)
    piece = Piece(0, spikes, np.full((bins, DIMS), np.nan, np.float32))
    slide(model, Piece(0, spikes[:CONTEXT], piece.covariates[:CONTEXT]), layout, CONTEXT)
    for name, stride in WAYS.items():
        if stride == 1:
            continue  # ten times as long as a stride of 10
        began = time.perf_counter()
        slide(model, piece, layout, CONTEXT, stride, with_rates=True)
        took = time.perf_counter() - began
        speed = f"{seconds / took:.2f}"
        rows.append({"model": size, "way": name, "s": f"{took:.1f}", "x real time": speed})
    return rows


def scored(export: str, corpus: str, session: str) -> list[dict[str, str]]:
    """Of an export on test bins."""
    data, found = read_test_data(corpus, session), {}
    model, scale, window = load_model(export), export_scale(export, data), data.manifest.window_bins
    readout = load_readout(export, data.session.id, data.pieces[0].spikes.shape[1])
    for name, stride in WAYS.items():
        found[name] = model_predictions(model, data, window, stride, readout)[0] * scale
    for kind in ("fp32", "bf16", "int8"):
        steps = []
        for piece in data.pieces:
            decoder = open_decoder(export, data.session.id, dtype=kind)
            steps += [decoder.step(counts) for counts in piece.spikes]
        found[f"bin by bin, {kind}"] = np.stack(steps)
    first = found["each bin once"]
    return [
        {
            "export": export,
            "way": name,
            "R2": f"{r2_scores(data.truth, predicted)['r2']:.4f}",
            "largest deviation / spread": f"{np.abs(predicted - first).max() / first.std():.4f}",
        }
        for name, predicted in found.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=[*SIZES], default="45M")
    parser.add_argument("--seconds", type=float, default=48, help="of bins of 20 ms")
    parser.add_argument(
        "--model", metavar="EXPORT", action="append", help="to score, with --corpus"
    )
    parser.add_argument("--corpus")
    parser.add_argument("--session", default="")
    parser.add_argument("--save", metavar="NAME", help="benchmarks/results/NAME_DATE.txt")
    args = parser.parse_args()
    if args.model:
        rows = [row for e in args.model for row in scored(e, args.corpus, args.session)]
    else:
        rows = timed(args.size, args.seconds)
    text = f"{header('python benchmarks/evaluating.py')}, {torch.get_num_threads()} threads\n\n"
    text += f"{text_table(rows)}\n"
    log.say(text)
    if args.save:
        log.say(str(save(args.save, text)))


if __name__ == "__main__":
    log.run_program(main)
