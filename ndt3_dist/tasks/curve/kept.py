"""The folder of a curve: cells/*.json, each written once and whole; what lacks is done again.

curve.json says what all cells have in common. The same folder may be asked for more decoders or
amounts; anything else would set cells beside each other that are not comparable, and is refused.
"""

import json
from pathlib import Path
from typing import Any

from ndt3_dist import storage
from ndt3_dist.errors import ResumeMismatch
from ndt3_dist.folder_lock import changed, hold, names_in
from ndt3_dist.shards.manifest import read_manifest
from ndt3_dist.tasks.curve.cells import Cell, Curve

ASKED, CELLS = "curve.json", "cells"


def settings(curve: Curve) -> dict[str, Any]:
    """What all cells follow from, but for decoder, amount and seed; no path among them."""
    config, gru = curve.config.model_dump(mode="json"), curve.gru.model_dump(mode="json")
    data = config.pop("data")
    for section in (config, gru):
        section.pop("run")
    gru.pop("data")
    config.pop("log")
    init = Path(curve.init) / "model.safetensors"
    return {
        "init": storage.sha256_file(init) if curve.init else "",
        "corpus": read_manifest(data["corpus"]).fingerprint,
        **{k: v for k, v in data.items() if k not in ("corpus", "share", "minutes")},
        "test": curve.test,
        "seeds": curve.seeds,
        "first seed": curve.config.run.seed,
        "rates": curve.rates,
        **config,
        "gru": gru,
    }


class Kept:
    """Held in a `with` block by one process at a time.

    Attributes:
        out: The folder.
    """

    def __init__(self, out: Path, asked: dict[str, Any]):
        """
        Args:
            out: New, or of the same curve.
            asked: `settings`.
        Raises:
            ResumeMismatch: There is another one, or one that is at work.
        """
        there = names_in(out)
        if there and ASKED not in there:
            raise ResumeMismatch(f"{out}: the folder exists; choose another --out")
        self.out = out
        self.lock = hold(out)
        try:
            self._check(json.loads(json.dumps(asked)))
        except BaseException:
            self.lock.close()
            raise

    def _check(self, asked: dict[str, Any]) -> None:
        path = self.out / ASKED
        if path.exists() and (differ := changed(path, asked)):
            raise ResumeMismatch(
                f"{self.out}: a curve was begun there with other settings "
                f"({', '.join(differ)} differ); choose another --out or remove it"
            )
        storage.write_json(path, asked)

    def file(self, cell: Cell) -> Path:
        return self.out / CELLS / f"{cell.name}.json"

    def lacking(self, cells: list[Cell]) -> list[Cell]:
        return [cell for cell in cells if not self.file(cell).exists()]

    def keep(self, cell: Cell, found: dict[str, Any]) -> None:
        amount = {"amount": cell.amount.label, "minutes": cell.amount.minutes}
        told = {"decoder": cell.decoder, **amount, "bins": cell.amount.bins, "seed": cell.seed}
        storage.write_json(self.file(cell), {**told, **found})

    def found(self, cells: list[Cell]) -> list[dict[str, Any]]:
        """What is known of some cells, in their order."""
        return [storage.read_json(self.file(c)) for c in cells if self.file(c).exists()]

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.lock.close()
