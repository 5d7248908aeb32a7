"""The exchange: its table by example, and random pipelines with errors and COPYs against a small model of a server."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pgdoorman.protocol import exchange as ex
from pgdoorman.protocol.exchange import Exchange, Expected

KINDS: Final = {
    "Q": ex.QUERY,
    "S": ex.SYNC,
    "P": ex.PARSE,
    "B": ex.BIND,
    "D": ex.DESCRIBE_STATEMENT,
    "O": ex.DESCRIBE_PORTAL,
    "E": ex.EXECUTE,
    "C": ex.CLOSE,
}


class Noted:
    """An effect that tells what became of it."""

    def __init__(self, log: list[str], name: str) -> None:
        self.log = log
        self.name = name

    def happened(self) -> None:
        self.log.append(f"{self.name} happened")

    def failed(self) -> None:
        self.log.append(f"{self.name} failed")

    def skipped(self) -> None:
        self.log.append(f"{self.name} skipped")


def asked(exchange: Exchange, letters: str, log: list[str] | None = None) -> None:
    """Asks for each letter of KINDS, d and c (CopyData, CopyDone), H (nothing). With `log`, effects are named by letter
    and place."""
    for place, letter in enumerate(letters):
        if letter == "H":
            continue
        if letter in "cd":
            exchange.mark_copy_end() if letter == "c" else exchange.mark_copy_data()
            continue
        effect = Noted(log, f"{letter}{place}") if log is not None else None
        entry = Expected(KINDS[letter], effect=effect)
        if letter == "Q":
            exchange.ask_query(entry)
        else:
            exchange.ask(entry)


def answered(exchange: Exchange, letters: str) -> None:
    """Feeds answers as the relay's careful loop does; every one of them must be expected."""
    for letter in letters:
        hear(exchange, ord(letter))


def hear(exchange: Exchange, kind: int) -> Expected | None:
    """One answer. Returns the entry that it belongs to. Raises AssertionError if it is out of step."""
    head = exchange.entries[0] if exchange.entries else None
    if kind == ord("Z"):
        assert exchange.ready_expected, f"ReadyForQuery out of step: {exchange}"
        assert exchange.ready()
    elif kind == ord("E"):
        assert exchange.error() is head
    elif kind == ord("G"):
        exchange.copy_in_begins()
    else:
        assert head is not None, f"{chr(kind)} out of step: {exchange}"
        if exchange.unanswered_syncs and head.kind < ex.SYNC:
            exchange.begin_answer()
        if kind == ord("C") and exchange.copying:
            exchange.copy_ends()
        if head.kind > ex.SEGMENT and exchange.completes(kind):
            assert exchange.complete() is head
    return head


# The table of what ends what.


@pytest.mark.parametrize(
    ("letters", "answers"),
    [
        ("Q", "TDDCZ"),
        ("Q", "IZ"),
        ("Q", "TCTCCZ"),
        ("Q", "HdddcCZ"),
        ("Q", "EZ"),
        ("Q", "TDEZ"),
        ("Q", "GCZ"),
        ("Q", "VZ"),  # a FunctionCall
        ("PS", "1Z"),
        ("BS", "2Z"),
        ("DS", "tTZ"),
        ("DS", "tnZ"),
        ("OS", "TZ"),
        ("OS", "nZ"),
        ("ES", "DDCZ"),
        ("ES", "IZ"),
        ("ES", "DsZ"),
        ("ES", "HddcCZ"),
        ("CS", "3Z"),
        ("S", "Z"),
        ("S", "EZ"),  # the commit failed
        ("SSS", "ZZZ"),
        ("PBOES", "12TDCZ"),
        ("PBOES", "EZ"),
        ("PBOES", "1EZ"),
        ("PBOES", "12EZ"),
        ("PBOES", "12TDEZ"),
        ("PHBHEHS", "12CZ"),
        ("PSQ", "1ZCZ"),
        ("PSQ", "EZCZ"),
        ("QPS", "CZ1Z"),
        ("QPS", "EZ1Z"),
        ("PQ", "1CZ"),  # a Query needs no Sync
        ("PQS", "EZ"),  # but it is ignored like everything else
        ("PSBS", "EZ2Z"),
        ("PESBES", "1EZ2CZ"),
    ],
)
def test_each_order_of_messages_is_settled_by_its_answers(letters: str, answers: str) -> None:
    exchange = Exchange()
    asked(exchange, letters)
    for place, letter in enumerate(answers):
        assert not exchange.is_settled, f"settled before {answers[place:]}"
        hear(exchange, ord(letter))
    assert exchange.is_settled
    assert exchange.is_empty
    assert not exchange.careful


