"""What a PgBouncer installation means in our words. What has no counterpart is told, never dropped in silence."""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pgdoorman.cli.draft import Draft, DraftError, Entries, PoolDraft, seconds
from pgdoorman.config.pgbouncer_ini import PgBouncerIni, read_ini, read_userlist
from pgdoorman.errors import ConfigError

# What PgBouncer does without being told, where we do otherwise. Everything else has the same default, or none.
_DEFAULTS: Mapping[str, str] = {
    "listen_port": "6432",
    "pool_mode": "session",
    "max_client_conn": "100",
    "default_pool_size": "20",
    "query_wait_timeout": "120",
    "server_lifetime": "3600",
    "server_idle_timeout": "600",
    "server_connect_timeout": "15",
    "server_login_retry": "15",
    "server_check_delay": "30",
    "unix_socket_dir": "/tmp",  # noqa: S108 - PgBouncer's place for it
    "unix_socket_mode": "0777",
    "auth_type": "md5",
}

_FOR_EVER = "7d"  # for limits that cannot be switched off here

_AUTH_QUERY = (
    "SELECT rolname, CASE WHEN rolvaliduntil < now() THEN NULL ELSE rolpassword END "
    "FROM pg_authid WHERE rolname=$1 AND rolcanlogin"
)


def _number(text: str) -> int:
    try:
        return int(text, 8) if text.startswith("0") and text.strip("01234567") == "" else int(text, 0)
    except ValueError:
        raise DraftError(f"{text!r} is no number") from None


def _flag(text: str) -> bool:
    return _number(text) != 0


def _time(text: str) -> str:
    try:
        return seconds(float(text))
    except ValueError:
        raise DraftError(f"{text!r} is no number of seconds") from None


def _limit(text: str) -> str:
    return _FOR_EVER if float(text or "0") == 0 else _time(text)


def _mode(text: str) -> str:
    return f"{_number(text) & 0o777:04o}"


def _whole(text: str) -> int:
    return round(float(text))


def _word(text: str) -> str:
    return text


def _addresses(text: str) -> str:
    return ",".join(part.strip() for part in text.split(",") if part.strip())


def _tls_mode(text: str) -> str:
    return {"prefer": "allow"}.get(text.lower(), text.lower())


# PgBouncer's key, ours, and how the value is to be read.
_GENERAL: tuple[tuple[str, str, Callable[[str], Any]], ...] = (
    ("listen_addr", "host", _addresses),
    ("listen_port", "port", _number),
    ("listen_backlog", "backlog", _number),
    ("so_reuseport", "so_reuseport", _flag),
    ("unix_socket_dir", "unix_socket_dir", _word),
    ("unix_socket_mode", "unix_socket_mode", _mode),
    ("pool_mode", "pool_mode", str.lower),
    ("max_client_conn", "max_connections", _number),
    ("max_user_client_connections", "max_user_client_connections", _number),
    ("max_db_client_connections", "max_db_client_connections", _number),
    ("query_wait_timeout", "query_wait_timeout", _limit),
    ("query_timeout", "query_timeout", _time),
    ("transaction_timeout", "transaction_timeout", _time),
    ("idle_transaction_timeout", "idle_transaction_timeout", _time),
    ("client_idle_timeout", "client_idle_timeout", _time),
    ("client_login_timeout", "client_login_timeout", _time),
    ("cancel_wait_timeout", "cancel_wait_timeout", _time),
    ("server_connect_timeout", "connect_timeout", _limit),
    ("server_idle_timeout", "idle_timeout", _time),
    ("server_lifetime", "server_lifetime", _time),
    ("server_login_retry", "server_login_retry", _time),
    ("server_check_delay", "server_idle_check_timeout", _time),
    ("server_round_robin", "server_round_robin", _flag),
    ("server_reset_query_always", "server_reset_always", _flag),
    ("scram_iterations", "scram_iterations", _number),
    ("tcp_keepidle", "tcp_keepalives_idle", _number),
    ("tcp_keepintvl", "tcp_keepalives_interval", _number),
    ("tcp_keepcnt", "tcp_keepalives_count", _number),
    ("log_connections", "log_client_connections", _flag),
    ("log_disconnections", "log_client_disconnections", _flag),
    ("log_stats", "log_stats", _flag),
    ("pidfile", "daemon_pid_file", _word),
    ("user", "user", _word),
    ("client_tls_sslmode", "tls_mode", _tls_mode),
    ("client_tls_cert_file", "tls_certificate", _word),
    ("client_tls_key_file", "tls_private_key", _word),
    ("client_tls_ca_file", "tls_ca_cert", _word),
    ("server_tls_sslmode", "server_tls_mode", str.lower),
    ("server_tls_ca_file", "server_tls_ca_cert", _word),
    ("server_tls_cert_file", "server_tls_certificate", _word),
    ("server_tls_key_file", "server_tls_private_key", _word),
)

