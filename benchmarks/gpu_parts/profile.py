"""Where a 350M training step goes: its longest kernels, and the share of each group."""

import re

import torch
from gpu_parts.common import DEVICE, Table, config_of, measure, read_box, training_step
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from ndt3_dist import log
from ndt3_dist.model.example import windows
from ndt3_dist.model.ndt3 import NDT3

GROUPS = {
    "attention": r"flash|fmha|attention",
    "ours": r"^_?(add_norm|norm_rotate|swiglu)",
    "products": r"gemm|gemv|nvjet|xmma|cutlass|cublas|splitk|aten::(add)?mm|aten::bmm|linear",
}
"""By the names of kernels, the first that fits; flash kernels name cutlass, too."""
REST = "the rest"
KERNELS = 25


def group_of(kernel: str) -> str:
    """products, attention, ours, or the rest."""
    fits = (group for group, words in GROUPS.items() if re.search(words, kernel, re.IGNORECASE))
    return next(fits, REST)


def times(found: profile) -> list[tuple[str, float, int]]:
    """Name, seconds and calls of each kernel; of each operator on a CPU. The longest first."""
    events = found.key_averages()
    if DEVICE == "cuda":
        # Ranges that libraries mark appear among the kernels that they span.
        marks = {e.key for e in events if getattr(e, "is_user_annotation", False)}
        marks |= {e.key for e in events if e.key.startswith(("Optimizer.", "ProfilerStep"))}
        rows = [
            (e.key, e.self_device_time_total / 1e6, e.count)
            for e in events
            if e.device_type == DeviceType.CUDA and e.key not in marks
        ]
    else:
        rows = [(e.key, e.self_cpu_time_total / 1e6, e.count) for e in events]
    return sorted(rows, key=lambda row: -row[1])


def main() -> None:
    box = read_box(__doc__)
    config = config_of("350M", box.short)
    torch.manual_seed(0)
    with torch.device(DEVICE):
        model = NDT3(config.ndt3)
    step = training_step(model, config, windows(config.ndt3, 1 if box.short else 40))
    took, _ = measure(step)
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if DEVICE == "cuda" else [])]
    with profile(activities=kinds) as found:
        step()
        if DEVICE == "cuda":
            torch.cuda.synchronize()
    rows = times(found)
    total, groups = sum(seconds for _, seconds, _ in rows), dict.fromkeys((*GROUPS, REST), 0.0)
    for name, seconds, _ in rows:
        groups[group_of(name)] += seconds
    log.say(f"a step takes {took * 1e3:.1f} ms unobserved, its kernels {total * 1e3:.1f} ms")
    table = Table("share of   ms        share")
    for group, seconds in groups.items():
        table.add(group, f"{seconds * 1e3:.2f}", f"{seconds / total:.1%}")
    log.say()
    table = Table("ms        share   calls  group      kernel")
    for name, seconds, calls in rows[:KERNELS]:
        cells = f"{seconds * 1e3:.2f}", f"{seconds / total:.1%}", calls, group_of(name), name[:90]
        table.add(*cells)


if __name__ == "__main__":
    log.run_program(main)
