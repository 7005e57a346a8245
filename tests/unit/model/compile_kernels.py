"""Compile the fused kernels as the 350M model calls them; prints registers and spilled bytes."""

import re
import subprocess
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ndt3_dist.model import kernels

TYPES = {
    **dict.fromkeys(("residual", "total", "mean", "rstd", "d_total", "d_residual"), "*fp32"),
    **dict.fromkeys(("cos", "sin", "d_weights"), "*fp32"),
    **dict.fromkeys(("scale", "eps"), "fp32"),
    **dict.fromkeys(("targets", "loss", "d_loss"), "*fp32"),
    **{"counts": "*u8", "channels": "*i64"},
    **{"seed": "*i64", "threshold": "i64", "tokens": "i32"},
}
"""Of arguments; all others are *bf16."""
ROW = {"WIDTH": 2048, "BLOCK": 2048}
HEADS = {"HEADS": 16, "HALF": 64, "ROWS": 32, "BLOCK": 64}
SPIKES = {"CHANNELS": 32, "CLASSES": 22, "ROWS": 32, "BLOCK": 32}
CALLS = {
    kernels.add_norm_forward: {**ROW, "DROPS": True},
    kernels.add_norm_backward: {**ROW, "ADDS": True, "DROPS": True},
    kernels.norm_rotate_forward: HEADS,
    kernels.norm_rotate_backward: HEADS,
    kernels.swiglu_forward: ROW,
    kernels.swiglu_backward: ROW,
    kernels.spike_loss_forward: SPIKES,
    kernels.spike_loss_backward: SPIKES,
}
PTXAS = Path(triton.__file__).parent / "backends/nvidia/bin/ptxas"


def main() -> None:
    for capability, arch in ((80, "sm_80"), (90, "sm_90a")):
        for kernel, constants in CALLS.items():
            kinds = {
                name: "constexpr" if name in constants else TYPES.get(name, "*bf16")
                for name in kernel.arg_names
            }
            values = {(kernel.arg_names.index(name),): v for name, v in constants.items()}
            source = ASTSource(fn=kernel, signature=kinds, constexprs=values)
            target = GPUTarget("cuda", capability, 32)
            built = triton.compile(source, target=target, options={"num_warps": 8})
            with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
                file.write(built.asm["ptx"])
                file.flush()
                call = [PTXAS, "-v", f"-arch={arch}", file.name, "-o", "/dev/null"]
                told = subprocess.run(call, capture_output=True, text=True, check=True).stderr
            (registers,) = re.findall(r"Used (\d+) registers", told)
            (spilled,) = re.findall(r"(\d+) bytes spill stores", told)
            print(kernel.fn.__name__, arch, registers, spilled)


if __name__ == "__main__":
    main()
