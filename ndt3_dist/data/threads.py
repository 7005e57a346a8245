"""Threads that work ahead and never keep a process alive."""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future


class Threads:
    """A few daemon threads; unlike an executor's, none is waited for when a program ends."""

    def __init__(self, count: int, name: str):
        self.waiting: queue.SimpleQueue = queue.SimpleQueue()
        self.count = count
        for _ in range(count):
            threading.Thread(target=self._work, name=name, daemon=True).start()

    def submit(self, function: Callable, *arguments) -> Future:
        """Call later; the result, or what was raised, is the future's."""
        future: Future = Future()
        self.waiting.put((future, function, arguments))
        return future

    def close(self) -> None:
        """Forget what waits; what runs ends by itself."""
        while not self.waiting.empty():
            self.waiting.get()
        for _ in range(self.count):
            self.waiting.put(None)

    def _work(self) -> None:
        while (job := self.waiting.get()) is not None:
            future, function, arguments = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(function(*arguments))
            except BaseException as e:
                future.set_exception(e)