@pytest.mark.parametrize(
    ("letters", "answers"), [("PS", "2"), ("PS", "C"), ("BS", "1"), ("DS", "t"), ("ES", "D"), ("CS", "1"), ("S", "C")]
)
def test_what_does_not_complete_the_head(letters: str, answers: str) -> None:
    exchange = Exchange()
    asked(exchange, letters)
    assert not exchange.completes(ord(answers))
    assert not Exchange().completes(ord(answers))


def test_ready_out_of_step_is_refused() -> None:
    assert not Exchange().ready()
    assert not Exchange().ready_expected
    exchange = Exchange()
    asked(exchange, "PS")
    assert not exchange.ready_expected
    assert not exchange.ready()
    assert len(exchange.entries) == 2


def test_an_error_that_nobody_asked_for_answers_nothing() -> None:
    exchange = Exchange()
    assert exchange.error() is None
    assert exchange.is_settled


def test_effects_happen_in_order_with_their_answers() -> None:
    log: list[str] = []
    exchange = Exchange()
    asked(exchange, "PBCS", log)
    for answer, effect in zip("123Z", ("P0", "B1", "C2", "S3"), strict=True):
        assert not any(line.startswith(effect) for line in log)
        hear(exchange, ord(answer))
        assert log[-1] == f"{effect} happened"
    assert len(log) == 4


def test_what_is_behind_an_error_is_skipped_up_to_the_sync() -> None:
    log: list[str] = []
    exchange = Exchange()
    asked(exchange, "PBESP", log)
    answered(exchange, "1E")
    assert log == ["P0 happened", "B1 failed", "E2 skipped"]
    answered(exchange, "Z1")
    assert log[3:] == ["S3 happened", "P4 happened"]


def test_what_is_sent_while_the_server_skips_is_skipped_at_once() -> None:
    log: list[str] = []
    exchange = Exchange()
    asked(exchange, "P", log)
    answered(exchange, "E")
    assert exchange.skipping
    assert not exchange.is_settled
    log.clear()
    asked(exchange, "BEQC", log)
    assert log == ["B0 skipped", "E1 skipped", "Q2 skipped", "C3 skipped"]
    assert exchange.is_empty
    assert not exchange.is_settled
    asked(exchange, "SQ", log)
    assert not exchange.skipping
    answered(exchange, "ZCZ")
    assert log[4:] == ["S0 happened", "Q1 happened"]
    assert exchange.is_settled


def test_a_query_that_is_skipped_behind_an_error_in_flight() -> None:
    log: list[str] = []
    exchange = Exchange()
    asked(exchange, "PQPS", log)
    answered(exchange, "EZ")
    assert log == ["P0 failed", "Q1 skipped", "P2 skipped", "S3 happened"]
    assert exchange.is_settled


def test_a_failed_query_has_happened_all_the_same() -> None:
    """It drops the unnamed statement before anything in it can fail."""
    log: list[str] = []
    exchange = Exchange()
    asked(exchange, "Q", log)
    answered(exchange, "E")
    assert log == []
    answered(exchange, "Z")
    assert log == ["Q0 happened"]


def test_a_segment_is_one_entry() -> None:
    exchange = Exchange()
    exchange.entries.append(ex.A_SEGMENT)
    exchange.entries.append(ex.A_SEGMENT)
    assert not exchange.careful
    answered(exchange, "2TDCZ2EZ")
    assert exchange.is_settled


