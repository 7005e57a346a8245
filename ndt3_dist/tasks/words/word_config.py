"""The config of an experiment: the sections and names of the podcast benchmark, checked.

YAML of both of its generations is read (`foreign_yaml`); keys that are ours alone have defaults.
"""

from typing import Any, Literal

from pydantic import Field, model_validator

from ndt3_dist.config import Section
from ndt3_dist.tasks.words.word_folds import SEQUENTIAL, ZERO_SHOT


class DataParams(Section):
    window_width: float = Field(default=0.625, gt=0)
    """Length of the window around each onset + lag in s."""
    preprocessing_fn_name: str | list[str] | None = None
    """What windows go through, in order: names of ours (`lag_features`) or import paths, called
    with data (words, electrodes, time) and their params."""
    preprocessor_params: dict[str, Any] | list[dict[str, Any] | None] | None = None
    subject_ids: list[int | str] = []
    """Subjects side by side, in this order; empty = all, or those of the electrode list."""
    data_root: str = "data"
    """Top of the BIDS folder."""
    corpus: str = ""
    """A prepared corpus; empty = one is made of data_root below output_dir."""
    stream: str = "ecog"
    """Of the corpus."""
    electrode_file_path: str | None = None
    """List of electrodes, columns subject and elec."""
    per_subject_electrodes: dict[int | str, list[str]] | None = None
    channel_reg_ex: str | None = None
    use_high_gamma: bool = True
    """The files with desc-highgamma; else those without desc."""
    target_sr: float | None = None
    """Rate in Hz, behind a low-pass filter; null = the recording's."""
    signal_unit: Literal["uV", "V"] | None = "uV"
    do_drop_bads: bool = True
    standardise: bool = True
    """Each feature to mean 0 and deviation 1 over training words."""
    word_column: str | None = None
    """Column of a task's own table that has the word of each row."""
    task_params: dict[str, Any] = {}
    use_lip_coords: bool = False
    stft_config: dict[str, Any] | None = None


class TrainingParams(Section):
    batch_size: int = Field(default=32, ge=2)
    epochs: int = Field(default=100, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    early_stopping_patience: int = Field(default=10, ge=1)
    n_folds: int = Field(default=5, ge=2)
    fold_ids: list[int] | None = None
    """Folds to run, from 1; null = all."""
    lag: int | None = None
    """One lag in ms in the place of the three below."""
    min_lag: int = -10_000
    max_lag: int = 10_000
    """Included where a step falls on it."""
    lag_step_size: int = Field(default=1000, ge=1)
    fold_type: Literal["sequential_folds", "zero_shot_folds"] = SEQUENTIAL
    purge_gap_s: float | None = None
    """Least distance of onsets of two parts; null = the window's width, and never less."""
    loss_name: str | None = None
    losses: list[str] = []
    """Empty = mse of vectors and numbers, cross_entropy of classes, bce of two of them."""
    loss_weights: list[float] = []
    metrics: list[str] = []
    """More metrics, by import path; ours are always taken, all of them."""
    early_stopping_metric: str = ""
    """Over all validation words at once; empty = the headline of the target's kind."""
    smaller_is_better: bool | None = None
    """null = as the metric's name says."""
    grad_accumulation_steps: int = Field(default=1, ge=1)
    min_train_freq_auc: int = 5
    min_test_freq_auc: int = -1
    top_k_thresholds: list[int] = [1, 5, 10]
    random_seed: int = 42
    seeds: list[int] = []
    """Of several trainings of each fold; empty = random_seed alone."""
    cudnn_deterministic: bool = False
    tensorboard_logging: bool = False
    visualize_fold_distribution: bool = False
    linear_regression_baseline: bool = False
    ridge_regression_baseline: bool = True
    logistic_regression_baseline: bool = True
    ridge_logistic_regression_baseline: bool = False
    ridge_alpha: float | None = None
    """null = chosen by validation words."""
    normalize_targets: bool = False
    """Each to mean 0 and deviation 1 over training words."""
    shuffle_targets: bool = False
    """Train on targets of other words; a control."""
    clip_grad_norm: float = Field(default=0, ge=0)
    lr_scheduler: Literal["cosine_annealing", "plateau"] | None = None
    cosine_eta_min_factor: float = 1e-2
    use_lr_scheduler: bool = False
    """The same as lr_scheduler: plateau."""
    scheduler_params: dict[str, Any] | None = None
    optimizer: Literal["AdamW"] = "AdamW"
    permutations: int = Field(default=200, ge=0)
    """Orders of the truth for p-values; 0 = none."""

    @model_validator(mode="after")
    def _one_weight_a_loss(self):
        if self.loss_weights and len(self.loss_weights) != len(self.names_of_losses()):
            raise ValueError(
                f"{len(self.loss_weights)} loss_weights of {len(self.names_of_losses())} losses"
            )
        return self

    def names_of_losses(self) -> list[str]:
        return [self.loss_name] if self.loss_name else self.losses

    def is_zero_shot(self) -> bool:
        return self.fold_type == ZERO_SHOT


class ModelSpec(Section):
    constructor_name: str = "pitom_model"
    """Name of ours (`decoders.by_name`) or import path of constructor(params)."""
    params: dict[str, Any] = {}
    sub_models: dict[str, "ModelSpec"] = {}
    """Built first, and given to the constructor among its params."""
    checkpoint_path: str | None = None
    """Weights to begin with; {lag}, {fold} and {prev_checkpoint_dir} are filled in."""
    encoder: dict[str, Any] | None = None
    """A frozen model whose features take the place of windows (`frozen`): call (ndt3, or an import
    path of encode(data, params)), checkpoint, and its own params."""
    feature_cache: bool = True
    """Taken for granted: features of an encoder are always kept."""
    model_data_getter: str | None = None
    """getter(table, raws, params) -> (table, names of its new columns), which the model is called
    with by name."""


class TaskConfig(Section):
    task_name: str = "word_embedding_decoding_task"
    """Name of ours (`word_targets`) or import path of getter(task_config)."""
    data_params: DataParams = DataParams()
    task_specific_config: dict[str, Any] = {}


class Experiment(Section):
    """One stage."""

    model_spec: ModelSpec = ModelSpec()
    config_setter_name: str | list[str] | None = None
    """setter(config, raws, table[, targets]) -> config, by import path, in order."""
    task_config: TaskConfig = TaskConfig()
    training_params: TrainingParams = TrainingParams()
    trial_name: str = "words"
    """Folder of the results below output_dir; {} are filled by `format_fields`."""
    format_fields: list[str] | None = None
    output_dir: str = "results"
    checkpoint_dir: str = "checkpoints"
    tensorboard_dir: str = ""
    plugins: list[str] = []
    """Modules in which names that are none of ours are sought."""
    run_mode: Literal["combined"] = "combined"
    regions: None = None

    @property
    def data(self) -> DataParams:
        return self.task_config.data_params

    @property
    def gap_s(self) -> float:
        """Purge gap in s."""
        return max(self.training_params.purge_gap_s or 0, self.data.window_width)

    @model_validator(mode="after")
    def _gap_is_a_window(self):
        gap = self.training_params.purge_gap_s
        if gap is not None and gap < self.data.window_width:
            raise ValueError(
                f"training_params.purge_gap_s {gap:g} is less than the window of "
                f"{self.data.window_width:g} s: windows of two parts would overlap"
            )
        return self
