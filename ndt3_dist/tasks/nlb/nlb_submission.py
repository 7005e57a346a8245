"""Submissions: rates in the benchmark's layout, checked before they are written or scored.

    DATASET/train_rates_heldin, train_rates_heldout, eval_rates_heldin, eval_rates_heldout,
    eval_rates_heldin_forward, eval_rates_heldout_forward         (trials, bins, units)

Rates are expected counts of a bin. At 20 ms the group is DATASET_20.
"""

from typing import Any

import numpy as np

from ndt3_dist.errors import BadInput
from ndt3_dist.tasks.nlb.nlb_datasets import DATASETS, Dataset
from ndt3_dist.tasks.nlb.nlb_metrics import (
    bits_per_spike,
    psth_r2,
    tp_correlation,
    velocity_r2,
)

RATES = (
    "train_rates_heldin",
    "train_rates_heldout",
    "eval_rates_heldin",
    "eval_rates_heldout",
    "eval_rates_heldin_forward",
    "eval_rates_heldout_forward",
)
FORWARD = tuple(name for name in RATES if name.endswith("_forward"))
SAME, APART = 0.1, 0.25
"""Of log mean rates and log mean counts of units: sorted both they differ by less than SAME on
average, unit by unit by more than APART, where the units are in another order."""


def as_submission(dataset: Dataset, heldin: int, train: np.ndarray, scored: np.ndarray) -> dict:
    """The arrays of a submission.

    Args:
        heldin: Held-in units, which come first.
        train, scored: Rates of train and scored trials and the bins behind them, (trials, bins +
            forward, units).
    """
    bins = len(train[0]) - _forward_of(dataset, len(train[0]))
    parts = {"train": train[:, :bins], "eval": scored[:, :bins]}
    found = {}
    for name, rates in parts.items():
        found[f"{name}_rates_heldin"] = rates[:, :, :heldin]
        found[f"{name}_rates_heldout"] = rates[:, :, heldin:]
    found["eval_rates_heldin_forward"] = scored[:, bins:, :heldin]
    found["eval_rates_heldout_forward"] = scored[:, bins:, heldin:]
    return found


def _forward_of(dataset: Dataset, length: int) -> int:
    for bin_ms in (5, 20):
        if length == dataset.bins(bin_ms) + dataset.forward_bins(bin_ms):
            return dataset.forward_bins(bin_ms)
    raise BadInput(f"rates of {length} bins; {dataset.name} has no such trials with bins behind")


def group_of(values: dict[str, Any], key: str, where: str) -> dict[str, np.ndarray]:
    """The rates of a dataset in a submission. Raises BadInput where they are not there."""
    if key not in values:
        said = ", ".join(values) or "nothing"
        other = f"{key}_20" if f"{key}_20" in values else key.removesuffix("_20")
        if other != key and other in values:
            sizes = ("20", "5") if other.endswith("_20") else ("5", "20")
            raise BadInput(
                f"{where} has {other}, rates in bins of {sizes[0]} ms; the target is {key}, in "
                f"bins of {sizes[1]} ms"
            )
        raise BadInput(f"{where} has {said}; expected a group {key}")
    found = values[key]
    lost = [name for name in RATES if name not in found and name not in FORWARD]
    if lost:
        raise BadInput(
            f"{where}: {key} has no {', '.join(lost)}; expected {', '.join(RATES)} (those of "
            "_forward may be left out)"
        )
    return found


def check_rates(
    group: dict[str, np.ndarray], inputs: dict[str, np.ndarray], dataset: Dataset, where: str
) -> None:
    """Refuse rates that do not belong to some trials, or are none.

    Args:
        group: Arrays of a submission.
        inputs: Spikes by name that rates are of: train_spikes_heldin, eval_spikes_heldout, ...;
            those that are not known are left out.
        dataset: Of both.
    Raises:
        BadInput: Names the array, and all that is wrong with it.
    """
    said = []
    for name, rates in group.items():
        if name not in RATES:
            said.append(f"{name} is none of {', '.join(RATES)}")
            continue
        rates = np.asarray(rates)
        spikes = inputs.get(name.replace("_rates_", "_spikes_"))
        if spikes is not None and rates.shape != spikes.shape:
            said.append(f"{name} {shape_line(rates.shape, spikes.shape, dataset)}")
        elif rates.ndim != 3:
            said.append(f"{name} has shape {rates.shape}; expected (trials, bins, units)")
        elif not np.isfinite(rates).all():
            bad = int((~np.isfinite(rates)).sum())
            said.append(f"{name} has {bad} values that are NaN or infinite")
        elif (rates < 0).any():
            said.append(f"{name} has negative rates ({rates.min():.3g}); are they log rates?")
        elif spikes is not None and name not in FORWARD and in_another_order(rates, spikes):
            said.append(
                f"{name} has the mean counts of its units in another order; expected the units as "
                "the file has them, held-in ones by themselves"
            )
    if said:
        raise BadInput(f"{where}: {'; '.join(said)}")


