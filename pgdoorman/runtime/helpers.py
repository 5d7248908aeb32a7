"""Threads for plain blocking work with deadlines: opening backends, DNS, PBKDF2, delivering cancels."""

import logging
import os
from collections import deque
from collections.abc import Callable
from threading import Condition, Thread, current_thread, get_native_id
from typing import Any

from pgdoorman.runtime.process import name_threads

log = logging.getLogger(__name__)


class Helpers:
    """A bounded set of threads that run blocking jobs in the order of their arrival.

    Threads start when there is work for them and none is free, up to `limit`; they stay. A job reports its own result
    (by posting to a worker's inbox); a job that raises is logged and costs nobody else anything.

    With `nice` (1 to 19) the threads stand back by so much where processors are short; on Linux that is each thread's own.
    """

    def __init__(self, limit: int, name: str = "helper", nice: int = 0) -> None:
        self._limit = limit
        self._nice = nice
        self._name = name
        self._changed = Condition()
        self._jobs: deque[Callable[[], Any]] = deque()
        self._free = 0
        self._threads: list[Thread] = []
        self._closed = False

    def submit(self, job: Callable[[], Any]) -> bool:
        """Run `job` on some helper. False if the helpers are closed, or if there is none and none can be started."""
        with self._changed:
            if self._closed:
                return False
            self._jobs.append(job)
            if len(self._jobs) > self._free and len(self._threads) < self._limit and not self._start():
                if self._threads:
                    return True  # late, then
                self._jobs.pop()
                return False
            self._changed.notify()
        return True

    def _start(self) -> bool:
        thread = Thread(target=self._run, name=f"{self._name}-{len(self._threads)}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # the system allows no more of them
            log.warning("cannot start a helper thread: %s", error)
            return False
        self._threads.append(thread)
        return True

    @property
    def waiting(self) -> int:
        """Jobs that no helper has taken yet."""
        return len(self._jobs)

    def close(self, wait_seconds: float = 0.0) -> None:
        """Take no more jobs, drop those not begun, wait up to `wait_seconds` per thread for those that run."""
        with self._changed:
            self._closed = True
            self._jobs.clear()
            self._changed.notify_all()
            threads = list(self._threads)
        for thread in threads:
            thread.join(wait_seconds)

    def _run(self) -> None:
        name_threads([current_thread()])
        if self._nice:
            try:
                thread = get_native_id()
                os.setpriority(os.PRIO_PROCESS, thread, min(19, os.getpriority(os.PRIO_PROCESS, thread) + self._nice))
            except OSError as error:  # a container may forbid it: then they compete
                log.debug("helper threads keep their priority: %s", error)
        while True:
            with self._changed:
                self._free += 1
                while not self._jobs and not self._closed:
                    self._changed.wait()
                self._free -= 1
                if self._closed:
                    return
                job = self._jobs.popleft()
            try:
                job()
            except Exception:  # a job's accident is its own; the thread lives on
                log.exception("a helper's job failed")
