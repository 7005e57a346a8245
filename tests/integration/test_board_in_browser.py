"""The board as a browser shows it: curves, runs that grow, a thousand of them, phones, the dark."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import browser
import pytest

from ndt3_dist.config import PROJECT

pytestmark = pytest.mark.skipif(bool(browser.MISSING), reason=browser.MISSING)
EVIL = "<img src=x onerror=document.title='taken'><script>document.title='taken'<"
MANY = 1000


def write(folder: Path, steps: range, how: str = "a", lr: float = 0.001) -> None:
    """Lines of metrics, and settings of a new run."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "config.yaml").exists():
        text = f"optim:\n  lr: {lr}\ntrain: {{max_steps: 4000}}\nlog: {{every_steps: 10}}\n"
        (folder / "config.yaml").write_text(text)
    with (folder / "metrics.jsonl").open(how) as f:
        for step in steps:
            values = {"loss": 1 + lr * 100 / step**0.5, "lr": lr, "tokens": 5000, "step_s": 0.5}
            values |= {"wait_s": 0.01, "grad_norm": 1 + step % 7, "memory_gb": 3.25}
            if step % 100 == 0:
                values["val_r2"] = 1 - 10 / step
            f.write(json.dumps({"step": step, **values}) + "\n")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A thousand small runs, three longer ones, one whose name is a script, one that is damaged."""
    folder = tmp_path_factory.mktemp("runs")
    for number in range(MANY):
        write(folder / "many" / f"r{number:04d}", range(1, 4), lr=1e-5 * (number + 1))
    for name, lr in (("first", 0.001), ("second", 0.002), (EVIL, 0.004)):
        write(folder / name, range(1, 1001), lr=lr)
    write(folder / "damaged", range(1, 200))
    with (folder / "damaged" / "metrics.jsonl").open("ab") as f:
        f.write(b"\x00\xff\xfe\n")
    write(folder / "damaged", range(201, 301))
    write(folder / "live", range(1, 11))
    start = {"from_step": 0, "ranks": 2, "device": "cpu", "time": "2026-11-28T02:30:43+0000"}
    (folder / "first" / "starts.jsonl").write_text(json.dumps(start) + "\n")
    (folder / "first" / "faults").mkdir()
    (folder / "first" / "faults" / "1.txt").write_text("Traceback\nBad: thing\n")
    return folder


@pytest.fixture(scope="module")
def address(runs) -> str:
    """Of a board of these runs."""
    program = [sys.executable, PROJECT / "launch" / "board.py", runs, "--port", "0"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(program, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout
    said = process.stdout.readline()
    yield said.split()[2]
    process.send_signal(2)
    assert process.wait(20) == 0


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("profile")
    found = browser.Browser(folder)
    yield found
    found.close()
    shutil.rmtree(folder, ignore_errors=True)


def choose(page, *names: str) -> None:
    """Choose runs by their names, as a person does: seek one, tick it."""
    page.value("document.getElementById('none').click()")
    for name in names:
        seek(page, name)
        row = f"[...document.querySelectorAll('.row')].find(r => r.title === {json.dumps(name)})"
        page.until(f"!!({row})")
        page.value(f"{row}.querySelector('input').click()")
        page.until(f"{row}?.querySelector('input').checked")
    seek(page, "")
    page.until(f"document.querySelectorAll('#standings tr').length === {len(names) + 1}")


def seek(page, words: str, field: str = "filter") -> None:
    """Type into a field."""
    page.value(
        f"(f => {{ f.value = {json.dumps(words)}; "
        "f.dispatchEvent(new Event('input', {bubbles: true})); })"
        f"(document.querySelector('[name={field}]'))"
    )


def test_curves_of_several_runs_are_drawn(page, address):
    page.window(1280)
    page.open(address)
    choose(page, "first", "second")
    page.until("document.querySelectorAll('#charts figure').length === 7")
    drawn = "[...document.querySelectorAll('#charts figure')].map(f => f.innerText.split('\\n')[0])"
    names = page.value(drawn)
    assert names[:2] == ["Loss", "Validation R\u00b2"]
    loss = "document.querySelector('#charts figure svg')"
    assert page.value(f"{loss}.querySelectorAll('path.k1.line, path.k2.line').length") == 2
    wide = page.value(f"{loss}.querySelector('path.k1.line').getBoundingClientRect().width")
    assert wide > 200
    tables = page.value("document.getElementById('settings').innerText")
    assert "optim.lr" in tables
    assert "train.max_steps" not in tables
    assert "Bad: thing" in page.value("document.getElementById('events').innerText")


def test_axes_and_means_are_chosen_and_a_part_is_drawn_alone(page, address):
    ticks = (
        "[...document.querySelectorAll('#charts figure:first-child .x')].map(e => e.textContent)"
    )
    before = page.value(ticks)
    seek(page, "tokens", "x")
    page.until(f"{ticks}.join() !== {json.dumps(','.join(before))}")
    assert page.value(ticks)[-1].endswith("M")
    seek(page, "step", "x")
    page.until(f"{ticks}.join() === {json.dumps(','.join(before))}")
    paths = "document.querySelectorAll('#charts svg path.faint').length"
    assert page.value(paths) > 0
    seek(page, "0", "smooth")
    page.until(f"{paths} === 0")
    seek(page, "0.02", "smooth")
    page.until(f"{paths} > 0")
    box = page.value(
        "(b => [b.left, b.top, b.width, b.height])"
        "(document.querySelector('#charts .plot').getBoundingClientRect())"
    )
    for kind, share in (("mousePressed", 0.25), ("mouseReleased", 0.5)):
        x, y = box[0] + share * box[2], box[1] + box[3] / 2
        page.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
    page.until(f"{ticks}.join() !== {json.dumps(','.join(before))}")
    assert all(250 <= int(t.replace(",", "")) <= 500 for t in page.value(ticks))
    page.value("document.getElementById('whole').click()")
    page.until(f"{ticks}.join() === {json.dumps(','.join(before))}")


def test_a_live_run_goes_on_by_itself_and_over_a_resume(page, address, runs):
    (runs / "live" / "lease.json").write_text("{}")
    choose(page, "live")
    standing = "document.getElementById('standings').innerText"
    page.until(f"{standing}.includes('10 of 4,000') && {standing}.includes('live')")
    path = "document.querySelector('#charts figure path.k1')?.getAttribute('d')"
    before = page.value(path)
    write(runs / "live", range(11, 701))
    page.until(f"{standing}.includes('700 of 4,000')")
    assert page.value(path) != before
    write(runs / "live", range(1, 501), "w")
    page.until(f"{standing}.includes('500 of 4,000')")


def test_a_thousand_runs_are_a_list_that_answers(page, address):
    page.until(f"document.getElementById('number').textContent.includes('{MANY + 5:,} of')", 60)
    assert page.value("document.querySelectorAll('.row').length") < 60
    assert page.value("document.getElementById('list').scrollHeight") > MANY * 30
    seek(page, "r0777")
    page.until("document.querySelectorAll('.row').length === 1")
    seek(page, "optim.lr=0.002 second")
    page.until("document.querySelectorAll('.row .name')[0]?.textContent === 'second'")
    seek(page, "name", "sort")
    seek(page, "many")
    seek(page, "r0")
    page.until("document.querySelectorAll('.row').length > 20")
    page.value("document.getElementById('list').scrollTop = 500 * 34")
    page.until("[...document.querySelectorAll('.row .name')].some(e => e.textContent === 'r0505')")
    seek(page, "")


def test_a_name_that_is_a_script_is_text(page, address):
    seek(page, "taken")
    name = page.until("(t => t?.includes('taken') && t)(document.querySelector('.row')?.title)")
    assert name == EVIL
    choose(page, name)
    page.until("document.getElementById('standings').innerText.includes('onerror')")
    assert page.value("document.title") == "Runs"
    assert page.value("document.querySelectorAll('.part script, .part img, .rows img').length") == 0


def test_what_is_damaged_is_said_and_drawn_as_far_as_it_goes(page, address):
    choose(page, "damaged", "first")
    page.until("document.querySelectorAll('#standings .warn').length === 1")
    said = page.value("document.querySelector('#standings .warn').innerText")
    assert "metrics.jsonl: line 200 is no JSON; the rest is shown" in said
    page.until("document.querySelectorAll('#charts figure svg path.k1.line').length > 3")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_fits_a_phone_and_a_desk_in_the_light_and_in_the_dark(page, address, width, scheme):
    page.window(width, scheme=scheme)
    page.until("document.querySelectorAll('#charts figure').length > 3")
    page.value(  # the longest label of time, where it would stand at worst
        "document.querySelectorAll('.plot').forEach(p => p.insertAdjacentHTML("
        "'beforeend', '<span class=\"x\" style=\"left: 100%\">28 Nov 15:00</span>'))"
    )
    assert page.value("document.documentElement.scrollWidth") <= width
    beyond = page.value(
        "[...document.body.querySelectorAll('*')].filter(e => !e.closest('svg') && "
        "!e.closest('.scroll > *') && e.getBoundingClientRect().right > innerWidth + 1)"
        ".map(e => e.tagName + '.' + e.className + ' ' + e.textContent.slice(0, 30))"
    )
    assert beyond == []
    colours = page.value("(s => [s.color, s.backgroundColor])(getComputedStyle(document.body))")
    ink, paper = (sum(map(int, c[4:-1].split(",")[:3])) for c in colours)
    assert (ink < paper) == (scheme == "light")
    assert abs(ink - paper) > 400


def test_nothing_came_from_elsewhere_and_nothing_was_refused(page, address):
    assert page.said == []
    foreign = [url for url in page.requests if not url.startswith((address, "data:", "about:"))]
    assert foreign == []
