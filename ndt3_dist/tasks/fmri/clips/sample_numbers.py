"""How many samples each withheld clip has, as it is published for each subject."""

import re
from collections.abc import Sequence
from pathlib import Path

from ndt3_dist.errors import BadInput
from ndt3_dist.tasks.fmri.clips.clip_names import film_of
from ndt3_dist.tasks.fmri.clips.numpy_pickle import read_dictionary

FILE = re.compile(r"(?P<subject>sub-\d+)_(?P<what>[a-z0-9-]+)_fmri_samples\.npy")
FRIENDS = "friends-s7"
"""What the file of Friends is called; that of the films is `ood`."""


def read_samples(
    data_dir: str | Path, subjects: Sequence[str], names: Sequence[str] = ()
) -> dict[str, dict[str, int]]:
    """Clip -> samples of each subject.

    Args:
        data_dir: Folder with sub-*/target_sample_number/*.npy somewhere below it.
        subjects: Such as sub-01.
        names: s07 for Friends, or names of films; empty = all films but Friends.
    Raises:
        BadInput: A subject or a film has no numbers, or something else is there.
    """
    found: dict[str, dict[str, int]] = {s: {} for s in subjects}
    for path in sorted(Path(data_dir).rglob("target_sample_number/*.npy")):
        named = FILE.fullmatch(path.name)
        if not named or named["subject"] not in found:
            continue
        if not names and named["what"] == FRIENDS:
            continue
        for clip, rows in read_dictionary(path).items():
            if not isinstance(clip, str) or not isinstance(rows, int) or rows < 1:
                raise BadInput(f"{path}: {clip!r} has {rows!r}, expected a number of samples")
            if not names or clip in names or film_of(clip) in names:
                found[named["subject"]][clip] = rows
    for subject, clips in found.items():
        if not clips:
            raise BadInput(
                f"{data_dir}: no sample numbers of {subject} for {', '.join(names) or 'films'}; "
                f"expected {subject}/target_sample_number/{subject}_*_fmri_samples.npy below it"
            )
        if lost := [n for n in names if not any(n in (c, film_of(c)) for c in clips)]:
            raise BadInput(f"{data_dir}: {subject} has no clip of {', '.join(lost)}")
    return found