def test_errors_between_segments_and_careful_entries() -> None:
    log: list[str] = []
    exchange = Exchange()
    exchange.entries.append(ex.A_SEGMENT)
    asked(exchange, "PS", log)
    answered(exchange, "EZ1Z")
    assert log == ["P0 happened", "S1 happened"]
    assert exchange.is_settled


def test_the_backend_is_gone() -> None:
    log: list[str] = []
    exchange = Exchange()
    asked(exchange, "PQ", log)
    exchange.copying = True
    exchange.unanswered_syncs = 3
    exchange.clear()
    assert log == ["P0 skipped", "Q1 skipped"]
    assert exchange.is_settled
    assert not exchange.ready_expected
    exchange.clear()
    assert len(log) == 2


def test_whether_a_transaction_may_have_failed_meanwhile() -> None:
    exchange = Exchange()
    assert not exchange.awaits_ready
    asked(exchange, "PB")
    assert not exchange.awaits_ready
    asked(exchange, "S")
    assert exchange.awaits_ready
    exchange = Exchange()
    exchange.ask(ex.A_HIDDEN_SYNC)
    assert not exchange.awaits_ready
    exchange.ask_query()
    assert exchange.awaits_ready


class Unwalked(deque[Expected]):
    """A queue that nobody may walk through."""

    def __iter__(self) -> Iterator[Expected]:
        raise AssertionError("ten thousand Parses would each walk through all that was asked before them")


@pytest.mark.parametrize("kind", [ex.QUERY, ex.BIND])
def test_a_hidden_entry_that_is_shown_when_it_fails(kind: int) -> None:
    exchange = Exchange()
    entry = Expected(kind, hidden=True)
    if kind == ex.QUERY:
        exchange.ask_query(entry)
    else:
        exchange.ask(entry)
        exchange.ask(ex.A_SYNC)
    failed = exchange.error()
    assert failed is entry
    exchange.show(entry)
    assert exchange.awaits_ready
    assert exchange.ready()
    exchange.ask(ex.A_PARSE)
    assert not exchange.awaits_ready
    exchange.ask(ex.A_SYNC)
    assert exchange.awaits_ready


def test_a_long_pipeline_is_not_walked_through_for_each_of_its_messages() -> None:
    exchange = Exchange()
    exchange.entries = Unwalked()
    asked(exchange, "PBDE" * 10)
    assert not exchange.awaits_ready
    asked(exchange, "S")
    assert exchange.awaits_ready
    exchange.error()
    assert exchange.awaits_ready
    exchange.ready()
    assert not exchange.awaits_ready


def test_representations() -> None:
    exchange = Exchange()
    exchange.ask(ex.A_HIDDEN_CLOSE)
    exchange.ask(ex.A_BIND)
    assert repr(exchange) == "<Exchange [hidden Close, Bind] careful>"


# COPY from the client.


