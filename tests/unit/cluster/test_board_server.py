"""What the board answers, and what it refuses."""

import http.client
import json
import os
import random
import shutil
import socket
import threading
from pathlib import Path

import pytest

from ndt3_dist.cluster.board.answers import Answers, as_json
from ndt3_dist.cluster.board.collection import Collection, unlike_names
from ndt3_dist.cluster.board.find_runs import find_runs
from ndt3_dist.cluster.board.server import BoardServer, is_loopback, is_ours
from ndt3_dist.errors import BadInput

SCRIPT = "<script>alert(1)</script>"
SECRET = "the-secret-of-another-folder"


def make_run(folder: Path, steps: int, lr: str = "0.001", first: int = 1) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(
        f"run: {{name: x}}\noptim:\n  lr: {lr}\ntrain: {{max_steps: 100}}\n"
    )
    with (folder / "metrics.jsonl").open("a") as f:
        for step in range(first, first + steps):
            values = {"loss": 1 / step, "tokens": 100, "step_s": 0.5, "wait_s": 0.1}
            f.write(json.dumps({"step": step, **values}) + "\n")


@pytest.fixture
def board(tmp_path):
    """A board of two runs, of a third that is damaged, and beside them what it must not show."""
    (tmp_path / "secret.txt").write_text(SECRET)
    make_run(tmp_path / "runs" / "a", 60)
    make_run(tmp_path / "runs" / "b", 40, "0.002")
    make_run(tmp_path / "runs" / "deep" / "a", 3)
    runs = Collection([str(tmp_path / "runs")])
    runs.look()
    server = BoardServer(("127.0.0.1", 0), Answers(runs))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def ask(board, path, method="GET", headers=None, body=None):
    """Status, headers, text; the path goes as it is."""
    link = http.client.HTTPConnection(*board.server_address[:2], timeout=20)
    link.putrequest(method, path, skip_host=bool(headers and "Host" in headers))
    for name, value in (headers or {}).items():
        link.putheader(name, value)
    link.endheaders(body)
    answer = link.getresponse()
    text = answer.read().decode()
    link.close()
    return answer.status, dict(answer.getheaders()), text


def get(board, path):
    status, _, text = ask(board, path)
    assert status == 200, text
    return json.loads(text)


def ids(board):
    return {run["name"]: run["id"] for run in get(board, "/runs?count=100")["runs"]}


def test_the_page_loads_nothing_from_elsewhere(board):
    status, headers, text = ask(board, "/")
    assert status == 200
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "Access-Control-Allow-Origin" not in headers
    assert "http" not in text + ask(board, "/board.js")[2]
    assert "<script>" not in text


def test_runs_are_listed_filtered_and_sorted(board):
    assert [r["name"] for r in get(board, "/runs?sort=steps")["runs"]] == ["runs/a", "b", "deep/a"]
    found = get(board, "/runs?filter=optim.lr%3D0.002")
    assert [r["name"] for r in found["runs"]] == ["b"]
    assert found["said"] == "1 of 3 runs"
    assert get(board, "/runs?filter=A+STOPPED&sort=name")["matching"] in (2, 3)
    assert [r["name"] for r in get(board, "/runs?sort=name&from=1&count=1")["runs"]] == ["deep/a"]
    for odd in ("from=-5", "from=nan", "count=1e99", "count=x", "sort=%00", "from=1e400"):
        assert get(board, f"/runs?{odd}")["matching"] == 3


