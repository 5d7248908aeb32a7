"""Log lines: how they look, which are written and where, and that no caller ever waits for a writer."""

import json
import logging
import os
import queue
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from pgdoorman.errors import ConfigError
from pgdoorman.logs.destinations import stderr_is_the_journal
from pgdoorman.logs.levels import TRACE, parse_levels
from pgdoorman.logs.sampling import Sampling
from pgdoorman.logs.writer import Logs, LogStatistics, set_up

log = logging.getLogger("pgdoorman.pool")

type SetUp = Callable[..., Logs]


@pytest.fixture
def start(file: tuple[Path, int]) -> Iterator[SetUp]:
    """`set_up` into the file, closed at the end."""
    running = []

    def begin(**options: object) -> Logs:
        logs = set_up(**{"descriptor": file[1], "environment": {}, **options})  # type: ignore[arg-type]
        running.append(logs)
        return logs

    yield begin
    for logs in running:
        logs.close()


def lines(file: tuple[Path, int], logs: Logs) -> list[str]:
    assert logs.wait_flush()
    return file[0].read_text().splitlines()


# --- how they look ----------------------------------------------------------------------------------------------------


def test_text(file: tuple[Path, int], start: SetUp) -> None:
    logs = start()
    log.warning("%s is %d", "x", 7)
    (line,) = lines(file, logs)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z WARN test_writer\.py:\d+: x is 7", line)
    assert abs(time.mktime(time.strptime(line[:19], "%Y-%m-%dT%H:%M:%S")) - time.mktime(time.gmtime())) < 60


def _fail(text: str) -> None:
    raise ValueError(text)


def test_structured(file: tuple[Path, int], start: SetUp) -> None:
    logs = start(log_format="structured")
    try:
        _fail("broken\nin two")
    except ValueError:
        log.exception("it \N{SNOWMAN} \ud800 happened")
    (line,) = lines(file, logs)
    values = json.loads(line)
    assert values["level"] == "ERROR"
    assert values["message"] == "it \N{SNOWMAN} \ud800 happened"
    assert (values["file"], values["component"], values["thread"]) == ("test_writer.py", "pool", "MainThread")
    assert isinstance(values["line"], int)
    assert re.fullmatch(r"[-\d]{10}T[:\d]{8}\.\d{3}Z", values["timestamp"])
    assert "ValueError: broken\nin two" in values["exception"]


def test_files_of_ours_are_named_from_the_package_on(file: tuple[Path, int], start: SetUp) -> None:
    logs = start(log_format="structured")
    record = log.makeRecord(log.name, logging.INFO, "/opt/x/pgdoorman/pool/pool.py", 5, "m", (), None)
    log.handle(record)
    assert json.loads(lines(file, logs)[0])["file"] == "pool/pool.py"


def test_nothing_that_is_logged_can_look_like_a_line_of_ours(file: tuple[Path, int], start: SetUp) -> None:
    logs = start()
    log.warning("user %s", "x\n2026-01-01T00:00:00.000Z ERROR a.py:1: forged\x1b[2J\u2028\x85\ud800")
    try:
        _fail("a\nb\x1b")
    except ValueError:
        log.exception("with a traceback")
    found = lines(file, logs)
    assert found[0].endswith("user x\\n2026-01-01T00:00:00.000Z ERROR a.py:1: forged\\x1b[2J\\u2028\\x85\\ud800")
    assert found[1].endswith("with a traceback")
    assert len(found) > 3
    assert all(line.startswith("    ") for line in found[2:])
    assert "\x1b" not in "".join(found)


