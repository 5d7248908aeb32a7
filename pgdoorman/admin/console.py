"""One session with the console: messages in, bytes out, no I/O.

    client room                                   Console
    -----------                                   -------
    after AuthenticationOk                        greeting() -> bytes
    each whole message                            receive(type, body) -> ConsoleReply
      reply.pending: stop feeding, and when
      it is done (any thread), on our own thread  settle() -> ConsoleReply
    CancelRequest with this session's key         cancel()
    the connection is gone                        close()

The simple and the extended protocol are both spoken (protocol chapter, "Message Flow"), so any driver can talk to it;
parameters there are none. Whatever goes wrong is an ErrorResponse with severity ERROR, and the session can go on.

A reply may take some milliseconds to make (10,000 clients in SHOW CLIENTS): feed a console where that delays nobody.
"""

import struct
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from pgdoorman.admin import grammar
from pgdoorman.admin.commands import plan
from pgdoorman.admin.flavour import PGBOUNCER_VERSION, Flavour, error_message
from pgdoorman.admin.plans import Asker, Outcome, Plan, Waiting
from pgdoorman.control import Completion, Control
from pgdoorman.errors import PgDoormanError, ProtocolViolation
from pgdoorman.protocol import codes, results
from pgdoorman.protocol.results import TEXT_FORMAT

MESSAGE_LIMIT: Final = 64 * 1024
"""Bytes that one message to the console may have; whoever frames the messages should refuse longer ones."""

_MOST_NAMES: Final = 1000  # prepared statements or portals of one session: someone who makes more has a leak


@dataclass(frozen=True, slots=True)
class ConsoleReply:
    """What to do now: send `data`; then close, or wait for `pending` and call `settle`, or feed the next message."""

    data: bytes = b""
    close: bool = False
    pending: Completion[Any] | None = None


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A prepared statement; None as plan is the empty query."""

    plan: Plan | None
    parameter_types: tuple[int, ...] = ()


@dataclass(slots=True)
class _Portal:
    """A statement that is bound, and what of its result has not been fetched."""

    plan: Plan | None
    formats: list[int]
    outcome: Outcome | None = None
    rows: deque[bytes] = field(default_factory=deque)


@dataclass(frozen=True, slots=True)
class _Running:
    """What a pending completion belongs to."""

    waiting: Waiting
    plan: Plan
    portal: _Portal | None  # None in the simple protocol
    row_limit: int = 0


class _CommandError(PgDoormanError):
    """An error of the session's own making: a statement or a portal that is not there."""

    severity = "ERROR"

    def __init__(self, message: str, sqlstate: str) -> None:
        super().__init__(message)
        self.code = sqlstate