@pytest.mark.parametrize(
    "steps",
    [
        # > asked, < answered, ? settled, ! not settled
        ">Q <G >c <CZ ?",
        ">Q <G <EZ ?",
        ">QS <G >c <CZ ?",  # a Sync behind the Query is swallowed
        ">QS <G ! <EZ ! <Z ?",  # unless it came too late
        ">Qc <GCZ ?",  # everything at once
        ">Qcc <GCGCZ ?",  # two COPYs in one Query
        ">Qc <GCG >c <CZ ?",
        ">Q <G >c >S <CZZ ?",  # a Sync behind CopyDone is not
        ">Qc <EZ ?",  # the COPY did not begin
        ">PBES <12G ! >c ! >S <CZ ?",  # the Sync was swallowed: the server waits for another
        ">PBE <12G >c >S <CZ ?",
        ">PBE <12G >c <C ! >S <Z ?",
        ">PBEScS <12GCZ ?",
        ">PBEScS <12EZZ ?",  # it did not begin: both Syncs are answered
        ">PBESSScS <12GCZ ?",
        ">PBEcS <12GCZ ?",
        ">PBES <12G <E ! >S <Z ?",
        ">PBE <12G <E ! >c ! >S <Z ?",
        ">ES <G <E >c >S <Z ?",
        ">EScSPS <GCZ1Z ?",
        ">EScSPS <EZZ1Z ?",
        ">dddcccS <Z ?",  # strays
        ">EdddcS <GCZ ?",
        ">ESdcS <GCZ ?",
        ">ESdcS <EZZ ?",
        ">ESdcS <GEZ ?",  # a row failed
        ">EdScS <GEZ ! <Z ?",  # it failed before the first Sync, which was answered
        ">EdScS <GCZ ?",  # it did not, and the first Sync was swallowed
        ">QdS <GEZ ! <Z ?",
        ">QdSdc <GCZ ?",
        ">Qdcdc <GCGCZ ?",
        ">Qddc <EZ ?",
        ">QcS <CZZ ?",
        ">PBES <12CZ >c ? >Q <CZ ?",
    ],
)
def test_copy_swallows_the_syncs_before_its_end(steps: str) -> None:
    exchange = Exchange()
    for step in steps.split():
        if step[0] == ">":
            asked(exchange, step[1:])
        elif step[0] == "<":
            answered(exchange, step[1:])
        else:
            assert exchange.is_settled is (step == "?"), f"at {step} of {steps}: {exchange}"
    assert not exchange.careful
    assert not exchange.copying


def test_a_plain_copy_leaves_no_trace() -> None:
    """The relay's plain loop never asks; the flag must not outlive the COPY that it is about."""
    exchange = Exchange()
    exchange.entries.append(ex.A_QUERY)
    hear(exchange, ord("G"))
    assert exchange.careful, "the plain loop would not tell us that the COPY is over"
    exchange.mark_copy_end()
    answered(exchange, "CZ")
    assert not exchange.copying
    asked(exchange, "PBES")
    answered(exchange, "12CZ")
    assert exchange.is_settled


def test_a_segment_that_turns_out_to_be_a_copy() -> None:
    exchange = Exchange()
    exchange.entries.append(ex.A_SEGMENT)
    answered(exchange, "2G")
    assert exchange.unsynced, "its Sync was swallowed"
    asked(exchange, "cS")
    answered(exchange, "CZ")
    assert exchange.is_settled


def test_a_sync_in_the_data_of_a_copy_that_succeeds() -> None:
    exchange = Exchange()
    asked(exchange, "E")
    answered(exchange, "G")
    asked(exchange, "S")
    assert not exchange.is_settled
    asked(exchange, "cS")
    answered(exchange, "CZ")
    assert exchange.is_settled
    assert exchange.unanswered_syncs == 0


def test_a_sync_in_the_data_of_a_copy_that_had_failed() -> None:
    """It was answered; as soon as that is seen, all is clear again."""
    exchange = Exchange()
    asked(exchange, "E")
    answered(exchange, "G")
    asked(exchange, "S")
    answered(exchange, "E")
    assert not exchange.is_settled
    answered(exchange, "Z")
    assert exchange.is_settled
    assert not exchange.skipping
    log: list[str] = []
    asked(exchange, "PS", log)
    answered(exchange, "1Z")
    assert log == ["P0 happened", "S1 happened"]


def test_a_sync_in_the_data_of_a_copy_that_fails_stays_in_doubt() -> None:
    """Was the second ReadyForQuery sent, or will it never be? The backend cannot be given to anyone before that is known."""
    exchange = Exchange()
    asked(exchange, "E")
    answered(exchange, "G")
    asked(exchange, "S")
    asked(exchange, "cS")
    answered(exchange, "EZ")
    assert exchange.is_empty
    assert not exchange.is_settled
    assert exchange.unsynced
    answered(exchange, "Z")
    assert exchange.is_settled


# Random pipelines.


