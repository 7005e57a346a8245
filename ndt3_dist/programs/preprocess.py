"""Turn recordings into a corpus of WebDataset shards on a local or a running Ray.

Example:
    python data_prep/preprocess.py --recipe nwb.yaml source=nwb/ out=corpora/mine dataset=mine
    python data_prep/preprocess.py --recipe nwb.yaml source=nwb/ dataset=mine --dry-run
    python data_prep/preprocess.py --recipe nwb.yaml source=s3://lab/raw out=s3://lab/corpus \\
        dataset=mine allow_failures=5 ray_address=10.0.0.1:6379
"""

import argparse

from ndt3_dist import log
from ndt3_dist.config import find_file
from ndt3_dist.prep.dry_run import dry_line, dry_rows, num_broken
from ndt3_dist.prep.job import prepare
from ndt3_dist.prep.recipe import load_recipe
from ndt3_dist.shards.summary import corpus_table, text_table


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", required=True, help="YAML file or name of a shipped recipe")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="recipe keys to change")
    parser.add_argument("--dry-run", action="store_true", help="list what would be read, and stop")
    parser.add_argument(
        "--allow-failures", metavar="N", help="exit code 0 where no more recordings fail (0)"
    )
    args = parser.parse_intermixed_args()
    allowed = [f"allow_failures={args.allow_failures}"] if args.allow_failures else []
    recipe = load_recipe(find_file(args.recipe, "data_prep/recipes"), [*args.overrides, *allowed])
    if args.dry_run:
        rows = dry_rows(recipe)
        log.say(f"{text_table(rows)}\n{dry_line(rows)}")
        return 1 if num_broken(rows) > recipe.allow_failures else 0
    manifest = prepare(recipe)
    log.say(corpus_table(manifest))
    log.say(f"corpus {manifest.fingerprint[:12]} at {recipe.out}")
    for failure in manifest.failed:
        log.warn(f"left out {failure.source}: {failure.error}")
    return 1 if len(manifest.failed) > recipe.allow_failures else 0


if __name__ == "__main__":
    log.run_program(main)
