"""What is decoded: a target for each word or moment, by the name of a task.

Names are those of the podcast benchmark. A task of one's own is an import path of a function of the
task's config that gives a table with columns start and target (`plug_in`).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ndt3_dist.data.order import generator
from ndt3_dist.errors import BadInput
from ndt3_dist.tasks.words.ieeg import word_table
from ndt3_dist.tasks.words.ieeg.bids_folder import column, read_table
from ndt3_dist.tasks.words.ieeg.word_table import WordTable, numbers
from ndt3_dist.tasks.words.loudness import loudness
from ndt3_dist.tasks.words.word_config import TaskConfig

ARBITRARY = 50
"""Dimensions of the vectors that stand for nothing."""


@dataclass(frozen=True)
class Examples:
    """What is to be decoded at which moments.

    Attributes:
        start: Moments in s, (n,).
        text: Words there; "" where there is none.
        target: (n, dims) float32, (n,) float64 or (n,) int, by `kind`.
        kind: vector, number or class.
        more: Further columns that the model is called with, (n, ...).
    """

    start: np.ndarray
    text: list[str]
    target: np.ndarray
    kind: str
    more: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.start)

    @property
    def classes(self) -> int:
        """Of a kind class: 2 at least."""
        return max(int(self.target.max()) + 1, 2) if self.kind == "class" else 0

    def take(self, rows: np.ndarray) -> "Examples":
        more = {name: values[rows] for name, values in self.more.items()}
        text = [self.text[r] for r in rows]
        return Examples(self.start[rows], text, self.target[rows], self.kind, more)


def path_in(task: TaskConfig, key: str, default: str) -> Path:
    """A table that the task's config names: as it is, or below data_root."""
    told = Path(str(task.task_specific_config.get(key) or default))
    for found in (told, Path(task.data_params.data_root) / told):
        if found.is_file():
            return found
    raise BadInput(
        f"{key} {told}: no such file, neither here nor below {task.data_params.data_root}; say "
        f"task_config.task_specific_config.{key}=FILE"
    )


def told(task: TaskConfig, **defaults: Any) -> dict[str, Any]:
    """What the task's config says, with defaults. Raises BadInput for other keys."""
    said = {k: v for k, v in task.task_specific_config.items() if k not in SHARED}
    if unknown := sorted({*said} - {*defaults}):
        raise BadInput(
            f"task_specific_config: unknown {', '.join(unknown)}; {task.task_name} has "
            f"{', '.join(defaults) or 'none'}"
        )
    return {**defaults, **said}


SHARED = "input_fields", "required_config_setter_names"
TRANSCRIPT = "stimuli/podcast_transcript.csv"
TOKENS = "stimuli/gpt2-xl/transcript.tsv"


def words_of(task: TaskConfig, onsets: dict[int, float], key: str = "transcript_path") -> WordTable:
    """The story's words, at the onsets that the corpus has where it has any."""
    words = word_table.read_words(path_in(task, key, TRANSCRIPT))
    return words.at(onsets) if onsets else words


def word_embedding(task: TaskConfig, onsets: dict[int, float]) -> Examples:
    """A vector for each word: gpt-2xl (layers), glove, arbitrary, or any HDF5 or npy file."""
    asked = told(
        task,
        embedding_type="gpt-2xl",
        embedding_layer=None,
        embedding_pca_dim=None,
        embedding_path="",
        embedding_key="",
        token_path="",
        transcript_path="",
    )
    kind, words = asked["embedding_type"], words_of(task, onsets)
    if kind == "arbitrary":
        return arbitrary(words, int(asked["embedding_pca_dim"] or ARBITRARY))
    if kind == "glove":
        path = path_in(task, "embedding_path", "glove/glove.6B.50d.txt")
        plain = [norm_word(text) for text in words.text]
        known = word_table.read_glove(path, {*plain})
        return with_vectors(words, [known.get(text) for text in plain], path)
    if kind not in ("gpt-2xl", "file", "whisper"):
        raise BadInput(f"embedding_type {kind!r}; expected gpt-2xl, glove, arbitrary or file")
    default = "stimuli/whisper-medium" if kind == "whisper" else "stimuli/gpt2-xl"
    key = asked["embedding_key"] or f"layer-{asked['embedding_layer']}"
    if kind == "gpt-2xl" and asked["embedding_layer"] is None and not asked["embedding_key"]:
        raise BadInput("embedding_layer is missing; gpt-2xl has 0 to 48, 24 is the middle one")
    features = path_in(task, "embedding_path", f"{default}/features.hdf5")
    tokens = None
    if asked["token_path"] or kind != "file":
        tokens = path_in(task, "token_path", f"{default}/transcript.tsv")
    vectors = word_table.word_vectors(features, key, tokens)
    return with_vectors(words, [vectors.get(i) for i in words.index.tolist()], features)


def whisper_embedding(task: TaskConfig, onsets: dict[int, float]) -> Examples:
    """As of a file of whisper's vectors, joined on word_idx."""
    special = {"embedding_type": "whisper", "embedding_key": "vectors", **task.task_specific_config}
    return word_embedding(task.model_copy(update={"task_specific_config": special}), onsets)


def norm_word(text: str) -> str:
    """In small letters, without punctuation around it."""
    return re.sub(r"^[^\w]+|[^\w]+$", "", text.lower())


