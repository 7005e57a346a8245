"""Upload an export, with its card, to a bucket or to a repository on Hugging Face's hub.

Its config.json goes last, on a hub all of it in one commit: an upload that was cut is no export
there, and the same command makes it anew. What lies in its folder besides is left out. A repository
has to be there: `hf repos create ORG/NAME --private` makes one.

Examples:
    python checkpoints/push.py runs/tune_demo/export s3://lab/exports/tuned
    python checkpoints/push.py runs/tune_demo/export hf://lab/tuned
"""

import argparse
from pathlib import Path

from ndt3_dist import log, storage
from ndt3_dist.errors import BadInput, CheckpointCorrupt


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("export", help="folder of an export")
    parser.add_argument(
        "to",
        metavar="ADDRESS",
        help="s3://BUCKET/FOLDER or hf://ORG/NAME[@BRANCH], where there is none yet",
    )
    args = parser.parse_args()
    size = push(Path(args.export), args.to)
    log.say(f"{args.to}: {size / 1e6:.1f} MB of {args.export}")


def push(folder: Path, to: str) -> int:
    """Upload the files of an export; their bytes.

    Raises:
        BadInput: `to` is no such address, or holds an export.
        CheckpointCorrupt: `folder` is no whole export.
        FileNotFoundError, PermissionError, StoreFailed: As `Hub.push`.
    """
    with log.waiting("loading torch"):
        from ndt3_dist.checkpoint.hub import Hub
        from ndt3_dist.checkpoint.local_export import CONFIG, FILES, lacking
        from ndt3_dist.model.load import read_export_config
        from ndt3_dist.upstream.from_ndt3 import OPTIMIZER

    if not storage.is_remote(to) or to.startswith("http"):
        raise BadInput(f"{to}: expected s3://BUCKET/FOLDER or hf://ORG/NAME")
    hub = Hub(to) if to.startswith("hf://") else None
    config = read_export_config(folder)
    there = [n for n in (*FILES, OPTIMIZER) if n != CONFIG and (folder / n).is_file()]
    if missing := lacking(config, there):
        raise CheckpointCorrupt(f"{folder}: lacks {', '.join(missing)}; export again")
    if hub.look((CONFIG,)) if hub else storage.exists(storage.join(to, CONFIG)):
        raise BadInput(f"{to}: holds an export; choose another address or remove it")
    if hub:
        files = [folder / name for name in (*there, CONFIG)]
        hub.push(files)
        return sum(file.stat().st_size for file in files)
    size = 0
    for name in (*there, CONFIG):
        file = folder / name

        def pieces(file: Path = file):
            return log.progress_bytes(storage.chunks(file), file.name, file.stat().st_size)

        size += storage.write_pieces(storage.join(to, name), pieces)
    return size


if __name__ == "__main__":
    log.run_program(main)