def test_a_view_compares_runs_and_is_sent_again_only_when_it_changes(board, tmp_path):
    known = ids(board)
    path = f"/view?runs={known['runs/a']},{known['b']}&x=tokens&log=1"
    found = get(board, path)
    assert found["parts"]["charts"].count("<figure") == 3
    assert "0.002" in found["parts"]["settings"]
    assert "run.name" not in found["parts"]["settings"]
    assert "max_steps" not in found["parts"]["settings"]
    have = {"If-None-Match": found["tag"]}
    status, _, text = ask(board, path, headers=have)
    assert (status, text) == (304, "")
    make_run(tmp_path / "runs" / "b", 5, "0.002", first=41)
    status, _, text = ask(board, path, headers=have)
    assert status == 200
    assert "45 of 100" in json.loads(text)["parts"]["standings"]


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt",
        "/..%2fsecret.txt",
        "/%2e%2e/secret.txt",
        "//etc/passwd",
        "/runs/../../secret.txt",
        "/board.js/../../../../secret.txt",
        "/board.py",
        "/view/../secret.txt",
        "/\\..\\secret.txt",
        "/secret.txt",
        "/runs/a/metrics.jsonl",
        "/favicon.ico",
    ],
)
def test_a_path_of_a_request_opens_no_file(board, path):
    status, headers, text = ask(board, path)
    assert status in (400, 404)
    assert SECRET not in text
    assert "passwd" not in text
    assert headers["Content-Type"].startswith("text/plain")
    assert "default-src 'none'" in headers["Content-Security-Policy"]


@pytest.mark.parametrize("name", ["../secret.txt", "..%2f..", "a", "runs/a", "/etc", "%00", SCRIPT])
def test_a_run_is_known_by_its_id_alone(board, name, tmp_path, monkeypatch):
    real, opened = os.stat, []
    monkeypatch.setattr(os, "stat", lambda p, *a, **k: (opened.append(str(p)), real(p, *a, **k))[1])
    found = get(board, f"/view?runs={name}")
    assert found["parts"]["standings"] == ""
    assert not any(name in path for path in opened if len(name) > 1)


HOSTS = "evil.example evil.example:80 localhost.evil.example 127.0.0.1.evil.example a@127.0.0.1"
HOSTS += " 127.0.0.1@evil.example [::1].evil.example 127.0.0.1/evil 2130706433"


@pytest.mark.parametrize("host", ["", *HOSTS.split()])
def test_another_host_is_refused(board, host):
    for path in ("/", "/runs", "/nothing"):
        status, _, text = ask(board, path, headers={"Host": host})
        assert status == 421
        assert "runs/a" not in text


def test_two_hosts_or_none_are_refused(board):
    for lines in (b"", b"Host: localhost\r\nHost: evil.example\r\n"):
        with socket.create_connection(board.server_address[:2], 10) as link:
            link.sendall(b"GET /runs HTTP/1.1\r\n" + lines + b"\r\n")
            assert link.recv(100).startswith(b"HTTP/1.1 421")


def test_ways_to_get_here_are_answered(board):
    for host in ("localhost", "127.0.0.1:9999", "[::1]:80", "LOCALHOST:1234", "10.1.2.3:6106"):
        assert ask(board, "/runs", headers={"Host": host})[0] == 200
    assert is_ours("node17:6106", {"node17"})
    assert not is_ours("node17:6106", {"localhost"})
    assert [is_loopback(a) for a in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "x")] == [
        *[True] * 3,
        *[False] * 2,
    ]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "X<b>"])
def test_another_method_is_refused(board, method):
    status, headers, text = ask(board, "/runs", method)
    assert status == 405
    assert headers["Allow"] == "GET, HEAD"
    assert "<b>" not in text


def test_what_carries_something_or_comes_from_another_site_is_refused(board):
    assert ask(board, "/runs", headers={"Content-Length": "3"}, body=b"abc")[0] == 413
    assert ask(board, "/runs", headers={"Sec-Fetch-Site": "cross-site"})[0] == 403
    assert ask(board, "/", headers={"Sec-Fetch-Site": "cross-site"})[0] == 200
    assert ask(board, f"/runs?{'&'.join('a=1' for _ in range(100))}")[0] == 400
    status, _, text = ask(board, "/", "HEAD")
    assert (status, text) == (200, "")