def with_vectors(words: WordTable, vectors: list, source: object) -> Examples:
    """Words that have a vector, with it. Raises BadInput where none has."""
    rows = np.array([i for i, v in enumerate(vectors) if v is not None], int)
    if not len(rows):
        raise BadInput(
            f"{source}: has a vector for none of {len(words)} words; is it of this story?"
        )
    kept = words.take(rows)
    return Examples(kept.start, kept.text, np.stack([vectors[r] for r in rows]), "vector")


def arbitrary(words: WordTable, dims: int) -> Examples:
    """A vector for each word that stands for nothing: U(-1, 1), a function of the word's text."""
    known = {text: generator("arbitrary", text).uniform(-1, 1, dims) for text in {*words.text}}
    vectors = np.stack([known[text] for text in words.text]).astype(np.float32)
    return Examples(words.start, words.text, vectors, "vector")


def of_table(default: str, key: str, columns: tuple[str, ...], kind: str) -> Callable:
    """A task whose table has a row for each word: onset, word and a column with the target."""

    def made(task: TaskConfig, onsets: dict[int, float]) -> Examples:
        asked = told(task, **{key: "", "target_column": "", "sigma": None, "label_column": ""})
        path = path_in(task, key, default)
        rows = read_table(path)
        name = [asked["target_column"] or asked["label_column"]]
        texts = column(rows, *(name if name[0] else columns), where=path)
        kept = [i for i, text in enumerate(texts) if text.lower() not in ("", "nan", "n/a")]
        rows, texts = [rows[i] for i in kept], [texts[i] for i in kept]
        start = numbers(column(rows, "onset", "start", where=path), path, "onset")
        truth = {"true": "1", "false": "0"}
        values = numbers([truth.get(t.lower(), t) for t in texts], path, columns[0])
        words = column(rows, "word", where=path) if rows and "word" in rows[0] else [""] * len(rows)
        target = values.astype(int) if kind == "class" else values
        if kind == "class" and ((target != values).any() or target.min() < 0):
            raise BadInput(f"{path}: {columns[0]} is no class; expected whole numbers from 0")
        return Examples(start, words, target, kind)

    return made


def onsets_of(default: str, key: str) -> Callable:
    """A task of moments against others: beginnings of sentences or intonation units."""

    def made(task: TaskConfig, onsets: dict[int, float]) -> Examples:
        asked = told(task, **{key: ""}, negatives_per_positive=1, negative_margin_s=0.75, seed=42)
        path = path_in(task, key, default)
        rows = read_table(path)
        begins = numbers(
            column(rows, "sentence_onset", "onset", "start", "boundary", where=path), path, "onset"
        )
        begins = np.unique(begins)
        count, margin = int(asked["negatives_per_positive"]), float(asked["negative_margin_s"])
        draw, least, most = generator(key, asked["seed"]), begins[0], begins[-1]
        tries = draw.uniform(least, most, 50 * count * len(begins))
        at = np.searchsorted(begins, tries)
        left = tries - begins[np.clip(at - 1, 0, None)]
        right = begins[np.clip(at, None, len(begins) - 1)] - tries
        others = tries[np.minimum(left, right) >= margin][: count * len(begins)]
        if not len(others):
            raise BadInput(f"{path}: no moment is {margin:g} s from all {len(begins)} onsets")
        start = np.concatenate([begins, others])
        order = np.argsort(start, kind="stable")
        target = np.r_[np.ones(len(begins), int), np.zeros(len(others), int)][order]
        return Examples(start[order], [""] * len(start), target, "class")

    return made


def volume_level(task: TaskConfig, onsets: dict[int, float]) -> Examples:
    """Loudness of the story in dB, in windows of 200 ms."""
    asked = told(
        task,
        audio_path="",
        cutoff_hz=8.0,
        butter_order=4,
        window_size=200.0,
        hop_size=25.0,
    )
    path = path_in(task, "audio_path", "stimuli/podcast.wav")
    del asked["audio_path"]
    times, values = loudness(path, *asked.values())
    return Examples(times, [""] * len(times), values, "number")


WORD_CLASSES = "processed_data/df_word_onset_with_pos_class.csv"
TASKS: dict[str, Callable[[TaskConfig, dict[int, float]], Examples]] = {
    "word_embedding_decoding_task": word_embedding,
    "whisper_embedding_decoding_task": whisper_embedding,
    "content_noncontent_task": of_table(
        WORD_CLASSES, "content_noncontent_path", ("is_content",), "class"
    ),
    "pos_task": of_table(WORD_CLASSES, "pos_path", ("pos_class",), "class"),
    "gpt_surprise_task": of_table(WORD_CLASSES, "content_noncontent_path", ("surprise",), "number"),
    "gpt_surprise_multiclass_task": of_table(
        WORD_CLASSES, "content_noncontent_path", ("surprise_class",), "class"
    ),
    "sentence_onset_task": onsets_of(
        "processed_data/all_sentences_podcast.csv", "sentence_csv_path"
    ),
    "iu_boundary_task": onsets_of("processed_data/iu_boundaries.csv", "iu_boundary_csv_path"),
    "volume_level_decoding_task": volume_level,
}
"""Name -> what makes its examples of the task's config and the onsets that the corpus has."""
