"""A folder of the structure of the public data set, with a response to words that is known.

Electrodes answer each word from 150 to 450 ms after it begins, by a fixed map of the word's vector,
in noise. Words are drawn independently, so that nothing can be decoded before a word begins.
"""

import warnings
import wave
from pathlib import Path

import numpy as np

from ndt3_dist.data.order import generator

RATE = 512.0
BEGINS_S, ENDS_S = 0.15, 0.45
DIMS = 10
"""Of a word's vector."""
LETTERS = np.array(list("abcdefghijklmnopqrstuvwxyz"))
NYU = 661, 662, 717, 723, 741, 742, 743, 763, 798
HIGH_GAMMA = "derivatives/ecogprep/sub-{0}/ieeg/sub-{0}_task-podcast_desc-highgamma_ieeg.fif"


def write_story(
    folder: Path,
    channels: tuple[int, ...] = (24, 16),
    seconds: float = 120,
    gain: float = 1.0,
    vocabulary: int = 120,
    seed: int = 0,
) -> None:
    """Write the folder.

    Args:
        channels: Of each subject; the last of each is bad.
        gain: Of the response, in deviations of the noise.
        vocabulary: Different words.
    """
    draw = generator("story", seed)
    letters = draw.permuted(np.tile(LETTERS, (vocabulary, 1)), axis=1)[:, :6]
    names = sorted({"".join(row) for row in letters})
    vectors = {name: draw.standard_normal(DIMS).astype(np.float32) for name in names}
    onsets = 1.0 + np.cumsum(draw.uniform(0.36, 0.7, int(seconds / 0.5)))
    onsets = onsets[onsets < seconds - 2]
    words = [names[i] for i in draw.integers(0, len(names), len(onsets))]
    write_tables(folder, words, onsets, vectors, draw)
    for number, count in enumerate(channels, 1):
        write_subject(folder, f"{number:02d}", count, words, onsets, vectors, seconds, gain, draw)
    people = [f"sub-{n:02d}\t{NYU[(n - 1) % 9]}" for n in range(1, len(channels) + 1)]
    write(folder / "participants.tsv", "participant_id\tnyu_id", people)
    electrodes = [
        f"{NYU[(n - 1) % 9]},G{c}" for n, count in enumerate(channels, 1) for c in range(1, count)
    ]
    write(folder / "processed_data/all_subject_sig.csv", "subject,elec", electrodes)
    (folder / "dataset_description.json").write_text(
        '{"Name": "simulated", "BIDSVersion": "1.8.0"}'
    )


def write(path: Path, head: str, rows: list[str], mark: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(mark + "\n".join([head, *rows]) + "\n", encoding="utf-8")


def write_tables(folder: Path, words, onsets, vectors, draw) -> None:
    """Transcripts, features of sub-tokens, classes, sentences, and the sound."""
    import h5py

    ends = onsets + 0.3
    lines = [f"{w},{a:.4f},{b:.4f}" for w, a, b in zip(words, onsets, ends, strict=True)]
    write(folder / "stimuli/podcast_transcript.csv", "word,start,end", lines)
    glove = [f"{name} " + " ".join(f"{v:.5f}" for v in vector) for name, vector in vectors.items()]
    (folder / "glove").mkdir(parents=True, exist_ok=True)
    (folder / "glove/glove.6B.50d.txt").write_text("\n".join(glove) + "\n")
    tokens, features = [], []
    for number, (word, start, end) in enumerate(zip(words, onsets, ends, strict=True)):
        for part in range(1 + number % 2):  # every other word is two sub-tokens
            row = f"{len(tokens)}\t{number}\t{word}\t{start:.4f}\t{end:.4f}\t{word[:3]}\t{part}"
            tokens.append(row)
            features.append(vectors[word] + (0.1 if part else -0.1) * (number % 2))
    head = "\tword_idx\tword\tstart\tend\thftoken\ttoken_id"
    write(folder / "stimuli/gpt2-xl/transcript.tsv", head, tokens)
    with h5py.File(folder / "stimuli/gpt2-xl/features.hdf5", "w") as file:
        file["layer-24"] = np.array(features, np.float32)
    rows = []
    for word, start in zip(words, onsets, strict=True):
        first, second, third = vectors[word][:3]
        rows.append(
            f"{word},{start:.4f},{int(first > 0)},{int(np.digitize(second, (-0.5, 0.5)))},"
            f"{third:.4f},{int(np.digitize(third, (-0.5, 0.5)))}"
        )
    head = "word,onset,is_content,pos_class,surprise,surprise_class"
    write(folder / "processed_data/df_word_onset_with_pos_class.csv", head, rows)
    sentences = [f"{a:.4f},{a + 2:.4f}" for a in onsets[::8]]
    write(folder / "processed_data/all_sentences_podcast.csv", "sentence_onset,offset", sentences)
    write(folder / "processed_data/iu_boundaries.csv", "onset", [f"{a:.4f}" for a in onsets[::4]])
    with wave.open(str(folder / "stimuli/podcast.wav"), "wb") as sound:
        sound.setnchannels(2)
        sound.setsampwidth(2)
        sound.setframerate(2000)
        times = np.arange(int(2000 * (onsets[-1] + 1))) / 2000
        loud = 0.3 + 0.25 * np.sin(2 * np.pi * 0.5 * times)
        mono = (32767 * loud * np.sin(2 * np.pi * 220 * times)).astype("<i2")
        sound.writeframes(np.stack([mono, mono], axis=1).tobytes())


def response(words, onsets, vectors, channels: int, seconds: float, draw) -> np.ndarray:
    """What electrodes do because of words, (channels, samples)."""
    found = np.zeros((channels, int(seconds * RATE)))
    weights = draw.standard_normal((channels, DIMS)) / np.sqrt(DIMS)
    shape = np.hanning(int((ENDS_S - BEGINS_S) * RATE))
    for word, onset in zip(words, onsets, strict=True):
        at = int((onset + BEGINS_S) * RATE)
        found[:, at : at + len(shape)] += np.outer(weights @ vectors[word], shape)
    return found


def write_subject(folder, subject, channels, words, onsets, vectors, seconds, gain, draw) -> None:
    """A recording of one subject and its tables."""
    import mne

    noise = draw.standard_normal((channels, int(seconds * RATE)))
    values = noise + gain * response(words, onsets, vectors, channels, seconds, draw)
    names = [f"G{c}" for c in range(1, channels + 1)]
    path = folder / HIGH_GAMMA.format(subject)
    path.parent.mkdir(parents=True, exist_ok=True)
    info = mne.create_info(names, RATE, "ecog", verbose="error")
    raw = mne.io.RawArray(1e-6 * values, info, verbose="error")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        raw.save(path, fmt="single", overwrite=True, verbose="error")
    own = folder / f"sub-{subject}/ieeg/sub-{subject}_task-podcast"
    status = ["good"] * (channels - 1) + ["bad"]
    rows = [f"{n}\tECOG\tuV\tn/a\t{s}" for n, s in zip(names, status, strict=True)]
    table = Path(f"{own}_channels.tsv")
    write(table, "name\ttype\tunits\tlow_cutoff\tstatus", rows, mark="\ufeff")
    places = draw.uniform(-60, 60, (channels, 3))
    rows = [
        f"{n}\t{x:.2f}\t{y:.2f}\t{z:.2f}\t2\tG" for n, (x, y, z) in zip(names, places, strict=True)
    ]
    head = "name\tx\ty\tz\tsize\tgroup"
    write(Path(f"{own}_space-MNI152NLin2009aSym_electrodes.tsv"), head, rows)
