"""`pgdoorman generate`: a configuration out of a live PostgreSQL, out of PgBouncer's files, or with every key in it."""

import secrets
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pgdoorman.cli.draft import Draft, DraftError, PoolDraft, languages
from pgdoorman.cli.files import create_file, replace_file
from pgdoorman.cli.from_pgbouncer import convert
from pgdoorman.cli.sql_client import SqlClient, quoted_name
from pgdoorman.config.keys import Feature, is_available
from pgdoorman.config.load import load_text
from pgdoorman.config.reference import reference_file
from pgdoorman.config.settings import ServerTlsMode
from pgdoorman.errors import BackendRefused, ConfigError, PgDoormanError
from pgdoorman.transport.connect import Address

EX_CONFIG = 78
EX_UNAVAILABLE = 69
EX_CANTCREAT = 73

_SUPERUSER_ONLY = "42501"  # insufficient_privilege

LOOKUP = "public.pgdoorman_lookup"
"""The function through which a role that may not read pg_authid looks users up; with its schema, since look-ups have none but
pg_catalog on their search_path."""

_LOOKUP_SQL = f"""\
create function {LOOKUP}(name text, out usename name, out passwd text)
  language sql security definer set search_path = pg_catalog as
  $$ select usename, passwd from pg_shadow where usename = name $$;
revoke all on function {LOOKUP}(text) from public;
grant execute on function {LOOKUP}(text) to {{role}};"""  # noqa: S608 - the name is ours


@dataclass(frozen=True, slots=True)
class GenerateOptions:
    """What the command line says. `server_host` is what goes into the file, where that is not `host`."""

    host: str
    port: int
    user: str
    password: str | None
    database: str | None
    tls: bool = False
    pool_size: int = 40
    session_mode: bool = False
    server_host: str | None = None
    comments: bool = True


@dataclass(frozen=True, slots=True)
class Found:
    """What a server holds. Secrets are as `pg_authid` has them; `roles` is empty where we may not read them."""

    version: str
    databases: tuple[tuple[str, frozenset[str]], ...]
    """Each with the roles that may connect to it."""
    secrets: dict[str, str | None]
    may_read: bool


def language_of(chosen: str | None, output: Path | None) -> str:
    """The flag, else the ending of the output's name, else YAML. Raises ValueError for a word that is none."""
    if chosen is not None:
        if chosen.lower() not in ("toml", "yaml"):
            raise ValueError(f"{chosen!r} is no format; there are toml and yaml")
        return chosen.lower()
    return languages().get(output.suffix.lower(), "yaml") if output is not None else "yaml"


@dataclass(frozen=True, slots=True)
class Destination:
    """Where it goes: a file, or standard output for None. One that is there is written over only with `force`."""

    output: Path | None
    language: str
    force: bool = False

    def is_free(self) -> bool:
        """Whether it may be written; says so if not."""
        path = self.output
        if path is None or self.force or not path.is_file() or not path.stat().st_size:
            return True
        print(
            f"pgdoorman: {path} is there already, and was left alone: write over it with --force, or change keys of it with "
            "pgdoorman config set",
            file=sys.stderr,
        )
        return False


def reference(destination: Destination) -> int:
    """Every key with its default."""
    return _deliver(reference_file(destination.language), destination)


def from_pgbouncer(ini: Path, destination: Destination, *, comments: bool) -> int:
    """What a pgbouncer.ini means, as far as there is a word for it here; the rest is named in comments and on stderr."""
    try:
        draft, notes = convert(ini)
    except ConfigError as error:
        print(f"pgdoorman: {error}", file=sys.stderr)
        return EX_CONFIG
    code = _checked(draft, destination, comments=comments)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    return code


def from_server(options: GenerateOptions, destination: Destination) -> int:
    """What a server's roles and databases amount to."""
    try:
        with SqlClient.log_in(
            Address(options.host, options.port),
            options.user,
            options.password,
            options.database or options.user,
            tls=ServerTlsMode.REQUIRE if options.tls else ServerTlsMode.PREFER,
        ) as client:
            found = look(client)
    except PgDoormanError as error:
        print(f"pgdoorman: {error}", file=sys.stderr)
        return EX_UNAVAILABLE
    if not found.may_read and not is_available(Feature.AUTH_QUERY):
        print(f"pgdoorman: {options.user} may not read pg_authid, so nobody's password is known", file=sys.stderr)
        return EX_UNAVAILABLE
    draft, notes = draft_of(found, options)
    code = _checked(draft, destination, comments=options.comments)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    return code


