"""Decoders of windows: Goldstein's convolutions and their ensemble, a perceptron, linear maps.

All take (words, channels, steps) and give (words, dims), or (words,) where dims is 1. Channels and
steps may be left out of the params: they are those of the data.

Source: Goldstein et al. 2022 (Nature Neuroscience 25:369), with the sizes of the podcast
benchmark's `pitom_model`: 143,254 parameters for 183 channels and 50 dimensions.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from ndt3_dist.errors import BadInput

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "linear": nn.Identity,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softmax": lambda: nn.Softmax(dim=-1),
}


class Out(nn.Module):
    """The end of a decoder: LayerNorm of vectors, then an activation; one value has no axis."""

    def __init__(self, dims: int, activation: str):
        super().__init__()
        if activation not in ACTIVATIONS:
            raise BadInput(f"output_activation {activation!r}; expected {', '.join(ACTIVATIONS)}")
        self.norm = nn.LayerNorm(dims) if dims > 1 else nn.Identity()
        self.activation = ACTIVATIONS[activation]()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.activation(self.norm(x))
        return x[:, 0] if x.shape[1] == 1 else x


class ConvDecoder(nn.Module):
    """Three convolutions over time, the greatest value of each filter, a linear map."""

    def __init__(self, channels: int, dims: int, filters: int, dropout: float, activation: str):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(channels, filters, 3, bias=False),
            nn.ReLU(),
            nn.BatchNorm1d(filters),
            nn.Dropout(dropout),
            nn.MaxPool1d(2, padding=1),
            nn.Conv1d(filters, filters, 2, bias=False),
            nn.ReLU(),
            nn.BatchNorm1d(filters),
            nn.Dropout(dropout),
            nn.Conv1d(filters, filters, 2),
            nn.BatchNorm1d(filters),
            nn.ReLU(),
        )
        self.head = nn.Linear(filters, dims)
        self.out = Out(dims, activation)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.head(self.layers(x).amax(dim=2)))  # (words, dims)


class Ensemble(nn.Module):
    """The mean of several decoders, which are trained on it together."""

    def __init__(self, members: Sequence[nn.Module]):
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: torch.Tensor, preserve_ensemble: bool = False) -> torch.Tensor:
        each = torch.stack([member(x) for member in self.members], dim=1)  # (words, members, ...)
        return each if preserve_ensemble else each.mean(dim=1)


class Perceptron(nn.Module):
    """Layers with BatchNorm, ReLU and dropout, of all values or of their means over time."""

    def __init__(self, inputs: int, sizes: Sequence[int], dims: int, dropout: float, out: Out):
        super().__init__()
        layers: list[nn.Module] = []
        for size in sizes:
            layers += [nn.Linear(inputs, size), nn.BatchNorm1d(size), nn.ReLU()]
            layers += [nn.Dropout(dropout)]
            inputs = size
        self.layers, self.out = nn.Sequential(*layers, nn.Linear(inputs, dims)), out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.layers(x.flatten(1)))


class OverTime(nn.Module):
    """A decoder of the means over time."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x.mean(dim=2) if x.ndim == 3 else x)


def taken(params: dict[str, Any], **defaults: Any) -> dict[str, Any]:
    """Params with defaults. Raises BadInput for one that a model does not have."""
    known = {**defaults, "input_channels": 1, "input_timesteps": 1, "embedding_dim": 1}
    if unknown := sorted({*params} - {*known} - {"feature_cache"}):
        raise BadInput(f"model_spec.params: unknown {', '.join(unknown)}; there are {[*known]}")
    return {**known, **params}


def pitom_model(params: dict[str, Any]) -> nn.Module:
    p = taken(params, conv_filters=128, dropout=0.2, output_activation="linear", reg=0.0)
    if p["input_timesteps"] < 5:
        raise BadInput(
            f"pitom_model needs 5 steps of time or more, there are {p['input_timesteps']}: take "
            "fewer samples in a bin (preprocessor_params.num_average_samples)"
        )
    sizes = p["input_channels"], p["embedding_dim"], p["conv_filters"], p["dropout"]
    return ConvDecoder(*sizes, p["output_activation"])


def ensemble_pitom_model(params: dict[str, Any]) -> nn.Module:
    own = dict(params)
    number = int(own.pop("num_models", 10))
    return Ensemble([pitom_model(own) for _ in range(number)])


def decoder_mlp(params: dict[str, Any]) -> nn.Module:
    p = taken(params, dropout=0.2, layer_sizes=[128, 64], output_activation="linear")
    out = Out(p["embedding_dim"], p["output_activation"])
    inputs = p["input_channels"] * p["input_timesteps"]
    return Perceptron(inputs, p["layer_sizes"], p["embedding_dim"], p["dropout"], out)


def simple_temporal_model(params: dict[str, Any]) -> nn.Module:
    p = taken(params, dropout=0.2, hidden_dim=128, output_activation="linear")
    out = Out(p["embedding_dim"], p["output_activation"])
    inner = Perceptron(
        p["input_channels"], [p["hidden_dim"]], p["embedding_dim"], p["dropout"], out
    )
    return OverTime(inner)


class Linear(nn.Module):
    """One linear map of the means over time; the optimiser's weight decay is its penalty."""

    def __init__(self, channels: int, dims: int):
        super().__init__()
        self.map = nn.Linear(channels, dims)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = self.map(x)
        return found[:, 0] if found.shape[1] == 1 else found


def torch_ridge_model(params: dict[str, Any]) -> nn.Module:
    p = taken(params)
    return OverTime(Linear(p["input_channels"], p["embedding_dim"]))


BY_NAME: dict[str, Callable[[dict[str, Any]], nn.Module]] = {
    "pitom_model": pitom_model,
    "ensemble_pitom_model": ensemble_pitom_model,
    "decoder_mlp": decoder_mlp,
    "simple_temporal_model": simple_temporal_model,
    "torch_ridge_model": torch_ridge_model,
}
"""Name -> what builds a model of its params, as a user's own constructor does."""
