"""FALCON's tasks, and the tags by which its evaluator knows their recordings.

A recording is one file. Its tag is what the evaluator makes of the file's name: a set of a day
(h1), a run of a day (m2), or a day. What is scored as one session is a day.

Source: falcon_challenge 1.0.2 (config.py, evaluator.py).
"""

import re
from dataclasses import dataclass
from pathlib import Path

from ndt3_dist.errors import BadInput


@dataclass(frozen=True)
class Task:
    """One of the benchmark's sets.

    Attributes:
        name: h1, h2, m1 or m2.
        dandi: Its number there, which a folder of data may have for a name.
        recipe: That prepares it.
        channels: Of a bin.
        dims: Covariates that are decoded; 0 = text.
        batch: Recordings that the evaluator serves together at most.
        held_in, held_out: Tags in order of time.
    """

    name: str
    dandi: str
    recipe: str
    channels: int
    dims: int
    batch: int
    held_in: tuple[str, ...]
    held_out: tuple[str, ...]

    @property
    def tags(self) -> tuple[str, ...]:
        return self.held_in + self.held_out


H1_TIMES = {
    "19250101T111740": "S0_set_1", "19250101T112404": "S0_set_2",
    "19250108T110520": "S1_set_1", "19250108T111022": "S1_set_2", "19250108T111455": "S1_set_3",
    "19250113T120811": "S2_set_1", "19250113T121303": "S2_set_2",
    "19250115T110633": "S3_set_1", "19250115T111328": "S3_set_2",
    "19250119T113543": "S4_set_1", "19250119T114045": "S4_set_2",
    "19250120T115044": "S5_set_1", "19250120T115537": "S5_set_2",
    "19250126T113454": "S6_set_1", "19250126T114029": "S6_set_2",
    "19250127T120333": "S7_set_1", "19250127T120826": "S7_set_2",
    "19250129T112555": "S8_set_1", "19250129T113059": "S8_set_2",
    "19250202T113958": "S9_set_1", "19250202T114452": "S9_set_2",
    "19250203T113515": "S10_set_1", "19250203T114018": "S10_set_2",
    "19250206T112219": "S11_set_1", "19250206T112712": "S11_set_2",
    "19250209T111826": "S12_set_1", "19250209T112327": "S12_set_2",
}  # fmt: skip
"""What DANDI's file names of h1 say in place of a set: shifted dates."""
H1 = tuple(H1_TIMES.values())
M1 = "20120924 20120926 20120927 20120928", "20121004 20121017 20121024"
M2 = (
    "Run1_20201019 Run2_20201019 Run1_20201020 Run2_20201020 Run1_20201027 Run2_20201027 "
    "Run1_20201028",
    "Run1_20201030 Run2_20201030 Run1_20201118 Run1_20201119 Run1_20201124 Run2_20201124",
)
H2 = (
    "2022.05.18 2022.05.23 2022.05.25 2022.06.01 2022.06.03 2022.06.06 2022.06.08 2022.06.13 "
    "2022.06.15 2022.06.22 2022.09.01 2022.09.29 2022.10.06 2022.10.18 2022.10.25 2022.10.27 "
    "2022.11.01 2022.11.03 2022.12.08 2022.12.15 2023.02.28",
    "2023.04.17 2023.05.31 2023.06.28 2023.08.16 2023.10.09",
)


def _parts(both: tuple[str, str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Held-in and held-out tags of two texts."""
    held_in, held_out = both
    return tuple(held_in.split()), tuple(held_out.split())


TASKS = {
    "h1": Task("h1", "000954", "falcon_h1_000954.yaml", 176, 7, 8, H1[:13], H1[13:]),
    "h2": Task("h2", "000950", "falcon_h2_000950.yaml", 192, 0, 1, *_parts(H2)),
    "m1": Task("m1", "000941", "falcon_m1_000941.yaml", 64, 16, 4, *_parts(M1)),
    "m2": Task("m2", "000953", "falcon_m2_000953.yaml", 96, 2, 7, *_parts(M2)),
}


def task_of(name: str) -> Task:
    """The task of a name; BadInput with those that there are."""
    if name not in TASKS:
        raise BadInput(
            f"no FALCON task {name!r}; expected one of {', '.join(TASKS)} (b1 is data alone: its "
            "recipe is falcon_b1_001046.yaml)"
        )
    return TASKS[name]


def tag_of(task: Task, name: str | Path) -> str:
    """The tag of a recording.

    Args:
        name: Its file, as DANDI or the benchmark names it, or the tag itself.
    Raises:
        BadInput: It is none of the task.
    """
    text = Path(name).name.removesuffix(".nwb")
    found = text if text in task.tags else _parsed(task, text)
    if found not in task.tags:
        raise BadInput(
            f"{text!r} is no session of FALCON {task.name}; expected the name of one of its files, "
            f"or a tag such as {task.held_in[0]} (held in) and {task.held_out[0]} (held out)"
        )
    return found


def _parsed(task: Task, text: str) -> str:
    """What a file's name says of its tag, if it is one of the task."""
    if task.name == "h1":
        set_ = re.search(r"S\d+[_-]set[_-]\d+", text)
        time = re.search(r"\d{8}T\d{6}", text)
        return set_[0].replace("-", "_") if set_ else H1_TIMES.get(time[0], "") if time else ""
    date = re.search(r"(20\d\d)[-.]?(\d\d)[-.]?(\d\d)", text)
    run = re.search(r"Run\d", text)
    if not date:
        return ""
    if task.name == "m2":
        return f"{run[0]}_{''.join(date.groups())}" if run else ""
    return ("." if task.name == "h2" else "").join(date.groups())


def day_of(tag: str) -> str:
    """The session that a recording is scored as a part of."""
    if tag.startswith("Run"):
        return tag.partition("_")[2]
    return tag.partition("_set_")[0]
