"""What the weights of a run or an export have seen, stage of training by stage, oldest first.

Recordings are known by the hashes of their files, so that one that has another name in another
corpus is the same. Exports of earlier versions and of other programs do not say.

Example:
    python checkpoints/lineage.py runs/tune_demo/export
    ndt3 lineage runs/demo --sessions
"""

import argparse
import json
from pathlib import Path

from ndt3_dist import log, storage
from ndt3_dist.errors import BadInput
from ndt3_dist.shards.summary import text_table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", help="folder of a run or an export, on a disk or in a store")
    parser.add_argument("--sessions", action="store_true", help="list them, with their hashes")
    parser.add_argument("--json", action="store_true", help="as data")
    args = parser.parse_args()
    stages = stages_of(args.path)
    if args.json:
        log.say(json.dumps(stages, indent=1))
        return
    log.say(text_table([row_of(number, stage) for number, stage in enumerate(stages, 1)]))
    if args.sessions:
        for number, stage in enumerate(stages, 1):
            for name, sha256 in (stage["sessions"] or {}).items():
                log.say(f"{number}  {name}  {sha256}")


def stages_of(path: str) -> list[dict]:
    """Stages behind an export, or behind the newest step of a run; of a fine-tune its export's.

    Raises:
        BadInput: There is neither.
    """
    with log.waiting("loading torch"):
        from ndt3_dist.checkpoint.lineage import FILE, at_step, of_export
        from ndt3_dist.checkpoint.local_export import local_export
        from ndt3_dist.checkpoint.steps import newest
        from ndt3_dist.model.load import read_export_config

    is_run = not path.startswith("hf://") and storage.exists(storage.join(path, FILE))
    if is_run and (last := newest(path, log.warn)):
        return at_step(path, last.meta["step"], last.meta["epochs"]) or []
    if storage.is_remote(path):
        return of_export(read_export_config(local_export(path, ("config.json",))))
    for folder in (Path(path), Path(path) / "export"):
        if (folder / "normalisation.json").is_file() and (folder / "config.json").is_file():
            return of_export(read_export_config(folder))
    raise BadInput(f"{path}: no run with {FILE} and a checkpoint, and no export")


def row_of(number: int, stage: dict) -> dict[str, str]:
    sessions = stage["sessions"]
    return {
        "stage": str(number),
        "corpus": str(stage["corpus"])[:12],
        "split": stage["split"],
        "steps": str(stage["steps"]),
        "passes": f"{stage['epochs']:.2f}" if "epochs" in stage else "",
        "sessions": "not written down" if sessions is None else str(len(sessions)),
    }


if __name__ == "__main__":
    log.run_program(main)
