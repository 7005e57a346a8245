"""Make one corpus of several, which a run may take in any proportion (`data.mixture`).

Shards are linked where all lies on one disk, copied on the store's side within a store, and through
this host otherwise. The new corpus owns its bytes: a session that is withdrawn has to be taken out
of it as well. With weights the lines that a run's config needs are printed.

Example:
    python data_prep/combine.py corpora/both corpora/reach=3 corpora/grasp=1
"""

import argparse

import yaml

from ndt3_dist import log
from ndt3_dist.errors import BadInput
from ndt3_dist.prep.combine import combine, patterns
from ndt3_dist.shards.manifest import read_manifest


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", help="folder or s3:// URL of the new corpus")
    parser.add_argument("corpora", nargs="+", metavar="CORPUS[=WEIGHT]", help="folders or URLs")
    args = parser.parse_args()
    given = [split(text) for text in args.corpora]
    corpora, weights = [path for path, _ in given], [weight for _, weight in given]
    if weights and not any(weight is None or weight for weight in weights):
        raise BadInput(f"all weights are 0: {' '.join(args.corpora)}; nothing would be trained on")
    manifest = combine(args.out, corpora)
    windows = sum(s.samples for s in manifest.shards)
    log.say(
        f"{args.out}: {len(manifest.sessions)} sessions, {windows} windows in "
        f"{len(manifest.shards)} shards, fingerprint {manifest.fingerprint[:12]}"
    )
    if any(weight is not None for weight in weights):
        named = patterns([read_manifest(path) for path in corpora])
        mixture = [
            {"sessions": sessions, "weight": 1.0 if weight is None else weight}
            for sessions, weight in zip(named, weights, strict=True)
            if sessions
        ]
        data = {"data": {"corpus": args.out, "mixture": mixture}}
        log.say(yaml.safe_dump(data, sort_keys=False).rstrip())


def split(text: str) -> tuple[str, float | None]:
    """CORPUS=WEIGHT as both; a text without a number behind its last '=' is a path."""
    path, _, weight = text.rpartition("=")
    try:
        number = float(weight) if path else None
    except ValueError:
        number = None
    if number is None:
        return text, None
    if not 0 <= number < float("inf"):
        raise BadInput(f"{text}: weight {weight}; expected 0 or more")
    return path, number


if __name__ == "__main__":
    log.run_program(main)
