"""What the plan reckons a rank to hold and to send, beside what DeepSpeed's engine did.

Each case is a run of so many processes on this machine's CPU: the engine of pretraining, two steps
of two micro-batches of one row. Memory is the sum of torch's allocations at its peak in the second
step, as torch's profiler saw them; bytes sent are those of the tensors that collectives were given
in it. 350M parameters on two ranks need some 24 GB; see `free -g` first.

Example:
    python benchmarks/plan_memory.py --stages 1 2 3
    python benchmarks/plan_memory.py --configs big_350m_2kh.yaml --row-tokens 2048 --stages 1
"""

import argparse
import functools
import json
import multiprocessing
import os
import socket
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch

from ndt3_dist import log
from ndt3_dist.cluster.plan.network import volumes
from ndt3_dist.config import find_file, load_config
from ndt3_dist.engines.memory import count_parameters, memory_of
from ndt3_dist.model.example import windows
from ndt3_dist.model.ndt3 import NDT3
from ndt3_dist.model.tokens import PackedTokens
from ndt3_dist.shards.summary import text_table
from ndt3_dist.train.pretrain_config import PretrainConfig

sys.path.insert(0, str(Path(__file__).parent))
from hardware import header, save

MICRO_BATCHES, STEPS = 2, 2
COLLECTIVES = {
    "all_reduce": 0,
    "reduce": 0,
    "broadcast": 0,
    "all_gather_into_tensor": 0,
    "reduce_scatter_tensor": 1,
    "all_gather": 1,
}
"""Name -> which argument is the whole, or this rank's part of it (`all_gather`)."""


def config_of(name: str, stage: int, ranks: int, row_tokens: int) -> PretrainConfig:
    given = [f"train.zero_stage={stage}", "train.micro_batch=1", f"data.row_tokens={row_tokens}"]
    given += [f"train.global_batch={MICRO_BATCHES * ranks}"]
    return load_config(PretrainConfig, find_file(name, "configs"), given)


def row_of(config: PretrainConfig) -> dict:
    """Arrays of a row as full as windows of an equal length make it, of one at least."""
    length = len(windows(config.ndt3, 1)["time"])
    return windows(config.ndt3, max(1, config.data.row_tokens // length))


def count_calls(sent: Counter) -> None:
    """From here on, bytes that collectives are given are counted by name."""
    for name, which in COLLECTIVES.items():
        call = getattr(torch.distributed, name)

        @functools.wraps(call)
        def counting(*args, _call=call, _name=name, _which=which, **kwargs):
            tensor = args[_which] if len(args) > _which else next(iter(kwargs.values()))
            sent[_name] += tensor.nbytes
            return _call(*args, **kwargs)

        setattr(torch.distributed, name, counting)


def run_rank(rank: int, case: tuple, port: int, out: str) -> None:
    """One process of a case; the last rank writes what it found."""
    name, stage, ranks, row_tokens = case
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks), LOCAL_SIZE=str(ranks),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), DS_ACCELERATOR="cpu",
    )  # fmt: skip
    config, sent = config_of(name, stage, ranks, row_tokens), Counter()
    count_calls(sent)
    from ndt3_dist.engines.engine import DeepSpeedEngine, start_distributed

    start_distributed()
    arrays = row_of(config)
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        torch.manual_seed(0)
        engine = DeepSpeedEngine(config.optim, config.train, 0, NDT3(config.ndt3), ranks)
        tokens = PackedTokens.from_numpy(arrays)
        for step in range(STEPS):
            sent.clear()
            began = time.time_ns()
            for number in range(MICRO_BATCHES):
                engine.micro_step(tokens, [1000, 100], (step, number))
                if number < MICRO_BATCHES - 1:
                    engine.accumulated()
            engine.step(1e-4)
    if rank == ranks - 1:
        found = {"peak": peak_since(profile, began), "sent": dict(sent)}
        found["tokens"] = tokens.num_tokens
        Path(out).write_text(json.dumps(found))
    torch.distributed.barrier()
    os._exit(0)  # nothing is to be told of what DeepSpeed leaves behind


def peak_since(profile, began: int) -> int:
    """Most bytes that torch had allocated at once, since a time in ns."""
    events = profile.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    now = peak = 0
    for when, number in changes:
        now += number
        peak = max(peak, now) if when >= began else peak
    return peak


def measured(case: tuple) -> dict:
    """What the engine did, in fresh processes."""
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        out, context = f"{folder}/found.json", multiprocessing.get_context("spawn")
        every = [
            context.Process(target=run_rank, args=(r, case, port, out)) for r in range(case[2])
        ]
        for process in every:
            process.start()
        for process in every:
            process.join()
        return json.loads(Path(out).read_text())


def rows_of(case: tuple) -> tuple[dict, dict]:
    """A row of each table."""
    name, stage, ranks, row_tokens = case
    config = config_of(name, stage, ranks, row_tokens)
    found = measured(case)
    size = config.ndt3, config.train, found["tokens"], ranks
    reckoned = memory_of(*size, gpu=False).total
    known = {"config": name.removesuffix(".yaml"), "ZeRO": stage, "tokens": found["tokens"]}
    off = reckoned / found["peak"] - 1
    memory = {"plan MB": f"{reckoned / 1e6:,.0f}", "torch MB": f"{found['peak'] / 1e6:,.0f}"}
    parts = volumes(count_parameters(config.ndt3), config.train, MICRO_BATCHES)
    sent = sum(found["sent"].values())
    named = ", ".join(f"{k} {v / 1e6:,.0f}" for k, v in found["sent"].items() if v > 1e5)
    planned = sum(v.bytes * v.times for v in parts)
    network = {"plan MB": f"{planned / 1e6:,.0f}", "given MB": f"{sent / 1e6:,.0f}"}
    return {**known, **memory, "off": f"{off:+.1%}"}, {**known, **network, "by": named}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--configs", nargs="+", default=["base_45m_200h.yaml"])
    parser.add_argument("--stages", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--row-tokens", type=int, default=4096)
    parser.add_argument("--name", default="plan_memory", help="of the result")
    args = parser.parse_args()
    tables: tuple[list, list] = [], []
    for name in args.configs:
        for stage in args.stages:
            for table, row in zip(
                tables, rows_of((name, stage, args.ranks, args.row_tokens)), strict=True
            ):
                table.append(row)
                log.say(str(row))
    text = (
        f"{header('python benchmarks/plan_memory.py')}\n{args.ranks} ranks on a CPU, "
        f"{MICRO_BATCHES} micro-batches of one row a step; the second step\n\n"
        f"a rank's peak\n{text_table(tables[0])}\n\n"
        f"given to collectives by a rank\n{text_table(tables[1])}\n"
    )
    log.say(f"\n{text}{save(args.name, text)}")


if __name__ == "__main__":
    log.run_program(main)
