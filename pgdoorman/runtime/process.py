"""This process as the system sees it: its names, its user, its place on the cores, its pid file, its detachment."""

import contextlib
import errno
import fcntl
import grp
import logging
import os
import pwd
import resource
import signal
import stat
import sys
import threading
from collections.abc import Iterable

log = logging.getLogger(__name__)

LONGEST_NAME = 15  # bytes of a thread's name that the kernel keeps


# --- names and cores --------------------------------------------------------------------------------------------------


def name_threads(threads: Iterable[threading.Thread], process: str = "") -> None:
    """Give the kernel the names of these threads, for `top -H`, `ps -L` and gdb; `process` names the main thread, and
    with it the process. Python does so itself from 3.14 on. Quiet where /proc does not allow it."""
    for thread in threads:
        name = process if process and thread is threading.main_thread() else thread.name
        if thread.native_id is not None:
            place = f"/proc/self/task/{thread.native_id}/comm"
            with contextlib.suppress(OSError), open(place, "wb", buffering=0) as comm:
                comm.write(name.encode()[:LONGEST_NAME])


def cores_for_workers(count: int) -> list[int]:
    """A core for each of `count` workers, from the second that we may use up, going round; none with fewer than three:
    then binding would only take the scheduler's freedom away."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 3:
        return []
    return [cores[1 + index % (len(cores) - 1)] for index in range(count)]


def bind_thread(thread: threading.Thread, core: int) -> None:
    """Keep a thread that runs on one core. Raises OSError."""
    assert thread.native_id is not None
    os.sched_setaffinity(thread.native_id, {core})


# --- limits and user --------------------------------------------------------------------------------------------------


def raise_descriptor_limit(wanted: int) -> int:
    """Have at least `wanted` descriptors if the system lets us. Returns how many there may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if soft == unlimited or soft >= wanted:
        return wanted if soft == unlimited else soft
    within = wanted if hard == unlimited else min(wanted, hard)
    for limits in ((wanted, hard if hard == unlimited else max(wanted, hard)), (within, hard)):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        except (OSError, ValueError):
            continue
        return limits[0]
    return soft


class NoSuchUser(Exception):
    """The system does not know the user, or we may not become it. The text says which."""


def become_user(name: str, files: Iterable[str] = ()) -> None:
    """Give up root for good: user, group and supplementary groups of `name`, in every thread. `files` are given to that
    user first.

    Nothing happens if we are that user already. Raises NoSuchUser.
    """
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise NoSuchUser(f"there is no user {name!r}") from None
    if os.geteuid() == entry.pw_uid:
        return
    if os.geteuid() != 0:
        raise NoSuchUser(f"only root can become user {name!r}")
    try:
        for file in files:
            os.chown(file, entry.pw_uid, entry.pw_gid, follow_symlinks=False)
        os.initgroups(name, entry.pw_gid)
        os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
        os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)
    except OSError as error:
        raise NoSuchUser(f"cannot become user {name!r}: {error.strerror}") from error
    with contextlib.suppress(KeyError):
        log.info("privileges given up: user %s, group %s", name, grp.getgrgid(entry.pw_gid).gr_name)


# --- the pid file -----------------------------------------------------------------------------------------------------


class PidFileTaken(Exception):
    """Another process that lives holds the file. The text names both."""


class PidFile:
    """A file with our process id, locked for as long as we live, so that nobody has to guess whether the number in it is
    still ours: an id comes back sooner or later, a lock goes with its process."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._descriptor = -1

    def check(self) -> None:
        """Raises PidFileTaken if a process that lives holds it."""
        owner = running_process(self.path)
        if owner:
            raise PidFileTaken(f"{self.path} belongs to process {owner}, which is running")

    def write(self) -> None:
        """Create it, or take over what a dead process left. Raises PidFileTaken, or OSError."""
        # A directory such as /tmp is everybody's: what somebody else laid there is not followed and not written to.
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o644)
        try:
            self._claim(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def _claim(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid not in (os.geteuid(), 0):
            raise OSError(errno.EPERM, "is no file of ours")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
            raise PidFileTaken(f"{self.path} belongs to process {owner or '?'}, which is running") from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)

    def replace(self) -> None:
        """Put ours in the place of a predecessor's, which still lives and holds its own. Raises OSError."""
        fresh = PidFile(f"{self.path}.{os.getpid()}")
        fresh.write()
        os.replace(fresh.path, self.path)
        self._descriptor = fresh._descriptor

    def remove(self) -> None:
        """Remove it, unless a successor has put its own in its place. Idempotent."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor < 0:
            return
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(descriptor), os.stat(self.path)):
                os.unlink(self.path)
        os.close(descriptor)


def running_process(path: str) -> int:
    """The process id in a pid file whose owner lives and holds its lock; 0 if there is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return 0
    try:
        text = os.read(descriptor, 32).decode("ascii", "replace").strip()
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return int(text) if text.isascii() and text.isdigit() else 0
    except OSError:
        return 0
    finally:
        os.close(descriptor)
    return 0


# --- the background ---------------------------------------------------------------------------------------------------


class Birth:
    """The daemon's side of `detach`: says to the waiting parent how the start went."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def tell(self, exit_code: int) -> None:
        """The parent ends with this code. Once."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor < 0:
            return
        # Until now whoever started us could read what went wrong. A log that goes to a file stays there; a terminal is
        # not ours any more, and who reads a pipe to its end would wait for ours.
        if not stat.S_ISREG(os.fstat(2).st_mode):
            _to_nowhere(2)
        with contextlib.suppress(OSError):
            os.write(descriptor, bytes([exit_code & 0xFF]))
        os.close(descriptor)


def _to_nowhere(*descriptors: int) -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in descriptors:
        os.dup2(nothing, descriptor)
    if nothing > 2:
        os.close(nothing)


def detach() -> Birth:
    """Go on as a daemon: in a session of its own, without a terminal. The working directory stays, since relative paths in
    a configuration are read again at each reload.

    Returns in the daemon only. The process that called waits until the daemon has told how its start went, or has ended,
    and ends with that code. To be called before any thread is started.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    sys.stdout.flush()
    sys.stderr.flush()
    if os.fork():
        os.close(writer)
        os._exit(_await_birth(reader))
    os.close(reader)
    os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the leader's end must not take its child along
    if os.fork():
        os._exit(0)
    os.umask(0o022)
    _to_nowhere(0, 1)
    return Birth(writer)


def _await_birth(reader: int) -> int:
    told = os.read(reader, 1)
    return told[0] if told else 1
