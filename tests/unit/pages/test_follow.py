"""What is read of a file that grows, is cut, and grows again."""

import json
import os

import numpy as np
import pytest

from ndt3_dist.pages import follow
from ndt3_dist.pages.columns import Columns
from ndt3_dist.pages.follow import GrowingFile


def write(path, lines, how="w"):
    """Lines of metrics, as steps and losses."""
    with open(path, how) as f:
        f.writelines(
            json.dumps({"step": s, "loss": loss, "tokens": 10}) + "\n" for s, loss in lines
        )


def replaced(path, lines):
    """As a resume does: another file takes the name."""
    write(f"{path}.new", lines)
    os.replace(f"{path}.new", path)


def read_on(file, columns, most=follow.MOST):
    """All that is new; the cut it came with."""
    kept = None
    while True:
        first, news = file.last.lines, file.more(most)
        if news.kept is not None:
            columns.cut(news.kept)
            first = kept = news.kept
        columns.take(news.lines, first)
        if not news.left:
            return kept


@pytest.fixture
def reads(monkeypatch):
    """Bytes of each reading."""
    found = []

    def read(path, start, size):
        data = real(path, start, size)
        found.append(len(data))
        return data

    real = follow.read
    monkeypatch.setattr(follow, "read", read)
    return found


def test_only_what_is_new_is_read(tmp_path, reads):
    path, columns = tmp_path / "m.jsonl", Columns()
    file = GrowingFile(str(path))
    assert read_on(file, columns) is None  # not there yet
    write(path, [(s, s / 10) for s in range(1, 2001)])
    read_on(file, columns)
    assert columns.steps.tolist() == [*range(1, 2001)]
    reads.clear()
    read_on(file, columns)
    assert reads == []
    write(path, [(2001, 7.0)], "a")
    assert read_on(file, columns) is None
    assert columns.of("loss")[-1] == 7
    assert sum(reads) < 120


def test_a_line_counts_once_it_has_ended(tmp_path):
    path, columns = tmp_path / "m.jsonl", Columns()
    path.write_text('{"step": 1, "loss": 1}\n{"step": 2, "lo')
    file = GrowingFile(str(path))
    read_on(file, columns)
    assert columns.steps.tolist() == [1]
    assert columns.damaged == 0
    with path.open("a") as f:
        f.write('ss": 2}\n')
    read_on(file, columns)
    assert columns.of("loss").tolist() == [1, 2]


@pytest.mark.parametrize("kept", [0, 1, 63, 64, 65, 1500, 1999])
@pytest.mark.parametrize("more", [0, 1, 3000])
def test_what_a_resume_cuts_is_forgotten_and_what_follows_is_read(tmp_path, reads, kept, more):
    path, columns = tmp_path / "m.jsonl", Columns()
    before = [(s, 1 + 1 / s) for s in range(1, 2001)]
    write(path, before)
    file = GrowingFile(str(path))
    read_on(file, columns)
    reads.clear()
    after = [(s, 5 + 1 / s) for s in range(kept + 1, kept + 1 + more)]
    replaced(path, before[:kept] + after)
    assert read_on(file, columns) is not None
    expected = Columns()
    read_on(GrowingFile(str(path)), expected)
    assert columns.steps.tolist() == expected.steps.tolist() == [*range(1, kept + more + 1)]
    np.testing.assert_array_equal(columns.of("loss"), expected.of("loss"))
    np.testing.assert_array_equal(columns.along("tokens"), expected.along("tokens"))


def test_what_a_cut_leaves_is_not_read_again(tmp_path, reads):
    path, columns = tmp_path / "m.jsonl", Columns()
    before = [(s, 1 + 1 / s) for s in range(1, 20_001)]
    write(path, before)
    file = GrowingFile(str(path))
    read_on(file, columns)
    reads.clear()
    replaced(path, [*before[:15_000], (15_001, 2.0)])
    assert 14_900 <= (read_on(file, columns) or 0) <= 15_000
    assert columns.steps[-1] == 15_001
    assert sum(reads) < 20_000 < path.stat().st_size / 20


def test_a_file_that_is_gone_leaves_nothing(tmp_path):
    path, columns = tmp_path / "m.jsonl", Columns()
    write(path, [(1, 1.0)])
    file = GrowingFile(str(path))
    read_on(file, columns)
    path.unlink()
    assert read_on(file, columns) == 0
    assert columns.rows == 0
    write(path, [(1, 2.0)])
    read_on(file, columns)
    assert columns.of("loss").tolist() == [2]


DAMAGE = {
    b'{"step": 3, "lo': "no JSON",
    b"\x00\xff\xfe\x80": "no JSON",
    b'{"step": 3, "loss": NaN}': "NaN",
    b'{"step": 3, "loss": 1e999}': "beyond",
    b'{"step": 3, "loss": ' + b"9" * 400 + b"}": "beyond",
    b'{"step": 3, "loss": ' + b"9" * 9000 + b"}": "no JSON",
    b'{"step": 3, "loss": {"a": 1}}': "beyond",
    b'{"step": 1' + b"0" * 30 + b"}": "no step",
    b'{"step": 900000000, "loss": 1}': "behind step 2",
    b'{"step": 1, "loss": 1}': "behind step 2",
    b'{"step": true}': "no step",
    b"[" * 100_000: "no JSON",
    b"[1, 2]": "no JSON object",
    b"": "no JSON",
}


@pytest.mark.parametrize("line", DAMAGE, ids=lambda line: repr(line[:24]))
def test_a_damaged_line_is_named_and_the_rest_is_shown(tmp_path, line):
    path, columns = tmp_path / "m.jsonl", Columns()
    write(path, [(1, 1.0), (2, 2.0)])
    with path.open("ab") as f:
        f.write(line + b"\n")
    write(path, [(4, 4.0), (5, 5.0)], "a")
    file = GrowingFile(str(path))
    read_on(file, columns)
    steps, losses = columns.steps.tolist(), columns.of("loss")
    assert [s for s in steps if s != 3] == [1, 2, 4, 5]
    assert losses[[s != 3 for s in steps]].tolist() == [1, 2, 4, 5]
    assert not np.isfinite(losses[[s == 3 for s in steps]]).any()
    assert columns.damaged == 1
    assert columns.first_damage.startswith("line 3 ")
    assert DAMAGE[line] in columns.first_damage
    replaced(path, [(1, 1.0), (2, 2.0)])
    read_on(file, columns)
    assert columns.damaged == 0


def test_a_line_without_an_end_is_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(follow, "LONGEST", 1000)
    path, columns = tmp_path / "m.jsonl", Columns()
    write(path, [(1, 1.0)])
    with path.open("ab") as f:
        f.write(b"x" * 100_000 + b"\n")
    write(path, [(2, 2.0)], "a")
    file = GrowingFile(str(path))
    read_on(file, columns, 2000)
    assert columns.of("loss").tolist() == [1, 2]
    assert columns.damaged > 0
    assert columns.first_damage == "line 2 does not end"


def test_many_keys_of_a_stranger_take_no_memory(tmp_path):
    path, columns = tmp_path / "m.jsonl", Columns()
    path.write_text(
        "".join(
            json.dumps({"step": s, **{f"k{s}-{n}": 1 for n in range(500)}}) + "\n"
            for s in range(1, 11)
        )
    )
    read_on(GrowingFile(str(path)), columns)
    assert columns.rows == 10
    assert len(columns.names()) <= 2000