# 0 means "the kernel's own" there, and is out of range here.
_ZERO_IS_UNSET = frozenset({"tcp_keepidle", "tcp_keepintvl", "tcp_keepcnt", "client_tls_ca_file"})

_DATABASE: tuple[tuple[str, str, Callable[[str], Any]], ...] = (
    ("dbname", "server_database", _word),
    ("pool_mode", "pool_mode", str.lower),
    ("max_db_connections", "max_db_connections", _number),
    ("max_db_client_connections", "max_db_client_connections", _number),
    ("server_lifetime", "server_lifetime", _time),
    ("query_wait_timeout", "query_wait_timeout", _limit),
    ("application_name", "application_name", _word),
)

_USER: tuple[tuple[str, str, Callable[[str], Any]], ...] = (
    ("pool_mode", "pool_mode", str.lower),
    ("max_user_client_connections", "max_user_client_connections", _number),
    ("query_timeout", "query_timeout", _time),
    ("query_wait_timeout", "query_wait_timeout", _limit),
    ("transaction_timeout", "transaction_timeout", _time),
    ("idle_transaction_timeout", "idle_transaction_timeout", _time),
    ("client_idle_timeout", "client_idle_timeout", _time),
)

# Handled apart, or the same here without a word.
_APART = frozenset(
    {
        "admin_users", "auth_type", "auth_file", "auth_hba_file", "auth_ident_file", "auth_query", "auth_user",
        "default_pool_size",
        "min_pool_size", "reserve_pool_size", "reserve_pool_timeout", "max_db_connections", "max_prepared_statements",
        "syslog", "syslog_ident", "auth_dbname",
    }
)  # fmt: skip
_NO_MATTER = {
    "ignore_startup_parameters": "start-up parameters are all understood",
    "track_extra_parameters": "all parameters follow their client",
    "server_reset_query": "backends are reset as far as they have been changed",
    "server_check_query": "idle backends are checked without a query of yours",
    "logfile": "lines go to stderr, journald or syslog",
    "stats_period": "periods are 15 s long",
    "peer_id": "one process uses all cores",
    "tcp_keepalive": "always on",
    "tcp_defer_accept": "has no counterpart",
    "pkt_buf": "has no counterpart",
    "sbuf_loopcnt": "has no counterpart",
    "job_name": "has no counterpart",
}


@dataclass(slots=True)
class _Conversion:
    ini: PgBouncerIni
    folder: Path
    draft: Draft
    notes: list[str] = field(default_factory=list)
    secrets: dict[str, str] = field(default_factory=dict)

    def setting(self, name: str) -> str:
        return self.ini.settings.get(name, _DEFAULTS.get(name, ""))

    def put(self, entries: Entries, name: str, value: Any, origin: str) -> None:
        """Have the key, or say why not."""
        entries.folder = self.folder
        try:
            entries.put(name, value)
        except DraftError as error:
            self.notes.append(f"not carried over: {origin} ({error})")

    def put_all(
        self,
        entries: Entries,
        given: Mapping[str, str],
        table: tuple[tuple[str, str, Callable[[str], Any]], ...],
        where: str,
    ) -> None:
        for theirs, ours, read in table:
            text = given.get(theirs, "")
            if not text or (theirs in _ZERO_IS_UNSET and text == "0"):
                continue
            origin = f"{where}{theirs} = {text}"
            try:
                value = read(text)
            except (DraftError, ValueError) as error:
                self.notes.append(f"not carried over: {origin} ({error})")
                continue
            self.put(entries, ours, value, origin)


