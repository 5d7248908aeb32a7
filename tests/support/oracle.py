"""Random conversations, judged by PostgreSQL itself.

    python -m tests.support.oracle --batches 1000000 --seed 7

plays them (tests.support.conversations) with PostgreSQL directly and through a pooler, in twin databases, and goes on
until so many batches have been tried. Each difference is printed, made as small as time allows, with the options that
bring it again; the exit status is 1 if there was one. A batch is one client's turn. It starts all that it needs itself.
"""

import argparse
import contextlib
import itertools
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from tests.support.conversations import CLIENTS, DIFFERENT, PLAIN, PROFILES, TURNS_A_SCENARIO, Generator
from tests.support.doorman import Doorman, make_doorman, pool, user
from tests.support.postgres import Postgres
from tests.support.scenario import Difference, Turn, as_code, compare, minimise, record
from tests.support.splitter import Splitter
from tests.support.wire import ServerError, Silence, Wire, WireError, query

# Seconds. What does not come in that time never comes, also on a machine that has much else to do.
PATIENCE: Final = 30.0

# --- The twin databases ---------------------------------------------------------------------------------------------

_SHARED = """
create table numbers (n int primary key);
insert into numbers select generate_series(1, 20);
create type mood as enum ('good', 'bad');
create function say(text) returns text language plpgsql as $$ begin raise notice 'said %', $1; return upper($1); end $$;
create function fail(int) returns int language plpgsql as
    $$ begin raise exception 'failed %', $1 using errcode = 'P0042'; end $$;
"""

_OWN = """
create schema c{0};
grant all on schema c{0} to public;
create table c{0}.t (id serial primary key, name text);
create table c{0}.u (id int unique deferrable initially deferred);
create sequence c{0}.s;
grant all on all tables in schema c{0} to public;
grant all on all sequences in schema c{0} to public;
"""

# What a client left in a transaction still has locked shows here. (Deletes, and a vacuum now and then: a truncate makes new
# files, at twenty times the cost. So what is not ordered comes in no particular order.)
_RESET_ONE = """
drop table if exists c{0}.x; delete from c{0}.t; delete from c{0}.u;
select setval('c{0}.t_id_seq', 1, false), setval('c{0}.s', 1, false);
insert into c{0}.t (name) values ('one'), ('two'), ('three'); insert into c{0}.u values (1), (2);
"""
_RESET = "".join(
    [
        f"lock table {', '.join(f'c{number}.t, c{number}.u' for number in range(CLIENTS))} in access exclusive mode;",
        *(_RESET_ONE.format(number) for number in range(CLIENTS)),
    ]
)
_RESETS_A_VACUUM: Final = 64

_END_BACKENDS = """
select pg_terminate_backend(pid, 2000) from pg_stat_activity
where datname = current_database() and application_name <> 'oracle keeper' and backend_type = 'client backend'
"""


@dataclass(frozen=True, slots=True)
class Twins:
    """Two equal databases: one that is spoken to directly, one through a pooler. The pool has the name of the latter."""

    reference: str
    pooled: str


def make_twins(server: Postgres, suffix: str = "") -> Twins:
    """Makes them anew. Those of different suffixes may be used at the same time."""
    twins = Twins(f"oracle_a{suffix}", f"oracle_b{suffix}")
    with server.connect("postgres") as wire:
        for name in (twins.pooled, twins.reference):
            wire.run(f"drop database if exists {name} with (force)", patience=60)
        wire.run(f"create database {twins.reference}", patience=60)
    with server.connect(twins.reference, "alice") as wire:
        wire.run(_SHARED)
        for number in range(CLIENTS):
            wire.run(_OWN.format(number))
    with server.connect("postgres") as wire:
        wire.run(f"create database {twins.pooled} template {twins.reference}", patience=60)
        for name in (twins.pooled, twins.reference):
            wire.run(f"alter database {name} set log_min_messages = log")  # every other message is an error
    return twins


