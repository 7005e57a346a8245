"""ndt3_dist: the distributed system around NDT3, a foundation model for motor BCIs.

The path of the data is recording -> corpus -> stream -> rows -> model -> checkpoint -> export;
each folder of this package is one of its stages. `load_model` opens an export; the other names are
of `ndt3_dist.api`, for use from Python (docs/api.md).
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ndt3_dist.api import fit, open_corpus, open_decoder, prepare, recording
    from ndt3_dist.model.load import load_model

__version__ = "0.1.0"
__all__ = [
    "__version__",
    "fit",
    "load_model",
    "open_corpus",
    "open_decoder",
    "prepare",
    "recording",
]


def __getattr__(name: str):
    # Imported on first use, so that `import ndt3_dist` does not pay for torch.
    if name == "load_model":
        from ndt3_dist.model.load import load_model

        return load_model
    if name in __all__:
        from ndt3_dist import api

        return getattr(api, name)
    raise AttributeError(f"module 'ndt3_dist' has no attribute {name!r}")
