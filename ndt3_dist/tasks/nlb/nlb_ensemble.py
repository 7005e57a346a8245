"""Ensembles: the mean of the rates of the best snapshots, ranked by co-bps of val trials.

How many are averaged is chosen on the same trials, so that their score promises too much. By how
much is measured: ranking and number are chosen anew without each fifth of the trials, which is then
scored; all fifths together are compared with the choice that saw them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ndt3_dist import log, storage
from ndt3_dist.data.order import generator
from ndt3_dist.errors import BadInput
from ndt3_dist.tasks.nlb.nlb_data import DataFolder
from ndt3_dist.tasks.nlb.nlb_metrics import bits_per_spike
from ndt3_dist.tasks.nlb.nlb_snapshots import Snapshot, open_snapshot, rates_of
from ndt3_dist.tasks.nlb.nlb_submission import as_submission

MOST = 50
"""Members that are tried at most."""
FOLDS = 5
LIST = "ensemble.json"


@dataclass
class Choice:
    """What was chosen.

    Attributes:
        names: Snapshots, the best first.
        scores: Their co-bps.
        curve: co-bps of the mean of the first 1, 2, ...
        number: How many are averaged.
        nested: co-bps of trials by ensembles that were chosen without them.
    """

    names: list[str]
    scores: list[float]
    curve: list[float]
    number: int
    nested: float

    @property
    def optimism(self) -> float:
        """By how much the chosen ensemble's own score promises too much."""
        return self.curve[self.number - 1] - self.nested


def best_of(rates: Sequence[np.ndarray], spikes: np.ndarray, number: int = 0):
    """Ranking, scores in that order, curve and number of members.

    Args:
        rates: Of held-out units by each snapshot, (trials, bins, units) each.
        spikes: Theirs.
        number: Of members; 0 = what scores best.
    """
    scores = np.array([bits_per_spike(r, spikes) for r in rates])
    order = np.argsort(-scores, kind="stable")
    curve, total = [], np.zeros(spikes.shape)
    for count, chosen in enumerate(order[:MOST], 1):
        total += rates[chosen]
        curve.append(bits_per_spike(total / count, spikes))
    return order, scores[order], curve, number or int(np.argmax(curve)) + 1


def choose(
    names: list[str], rates: Sequence[np.ndarray], spikes: np.ndarray, number: int = 0
) -> tuple[Choice, np.ndarray]:
    """The ensemble of some snapshots, and their order.

    Raises:
        BadInput: More members are asked for than there are.
    """
    if number > min(len(names), MOST):
        raise BadInput(
            f"--members {number}; there are {min(len(names), MOST)} snapshots to average"
        )
    order, scores, curve, chosen = best_of(rates, spikes, number)
    turn = generator("nlb folds", len(spikes)).permutation(len(spikes))
    folds = [part for part in np.array_split(turn, FOLDS) if len(part)]
    apart = np.empty(spikes.shape)
    for fold in folds:
        others = np.setdiff1d(turn, fold)
        if not np.nansum(spikes[others]):
            raise BadInput(f"{len(spikes)} val trials are too few to choose an ensemble by")
        own, _, _, count = best_of([r[others] for r in rates], spikes[others], number)
        apart[fold] = np.mean([rates[i][fold] for i in own[:count]], axis=0)
    nested = bits_per_spike(apart, spikes)
    ranked = [names[i] for i in order]
    return Choice(ranked, scores.tolist(), curve, chosen, nested), order


def choose_of(snapshots: list[Snapshot], data: DataFolder, number: int = 0):
    """The ensemble of snapshots by a dataset's val trials; its members, the best first."""
    inputs = data.tensors("val", "eval_input")
    target = data.tensors("val", "target")
    spikes = np.asarray(target["eval_spikes_heldout"], np.float64)
    bins, rates = inputs["eval_spikes_heldin"].shape[1], []
    for snapshot in log.progress(snapshots, "rates of val trials, snapshots"):
        model = snapshot.load()
        found = rates_of(model, inputs["eval_spikes_heldin"])[:, :bins, model.config.heldin :]
        if found.shape != spikes.shape:
            raise BadInput(
                f"{snapshot.path}: predicts held-out units of shape {found.shape}, the val trials "
                f"have {spikes.shape}; expected snapshots of {data.key}"
            )
        rates.append(found.astype(np.float32))
    choice, order = choose([s.name for s in snapshots], rates, spikes, number)
    return choice, [snapshots[i] for i in order[: choice.number]]