def look(client: SqlClient) -> Found:
    """Roles and databases. Raises BackendRefused for whatever is wrong beyond missing rights on pg_shadow."""
    version = client.ask("show server_version").rows[0][0] or ""
    stored: dict[str, str | None] = {}
    may_read = True
    try:
        rows = client.ask("select usename, passwd from pg_catalog.pg_shadow order by usename").rows
        stored = {str(name): secret for name, secret in rows}
    except BackendRefused as refused:
        if refused.sqlstate_of_server != _SUPERUSER_ONLY:
            raise
        may_read = False
    rows = client.ask(
        "select d.datname, r.rolname from pg_catalog.pg_database d left join pg_catalog.pg_roles r"
        " on r.rolcanlogin and pg_catalog.has_database_privilege(r.oid, d.oid, 'connect')"
        " where not d.datistemplate and d.datallowconn order by 1, 2"
    ).rows
    databases: dict[str, set[str]] = {}
    for database, role in rows:
        databases.setdefault(str(database), set()).update([role] if role else [])
    return Found(version, tuple((name, frozenset(roles)) for name, roles in databases.items()), stored, may_read)


def draft_of(found: Found, options: GenerateOptions) -> tuple[Draft, list[str]]:
    """The file, and what has to be said about it."""
    notes: list[str] = []
    draft = Draft(
        [
            f"Made by `pgdoorman generate` from the PostgreSQL {found.version} at {options.host}:{options.port}.",
            "Start it with: pgdoorman FILE. After a change: pgdoorman reload. Every key: pgdoorman generate --reference.",
        ]
    )
    general = draft.general
    general.put("host", "0.0.0.0")
    general.put("port", 6432)
    general.put("admin_username", "admin")
    general.put("admin_password", secrets.token_urlsafe(18))
    if options.session_mode:
        general.put("pool_mode", "session")
    if options.tls:
        general.put("server_tls_mode", str(ServerTlsMode.REQUIRE))
    # Not trust, though PgDoorman writes that: what a client proves is what we log in to PostgreSQL with.
    general.put("pg_hba", LOCAL_ONLY)
    general.note("Only clients of this machine are let in. For others add lines such as: host all all 10.0.0.0/8 md5")
    if not found.may_read:
        notes.append(
            f"{options.user} may not read pg_authid: users are looked up by auth_query; have a superuser run this in "
            f"{options.database or options.user}:\n" + _LOOKUP_SQL.format(role=quoted_name(options.user))
        )
        draft.head += ["", f"In {options.database or options.user} a superuser has to run:"]
        draft.head += _LOOKUP_SQL.format(role=quoted_name(options.user)).splitlines()
    without_secret = sorted(name for name, secret in found.secrets.items() if not secret)
    if without_secret:
        notes.append(f"left out, since they have no password: {', '.join(without_secret)}")
    for database, roles in found.databases:
        draft.pools[database] = _pool(database, roles, found, options, notes)
    return draft, notes


LOCAL_ONLY = """\
local all all md5
host all all 127.0.0.1/32 md5
host all all ::1/128 md5
"""


def _pool(database: str, roles: Iterable[str], found: Found, options: GenerateOptions, notes: list[str]) -> PoolDraft:
    pool = PoolDraft()
    pool.entries.put("server_host", options.server_host or options.host)
    pool.entries.put("server_port", options.port)
    if not found.may_read:
        lookup = pool.new_auth_query()
        lookup.put("query", f"select usename, passwd from {LOOKUP}($1)")  # noqa: S608 - the name is ours
        lookup.put("user", options.user)
        lookup.put("password", options.password or "")
        lookup.put("database", options.database or options.user)
        lookup.put("pool_size", options.pool_size)
        return pool
    for role in sorted(roles):
        secret = found.secrets.get(role)
        if not secret:
            continue
        user = pool.add_user()
        try:
            user.put("username", role)
            user.put("password", secret)
        except DraftError as error:
            pool.users.pop()
            notes.append(f"left out, {role} of {database}: {error}")
            continue
        user.put("pool_size", options.pool_size)
    return pool


# --- delivery ---------------------------------------------------------------------------------------------------------


def _checked(draft: Draft, destination: Destination, *, comments: bool) -> int:
    """Deliver it, and say so if it would not load: that is a defect of ours, but the file may be of use all the same."""
    text = draft.text(destination.language, comments=comments)
    code = _deliver(text, destination)
    output = destination.output
    file = str(output or f"generated.{destination.language}")
    try:
        load_text(text, file=file, folder=output.parent if output else Path("."))
    except ConfigError as error:
        print(f"pgdoorman: what was generated needs a hand:\n{error}", file=sys.stderr)
        return code or EX_CONFIG
    return code


def _deliver(text: str, destination: Destination) -> int:
    output = destination.output
    if output is None:
        print(text, end="")
        return 0
    try:
        _write(text, output)
    except OSError as error:
        print(f"pgdoorman: cannot write {output}: {error.strerror}", file=sys.stderr)
        return EX_CANTCREAT
    print(f"written to {output}", file=sys.stderr)
    return 0


def _write(text: str, output: Path) -> None:
    try:
        create_file(output, text)
    except FileExistsError:
        if output.is_file():
            replace_file(output, text.encode())
        else:  # /dev/stdout, a pipe
            output.write_text(text, encoding="utf-8")