def test_every_text_of_a_run_is_escaped(tmp_path):
    folder = tmp_path / "runs" / "<script>alert(1)<"
    make_run(folder, 60, f"'{SCRIPT}'")
    line = {"step": 61, "loss": 1, f"loss_{SCRIPT}": 2.0, f"loss/{SCRIPT}": 2.0, f"val_{SCRIPT}": 1}
    with (folder / "metrics.jsonl").open("a") as f:
        f.write(json.dumps(line) + "\n" + SCRIPT + "\n")
    start = {"from_step": 0, "ranks": SCRIPT, "device": SCRIPT, "init": SCRIPT}
    start |= {"changed": {SCRIPT: [SCRIPT, SCRIPT]}, "time": "2026-11-28T02:30:43+0000"}
    (folder / "starts.jsonl").write_text(json.dumps(start) + "\n")
    (folder / "faults").mkdir()
    (folder / "faults" / "<script>.txt").write_text(SCRIPT)
    stage = {"corpus": SCRIPT, "split": SCRIPT, "from_step": 0, "sessions": {SCRIPT: SCRIPT}}
    (folder / "lineage.json").write_text(json.dumps({"before": [], "stages": [stage]}))
    make_run(tmp_path / "runs" / "other", 3)
    other = {**stage, "sessions": {"s": "1"}}
    lineage = {"before": [], "stages": [other]}
    (tmp_path / "runs" / "other" / "lineage.json").write_text(json.dumps(lineage))
    runs = Collection([str(tmp_path / "runs")])
    runs.look()
    answers = Answers(runs)
    names = ",".join(card.id for card in runs.listed())
    for keys in ("", "loss", "script"):
        found = answers.view({"runs": names, "keys": keys})
        assert found
        html = "".join(found["parts"].values())
        assert "<script" not in html
        assert html.count("&lt;script&gt;") >= 8
        assert "is no JSON" in found["parts"]["standings"]


def test_a_damaged_run_is_one_line_and_the_rest_goes_on(board, tmp_path):
    bad = tmp_path / "runs" / "b" / "metrics.jsonl"
    with bad.open("ab") as f:
        f.write(b'{"step": 41, "loss": NaN}\n\x00\xff\n{"step": 42, "loss": 1e999}\n{"step": 4')
    known = ids(board)
    parts = get(board, f"/view?runs={known['runs/a']},{known['b']}")["parts"]
    assert parts["standings"].count('class="warn"') == 1
    assert (
        "line 41 has NaN, which is no number (3 damaged lines); the rest is shown"
        in parts["standings"]
    )
    assert "42 of 100" in parts["standings"]
    assert parts["charts"].count("<figure") == 3
    bad.unlink()
    bad.mkdir()
    parts = get(board, f"/view?runs={known['runs/a']},{known['b']}")["parts"]
    assert parts["standings"].count('class="warn"') == 1
    assert parts["charts"].count("<figure") == 3


def test_new_runs_are_found_and_lost_ones_go(board, tmp_path):
    runs = board.answers.runs
    make_run(tmp_path / "runs" / "c", 3)
    (tmp_path / "runs" / "b" / "metrics.jsonl").unlink()
    runs._found_at = -1e9
    runs.look()
    assert {*ids(board)} == {"runs/a", "deep/a", "c"}


def test_runs_are_found_where_they_were_given(tmp_path):
    for name in ("a", "a/refit", "x/b", "x/steps/no", "x/y/z/c", ".hidden"):
        make_run(tmp_path / name, 1)
    (tmp_path / "loop").symlink_to(tmp_path)
    found = [
        str(Path(p).relative_to(tmp_path))
        for p in find_runs([str(tmp_path / "x"), str(tmp_path / "a*")])
    ]
    assert found == ["x/b", "x/y/z/c", "a", "a/refit"]
    assert len(find_runs([str(tmp_path)])) < 100
    with pytest.raises(BadInput, match="nothing is there"):
        find_runs([str(tmp_path / "nowhere")])
    with pytest.raises(BadInput, match="nothing is there"):
        find_runs([str(tmp_path / "nope*")])


def test_names_are_as_long_as_it_takes():
    paths = ["/r/x/a", "/r/y/a", "/r/b", "s3://lab/r/x/a"]
    assert [*unlike_names(paths).values()] == ["/r/x/a", "y/a", "b", "lab/r/x/a"]