def check_corpus(snapshots: Sequence[Snapshot], data: DataFolder) -> None:
    """Refuse snapshots of another corpus, whose units may have another order."""
    for snapshot in snapshots:
        if snapshot.corpus and snapshot.corpus != data.fingerprint:
            raise BadInput(
                f"{snapshot.path} was trained on corpus {snapshot.corpus[:12]}, {data.path} is "
                f"{data.fingerprint[:12]}: its units or trials may be others; give the data that "
                "it was trained on, or --any-corpus"
            )


def rates_by(members: Sequence[Snapshot], data: DataFolder, phase: str) -> dict[str, np.ndarray]:
    """The mean rates of members in a phase, as a submission has them."""
    inputs = data.tensors(phase, "train_input") | data.tensors(phase, "eval_input")
    sums: list[Any] = [0.0, 0.0]
    for snapshot in log.progress(members, f"rates of the phase {phase}, members"):
        model = snapshot.load()
        for place, name in enumerate(("train_spikes_heldin", "eval_spikes_heldin")):
            sums[place] = sums[place] + rates_of(model, inputs[name])
    train, scored = (total / len(members) for total in sums)
    heldin = inputs["eval_spikes_heldin"].shape[2]
    return as_submission(data.dataset, heldin, train, scored)


def write_list(path: Path, choice: Choice, members: list[Snapshot], runs: Path, data: DataFolder):
    """ensemble.json: who is in it, by place and hash, and how it was chosen."""
    said = {
        "dataset": data.key,
        "corpus": data.fingerprint,
        "members": [
            {"name": m.name, "file": str(m.path.relative_to(runs)), "sha256": m.sha256}
            for m in members
        ],
        "val_co_bps": choice.curve[choice.number - 1],
        "nested_co_bps": choice.nested,
        "curve": choice.curve,
    }
    storage.write_json(path, said)


def read_list(runs: Path, path: Path | None = None) -> tuple[str, list[Snapshot]]:
    """Dataset and members of an ensemble.json, below `runs`. Raises BadInput."""
    path = path or runs / LIST
    try:
        said = storage.read_json(path)
        members = []
        for member in said["members"]:
            file = (runs / member["file"]).resolve()
            if not file.is_relative_to(runs.resolve()):
                raise BadInput(f"{path}: {member['file']} leads out of {runs}; refused")
            found = open_snapshot(file, member["name"])
            members.append(replace(found, sha256=member["sha256"]))
        return said["dataset"], members
    except (OSError, KeyError, TypeError) as e:
        raise BadInput(f"{path}: no list of an ensemble ({e!r}); run ndt3 nlb ensemble") from e


def table_rows(choice: Choice) -> list[dict]:
    """One a snapshot, the best first, as far as ensembles were tried."""
    rows = zip(choice.names, choice.scores, choice.curve, strict=False)
    return [
        {
            "rank": rank,
            "snapshot": name,
            "co-bps": f"{score:.4f}",
            "mean of the first": f"{curve:.4f}",
            "member": "yes" if rank <= choice.number else "",
        }
        for rank, (name, score, curve) in enumerate(rows, 1)
    ]


def headline(choice: Choice) -> str:
    """The ensemble in a sentence, and what its score is worth."""
    own, best = choice.curve[choice.number - 1], choice.scores[0]
    return (
        f"the mean of {choice.number}: val co-bps {own:.4f}, the best alone {best:.4f}; chosen "
        f"without the trials that are scored {choice.nested:.4f}, so its own score promises "
        f"{choice.optimism:+.4f} too much"
    )