class Console:
    """One session. Everything is called by the session's owner and by nobody else."""

    def __init__(self, control: Control, *, flavour: Flavour, user: str, admin: bool, process_id: int) -> None:
        """`admin` False means a stats user, who may only look. `process_id` is the one in BackendKeyData."""
        self._asker = Asker(
            overview=control,
            control=control if admin else None,
            flavour=flavour,
            user=user,
            database=flavour.value,
            process_id=process_id,
        )
        self._flavour = flavour
        self._script: deque[Plan] = deque()
        self._running: _Running | None = None
        self._statements: dict[str, _Prepared] = {}
        self._portals: dict[str, _Portal] = {}
        self._skipping = False  # to the next Sync, after an error in the extended protocol

    def greeting(self, secret: bytes, client_parameters: Mapping[str, str] | None = None) -> bytes:
        """What follows AuthenticationOk: ParameterStatus, BackendKeyData with this secret, ReadyForQuery.

        Of the parameters in the StartupMessage only application_name is reported back.
        """
        version = self._asker.overview.identity().version
        pgbouncer = self._flavour is Flavour.PGBOUNCER
        parameters = {
            "server_version": f"{PGBOUNCER_VERSION}/bouncer" if pgbouncer else f"{version}/pgdoorman",
            "client_encoding": "UTF8",
            "server_encoding": "UTF8",
            "DateStyle": "ISO" if pgbouncer else "ISO, MDY",
            "IntervalStyle": "postgres",
            "TimeZone": "GMT",
            "integer_datetimes": "on",
            "standard_conforming_strings": "on",
            "is_superuser": "on" if self._asker.admin else "off",
            "session_authorization": self._asker.user,
            "application_name": (client_parameters or {}).get("application_name", ""),
            # libpq decides by these two what target_session_attrs asks for, and would send queries without them.
            "default_transaction_read_only": "off",
            "in_hot_standby": "off",
        }
        statuses = [results.parameter_status(name, value) for name, value in parameters.items()]
        key = results.backend_key_data(self._asker.process_id, secret)
        return b"".join([*statuses, key, results.ready_for_query()])

    # --- what the owner calls -----------------------------------------------------------------------------------------

    def receive(self, message_type: int, body: bytes) -> ConsoleReply:
        """Answer one message. Must not be called while a reply is pending."""
        if self._running is not None:
            raise RuntimeError("a reply is pending")
        if message_type == codes.TERMINATE:
            return ConsoleReply(close=True)
        if self._skipping and message_type != codes.SYNC:
            return ConsoleReply()
        handler = self._HANDLERS.get(message_type)
        if handler is None:
            return self._unknown(message_type)
        try:
            return handler(self, body)
        except PgDoormanError as error:
            return self._refuse(error, in_extended=message_type not in _ENDED_BY_THEMSELVES)

    def settle(self) -> ConsoleReply:
        """Go on after the pending completion is done. After `close` there is nothing to say any more."""
        running = self._running
        if running is None:
            return ConsoleReply()
        if not running.waiting.completion.done:
            raise RuntimeError("the reply is still pending")
        self._running = None
        try:
            outcome = running.waiting.conclude(running.waiting.completion.result())
        except PgDoormanError as error:
            return self._refuse(error, running.plan, in_extended=running.portal is not None)
        if running.portal is None:
            return self._go_on(self._simple_result(running.plan, outcome), outcome)
        return self._fetch(running.portal, outcome, running.row_limit)

    def cancel(self) -> None:
        """A cancel request: what is pending ends with 57014, and a PAUSE that waits is taken back."""
        running = self._running
        if running is not None and running.waiting.completion.cancel() and running.waiting.undo is not None:
            running.waiting.undo()

    def close(self) -> None:
        """The connection is gone. What was asked for goes on; nobody will be told."""
        if self._running is not None:
            self._running.waiting.completion.cancel()
            self._running = None
        self._script.clear()
        self._statements.clear()
        self._portals.clear()

    # --- the simple protocol ------------------------------------------------------------------------------------------

    def _query(self, body: bytes) -> ConsoleReply:
        text, rest = _cut_string(body)
        _expect_end(rest)
        self._statements.pop("", None)  # a simple query ends the unnamed statement and portal
        self._portals.pop("", None)
        self._script.clear()
        self._script.extend(plan(statement, self._flavour) for statement in grammar.parse(text))
        if not self._script:
            return ConsoleReply(results.empty_query_response() + results.ready_for_query())
        return self._go_on(b"", None)

    def _go_on(self, data: bytes, outcome: Outcome | None) -> ConsoleReply:
        """Carry out what is left of the script."""
        parts = [data]
        while outcome is None or not outcome.close:
            if not self._script:
                parts.append(results.ready_for_query())
                return ConsoleReply(b"".join(parts))
            current = self._script.popleft()
            try:
                done = self._perform(current, None)
            except PgDoormanError as error:
                reply = self._refuse(error, current, in_extended=False)
                return ConsoleReply(b"".join([*parts, reply.data]))
            if isinstance(done, Completion):
                return ConsoleReply(b"".join(parts), pending=done)
            parts.append(self._simple_result(current, done))
            outcome = done
        return ConsoleReply(b"".join(parts), close=True)

    def _perform(self, current: Plan, portal: _Portal | None, row_limit: int = 0) -> Outcome | Completion[Any]:
        """Run a plan; one that has to wait, and has not ended yet, becomes what is running."""
        done = current.run(self._asker)
        if isinstance(done, Outcome):
            return done
        if done.completion.done:
            return done.conclude(done.completion.result())
        self._running = _Running(done, current, portal, row_limit)
        return done.completion

    def _simple_result(self, current: Plan, outcome: Outcome) -> bytes:
        if outcome.close:
            return outcome.notices
        parts = [outcome.notices]
        if current.columns is not None:
            parts.append(results.row_description(current.columns))
            parts.append(results.data_rows(current.columns, outcome.rows))
        parts.append(results.command_complete(outcome.tag))
        return b"".join(parts)

    # --- the extended protocol ----------------------------------------------------------------------------------------

    def _parse(self, body: bytes) -> ConsoleReply:
        name, rest = _cut_string(body)
        text, rest = _cut_string(rest)
        (count,), rest = _cut_numbers("!H", rest)
        types, rest = _cut_numbers(f"!{count}I", rest)
        _expect_end(rest)
        if name and name in self._statements:
            raise _CommandError(f'prepared statement "{name}" already exists', "42P05")
        statements = grammar.parse(text)
        if len(statements) > 1:
            raise _CommandError("cannot insert multiple commands into a prepared statement", "42601")
        _limit(self._statements)
        prepared = _Prepared(plan(statements[0], self._flavour) if statements else None, types)
        if types and (prepared.plan is None or not prepared.plan.takes_parameters):
            raise _CommandError("the console takes no parameters", "0A000")
        self._statements[name] = prepared
        return ConsoleReply(results.parse_complete())

    def _bind(self, body: bytes) -> ConsoleReply:
        portal_name, rest = _cut_string(body)
        name, rest = _cut_string(rest)
        (count,), rest = _cut_numbers("!H", rest)
        rest = rest[2 * count :]
        (values,), rest = _cut_numbers("!H", rest)
        prepared = self._statement(name)
        expected = len(prepared.parameter_types)
        if values != expected:
            raise ProtocolViolation(
                f'bind message supplies {values} parameters, but prepared statement "{name}" requires {expected}'
            )
        for _ in range(values):
            (length,), rest = _cut_numbers("!i", rest)
            rest = rest[max(0, length) :]
        (count,), rest = _cut_numbers("!H", rest)
        formats, rest = _cut_numbers(f"!{count}H", rest)
        _expect_end(rest)
        if portal_name and portal_name in self._portals:
            raise _CommandError(f'cursor "{portal_name}" already exists', "42P03")
        _limit(self._portals)
        self._portals[portal_name] = _Portal(prepared.plan, _formats(prepared.plan, formats))
        return ConsoleReply(results.bind_complete())

    def _describe(self, body: bytes) -> ConsoleReply:
        kind, name = _cut_kind(body)
        if kind == b"S":
            prepared = self._statement(name)
            types = results.parameter_description(prepared.parameter_types)
            return ConsoleReply(types + _described(prepared.plan, []))
        portal = self._portal(name)
        return ConsoleReply(_described(portal.plan, portal.formats))

    def _execute(self, body: bytes) -> ConsoleReply:
        name, rest = _cut_string(body)
        (row_limit,), rest = _cut_numbers("!i", rest)
        _expect_end(rest)
        portal = self._portal(name)
        if portal.plan is None:
            return ConsoleReply(results.empty_query_response())
        if portal.outcome is not None:
            if portal.plan.columns is None:
                raise _CommandError(f'portal "{name}" cannot be run', "55000")
            return ConsoleReply(self._next_rows(portal, portal.outcome, row_limit))
        try:
            done = self._perform(portal.plan, portal, row_limit)
        except PgDoormanError as error:
            return self._refuse(error, portal.plan, in_extended=True)
        if isinstance(done, Completion):
            return ConsoleReply(pending=done)
        return self._fetch(portal, done, row_limit)

    def _fetch(self, portal: _Portal, outcome: Outcome, row_limit: int) -> ConsoleReply:
        if outcome.close:
            return ConsoleReply(outcome.notices, close=True)
        portal.outcome = outcome
        columns = portal.plan.columns if portal.plan is not None else None
        if columns is not None:
            portal.rows.extend(results.data_rows(columns, [row], portal.formats) for row in outcome.rows)
        return ConsoleReply(outcome.notices + self._next_rows(portal, outcome, row_limit))

    def _next_rows(self, portal: _Portal, outcome: Outcome, row_limit: int) -> bytes:
        count = len(portal.rows) if row_limit <= 0 else min(row_limit, len(portal.rows))
        parts = [portal.rows.popleft() for _ in range(count)]
        parts.append(results.portal_suspended() if portal.rows else results.command_complete(outcome.tag))
        return b"".join(parts)

    def _close_name(self, body: bytes) -> ConsoleReply:
        kind, name = _cut_kind(body)
        (self._statements if kind == b"S" else self._portals).pop(name, None)  # closing what is not there is no error
        return ConsoleReply(results.close_complete())

    def _sync(self, body: bytes) -> ConsoleReply:
        self._skipping = False
        self._portals.clear()  # they live until the end of the transaction, and that is here
        _expect_end(body)
        return ConsoleReply(results.ready_for_query())

    def _flush(self, _body: bytes) -> ConsoleReply:
        return ConsoleReply()  # nothing is ever held back

    def _copy(self, _body: bytes) -> ConsoleReply:
        return ConsoleReply()  # outside of COPY these are ignored (protocol, "COPY Operations")

    def _function_call(self, _body: bytes) -> ConsoleReply:
        raise _CommandError("the console has no functions", "0A000")

    def _statement(self, name: str) -> _Prepared:
        if name not in self._statements:
            shown = f'prepared statement "{name}"' if name else "unnamed prepared statement"
            raise _CommandError(f"{shown} does not exist", "26000")
        return self._statements[name]

    def _portal(self, name: str) -> _Portal:
        if name not in self._portals:
            raise _CommandError(f'portal "{name}" does not exist', "34000")
        return self._portals[name]

    # --- errors -------------------------------------------------------------------------------------------------------

    def _refuse(self, error: PgDoormanError, current: Plan | None = None, *, in_extended: bool) -> ConsoleReply:
        self._script.clear()
        if isinstance(error, _CommandError):
            data = results.error_response(error.message, sqlstate=error.code)
        else:
            verb, target = (current.verb, current.target) if current is not None else ("", "")
            data = error_message(error, self._flavour, verb=verb, target=target)
        if in_extended:
            self._skipping = True
            return ConsoleReply(data)
        return ConsoleReply(data + results.ready_for_query())

    def _unknown(self, message_type: int) -> ConsoleReply:
        # Whatever this is, its sender and we do not speak the same language: PostgreSQL closes here too.
        text = f"invalid frontend message type {message_type}"
        return ConsoleReply(results.error_response(text, sqlstate="08P01", severity="FATAL"), close=True)

    _HANDLERS: ClassVar = {
        codes.QUERY: _query,
        codes.PARSE: _parse,
        codes.BIND: _bind,
        codes.DESCRIBE: _describe,
        codes.EXECUTE: _execute,
        codes.CLOSE: _close_name,
        codes.SYNC: _sync,
        codes.FLUSH: _flush,
        codes.FUNCTION_CALL: _function_call,
        codes.COPY_DATA: _copy,
        codes.COPY_DONE: _copy,
        codes.COPY_FAIL: _copy,
    }