def test_a_long_run_is_read_in_parts(tmp_path, monkeypatch):
    from ndt3_dist.cluster.board import answers

    make_run(tmp_path / "runs" / "a", 40_000)
    monkeypatch.setattr(answers, "READ_S", 0.0)
    runs = Collection([str(tmp_path / "runs")])
    runs.look()
    board = Answers(runs)
    (card,) = runs.listed()
    rounds, tag = [], ""
    while not rounds or rounds[-1]["reading"]:
        found = board.view({"runs": card.id}, tag)
        assert found
        rounds.append(found)
        tag = found["tag"]
    assert len(rounds) > 1
    assert "still to be read" in rounds[0]["parts"]["standings"]
    assert "still to be read" not in rounds[-1]["parts"]["standings"]
    assert "40.0k" in rounds[-1]["parts"]["standings"]


def test_memory_has_a_limit(tmp_path, monkeypatch):
    from ndt3_dist.cluster.board import collection

    for number in range(6):
        make_run(tmp_path / "runs" / f"r{number}", 50)
    runs = Collection([str(tmp_path / "runs")])
    runs.look()
    names = [card.id for card in runs.listed(sort="name")]
    for run in runs.opened(names):
        run.update()
    monkeypatch.setattr(collection, "MOST_BYTES", 1)
    assert [run.name for run in runs.opened(names[:2])] == ["r0", "r1"]
    assert {*runs._open} == {*names[:2]}


def test_nothing_that_files_of_a_run_hold_ends_a_view(tmp_path):
    """Files of a run at random: cut, mixed, of odd values; the run beside it is always drawn."""
    draw = random.Random(0)
    odd = [None, True, -1, 0, 1e38, -1e308, 1e-310, 10**400, "x", "\udc80", [], {}, SCRIPT, [[1]]]
    odd += ["2026-11-28T02:30:43+0000", "0001-01-01T00:00:00+2300", float("nan"), float("inf"), 7]
    keys = ["step", "loss", "tokens", "step_s", "wait_s", "epochs", "samples", "val_r2", "val_s"]
    keys += ["from_step", "time", "ranks", "device", "changed", "init", "stages", "before", "lr"]
    keys += ["train", "max_steps", "steps", "validation", "metric", "log", "sessions", "corpus"]
    make_run(tmp_path / "runs" / "good", 30)
    for number in range(60):
        bad = tmp_path / "runs" / "bad"
        shutil.rmtree(bad, ignore_errors=True)
        for name in ("metrics.jsonl", "starts.jsonl", "config.yaml", "lineage.json", "lease.json"):
            lines = []
            for step in range(draw.randrange(6)):
                value = {k: draw.choice(odd) for k in draw.sample(keys, 6)}
                value |= {"step": step} if draw.random() < 0.7 else {}
                value |= {"train": {"max_steps": draw.choice(odd), "epochs": draw.choice(odd)}}
                lines.append(json.dumps(value).encode())
            data = b"\n".join(lines) + b"\n" * draw.randrange(2)
            bad.mkdir(parents=True, exist_ok=True)
            (bad / name).write_bytes(data[: draw.choice([None, -5, 40])])
        (bad / "steps" / draw.choice(["\u00b2", "00000001", "x", "1"])).mkdir(parents=True)
        (bad / "faults" / "a.txt").mkdir(parents=True)
        runs = Collection([str(tmp_path / "runs")])
        runs.look()
        names = ",".join(card.id for card in runs.listed(sort="name"))
        assert names.count(",") == 1
        keys_asked, axis = draw.choice(["", "s"]), draw.choice(["step", "tokens", "time"])
        answers = Answers(runs)
        as_json(answers.listed({}))
        found = answers.view({"runs": names, "x": axis, "log": "1", "keys": keys_asked})
        assert found
        text = as_json(found).decode()
        assert "30 of 100" in text, number
        assert "<" not in text
