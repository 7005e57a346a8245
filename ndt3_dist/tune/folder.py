"""The folder of a fine-tune: held by one process; one that was killed goes on in it.

What a step draws follows from the seed and its number, so the numbers are those of a run that was
left alone.
"""

import json
from pathlib import Path

from ndt3_dist import log, storage
from ndt3_dist.config import Section
from ndt3_dist.errors import ResumeMismatch
from ndt3_dist.folder_lock import changed, hold, names_in


class TuneFolder:
    """Held in a `with` block.

    Attributes:
        path: Of the folder.
    """

    def __init__(self, path: Path, settings: dict):
        """
        Args:
            path: New, or of the same fine-tune, which did not end.
            settings: All that its numbers follow from.
        Raises:
            ResumeMismatch: There is another one, one that ended, or one that is at work.
        """
        self.path, self.config = path, path / "config.json"
        there = names_in(path)
        if there and (self.config.name not in there or "export" in there):
            raise ResumeMismatch(f"{path}: the run exists; choose another run.name or remove it")
        settings = json.loads(json.dumps(settings))
        if there:
            self._check(settings)
            log.say(f"{path}: did not end; goes on")
        self.lock = hold(path)
        try:
            if (path / "export").exists():  # it has ended since the look above
                raise ResumeMismatch(f"{path}: the run exists; choose another run.name")
            storage.write_json(self.config, settings)
        except BaseException:
            self.lock.close()
            raise

    def _check(self, settings: dict) -> None:
        if differ := changed(self.config, settings):
            raise ResumeMismatch(
                f"{self.path}: a run that did not end was begun with other settings "
                f"({', '.join(differ)} differ); choose another run.name or remove it"
            )

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.lock.close()

    @property
    def export(self) -> Path:
        return self.path / "export"

    def ended(self) -> None:
        """The export is written: nothing is to be taken up any more."""
        for folder in (self.path, self.path / "refit"):
            storage.remove(folder / "steps")
            storage.remove(folder / "latest")


def adopt(path: Path, config: Section) -> None:
    """Let a copy of a fine-tune that did not end go on with other settings.

    Args:
        path: Its folder, which nobody is at work on.
        config: What its next steps follow from.
    """
    begun = storage.read_json(path / "config.json")["begun"]
    storage.write_json(path / "config.json", {**config.model_dump(mode="json"), "begun": begun})
