"""Features of all clips by all models, over Ray: a task for each model and clip.

A clip's features count by OUT/MODEL/CLIP.json, written last: what they were made of (weights,
settings, stimulus, by hash) and their own hashes. What is there and intact is not made again.
"""

import fnmatch
from pathlib import Path
from typing import Any

import numpy as np

from ndt3_dist import log, storage
from ndt3_dist.errors import BadInput
from ndt3_dist.prep.pool import ray_pool
from ndt3_dist.prep.recipe import Recipe
from ndt3_dist.prep.workers import own_process
from ndt3_dist.tasks.fmri.clips.clip_names import clip_of, film_of
from ndt3_dist.tasks.fmri.extract.extract_config import ExtractConfig, ModelSpec
from ndt3_dist.tasks.fmri.extract.read_media import FILMS, SOUNDS

VERSION = 1
KINDS = {"image": FILMS, "video": FILMS, "audio": FILMS + SOUNDS, "text": (".tsv",)}


def stimuli_of(config: ExtractConfig, kind: str) -> dict[str, Path]:
    """Clip -> its file. Raises BadInput where two are of one clip, or none is there."""
    found: dict[str, Path] = {}
    for path in sorted(p for p in Path(config.stimuli).rglob("*") if p.suffix in KINDS[kind]):
        clip = clip_of(path.stem)
        if not any(fnmatch.fnmatchcase(n, p) for n in (clip, film_of(clip)) for p in config.clips):
            continue
        if clip in found and found[clip].suffix in FILMS and path.suffix in SOUNDS:
            continue  # a sound beside its film
        if clip in found:
            raise BadInput(f"{found[clip]} and {path} are both of clip {clip}; keep one")
        found[clip] = path
    if not found:
        raise BadInput(
            f"{config.stimuli}: no {', '.join(KINDS[kind])} of {', '.join(config.clips)}"
        )
    return found


def hash_of_model(path: str) -> str:
    """Of its settings and weights."""
    files = sorted(p for p in Path(path).glob("*") if p.suffix in (".json", ".safetensors"))
    if not any(p.suffix == ".safetensors" for p in files):
        raise BadInput(f"{path}: no .safetensors; expected the folder of a downloaded model")
    each = [[p.name, storage.sha256_file(p)] for p in log.progress(files, f"hashing {path}, files")]
    return storage.sha256_bytes(storage.canonical_json(each))


def extract(config: ExtractConfig) -> dict[str, Any]:
    """Make what is missing.

    Returns:
        made, kept: numbers of clips over all models; failed: why, by model and clip.
    """
    tasks: list[tuple] = []
    for name, spec in config.models.items():
        known = hash_of_model(spec.path)
        for clip, path in stimuli_of(config, spec.kind).items():
            place = str(Path(config.out).absolute() / name)
            absolute = spec.model_copy(update={"path": str(Path(spec.path).absolute())})
            one = absolute.model_dump(mode="json"), known, clip, str(path.absolute()), place
            tasks.append((*one, config.tr_s, config.dtype, config.device))
    made, kept, failed = 0, 0, {}
    pool: Any = own_process()
    if config.num_workers or config.ray_address:
        address = config.ray_address or "local"
        workers = config.num_workers or "auto"
        recipe = Recipe(dataset="features", num_workers=workers, ray_address=address)
        pool = ray_pool(recipe, len(tasks))
    with pool as run_all, log.counting("features, clips", len(tasks)) as shown:
        for number, result in run_all(one_clip, tasks):
            spec, _, clip, *_ = tasks[number]
            shown.add()
            if isinstance(result, Exception):
                failed[f"{Path(tasks[number][4]).name} {clip}"] = " ".join(str(result).split())
                log.warn(f"{Path(tasks[number][4]).name} {clip}: {' '.join(str(result).split())}")
            else:
                made, kept = made + result, kept + (not result)
    return {"made": made, "kept": kept, "failed": failed}


def one_clip(
    spec: dict, model: str, clip: str, path: str, place: str, tr_s: float, dtype: str, device: str
) -> bool:
    """Features of a clip by a model; whether they had to be made."""
    settings = {k: v for k, v in spec.items() if k != "path"}
    key = {"version": VERSION, "settings": settings, "model": model, "tr_s": tr_s, "dtype": dtype}
    key |= {"stimulus": storage.sha256_file(path)}
    note, hashed = Path(place, f"{clip}.json"), storage.sha256_bytes(storage.canonical_json(key))
    if is_there(note, hashed):
        return False
    import torch

    from ndt3_dist.tasks.fmri.extract.hidden_states import ROWS

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    own = ModelSpec.model_validate(spec)
    rows = [row.astype(dtype) for row in ROWS[own.kind](Path(path), own, tr_s, device)]
    if not rows:
        raise BadInput(f"{path}: is shorter than a sample of {tr_s:g} s")
    values, files = np.stack(rows), {}  # (rows, layers, dims)
    for i, layer in enumerate(own.layers):
        file = Path(place, f"layer{layer}", f"{clip}.npy")
        file.parent.mkdir(parents=True, exist_ok=True)
        with storage.atomic_file(file) as f:
            np.save(f, np.ascontiguousarray(values[:, i]))
        files[f"layer{layer}/{clip}.npy"] = storage.sha256_file(file)
    storage.write_json(note, {"key": hashed, "made_of": key, "files": files})
    return True


def is_there(note: Path, hashed: str) -> bool:
    """Whether a clip's features are those that are asked for, and whole."""
    if not note.is_file():
        return False
    told = storage.read_json(note)
    if told.get("key") != hashed:
        return False
    files = {note.parent / name: sha for name, sha in told["files"].items()}
    return all(p.is_file() and storage.sha256_file(p) == sha for p, sha in files.items())
