"""From an export back to upstream: into a copy of one of its checkpoints, or a plain state dict.

With a template, its file is copied byte for byte; only the bytes of the model's tensors change, and
their CRCs, so that upstream's loader finds its own pickle, classes and settings. Moments and steps
of the template's optimiser belong to other weights: they are set to zero, which is a fresh AdamW.
Without one, torch saves a state dict with upstream's names, in its order, Poisson table included.

Source: joel99/ndt3 at 472466a; the zip format's APPNOTE 6.3.10, sections 4.3.7 to 4.3.12.
"""

import shutil
import struct
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

import torch

from ndt3_dist import log, storage
from ndt3_dist.errors import BadInput, CheckpointCorrupt
from ndt3_dist.model.load import load_model, read_export_config
from ndt3_dist.model.model_config import TRAINING_FIELDS, ModelConfig
from ndt3_dist.model.ndt3 import NDT3
from ndt3_dist.upstream.hyperparameters import read_config
from ndt3_dist.upstream.lightning import LightningFile, Storage, View, place
from ndt3_dist.upstream.names import NAMES, to_upstream
from ndt3_dist.upstream.state_dict import CONTEXT_PARTS, EXTRA, POISSON, state_dict
from ndt3_dist.upstream.torch_zip import CENTRAL, DESCRIPTOR, TorchZip

COUNTERS = {"token_proc_approx": 0, "token_seen_approx": 0, "novel_params": []}
"""Upstream's own entry beside the tensors, as a new model has it; its strict loading needs one."""


def to_ndt3(export: str | Path, out: str | Path, like: str | Path | None = None) -> dict:
    """Write an export as a checkpoint for upstream.

    Args:
        export: Folder of an export, fp32 or bf16.
        out: File to make; it appears whole or not at all.
        like: Upstream checkpoint of the same architecture to put the weights into.
    Returns:
        written (entries of the state dict) and reset (tensors of the optimiser set to zero).
    Raises:
        BadInput: `out` exists, or the export and the template differ; names the key.
        CheckpointCorrupt, Unsupported: One of the two cannot be read.
    """
    if storage.is_remote(out) or Path(out).exists():
        raise BadInput(f"{out}: exists or is remote; choose another file on a disk")
    if like and Path(like).is_dir():
        raise BadInput(
            f"{like}: a folder, as DeepSpeed writes it; --like takes one file, which Lightning's "
            "convert_zero_checkpoint_to_fp32_state_dict makes of it"
        )
    model = load_model(export)
    if model.masked or model.config.context:
        raise BadInput(
            f"{export}: objective {model.config.objective}, context "
            f"[{', '.join(model.config.context)}]; NDT3's own code has causal models without "
            "identities alone"
        )
    if read_export_config(export).get("readout"):
        log.warn(f"{export}: its readout stays behind; upstream decodes with the weights alone")
    weights = {to_upstream(n): p.detach().float() for n, p in model.named_parameters()}
    if like is None:
        state = plain_state(model, weights)
        with storage.atomic_file(out) as f:
            torch.save(state, f)
        return {"written": len(state), "reset": 0}
    with LightningFile(like) as template:
        views, _ = state_dict(template)
        check_same(model.config, read_config(template, views), template, export)
        changed = model_storages(template, views, weights)
        reset = optimizer_storages(template)
        if both := {*changed} & {s.key for s in reset}:
            raise CheckpointCorrupt(
                f"{like}: data/{min(both)} belongs to the model and to its optimiser; "
                "use a checkpoint as upstream wrote it"
            )
        storage.check_room(out, template.path.stat().st_size)
        with storage.atomic_file(out) as f, template.path.open("rb") as source:
            shutil.copyfileobj(source, f, storage.READ_BYTES)
            entries = central_entries(template)
            for key, elements in changed.items():
                overwrite(f, template, entries, key, elements.numpy().tobytes())
            for held in reset:
                zeros = bytes(held.elements * held.dtype.itemsize)
                overwrite(f, template, entries, held.key, zeros)
    return {"written": len(weights.keys() & views.keys()), "reset": len(reset)}