# After an error in one of these ReadyForQuery follows at once, and not only after the next Sync.
_ENDED_BY_THEMSELVES: Final = frozenset({codes.QUERY, codes.FUNCTION_CALL, codes.SYNC})


def _described(described: Plan | None, formats: list[int]) -> bytes:
    if described is None or described.columns is None:
        return results.no_data()
    return results.row_description(described.columns, formats)


def _formats(bound: Plan | None, formats: tuple[int, ...]) -> list[int]:
    columns = len(bound.columns) if bound is not None and bound.columns is not None else 0
    if columns == 0:
        return [TEXT_FORMAT] * 0
    try:
        return list(results.expand_formats(formats, columns))
    except ValueError as error:
        raise ProtocolViolation(str(error)) from None


def _limit(names: Mapping[str, object]) -> None:
    if len(names) >= _MOST_NAMES:
        raise _CommandError("too many prepared statements or portals in one session", "54000")


# --- reading messages -------------------------------------------------------------------------------------------------


def _cut_string(data: bytes) -> tuple[str, bytes]:
    raw, terminator, rest = data.partition(b"\0")
    if not terminator:
        raise ProtocolViolation("invalid string in message")
    try:
        return raw.decode(), rest
    except UnicodeDecodeError:
        raise _CommandError('invalid byte sequence for encoding "UTF8"', "22021") from None


def _cut_numbers(layout: str, data: bytes) -> tuple[tuple[int, ...], bytes]:
    size = struct.calcsize(layout)
    if len(data) < size:
        raise ProtocolViolation("insufficient data left in message")
    return struct.unpack_from(layout, data), data[size:]


def _cut_kind(data: bytes) -> tuple[bytes, str]:
    kind = data[:1]
    if kind not in (b"S", b"P"):
        raise ProtocolViolation("invalid message subtype")
    name, rest = _cut_string(data[1:])
    _expect_end(rest)
    return kind, name


def _expect_end(rest: bytes) -> None:
    if rest:
        raise ProtocolViolation("invalid message format")
