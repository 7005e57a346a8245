"""Small checkpoints as upstream's code writes them, made without that code.

Stand-in classes lie in `sys.modules` under upstream's and OmegaConf's names while torch pickles
them, so that the file holds the same kinds of objects: nodes with a parent, enumerations, the
configuration of the whole run behind that of the model.
"""

import enum
import sys
from collections import OrderedDict
from contextlib import contextmanager
from types import ModuleType

import torch

from ndt3_dist.model.losses import poisson_targets
from ndt3_dist.model.model_config import ModelConfig
from ndt3_dist.model.ndt3 import NDT3
from ndt3_dist.upstream.names import NAMES, to_upstream

SMALL = ModelConfig(layers=2, dim=64, heads=2, feedforward=256, max_channels=64)
POISSON = "task_pipelines.spike_infill.loss.poisson_map"
TUNED = ("task_pipelines.constraints", "task_pipelines.return_context")
"""Parts that a fine-tuned checkpoint does not have."""

CLASSES = {
    "omegaconf.dictconfig": ["DictConfig"],
    "omegaconf.listconfig": ["ListConfig"],
    "omegaconf.nodes": ["AnyNode", "EnumNode"],
    "context_general_bci.dataset": ["DataAttrs"],
    "context_general_bci.config.config_base": [],
}


@contextmanager
def upstream_modules():
    """Stand-ins for the packages whose objects a checkpoint holds."""
    names = [*CLASSES, "omegaconf", "context_general_bci", "context_general_bci.config"]
    modules = {name: ModuleType(name) for name in names}
    for name, classes in CLASSES.items():
        for cls in classes:
            setattr(modules[name], cls, type(cls, (), {"__module__": name}))
    tasks = ["spike_infill", "kinematic_linear", "constraints", "return_context"]
    where = "context_general_bci.config.config_base"
    modules[where].ModelTask = enum.Enum("ModelTask", {t: t for t in tasks}, module=where)
    before = {name: sys.modules.get(name) for name in names}
    sys.modules.update(modules)
    try:
        yield modules
    finally:
        for name, module in before.items():
            del sys.modules[name]
            if module is not None:
                sys.modules[name] = module


def node(modules, value, parent=None):
    """A value as OmegaConf keeps it."""
    kinds = modules["omegaconf.nodes"]
    if isinstance(value, dict):
        made = modules["omegaconf.dictconfig"].DictConfig()
        made._content = {k: node(modules, v, made) for k, v in value.items()}
    elif isinstance(value, list):
        made = modules["omegaconf.listconfig"].ListConfig()
        made._content = [node(modules, v, made) for v in value]
    else:
        made = (kinds.EnumNode if isinstance(value, enum.Enum) else kinds.AnyNode)()
        made._val = value
    made._parent = parent
    return made


def settings(config: ModelConfig, tuned: bool) -> dict:
    """Upstream's settings of a model, as far as an import reads them; dotted names."""
    tasks = ["spike_infill", "kinematic_linear"]
    tasks += [] if tuned else ["constraints", "return_context"]
    return {
        "cfg.hidden_size": config.dim,
        "cfg.causal": True,
        "cfg.max_spatial_position": config.max_space,
        "cfg.max_neuron_count": config.count_clip + 1,
        "cfg.max_return": config.max_return,
        "cfg.neurons_per_token": config.channels_per_token,
        "cfg.transformer.n_state": config.dim,
        "cfg.transformer.n_heads": config.heads,
        "cfg.transformer.n_layers": config.layers,
        "cfg.transformer.feedforward_factor": 1.0,
        "cfg.transformer.dropout": config.dropout,
        "cfg.transformer.activation": "swiglu",
        "cfg.transformer.qk_normalization": True,
        "cfg.task.tasks": tasks,
        "cfg.task.task_weights": [1.0, 1.0, 0.0, 0.0],
        "root.dataset.max_channels": config.max_channels,
        "root.dataset.behavior_dim": config.behavior_dim,
        "root.dataset.bin_size_ms": 20,
        "data_attrs.max_channel_count": config.max_channels,
        "data_attrs.behavior_dim": config.behavior_dim,
        "data_attrs.neurons_per_token": config.channels_per_token,
        "data_attrs.bin_size_ms": 20,
        "data_attrs.max_trial_length": 100,
    }


def hyper_parameters(modules, dotted: dict) -> dict:
    """`cfg`, with the whole run behind it, and `data_attrs`."""
    tree: dict = {}
    for name, value in dotted.items():
        *parents, last = name.split(".")
        inside = tree
        for parent in parents:
            inside = inside.setdefault(parent, {})
        inside[last] = value
    members = modules["context_general_bci.config.config_base"].ModelTask
    task = tree["cfg"]["task"]
    task["tasks"] = [members[name] for name in task["tasks"]]
    root = node(modules, {**tree.get("root", {}), "model": tree["cfg"], "tag": "a run"})
    attrs = modules["context_general_bci.dataset"].DataAttrs()
    attrs.__dict__.update(tree["data_attrs"])
    return {"cfg": root._content["model"], "data_attrs": attrs}


def upstream_order(config: ModelConfig) -> list[str]:
    """Upstream's names of the parameters, in the order of its `parameters()`."""
    names = [to_upstream(name) for name, _ in NDT3(config).named_parameters()]
    blocks = [name for name in names if name.startswith("backbone.layers.")]
    first, *rest = (v for v in NAMES.values() if v != NAMES["space.weight"])
    return [first, NAMES["space.weight"], *blocks, *rest]


def upstream_state(config: ModelConfig, seed: int, tuned: bool) -> OrderedDict:
    """A state dict under upstream's names, in upstream's order, with random weights."""
    torch.manual_seed(seed)
    weights = {to_upstream(n): p.detach() for n, p in NDT3(config).named_parameters()}
    state = OrderedDict()
    for key in upstream_order(config):
        if tuned and key.startswith(TUNED):
            continue
        state[key] = weights[key].clone()
        if key == NAMES["sos"]:
            state["_extra_state"] = {"token_proc_approx": 0.1, "novel_params": []}
        if key == NAMES["spike_out.bias"]:
            state[POISSON] = poisson_targets(config.count_classes)
    return state


def write_lightning(
    path,
    config: ModelConfig = SMALL,
    *,
    seed: int = 0,
    tuned: bool = False,
    edit_state=lambda state: state,
    edit_settings=lambda dotted: dotted,
    edit_content=lambda content: content,
):
    """Write a checkpoint; the edits change its state dict, settings and whole content.

    Returns:
        The state dict, as it was written.
    """
    state = edit_state(upstream_state(config, seed, tuned))
    parameters = [v for k, v in state.items() if torch.is_tensor(v) and k != POISSON]
    adam = {
        i: {
            "step": torch.tensor(7.0),
            "exp_avg": torch.full_like(p, i),
            "exp_avg_sq": torch.full_like(p, i / 2),
        }
        for i, p in enumerate(parameters)
    }
    group = {"lr": 1e-4, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}
    group |= {"amsgrad": False, "params": list(range(len(parameters)))}
    with upstream_modules() as modules:
        content = {
            "epoch": 4,
            "global_step": 7,
            "pytorch-lightning_version": "2.3.0",
            "state_dict": state,
            "optimizer_states": [{"state": adam, "param_groups": [group]}],
            "hyper_parameters": hyper_parameters(modules, edit_settings(settings(config, tuned))),
        }
        torch.save(edit_content(content), path)
    return state
