"""The encoder that the section `model` of a config describes (`model.build`)."""

import difflib
from typing import Any

from ndt3_dist.errors import BadInput
from ndt3_dist.tasks.fmri.encoders.conv_linear import ConvLinear
from ndt3_dist.tasks.fmri.encoders.encoder import Encoder
from ndt3_dist.tasks.fmri.encoders.fusion_transformer import FusionTransformer
from ndt3_dist.tasks.fmri.encoders.lag_ridge import LagRidge

BUILD = "ndt3_dist.tasks.fmri.encoders.build:build"
KINDS: dict[str, type[Encoder]] = {
    "conv_linear": ConvLinear,
    "fusion_transformer": FusionTransformer,
    "ridge": LagRidge,
}


def build(options: dict[str, Any]) -> Encoder:
    """A model of the kind that `options` name. Raises BadInput for another one."""
    kind = options.get("kind", "conv_linear")
    if kind not in KINDS:
        near = difflib.get_close_matches(str(kind), KINDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(KINDS)}"
        raise BadInput(f"model.kind: no {kind!r} ({hint})")
    missing = [key for key in ("streams", "subjects", "parcels") if not options.get(key)]
    if missing:
        raise BadInput(f"model: {', '.join(missing)} missing; `ndt3 fmri train` fills them in")
    return KINDS[kind](options)