class Rested:
    """Sessions of the reference that have been used, and are as good as new after a DISCARD ALL: a log-in costs PostgreSQL as
    much as several turns. By their startup parameters. (A custom parameter that a session has once had is not unknown
    to it again but empty.)"""

    def __init__(self, connect: Callable[[Mapping[str, str]], Wire]) -> None:
        self._connect = connect
        self._idle: dict[frozenset[tuple[str, str]], list[Wire]] = {}
        self._of: dict[Wire, tuple[frozenset[tuple[str, str]], dict[str, str]]] = {}

    def take(self, startup: Mapping[str, str]) -> Wire:
        """A new session, or one that looks new."""
        key = frozenset(startup.items())
        while idle := self._idle.get(key):
            wire = idle.pop()
            with contextlib.suppress(WireError):
                replies = wire.settle(PATIENCE)
                if not any(reply.kind == "E" for reply in replies) and wire.parameters == self._of[wire][1]:
                    return wire
            self._end(wire)
        wire = self._connect(startup)
        self._of[wire] = (key, dict(wire.parameters))
        return wire

    def give(self, wire: Wire) -> None:
        """It is idle, and not needed any more."""
        try:
            wire.send(query("discard all"))
        except WireError:
            self._end(wire)
        else:
            self._idle.setdefault(self._of[wire][0], []).append(wire)

    def close(self) -> None:
        for wire in list(self._of):
            self._end(wire)

    def _end(self, wire: Wire) -> None:
        del self._of[wire]
        wire.terminate()


# --- The trial ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Finding:
    """A difference, how to get it again, and the smallest scenario that still shows it."""

    seed: int
    number: int
    profile: str
    turns: tuple[Turn, ...]
    difference: Difference
    note: str = ""
    history: tuple[tuple[Turn, ...], ...] = ()  # conversations of earlier clients that must come before

    @property
    def name(self) -> str:
        """Which conversation it is."""
        return f"seed {self.seed}, scenario {self.number}, {self.profile}"

    def report(self, setting: str) -> str:
        size = sum(len(step) for turn in self.turns for step in turn.steps)
        earlier = "".join(f"\n{as_code(turns)}\n# those clients have left; then" for turns in self.history)
        which = f"--seed {self.seed} --first {self.number} --batches 1 --profile {self.profile} --setting {setting}"
        return f"""
ORDER ORACLE: the pooler does not answer as PostgreSQL does
{size} messages in {len(self.turns)} turns, found by {self.name}{self.note}
again: python -m tests.support.oracle {which}

{self.difference.report()}

as code for tests.support.scenario:{earlier}
{as_code(self.turns)}"""


def _up_to(turns: Sequence[Turn], difference: Difference) -> Sequence[Turn]:
    """Without the turns behind the first difference."""
    events = difference.script.events[: len(difference.answers)]
    return turns[: events[-1].turn + 1] if events else turns


