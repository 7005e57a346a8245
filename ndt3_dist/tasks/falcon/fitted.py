"""What a fit leaves: a folder with falcon.json, which says which export decodes which recording."""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from ndt3_dist import storage
from ndt3_dist.config import Section, check
from ndt3_dist.errors import BadInput, CheckpointCorrupt
from ndt3_dist.tasks.falcon.tags import Task, tag_of, task_of

FILE = "falcon.json"
Mode = Literal["zero-shot", "few-shot", "oracle"]


class Decodes(Section):
    """What decodes a recording."""

    export: str
    """Folder of it, below the folder of the file."""
    session: str = ""
    """Session of the export whose layout and scale are taken; none for text."""

    @field_validator("export")
    @classmethod
    def _stays_inside(cls, value: str) -> str:
        if not value or Path(value).is_absolute() or ".." in Path(value).parts:
            raise ValueError("expected a folder below that of falcon.json")
        return value


class Fitted(Section):
    format: Literal["ndt3_dist.falcon"] = "ndt3_dist.falcon"
    version: Literal[1] = 1
    task: str
    mode: Mode
    context: int = Field(default=0, ge=0)
    """Bins that a prediction sees; 0 = a window of the export's training."""
    decoders: dict[str, Decodes]
    """By tag."""

    @property
    def exports(self) -> list[str]:
        """Folders of all exports, each once."""
        return [*dict.fromkeys(d.export for d in self.decoders.values())]

    def of(self, task: Task, name: str | Path) -> tuple[str, Decodes]:
        """The tag of a recording and what decodes it; BadInput where nothing does."""
        tag = tag_of(task, name)
        if tag not in self.decoders:
            raise BadInput(
                f"nothing was fitted that decodes {tag} of FALCON {task.name}; there are: "
                f"{', '.join(self.decoders)}"
            )
        return tag, self.decoders[tag]


def read_fitted(folder: str | Path) -> Fitted:
    """Read falcon.json of a folder; BadInput where there is none, CheckpointCorrupt where it is
    not what a fit writes."""
    path = Path(folder) / FILE
    if not path.is_file():
        raise BadInput(f"{folder}: no {FILE}; make one with `ndt3 falcon fit`")
    try:
        found = check(Fitted, storage.read_json(path), str(path))
    except (ValueError, TypeError) as e:
        raise CheckpointCorrupt(f"{path}: not as a fit writes it ({e}); fit again") from e
    task_of(found.task)
    return found


def write_fitted(folder: str | Path, fitted: Fitted) -> None:
    """Write falcon.json; it comes last, so that a fit that did not end has none."""
    storage.write_json(Path(folder) / FILE, fitted.model_dump(mode="json"))