def plain_state(model: NDT3, weights: dict[str, torch.Tensor]) -> OrderedDict:
    """A state dict in upstream's order; parts that a fine-tuned model lacks are left out."""
    context = {to_upstream(name) for name in CONTEXT_PARTS}
    entries: dict[str, Any] = {EXTRA: COUNTERS, **weights, POISSON: model.poisson}
    if not model.config.context_tokens:
        entries = {k: v for k, v in entries.items() if k not in context}
    ranks: dict[str, float] = {key: n for n, key in enumerate(NAMES.values())}
    ranks[EXTRA] = ranks[NAMES["sos"]] + 0.5
    ranks[POISSON] = ranks[NAMES["spike_out.bias"]] + 0.5
    blocks = ranks[NAMES["space.weight"]] + 0.5  # in their own order, since the sort is stable
    return OrderedDict((k, entries[k]) for k in sorted(entries, key=lambda k: ranks.get(k, blocks)))


def check_same(ours: ModelConfig, theirs: ModelConfig, template: TorchZip, export) -> None:
    """Refuse a template in which the weights would compute something else."""
    for field in sorted({*ModelConfig.model_fields} - TRAINING_FIELDS):
        if getattr(ours, field) != getattr(theirs, field):
            raise BadInput(
                f"{template.path}: {field} is {getattr(theirs, field)}, {export} has "
                f"{getattr(ours, field)}; choose a template of the same architecture"
            )


def model_storages(
    template: LightningFile, views: dict[str, View], weights: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Storages of the template's model with the weights in them, (elements,), by number.

    Elements that no parameter covers keep their values.

    Raises:
        BadInput: An entry is missing, has another shape or dtype, or is not ours; or two entries
            share bytes and the export has different values for them.
    """
    context = {to_upstream(name) for name in CONTEXT_PARTS}
    changed: dict[str, torch.Tensor] = {}
    for key in {**weights, **views}:
        if key == POISSON or (key in context and key not in views):
            continue
        view, weight = views.get(key), weights.get(key)
        if view is None or weight is None:
            side = "not in the template" if view is None else "not in the export"
            raise BadInput(f"{template.path}: {key} is {side}; choose another template")
        if view.shape != weight.shape or view.storage.dtype != torch.float32:
            raise BadInput(
                f"{template.path}: {key} has shape {view.shape} of {view.storage.dtype}, "
                f"{tuple(weight.shape)} of float32 is to go there; choose another template"
            )
        held = view.storage
        if held.key not in changed:
            changed[held.key] = template.elements(held)
        place(changed[held.key], view).copy_(weight)
    for key, view in views.items():
        kept = weights.get(key) if key != POISSON else template.tensor(view)
        found = changed.get(view.storage.key)
        if kept is not None and found is not None and not same_bits(place(found, view), kept):
            raise BadInput(
                f"{template.path}: {key} shares bytes with another entry, of which the export has "
                "other values; choose another template"
            )
    return changed


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two float32 tensors have the same bytes, NaN or not."""
    return torch.equal(*(t.contiguous().flatten().view(torch.uint8) for t in (a, b)))


def optimizer_storages(template: LightningFile) -> list[Storage]:
    """Storages of every tensor in the template's optimiser states, each once."""
    found: dict[str, Storage] = {}
    states = template.content.get("optimizer_states")
    for optimizer in states if isinstance(states, list) else []:
        state = optimizer.get("state") if isinstance(optimizer, dict) else None
        for entry in state.values() if isinstance(state, dict) else []:
            for value in entry.values() if isinstance(entry, dict) else []:
                if isinstance(value, View):
                    found[value.storage.key] = value.storage
    return list(found.values())


def central_entries(template: TorchZip) -> dict[str, int]:
    """Where the archive's list has the entry of each member."""
    entries, position = {}, template.archive.start_dir
    with template.path.open("rb") as f:
        for member in template.archive.infolist():  # in the list's order
            f.seek(position)
            header = f.read(46)
            if header[:4] != CENTRAL:
                raise template.corrupt("its list of members is damaged")
            entries[member.filename] = position
            position += 46 + sum(struct.unpack("<HHH", header[28:34]))
    return entries


def overwrite(f: BinaryIO, template: TorchZip, entries: dict[str, int], key: str, data: Any):
    """Put other bytes into a storage of the copy, and their CRC wherever the format keeps it."""
    member = template.member(f"data/{key}")
    assert len(data) == member.file_size, key
    start = template.data_offset(member)
    crc = struct.pack("<I", zlib.crc32(data))
    f.seek(start)
    f.write(data)
    f.seek(entries[member.filename] + 16)
    f.write(crc)
    if member.flag_bits & 8:  # the CRC follows the bytes, as torch writes it
        with template.path.open("rb") as source:
            source.seek(start + member.file_size)
            mark = source.read(4)
        f.seek(start + member.file_size + (4 if mark == DESCRIPTOR else 0))
    else:
        f.seek(member.header_offset + 14)
    f.write(crc)
