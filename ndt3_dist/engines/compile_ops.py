"""Compile what DeepSpeed would otherwise compile at the start of the first CPU run.

Run as `python -m ndt3_dist.engines.compile_ops`, as setup does; without a compiler it says so.
"""

import os
import sys
from pathlib import Path


def find_tools() -> None:
    """Put this interpreter's own programs first: `ninja` is there, activated or not.

    DeepSpeed compiles with the first one on PATH, and again wherever that is another version.
    """
    here = str(Path(sys.executable).parent)
    if os.environ.get("PATH", "").split(os.pathsep)[0] != here:
        os.environ["PATH"] = os.pathsep.join([here, os.environ.get("PATH", "")])


def main() -> None:
    find_tools()
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    if os.environ["DS_ACCELERATOR"] != "cpu":
        return
    from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder

    ShareMemCommBuilder().load(verbose=False)


if __name__ == "__main__":
    main()
