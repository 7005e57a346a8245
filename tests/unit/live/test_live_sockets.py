"""The service on a socket: good clients, bad ones, those that leave, and those that never read."""

import os
import select
import socket
import stat
import struct
import threading

import numpy as np
import pytest
from live_parts import CHANNELS, answers_of, serving

from ndt3_dist.errors import BadInput
from ndt3_dist.live import addresses
from ndt3_dist.live.client import Client
from ndt3_dist.live.connection import MOST_UNREAD
from ndt3_dist.live.frames import HEADER, Flag, Frame, FrameReader, Kind

QUIET = {"late_ms": 1e9}
"""No fall-back comes between."""
BIN = bytes(range(CHANNELS))
ONES = np.ones(CHANNELS, np.uint8)


@pytest.fixture
def address(tmp_path):
    return f"unix:{tmp_path}/s"


class Plain:
    """A client of bytes, which may say anything."""

    def __init__(self, address):
        self.sock = addresses.connect(address, 20)
        self.reader, self.came = FrameReader(), []
        assert self.read().kind == Kind.HELLO

    def say(self, *frames):
        self.sock.sendall(b"".join(f if isinstance(f, bytes) else f.pack() for f in frames))

    def read(self):
        """The next frame; None at the end."""
        while not self.came:
            data = self.sock.recv(1 << 16)
            if not data:
                return None
            self.came += self.reader.feed(data)
        return self.came.pop(0)

    def error(self):
        frame = self.read()
        assert frame.kind == Kind.ERROR
        return frame.payload.decode()


def until(condition, seconds=20):
    """Wait for what another thread does."""
    tick = threading.Event()
    for _ in range(int(seconds / 0.01)):
        if condition():
            return
        tick.wait(0.01)
    raise AssertionError("it did not come to pass")


@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_bins_go_in_and_covariates_come_out(kind, address):
    answers = answers_of(**QUIET)
    with serving(address if kind == "unix" else "tcp://127.0.0.1:0", answers) as server:
        assert not server.address.endswith(":0")
        with Client(server.address) as client:
            assert client.about["names"] == ["x", "y"]
            assert client.about["channels"] == CHANNELS
            assert client.step(ONES).covariates.tolist() == [12, 1]
            client.observe(ONES)
            found = client.step(2 * ONES)
            assert found.covariates.tolist() == [24, 3]
            assert found.sequence == 2
            assert found.took_ms >= 0
            client.reset()
            assert client.step(ONES).covariates.tolist() == [12, 1]
            with pytest.raises(BadInput, match=r"counts of int64 \(6,\); expected uint8"):
                client.step(ONES.astype(np.int64))
        until(lambda: server.client is None)
    assert not os.path.exists(address.removeprefix("unix:"))
    assert (answers.tally.bins, answers.tally.refused) == (4, 0)


def test_time_stamps_and_numbers_come_back_as_they_were(address):
    with serving(address, answers_of(fill=5, **QUIET)):
        client = Plain(address)
        client.say(Frame(Kind.BIN, BIN, 2**40, 0, -77), Frame(Kind.BIN, BIN, 2**40 + 3, 0, 5))
        first, second = client.read(), client.read()
        assert (first.sequence, first.answers_ns) == (2**40, -77)
        assert not first.flags & ~Flag.MISSED
        assert (second.sequence, second.answers_ns) == (2**40 + 3, 5)
        assert second.flags & Flag.FILLED
        assert second.sent_ns >= first.sent_ns > 0
        assert struct.unpack("<2f", second.payload) == (30, 4)
        client.say(Frame(Kind.BYE))
        assert client.read().kind == Kind.BYE
        assert client.read() is None


def test_bad_frames_are_answered_and_the_next_good_one_is_decoded(address):
    answers = answers_of(**QUIET)
    with serving(address, answers):
        client = Plain(address)
        cases = [
            (BIN[:-1], "bin 0 of 5 bytes; expected 6, a count of one byte (uint8) for each"),
            (np.full(CHANNELS, np.nan, "<f4").tobytes(), "bin 0 of 24 bytes (float32?)"),
            (np.zeros(CHANNELS).tobytes(), "bin 0 of 48 bytes (float64?)"),
            (b"", "bin 0 of 0 bytes"),
        ]
        for payload, message in cases:
            client.say(Frame(Kind.BIN, payload))
            assert client.error().startswith(message)
        client.say(Frame(77, BIN))
        assert "a frame of kind 77; expected bin (2)" in client.error()
        client.say(Frame(Kind.BIN, BIN, 4), Frame(Kind.BIN, BIN, 4, 0, 9))
        assert client.read().kind == Kind.COVARIATES
        twice = client.read()
        assert twice.payload == b"bin 4 after bin 4; expected 5"
        assert (twice.sequence, twice.answers_ns) == (4, 9)
        client.say(Frame(Kind.BIN, BIN, 5))
        assert struct.unpack("<2f", client.read().payload) == (30, 2)
    assert (answers.tally.refused, answers.tally.duplicates) == (6, 1)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost:80\r\n\r\n", "begins with b'GET '"),
        (np.random.default_rng(0).bytes(5000), "a frame begins with"),
        (HEADER.pack(b"NDT3", 1, 2, 0, 2**32 - 1, 1, 0, 0), "a payload of 4294967295 bytes"),
    ],
)
def test_what_is_no_frame_ends_a_connection_behind_the_bins_before_it(address, data, message):
    with serving(address, answers_of(**QUIET)):
        client = Plain(address)
        client.say(Frame(Kind.BIN, BIN), data)
        assert client.read().kind == Kind.COVARIATES
        assert message in client.error()
        assert client.read() is None
        after = Plain(address)  # all of the former one is forgotten
        after.say(Frame(Kind.BIN, BIN))
        assert struct.unpack("<2f", after.read().payload) == (30, 1)


