"""A host that is cut off works on while its tasks are repeated: two writers of one output."""

from concurrent.futures import ThreadPoolExecutor

from ndt3_dist.prep import job
from ndt3_dist.prep.output import claim
from ndt3_dist.prep.recipe import Recipe
from ndt3_dist.prep.recordings import find_recordings
from ndt3_dist.prep.stages import plan_shards, session_task, shard_task
from ndt3_dist.storage import sha256_file


def hashes(folder) -> dict[str, str]:
    files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    return {p.relative_to(folder).as_posix(): sha256_file(p) for p in files}


def at_once(task, *arguments) -> list:
    """What a task returns to eight that run it at the same moment; threads share a process id."""
    with ThreadPoolExecutor(8) as pool:
        return [f.result() for f in [pool.submit(task, *arguments) for _ in range(8)]]


def test_tasks_that_run_twice_at_once_write_the_bytes_of_one(tmp_path, write_session, without_ray):
    write_session(tmp_path / "nwb" / "a.nwb", seed=1)
    recipe = Recipe(dataset="t", source=str(tmp_path / "nwb"), out=str(tmp_path / "one"))
    job.prepare(recipe)
    assert not (tmp_path / "one" / "spool").exists()
    again = recipe.model_copy(update={"out": str(tmp_path / "two")})
    claim(again.out, again.identity())
    (source,) = find_recordings(again)
    spools = at_once(session_task, again, b"", source)
    assert {spool["sha256"] for spool in spools} == {spools[0]["sha256"]}
    (plan,) = plan_shards(spools[:1], again)
    entries = at_once(shard_task, again, plan)
    assert entries == [entries[0]] * 8
    job.prepare(again)
    assert hashes(tmp_path / "two") == hashes(tmp_path / "one")
    # One of them is late: the corpus is complete by now.
    session_task(again, b"", source)
    shard_task(again, plan)
    (tmp_path / "two" / "shards" / ".000000.tar.0123.tmp").write_bytes(b"cut")
    assert hashes(tmp_path / "two") != hashes(tmp_path / "one")
    job.prepare(again)
    assert hashes(tmp_path / "two") == hashes(tmp_path / "one")
