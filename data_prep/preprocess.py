"""Turn recordings into a corpus of WebDataset shards on a local or a running Ray.

Example:
    python data_prep/preprocess.py --recipe nwb.yaml source=nwb/ out=corpora/mine dataset=mine
"""

import argparse

from ndt3_dist import log
from ndt3_dist.config import find_file
from ndt3_dist.prep.job import prepare
from ndt3_dist.prep.recipe import load_recipe
from ndt3_dist.shards.report import corpus_table


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", required=True, help="YAML file or name of a shipped recipe")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="recipe keys to change")
    args = parser.parse_args()
    recipe = load_recipe(find_file(args.recipe, "data_prep/recipes"), args.overrides)
    manifest = prepare(recipe)
    log.say(corpus_table(manifest))
    log.say(f"corpus {manifest.fingerprint[:12]} at {recipe.out}")
    for failure in manifest.failed:
        log.warn(f"left out {failure.source}: {failure.error}")
    return 1 if manifest.failed and not recipe.allow_failures else 0


if __name__ == "__main__":
    log.run_program(main)
