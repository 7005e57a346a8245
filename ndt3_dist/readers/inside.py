"""Groups of a recording, whose members are reached by links that stay inside of it.

Formats follow links by themselves, into whatever file they name. Here a path is walked part by part
and each link is looked at before it is followed: one that leads out is refused where something is
read through it, and does no harm where nothing is.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

from ndt3_dist.errors import BadInput

MOST_LINKS = 16
"""Links on the way to one member: more, and they lead in a circle."""


class Group(ABC):
    """What lies at a path of a recording; each format says what is there and where links lead.

    Args:
        path: Without slashes at its ends; "" for the root.
        root: The group at "", where links begin; None for that group itself.
    """

    attrs: Mapping[str, Any]

    def __init__(self, path: str, root: "Group | None" = None):
        self.path, self.root = path, root or self
        self._known: dict[str, Any] = {}  # members that lie here and were opened

    @abstractmethod
    def names(self) -> list[str]:
        """Of all members."""

    @abstractmethod
    def target(self, name: str) -> str | None:
        """The path that a member is a link to; None where it lies here.

        Raises:
            KeyError: There is none of this name.
            BadInput: It lies in another file.
        """

    @abstractmethod
    def member(self, name: str) -> Any:
        """The group or array of a name that lies here. Raises KeyError where it is neither."""

    def __getitem__(self, path: str) -> Any:
        """The group or array at a path from here on, or from the root where it begins with '/'.

        Raises:
            KeyError: There is nothing.
            BadInput: A link on the way leads out, or in a circle.
        """
        return self._find(path, MOST_LINKS)

    def _find(self, path: str, links: int) -> Any:
        found: Any = self.root if path.startswith("/") else self
        for name in path.split("/"):
            if name in ("", "."):
                continue
            if not isinstance(found, Group):
                raise KeyError(path)
            if name in found._known:
                found = found._known[name]
                continue
            to = found.target(name)
            if to is None:
                found._known[name] = found = found.member(name)
            elif not links:
                raise BadInput(f"{found.below(name)} is a link that leads nowhere")
            else:
                links -= 1
                found = found._find(to, links)
        return found

    def get(self, path: str) -> Any:
        """What lies at a path; None where there is nothing."""
        try:
            return self[path]
        except KeyError:
            return None

    def __contains__(self, path: str) -> bool:
        """Whether there is something, also in another file."""
        try:
            return self.get(path) is not None
        except BadInput:
            return True

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self.names())

    def groups(self) -> Iterator[tuple[str, "Group | None"]]:
        """Name and group of each member that is one; None for what lies in another file."""
        for name in self.names():
            try:
                found = self.get(name)
            except BadInput:
                yield name, None
                continue
            if isinstance(found, Group):
                yield name, found

    def below(self, name: str) -> str:
        """The path of a member."""
        return f"{self.path}/{name}".lstrip("/")


def elsewhere(path: str) -> BadInput:
    """The error for a link that leads out of a recording."""
    return BadInput(
        f"{path} is an external link to another file, which is never followed; refused (write the "
        "recording anew with what it links to)"
    )
