"""What programs say: one line for an error, and no secret in any."""

import os
import subprocess
import sys

import pytest

from ndt3_dist import log

SIGNED = "https://b.s3.amazonaws.com/a.nwb?X-Amz-Credential=AKIA%2F2026&X-Amz-Signature=5ec2e7"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"{SIGNED}: cannot be read", "https://b.s3.amazonaws.com/a.nwb: cannot be read"),
        (f"403, url='{SIGNED}'), again", "403, url='https://b.s3.amazonaws.com/a.nwb'), again"),
        ("https://me:pass@host/a.nwb is", "https://host/a.nwb is"),
        ("s3://lab/sub-?/a.nwb and x?y=1", "s3://lab/sub-?/a.nwb and x?y=1"),
        ("who@lab.org", "who@lab.org"),
    ],
)
def test_a_url_is_told_without_what_opens_it(text, told, capsys):
    assert log.without_secrets(text) == told
    log.say(text)
    log.warn(text)
    said = capsys.readouterr()
    assert (said.out, said.err) == (f"{told}\n", f"warning: {told}\n")


@pytest.mark.parametrize("kind", [NotADirectoryError, FileNotFoundError, OSError])
def test_what_a_system_says_of_a_file_is_one_line(kind, capsys):
    def main():
        raise kind(30, "Read-only file system", SIGNED)

    with pytest.raises(SystemExit) as e:
        log.run_program(main)
    assert e.value.code == 1
    line = capsys.readouterr().err
    assert line == "error: https://b.s3.amazonaws.com/a.nwb: Read-only file system\n"


def test_a_defect_is_no_error_line():
    def main():
        raise OSError("a socket broke")

    with pytest.raises(OSError, match="a socket"):
        log.run_program(main)


def test_a_reader_that_has_gone_ends_nothing(tmp_path):
    program = "import sys; from ndt3_dist import log; sys.stdin.read(); log.say('a'); log.note('b')"
    read, write = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", program + f"; open({str(tmp_path / 'end')!r}, 'w')"],
        stdin=subprocess.PIPE,
        stdout=write,
        stderr=write,
    )
    os.close(read)
    os.close(write)
    process.communicate(timeout=60)
    assert (tmp_path / "end").exists()
