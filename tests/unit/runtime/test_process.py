"""Names of threads, pid files, the background, another user: with real processes."""

import os
import pwd
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pgdoorman.runtime.process import (
    NoSuchUser,
    PidFile,
    PidFileTaken,
    become_user,
    bind_thread,
    cores_for_workers,
    name_threads,
    raise_descriptor_limit,
    running_process,
)

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


def _python(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def _kernel_name(thread: threading.Thread) -> str:
    return Path(f"/proc/self/task/{thread.native_id}/comm").read_text().strip()


def test_the_kernel_knows_the_names_of_threads() -> None:
    leave = threading.Event()
    threads = [threading.Thread(target=leave.wait, name=name) for name in ("worker-7", "a name that is too long")]
    for thread in threads:
        thread.start()
    try:
        name_threads([*threads, threading.Thread(name="not started")])
        assert [_kernel_name(thread) for thread in threads] == ["worker-7", "a name that is"]
    finally:
        leave.set()
    for thread in threads:
        thread.join(30)
    name_threads(threads)  # ended: quiet


def test_the_process_gets_a_name_of_its_own() -> None:
    program = (
        "import threading; from pgdoorman.runtime.process import name_threads\n"
        "name_threads(threading.enumerate(), 'pgdoorman'); print(open('/proc/self/comm').read())"
    )
    assert _python(program).stdout.strip() == "pgdoorman"


@pytest.mark.parametrize(
    ("allowed", "count", "chosen"),
    [
        ({0, 1}, 4, []),
        ({0}, 1, []),
        ({0, 1, 2}, 2, [1, 2]),
        ({0, 1, 2}, 5, [1, 2, 1, 2, 1]),
        ({2, 5, 7, 11}, 2, [5, 7]),
    ],
)
def test_workers_get_cores_from_the_second_up(
    monkeypatch: pytest.MonkeyPatch, allowed: set[int], count: int, chosen: list[int]
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: allowed)
    assert cores_for_workers(count) == chosen


def test_a_thread_is_bound_to_a_core() -> None:
    leave = threading.Event()
    thread = threading.Thread(target=leave.wait)
    thread.start()
    try:
        core = max(os.sched_getaffinity(0))
        bind_thread(thread, core)
        assert thread.native_id is not None
        assert os.sched_getaffinity(thread.native_id) == {core}
    finally:
        leave.set()
        thread.join(30)


def test_as_many_descriptors_as_the_system_lets_us() -> None:
    program = (
        "import os, resource; from pgdoorman.runtime.process import raise_descriptor_limit\n"
        "if os.geteuid() == 0: os.setresuid(65534, 65534, 65534)\n"  # who could raise any limit
        "resource.setrlimit(resource.RLIMIT_NOFILE, (100, 200))\n"
        "print(raise_descriptor_limit(50), raise_descriptor_limit(150), *resource.getrlimit(resource.RLIMIT_NOFILE))\n"
        "print(raise_descriptor_limit(250))"
    )
    done = _python(program)
    assert done.stdout.split() == ["100", "150", "150", "200", "200"], done.stderr
    assert raise_descriptor_limit(1) >= 1


# --- the pid file ---


def test_a_pid_file_lives_as_long_as_its_owner(tmp_path: Path) -> None:
    path = str(tmp_path / "pid")
    assert running_process(path) == 0
    file = PidFile(path)
    file.write()
    assert Path(path).read_text() == f"{os.getpid()}\n"
    assert running_process(path) == os.getpid()
    other = PidFile(path)
    with pytest.raises(PidFileTaken, match=f"process {os.getpid()}, which is running"):
        other.check()
    with pytest.raises(PidFileTaken, match=f"process {os.getpid()}, which is running"):
        other.write()
    other.remove()
    assert Path(path).exists(), "not by somebody else"
    file.remove()
    assert not Path(path).exists()
    file.remove()


def test_what_a_dead_process_left_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    path.write_text("123456789\n")
    assert running_process(str(path)) == 0
    file = PidFile(str(path))
    file.check()
    file.write()
    assert path.read_text() == f"{os.getpid()}\n"
    file.remove()


def test_a_successor_puts_its_own_in_the_place(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    old, new = PidFile(str(path)), PidFile(str(path))
    old.write()
    new.replace()
    old.remove()
    assert path.read_text() == f"{os.getpid()}\n", "the old one's end does not take the new one's file along"
    assert running_process(str(path)) == os.getpid()
    new.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_link_that_somebody_laid_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("keep me")
    (tmp_path / "pid").symlink_to(target)
    with pytest.raises(OSError, match=r".+"):
        PidFile(str(tmp_path / "pid")).write()
    assert target.read_text() == "keep me"


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pid")
    with pytest.raises(OSError, match="no file of ours"):
        PidFile(str(tmp_path / "pid")).write()


# --- another user ---


def test_a_user_that_is_none() -> None:
    with pytest.raises(NoSuchUser, match="no user 'nobody-by-that-name'"):
        become_user("nobody-by-that-name")


@AS_ROOT
def test_root_is_given_up_for_good_in_every_thread() -> None:
    program = (
        f"import sys; sys.path[:] = {sys.path!r}\n"
        "import os, threading; from pgdoorman.runtime.process import become_user\n"
        "leave = threading.Event(); thread = threading.Thread(target=leave.wait); thread.start()\n"
        "become_user('nobody'); become_user('nobody')\n"
        "print(os.getresuid(), os.getresgid() == (os.getegid(),) * 3, 0 in os.getgroups())\n"
        "text = open(f'/proc/self/task/{thread.native_id}/status').read()\n"
        "print([line.split()[1:] for line in text.splitlines() if line.startswith('Uid')])\n"
        "leave.set()\n"
        "try: os.setuid(0)\n"
        "except PermissionError: print('for good')\n"
    )
    number = pwd.getpwnam("nobody").pw_uid
    done = _python(program)
    assert done.stdout.splitlines() == [
        f"({number}, {number}, {number}) True False",
        f"[{[str(number)] * 4}]",
        "for good",
    ], done.stderr


# --- the background ---

_DAEMON = (
    "import os, sys, time; from pgdoorman.runtime.process import detach\n"
    "birth = detach()\n"
    "open(sys.argv[1], 'w').write(f'{os.getsid(0)} {os.getpid()} {os.getppid()}')\n"
    "how = sys.argv[2]\n"
    "if how == 'dies': os._exit(9)\n"
    "birth.tell(int(how))\n"
    "birth.tell(99)\n"
)


@pytest.mark.parametrize(("how", "code"), [("0", 0), ("71", 71), ("dies", 1)])
def test_the_parent_ends_as_the_start_went(tmp_path: Path, how: str, code: int) -> None:
    done = _python(_DAEMON, str(tmp_path / "said"), how)
    assert done.returncode == code, done.stderr
    session, process, _parent = map(int, (tmp_path / "said").read_text().split())
    assert session != os.getsid(0), "a session of its own"
    assert session != process, "and not its leader, who could get a terminal again"
