"""The path that users take: `deepspeed launch/pretrain.py`, ZeRO-1, on one device, with the stream.

Figures are those of its metrics.jsonl, without the first steps.
"""

from gpu_parts.common import SIZES, TINY, Table, read_box
from gpu_parts.runs import start, succeeded

from ndt3_dist import log
from ndt3_dist.train.run_metrics import read_metrics

ROWS = {"45M": (32, 64), "350M": (8, 16)}
"""Of 4,096 tokens: a micro-batch, a step."""
WARM, STEPS = {False: 4, True: 1}, {False: 8, True: 3}
"""Steps that are not counted, and those that are; in the short form."""


def overrides(size: str, short: bool) -> list[str]:
    """Of the shipped config: a few steps, none of them saved but the last."""
    micro, rows = (1, 2) if short else ROWS[size]
    found = [f"train.global_batch={rows}", f"train.micro_batch={micro}"]
    found += ["checkpoint.every_steps=1000", "validation.every_steps=0"]
    found += [f"train.max_steps={WARM[short] + STEPS[short]}"]
    return found + ([*TINY, "data.row_tokens=1024"] if short else [])


def cells(lines: list[dict]) -> tuple[str, ...]:
    """What steps came to: ms, tokens/s, MFU, share that waited for the stream, memory."""
    seconds = sum(m["step_s"] for m in lines)
    rate = sum(m["tokens"] for m in lines) / seconds
    mfu = sum(m.get("mfu", 0) * m["step_s"] for m in lines) / seconds
    waits = sum(m["wait_s"] for m in lines) / seconds
    most = max(m["memory_gb"] for m in lines)
    took = f"{seconds / len(lines) * 1e3:.1f}"
    return took, f"{rate:,.0f}", f"{mfu:.1%}" if mfu else "-", f"{waits:.1%}", f"{most:.1f}"


def main() -> int:
    box = read_box(__doc__)
    warm, well = WARM[box.short], True
    log.say(f"the first {warm} steps are not counted")
    table = Table("size   micro-batch  rows   steps  ms       tokens/s   MFU     wait    memory GB")
    for size in box.sizes:
        given = overrides(size, box.short)
        rows, micro = (word.split("=")[1] for word in given[:2])
        run = start(box, size, f"{SIZES[size]}.yaml", given, launcher=True)
        if not succeeded(box, size, run):
            table.add(size, micro, rows, "failed")
            well = False
            continue
        lines = read_metrics(box.work / "runs" / size)[warm:]
        table.add(size, micro, rows, len(lines), *cells(lines))
    return int(not well)


if __name__ == "__main__":
    log.run_program(main)
