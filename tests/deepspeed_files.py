"""Checkpoint folders as Lightning's DeepSpeed strategy writes them, made by DeepSpeed itself.

Two forked ranks take a few steps with modules that have upstream's parameters under its names, and
let the engine save. What its fp32 masters were is written beside each folder.
"""

import gc
import os
import signal
import socket
from pathlib import Path

import torch
from forks import forks
from lightning_file import POISSON, SMALL, hyper_parameters, settings, upstream_modules
from lightning_file import upstream_state as state_of
from safetensors.torch import save_file

from ndt3_dist.engines.compile_ops import find_tools
from ndt3_dist.engines.engine import unname_buffers

RANKS = 2
FROZEN = "backbone.space_encoder.weight"
VARIANTS = {
    "bf16_1": {"stage": 1},
    "bf16_2": {"stage": 2, "frozen": True, "shared": True, "groups": 2},
    "bf16_3": {"stage": 3, "frozen": True, "shared": True},
    "fp32_0": {"stage": 0},
}


class Part(torch.nn.Module):
    """Its forward is a loss of its own parameters, then of its parts: ZeRO-3 gathers them so."""

    def forward(self):
        own = [(p.float() ** 2).sum() for p in self.parameters(recurse=False) if p.requires_grad]
        return sum([*own, *(part() for part in self.children())], torch.zeros(()))


class Upstream(Part):
    """A module with a state dict's entries, whatever it is for."""

    def __init__(self, state: dict, frozen: bool = False, shared: bool = False):
        super().__init__()
        for key, value in state.items():
            *parents, last = key.split(".")
            inside = self
            for name in parents:
                if name not in inside._modules:
                    inside.add_module(name, Part())
                inside = inside._modules[name]
            assert inside is not None
            if not torch.is_tensor(value):
                self.extra = value
            elif key == POISSON:
                inside.register_buffer(last, value)
            else:
                grad = not (frozen and key == FROZEN)
                inside.register_parameter(last, torch.nn.Parameter(value, requires_grad=grad))
        if shared:
            self.tied = Part()
            self.tied.register_parameter("weight", self.start_of_sentence)

    def get_extra_state(self):
        return self.extra

    def set_extra_state(self, state):
        self.extra = state


class Wrapped(Part):
    """What Lightning hands to DeepSpeed."""

    def __init__(self, module: torch.nn.Module):
        super().__init__()
        self._forward_module = module


def engine_of(stage: int, frozen=False, shared=False, groups=1):
    """A DeepSpeed engine over upstream's parameters."""
    import deepspeed

    wrapped = Wrapped(Upstream(state_of(SMALL, stage, tuned=False), frozen, shared))
    trained = [p for p in wrapped.parameters() if p.requires_grad]
    parts = [{"params": trained[n::groups]} for n in range(groups)]
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "bf16": {"enabled": stage > 0},
        "data_types": {"grad_accum_dtype": "fp32"} if stage == 1 else {},
        "zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 100},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    adamw = torch.optim.AdamW(parts, lr=1e-3)
    return deepspeed.initialize(model=wrapped, optimizer=adamw, config=config)[0]


def masters_of(engine) -> dict[str, torch.Tensor]:
    """fp32 weights by name; those of frozen parameters as they are used."""
    import deepspeed
    from deepspeed.utils import safe_get_full_fp32_param

    found = {}
    for name, p in engine.module.named_parameters():
        full = safe_get_full_fp32_param(p) if p.requires_grad else None
        if full is None:
            with deepspeed.zero.GatheredParameters([p]):
                full = p.detach().float()
        found[name.removeprefix("_forward_module.")] = full.clone().contiguous()
    return found


def run_rank(rank: int, port: int, out: str) -> None:
    job = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": RANKS, "LOCAL_SIZE": RANKS}
    job |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "DS_ACCELERATOR": "cpu"}
    os.environ.update({key: str(value) for key, value in job.items()})
    torch.set_num_threads(1)
    gc.freeze()  # DeepSpeed collects again and again as it begins
    find_tools()
    import deepspeed

    deepspeed.init_distributed("gloo", verbose=False)

    unname_buffers()
    for name, options in VARIANTS.items():
        engine = engine_of(**options)
        for _ in range(2):
            engine.backward(engine())
            engine.step()
        with upstream_modules() as modules:
            client = {
                "epoch": 4,
                "global_step": 7,
                "pytorch-lightning_version": "2.3.0",
                "hyper_parameters": hyper_parameters(modules, settings(SMALL, tuned=False)),
            }
            engine.save_checkpoint(f"{out}/{name}.ckpt", client_state=client, tag="checkpoint")
        masters = masters_of(engine)
        if rank == 0:
            save_file(masters, f"{out}/{name}.masters")
    torch.distributed.barrier()


def write_folders(out: Path) -> None:
    """NAME.ckpt of each variant, and NAME.masters beside it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [forks().Process(target=run_rank, args=(r, port, str(out))) for r in range(RANKS)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
        if process.is_alive():
            os.kill(process.pid or 0, signal.SIGKILL)
    assert [process.exitcode for process in ranks] == [0] * RANKS