class Oracle:
    """Two servers to compare: `direct` logs in to a database of PostgreSQL, `pooled` logs in to the pooled twin through
    the pooler; both take startup parameters."""

    def __init__(
        self,
        twins: Twins,
        direct: Callable[[str, Mapping[str, str]], Wire],
        pooled: Callable[[Mapping[str, str]], Wire],
        patience: float = PATIENCE,
        witness: Callable[[], str] = str,
    ) -> None:
        self._twins = twins
        self._direct = direct
        self._rested = Rested(lambda parameters: direct(twins.reference, parameters))
        self._resets = 0
        self._pooled = pooled
        self._patience = patience
        self._witness = witness
        self._keepers = [
            direct(name, {"application_name": "oracle keeper"}) for name in (twins.reference, twins.pooled)
        ]
        for keeper in self._keepers:
            keeper.run(f"set client_min_messages = error; set lock_timeout = '{PATIENCE / 2:.0f}s'")

    def close(self) -> None:
        self._rested.close()
        for keeper in self._keepers:
            keeper.terminate()

    def try_scenario(
        self,
        turns: Sequence[Turn],
        startups: Sequence[Mapping[str, str]] = PLAIN,
        patience: float | None = None,
        *,
        rested: bool = False,
    ) -> Difference | None:
        """Plays one scenario on fresh data; as many clients as there are `startups`. `rested`: a session of PostgreSQL's own
        that was used before will do. Raises WireError if PostgreSQL itself does not answer, which means that the scenario is
        not a fair question."""
        self._reset()
        count = len(startups)
        if rested:
            script = record(
                turns, lambda number: self._rested.take(startups[number]), count, PATIENCE, self._rested.give
            )
        else:
            script = record(
                turns, lambda number: self._direct(self._twins.reference, startups[number]), count, PATIENCE
            )
        return compare(script, lambda number: self._pooled(startups[number]), patience or self._patience, self._witness)

    def hunt(self, seed: int, profile: str, first: int, scenarios: int, shrink_seconds: float = 40.0) -> Finding | None:
        """Tries scenarios until one differs; that one is made smaller."""
        generator = Generator(seed, profile)
        startups = PLAIN if profile == "protocol" else DIFFERENT
        for number in range(first, first + scenarios):
            turns = generator.scenario(number)
            difference = self.try_scenario(turns, startups, rested=True)
            if difference is not None:
                before = [generator.scenario(earlier) for earlier in range(max(first, number - 2), number)]
                return self._shrink(
                    Finding(seed, number, profile, tuple(turns), difference), before, startups, shrink_seconds
                )
        return None

    def _shrink(
        self, finding: Finding, before: Sequence[list[Turn]], startups: Sequence[Mapping[str, str]], seconds: float
    ) -> Finding:
        """The smallest conversation found in `seconds` that still differs, alone or behind one or two earlier ones."""
        silent = finding.difference.is_silence

        def play(history: Sequence[Sequence[Turn]], turns: Sequence[Turn]) -> Difference | None:
            return self._again(history, turns, startups, silent)

        for depth in range(len(before) + 1):
            history = list(before[len(before) - depth :])
            if (again := play(history, finding.turns)) is not None:
                break
        else:
            note = "; it does not fail when played again, not even behind the two before it: a matter of timing"
            return replace(finding, note=note)
        turns, why = minimise(
            _up_to(finding.turns, again), lambda smaller: play(history, smaller), again, seconds / (depth + 1)
        )
        for at in range(depth):

            def fails(smaller: Sequence[Turn], at: int = at) -> Difference | None:
                return play([*history[:at], list(smaller), *history[at + 1 :]], turns)

            history[at], why = minimise(history[at], fails, why, seconds / (depth + 1))
        return replace(finding, turns=tuple(turns), difference=why, history=tuple(tuple(one) for one in history))

    def _again(
        self,
        history: Sequence[Sequence[Turn]],
        turns: Sequence[Turn],
        startups: Sequence[Mapping[str, str]],
        silent: bool,
    ) -> Difference | None:
        """On backends of its own, so that only `history` can have left something behind. Only an answer that does not come
        is the same as an answer that did not come: on a busy machine something may always be late."""
        patience = 3.0 if silent else None
        self.end_pooled_backends()
        try:
            for earlier in history:
                self.try_scenario(earlier, startups, patience)
            difference = self.try_scenario(turns, startups, patience)
        except Silence:
            return None  # the cut scenario is no longer a fair question
        return difference if difference is not None and difference.is_silence == silent else None

    def end_pooled_backends(self) -> None:
        """What a backend has kept from earlier scenarios must not be blamed on this one."""
        self._keepers[1].run(_END_BACKENDS)
        time.sleep(0.05)  # the pooler must notice that they have gone

    def _reset(self) -> None:
        """Both databases side by side."""
        self._resets += 1
        if self._resets % _RESETS_A_VACUUM == 0:
            for keeper in self._keepers:
                keeper.ask(query("vacuum"), patience=PATIENCE)  # refused while something is locked: then the next time
        for keeper in self._keepers:
            keeper.send(query(_RESET))
        for keeper in self._keepers:
            error = next((reply for reply in keeper.settle(PATIENCE) if reply.kind == "E"), None)
            if error is not None:
                self._free_locks(keeper, ServerError(error))
                keeper.run(_RESET, PATIENCE)

    def _free_locks(self, keeper: Wire, error: ServerError) -> None:
        """55P03 means that a backend went back in a transaction, or is stuck; the next scenario must not suffer."""
        holders = keeper.rows(
            "select pid, state, query from pg_stat_activity where datname = current_database()"
            " and application_name <> 'oracle keeper' and backend_type = 'client backend'"
        )
        keeper.run(_END_BACKENDS)
        if error.sqlstate != "55P03":
            raise error
        print(f"oracle: a backend still held a lock after its clients had left: {holders}", file=sys.stderr)


# --- Where it is played ---------------------------------------------------------------------------------------------

_PIECES: Final = (1, 1, 2, 3, 5, 40)

_TINY_CACHES: Final = {
    "prepared_statements_cache_size": 2,
    "server_prepared_statements_cache_size": 2,
    "client_anonymous_prepared_cache_size": 2,
}


@dataclass(frozen=True, slots=True)
class Setting:
    """A way to run the pooler that must not show in any answer."""

    pool_mode: str
    backends: int
    tiny: bool
    split: bool = False  # every message is cut into pieces of a few bytes, on both sides


