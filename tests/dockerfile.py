"""The instructions of a Dockerfile of docker/."""

import re

from launching import ROOT


def instructions(file: str = "Dockerfile", last_stage: bool = False) -> list[tuple[str, str]]:
    """(name, words) of each, lines that go on put together; comments are left out."""
    text = (ROOT / "docker" / file).read_text()
    text = re.sub(r"(?m)^\s*#.*\n", "", text).replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip()]
    found = [(name, words.strip()) for name, _, words in (line.partition(" ") for line in lines)]
    if last_stage:
        found = found[max(n for n, (name, _) in enumerate(found) if name == "FROM") :]
    return found
