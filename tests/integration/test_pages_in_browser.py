"""The pages as a browser lays them out: on a phone and on a desk, in the light and in the dark."""

import base64
import dataclasses
import html
import json
import re
import subprocess
from pathlib import Path

import browser
import numpy as np
import pytest
from small_corpus import make_recording, write_corpus

from ndt3_dist.evaluate.predictions import save_predictions
from ndt3_dist.pages.corpus_page import write_page
from ndt3_dist.pages.run_page import write_report
from ndt3_dist.shards.manifest import read_manifest

QUIET = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking"
QUIET += " disable-component-update disable-sync dump-dom window-size=1400,1000"
SIZES = {"phone": 360, "desk": 1280}
PROBE = """
const found = {};
for (const frame of document.querySelectorAll("iframe")) {
  const page = frame.contentDocument, own = frame.contentWindow;
  const wide = page.documentElement.clientWidth;
  const held = [...page.body.querySelectorAll("*")].filter(e => !e.closest("svg"));
  const box = e => e.getBoundingClientRect();
  const name = e => `${e.tagName}.${e.className} ${e.textContent.slice(0, 40)}`;
  const beyond = e => box(e).width && (box(e).right > wide + 0.5 || box(e).left < -0.5);
  const ticks = [...page.querySelectorAll(".plot")].map(p => [...p.querySelectorAll(".x")]);
  const touch = of => of.some((e, i) => i && box(of[i - 1]).right > box(e).left);
  const style = e => own.getComputedStyle(e);
  const sizes = held.filter(e => e.innerText).map(e => parseFloat(style(e).fontSize));
  const copy = page.body.cloneNode(true);
  copy.querySelectorAll("code").forEach(e => e.remove());
  copy.querySelectorAll("td, th, dt, dd, span, p, h1, h2").forEach(e => e.append(" | "));
  found[frame.id] = {
    wide, window: own.innerWidth, scrolls: page.documentElement.scrollWidth,
    beyond: held.filter(e => beyond(e) && !e.closest(".scroll > *")).map(name),
    touching: ticks.filter(touch).map(of => of.map(e => e.textContent)),
    smallest: Math.min(...sizes), text: copy.textContent,
    paper: style(page.body).backgroundColor, ink: style(page.body).color,
    lines: [...page.querySelectorAll("path")].map(e => style(e).stroke),
  };
}
document.body.replaceChildren(Object.assign(document.createElement("pre"), {
  id: "found", textContent: btoa(unescape(encodeURIComponent(JSON.stringify(found))))}));
"""

pytestmark = pytest.mark.skipif(bool(browser.MISSING), reason=browser.MISSING)