def test_a_second_client_is_told_and_turned_away_and_comes_in_when_the_first_has_left(address):
    answers = answers_of(**QUIET)
    with serving(address, answers) as server, Client(address) as first:
        first.step(ONES)
        with pytest.raises(BadInput, match="another client is connected; one is served at a time"):
            Client(address)
        assert first.step(ONES).covariates[1] == 2
        first.close()
        until(lambda: server.client is None)
        with Client(address) as second:
            assert second.step(ONES).covariates[1] == 1
    assert (answers.tally.clients, answers.tally.turned_away) == (2, 1)


def test_a_client_that_leaves_within_a_frame_is_counted(address):
    answers = answers_of(**QUIET)
    with serving(address, answers) as server:
        client = Plain(address)
        client.say(Frame(Kind.BIN, BIN).pack()[:-2])
        client.sock.close()
        until(lambda: answers.tally.cut == 1 and server.client is None)
        with Client(address) as after:
            assert after.step(ONES).covariates[1] == 1


def test_a_client_that_sends_all_and_then_reads_gets_all(address):
    with serving(address, answers_of(**QUIET)):
        client = Plain(address)
        client.say(*(Frame(Kind.BIN, BIN, n) for n in range(1000)))
        client.sock.shutdown(socket.SHUT_WR)
        assert [client.read().sequence for _ in range(1000)] == [*range(1000)]
        assert client.read() is None


def test_a_client_that_never_reads_is_dropped_and_nothing_waits_for_it(address):
    answers = answers_of(**QUIET)
    with serving(address, answers) as server:
        client = Plain(address)
        client.sock.setblocking(False)
        kept = []

        def flood():
            if server.client:
                kept.append(len(server.client.out))
            try:
                client.sock.send(Frame(77).pack() * 50)  # refused, each with an error frame
            except BlockingIOError:
                select.select([], [client.sock], [], 0.1)
            except OSError:
                return True
            return answers.tally.dropped

        until(flood)
        until(lambda: server.client is None)
        assert max(kept) < MOST_UNREAD + 200
        assert answers.tally.dropped == 1
        with Client(address) as after:
            assert after.step(ONES).covariates[1] == 1


def test_fall_backs_go_out_while_no_bin_comes_and_stop_when_it_does(address):
    answers = answers_of(bin_ms=4.0)
    with serving(address, answers) as server, Client(address) as client:
        client.step(ONES)
        found = [client.receive() for _ in range(5)]
        assert [f.sequence for f in found] == [1, 2, 3, 4, 5]
        assert {f.flags for f in found} == {Flag.FALLBACK}
        assert [f.covariates.tolist() for f in found] == [[12, 1]] * 5
        assert np.isnan(found[0].took_ms)
        back = client.step(2 * ONES)
        assert back.flags & Flag.LATE
        assert back.covariates.tolist() == [24, 2]
        assert back.sequence == 1
        client.reset()
        before = answers.tally.fallbacks
        assert not select.select([client.sock], [], [], 0.1)[0]  # none before the first bin
        assert answers.tally.fallbacks == before
        assert server.client


def test_the_service_says_bye_when_it_ends(address):
    with serving(address, answers_of(**QUIET)):
        client = Client(address)
        client.step(ONES)
    with pytest.raises(BadInput, match="the service has ended"):
        client.receive()
    with pytest.raises(BadInput, match="the service is gone"):
        client.step(ONES)
    with pytest.raises(BadInput, match="no service answers there"):
        Client(address)


def test_only_this_machine_and_this_user_are_served(address, tmp_path):
    wrong = {
        "tcp://0.0.0.0:5000": "0.0.0.0 can be reached from other machines",
        "tcp://192.168.0.2:5000": "can be reached from other machines",
        "tcp://[::]:5000": "can be reached from other machines",
        "tcp://example.org:80": "example.org is no address of numbers",
        "tcp://127.0.0.1": "expected unix:PATH or tcp",
        "tcp://127.0.0.1:99999": "no address",
        "udp://127.0.0.1:1": "no address",
        "unix:": "no address",
        f"unix:/{'x' * 200}": "107 bytes at most",
        f"unix:{tmp_path}/none/s": "cannot listen there",
    }
    for place, message in wrong.items():
        with pytest.raises(BadInput, match=message.replace(".", r"\.")):
            addresses.listen(place)
    with serving(address, answers_of()):
        mode = os.stat(address.removeprefix("unix:")).st_mode
        assert stat.S_IMODE(mode) == 0o600
        with pytest.raises(BadInput, match="another service listens there"):
            addresses.listen(address)


def test_a_socket_that_was_left_behind_is_replaced_and_no_other_file(address, tmp_path):
    addresses.listen(address).close()  # as a killed service leaves it
    with serving(address, answers_of()), Client(address) as client:
        assert client.about["dims"] == 2
    (tmp_path / "s").write_text("mine")
    with pytest.raises(BadInput, match="a file that is no socket"):
        addresses.listen(address)
    assert (tmp_path / "s").read_text() == "mine"
