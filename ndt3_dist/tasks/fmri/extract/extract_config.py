"""Which models make features of which stimuli: the YAML of `ndt3 fmri features`."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ndt3_dist.config import Section

SOUND_S = 30.0
"""Of a window of sound, where none is said."""


class ModelSpec(Section):
    kind: Literal["image", "video", "audio", "text"]
    """image = frames one by one; video = frames of a window together; audio; text = transcripts."""
    path: str
    """Folder of a downloaded model of Hugging Face."""
    layers: tuple[int, ...] = Field(default=(-1,), min_length=1)
    """Hidden states: 0 = embeddings, -1 = the last layer."""
    pool: Literal["mean", "first", "last"] = "mean"
    """Of the tokens of a sample."""
    window_s: float = Field(default=0, ge=0)
    """Seconds that a pass sees: of frames up to the end of a sample (0 = the sample), of sound
    (0 = 30)."""
    stride_s: float = Field(default=0, ge=0)
    """Seconds between two windows of sound; 0 = windows end to end."""
    frames: int = Field(default=1, ge=1)
    """Of a window."""
    rate_hz: int = Field(default=16_000, ge=1)
    """Of sound, where the model's folder does not say it."""
    context_words: int = Field(default=512, ge=0)
    """Words before a sample that a text model sees."""

    @model_validator(mode="after")
    def _hears_all(self):
        if self.stride_s > (self.window_s or SOUND_S):
            raise ValueError(
                f"stride_s {self.stride_s:g} is longer than a window of "
                f"{self.window_s or SOUND_S:g} s, so sound between windows would not be heard"
            )
        return self


class ExtractConfig(Section):
    stimuli: str
    """Folder with films, sounds and transcripts (.tsv) somewhere below it, named after clips."""
    out: str
    """Features go to OUT/MODEL/layerN/CLIP.npy."""
    models: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")], ModelSpec]
    clips: tuple[str, ...] = ("*",)
    """Patterns of clips or films."""
    tr_s: float = Field(default=1.49, gt=0)
    """Between two samples of BOLD."""
    dtype: Literal["float32", "float16"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    num_workers: int = Field(default=1, ge=0)
    """Of a Ray of this machine; 0 = this process alone."""
    ray_address: str = ""
    """HOST:PORT of a cluster's head, or auto on one of its hosts."""
