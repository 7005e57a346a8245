"""Frames: whole whatever pieces they come in, refused by their header."""

import pytest

from ndt3_dist.errors import BadInput
from ndt3_dist.live.frames import HEADER, MOST_BYTES, Flag, Frame, FrameReader, Kind

FRAMES = [
    Frame(Kind.BIN, bytes(range(6)), 7, 0, 11, 0),
    Frame(Kind.RESET, b"", 2**64 - 1, 0, -5, 3),
    Frame(Kind.COVARIATES, b"NDT3" * 9, 8, Flag.LATE | Flag.MISSED, 12, 11),
]


def test_the_header_is_what_the_page_says():
    data = Frame(Kind.COVARIATES, b"abc", 0x0102, Flag.RESET, 1, 2).pack()
    assert HEADER.size == 36
    assert data[:12] == b"NDT3" + bytes([1, 5, 16, 0, 3, 0, 0, 0])
    assert data[12:20] == bytes([2, 1, 0, 0, 0, 0, 0, 0])
    assert data[20:36] == (1).to_bytes(8, "little") + (2).to_bytes(8, "little")
    assert data[36:] == b"abc"


@pytest.mark.parametrize("piece", [1, 5, 36, 1000])
def test_frames_are_whole_whatever_pieces_they_come_in(piece):
    data = b"".join(f.pack() for f in FRAMES)
    reader, found = FrameReader(), []
    for start in range(0, len(data), piece):
        found += reader.feed(data[start : start + piece])
    assert found == FRAMES
    assert not reader.rest


def test_what_is_no_frame_is_refused_behind_those_that_are():
    good = FRAMES[0].pack()
    far = HEADER.pack(b"NDT3", 1, 2, 0, 2**32 - 1, 0, 0, 0)
    cases = {
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n": "begins with b'GET '; expected b'NDT3'",
        HEADER.pack(b"NDT3", 9, 2, 0, 0, 0, 0, 0): "version 9; expected 1",
        far: f"a payload of 4294967295 bytes; expected {MOST_BYTES} at most",
    }
    for data, message in cases.items():
        reader = FrameReader()
        came = reader.feed(good + data.ljust(HEADER.size))
        assert next(came) == FRAMES[0]
        with pytest.raises(BadInput, match=message):
            next(came)
        assert len(reader.rest) < 2 * HEADER.size
