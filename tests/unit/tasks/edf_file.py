"""A small EDF file: 16-bit samples in records of one second."""

from pathlib import Path

import numpy as np


def write_edf(path: Path, names: list[str], values_uv: np.ndarray, rate: int) -> None:
    """Write (channels, samples) in uV, whole seconds of it."""
    seconds, most = values_uv.shape[1] // rate, 5000.0

    def fields(width: int, texts) -> bytes:
        return b"".join(str(t).encode().ljust(width) for t in texts)

    number = len(names)
    head = fields(8, ["0"]) + fields(80, ["X", "Startdate 01-JAN-2020 X X X"])
    head += fields(8, ["01.01.20", "00.00.00", 256 * (number + 1)]) + fields(44, [""])
    head += fields(8, [seconds, 1]) + fields(4, [number])
    head += fields(16, names) + fields(80, [""] * number) + fields(8, ["uV"] * number)
    head += fields(8, [-5000] * number) + fields(8, [5000] * number)
    head += fields(8, [-32768] * number) + fields(8, [32767] * number)
    head += fields(80, [""] * number) + fields(8, [rate] * number) + fields(32, [""] * number)
    digital = np.round((values_uv + most) / (2 * most) * 65535 - 32768).astype("<i2")
    records = digital[:, : seconds * rate].reshape(number, seconds, rate).transpose(1, 0, 2)
    path.write_bytes(head + records.tobytes())
