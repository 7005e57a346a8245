"""Write report.html of a run or a fine-tune, at any time, with its corpus where that is at hand.

Example:
    python launch/report.py runs/demo
"""

import argparse

import yaml

from ndt3_dist import log, plain_yaml, storage
from ndt3_dist.errors import BadInput, ManifestMismatch
from ndt3_dist.shards.manifest import read_manifest


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="folder of a run")
    run = parser.parse_args().run
    configs = [storage.join(run, name) for name in ("config.yaml", "config.json")]
    config = next((path for path in configs if storage.exists(path)), "")
    if not config:
        raise BadInput(
            f"{run}: no config.yaml and no config.json, so no run of pretrain or finetune; "
            "expected runs/NAME"
        )
    manifest = None
    try:  # JSON is YAML
        corpus = str(plain_yaml.load(storage.read_bytes(config))["data"]["corpus"])
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError) as e:
        raise BadInput(f"{config}: no config of a run ({type(e).__name__}: {e})") from e
    try:
        manifest = read_manifest(corpus)
    except ManifestMismatch as e:
        log.warn(f"the report has no corpus table: {e}")
    with log.waiting("loading torch"):
        from ndt3_dist.pages.run_page import write_report

    with log.waiting("drawing the report"):
        path = write_report(run, manifest)
    log.say(str(path))


if __name__ == "__main__":
    log.run_program(main)
