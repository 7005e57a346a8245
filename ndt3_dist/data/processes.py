"""Processes that build micro-batches, for where one thread is not fast enough.

Python runs one thread at a time, so that a second one only gets in the way. A process gets rows and
gives their arrays back in memory without a name that both have mapped: they are copied once, into
it, and nothing is left behind when either is killed. It ends when its rank does.
"""

import mmap
import os
import queue
import signal
import socket
import subprocess
import sys
import traceback
import weakref
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle

import numpy as np

from ndt3_dist.data.builder import Builder, Built, MicroBatch
from ndt3_dist.data.memories import Memories, arrays_in, mapped
from ndt3_dist.errors import Ndt3DistError, RankFailed

KEEP = {"MALLOC_TRIM_THRESHOLD_": f"{1 << 28}", "MALLOC_MMAP_THRESHOLD_": f"{1 << 28}"}
"""Let glibc keep the memory of a step for the next one."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""That ask a rank to stop."""


class Processes:
    """Builders in processes of their own."""

    def __init__(self, builder: Builder, count: int):
        self.all = [_Process(builder) for _ in range(count)]
        self.free: queue.SimpleQueue[_Process] = queue.SimpleQueue()
        for process in self.all:
            self.free.put(process)

    def build(self, batches: list[MicroBatch]) -> Built:
        """As `Builder.build`, in the process that is free first; called from several threads.

        Raises:
            RankFailed: The process has ended.
        """
        process = self.free.get()
        try:
            return process.build(batches)
        finally:
            self.free.put(process)

    def close(self) -> None:
        """End them, whatever they do: they only read."""
        for process in self.all:
            process.running.kill()
            process.running.wait()


class _Process:
    """One of them, as its rank sees it."""

    def __init__(self, builder: Builder):
        ours, theirs = socket.socketpair()
        # Blocked in what is started here, from its first moment on: a rank that is asked to stop
        # saves its step yet, and needs the data of it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        with theirs:
            self.running = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, **KEEP, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self.connection = Connection(ours.detach())
        self.connection.send(builder)
        self.memories: list[mmap.mmap] = []
        self.free: list[int] = []

    def build(self, batches: list[MicroBatch]) -> Built:
        free = [self.free.pop() for _ in range(len(self.free))]  # others are added meanwhile
        try:
            self.connection.send((batches, free))
            found = self.connection.recv()
            if isinstance(found, Exception):
                raise found
            layout, size, number, *rest = found
            if size:  # memory that is new
                self.memories.append(mapped(recv_handle(self.connection), size))
        except (EOFError, ConnectionError) as e:
            raise RankFailed(
                f"a process that builds steps ended with exit code {self.running.wait()}, as where "
                "memory runs out (-9); data.workers=1 works without"
            ) from e
        memory = np.frombuffer(self.memories[number], np.uint8)  # base of all arrays in it
        weakref.finalize(memory, self.free.append, number)  # with the last array
        return arrays_in(memory, layout), *rest


def main() -> None:
    """A process: a builder, then rows without end, until its rank has gone."""
    connection, memories = Connection(int(sys.argv[1])), Memories()
    try:
        builder: Builder = connection.recv()
        while True:
            batches, free = connection.recv()
            memories.free.update(free)
            _answer(connection, builder, batches, memories)
    except (EOFError, ConnectionError):
        return


def _answer(
    connection: Connection, builder: Builder, batches: list[MicroBatch], memories: Memories
) -> None:
    try:
        memories.begin()
        layout, *rest = builder.build(batches, memories.put)
    except Exception as e:
        memories.give_up()
        if not isinstance(e, Ndt3DistError | OSError):
            e = RuntimeError(f"in a process that builds steps:\n{traceback.format_exc()}")
        connection.send(e)
        return
    number, file = memories.number, memories.file
    connection.send((layout, len(memories.all[number]) if file >= 0 else 0, number, *rest))
    if file >= 0:
        send_handle(connection, file, os.getppid())
        os.close(file)


if __name__ == "__main__":
    main()
