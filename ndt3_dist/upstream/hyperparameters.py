"""The architecture that an upstream checkpoint records, as our ModelConfig.

Upstream keeps its settings as OmegaConf nodes (`hyper_parameters.cfg`, whose parent is the whole
run's configuration) and as `hyper_parameters.data_attrs`; both arrive as inert records, or as plain
dicts. Settings with which upstream's model computes something else than ours are refused by name.

Source: joel99/ndt3 at 472466a, context_general_bci/config; space ids follow from behavior_dim.
"""

from typing import Any

from ndt3_dist.config import check
from ndt3_dist.errors import BadInput, CheckpointCorrupt, Unsupported
from ndt3_dist.model.model_config import ModelConfig
from ndt3_dist.upstream.lightning import LightningFile, View
from ndt3_dist.upstream.pickles import Inert, brief

LARGEST = 1 << 16
"""Limit of every size that a checkpoint may give its model."""

MOST_SPIKES = 255
"""Counts of a bin are stored in a byte."""

FIXED = {
    "cfg.causal": True,
    "cfg.next_step_prediction": True,
    "cfg.transform_space": True,
    "cfg.transformer.activation": "swiglu",
    "cfg.transformer.embed_space": True,
    "cfg.transformer.flat_encoder": True,
    "cfg.transformer.learnable_norm": False,
    "cfg.transformer.pre_norm": True,
    "cfg.transformer.qk_normalization": True,
    "cfg.transformer.rotary_position": True,
    "cfg.transformer.use_attn_biases": True,
    "cfg.transformer.use_mlp_biases": True,
    "cfg.task.use_constraint_cls": False,
    "data_attrs.spike_dim": 1,
    "data_attrs.semantic_covariates": False,
}
"""Settings that are part of NDT3's architecture; one that is absent counts as such."""

SPIKES, COVARIATES = "spike_infill", "kinematic_linear"
CONTEXT = {"constraints", "return_context"}


def value_of(node: Any) -> Any:
    """The plain value of an OmegaConf leaf or an enumeration's member; else the node itself."""
    if isinstance(node, Inert) and isinstance(node.state, dict) and "_val" in node.state:
        node = node.state["_val"]
    if isinstance(node, Inert) and node.state is None and len(node.args) == 1:
        node = node.args[0]
    return node


def content_of(node: Any) -> Any:
    """The content of an OmegaConf container, or an object's attributes; else the node itself."""
    if isinstance(node, Inert) and isinstance(node.state, dict):
        node = node.state.get("_content", node.state)
    return node


def find(file: LightningFile, dotted: str) -> Any:
    """A setting below hyper_parameters, None where it is absent; `root.` begins the whole run's."""
    node = file.content["hyper_parameters"]
    if dotted.startswith("root."):
        cfg, dotted = node.get("cfg"), dotted.removeprefix("root.")
        node = (
            cfg.state.get("_parent") if isinstance(cfg, Inert) and type(cfg.state) is dict else {}
        )
    for key in dotted.split("."):
        node = content_of(node)
        node = node.get(key) if isinstance(node, dict) else None
    return value_of(node)


def number(file: LightningFile, kind: type, *names: str) -> Any:
    """A number that is recorded under one or several names, alike under all that are there.

    Raises:
        CheckpointCorrupt: It is absent, no number, too large, or differs.
    """
    found = {n: v for n in names if (v := find(file, n)) is not None}
    wanted = f"a whole number up to {LARGEST}" if kind is int else "a number"
    for name, value in found.items():
        low, high = (1, LARGEST) if kind is int else (0, LARGEST)
        if type(value) not in (int, kind) or not low <= value <= high:
            raise CheckpointCorrupt(
                f"{file.path}: hyper_parameters {name} is {brief(value)}, expected {wanted}"
            )
    if len(set(found.values())) != 1:
        listed = ", ".join(f"{n} {v}" for n, v in found.items()) or f"no {names[0]}"
        raise CheckpointCorrupt(
            f"{file.path}: hyper_parameters have {listed}; expected {wanted}; "
            "import the checkpoint as upstream wrote it"
        )
    return kind(found[next(iter(found))])


