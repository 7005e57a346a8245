"""The training engine: DeepSpeed behind the few functions that the loop needs.

The only file, with `zero.py`, that imports deepspeed. Its dict is generated here from the config;
users never write one.
"""

import contextlib
import math
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from ndt3_dist import log
from ndt3_dist.checkpoint.steps import KINDS
from ndt3_dist.data.order import seed_of
from ndt3_dist.engines import zero
from ndt3_dist.engines.adamw import ClippedAdamW
from ndt3_dist.engines.aside import aside
from ndt3_dist.engines.compile_ops import find_tools, load_collective, own_extensions
from ndt3_dist.engines.engine_config import OptimConfig, TrainConfig
from ndt3_dist.engines.launcher import JOIN_WITHIN, deepspeed_names, port_of_job
from ndt3_dist.engines.phases import BACKWARD, FORWARD, OPTIMISER, Phases
from ndt3_dist.errors import BadInput
from ndt3_dist.model.contract import Output


def accumulation(train: TrainConfig, world_size: int) -> int:
    """Micro-batches per rank and step; BadInput lists the world sizes that divide the batch."""
    micro_batches = train.global_batch // train.micro_batch
    if micro_batches % world_size:
        fits = [n for n in range(1, micro_batches + 1) if micro_batches % n == 0]
        raise BadInput(
            f"train.global_batch {train.global_batch} is {micro_batches} micro-batches of "
            f"{train.micro_batch} rows, which {world_size} ranks cannot share evenly; "
            f"these can: {', '.join(map(str, fits))}"
        )
    return micro_batches // world_size


def deepspeed_dict(train: TrainConfig, world_size: int) -> dict:
    """The DeepSpeed configuration of a run."""
    offload = {"offload_optimizer": {"device": "cpu", "pin_memory": torch.cuda.is_available()}}
    return {
        "train_micro_batch_size_per_gpu": 1,  # our micro-batch is opaque to DeepSpeed
        "gradient_accumulation_steps": accumulation(train, world_size),
        "gradient_clipping": 0.0,  # ClippedAdamW does it
        "bf16": {"enabled": train.precision == "bf16"},
        # fp32 accumulation and reduction: the curve does not depend on the number of ranks.
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        "zero_optimization": {
            "stage": train.zero_stage,
            "memory_efficient_linear": False,  # costs 3e-6 of the first loss in stage 3
            "sub_group_size": 1 << 50,  # ClippedAdamW sees all that a rank holds in one step
            **(offload if train.offload else {}),
            **({"overlap_comm": True} if train.overlap else {}),  # its default: ZeRO-3 alone
        },
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1 << 30,
        "wall_clock_breakdown": False,
    }


def start_distributed(shown: bool = False) -> tuple[int, int, torch.device]:
    """Join the job that the launcher made, or be a job of one.

    Args:
        shown: Let DeepSpeed print; else it goes to `aside.SAID`.
    Returns:
        rank, world size, device of this process.
    Raises:
        BadInput: The job's port is taken.
    """
    find_tools()
    own_extensions()
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    for name, value in (
        ("RANK", "0"),
        ("WORLD_SIZE", "1"),
        ("LOCAL_RANK", "0"),
        ("MASTER_ADDR", "127.0.0.1"),
    ):
        os.environ.setdefault(name, value)
    deepspeed_names()
    if not torch.cuda.is_available() and "OMP_NUM_THREADS" not in os.environ:
        # Ranks that share a host share its cores; torch would give all of them to each.
        ranks_here = int(os.environ.get("LOCAL_SIZE", os.environ["WORLD_SIZE"]))
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // ranks_here))
    quiet_deepspeed()
    with log.waiting("loading DeepSpeed"):
        import deepspeed
        from deepspeed.accelerator import get_accelerator

        accelerator: Any = get_accelerator()
    load_collective(accelerator, shown)
    with log.waiting("joining the other ranks"), port_of_job(), aside(shown):
        deepspeed.init_distributed(
            accelerator.communication_backend_name(), timeout=JOIN_WITHIN, verbose=False
        )
    local = int(os.environ["LOCAL_RANK"])
    device = torch.device(accelerator.device_name(local))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        unname_buffers()
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), device