@dataclass(slots=True)
class Message:
    """What the client sends. `fails`: the server refuses it (for d: the row; for a Query with COPYs: what comes behind
    them). `copies`: how often it reads COPY data."""

    letter: str
    fails: bool = False
    copies: int = 0
    hidden: bool = False
    translated: bool = False
    amid: bool = False  # a Sync where no client puts one: in the data of a COPY, or directly behind its Query
    bare: bool = False  # a Query that nothing depends on
    plain: int = 0  # the length of the plain segment that begins here
    number: int = -1


@dataclass(slots=True)
class Server:
    """PostgreSQL's rules for what is answered, ignored and swallowed, from its own side."""

    skipping: bool = False
    waits_for_sync: bool = False
    copying: Message | None = None
    copies_left: int = 0
    fates: dict[int, str] = field(default_factory=dict)

    def take(self, message: Message) -> Iterator[tuple[str, Message]]:
        if self.copying is not None:
            yield from self._in_copy(self.copying, message)
        elif message.letter == "S":
            if message.fails and not self.skipping:
                yield "E", message
            self.skipping = self.waits_for_sync = False
            yield "Z", message
        elif message.letter in "Hdcf":
            pass
        elif self.skipping:
            self.fates[message.number] = "skipped"
        else:
            self.waits_for_sync = message.letter != "Q"
            if message.copies:
                self.copying, self.copies_left = message, message.copies
                yield "G", message
            elif message.fails:
                yield from self._fail(message)
            else:
                yield from self._succeed(message)

    def _in_copy(self, copy: Message, message: Message) -> Iterator[tuple[str, Message]]:
        if message.letter == "f" or (message.letter == "d" and message.fails):
            self.copying = None
            yield from self._fail(copy)
        elif message.letter == "c":
            self.copies_left -= 1
            if self.copies_left:
                yield "C", copy
                yield "G", copy
                return
            self.copying = None
            if copy.fails and copy.letter == "Q":
                yield "C", copy
                yield from self._fail(copy)
            else:
                yield from self._succeed(copy)
        else:
            assert message.letter in "dSH", f"{message.letter} would cut the connection"

    def _fail(self, message: Message) -> Iterator[tuple[str, Message]]:
        yield "E", message
        if message.letter == "Q":
            self.fates[message.number] = "happened"
            yield "Z", message
        else:
            self.fates[message.number] = "failed"
            self.skipping = True

    def _succeed(self, message: Message) -> Iterator[tuple[str, Message]]:
        self.fates[message.number] = "happened"
        answers = {"Q": "TDCZ", "P": "1", "B": "2", "D": "tT", "O": "n", "E": "DC", "C": "3"}
        for answer in "C" if message.copies and message.letter == "E" else answers[message.letter]:
            yield answer, message


class OutOfStep(Exception):
    """What the relay would close the connection for."""