def convert(path: Path) -> tuple[Draft, list[str]]:
    """The file in our words, and what has to be said about it. Raises ConfigError if PgBouncer's files cannot be read."""
    ini = read_ini(path)
    draft = Draft(
        [
            f"Made by `pgdoorman generate --from-pgbouncer {path.name}`.",
            "Check it with: pgdoorman check FILE. Every key: pgdoorman generate --reference.",
        ]
    )
    work = _Conversion(ini, path.parent, draft)
    _users_known(work)
    _general(work)
    for name, pairs in ini.databases.items():
        if name == "*":
            work.notes.append("not carried over: the database *; every database needs a section of its own")
        else:
            draft.pools[name] = _pool(work, name, pairs)
    if ini.peers:
        work.notes.append("not carried over: [peers]; one process uses all cores")
    if work.notes:
        draft.head += ["", *(f"- {note}" for note in work.notes)]
    return draft, work.notes


def _users_known(work: _Conversion) -> None:
    named = work.setting("auth_file")
    if not named:
        return
    beside = work.folder / named
    file = beside if beside.exists() else Path(named)
    try:
        work.secrets = read_userlist(file)
    except ConfigError as error:
        work.notes.append(f"auth_file: {error}")


def _general(work: _Conversion) -> None:
    general, settings = work.draft.general, work.ini.settings
    listens = settings.get("listen_addr", "").strip()
    merged = {**_DEFAULTS, **settings}
    if not listens:
        merged["listen_addr"] = "127.0.0.1"
        work.notes.append("listen_addr is empty: PgBouncer listens on its unix socket only, this file on 127.0.0.1 too")
    if merged["unix_socket_dir"].startswith("@"):
        work.notes.append("not carried over: an abstract unix_socket_dir")
        del merged["unix_socket_dir"]
    _admin(work)
    work.put_all(general, merged, _GENERAL, "")
    statements = _number(settings.get("max_prepared_statements", "200"))
    if statements:
        work.put(general, "server_prepared_statements_cache_size", statements, "max_prepared_statements")
    else:
        work.put(general, "prepared_statements", False, "max_prepared_statements = 0")
    if _flag(settings.get("syslog", "0")):
        work.put(general, "syslog_prog_name", settings.get("syslog_ident", "pgbouncer"), "syslog_ident")
    _rules(work)
    handled = {theirs for theirs, _, _ in _GENERAL} | _APART
    for name, value in settings.items():
        if name not in handled and value:
            work.notes.append(f"not carried over: {name} = {value} ({_NO_MATTER.get(name, 'has no counterpart')})")


def _admin(work: _Conversion) -> None:
    admins = [name.strip() for name in work.setting("admin_users").split(",") if name.strip()]
    name = admins[0] if admins else "admin"
    secret = work.secrets.get(name, "")
    if len(admins) > 1:
        work.notes.append(f"of admin_users only the first is carried over: {name}")
    if not secret:
        secret = secrets.token_urlsafe(18)
        work.notes.append(f"the console's user {name} has a new password; it stands in the file")
    work.put(work.draft.general, "admin_username", name, "admin_users")
    work.put(work.draft.general, "admin_password", secret, "admin_users")


def _rules(work: _Conversion) -> None:
    if work.setting("auth_ident_file"):
        work.put(work.draft.general, "pg_ident", {"path": work.setting("auth_ident_file")}, "auth_ident_file")
    kind = work.setting("auth_type").lower()
    if kind == "hba":
        work.put(work.draft.general, "pg_hba", {"path": work.setting("auth_hba_file")}, "auth_hba_file")
        return
    method = {"any": "trust", "plain": "password"}.get(kind, kind)
    if kind == "any":
        work.notes.append("auth_type = any: users that are not named in the file cannot log in")
    if kind in ("pam", "ldap", "cert"):
        work.notes.append(f"auth_type = {kind}: see that the rules in pg_hba have the options that it needs")
    line = "hostssl all all all cert" if kind == "cert" else f"host all all all {method}"
    local = "" if kind == "cert" else f"local all all {method}\n"
    work.put(work.draft.general, "pg_hba", f"{local}{line}\n", f"auth_type = {kind}")


