"""What a statement will do: SHOW and the courtesies are looked up, the verbs that change something are here.

Whoever has no `Control` (a stats user) is refused by each verb before anything else happens.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from pgdoorman.admin import courtesies, show
from pgdoorman.admin.flavour import BadArgument, Flavour, InvalidCommand, NotAllowed
from pgdoorman.admin.grammar import Order, Reset, Select, Set, Show, Statement
from pgdoorman.admin.masking import is_secret_key, masked_text
from pgdoorman.admin.plans import Asker, Outcome, Plan, Waiting
from pgdoorman.control import AlreadyPaused, Control, NotPaused, NotSupported, ReloadOutcome, ShutdownMode
from pgdoorman.protocol import results
from pgdoorman.protocol.results import Column

_logger: Final = logging.getLogger("pgdoorman.admin")

type _Run = Callable[[Control, Asker, str], Outcome | Waiting]


class _Argument:
    """How many words may stand behind a verb."""

    NONE: Final = (0, 0)
    OPTIONAL: Final = (0, 1)
    REQUIRED: Final = (1, 1)


@dataclass(frozen=True, slots=True)
class Verb:
    """One command: how it is written in the help, how many arguments it takes (least, most), what it does."""

    usage: str
    arity: tuple[int, int]
    run: _Run
    columns: tuple[Column, ...] | None = None
    """In PgDoorman's flavour; PgBouncer's verbs return no rows."""


def plan(statement: Statement, flavour: Flavour) -> Plan:
    """What this statement will do. Raises `InvalidCommand` if it is not known, `BadArgument` for its arguments."""
    match statement:
        case Show():
            return _show(statement, flavour)
        case Select():
            return _select(statement, flavour)
        case Set():
            return courtesies.set_setting(statement) or _set(statement)
        case Reset():
            return courtesies.reset_setting(statement.key) or _reset(statement)
        case Order():
            return courtesies.empty_order(statement) or _order(statement, flavour)


# --- looking ----------------------------------------------------------------------------------------------------------


def _show(statement: Show, flavour: Flavour) -> Plan:
    if statement.name == "HELP" and statement.argument is None:
        return show.help_plan(help_lines(), flavour)
    found = show.show_plan(statement.name, statement.argument, flavour)
    if found is None and statement.argument is None:
        found = courtesies.show_setting(statement.name)
    if found is None:
        raise InvalidCommand(
            statement.source,
            message="Unsupported SHOW query against the admin database",
            hint="Use SHOW HELP to see what can be shown.",
        )
    return found


def _select(statement: Select, flavour: Flavour) -> Plan:
    if courtesies.is_completion(statement):
        return courtesies.completion(statement, _names_to_show, _names_to_set)
    if courtesies.is_type_lookup(statement):
        return courtesies.no_types()
    if len(statement.tokens) == 1:
        found = show.show_plan(statement.tokens[0].text.upper(), None, flavour)
        if found is not None:
            return found
    found = courtesies.select(statement)
    if found is None:
        raise InvalidCommand(statement.source)
    return found


def _names_to_show(_asker: Asker) -> Iterable[str]:
    return (*show.NAMES, *courtesies.SESSION_SETTINGS)


def _names_to_set(asker: Asker) -> Iterable[str]:
    changeable = [row.key for row in asker.overview.config_rows() if row.changeable]
    return (*changeable, "log_level", "interner")


def help_lines() -> Sequence[str]:
    """What SHOW HELP says."""
    names = "|".join(sorted(show.NAMES))
    verbs = [verb.usage for verb in VERBS.values()]
    return (f"SHOW {names}", "SHOW INTERNER n", "SET key = value", "RESET key", "RESET INTERNER", *verbs)


# --- settings ---------------------------------------------------------------------------------------------------------


def _as_admin(asker: Asker, what: str) -> Control:
    if asker.control is None:
        raise NotAllowed(f"permission denied: {what} needs an admin user")
    return asker.control


def _set(statement: Set) -> Plan:
    key, value = statement.key, statement.value
    if value is None:
        return _reset(Reset(statement.source, key), tag="SET")

    def run(asker: Asker) -> Outcome:
        control = _as_admin(asker, "SET")
        _issued(asker, f"SET {key}")
        if key == "log_level":
            control.set_log_level(value)
        else:
            control.set_setting(key, value)
        shown = asker.flavour is Flavour.PGBOUNCER and not is_secret_key(key)
        return Outcome(f"SET {key}={value}" if shown else "SET")

    return Plan(run, verb="SET")


def _reset(statement: Reset, *, tag: str = "RESET") -> Plan:
    key = statement.key

    def run(asker: Asker) -> Outcome:
        control = _as_admin(asker, tag)
        _issued(asker, f"{tag} {key}")
        if key == "interner":
            control.reset_interner()
        elif key == "log_level":
            control.set_log_level("default")
        else:
            control.reset_setting(key)
        return Outcome(tag)

    return Plan(run, verb=tag)


# --- verbs ------------------------------------------------------------------------------------------------------------


def _order(order: Order, flavour: Flavour) -> Plan:
    verb = VERBS.get(order.verb)
    if verb is None:
        raise InvalidCommand(order.source)
    least, most = verb.arity
    if len(order.arguments) > most:
        raise InvalidCommand(order.source)
    if len(order.arguments) < least:
        raise BadArgument("a database is required" if order.verb != "KILL_CLIENT" else "a client id is required")
    target = order.arguments[0] if order.arguments else ""
    if order.verb == "SHUTDOWN":
        _shutdown_mode(target, flavour, order.source)

    def run(asker: Asker) -> Outcome | Waiting:
        control = _as_admin(asker, order.verb)
        _issued(asker, f"{order.verb} {target!r}" if target else order.verb)
        return verb.run(control, asker, target)

    with_rows = verb.columns is not None and flavour is Flavour.PGDOORMAN and not target
    return Plan(run, verb.columns if with_rows else None, verb=order.verb, target=target)


def _issued(asker: Asker, command: str) -> None:
    _logger.info("%s command issued by %s", command, asker.user)


def _reload(control: Control, _asker: Asker, _target: str) -> Waiting:
    return Waiting(control.reload(), _reloaded)


WAIT_FOR_RESTART: Final = "these settings wait for a restart: "
"""How the notice of RELOAD that names them begins."""

_MOST_CHANGES: Final = 500  # that are told one by one


def _reloaded(outcome: ReloadOutcome) -> Outcome:
    notices = [
        results.notice_response(masked_text(warning), severity="WARNING", sqlstate="01000")
        for warning in outcome.warnings
    ]
    notices += [results.notice_response(masked_text(change)) for change in outcome.changed[:_MOST_CHANGES]]
    if len(outcome.changed) > _MOST_CHANGES:
        notices.append(results.notice_response(f"and {len(outcome.changed) - _MOST_CHANGES} more changes"))
    if outcome.restart_needed:
        notices.append(results.notice_response(WAIT_FOR_RESTART + ", ".join(outcome.restart_needed)))
    return Outcome("RELOAD", notices=b"".join(notices))


def _pause(control: Control, asker: Asker, target: str) -> Outcome | Waiting:
    if asker.flavour is Flavour.PGDOORMAN:
        # PgDoorman's PAUSE only shuts the gate: it answers at once, and twice does no harm.
        try:
            control.pause(target or None)
        except AlreadyPaused:
            pass
        return Outcome("PAUSE")

    def resume() -> None:
        try:
            control.resume(target or None)
        except NotPaused:
            pass

    return Waiting(control.pause(target or None), lambda _result: Outcome("PAUSE"), undo=resume)


def _resume(control: Control, asker: Asker, target: str) -> Outcome:
    try:
        control.resume(target or None)
    except NotPaused:
        if asker.flavour is not Flavour.PGDOORMAN:
            raise
    return Outcome("RESUME")


def _reconnect(control: Control, _asker: Asker, target: str) -> Outcome:
    control.reconnect(target or None)
    return Outcome("RECONNECT")


def _wait_close(control: Control, _asker: Asker, target: str) -> Waiting:
    return Waiting(control.when_closed(target or None), lambda _result: Outcome("WAIT_CLOSE"))


def _kill(control: Control, _asker: Asker, target: str) -> Outcome:
    control.kill(target or None)
    return Outcome("KILL")


def _kill_client(control: Control, _asker: Asker, target: str) -> Outcome:
    # As SHOW CLIENTS prints it in either flavour. Digits with something behind them are refused, though PgBouncer would
    # take the digits: a client that is closed by mistake is worse than an error.
    digits = target.removeprefix("#c")
    if not (digits.isascii() and digits.isdigit() and len(digits) < 20):
        raise BadArgument("invalid client pointer supplied")
    control.kill_client(int(digits))
    return Outcome("KILL_CLIENT")


def _disable(control: Control, _asker: Asker, target: str) -> Outcome:
    control.disable(target)
    return Outcome("DISABLE")


def _enable(control: Control, _asker: Asker, target: str) -> Outcome:
    control.enable(target)
    return Outcome("ENABLE")


def _suspend(_control: Control, _asker: Asker, _target: str) -> Outcome:
    raise NotSupported(
        "SUSPEND is not supported: sockets are not handed over through the console",
        hint="Use PAUSE to stop queries, or UPGRADE to change to a new process.",
    )


_SHUTDOWN_MODES: Final = {
    "WAIT_FOR_SERVERS": ShutdownMode.WAIT_FOR_SERVERS,
    "WAIT_FOR_CLIENTS": ShutdownMode.WAIT_FOR_CLIENTS,
}


def _shutdown_mode(target: str, flavour: Flavour, source: str) -> ShutdownMode:
    if not target:
        return ShutdownMode.AT_ONCE if flavour is Flavour.PGBOUNCER else ShutdownMode.GRACEFUL
    if flavour is Flavour.PGDOORMAN and target.upper() == "IMMEDIATE":
        return ShutdownMode.AT_ONCE
    if target.upper() not in _SHUTDOWN_MODES:
        raise InvalidCommand(source)
    return _SHUTDOWN_MODES[target.upper()]


def _shutdown(control: Control, asker: Asker, target: str) -> Outcome:
    mode = _shutdown_mode(target, asker.flavour, f"SHUTDOWN {target}")
    control.shutdown(mode)
    if target and mode is not ShutdownMode.AT_ONCE:
        return Outcome("SHUTDOWN")
    # PgBouncer says nothing more; PgDoorman answers a row first.
    if asker.flavour is Flavour.PGBOUNCER or target:
        return Outcome("SHUTDOWN", close=True)
    return Outcome("SHUTDOWN", [("t",)])


def _upgrade(control: Control, asker: Asker, _target: str) -> Waiting:
    rows = [("t",)] if asker.flavour is Flavour.PGDOORMAN else []
    return Waiting(control.upgrade(), lambda _result: Outcome("UPGRADE", rows))


_SUCCESS: Final = (Column("success"),)

VERBS: Final[dict[str, Verb]] = {
    "RELOAD": Verb("RELOAD", _Argument.NONE, _reload),
    "PAUSE": Verb("PAUSE [db]", _Argument.OPTIONAL, _pause),
    "RESUME": Verb("RESUME [db]", _Argument.OPTIONAL, _resume),
    "RECONNECT": Verb("RECONNECT [db]", _Argument.OPTIONAL, _reconnect),
    "WAIT_CLOSE": Verb("WAIT_CLOSE [db]", _Argument.OPTIONAL, _wait_close),
    "KILL": Verb("KILL [db]", _Argument.OPTIONAL, _kill),
    "KILL_CLIENT": Verb("KILL_CLIENT id", _Argument.REQUIRED, _kill_client),
    "DISABLE": Verb("DISABLE db", _Argument.REQUIRED, _disable),
    "ENABLE": Verb("ENABLE db", _Argument.REQUIRED, _enable),
    "SUSPEND": Verb("SUSPEND", _Argument.NONE, _suspend),
    "SHUTDOWN": Verb("SHUTDOWN [WAIT_FOR_SERVERS|WAIT_FOR_CLIENTS]", _Argument.OPTIONAL, _shutdown, _SUCCESS),
    "UPGRADE": Verb("UPGRADE", _Argument.NONE, _upgrade, _SUCCESS),
}