class World:
    """A client, an exchange and a server, with messages under way between them."""

    def __init__(self, messages: list[Message], eager: bool) -> None:
        self.exchange = Exchange()
        self.server = Server()
        self.to_send = deque(messages)
        self.to_server: deque[Message] = deque()
        self.to_us: deque[tuple[str, Message]] = deque()
        self.eager = eager  # the relay leaves its plain loop late
        self.fates: dict[int, list[str]] = {}
        self.seen: list[tuple[str, int]] = []
        self.wanted: list[tuple[str, int]] = []
        self.in_doubt = False

    def moves(self) -> list[Callable[[], None]]:
        """What may happen next; first what lets nothing be under way for long."""
        possible: list[tuple[object, Callable[[], None]]] = [
            (self.to_us, self.receive),
            (self.to_server, self.serve),
            (self.to_send, self.send),
        ]
        return [move for there, move in possible if there]

    def check(self) -> None:
        exchange, server = self.exchange, self.server
        if exchange.is_settled:
            assert not self.to_us, f"settled with {self.to_us} under way"
            assert not server.skipping
            at_rest = all(message.letter in "Hdcf" for message in self.to_server)
            assert at_rest, f"settled with {self.to_server} under way"
            assert server.copying is None
            assert not server.waits_for_sync
        if exchange.skipping:
            assert exchange.unsynced
            assert exchange.is_empty
        if exchange.is_empty and not exchange.unsynced:
            assert exchange.is_settled, "the relay asks no more than these two"
        if not exchange.careful:
            assert all(entry.kind in (ex.QUERY, ex.SEGMENT) for entry in exchange.entries)
        assert exchange.awaits_ready == any(x.kind <= ex.SYNC and not x.hidden for x in exchange.entries), exchange

    # The client's side, as `client.serving` does it.

    def send(self) -> None:
        exchange = self.exchange
        message = self.to_send.popleft()
        sent = [message]
        if message.plain and not exchange.unsynced and not exchange.careful:
            sent += [self.to_send.popleft() for _ in range(message.plain - 1)]
            for part in sent:
                self.fates[part.number] = ["?"]
            exchange.entries.append(ex.A_SEGMENT)
        elif message.letter == "Q":
            self.fates[message.number] = []
            if message.bare and not exchange.unsynced and message.fails:
                exchange.entries.append(ex.A_QUERY)  # the hot path, which calls nothing
                self.fates[message.number] = ["?"]
            elif message.bare:
                exchange.ask_query()
                self.fates[message.number] = ["?"]
            else:
                exchange.ask_query(self._entry(message))
        elif message.letter in "cf":
            exchange.mark_copy_end()
        elif message.letter == "d":
            exchange.mark_copy_data()
        elif message.letter == "S":
            before = exchange.unanswered_syncs
            exchange.ask(Expected(ex.SYNC, hidden=message.hidden))
            self.in_doubt |= message.amid or exchange.unanswered_syncs > before
        elif message.letter != "H":
            self.fates[message.number] = []
            exchange.ask(self._entry(message))
        self.to_server += sent

    def _entry(self, message: Message) -> Expected:
        number, fates = message.number, self.fates

        class Fate:
            def happened(self) -> None:
                fates[number].append("happened")

            def failed(self) -> None:
                fates[number].append("failed")

            def skipped(self) -> None:
                fates[number].append("skipped")

        return Expected(
            KINDS[message.letter], hidden=message.hidden, reply=ord("1") if message.translated else 0, effect=Fate()
        )

    def serve(self) -> None:
        for answer, message in self.server.take(self.to_server.popleft()):
            self.to_us.append((answer, message))
            if not message.hidden or (answer == "E" and message.letter not in "QS"):
                shown = "1" if answer == "3" and message.translated else answer
                self.wanted.append((shown, message.number))

    # The server's answers, as `client.relay` treats them.

    def receive(self) -> None:
        answer, message = self.to_us.popleft()
        exchange = self.exchange
        if not exchange.careful and self.eager and answer not in "EG":
            if answer == "Z":
                if not exchange.entries:
                    raise OutOfStep(answer)
                exchange.entries.popleft()
            self.seen.append((answer, message.number))
            return
        try:
            head = hear(exchange, ord(answer))
        except AssertionError:
            raise OutOfStep(f"{answer} at {exchange}") from None
        hidden = head is not None and head.hidden
        if answer == "E":
            hidden = hidden and head is not None and head.kind <= ex.SYNC
        if not hidden:
            shown = chr(head.reply) if head is not None and head.reply and answer == "3" else answer
            self.seen.append((shown, message.number))


def _copied(begin: Message, syncs: int, parts: list[list[Message]]) -> list[Message]:
    begin.copies = len(parts)
    return [
        begin,
        *(Message("S", amid=begin.letter == "Q") for _ in range(syncs)),
        *(message for part in parts for message in part),
    ]


def _plain(messages: list[Message]) -> list[Message]:
    messages = [*messages, Message("E"), Message("S")]
    messages[0].plain = len(messages)
    return messages


