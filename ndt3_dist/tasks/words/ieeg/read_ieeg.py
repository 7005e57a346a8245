"""A reader of recipes for one recording of a BIDS-iEEG folder: FIF or EDF, and its words.

Named in a recipe as `reader: ndt3_dist.tasks.words.ieeg.read_ieeg:read`. What it gives has a stream
of the electrodes and one of the words that begin in each bin. The signal is read, made an envelope
where asked for, resampled and written to an unnamed file of TMPDIR block by block: memory holds one
block, and the page cache what it likes.
"""

import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from ndt3_dist.config import Section, check
from ndt3_dist.errors import BadInput
from ndt3_dist.readers.options import ReadOptions
from ndt3_dist.readers.recording import Recording, Signal
from ndt3_dist.tasks.words.ieeg import bids_folder
from ndt3_dist.tasks.words.ieeg.resampling import Read, envelope, ratio, resampled
from ndt3_dist.tasks.words.ieeg.word_table import WordTable, read_words

MICROVOLTS = 1e6
KINDS = ("ecog", "seeg", "eeg", "dbs", "misc")
"""Channel types that are electrodes; a file with none of the first two gives all of the others."""


class Ieeg(Section):
    """`options` of a recipe."""

    root: str = ""
    """Top of the BIDS folder; empty = the nearest above the file that has participants.tsv."""
    transcript: str = ""
    """Table of words below the root (word, start, end in s); empty = no words."""
    target_hz: float = 0
    """Rate of the stream; 0 = the recording's own. A whole number of samples in a bin."""
    envelope_hz: tuple[float, float] | None = None
    """Amplitude of this band in the place of the signal, as [70, 200] of a broadband recording."""
    electrodes: str = ""
    """List of electrodes below the root (columns subject, elec); empty = all."""
    channel_regex: str = ""
    """That names of channels begin with."""
    drop_bad: bool = True
    """Leave out channels whose status is bad, in channels.tsv or in the file itself."""
    stream: str = "ecog"
    """Name of the stream."""


def read(path: str | Path, options: ReadOptions) -> Recording:
    """Read one recording.

    Raises:
        BadInput: It cannot be read, no channel is left, or rates and bins do not fit.
    """
    path, asked = Path(path), check(Ieeg, options.options, "options")
    subject = bids_folder.subject_of(path)
    root = bids_folder.root_of(path, asked.root)
    raw = open_raw(path)
    channels, said = bids_folder.read_channels(root, subject)
    listed = None
    if asked.electrodes:
        listed = bids_folder.electrode_list(inside(root, asked.electrodes), subject, root)
    known = bids_folder.Channels(channels.bad | {*raw.info["bads"]}, channels.places)
    names = bids_folder.chosen(
        electrodes_of(raw), known, asked.channel_regex, listed, asked.drop_bad
    )
    rate = float(raw.info["sfreq"])
    target = asked.target_hz or rate
    per_bin = target * options.bin_size_ms / 1000
    if abs(per_bin - round(per_bin)) > 1e-6 or round(per_bin) < 1:
        raise BadInput(
            f"{target:g} Hz has {per_bin:.4g} samples in bin_size_ms {options.bin_size_ms:g}; "
            "expected a whole number: say target_hz or another bin (15.625 ms has 8 of 512 Hz)"
        )
    values = converted(raw, names, asked, rate, target)
    signal = Signal(
        name=asked.stream,
        values=values,
        times=np.arange(len(values)) / target,
        unit="uV",
        per_bin=round(per_bin),
        labels=tuple(names),
        places=places_of(raw, names, known.places),
    )
    lasts = len(values) / target
    made = Recording(subject, session_of(path), [], [], 0.0, lasts, signals=[signal], said=said)
    if asked.transcript:
        words = read_words(inside(root, asked.transcript))
        made.signals.append(word_signal(words, options.bin_size_ms / 1000, lasts, made.said))
    return made


def inside(root: Path | None, name: str) -> Path:
    """A file below the top of the BIDS folder. Raises BadInput for one that is elsewhere."""
    if root is None:
        raise BadInput(f"{name} is sought below a BIDS folder, and there is none; say options.root")
    found = root / name
    if ".." in Path(name).parts or Path(name).is_absolute():
        raise BadInput(f"{name}: expected a path below {root}")
    return found


