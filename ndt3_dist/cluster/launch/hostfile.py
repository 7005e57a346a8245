"""Hosts of a hostfile, and which of those that answer a run is started on."""

import re
from dataclasses import dataclass
from pathlib import Path

from ndt3_dist.errors import BadInput


@dataclass(frozen=True)
class Host:
    """A line of a hostfile.

    Attributes:
        slots: Ranks on it, one a GPU.
    """

    name: str
    slots: int


@dataclass(frozen=True)
class Bounds:
    """Numbers of ranks that a run may have.

    Attributes:
        micro_batches: Of a step, which ranks share evenly.
        fewest, most: Ranks; `most` 0 = any number.
    """

    micro_batches: int
    fewest: int = 1
    most: int = 0

    def allow(self, ranks: int) -> bool:
        return (
            ranks >= max(self.fewest, 1)
            and (not self.most or ranks <= self.most)
            and self.micro_batches % ranks == 0
        )

    def __str__(self) -> str:
        to = f"to {self.most} " if self.most else ""
        return f"{self.fewest} {to}ranks that share {self.micro_batches} micro-batches evenly"


def read_hostfile(path: str | Path) -> list[Host]:
    """The lines `HOST slots=N` of a hostfile, as `deepspeed` takes it.

    Raises:
        BadInput: There is none, it has another line, or a host twice.
    """
    try:
        lines = Path(path).read_text().splitlines()
    except FileNotFoundError as e:
        raise BadInput(
            f"--hostfile {path}: no such file; expected a line `HOST slots=N` a host"
        ) from e
    hosts = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = re.fullmatch(r"([\w.:-]+)\s+slots=([1-9]\d*)", line.partition("#")[0].strip())
        if not found or found[1].startswith("-"):
            raise BadInput(f"{path}, line {number}: {line.strip()!r}; expected `HOST slots=N`")
        if found[1] in {host.name for host in hosts}:
            raise BadInput(f"{path}, line {number}: {found[1]} stands there twice")
        hosts.append(Host(found[1], int(found[2])))
    if not hosts:
        raise BadInput(f"{path}: names no host; expected a line `HOST slots=N` a host")
    return hosts


def num_ranks(hosts: list[Host]) -> int:
    return sum(host.slots for host in hosts)


def choose(hosts: list[Host], bounds: Bounds) -> list[Host]:
    """As many whole hosts, the first of a list, as may train a run; none where no number may."""
    for number in range(len(hosts), 0, -1):
        if bounds.allow(num_ranks(hosts[:number])):
            return hosts[:number]
    return []
