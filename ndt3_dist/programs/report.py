"""Write report.html of any run, at any time: loss, throughput, and the corpus where it is at hand.

Example:
    python launch/report.py runs/demo
"""

import argparse

from ndt3_dist import log, plain_yaml, storage
from ndt3_dist.errors import BadInput, ManifestMismatch
from ndt3_dist.pages.run_page import write_report
from ndt3_dist.shards.manifest import read_manifest


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="folder of a run")
    run = parser.parse_args().run
    config = storage.join(run, "config.yaml")
    if not storage.exists(config):
        raise BadInput(f"{run}: no config.yaml, so no run of pretrain; expected runs/NAME")
    manifest = None
    try:
        manifest = read_manifest(plain_yaml.load(storage.read_bytes(config))["data"]["corpus"])
    except ManifestMismatch as e:
        log.warn(f"the report has no corpus table: {e}")
    log.say(str(write_report(run, manifest)))


if __name__ == "__main__":
    log.run_program(main)
