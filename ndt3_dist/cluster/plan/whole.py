"""All of a plan, of a config that a start would take: its own, or the nearest to it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ndt3_dist.cluster.plan.corpus_size import CorpusSize
from ndt3_dist.cluster.plan.network import NETWORKS, NVLINK
from ndt3_dist.cluster.plan.problems import Problem, problems, with_ways
from ndt3_dist.cluster.plan.report_text import (
    curve_rows,
    head_lines,
    memory_rows,
    network_rows,
    problem_lines,
    run_lines,
    store_lines,
)
from ndt3_dist.cluster.plan.run_length import Cluster, Course, course_of, curve, efficiency, fitting
from ndt3_dist.cluster.plan.speed import work_of
from ndt3_dist.cluster.plan.stored import Fetched, Kept, fetched, kept
from ndt3_dist.engines.memory import count_parameters, memory_of
from ndt3_dist.shards.summary import text_table
from ndt3_dist.train.pretrain_config import PretrainConfig


@dataclass(frozen=True)
class Plan:
    """What is known of a run before it begins.

    Attributes:
        config: That is reckoned with, its micro-batch chosen.
        changed: Overrides that made it one that works; empty for the user's own.
        course: None where no config near works.
        courses: By number of GPUs.
        save_rate: Bytes a second that a host writes.
    """

    config: PretrainConfig
    changed: tuple[str, ...]
    size: CorpusSize
    cluster: Cluster
    problems: tuple[Problem, ...]
    course: Course | None
    courses: tuple[Course, ...]
    fetched: Fetched | None
    kept: Kept | None
    save_rate: float

    @classmethod
    def of(
        cls,
        config: PretrainConfig,
        size: CorpusSize,
        cluster: Cluster,
        wrong: Sequence[Problem],
        save_rate: float,
    ) -> "Plan":
        """
        Args:
            wrong: What the schema refused of the config before it was changed to this one.
        """
        found = [*wrong, *problems(config, size, cluster)]
        near, changed = with_ways(config, size, cluster)
        ways = dict(w.split("=", 1) for w in [*(w for p in wrong for w in p.instead), *changed])
        changed = tuple(f"{key}={value}" for key, value in ways.items())
        if near is None:
            empty = (None, (), None, None)
            return cls(config, changed, size, cluster, tuple(found), *empty, save_rate)
        near_fit = fitting(near, cluster)
        course = course_of(near_fit, size, cluster)
        # With the micro-batch left open each number of GPUs has its own.
        courses = curve(near, size, cluster)
        saved = kept(near, count_parameters(near.ndt3), course, cluster, save_rate)
        taken = fetched(near, size, course)
        return cls(
            near_fit, changed, size, cluster, tuple(found), course, tuple(courses), taken, saved,
            save_rate,
        )  # fmt: skip

    def draw(self, path: Path) -> None:
        """The curves as a picture; its suffix decides the format."""
        from ndt3_dist.pages.picture import save_curves

        values = {
            "hours": [c.hours for c in self.courses],
            "GPU-hours": [c.gpu_hours for c in self.courses],
            "efficiency, %": [100 * efficiency(c, self.courses) for c in self.courses],
        }
        if self.cluster.price is not None:
            values["cost"] = [c.cost or 0.0 for c in self.courses]
        title = f"{self.config.run.name} on {self.cluster.name}, {self.cluster.network}"
        save_curves([c.gpus for c in self.courses], values, "GPUs", f"{title}: reckoned", path)


def as_text(plan: Plan) -> str:
    """The report."""
    config, cluster, course = plan.config, plan.cluster, plan.course
    lines = [f"plan of {config.run.name}: reckoned, nothing of it was run"]
    if plan.problems:
        lines += ["", "problems", *problem_lines(plan.problems)]
    if plan.changed:
        lines += ["", f"what follows is with {' '.join(plan.changed)}"]
    lines += ["", *head_lines(config, plan.size)]
    if course is None or plan.fetched is None or plan.kept is None:
        return "\n".join(lines)
    lines += run_lines(config, plan.size, cluster, course)
    lines += store_lines(config, plan.fetched, plan.kept, plan.save_rate)
    rows = course.micro_batch * config.data.row_tokens
    networks = [NVLINK, *NETWORKS] if course.nodes > 1 else [NVLINK]
    return "\n".join(
        [
            *lines,
            "",
            f"GB of a rank at micro-batches of {rows:,} tokens, of "
            f"{cluster.card.memory / 1e9:.1f} (* = the config)",
            text_table(memory_rows(config, cluster)),
            "",
            "sent by a rank in a step, and seconds that it takes",
            text_table(network_rows(config, cluster, course, networks)),
            "",
            "by number of GPUs (those that can share the rows)",
            text_table(curve_rows(plan.courses)),
        ]
    )


def as_json(plan: Plan) -> dict:
    """All of it, in bytes, seconds, hours and FLOP."""
    config, cluster, course = plan.config, plan.cluster, plan.course
    found = {
        "run": config.run.name,
        "parameters": count_parameters(config.ndt3),
        "flop_per_token": work_of(config.ndt3, plan.size.window).needed,
        "problems": [asdict(p) for p in plan.problems],
        "changed": plan.changed,
        "cluster": {**asdict(cluster), "card": asdict(cluster.card)},
        "corpus": {**asdict(plan.size), "tokens": plan.size.tokens},
    }
    if course is None:
        return found
    tokens = course.micro_batch * config.data.row_tokens
    memory = memory_of(config.ndt3, config.train, tokens, cluster.gpus, gpu=True)
    return {
        **found,
        "memory": {**asdict(memory), "total": memory.total},
        "memory_table": memory_rows(config, cluster),
        "course": asdict(course),
        "store": asdict(plan.fetched) if plan.fetched else None,
        "checkpoints": asdict(plan.kept) if plan.kept else None,
        "curve": [{**asdict(c), "efficiency": efficiency(c, plan.courses)} for c in plan.courses],
    }
