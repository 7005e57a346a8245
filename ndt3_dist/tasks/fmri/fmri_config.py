"""The config of an encoder: which clips, which model, how it is trained."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ndt3_dist.config import Section
from ndt3_dist.engines.engine_config import OptimConfig
from ndt3_dist.tasks.fmri.clips.clip_source import ClipSource
from ndt3_dist.tasks.fmri.encoders.build import BUILD
from ndt3_dist.train.pretrain_config import LogConfig, RunConfig


class ClipsConfig(Section):
    features_dir: str = ""
    """Folder that the streams' folders lie in."""
    data_dir: str = ""
    """Folder with sub-*/func/*_bold.h5 and sub-*/target_sample_number/*.npy somewhere below it."""
    streams: dict[str, str] = {}
    """Stream -> folder below `features_dir`, with #LAYER for one array of .h5 files."""
    corpus: str = ""
    """A prepared corpus in the place of both folders."""
    subjects: tuple[str, ...] = ()
    """Such as sub-01; empty = all that have BOLD. A corpus needs them named, in its order."""
    val: tuple[str, ...] = ("s06",)
    """Clips or films that are held out, as patterns."""
    val_run: int = Field(default=0, ge=0)
    """Of clips that are held out and were shown several times, this showing alone; 0 = all."""
    exclude: tuple[str, ...] = ()
    """Clips or films that are left out altogether, as patterns."""
    scale: bool = True
    """Features to mean 0 and deviation 1 over the clips that are trained on, BOLD over each run."""

    @model_validator(mode="after")
    def _from_one_place(self):
        trees = bool(self.features_dir and self.data_dir and self.streams)
        if trees == bool(self.corpus):
            raise ValueError("expected features_dir, data_dir and streams, or else corpus")
        if self.corpus and not self.subjects:
            raise ValueError("corpus needs subjects, in the order of its BOLD")
        return self


class EncoderConfig(Section):
    kind: Literal["conv_linear", "fusion_transformer", "ridge"] = "conv_linear"
    """conv_linear = a matrix and a convolution of each stream; fusion_transformer = VIBE's; ridge =
    in closed form on the last samples."""
    pearson: float = Field(default=1.0, ge=0)
    """Weight of -r."""
    mse: float = Field(default=0.03, ge=0)
    """Weight of the squared error."""
    stream_dropout: float = Field(default=0.0, ge=0, lt=1)
    """How often a stream is left out of a window in training; one always stays."""
    width: int = Field(default=192, ge=1)
    """conv_linear: channels of a stream."""
    kernel: int = Field(default=45, ge=1)
    """conv_linear: samples of the convolution, odd."""
    lags: tuple[Annotated[int, Field(ge=0)], ...] = tuple(range(8))
    """ridge: samples back."""
    hidden: int = Field(default=256, ge=1)
    """fusion_transformer: width of a stream's token."""
    fusion_layers: int = Field(default=1, ge=0)
    fusion_heads: int = Field(default=4, ge=1)
    layers: int = Field(default=2, ge=1)
    """fusion_transformer: over time."""
    heads: int = Field(default=8, ge=1)
    dropout: float = Field(default=0.3, ge=0, lt=1)
    mask: float = Field(default=0.2, ge=0, lt=1)
    """fusion_transformer: share of samples that are not looked at in training."""
    before: int = Field(default=10, ge=0)
    """fusion_transformer: empty samples in front."""

    @model_validator(mode="after")
    def _has_a_loss(self):
        if not self.pearson and not self.mse:
            raise ValueError("pearson and mse are both 0; expected a loss")
        return self

    def options(self, source: ClipSource) -> dict:
        """What `encoders.build` takes for some clips."""
        return {
            "build": BUILD,
            **self.model_dump(mode="json"),
            "streams": dict(source.dims),
            "subjects": list(source.subjects),
            "parcels": source.parcels,
            "scaled": True,
        }


class ClipTrainConfig(Section):
    epochs: int = Field(default=15, ge=1)
    """Passes over the clips, at most; the learning rate falls over all of them."""
    batch: int = Field(default=16, ge=1)
    """Windows of a step."""
    window: int = Field(default=64, ge=0)
    """Samples of a window; 0 = whole clips."""
    patience: int = Field(default=2, ge=0)
    """Epochs without a better held-out score before it ends; 0 = never."""
    average_from: float = Field(default=0.0, ge=0, le=1)
    """Average the weights at the ends of epochs from this share of all on; 0 = the best epoch's."""
    precision: Literal["fp32", "bf16"] = "fp32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    max_skipped: int = Field(default=3, ge=0)
    """Steps in a row without a finite loss and gradient before it ends."""

    @model_validator(mode="after")
    def _averages_whole_runs(self):
        if self.average_from and self.patience:
            raise ValueError("average_from needs every epoch; expected patience 0 beside it")
        return self


class FmriConfig(Section):
    run: RunConfig
    data: ClipsConfig
    model: EncoderConfig = EncoderConfig()
    optim: OptimConfig = OptimConfig(
        lr=3e-4, schedule="cosine", warmup_epochs=0, weight_decay=0.1, grad_clip=5.0
    )
    """Its `decay_epochs` are `train.epochs`, whatever is said."""
    train: ClipTrainConfig = ClipTrainConfig()
    log: LogConfig = LogConfig()
