"""Pictures of the two pages of a demo, as docs/pictures/run.png and corpus.png, by chromium.

Their colours are few, so that a picture takes some ten kilobytes. --height cuts the pages, which
are long; nothing is fetched, since pages are whole by themselves.

Example:
    make demo
    python benchmarks/pictures.py
"""

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

from ndt3_dist import log
from ndt3_dist.config import PROJECT
from ndt3_dist.errors import BadInput, Ndt3DistError
from ndt3_dist.pages.corpus_page import write_page

BROWSERS = "chromium", "chromium-browser", "google-chrome"
OPTIONS = "headless no-sandbox disable-gpu no-first-run hide-scrollbars disable-sync"
OPTIONS += " disable-background-networking disable-component-update"
WIDTH = 1080
COLOURS = 128


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, default=PROJECT / "runs" / "demo")
    parser.add_argument("--corpus", type=Path, default=PROJECT / "corpora" / "demo" / "corpus")
    parser.add_argument("--out", type=Path, default=PROJECT / "docs" / "pictures")
    parser.add_argument("--height", type=int, default=1900, help="of a picture, px")
    args = parser.parse_args()
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not browser:
        raise BadInput(f"none of {', '.join(BROWSERS)} is installed (apt-get install chromium)")
    report = args.run / "report.html"
    if not report.is_file():
        raise BadInput(f"{report}: no such page; make it with `make demo` or launch/report.py")
    args.out.mkdir(parents=True, exist_ok=True)
    for name, page in (("run", report), ("corpus", Path(write_page(str(args.corpus))))):
        file = args.out / f"{name}.png"
        take(browser, page, file, args.height)
        log.say(f"{file}: {file.stat().st_size / 1000:.0f} kB")


def take(browser: str, page: Path, file: Path, height: int) -> None:
    """The first `height` pixels of a page as a PNG."""
    with tempfile.TemporaryDirectory() as folder:
        command = [browser, *(f"--{word}" for word in OPTIONS.split())]
        command += [f"--user-data-dir={folder}", f"--window-size={WIDTH},{height}"]
        command += [f"--screenshot={file.resolve()}", page.resolve().as_uri()]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if ran.returncode or not file.is_file():
        raise Ndt3DistError(f"{browser} made no picture of {page}: {ran.stderr[-300:]}")
    with Image.open(file) as picture:
        few = picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    few.save(file, optimize=True)


if __name__ == "__main__":
    log.run_program(main)