def open_raw(path: Path) -> Any:
    """An unread mne.io.Raw of a FIF or EDF file."""
    try:
        import mne
    except ImportError as e:
        raise BadInput(f"reading {path.name} needs mne ({e}); pip install 'ndt3_dist[ieeg]'") from e
    openers = {".fif": mne.io.read_raw_fif, ".edf": mne.io.read_raw_edf}
    if path.suffix.lower() not in openers:
        raise BadInput(f"{path.name}: expected .fif or .edf")
    try:
        with warnings.catch_warnings(), mne.utils.use_log_level("error"):
            warnings.simplefilter("ignore")
            return openers[path.suffix.lower()](path, preload=False, verbose="error")
    except Exception as e:  # mne raises many kinds
        raise BadInput(f"mne cannot read it ({' '.join(str(e).split())[:200]})") from e


def electrodes_of(raw: Any) -> list[str]:
    """Names of the channels that are electrodes, in the order of the file."""
    kinds = raw.get_channel_types()
    for wanted in (KINDS[:2], KINDS[2:]):
        found = [n for n, kind in zip(raw.ch_names, kinds, strict=True) if kind in wanted]
        if found:
            return found
    raise BadInput(f"has no channel of kind {', '.join(KINDS)}; it has {sorted(set(kinds))}")


def converted(raw: Any, names: list[str], asked: Ieeg, rate: float, target: float) -> np.ndarray:
    """The signal in uV at its target rate, (samples, channels) float32, on disk."""
    picks, samples = [raw.ch_names.index(name) for name in names], int(raw.n_times)

    def volts(first: int, last: int) -> np.ndarray:
        return (raw.get_data(picks=picks, start=first, stop=last) * MICROVOLTS).T

    source: Read = volts
    if asked.envelope_hz:
        source = envelope(volts, samples, rate, asked.envelope_hz)
    step = ratio(rate, target)
    total = -(-samples * step.numerator // step.denominator)
    with tempfile.TemporaryFile() as file:  # goes with the last that looks at it
        file.truncate(total * len(names) * 4)
        values = np.memmap(file, np.float32, "r+", shape=(total, len(names)))
    for first, block in resampled(source, samples, step):
        values[first : first + len(block)] = block
    return values


def places_of(raw: Any, names: list[str], places: dict) -> np.ndarray | None:
    """x, y, z in mm by the table of electrodes, else by the file; None where none is known."""
    found = np.full((len(names), 3), np.nan)
    for row, name in enumerate(names):
        if name in places:
            found[row] = places[name]
            continue
        metres = np.asarray(raw.info["chs"][raw.ch_names.index(name)]["loc"][:3], float)
        if np.isfinite(metres).all() and metres.any():
            found[row] = 1000 * metres
    return found if np.isfinite(found).any() else None


def session_of(path: Path) -> str:
    """What a file's name says besides its subject: task-podcast_desc-highgamma."""
    parts = path.stem.split("_")
    return "_".join(p for p in parts if "-" in p and not p.startswith("sub-")) or "x"


def word_signal(words: WordTable, bin_s: float, lasts_s: float, said: list[str]) -> Signal:
    """The words as a stream of a row a bin: which one begins, and when after the bin does, in s.

    Of two that begin in one bin the later one stands in the next free one, with a negative time.
    """
    bins = int(np.floor(lasts_s / bin_s + 1e-6))
    values, lost = np.full((bins, 2), np.nan, np.float32), 0
    for number, start in sorted(zip(words.index, words.start, strict=True), key=lambda w: w[1]):
        at = int(np.floor(start / bin_s + 1e-6))
        while 0 <= at < bins and np.isfinite(values[at, 0]):
            at += 1
        if not 0 <= at < bins:
            lost += 1
            continue
        values[at] = number, start - at * bin_s
    if lost:
        said.append(f"{lost} of {len(words.start)} words begin outside of it")
    return Signal("words", values, bin_s * np.arange(bins), "word, s", labels=("word", "onset_s"))