def tasks_of(file: LightningFile) -> dict[str, float]:
    """Upstream's tasks and the weights of their losses."""
    tasks = content_of(find(file, "cfg.task.tasks"))
    weights = content_of(find(file, "cfg.task.task_weights"))
    if not isinstance(tasks, list) or not isinstance(weights, list) or len(tasks) > len(weights):
        raise CheckpointCorrupt(
            f"{file.path}: hyper_parameters cfg.task has no list of tasks with their weights"
        )
    names, numbers = [value_of(t) for t in tasks], [value_of(w) for w in weights]
    if any(type(n) is not str for n in names) or any(type(w) not in (int, float) for w in numbers):
        raise CheckpointCorrupt(f"{file.path}: hyper_parameters cfg.task.tasks are no names")
    return dict(zip(names, map(float, numbers), strict=False))


def read_config(file: LightningFile, views: dict[str, View]) -> ModelConfig:
    """The architecture of a checkpoint.

    Args:
        views: Its parameters by upstream's clean names; the feed-forward's width is theirs.
    Raises:
        CheckpointCorrupt: A setting is missing or absurd, or contradicts another.
        Unsupported: A model of another architecture.
        BadInput: There are no settings at all.
    """
    if type(file.content.get("hyper_parameters")) is not dict:
        raise BadInput(
            f"{file.path}: no hyper_parameters in it, so heads and space ids are unknown; "
            "expected a Lightning checkpoint as upstream writes it"
        )
    tasks = tasks_of(file)
    other = [
        f"{name} is {brief(found)} (ours: {wanted})"
        for name, wanted in FIXED.items()
        if (found := find(file, name)) is not None and found != wanted
    ]
    if missing := {SPIKES, COVARIATES} - {*tasks}:
        other.append(f"cfg.task.tasks lacks {', '.join(sorted(missing))}")
    if len(CONTEXT & {*tasks}) == 1:
        other.append(
            "cfg.task.tasks has one of constraints and return_context (ours: both or none)"
        )
    if other:
        raise Unsupported(f"{file.path}: another architecture than NDT3's: {'; '.join(other)}")
    dim = number(file, int, "cfg.hidden_size", "cfg.transformer.n_state")
    dropout = number(file, float, "cfg.transformer.dropout")
    counts = number(file, int, "cfg.max_neuron_count")
    if counts > MOST_SPIKES:
        raise CheckpointCorrupt(
            f"{file.path}: hyper_parameters cfg.max_neuron_count is {counts}, expected at most "
            f"{MOST_SPIKES} spikes in a bin"
        )
    values = {
        "layers": count_layers(file, views),
        "dim": dim,
        "heads": number(file, int, "cfg.transformer.n_heads"),
        "feedforward": feedforward(file, views, dim),
        "dropout": dropout,
        "attention_dropout": dropout,
        "channels_per_token": number(
            file, int, "cfg.neurons_per_token", "data_attrs.neurons_per_token"
        ),
        "max_channels": number(
            file, int, "data_attrs.max_channel_count", "root.dataset.max_channels"
        ),
        "behavior_dim": number(file, int, "data_attrs.behavior_dim", "root.dataset.behavior_dim"),
        "max_space": number(file, int, "cfg.max_spatial_position"),
        "count_clip": counts - 1,
        "count_classes": counts + 1,
        "max_return": number(file, int, "cfg.max_return"),
        "context_tokens": {*tasks} >= CONTEXT,
        "spike_weight": tasks[SPIKES],
        "covariate_weight": tasks[COVARIATES],
    }
    try:
        return check(ModelConfig, values, f"{file.path}: hyper_parameters")
    except BadInput as e:
        raise CheckpointCorrupt(str(e)) from e


def count_layers(file: LightningFile, views: dict[str, View]) -> int:
    """Layers by the settings, which must be those of the tensors."""
    layers = number(file, int, "cfg.transformer.n_layers")
    found = {key.split(".")[2] for key in views if key.startswith("backbone.layers.")}
    if found != {str(n) for n in range(layers)}:
        raise CheckpointCorrupt(
            f"{file.path}: hyper_parameters cfg.transformer.n_layers is {layers}, "
            f"the state dict has {len(found)} of backbone.layers.*"
        )
    return layers


def feedforward(file: LightningFile, views: dict[str, View], dim: int) -> int:
    """Hidden width of the SwiGLU by the tensors; flash-attn rounds the setting up to 256s."""
    key = "backbone.layers.0.mlp.fc2.weight"
    shape = views[key].shape if key in views else ()
    least = number(file, float, "cfg.transformer.feedforward_factor") * dim
    if len(shape) != 2 or not least <= shape[1] < least + 256:
        raise CheckpointCorrupt(
            f"{file.path}: {key} has shape {shape}, expected {dim} x {least:g}, rounded up to 256s"
        )
    return shape[1]