# Transaction pools of one or four backends, with caches so small that every use evicts, and a session pool.
SETTINGS: Final = {
    "one-tiny": Setting("transaction", 1, True),
    "four-tiny": Setting("transaction", 4, True),
    "one": Setting("transaction", 1, False),
    "session": Setting("session", CLIENTS + 1, False),
    "split": Setting("transaction", 4, True, split=True),
}


@dataclass(frozen=True, slots=True)
class Part:
    """A share of the random conversations: of which profile, and in which setting."""

    setting: str
    profile: str
    share: float


PARTS: Final = (
    Part("one-tiny", "protocol", 0.3),
    Part("one-tiny", "movable", 0.3),
    Part("four-tiny", "pinning", 0.2),
    Part("session", "pinning", 0.1),
    Part("split", "protocol", 0.1),
)


class Stands:
    """One pooler per setting in front of a pair of twins, started when first needed, started anew if it has died.
    `start` is given what a Doorman is given, and starts one."""

    def __init__(self, server: Postgres, twins: Twins, start: Callable[..., Doorman]) -> None:
        self._server = server
        self._twins = twins
        self._start = start
        self._running: dict[str, tuple[Doorman, Oracle]] = {}
        self._splitters = contextlib.ExitStack()

    def oracle(self, name: str) -> tuple[Doorman, "Oracle"]:
        """The pooler of a setting, and who judges it."""
        if name not in self._running or not self._running[name][0].is_running:
            self._running[name] = self._open(SETTINGS[name])
        return self._running[name]

    def abandon(self, name: str) -> None:
        """Its connections to PostgreSQL are lost: start all of it anew when it is needed again."""
        doorman, oracle = self._running.pop(name)
        doorman.kill()
        oracle.close()

    def close(self) -> None:
        for _, oracle in self._running.values():
            oracle.close()
        self._splitters.close()

    def _open(self, setting: Setting) -> tuple[Doorman, "Oracle"]:
        server, name = self._server, self._twins.pooled
        behind = (server.host, server.port)
        if setting.split:
            splitter = self._splitters.enter_context(Splitter(*behind, sizes=_PIECES))
            behind = (splitter.host, splitter.port)
        account = user("alice", pool_size=setting.backends)
        doorman = self._start(
            # The application_name of the clients, so that what RESET ALL goes back to is the same on both sides.
            pools={name: pool(behind, account, pool_mode=setting.pool_mode, application_name="same")},
            general={"query_wait_timeout": f"{PATIENCE * 2:.0f}s", **(_TINY_CACHES if setting.tiny else {})},
        )

        def direct(database: str, parameters: Mapping[str, str]) -> Wire:
            return server.connect(database, "alice", parameters=parameters, patience=PATIENCE)

        front = doorman.port
        if setting.split:
            front = self._splitters.enter_context(Splitter(doorman.host, front, sizes=_PIECES, seed=2)).port

        def pooled(parameters: Mapping[str, str]) -> Wire:
            if not setting.split:
                return doorman.connect(name, "alice", parameters=parameters, patience=PATIENCE)
            return Wire.connect(
                doorman.host, front, user="alice", database=name, parameters=parameters, patience=PATIENCE
            )

        return doorman, Oracle(self._twins, direct, pooled, witness=doorman.state)


# --- The program ----------------------------------------------------------------------------------------------------

_SCENARIOS_AT_A_TIME: Final = 10


@dataclass(frozen=True, slots=True)
class Piece:
    """Some scenarios of one part, in a row."""

    part: Part
    first: int
    scenarios: int


def pieces(parts: Sequence[Part], batches: int, first: int) -> Iterator[Piece]:
    """The parts in turns, each as often as its share says, until there are so many batches."""
    next_of = dict.fromkeys(parts, first)
    left = max(1, round(batches / TURNS_A_SCENARIO))
    while left > 0:
        part = min(parts, key=lambda one: (next_of[one] - first) / one.share)
        piece = Piece(part, next_of[part], min(left, _SCENARIOS_AT_A_TIME))
        next_of[part] += piece.scenarios
        left -= piece.scenarios
        yield piece