def _pool(work: _Conversion, name: str, pairs: Mapping[str, str]) -> PoolDraft:
    pool = PoolDraft()
    where = f"{name}: "
    host = pairs.get("host", "") or work.setting("unix_socket_dir")
    if "," in host:
        work.notes.append(f"{where}of the hosts {host} only the first is carried over")
        host = host.split(",", 1)[0]
    work.put(pool.entries, "server_host", host, where + "host")
    work.put(pool.entries, "server_port", _number(pairs.get("port", "5432")), where + "port")
    limits = {key: value for key in ("max_db_connections",) if (value := pairs.get(key) or work.setting(key))}
    work.put_all(pool.entries, {**pairs, **limits}, _DATABASE, where)
    reserve = pairs.get("reserve_pool_size") or pairs.get("reserve_pool") or work.setting("reserve_pool_size")
    if reserve and _number(reserve):
        if "max_db_connections" in pool.entries.values:
            work.put(pool.entries, "reserve_pool_size", _number(reserve), where + "reserve_pool_size")
            timeout = work.setting("reserve_pool_timeout") or "5"
            work.put(pool.entries, "reserve_pool_timeout", _time(timeout), where + "reserve_pool_timeout")
        else:
            work.notes.append(f"{where}not carried over: reserve_pool_size (it belongs to max_db_connections here)")
    parameters = {ours: pairs[ours] for ours in ("client_encoding", "datestyle", "timezone") if pairs.get(ours)}
    if parameters:
        work.put(pool.entries, "startup_parameters", parameters, where + ", ".join(parameters))
    if "connect_query" in pairs:
        work.notes.append(f"{where}not carried over: connect_query")
    _pool_users(work, pool, pairs, where)
    _lookup(work, pool, pairs, where)
    if not pool.users and pool.auth_query is None:
        work.notes.append(f"{where}nobody can log in: there is neither a user in auth_file nor an auth_query")
    return pool


def _pool_users(work: _Conversion, pool: PoolDraft, pairs: Mapping[str, str], where: str) -> None:
    forced = pairs.get("user", "")
    for name, secret in work.secrets.items():
        if not secret:
            continue  # as in PgBouncer such a user cannot prove anything
        given = work.ini.users.get(name, {})
        of_server = work.ini.users.get(forced, {}) if forced else given
        entries = pool.add_user()
        work.put(entries, "username", name, where + name)
        work.put(entries, "password", secret, f"{where}the password of {name}")
        size = of_server.get("pool_size") or pairs.get("pool_size") or work.setting("default_pool_size")
        if not _number(size):
            work.notes.append(f"{where}pool_size 0 means no limit there; it is 1000 here")
        work.put(entries, "pool_size", _number(size) or 1000, where + "pool_size")
        least = pairs.get("min_pool_size") or work.setting("min_pool_size")
        if least and _number(least):
            work.put(entries, "min_pool_size", min(_number(least), _number(size) or 1000), where + "min_pool_size")
        work.put_all(entries, given, _USER, f"{where}{name}: ")
        if forced:
            work.put(entries, "server_username", forced, where + "user")
            password = pairs.get("password") or work.secrets.get(forced, "")
            if password:
                work.put(entries, "server_password", password, where + "password")
        if {"username", "password"} - entries.values.keys():
            pool.users.pop()


def _lookup(work: _Conversion, pool: PoolDraft, pairs: Mapping[str, str], where: str) -> None:
    user = pairs.get("auth_user") or work.setting("auth_user")
    if not user:
        return
    entries = pool.new_auth_query()
    origin = where + "auth_user"
    work.put(entries, "query", pairs.get("auth_query") or work.setting("auth_query") or _AUTH_QUERY, origin)
    work.put(entries, "user", user, origin)
    work.put(entries, "password", work.secrets.get(user, ""), origin)
    database = pairs.get("auth_dbname") or work.setting("auth_dbname")
    if database:
        work.put(entries, "database", database, origin)
    size = pairs.get("pool_size") or work.setting("default_pool_size")
    work.put(entries, "pool_size", _number(size) or 1000, origin)
    forced = pairs.get("user", "")
    if forced:
        work.put(entries, "server_user", forced, where + "user")
        password = pairs.get("password") or work.secrets.get(forced, "")
        if password:
            work.put(entries, "server_password", password, where + "password")
    if "query" not in entries.values:
        pool.auth_query = None
