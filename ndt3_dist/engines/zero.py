"""Every private name of DeepSpeed's ZeRO that this project touches.

A rank's part of the training state as slices by parameter name and flat range, out of an engine
and back into one. Written for deepspeed 0.19.8 (pinned); `tests/integration` fails when a name
moves.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

from ndt3_dist.checkpoint.steps import KINDS
from ndt3_dist.engines.phases import COMMUNICATION, Phases

Slice = tuple[str, int, dict[str, torch.Tensor]]
"""Parameter name, first flat element, and the slice of each kind (all of one length)."""
COLLECTIVES = (
    *("all_reduce", "inference_all_reduce", "all_reduce_coalesced", "reduce", "broadcast"),
    *("reduce_scatter", "reduce_scatter_tensor", "all_gather", "all_gather_into_tensor"),
    *("all_gather_coalesced", "all_to_all_single", "barrier"),
)
"""Of DeepSpeed's backend of torch.distributed."""


def local_slices(engine, kinds=KINDS) -> Iterator[Slice]:
    """The slices that this rank owns; over all ranks they cover every parameter once."""
    if not engine.zero_optimization_stage() and engine.global_rank:
        return iter(())  # without ZeRO every rank holds all of it; the first one speaks
    return held(engine, kinds)


def held(engine, kinds=KINDS) -> Iterator[Slice]:
    """The slices that this rank steps."""
    for name, parameter in engine.module.named_parameters():
        found = _find(engine, parameter, kinds)
        if found is not None:
            start, tensors = found
            yield name, start, tensors


def adam_step(engine) -> int:
    """Optimiser steps that AdamW has taken (its bias correction counts them)."""
    for state in engine.optimizer.state.values():
        if "step" in state:
            return int(state["step"])
    return 0


def prepare(engine) -> None:
    """Make AdamW's state, zero as at its first step, and the engine know it.

    Without it there would be nothing to save or fill before the first step that moves weights.
    """
    inner = getattr(engine.optimizer, "optimizer", engine.optimizer)
    if engine.zero_optimization_stage() == 3:
        flats = engine.optimizer.fp32_partitioned_groups_flat
    else:
        flats = [flat for group in inner.param_groups for flat in group["params"]]
    for flat in flats:
        inner.state[flat] = {
            # Beside its weights: a fused AdamW reads it on the device.
            "step": torch.zeros((), device=flat.device),
            "exp_avg": torch.zeros_like(flat),
            "exp_avg_sq": torch.zeros_like(flat),
        }
    if hasattr(engine.optimizer, "_lazy_init_hp_params_optimizer_state"):
        # From here on the engine knows these very tensors.
        engine.optimizer._lazy_init_hp_params_optimizer_state()


def time_collectives(backend: Any, phases: Phases) -> None:
    """Let what DeepSpeed sends count as communication.

    Args:
        backend: That its collectives go through, `deepspeed.comm.comm.cdb`.
        phases: The clock of the engine in use; one before it is forgotten.
    """
    for name in filter(partial(hasattr, backend), COLLECTIVES):
        call = partial(getattr(type(backend), name), backend)
        setattr(backend, name, phases.timed(COMMUNICATION, call))


def fill(engine, read: Callable[[str, int, int], dict[str, torch.Tensor]], step: int) -> None:
    """Load this rank's part of the training state, of any ZeRO stage and world size.

    All ranks call `refresh` after it. Ranks do not wait for each other here, so that one may fail.

    Args:
        read: (parameter name, start, length) -> the slice of each kind, float32.
        step: AdamW's step count.
    """
    inner = getattr(engine.optimizer, "optimizer", engine.optimizer)
    for state in inner.state.values():
        state["step"].fill_(step)
    with torch.no_grad():
        for name, start, tensors in held(engine):
            saved = read(name, start, tensors["master"].numel())
            for kind, tensor in tensors.items():
                tensor.copy_(saved[kind].to(tensor.device))


def _find(engine, parameter, kinds=KINDS):
    """Where this rank's slice of a parameter starts, and its tensors; None where it has none."""
    stage = engine.zero_optimization_stage()
    if stage == 3:
        partition = parameter.ds_tensor.numel()
        start = engine.global_rank * partition
        length = max(0, min(partition, parameter.ds_numel - start))
        if not length:
            return None
        optimizer = parameter._z3_optimizer
        tensors = {}
        for kind in kinds:
            key = None if kind == "master" else kind
            whole, _ = optimizer._get_fp32_opt_state_partition(parameter, False, key)
            tensors[kind] = whole.view(-1)[:length]
        return start, tensors
    if stage in (1, 2):
        mapping = getattr(parameter, "_hp_mapping", None)
        if mapping is None:
            return None
        keys = {kind: None if kind == "master" else kind for kind in kinds}
        tensors = {kind: mapping.get_hp_fragment(key).view(-1) for kind, key in keys.items()}
        return mapping.lp_fragment_address.start, tensors
    state = engine.optimizer.state[parameter]
    return 0, {
        kind: (parameter.data if kind == "master" else state[kind]).view(-1) for kind in kinds
    }


@torch.no_grad()
def refresh(engine) -> None:
    """Make the weights that the model computes with follow the masters; all ranks call it."""
    stage = engine.zero_optimization_stage()
    if stage == 3:
        for number in range(len(engine.optimizer.fp16_groups)):
            engine.optimizer._reassign_or_swap_out_partitioned_parameters(number)
        persistent = engine.optimizer.persistent_parameters
        if persistent:
            persistent[0].all_gather(persistent)
    elif stage:
        for parameter in engine.module.parameters():
            # Each element has one owner: the sum of what ranks have is the whole.
            whole = torch.zeros(parameter.numel(), device=parameter.device)
            found = _find(engine, parameter, KINDS[:1])
            if found:
                start, tensors = found
                whole[start : start + tensors["master"].numel()] = tensors["master"]
            dist.all_reduce(whole)
            parameter.copy_(whole.view_as(parameter))