class Hunt:
    """Several threads that share the pieces of one long run. Each has twins and poolers of its own."""

    def __init__(
        self, server: Postgres, directory: Path, seed: int, work: Iterator[Piece], shrink_seconds: float
    ) -> None:
        self._server = server
        self._directory = directory
        self._seed = seed
        self._work = work
        self._shrink_seconds = shrink_seconds
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self.started = time.monotonic()
        self.scenarios = 0
        self.findings = 0

    def run(self, job: int) -> None:
        """One thread's share, until nothing is left."""
        started: list[Doorman] = []

        def start(**settings: Any) -> Doorman:
            with self._lock:
                number = next(self._numbers)
            doorman = make_doorman(self._directory / f"doorman{number}", **settings)
            started.append(doorman)
            doorman.start(patience=600)  # a hunt may be the least important thing that a machine does
            return doorman

        stands = Stands(self._server, make_twins(self._server, str(job)), start)
        try:
            while (piece := self._next()) is not None:
                self._try(stands, piece)
        finally:
            stands.close()
            for doorman in started:
                doorman.kill()

    def tell(self) -> None:
        seconds = time.monotonic() - self.started
        batches = self.scenarios * TURNS_A_SCENARIO
        print(f"{batches} batches, {batches / seconds:.0f} a second, {self.findings} differences", flush=True)

    def _next(self) -> Piece | None:
        with self._lock:
            return next(self._work, None)

    def _try(self, stands: Stands, piece: Piece) -> None:
        first, end = piece.first, piece.first + piece.scenarios
        while first < end:
            doorman, oracle = stands.oracle(piece.part.setting)
            try:
                finding = oracle.hunt(self._seed, piece.part.profile, first, end - first, self._shrink_seconds)
            except (WireError, ServerError) as error:
                # PostgreSQL itself did not answer, or the pooler's clients have left something locked.
                with self._lock:
                    self.findings += 1
                print(f"somewhere in {piece}, the rest of which is left out: {error}{_crash(self._server)}", flush=True)
                stands.abandon(piece.part.setting)
                return
            done = end if finding is None else finding.number + 1
            with self._lock:
                self.scenarios += done - first
                if finding is not None:
                    self.findings += 1
                    report = finding.report(piece.part.setting)
                    print(f"{report}\n\nend of the pooler's log:\n{doorman.log_tail()}", flush=True)
            if finding is not None:
                oracle.end_pooled_backends()
            first = done


def _crash(server: Postgres) -> str:
    """What PostgreSQL said of its own accidents; they take all its connections with them."""
    said = server.log().splitlines()
    found = [number for number, line in enumerate(said) if "was terminated by signal" in line]
    return "".join(f"\n{line[:2000]}" for number in found[-1:] for line in said[number : number + 3])


def _wanted_parts(profile: str | None, setting: str | None) -> list[Part]:
    """Those of PARTS, or the one that was asked for, whether it is among them or not."""
    if profile is not None and setting is not None:
        return [Part(setting, profile, 1.0)]
    return [part for part in PARTS if profile in (None, part.profile) and setting in (None, part.setting)]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.support.oracle", description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, default=10_000, help=f"turns; {TURNS_A_SCENARIO} make a scenario")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--jobs", type=int, default=4, help="how many at the same time")
    parser.add_argument("--profile", choices=sorted(PROFILES))
    parser.add_argument("--setting", choices=sorted(SETTINGS))
    parser.add_argument("--first", type=int, default=0, help="number of the first scenario")
    parser.add_argument("--shrink-seconds", type=float, default=60.0, help="to make a difference small")
    chosen = parser.parse_args()
    parts = _wanted_parts(chosen.profile, chosen.setting)
    if not parts:
        parser.error(f"no part has profile {chosen.profile} in setting {chosen.setting}: give both")
    print(f"seed {chosen.seed}: {chosen.batches} batches, {chosen.jobs} at a time", flush=True)
    directory = Path(tempfile.mkdtemp(prefix="doorman-"))
    directory.chmod(0o755)
    work = pieces(parts, chosen.batches, chosen.first)
    try:
        with Postgres(17) as server:
            server.populate()
            hunt = Hunt(server, directory, chosen.seed, work, chosen.shrink_seconds)
            with ThreadPoolExecutor(chosen.jobs) as threads:
                jobs = [threads.submit(hunt.run, job) for job in range(chosen.jobs)]
                while wait(jobs, timeout=60).not_done:
                    hunt.tell()
                for done in jobs:
                    done.result()
            hunt.tell()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return 1 if hunt.findings else 0


if __name__ == "__main__":
    sys.exit(main())
