"""Compile what DeepSpeed would otherwise compile at the start of the first CPU run.

Run as `python -m ndt3_dist.engines.compile_ops`, as setup does; without a compiler it says so.
"""

import os


def main() -> None:
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    if os.environ["DS_ACCELERATOR"] != "cpu":
        return
    from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder

    ShareMemCommBuilder().load(verbose=False)


if __name__ == "__main__":
    main()
