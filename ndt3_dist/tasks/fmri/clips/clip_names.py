"""Names of clips: in keys of BOLD files, in names of feature files, and the film each is of."""

import re

KEY = re.compile(r"(?:ses-(?P<session>\d+)_)?task-(?P<clip>[A-Za-z0-9]+)(?:_run-(?P<run>\d+))?")
"""Of a dataset in a BOLD file, such as ses-003_task-s01e02a or ses-010_task-life01_run-2."""
EPISODE = re.compile(r"(s\d+)e\d+[a-z]?")
PART = re.compile(r"([a-z]+)\d+[a-z]?")
PREFIXES = "friends_", "movie10_", "ood_"
"""Of names of feature files, where they have one."""
FRIENDS = "s07"
"""The season whose episodes are scored as one film."""


def parse_key(key: str) -> tuple[str, int, int | None] | None:
    """Clip, session and run of a key; None for one of another form, run None where none is said."""
    found = KEY.fullmatch(key)
    if not found:
        return None
    run = found["run"]
    return found["clip"].lower(), int(found["session"] or 0), int(run) if run else None


def film_of(clip: str) -> str:
    """The film of a clip: s01 of s01e02a, bourne of bourne03, the clip where it has no number."""
    clip = clip.partition("_run-")[0]
    found = EPISODE.fullmatch(clip) or PART.fullmatch(clip)
    return found[1] if found else clip


def clip_of(stem: str) -> str:
    """The clip that a file without its ending is named after: as it is, or behind a prefix."""
    stem = stem.lower()
    for prefix in PREFIXES:
        if stem.startswith(prefix):
            return stem.removeprefix(prefix)
    return stem
