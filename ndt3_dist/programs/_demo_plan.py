"""What `demo` makes of the time that it has: passes of pretraining, steps of fine-tuning."""

from pathlib import Path

from ndt3_dist import log
from ndt3_dist.config import find_file, load_config
from ndt3_dist.programs._stages import program
from ndt3_dist.shards.corpus import Corpus
from ndt3_dist.train.throughput import Speed
from ndt3_dist.tune.tune_config import TuneConfig

TUNE = "tune_demo.yaml"
HISTORY = 10
"""Bins of counts that the closed-form readout sees."""
SECONDS = 130
"""Of pretraining, about: the whole then takes less than five minutes on two slow cores."""
PASSES = 4, 8
"""Over simulated recordings: the fewest worth showing, and the most that still help."""
TUNE_SECONDS = 50
"""Of fine-tuning on one's own recording, about, and of training from scratch beside it."""
HELD_BINS = 1000
"""Of one's own recording that a fine-tune holds back, at most: they are scored several times."""


def planned_passes(args, configured: float, speed: Speed) -> float:
    """Passes over the corpus: those asked for, or those that end in time, with the share said."""
    if args.passes:
        return args.passes
    fit = speed.passes(SECONDS, args.ranks)
    if not args.recordings:
        return round(min(max(fit, PASSES[0]), PASSES[1]), 1)
    if args.full:
        return max(configured, round(fit, 1))
    passes = float(f"{fit:.2g}")
    log.say(
        f"{passes:g} passes over {speed.windows} windows end in time, {passes / configured:.0%} of "
        f"the {configured:g} in configs/demo.yaml"
        + ("" if passes >= configured else "; --full makes all of them")
    )
    return passes


def tunings(args, run: Path, export: Path, corpus: str, speed: Speed | None) -> dict[str, list]:
    """Commands of the decoders that are fitted, by name.

    Args:
        args: Of the demo.
        run: Folder that they lie in.
        export: The pretrained model.
        corpus: Of the session.
        speed: Of this machine; None = as many steps as there may be.
    """
    config = load_config(TuneConfig, find_file(TUNE, "configs")).train
    steps = {"finetuned": config.steps, "scratch": 160}
    every = {"finetuned": config.eval_every, "scratch": 20}
    held = {"finetuned": 0.05, "scratch": 0.1}
    # From scratch all weights learn, at a rate of their own and for more steps.
    extra = {"finetuned": [], "scratch": ["--scratch", "optim.lr=1e-3"]}
    if args.recordings:
        # Minutes of data, unlike one of them, can move all weights.
        extra["finetuned"] = ["train.freeze=[]", "optim.lr=3e-4"]
        bins = int(Corpus(corpus, ("train",)).index["bins"].sum())
        held = {name: min(share, HELD_BINS / bins) for name, share in held.items()}
        fit = steps["scratch"]
        if speed and not args.full:
            fit = speed.steps(TUNE_SECONDS, config.batch)
        if fit < steps["scratch"]:
            log.say(f"{fit} of {steps['scratch']} steps of fine-tuning fit; --full makes all")
        steps = {name: min(fit, n) for name, n in steps.items()}
    else:
        # Hidden states must be of a model that was not trained on the bins to fit: of one's own
        # recording there are none.
        extra["readout"] = []
    common = ["--config", TUNE, "--init", str(export), f"data.corpus={corpus}", f"run.dir={run}"]
    common += [f"run.seed={args.seed}", *(["data.fit=train"] if args.recordings else [])]
    found = {}
    for name in sorted(extra):
        options = ["train.steps=0", f"readout.history=[{HISTORY}]"]
        if n := steps.get(name):
            options = [f"train.steps={n}", f"optim.decay_epochs={n}"]
            options += [f"optim.warmup_epochs={min(10, n // 4)}"]
            options += [f"train.eval_every={min(n, every[name])}"]
            options += [f"data.val_fraction={held[name]:.4g}"]
        found[name] = [*program("finetune"), *common, f"run.name={name}", *extra[name], *options]
    return found
