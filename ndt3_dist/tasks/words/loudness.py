"""How loud a sound is over time, read in blocks: 30 minutes in stereo at 44.1 kHz are 318 MB."""

import wave
from pathlib import Path

import numpy as np

from ndt3_dist.errors import BadInput

BLOCK_S = 30.0
MARGIN_S = 2.0
"""Of sound on either side of a block, that no border of it shows."""
WHOLE = {1: np.uint8, 2: np.dtype("<i2"), 4: np.dtype("<i4")}


def loudness(
    path: Path, cutoff_hz: float, order: int, window_ms: float, hop_ms: float
) -> tuple[np.ndarray, np.ndarray]:
    """Mean level of windows of a .wav file in dB of full scale.

    Hilbert's envelope of the mean of the channels, behind a Butterworth low-pass both ways.

    Returns:
        Centre of each window in s, and its level, (windows,) each.
    """
    from scipy.signal import butter, hilbert, sosfiltfilt

    try:
        sound = wave.open(str(path), "rb")  # noqa: SIM115
    except (wave.Error, EOFError) as e:
        raise BadInput(f"{path}: not a .wav file of whole numbers ({e})") from e
    with sound:
        rate, total, channels = sound.getframerate(), sound.getnframes(), sound.getnchannels()
        kind = WHOLE.get(sound.getsampwidth())
        if kind is None:
            raise BadInput(f"{path}: {8 * sound.getsampwidth()} bits a sample; expected 8, 16, 32")
        sos, envelope = butter(order, cutoff_hz, "lowpass", fs=rate, output="sos"), []
        block, margin = int(BLOCK_S * rate), int(MARGIN_S * rate)
        for first in range(0, total, block):
            last, begin = min(first + block, total), max(first - margin, 0)
            sound.setpos(begin)
            frames = sound.readframes(min(last + margin, total) - begin)
            values = np.frombuffer(frames, kind).reshape(-1, channels).astype(np.float64)
            full = 128.0 if kind is np.uint8 else float(-np.iinfo(kind).min)
            mono = (values.mean(axis=1) - (128 if kind is np.uint8 else 0)) / full
            level = sosfiltfilt(sos, np.abs(hilbert(mono)))
            envelope.append(level[first - begin : last - begin].astype(np.float32))
    level = np.concatenate(envelope)
    width, hop = round(window_ms * rate / 1000), round(hop_ms * rate / 1000)
    if len(level) < width:
        raise BadInput(
            f"{path}: {total / rate:.2f} s are shorter than a window of {window_ms:g} ms"
        )
    begins = np.arange(0, len(level) - width + 1, hop)
    sums = np.concatenate([[0], np.cumsum(level, dtype=np.float64)])
    means = np.maximum((sums[begins + width] - sums[begins]) / width, 1e-6)
    return (begins + width / 2) / rate, 20 * np.log10(means)
