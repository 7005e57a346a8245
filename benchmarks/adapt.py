"""Does a decoder hold on a later day, and what do spikes of that day alone do for it?

One simulated subject, a session a day, whose units drift and are replaced (`ndt3_dist/simulate`). A
decoder is fitted to the first days together; each later day is scored as it is, adapted by its
spikes, the same with the first days replayed, and fitted with its labels. All results are shown,
whichever wins. The folder is kept: a second call goes on with it.

Example:
    python benchmarks/adapt.py /tmp/adapt --later 5 7 10
"""

import argparse
import sys
from pathlib import Path

from ndt3_dist import log
from ndt3_dist.config import PROJECT, check, read_values
from ndt3_dist.evaluate.session import model_predictions, read_test_data
from ndt3_dist.model.load import load_model, read_normalisation
from ndt3_dist.prep.job import prepare
from ndt3_dist.prep.recipe import Recipe
from ndt3_dist.shards.summary import text_table
from ndt3_dist.simulate.sessions import simulate
from ndt3_dist.tune.finetune import finetune
from ndt3_dist.tune.tune_config import TuneConfig

sys.path.insert(0, str(Path(__file__).parent))
from hardware import header, save

DEMO = read_values(TuneConfig, PROJECT / "configs" / "tune_demo.yaml")
MODEL = {"layers": 2, "dim": 96, "heads": 3, "feedforward": 192, "dropout": 0.0}
MODEL |= {"channels_per_token": 96, "count_classes": 6, "context_tokens": False}
MODEL |= {"attention_dropout": 0.0, "spike_weight": 0.2, "covariate_weight": 50.0}


def corpus_of(folder: Path, days: int, minutes: float, seed: int) -> str:
    """Sessions sim-A-01 to sim-A-N, half of each to fit and half to test."""
    simulate(folder / "nwb", days, minutes, seed, subjects=1, oracle="last")
    halves = [{"intervals": {"calibration": (0, 0.5), "test": (0.5, 1)}}]
    keys = {"dataset": "sim", "source": str(folder / "nwb"), "out": str(folder / "corpus")}
    keys |= {"covariates": {"path": "processing/behavior/Velocity/cursor_vel"}, "splits": halves}
    keys |= {"pattern": "**/*.nwb", "spikes": {"channels": "electrode"}, "num_workers": 0}
    prepare(check(Recipe, keys, "recipe"))
    return str(folder / "corpus")


def fitted(folder: Path, name: str, init: str | None, data: dict, **train) -> str:
    """The export of a fine-tune, made once."""
    if not (folder / name / "export").exists():
        steps = train["steps"]
        own = {
            "run": {"dir": str(folder), "name": name},
            "data": {"corpus": str(folder / "corpus"), "val_fraction": 0.1, **data},
            "optim": {**DEMO["optim"], "decay_epochs": steps, "lr": train.pop("lr")},
            "train": {**DEMO["train"], "eval_every": max(steps // 6, 1), **train},
            "model": None if init else MODEL,
        }
        finetune(check(TuneConfig, {**DEMO, **own}, name), init)
    return str(folder / name / "export")


def r2(export: str, corpus: str, session: str, units: str) -> float:
    """Of the test half, in the export's own units for `units`: no label of the day has a part."""
    data = read_test_data(corpus, session)
    scale = [c["scale"] for c in read_normalisation(export)["sessions"][units]["covariates"]]
    model = load_model(export)
    predicted, _ = model_predictions(model, data, data.manifest.window_bins, 0)
    return data.score(predicted * scale / data.scale)["r2"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--first", type=int, default=4, help="days that are fitted together")
    parser.add_argument("--later", type=int, nargs="+", default=[5, 7, 10], help="days adapted to")
    parser.add_argument("--minutes", type=float, default=4, help="of each day")
    parser.add_argument("--steps", type=int, default=600, help="of the first fit")
    parser.add_argument("--adapt", type=int, default=120, help="steps of each adaptation")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    corpus = corpus_of(args.folder, max(args.later), args.minutes, args.seed)
    days = [f"sim-A-{day:02d}" for day in range(1, args.first + 1)]
    common = {"sessions": days}
    whole = {"steps": args.steps, "lr": 3e-3, "freeze": []}
    first = fitted(args.folder, "first", None, common, **whole)
    readin = {"steps": args.adapt, "lr": 1e-3}
    rows = []
    for day in args.later:
        name = f"sim-A-{day:02d}"
        one, spikes = {"session": name}, {"objective": "spikes"}
        unlabelled = {**one, "decodes": days[-1]}
        replay = {**unlabelled, "replay": {"sessions": days, "weight": 0.5}}
        all_but = {"freeze": ["covariates"]}
        exports = {
            "spikes, first projection": ("p", unlabelled, {**readin, **spikes}),
            "spikes, covariate head frozen": (
                "a",
                unlabelled,
                {**readin, **spikes, **all_but},
            ),
            "spikes, with replay": ("r", replay, {**readin, **spikes}),
            "with its labels": ("l", one, readin),
        }
        row = {"day": day, "as it is": r2(first, corpus, name, days[-1])}
        for label, (short, data, train) in exports.items():
            export = fitted(args.folder, f"{name}-{short}", first, data, **train)
            row[label] = r2(export, corpus, name, name)
        rows.append({k: f"{v:.4f}" if isinstance(v, float) else v for k, v in row.items()})
        log.say(str(rows[-1]))
    told = f"R2 of the test half; the decoder was fitted to days 1 to {args.first} together"
    text = f"{header(' '.join(['python', *sys.argv]))}\n\n{told}\n{text_table(rows)}\n"
    log.say(f"\n{text}\n{save('adapt', text)}")


if __name__ == "__main__":
    log.run_program(main)