def unname_buffers() -> None:
    """Remove the names of DeepSpeed's shared buffers (69 MB a rank) now that all ranks have them.

    DeepSpeed leaves them in memory when a run is killed; without a name they go with the ranks.
    """
    torch.distributed.barrier()
    job = f"{os.environ['MASTER_ADDR']}_{os.environ['MASTER_PORT']}"
    for buffer in Path("/dev/shm").glob(f"deepspeed_allreduce_buffer_*_{job}_*"):
        buffer.unlink(missing_ok=True)


def quiet_deepspeed() -> None:
    """Keep DeepSpeed's own chatter below warnings; ours says what matters."""
    import logging

    os.environ.setdefault("DS_LOG_LEVEL", "warning")
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # Its collectives have names that torch has renamed.
    warnings.filterwarnings("ignore", message=r"`torch\.distributed\.\w+` is deprecated")


class DeepSpeedEngine:
    """A model under DeepSpeed: micro-steps that accumulate, then one optimiser step.

    Attributes:
        phases: Where the time of its steps goes.
    """

    def __init__(
        self,
        optim: OptimConfig,
        train: TrainConfig,
        seed: int,
        model: Any,
        world_size: int,
        shown: bool = False,
    ):
        """
        Args:
            shown: Let DeepSpeed print; else it goes to `aside.SAID`.
        """
        quiet_deepspeed()
        import deepspeed

        fused = torch.cuda.is_available()
        self.phases = Phases(next(model.parameters()).device)
        self.optimizer = ClippedAdamW(
            model.parameters(),
            optim.grad_clip,
            partitioned=train.zero_stage > 0,
            device=next(model.parameters()).device,
            phases=self.phases,
            scale=world_size,  # DeepSpeed takes the mean over ranks; losses are shares of a sum
            lr=optim.lr,
            betas=optim.betas,
            eps=optim.eps,
            weight_decay=optim.weight_decay,
            fused=fused,
        )
        with aside(shown):
            engine, *_ = deepspeed.initialize(
                model=model,
                optimizer=self.optimizer,  # pyright: ignore[reportArgumentType]
                config=deepspeed_dict(train, world_size),
            )
        self.deepspeed: Any = engine
        self.model, self.device = model, next(model.parameters()).device
        self.seed = seed
        zero.prepare(engine)
        zero.time_collectives(deepspeed.comm.comm.cdb, self.phases)

    def micro_step(self, batch: Any, counts: list[int], key: tuple[int, int]) -> Output:
        """Forward and backward of one micro-batch.

        Args:
            counts: Of each target in the whole global step.
            key: (step, number of the micro-batch over all ranks): decides the dropout.
        """
        torch.manual_seed(seed_of("dropout", self.seed, *key))
        with self.phases.at(FORWARD):
            out = self.deepspeed(batch, *counts)
        # Nothing that depends on the number of ranks enters a backward pass in bf16. The product is
        # needed: DeepSpeed divides the gradient of its very output by the accumulation after all.
        with self.phases.at(BACKWARD):
            self.deepspeed.backward(out.loss * 1.0, scale_wrt_gas=False)
        return out

    def train(self) -> None:
        self.deepspeed.train()

    @contextlib.contextmanager
    def evaluating(self):
        """Evaluation mode, without gradients."""
        self.deepspeed.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.deepspeed.train()

    def forward(self, batch: Any) -> Output:
        """A forward pass alone; all ranks make as many."""
        self.phases.moved()
        return self.deepspeed(batch, *(1 for _ in self.model.targets))

    def accumulated(self) -> None:
        """Tell the engine that a micro-batch that is not the last one of its step is done."""
        self.deepspeed.step()

    def step(self, lr: float, finite: bool = True) -> float:
        """Optimiser step at learning rate `lr`; returns the gradient norm before clipping.

        Where the norm is no number, or the loss is not `finite`, weights stay as they are.
        """
        self.optimizer.norm, self.optimizer.skip = math.nan, not finite
        for group in self.deepspeed.optimizer.param_groups:
            group["lr"] = lr
        with self.phases.at(OPTIMISER):
            self.deepspeed.step()
        return self.optimizer.norm

    def slices(self, kinds: tuple[str, ...] = KINDS) -> Iterator[zero.Slice]:
        return zero.local_slices(self.deepspeed, kinds)

    def adam_step(self) -> int:
        return zero.adam_step(self.deepspeed)

    def fill(self, read: Callable[[str, int, int], dict[str, torch.Tensor]], step: int) -> None:
        zero.fill(self.deepspeed, read, step)

    def refresh(self) -> None:
        zero.refresh(self.deepspeed)
