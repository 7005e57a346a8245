"""Hidden states of a model of Hugging Face, one row for each sample of BOLD.

Models are opened from a folder of this machine: nothing is downloaded, weights are safetensors, and
no code of the folder is run.
"""

from collections import deque
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ndt3_dist.errors import BadInput
from ndt3_dist.tasks.fmri.extract.extract_config import SOUND_S, ModelSpec
from ndt3_dist.tasks.fmri.extract.read_media import duration_s, frames_at, sound_of, words_of

MEAN, DEVIATION = [0.5, 0.5, 0.5], [0.5, 0.5, 0.5]
"""Of pixels, where a model's folder does not say them."""


SOUND_INPUTS = "input_values", "input_features"


@lru_cache(1)
def open_model(path: str, device: str) -> tuple[Any, dict[str, Any]]:
    """A model in evaluation mode, and what its folder says of its inputs."""
    try:
        import transformers
    except ImportError as e:
        raise BadInput(f"{path}: needs transformers; pip install 'ndt3_dist[fmri]' ({e})") from e
    from ndt3_dist import storage

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if not (Path(path) / "config.json").is_file():
        raise BadInput(f"{path}: no config.json; expected the folder of a downloaded model")
    told = {"local_files_only": True, "trust_remote_code": False}
    try:
        model = transformers.AutoModel.from_pretrained(path, use_safetensors=True, **told)
    except (OSError, ValueError, ImportError) as e:
        raise BadInput(f"{path}: cannot be opened ({' '.join(str(e).split())[:300]})") from e
    said = Path(path) / "preprocessor_config.json"
    return model.eval().to(device), storage.read_json(said) if said.is_file() else {}


def part_of(path: str, name: str) -> Any:
    """A tokenizer or a feature extractor of a model; None where its folder has none."""
    import transformers

    told = {"local_files_only": True, "trust_remote_code": False}
    try:
        return getattr(transformers, name).from_pretrained(path, **told)
    except (OSError, ValueError, KeyError):
        return None


def hidden(model: Any, spec: ModelSpec, **inputs: torch.Tensor) -> list[torch.Tensor]:
    """The chosen layers, (batch, tokens, dims) each."""
    with torch.no_grad():
        states = model(**inputs, output_hidden_states=True).hidden_states
    if worst := [n for n in spec.layers if not -len(states) <= n < len(states)]:
        raise BadInput(f"{spec.path}: has layers 0 to {len(states) - 1}, not {worst}")
    return [states[n].float() for n in spec.layers]


def pooled(tokens: torch.Tensor, how: str) -> torch.Tensor:
    """(..., tokens, dims) -> (..., dims)."""
    if how == "mean":
        return tokens.mean(-2)
    return tokens[..., 0 if how == "first" else -1, :]


def of_frames(path: Path, spec: ModelSpec, tr_s: float, device: str) -> Iterator[np.ndarray]:
    """Rows of a film, (layers, dims) each: the last `frames` up to the end of a sample."""
    model, said = open_model(spec.path, device)
    window_s = spec.window_s or tr_s
    step_s, size = window_s / spec.frames, model.config.image_size
    size = (size, size) if isinstance(size, int) else tuple(size)
    mean = torch.tensor(said.get("image_mean", MEAN))[:, None, None]
    deviation = torch.tensor(said.get("image_std", DEVIATION))[:, None, None]

    def prepared(frame: np.ndarray) -> torch.Tensor:
        pixels = torch.from_numpy(frame).permute(2, 0, 1)[None].float() / 255
        pixels = F.interpolate(pixels, size, mode="bilinear", antialias=True)[0]
        return (pixels - mean) / deviation

    held: deque[torch.Tensor] = deque(maxlen=spec.frames)
    frames, taken = frames_at(path, step_s), 0
    for row in range(int(duration_s(path) / tr_s)):
        while taken * step_s < (row + 1) * tr_s - 1e-9:
            frame = next(frames, None)
            taken += 1
            if frame is not None:
                held.append(prepared(frame))
        if not held:
            raise BadInput(f"{path}: has no frame")
        clip = torch.stack([held[0]] * (spec.frames - len(held)) + list(held)).to(device)
        if spec.kind == "video":
            layers = hidden(model, spec, pixel_values=clip[None])
        else:
            layers = hidden(model, spec, pixel_values=clip)
        yield torch.stack([pooled(layer, spec.pool).mean(0) for layer in layers]).cpu().numpy()


def of_sound(path: Path, spec: ModelSpec, tr_s: float, device: str) -> Iterator[np.ndarray]:
    """Rows of a film's sound, each from the window that reaches furthest back before its end."""
    model, said = open_model(spec.path, device)
    rate = int(said.get("sampling_rate", spec.rate_hz))
    sound, extractor = sound_of(path, rate), part_of(spec.path, "AutoFeatureExtractor")
    encoder = model.get_encoder() if model.config.is_encoder_decoder else model
    window_s = spec.window_s or SOUND_S
    stride_s = spec.stride_s or window_s
    begun, layers = -1.0, []
    for row in range(int(len(sound) / rate / tr_s)):
        end = (row + 1) * tr_s
        start = max(0.0, float(np.ceil((end - window_s) / stride_s - 1e-9)) * stride_s)
        if start != begun:
            first = round(start * rate)
            piece = sound[first : first + round(window_s * rate)]
            piece = np.pad(piece, (0, round(window_s * rate) - len(piece)))
            if extractor is None:
                values = torch.from_numpy((piece - piece.mean()) / (piece.std() + 1e-7))[None]
                inputs = {"input_values": values}
            else:
                inputs = extractor(piece, sampling_rate=rate, return_tensors="pt")
                inputs = {
                    k: v for k, v in inputs.items() if k in ("input_values", "input_features")
                }
            layers = hidden(encoder, spec, **{k: v.to(device) for k, v in inputs.items()})
            begun = start
        each = layers[0].shape[1] / window_s
        last = min(max(round((end - start) * each), 1), layers[0].shape[1])
        span = slice(min(int((end - tr_s - start) * each), last - 1), last)
        yield torch.stack([pooled(layer[0, span], spec.pool) for layer in layers]).cpu().numpy()


def of_words(path: Path, spec: ModelSpec, tr_s: float, device: str) -> Iterator[np.ndarray]:
    """Rows of a transcript: the tokens of what is said in a sample, after the words before it;
    zeros where nothing is said."""
    model, _ = open_model(spec.path, device)
    tokenizer = part_of(spec.path, "AutoTokenizer")
    if tokenizer is None or not tokenizer.is_fast:
        raise BadInput(f"{spec.path}: has no tokenizer.json, which says where tokens lie in a text")
    model = model.get_encoder() if model.config.is_encoder_decoder else model
    before: deque[str] = deque(maxlen=spec.context_words)
    empty = np.zeros((len(spec.layers), model.config.hidden_size), np.float32)
    for text in words_of(path):
        if not text.strip():
            yield empty
            continue
        context = "".join(f"{word} " for word in before)
        told = tokenizer(context + text, return_offsets_mapping=True, return_tensors="pt")
        ends = told["offset_mapping"][0, :, 1]
        mine = (ends > len(context)) & (told["offset_mapping"][0, :, 0] < ends)
        layers = hidden(model, spec, input_ids=told["input_ids"].to(device))
        before.extend(text.split())
        if not mine.any():
            yield empty
            continue
        kept = [pooled(layer[0, mine.to(layer.device)], spec.pool) for layer in layers]
        yield torch.stack(kept).cpu().numpy()


ROWS = {"image": of_frames, "video": of_frames, "audio": of_sound, "text": of_words}
