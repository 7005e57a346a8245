"""The one table between our parameter names and those of joel99/ndt3.

Source: joel99/ndt3 at 472466a (order is upstream's `parameters()` order).
"""

import re

NAMES = {
    "sos": "start_of_sentence",
    "space.weight": "backbone.space_encoder.weight",
    "spike_out.weight": "task_pipelines.spike_infill.out.0.weight",
    "spike_out.bias": "task_pipelines.spike_infill.out.0.bias",
    "spike_in.weight": "task_pipelines.spike_infill.readin.weight",
    "covariate_in.weight": "task_pipelines.kinematic_linear.inp.weight",
    "covariate_in.bias": "task_pipelines.kinematic_linear.inp.bias",
    "covariate_out.weight": "task_pipelines.kinematic_linear.out.0.weight",
    "covariate_out.bias": "task_pipelines.kinematic_linear.out.0.bias",
    "constraint_in": "task_pipelines.constraints.constraint_dims",
    "return_in.weight": "task_pipelines.return_context.return_enc.weight",
    "reward_in.weight": "task_pipelines.return_context.reward_enc.weight",
}
IN_BLOCK = {
    "attention.qkv": "mixer.Wqkv",
    "attention.out": "mixer.out_proj",
    "attention.q_norm": "mixer.q_norm",
    "attention.k_norm": "mixer.k_norm",
    "mlp.up_gate": "mlp.fc1",
    "mlp.down": "mlp.fc2",
}


def to_upstream(name: str) -> str:
    """Upstream's name of one of our parameters. Raises KeyError for a name that is not ours."""
    if name in NAMES:
        return NAMES[name]
    found = re.fullmatch(r"blocks\.(\d+)\.(.+)\.(weight|bias)", name)
    if not found:
        raise KeyError(name)
    layer, part, kind = found.groups()
    return f"backbone.layers.{layer}.{IN_BLOCK[part]}.{kind}"