def phrases(doubtful: bool) -> st.SearchStrategy[list[Message]]:
    """Messages that belong together. With `doubtful`, Syncs also stand in the middle of COPY data."""
    rarely = st.integers(0, 5).map(lambda number: number == 0)
    one = st.builds(Message, st.sampled_from("PBDOE"), fails=rarely, hidden=st.just(value=False))
    hidden_parse = st.builds(Message, st.just("P"), fails=rarely, hidden=st.just(value=True))
    close = st.builds(Message, st.just("C"), hidden=rarely, translated=st.booleans())
    sync = st.builds(Message, st.just("S"), fails=rarely, hidden=rarely)
    query = st.one_of(
        st.builds(Message, st.just("Q"), fails=rarely, hidden=rarely),
        st.builds(Message, st.just("Q"), fails=rarely, bare=st.just(value=True)),
    )
    flush = st.builds(Message, st.just("H"))
    row = st.builds(Message, st.just("d"), fails=rarely)
    amid = st.builds(Message, st.just("S"), amid=st.just(value=True))
    data = st.lists(st.one_of(row, row, row, flush, amid) if doubtful else st.one_of(row, row, flush), max_size=4)
    copied = st.builds(lambda rows, end: [*rows, end], data, st.builds(Message, st.sampled_from("ccf")))
    query_copy = st.builds(Message, st.just("Q"), fails=rarely)
    syncs = st.integers(0, 2)
    return st.one_of(
        st.one_of(one, one, sync, query, hidden_parse, close, flush, row).map(lambda message: [message]),
        st.builds(_copied, st.builds(Message, st.just("E")), syncs, st.lists(copied, min_size=1, max_size=1)),
        st.builds(_copied, query_copy, syncs, st.lists(copied, min_size=1, max_size=2)),
        # What could not begin: the data runs into nothing.
        st.builds(
            lambda begin, rows: [begin, *rows], st.builds(Message, st.just("E"), fails=st.just(value=True)), copied
        ),
        st.lists(st.builds(Message, st.sampled_from("BO"), fails=rarely), max_size=2).map(_plain),
    )


def pipelines(*, doubtful: bool) -> st.SearchStrategy[list[Message]]:
    def numbered(groups: list[list[Message]]) -> list[Message]:
        messages = [message for group in groups for message in group]
        for number, message in enumerate(messages):
            message.number = number
        return messages

    return st.lists(phrases(doubtful), max_size=12).map(numbered)


def play(world: World, schedule: list[int]) -> None:
    """Everything that is to happen, in an order that `schedule` decides. A client that sends nothing but CopyData while
    a COPY goes on sends the rest when it is over; a server never waits."""
    turns = iter(schedule)
    while moves := world.moves():
        moves[next(turns, 0) % len(moves)]()
        world.check()


SCHEDULES = st.lists(st.integers(0, 5), max_size=60)


@given(pipelines(doubtful=False), SCHEDULES, st.booleans())
def test_random_pipelines(messages: list[Message], schedule: list[int], eager: bool) -> None:
    world = World(messages, eager)
    play(world, schedule)
    server, exchange = world.server, world.exchange
    assert world.seen == world.wanted
    assert exchange.is_empty
    assume(not world.in_doubt)  # a Sync came just behind CopyInResponse: see the next test
    assert exchange.is_settled == (not server.skipping and not server.waits_for_sync)
    assert exchange.skipping == server.skipping
    for number, fates in world.fates.items():
        if fates != ["?"]:
            assert fates == [server.fates[number]], f"of message {number}"
    # A last Sync settles whatever was left open.
    world.to_send.append(Message("S", number=len(messages)))
    play(world, [])
    assert exchange.is_settled
    assert exchange.unanswered_syncs == 0
    assert not exchange.careful
    assert not exchange.copying


@given(pipelines(doubtful=True), SCHEDULES, st.booleans())
def test_a_sync_in_copy_data_never_settles_too_early(messages: list[Message], schedule: list[int], eager: bool) -> None:
    """`World.check` sees to that. Nobody can tell what becomes of such a Sync; being cut off is the worst that may happen."""
    world = World(messages, eager)
    try:
        play(world, schedule)
    except OutOfStep:
        assert world.in_doubt
        return
    if not world.in_doubt:
        assert world.exchange.is_settled == (not world.server.skipping and not world.server.waits_for_sync)
