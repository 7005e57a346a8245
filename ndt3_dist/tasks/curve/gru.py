"""A small GRU from counts to covariates: what a recurrent network makes of the session alone.

Fitted with early stopping on the part that is held back. A run is killed and begun anew: it takes
seconds. Its folder holds gru.safetensors, whose metadata say what it is.
"""

import json
from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from ndt3_dist import log
from ndt3_dist.config import Section, load_config
from ndt3_dist.data.continuous import Piece
from ndt3_dist.data.order import generator, seed_of
from ndt3_dist.errors import BadInput
from ndt3_dist.evaluate.metrics import r2_variance_weighted
from ndt3_dist.train.pretrain_config import RunConfig
from ndt3_dist.tune.fit_data import FitData, divided, read_split
from ndt3_dist.tune.tune_config import TuneDataConfig

KIND = "ndt3_dist.tasks.curve.gru:gru_to"
FILE = "gru.safetensors"


class GruConfig(Section):
    class Optim(Section):
        lr: float = Field(default=1e-3, gt=0)
        weight_decay: float = Field(default=0.01, ge=0)
        grad_clip: float = Field(default=1.0, gt=0)

    class Train(Section):
        width: int = Field(default=64, ge=1)
        steps: int = Field(default=400, ge=1)
        batch: int = Field(default=16, ge=1)
        """Windows of a step, each at a random start inside what is fitted."""
        dropout: float = Field(default=0.2, ge=0, lt=1)
        """Of counts and of what is read out."""
        eval_every: int = Field(default=20, ge=1)
        patience: int = Field(default=10, ge=0)
        """Stop after so many scores without a better one; 0 = never."""

    run: RunConfig
    data: TuneDataConfig
    optim: Optim = Optim()
    train: Train = Train()


class Gru(nn.Module):
    """Counts in units of their spread -> covariates in units of theirs; never sees a later bin."""

    count_mean: torch.Tensor
    count_spread: torch.Tensor
    covariate_mean: torch.Tensor
    covariate_spread: torch.Tensor

    def __init__(self, channels: int, dims: int, width: int, dropout: float = 0.0):
        super().__init__()
        self.drop = nn.Dropout(dropout)
        self.gru = nn.GRU(channels, width, batch_first=True)
        self.out = nn.Linear(width, dims)
        for name, shape in (("count", channels), ("covariate", dims)):
            self.register_buffer(f"{name}_mean", torch.zeros(shape))
            self.register_buffer(f"{name}_spread", torch.ones(shape))

    def forward(self, counts: torch.Tensor) -> torch.Tensor:
        """(batch, bins, channels) -> (batch, bins, dims)."""
        x = (counts.float() - self.count_mean) / self.count_spread
        hidden, _ = self.gru(self.drop(x))
        return self.out(self.drop(hidden)) * self.covariate_spread + self.covariate_mean

    def of_piece(self, piece: Piece) -> np.ndarray:
        """Covariates of every bin, (bins, dims), from all bins before it."""
        self.eval()
        with torch.no_grad():
            return self(torch.from_numpy(piece.spikes)[None])[0].numpy()


def gru_to(job: dict) -> dict:
    """A run of a search (`cluster.search.fork`), from its beginning to its end."""
    config = load_config(GruConfig, job["config"])
    folder = Path(config.run.dir) / config.run.name
    data = divided(config.data, config.run.seed, *read_split(config.data))
    model, score, step, steps = fit_gru(data, config)
    about = {"channels": model.gru.input_size, "dims": model.out.out_features}
    about |= {"width": config.train.width}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), folder / f"new_{FILE}", {"gru": json.dumps(about)})
    (folder / f"new_{FILE}").replace(folder / FILE)
    return {"score": score, "step": step, "steps": steps, "over": True}


def load_gru(folder: Path) -> Gru:
    """What `gru_to` kept."""
    with safe_open(folder / FILE, "pt") as file:
        model = Gru(**json.loads(file.metadata()["gru"]))
        model.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    return model.eval()


def fit_gru(data: FitData, config: GruConfig) -> tuple[Gru, float, int, int]:
    """The weights of the best score on the part that is held back.

    Returns:
        The model, its score there (R2, variance-weighted), its step, and steps made.
    """
    train, seed = config.train, config.run.seed
    counts = np.concatenate([p.spikes for p in data.first])
    values = np.concatenate([p.covariates for p in data.first])
    torch.manual_seed(seed_of("weights", seed))
    model = Gru(counts.shape[1], values.shape[1], train.width, train.dropout)
    for name, found in (("count", counts), ("covariate", values)):
        spread = np.nanstd(found, axis=0)
        getattr(model, f"{name}_mean").copy_(torch.from_numpy(np.nanmean(found, axis=0)))
        getattr(model, f"{name}_spread").copy_(torch.from_numpy(np.where(spread > 0, spread, 1)))
    optim = torch.optim.AdamW(
        model.parameters(), config.optim.lr, weight_decay=config.optim.weight_decay
    )
    truth = np.concatenate([p.covariates for p in data.last])
    best, best_step, kept, waited, step = -np.inf, 0, {}, 0, 0
    for step in range(1, train.steps + 1):
        model.train()
        spikes, true = windows_of(data, train.batch, generator("gru windows", seed, step))
        known = torch.isfinite(true)
        error = (model(spikes) - true.nan_to_num()) / model.covariate_spread
        loss = (error[known] ** 2).mean()
        optim.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.optim.grad_clip)
        optim.step()
        if step % train.eval_every and step < train.steps:
            continue
        score = r2_variance_weighted(truth, np.concatenate([model.of_piece(p) for p in data.last]))
        waited += 1
        if score > best:
            best, best_step, waited = score, step, 0
            kept = {name: value.clone() for name, value in model.state_dict().items()}
        if train.patience and waited >= train.patience:
            break
    if not kept:
        raise BadInput(
            f"session {data.session.id}: R2 of the held-back part was never a number; lower "
            f"optim.lr ({config.optim.lr:g})"
        )
    model.load_state_dict(kept)
    log.say(f"GRU: best step {best_step} of {step}, R2 {best:.4f} on the held-back part")
    return model.eval(), float(best), best_step, step


def windows_of(data: FitData, count: int, draw) -> tuple[torch.Tensor, torch.Tensor]:
    """Counts and covariates of windows at random starts, (count, bins, channels or dims)."""
    room = np.cumsum([len(p) - data.window + 1 for p in data.first])
    spikes, true = [], []
    for pick in draw.integers(0, room[-1], count).tolist():
        number = int(np.searchsorted(room, pick, side="right"))
        start = pick - (int(room[number - 1]) if number else 0)
        sample = data.first[number].window(start, start + data.window)
        spikes.append(sample["spikes"])
        true.append(sample["covariates"])
    return torch.from_numpy(np.stack(spikes)), torch.from_numpy(np.stack(true))