def shape_line(found: tuple, wanted: tuple, dataset: Dataset) -> str:
    """What is wrong with a shape, in the benchmark's words."""
    line = f"has shape {found}, its trials {wanted}"
    if len(found) != 3:
        return f"{line}; expected (trials, bins, units)"
    ratio = wanted[1] / max(found[1], 1)
    if found[1] != wanted[1] and ratio in (4, 0.25):
        sizes = ("20", "5") if ratio == 4 else ("5", "20")
        return f"{line}: bins of {sizes[0]} ms, expected {sizes[1]} ms"
    if found[0] != wanted[0]:
        return f"{line}: {found[0]} trials, expected {wanted[0]}; those of another split or phase?"
    if found[2] != wanted[2]:
        return f"{line}: {found[2]} units, expected {wanted[2]} of {dataset.name}"
    return line


def in_another_order(rates: np.ndarray, spikes: np.ndarray) -> bool:
    """Whether units have each other's mean counts."""
    counts = np.asarray(np.nanmean(spikes, axis=(0, 1), dtype=np.float64))
    means = np.asarray(rates.mean(axis=(0, 1), dtype=np.float64))
    usable = counts > 0
    x = np.log(np.maximum(means[usable], 1e-9))
    y = np.log(counts[usable])
    if len(x) < 4:
        return False
    return bool(abs(np.sort(x) - np.sort(y)).mean() < SAME and abs(x - y).mean() > APART)


def scores_of(group: dict[str, Any], target: dict[str, Any], dataset: Dataset) -> dict[str, float]:
    """The benchmark's scores of a submission, by its names.

    Args:
        group: Checked.
        target: eval_target of the same trials.
    """
    scored: dict[str, Any] = {n: np.asarray(value, np.float64) for n, value in group.items()}
    rates = np.concatenate([scored["eval_rates_heldin"], scored["eval_rates_heldout"]], axis=2)
    heldout = np.asarray(target["eval_spikes_heldout"], np.float64)
    found = {"co-bps": bits_per_spike(scored["eval_rates_heldout"], heldout)}
    behavior = [np.asarray(target[f"{n}_behavior"], np.float64) for n in ("train", "eval")]
    if dataset.columns:
        found["tp corr"] = tp_correlation(rates, heldout, behavior[1])
    else:
        train = [scored["train_rates_heldin"], scored["train_rates_heldout"]]
        masks = [target.get(f"{n}_decode_mask") for n in ("train", "eval")]
        masks = [None if m is None else np.asarray(m, bool) for m in masks]
        found["vel R2"] = velocity_r2(
            np.concatenate(train, axis=2), behavior[0], rates, behavior[1], *masks
        )
    if "psth" in target:
        moved = target.get("eval_jitter")
        psth = np.asarray(target["psth"], np.float64)
        found["psth R2"] = psth_r2(psth, rates, target["eval_cond_idx"], moved)
    if all(name in scored for name in FORWARD) and "eval_spikes_heldin_forward" in target:
        spikes = [target[n.replace("rates", "spikes")] for n in FORWARD]
        found["fp-bps"] = bits_per_spike(
            np.concatenate([scored[n] for n in FORWARD], axis=2),
            np.concatenate(spikes, axis=2).astype(np.float64),
        )
    return found


def evaluate(submission: dict[str, Any], target: dict[str, Any], where: str) -> dict[str, dict]:
    """Scores of all datasets that a target file has, by group. Raises BadInput."""
    found = {}
    for key, values in target.items():
        dataset = DATASETS.get(key.removesuffix("_20"))
        if dataset is None or not isinstance(values, dict):
            raise BadInput(f"the target has {key}; expected groups {', '.join(DATASETS)}")
        group = group_of(submission, key, where)
        check_rates(group, values, dataset, f"{where}: {key}")
        found[key] = scores_of(group, values, dataset)
    if not found:
        raise BadInput("the target file is empty; expected that of ndt3 nlb data or nlb_tools")
    return found


def differences(one: dict[str, np.ndarray], other: dict[str, np.ndarray], rtol: float) -> list[str]:
    """Where two sets of arrays differ by more than a share of the second, in words."""
    said = []
    for name in RATES:
        if (name in one) != (name in other):
            said.append(f"{name} is in one of them alone")
        elif name in one:
            a, b = np.asarray(one[name], np.float64), np.asarray(other[name], np.float64)
            if a.shape != b.shape:
                said.append(f"{name} has shape {a.shape}, recomputed {b.shape}")
                continue
            apart = np.abs(a - b)
            bad = apart > rtol * np.abs(b)
            if bad.any():
                worst = float((apart / np.maximum(np.abs(b), 1e-12)).max())
                said.append(f"{name}: {bad.mean():.1%} of its values differ, by up to {worst:.2g}")
    return said
