"""What every program does with bad input, and what it says besides how far it is."""

import re

FAR = re.compile(r".+: .*(\d (s|min|h) so far|\d (s|min|h) left|after \d[\d.]* (s|min|h))(, .*)?")
"""A line that a busy machine makes a program say (`ndt3_dist.voice`)."""


def besides(text: str) -> str:
    """A text without the lines that say how far a program is."""
    lines = text.splitlines(keepends=True)
    return "".join(line for line in lines if not FAR.fullmatch(line.rstrip("\n")))


def refused(done, *words):
    """Exit code 1, one `error:` line that holds all the words, and no traceback."""
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1, done.stderr
    for word in words:
        assert word in errors[0]
