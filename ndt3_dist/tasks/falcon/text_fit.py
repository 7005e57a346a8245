"""Fit what reads handwriting (FALCON h2): a recurrent head over NDT3's features, by the CTC loss.

All trials of a fit share one model; the last part of each recording's trials is held back to choose
the best step. NDT3 stays as it is unless it is asked to learn, too.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ndt3_dist import log
from ndt3_dist.checkpoint.export import write_export
from ndt3_dist.data.order import generator
from ndt3_dist.errors import BadInput, Diverged
from ndt3_dist.model.load import load_model, read_export_config, read_normalisation
from ndt3_dist.model.ndt3 import NDT3
from ndt3_dist.tasks.falcon.fitted import Decodes, Fitted, Mode, write_fitted
from ndt3_dist.tasks.falcon.handwriting import Trial, features_of, read_trials
from ndt3_dist.tasks.falcon.scores import error_rates
from ndt3_dist.tasks.falcon.tags import TASKS, Task, tag_of
from ndt3_dist.tasks.falcon.text_head import BLANK, TextHead, as_text, save_head

EXPORT = "export"


@dataclass(frozen=True)
class TextFit:
    """Attributes:
    steps, batch, lr: Of AdamW; a batch is of trials.
    hidden: Width of the head's memory.
    context: Bins that a feature sees; 0 = the export's window.
    backbone_lr: Of NDT3's own weights; 0 = they stay, and features are those of kept streams.
    stride: Bins that a window gives where NDT3 learns.
    every: Steps between scores on what is held back.
    held_back: Part of each recording's trials.
    seed: Of weights and batches.
    """

    steps: int = 2000
    batch: int = 16
    lr: float = 1e-3
    hidden: int = 256
    context: int = 0
    stride: int = 10
    backbone_lr: float = 0.0
    every: int = 50
    held_back: float = 0.2
    seed: int = 0


def fit_text(
    mode: Mode,
    data: Sequence[str | Path],
    init: str | Path,
    out: str | Path,
    how: TextFit,
) -> dict:
    """Fit a text decoder to recordings; writes OUT/export (NDT3 and the head) and falcon.json.

    Args:
        mode: zero-shot takes held-in calibration files alone, few-shot held-out ones too, oracle
            the oracle files of held-out sessions.
        data: Files, or folders that are searched for *calib*.nwb and *oracle*.nwb.
        init: Export whose features are read.
        out: Folder, new or without an export.
    Returns:
        trials, held_back, best_step, cer and wer of what is held back.
    """
    task, out = TASKS["h2"], Path(out)
    files = chosen_files(task, data, mode)
    norms = read_normalisation(init)
    if norms["bin_size_ms"] != 20:
        raise BadInput(f"{init}: bins of {norms['bin_size_ms']:g} ms; FALCON h2 has 20")
    context = how.context or int(norms["window_bins"])
    first, last = [], []
    for path in log.progress(files, "reading recordings"):
        trials = read_trials(task, path)
        held = max(1, round(len(trials) * how.held_back))
        first += trials[: len(trials) - held]
        last += trials[len(trials) - held :]
    if not first:
        raise BadInput(f"{len(files)} files with no more than one trial each; expected more")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load_model(init, device).float()
    head, best = train_text(model, first, last, context, how, device)
    config, norms = read_export_config(init), {**norms, "sessions": {}}
    config = {k: v for k, v in config.items() if k != "readout"}
    config["dtype"] = "fp32"
    config["trained"] = {**config["trained"], "run": out.name, "falcon": [f.name for f in files]}
    weights = {name: p.detach().contiguous() for name, p in model.named_parameters()}
    write_export(out / EXPORT, weights, config, norms)
    save_head(head, out / EXPORT)
    by = {tag: Decodes(export=EXPORT) for tag in task.tags}
    write_fitted(out, Fitted(task="h2", mode=mode, context=context, decoders=by))
    return {"trials": len(first), "held_back": len(last), **best}


def chosen_files(task: Task, data: Sequence[str | Path], mode: Mode) -> list[Path]:
    """Files that a mode fits to, in order of their tags; BadInput where there are none."""
    found: dict[str, Path] = {}
    for place in map(Path, data):
        for path in sorted(place.rglob("*.nwb")) if place.is_dir() else [place]:
            kind = next((k for k in ("calib", "oracle") if k in path.name), "")
            tag = tag_of(task, path) if kind else ""
            wanted = "oracle" if tag in task.held_out and mode == "oracle" else "calib"
            if kind == wanted and not (tag in task.held_out and mode == "zero-shot"):
                found[tag] = path
    if not found:
        raise BadInput(f"no files of FALCON {task.name} for {mode} in {', '.join(map(str, data))}")
    return [found[tag] for tag in task.tags if tag in found]


def train_text(
    model: NDT3,
    first: list[Trial],
    last: list[Trial],
    context: int,
    how: TextFit,
    device: torch.device,
) -> tuple[TextHead, dict]:
    """Train a head, and NDT3 where it is to learn; the best step by characters of `last`."""
    stride = min(how.stride, context) if how.backbone_lr else 0
    learns, lossy = how.backbone_lr > 0, nn.CTCLoss(blank=BLANK, zero_infinity=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(how.seed)
        head = TextHead(model.config.dim, how.hidden).to(device)
    groups = [{"params": [*head.parameters()], "lr": how.lr}]
    if learns:
        groups.append({"params": [*model.parameters()], "lr": how.backbone_lr})
    optimiser = torch.optim.AdamW(groups, weight_decay=0.01)
    both = nn.ModuleDict({"head": head, **({"model": model} if learns else {})})

    def features(trial: Trial) -> torch.Tensor:
        with contextlib.nullcontext() if learns else torch.no_grad():
            return features_of(model, trial.counts, context, stride).float()

    kept = None if learns else [features(t) for t in log.progress(first, "features, trials")]
    kept_last = None if learns else [features(t) for t in last]
    best = {"best_step": 0, "cer": float("inf"), "wer": float("inf")}
    weights = {name: t.detach().clone() for name, t in both.state_dict().items()}
    for step in log.progress(range(1, how.steps + 1), "fitting the text head, steps"):
        drawn = generator("text", how.seed, step).integers(len(first), size=how.batch)
        mine = [kept[n] if kept else features(first[n]) for n in drawn]
        symbols = [torch.tensor(first[n].symbols) for n in drawn]
        found, _ = head(nn.utils.rnn.pad_sequence(mine, batch_first=True))
        lengths = torch.tensor([len(m) for m in mine]), torch.tensor([len(s) for s in symbols])
        loss = lossy(found.transpose(0, 1), torch.cat(symbols).to(device), *lengths)
        if not loss.isfinite():
            raise Diverged(f"step {step}: the loss is {loss.item()}; lower --lr")
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([p for g in groups for p in g["params"]], 1.0)
        optimiser.step()
        if step % how.every == 0 or step == how.steps:
            with torch.no_grad():
                read = [
                    as_text(head(f[None])[0][0].argmax(-1).cpu().numpy())
                    for f in (kept_last or map(features, last))
                ]
            cer, wer = error_rates(read, [t.text for t in last])
            log.say(
                f"step {step}/{how.steps}  loss {loss.item():.4f}  CER {cer:.3f}  WER {wer:.3f}"
            )
            if cer < best["cer"]:
                best = {"best_step": step, "cer": cer, "wer": wer}
                weights = {name: t.detach().clone() for name, t in both.state_dict().items()}
    both.load_state_dict(weights)
    return head.eval(), best
