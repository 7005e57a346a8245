"""Decode words from iEEG: any decoder at any lag, beside baselines, chance and controls.

Configs are YAML of this project or of the podcast benchmark, of both of its generations.

Example:
    ndt3 words demo runs/words_demo
    ndt3 words prepare --config words_glove.yaml --task_config.data_params.data_root=ds005574
    ndt3 words run --config words_glove.yaml --training_params.min_lag=-1000 --workers 8
"""

import argparse
from pathlib import Path

from ndt3_dist import log
from ndt3_dist.config import find_file
from ndt3_dist.errors import BadInput


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(dest="part", required=True, metavar="PART")
    for name, what in (
        ("run", "run an experiment, or go on with it"),
        ("prepare", "make the corpus of an experiment alone"),
        ("show", "print the config as it is understood"),
    ):
        part = parts.add_parser(name, help=what)
        part.add_argument("--config", required=True, help="YAML file or name of a shipped config")
        if name != "show":
            add_workers(part)
    demo = parts.add_parser("demo", help="simulate two subjects, decode them, draw the scores")
    demo.add_argument("out", nargs="?", default="runs/words_demo", help="folder (%(default)s)")
    add_workers(demo)
    args, overrides = parser.parse_known_args()
    for override in overrides:
        if "=" not in override:
            parser.error(f"unknown argument {override}; expected --dotted.key=value")
    if args.part == "demo":
        run_demo(Path(args.out), overrides, workers_of(args), args.ray_address)
        return
    from ndt3_dist.tasks.words.foreign_yaml import read_stages

    stages = read_stages(find_file(args.config, "configs"), overrides)
    if args.part == "show":
        import yaml

        log.say(yaml.safe_dump_all([s.model_dump(mode="json") for s in stages], sort_keys=False))
        return
    if args.part == "prepare":
        from ndt3_dist.tasks.words.prepare_words import corpus_of

        for stage in stages:
            log.say(corpus_of(stage, workers_of(args), args.ray_address))
        return
    from ndt3_dist.tasks.words.run_stages import run

    run(stages, workers_of(args), args.ray_address)


def add_workers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workers", default="auto", help="of a Ray of its own; 0 = this process; default auto"
    )
    parser.add_argument("--ray-address", default="", help="HOST:PORT of a Ray that runs already")


def workers_of(args: argparse.Namespace) -> int | str:
    if args.workers == "auto":
        return "auto"
    if not args.workers.isdigit():
        raise BadInput(f"--workers {args.workers}: expected auto, or a whole number from 0")
    return int(args.workers)


def run_demo(out: Path, overrides: list[str], workers: int | str, address: str) -> None:
    """A simulated story of two subjects, decoded at eight lags."""
    from ndt3_dist.tasks.words.foreign_yaml import read_stages
    from ndt3_dist.tasks.words.run_stages import run
    from ndt3_dist.tasks.words.simulated_story import write_story

    story = out / "story"
    if not (story / "participants.tsv").is_file():
        with log.waiting("simulating a story"):
            write_story(story)
    told = [
        f"task_config.data_params.data_root={story}",
        f"output_dir={out}",
        f"checkpoint_dir={out / 'checkpoints'}",
        *overrides,
    ]
    run(read_stages(find_file("words_demo.yaml", "configs"), told), workers, address)


if __name__ == "__main__":
    log.run_program(main)