def write_pages(folder: Path) -> dict[str, str]:
    """Of a run and of a corpus, with names as long as names become."""
    long = "a_session_that_somebody_gave_a_long_name" * 2
    recordings = [make_recording(1, 40, [40]), make_recording(2, 30, [32, 20], dims=3)]
    times = [t.copy() for t in recordings[0].spike_times]
    times[:15] = [np.zeros(0)] * 15
    recordings[0] = dataclasses.replace(recordings[0], session=long, spike_times=times)
    write_corpus(folder / "corpus", recordings)
    draw, lines = np.random.default_rng(0), []
    for step in range(1, 3001):
        line = {"step": step, "epochs": step / 400, "position": step * 4, "lr": 1e-4 / step}
        line |= {"loss": 1 + 2 / step, "tokens": 123_456, "step_s": 0.1 + 0.01 * draw.random()}
        line |= {f"loss_{n}": 3 / step**0.5 + 0.01 * draw.random() for n in ("grip_force", "b")}
        line |= {
            "wait_s": 0.003 * draw.random(),
            "grad_norm": draw.gamma(2),
            "memory_gb": 61.234567,
        }
        if step % 500 == 0:
            line |= {f"val_force_r2{d}": 0.8123456789 - 9 / step for d in ("", "/lab_a", "/lab_b")}
        lines.append(json.dumps(line))
    (folder / "run").mkdir()
    (folder / "run" / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    wave = np.sin(np.arange(3000) / 30)[:, None] * [1, 20]
    scores = {"r2": 0.8312345, "r2_uniform": float("nan"), "bins": 123456, "bits_per_spike": None}
    names = ("fine_tuned", "from_scratch", "mean", "ridge")
    result = {"session": long, "bin_ms": 20.0, "context": 100, "dims": ["wrist_x (cm/s)", "y (N)"]}
    result |= {"scores": {n: {**scores, "r2_per_dimension": [0.7123456, 0.8]} for n in names}}
    result |= {"truth": wave, "predictions": {name: wave + 0.1 for name in names}}
    save_predictions(folder / "run" / "evaluation.npz", result)
    summary = {
        "tokens_per_s": 1234567.891,
        "r2_best_possible": 0.89259517,
        "export": f"runs/{long}",
    }
    manifest = read_manifest(str(folder / "corpus"))
    paths = {
        "corpus": write_page(str(folder / "corpus")),
        "run": write_report(folder / "run", manifest, None, summary),
    }
    return {name: Path(path).read_text() for name, path in paths.items()}


def laid_out(pages: dict[str, str], folder: Path, scheme: str) -> dict[str, dict]:
    """What the browser makes of each page at each size."""
    frames = [
        f'<iframe id="{name} {size}" style="width:{width}px;height:900px" '
        f'srcdoc="{html.escape(page, quote=True)}"></iframe>'
        for name, page in pages.items()
        for size, width in SIZES.items()
    ]
    probe = folder / f"probe-{scheme}.html"
    script = f"<script>addEventListener('load', () => {{{PROBE}}})</script>"
    probe.write_text(f"<!doctype html><meta charset=utf-8><body>{''.join(frames)}{script}</body>")
    command = [str(browser.PROGRAM), *(f"--{word}" for word in QUIET.split())]
    command.append(f"--blink-settings=preferredColorScheme={['dark', 'light'].index(scheme)}")
    command += [f"--user-data-dir={folder / scheme}", probe.as_uri()]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    told = re.search(r'<pre id="found">([^<]*)</pre>', ran.stdout)
    assert told, ran.stderr[-2000:]
    return json.loads(base64.b64decode(told[1]))


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, dict[str, dict]]:
    """By scheme, then by page and size."""
    folder = tmp_path_factory.mktemp("pages")
    pages = write_pages(folder)
    return {scheme: laid_out(pages, folder, scheme) for scheme in ("light", "dark")}


def test_nothing_is_wider_than_the_window_and_no_labels_touch(found):
    assert len(found["light"]) == 4
    for name, page in found["light"].items():
        assert page["window"] == SIZES[name.split()[1]]
        assert page["scrolls"] <= page["wide"], name
        assert page["beyond"] == [], name
        assert page["touching"] == [], name
        assert page["smallest"] >= 11, name


def test_numbers_are_rounded_and_keys_are_words(found):
    for name, page in found["light"].items():
        text = page["text"]
        assert not re.findall(r"\b(?:nan|none|null|inf)\b", text, re.IGNORECASE), name
        assert not re.findall(r"\w*[a-z0-9]_[a-z0-9]\w*", text), name
        numbers = re.findall(r"\d[\d,]*(?:\.\d+)?", text)
        long = [n for n in numbers if len(re.sub(r"[,.]", "", n).lstrip("0")) > 5]
        assert len(numbers) > 40
        assert long == [], name
    assert "Validation force R\u00b2 0.809" in found["light"]["run phone"]["text"]


def test_light_and_dark_differ_and_both_can_be_read(found):
    for name, light in found["light"].items():
        dark = found["dark"][name]
        bright, dim = (brightness(page["paper"]) for page in (light, dark))
        assert bright > 0.9
        assert dim < 0.15
        for page, paper in ((light, bright), (dark, dim)):
            assert abs(brightness(page["ink"]) - paper) > 0.7
            assert all(abs(brightness(line) - paper) > 0.05 for line in page["lines"])
        assert light["lines"] != dark["lines"]


def brightness(colour: str) -> float:
    """Of rgb(r, g, b), 0 to 1."""
    red, green, blue = map(int, re.findall(r"\d+", colour)[:3])
    return (0.299 * red + 0.587 * green + 0.114 * blue) / 255