def test_levels_have_short_names(file: tuple[Path, int], start: SetUp) -> None:
    logs = start(level="trace")
    for level in (TRACE, logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
        log.log(level, "level %d", level)
    assert [line.split()[1] for line in lines(file, logs)] == ["TRACE", "DEBUG", "INFO", "WARN", "ERROR", "ERROR"]


def test_a_call_that_cannot_be_formatted_is_still_a_line(file: tuple[Path, int], start: SetUp) -> None:
    class Bad:
        def __str__(self) -> str:
            raise RuntimeError

    logs = start()
    log.warning("value %s", Bad())
    log.warning("%d %d", 1)  # noqa: PLE1206
    found = lines(file, logs)
    assert "'value %s' could not be formatted: RuntimeError" in found[0]
    assert "'%d %d' could not be formatted: TypeError" in found[1]


def test_a_queued_line_holds_on_to_nothing(start: SetUp) -> None:
    logs = start()
    try:
        _fail("x")
    except ValueError:
        record = log.makeRecord(log.name, logging.ERROR, __file__, 1, "%s", (logs,), sys.exc_info())
    logs._handler.emit(record)
    assert record.exc_info is None  # its frames have sockets
    assert record.args is None
    assert record.exc_text is not None
    assert record.exc_text.endswith("ValueError: x")


def test_a_message_without_end_is_cut(file: tuple[Path, int], start: SetUp) -> None:
    logs = start()
    log.warning("x" * 1_000_000)
    assert len(lines(file, logs)[0]) < 40_000


# --- which are written ------------------------------------------------------------------------------------------------


def test_levels_by_component_at_run_time(file: tuple[Path, int], start: SetUp) -> None:
    logs = start(level="warn")
    ledger, client = logging.getLogger("pgdoorman.pool.ledger"), logging.getLogger("pgdoorman.client")

    def speak(mark: str) -> None:
        for logger in (ledger, client):
            logger.debug("debug %s", mark)
            logger.info("info %s", mark)

    speak("a")
    logs.set_levels("info,pool=debug")
    assert logs.levels == "info,pool=debug"
    speak("b")
    logs.set_levels("off, pgdoorman::client = debug")
    speak("c")
    logs.set_levels("default")
    assert logs.levels == "warn"
    speak("d")
    client.warning("last")
    assert [line.split(": ", 1)[1] for line in lines(file, logs)] == [
        "debug b", "info b", "info b", "debug c", "info c", "last",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text", ["garbage", "", "info,", "pool=loud", "pol=debug", "=debug", "info,pool", "os.path=info"]
)
def test_a_filter_that_is_none_changes_nothing(text: str, start: SetUp) -> None:
    logs = start(level="error")
    with pytest.raises(ConfigError) as caught:
        logs.set_levels(text)
    assert caught.value.key == "log_level"
    assert logs.levels == "error"


def test_names_of_components() -> None:
    logging.getLogger("somelibrary.part")
    found = parse_levels("debug,pool.ledger=trace,pgdoorman.client=OFF,somelibrary.part=info,pgdoorman=warn")
    assert found.default == logging.DEBUG
    assert found.components == {
        "pgdoorman.pool.ledger": TRACE, "pgdoorman.client": logging.CRITICAL + 10, "somelibrary.part": logging.INFO,
        "pgdoorman": logging.WARNING,
    }  # fmt: skip
    assert parse_levels("pool=debug").default == logging.INFO


def test_libraries_are_heard_from_warnings_on(file: tuple[Path, int], start: SetUp) -> None:
    logs = start(level="debug")
    library = logging.getLogger("somelibrary")
    library.info("chatter")
    library.warning("trouble")
    (line,) = lines(file, logs)
    assert line.endswith("trouble")


def test_an_unknown_format() -> None:
    with pytest.raises(ConfigError):
        set_up(log_format="xml")
    with pytest.raises(ConfigError):
        set_up(level="loud")


def test_the_root_logger_is_given_back(start: SetUp) -> None:
    root = logging.getLogger()
    before = (root.handlers[:], root.level, logging.getLogger("pgdoorman").level)
    logs = start(level="debug,pool=trace")
    assert len(root.handlers) == 1
    logs.close()
    logs.close()
    assert (root.handlers[:], root.level, logging.getLogger("pgdoorman").level) == before
    assert log.level == logging.NOTSET


# --- more of the same -------------------------------------------------------------------------------------------------


def test_the_same_text_is_written_a_few_times_and_then_counted(file: tuple[Path, int], start: SetUp) -> None:
    logs = start(sampling=Sampling(period=3600.0, same_text=3, same_place=500))
    for _ in range(1000):
        log.info("server is down")
    for number in range(1000):
        log.info("login %d", number)  # what is normal is never left out
    log.info("server is down")  # another place
    found = lines(file, logs)
    assert sum(line.endswith("server is down") for line in found) == 4
    assert sum(": login " in line for line in found) == 1000
    assert logs.statistics().left_out == 997
    logs.close()
    (summary,) = [line for line in file[0].read_text().splitlines() if "more like this" in line]
    assert summary.endswith("997 more like this: server is down")


def test_warnings_of_one_place_are_bounded_whatever_they_say(file: tuple[Path, int], start: SetUp) -> None:
    logs = start(sampling=Sampling(period=3600.0, same_text=3, same_place=10))
    for number in range(100):
        log.warning("cannot log in: %d", number)
    assert len(lines(file, logs)) == 10
    assert logs.statistics().left_out == 90


def test_a_new_period_begins_anew(file: tuple[Path, int], start: SetUp) -> None:
    logs = start(sampling=Sampling(period=0.2, same_text=1, same_place=500))

    def speak() -> None:
        log.info("again")

    speak()
    speak()
    deadline = time.monotonic() + 20
    while len(found := lines(file, logs)) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert found[1].endswith("1 more like this: again")
    speak()
    assert lines(file, logs)[2].endswith(": again")


def test_many_different_texts_do_not_fill_the_memory(file: tuple[Path, int], start: SetUp) -> None:
    logs = start(sampling=Sampling(period=3600.0), capacity=1_000_000)
    for number in range(10_000):
        log.info("text %d", number)
    assert len(lines(file, logs)) == 10_000
    assert len(logs._sampler._windows) <= 4096


# --- where they go ----------------------------------------------------------------------------------------------------


class Daemon:
    """Stands where syslogd or journald listens."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.listen()

    def listen(self) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(self.path))
        self.socket.settimeout(20)

    def stop(self) -> None:
        self.socket.close()
        self.path.unlink()


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    found = Daemon(tmp_path / "daemon")
    for name in ("Syslog", "Journal"):
        monkeypatch.setattr(
            f"pgdoorman.logs.destinations.{name}.__init__.__defaults__", _with_path(name, str(found.path))
        )
    yield found
    found.socket.close()


def _with_path(name: str, path: str) -> tuple[str, ...]:
    return (path,) if name == "Syslog" else ("pgdoorman", path)


def test_syslog(daemon: Daemon, file: tuple[Path, int], start: SetUp) -> None:
    logs = start(syslog_name="door")
    log.warning("two\nlines")
    log.info("one")
    first = daemon.socket.recv(65536).decode()
    assert re.fullmatch(rf"<28>[A-Z][a-z]{{2}} [ \d]\d \d\d:\d\d:\d\d door\[{os.getpid()}\]: two\\nlines", first)
    assert daemon.socket.recv(65536).decode().startswith("<30>")
    assert lines(file, logs) == []


def test_a_syslog_that_goes_away_and_comes_back(daemon: Daemon, file: tuple[Path, int], start: SetUp) -> None:
    logs = start(syslog_name="door")
    log.info("before")
    assert daemon.socket.recv(65536).endswith(b"before")
    daemon.stop()
    log.info("meanwhile")
    (line,) = lines(file, logs)
    assert line.endswith("meanwhile")
    daemon.listen()
    log.info("after")
    assert daemon.socket.recv(65536).endswith(b"after")
    assert len(lines(file, logs)) == 1
    assert logs.statistics() == LogStatistics(written=3)


def test_journal(daemon: Daemon, file: tuple[Path, int], start: SetUp) -> None:
    status = os.fstat(file[1])
    environment = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
    logs = start(environment=environment)
    log.error("two\nlines=")
    fields = _journal_fields(daemon.socket.recv(65536))
    assert fields["MESSAGE"] == "two\nlines="
    assert fields["PRIORITY"] == "3"
    assert fields["SYSLOG_IDENTIFIER"] == "pgdoorman"
    assert fields["PGDOORMAN_COMPONENT"] == "pool"
    assert fields["CODE_FILE"] == "test_writer.py"
    assert fields["CODE_FUNC"] == "test_journal"
    assert lines(file, logs) == []


def _journal_fields(datagram: bytes) -> dict[str, str]:
    fields = {}
    while datagram:
        name, _, rest = datagram.partition(b"\n")
        (length,) = struct.unpack_from("<Q", rest)
        fields[name.decode()] = rest[8 : 8 + length].decode()
        assert rest[8 + length : 9 + length] == b"\n"
        datagram = rest[9 + length :]
    return fields


def test_structured_lines_stay_on_stderr_even_if_that_is_the_journal(file: tuple[Path, int], start: SetUp) -> None:
    status = os.fstat(file[1])
    logs = start(log_format="structured", environment={"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})
    log.info("x")
    assert json.loads(lines(file, logs)[0])["message"] == "x"


def test_stderr_is_only_the_journal_if_the_variable_names_it(file: tuple[Path, int]) -> None:
    status = os.fstat(file[1])
    right = f"{status.st_dev}:{status.st_ino}"
    assert stderr_is_the_journal({"JOURNAL_STREAM": right}, file[1])
    for wrong in ("", "1:2", right + "0", "x", f"{status.st_dev}"):
        assert not stderr_is_the_journal({"JOURNAL_STREAM": wrong}, file[1])
    assert not stderr_is_the_journal({}, file[1])
    assert not stderr_is_the_journal({"JOURNAL_STREAM": right}, 987_654)


# --- nobody waits -----------------------------------------------------------------------------------------------------


def test_a_writer_that_is_stuck_delays_nobody_and_what_is_dropped_is_told() -> None:
    reader, writer = os.pipe()
    logs = set_up(descriptor=writer, environment={}, capacity=100)
    try:
        took = []
        for number in range(5000):  # far more than pipe and queue hold
            begin = time.monotonic()
            log.info("%d %s", number, "x" * 500)
            took.append(time.monotonic() - begin)
        assert sum(took) < 10
        assert max(took) < 2
        dropped = logs.statistics().dropped
        assert dropped > 3000

        data = bytearray()
        draining = threading.Thread(target=_drain, args=(reader, data))
        draining.start()
        assert logs.wait_flush(30)
        logs.close()
        os.close(writer)
        writer = -1
        draining.join(30)
        found = data.decode().splitlines()
        assert len([line for line in found if "xxx" in line]) == 5000 - dropped
        told = [int(line.split(": ")[1].split()[0]) for line in found if "log lines were dropped" in line]
        assert sum(told) == dropped
    finally:
        if writer >= 0:
            os.close(writer)
        logs.close()
        os.close(reader)


def _drain(reader: int, data: bytearray) -> None:
    while chunk := os.read(reader, 65536):
        data += chunk


def test_a_descriptor_that_does_not_block_is_waited_for() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    data = bytearray()
    logs = set_up(descriptor=writer, environment={}, capacity=100_000)
    for number in range(500):
        log.info("%d %s", number, "x" * 500)
    draining = threading.Thread(target=_drain, args=(reader, data))
    draining.start()
    logs.close(30)
    os.close(writer)
    draining.join(30)
    os.close(reader)
    assert len(data.splitlines()) == 500


def test_a_broken_pipe_is_counted_and_does_no_harm() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    logs = set_up(descriptor=writer, environment={})
    log.info("lost")
    assert logs.wait_flush()
    assert logs.statistics().failed == 1
    assert logs.statistics().written == 0
    logs.close()
    os.close(writer)


def test_lines_of_many_threads_are_whole_and_all_there(file: tuple[Path, int], start: SetUp) -> None:
    logs = start(capacity=1_000_000)
    barrier = threading.Barrier(8)
    failures: queue.SimpleQueue[BaseException] = queue.SimpleQueue()

    def speak(number: int) -> None:
        try:
            barrier.wait()
            for count in range(500):
                log.info("thread %d line %d end", number, count)
                if count % 50 == 0:
                    logs.set_levels("info,pool=debug")
                    logs.statistics()
        except BaseException as error:
            failures.put(error)
            raise

    threads = [threading.Thread(target=speak, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures.empty()
    found = lines(file, logs)
    assert sorted(_numbers(found)) == [(number, count) for number in range(8) for count in range(500)]
    for number in range(8):  # each thread's own lines in its own order
        assert [count for thread, count in _numbers(found) if thread == number] == list(range(500))


def _numbers(found: Sequence[str]) -> list[tuple[int, int]]:
    pattern = re.compile(r".* INFO test_writer\.py:\d+: thread (\d+) line (\d+) end")
    matches = [pattern.fullmatch(line) for line in found]
    return [(int(match[1]), int(match[2])) for match in matches if match is not None]


def test_a_program_that_just_ends_has_written_everything() -> None:
    program = (
        "import logging, pgdoorman.logs.writer\n"
        "pgdoorman.logs.writer.set_up(environment={})\n"
        "for number in range(2000): logging.getLogger('pgdoorman').info('line %d', number)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], stderr=subprocess.PIPE, text=True, timeout=60, check=True,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert len(done.stderr.splitlines()) == 2000
