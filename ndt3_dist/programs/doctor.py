"""What this machine can do, and what it lacks for GPUs or a cluster.

Example:
    python -m ndt3_dist.programs.doctor
"""

import argparse
import importlib.metadata
import importlib.util
import os
import platform
import shutil

import ndt3_dist
from ndt3_dist import log

PACKAGES = ("torch", "deepspeed", "ray", "flash-attn", "triton", "webdataset", "wandb")


def versions() -> dict[str, str]:
    """Versions of this package, Python, CUDA as torch has it, and what it runs on."""
    found = {"ndt3_dist": ndt3_dist.__version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    found["CUDA"] = "none"
    if importlib.util.find_spec("torch"):
        import torch

        found["CUDA"] = torch.version.cuda or "none"
    return found


def findings() -> list[dict]:
    """A row for each thing that a stage needs: whether it is there, and what to do where not."""

    def row(what: str, there: bool, found: str, advice: str) -> dict:
        return {"for": what, "": "ok" if there else "--", "found": found if there else advice}

    has = {name: bool(importlib.util.find_spec(name)) for name in ("ray", "pynwb", "deepspeed")}
    rows = [
        row("prepare", has["ray"] and has["pynwb"], "Ray, pynwb", "pip install 'ndt3_dist[prep]'"),
        row("pretrain", has["deepspeed"], "DeepSpeed", "pip install 'ndt3_dist[train]'"),
        row(
            "pretrain on CPUs",
            bool(shutil.which("g++")) and _has("ninja"),
            "g++ and ninja compile DeepSpeed's shared memory",
            "install g++, pip install ninja",
        ),
        row("s3:// paths", _has("s3fs"), "s3fs", "pip install 'ndt3_dist[s3]'"),
        row(
            "hf:// exports",
            _has("huggingface_hub"),
            "huggingface_hub",
            "pip install 'ndt3_dist[hub]'",
        ),
        row("evaluate --plot", _has("matplotlib"), "matplotlib", "pip install 'ndt3_dist[report]'"),
        row("W&B", _has("wandb"), "wandb", "pip install 'ndt3_dist[wandb]'"),
    ]
    return [*rows, *_devices(row), *_cluster(row)]


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _devices(row) -> list[dict]:
    """CPU, GPU, and what attention runs on there."""
    import torch

    from ndt3_dist.model import fused
    from ndt3_dist.model.attention import choose_body
    from ndt3_dist.model.linear import CPU_HAS_BF16

    cores = len(os.sched_getaffinity(0))
    bf16 = "with" if CPU_HAS_BF16 else "without"
    rows = [row("CPU", True, f"{cores} cores {bf16} bf16 instructions", "")]
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not gpus:
        no = "no CUDA device that torch sees; nvidia-smi and torch.version.cuda tell more"
        return [*rows, row("GPU", False, "", no)]
    name, capability = torch.cuda.get_device_name(), torch.cuda.get_device_capability()
    new_enough = capability >= (8, 0)
    rows.append(row("GPU", new_enough, f"{gpus} x {name}", f"{name} is older than Ampere: no bf16"))
    body = choose_body("auto", torch.device("cuda"), torch.bfloat16, dropout=0.1)
    rows.append(row("attention", body != "sdpa", body, "pip install flash-attn"))
    missing = "pip install triton: blocks run twice as long without"
    rows.append(row("kernels", fused.HAS_TRITON, "fused, by Triton", missing))
    nccl = torch.distributed.is_nccl_available()
    rows.append(row("several GPUs", nccl, "NCCL", "a torch built with NCCL"))
    return rows


def _cluster(row) -> list[dict]:
    """What runs on several hosts need."""
    ssh = shutil.which("pdsh") or shutil.which("ssh")
    slurm = shutil.which("sbatch")
    shm = shutil.disk_usage("/dev/shm").free if os.path.isdir("/dev/shm") else 0
    return [
        row("several hosts", bool(ssh), f"{ssh}", "install pdsh, or openssh-client"),
        row("SLURM", bool(slurm), f"{slurm}", "no sbatch here; deepspeed --hostfile does without"),
        row("shared memory", shm > 1e9, f"{shm / 1e9:.0f} GB free", "containers: --ipc=host"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    log.say(", ".join(f"{name} {version}" for name, version in versions().items()) + "\n")
    from ndt3_dist.shards.summary import text_table

    log.say(text_table(findings()))


if __name__ == "__main__":
    log.run_program(main)
