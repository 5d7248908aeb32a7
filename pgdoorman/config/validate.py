"""The rules that hold between keys. What one key may hold is its kind's business."""

import binascii
import re
from collections.abc import Iterable

from pgdoorman.config.document import Path
from pgdoorman.config.findings import Findings
from pgdoorman.config.keys import Feature, is_available
from pgdoorman.config.settings import (
    AuthQuerySettings,
    GeneralSettings,
    Parameters,
    PoolSettings,
    Secret,
    ServerTlsMode,
    Settings,
    TlsVersion,
    UserPoolSettings,
    UserSettings,
    merge_parameters,
)
from pgdoorman.config.startup_parameters import LONGEST_BODY, LONGEST_MESSAGE, encoded_length, message_length

_GENERAL: Path = ("general",)
_SCRAM = re.compile(r"SCRAM-SHA-256\$[1-9][0-9]{0,8}:([^$:]+)\$([^$:]+):([^$:]+)")
_MD5 = re.compile(r"md5[0-9a-f]{32}")
# The longest path that fits sockaddr_un with its zero byte, on Linux.
_LONGEST_SOCKET = 107
_ADMIN_DATABASES = ("pgdoorman", "pgbouncer")


def validate(settings: Settings, findings: Findings) -> None:
    """Adds to `findings` whatever does not go together in `settings`."""
    _general(settings.general, findings)
    if not all(settings.web.hosts):
        findings.forbid("an address in the list is empty", ("web", "host"))
    if not settings.pools:
        findings.warn("there is no pool: nobody but the admin can log in", ("pools",))
    for pool in settings.pools.values():
        _pool(settings, pool, findings)


def _general(general: GeneralSettings, findings: Findings) -> None:
    _statement_caches(general.prepared_statements, general.prepared_statements_cache_size, _GENERAL, findings)
    if general.client_anonymous_prepared_cache_size == 0:
        _warn_endless_cache(_GENERAL, findings)
    _user_secret(general.admin_password, (*_GENERAL, "admin_password"), findings)
    if general.hba and general.pg_hba is not None:
        findings.forbid("cannot stand together with pg_hba", (*_GENERAL, "hba"), (*_GENERAL, "pg_hba"))
    if general.hba and general.unix_socket_dir is not None:
        findings.warn("does not hold for clients of the unix socket: they always pass", (*_GENERAL, "hba"))
    for host in general.hosts:
        if not host:
            findings.forbid("an address in the list is empty", (*_GENERAL, "host"))
    for name in ("tcp_socket_buffer_size", "unix_socket_buffer_size"):
        if 0 < getattr(general, name) < 65_536:
            findings.warn("a buffer of less than 64KB makes large results slow", (*_GENERAL, name))
    if general.unix_socket_dir is not None:
        _socket_fits(general.unix_socket_dir, general.port, (*_GENERAL, "unix_socket_dir"), findings)
    _parameters_fit(general.startup_parameters, (*_GENERAL, "startup_parameters"), findings)
    _client_tls(general, findings)
    _fallback_cooldown(general.fallback_cooldown, _GENERAL, findings)


def _client_tls(general: GeneralSettings, findings: Findings) -> None:
    _both_or_neither(_GENERAL, "tls_certificate", "tls_private_key", general, findings)
    mode = general.tls.mode
    if mode.is_needed and general.tls_certificate is None:
        findings.forbid(f"{mode} needs tls_certificate and tls_private_key", (*_GENERAL, "tls_mode"))
    if mode.wants_certificates and general.tls_ca_cert is None:
        findings.forbid(f"{mode} needs tls_ca_cert", (*_GENERAL, "tls_mode"), (*_GENERAL, "tls_ca_cert"))
    if general.tls_crl is not None and general.tls_ca_cert is None:
        findings.forbid("needs tls_ca_cert as well", (*_GENERAL, "tls_crl"), (*_GENERAL, "tls_ca_cert"))
    _versions(general.tls_min_version, general.tls_max_version, (*_GENERAL, "tls_max_version"), findings)
    if general.tls_rate_limit_per_second % 100:
        message = "must be 0 or a multiple of 100, at least 100"
        findings.forbid(message, (*_GENERAL, "tls_rate_limit_per_second"))
    _server_tls(general.server_tls_mode, general, _GENERAL, general, findings)


def _server_tls(
    mode: ServerTlsMode,
    owner: GeneralSettings | PoolSettings,
    path: Path,
    general: GeneralSettings,
    findings: Findings,
) -> None:
    _both_or_neither(path, "server_tls_certificate", "server_tls_private_key", owner, findings)
    verifies = mode in (ServerTlsMode.VERIFY_CA, ServerTlsMode.VERIFY_FULL)
    if verifies and owner.server_tls_ca_cert is None and general.server_tls_ca_cert is None:
        findings.forbid(f"{mode} needs server_tls_ca_cert", (*path, "server_tls_mode"), (*path, "server_tls_ca_cert"))
    least = owner.server_tls_min_version or general.server_tls_min_version
    most = owner.server_tls_max_version or general.server_tls_max_version
    _versions(least, most, (*path, "server_tls_max_version"), findings)


def _versions(least: TlsVersion, most: TlsVersion | None, path: Path, findings: Findings) -> None:
    if most is not None and most < least:
        findings.forbid(f"is older than the oldest version that is allowed, which is {least}", path)


def _both_or_neither(path: Path, one: str, other: str, owner: object, findings: Findings) -> None:
    if (getattr(owner, one) is None) != (getattr(owner, other) is None):
        given, missing = (one, other) if getattr(owner, other) is None else (other, one)
        findings.forbid(f"needs {missing} as well", (*path, given), (*path, missing))


def _pool(settings: Settings, pool: PoolSettings, findings: Findings) -> None:
    path: Path = ("pools", pool.name)
    if pool.name in _ADMIN_DATABASES:
        findings.warn("clients cannot reach this pool: the name is the admin console's", path)
    _pool_statement_caches(settings.general, pool, path, findings)
    if pool.client_anonymous_prepared_cache_size == 0:
        _warn_endless_cache(path, findings)
    if pool.server_host.startswith("/"):
        _socket_fits(pool.server_host, pool.server_port, (*path, "server_host"), findings)
    _server_tls(pool.server_tls_mode or ServerTlsMode.DISABLE, pool, path, settings.general, findings)
    if pool.fallback_cooldown is not None:
        _fallback_cooldown(pool.fallback_cooldown, path, findings)
    _parameters_fit(pool.startup_parameters, (*path, "startup_parameters"), findings)
    merged = merge_parameters(settings.general.startup_parameters, pool.startup_parameters)
    _parameters_fit(merged, (*path, "startup_parameters"), findings, ("general", "startup_parameters"))
    for position, user in _users_with_positions(pool, path, findings):
        _user(settings.effective(pool, user), user, (*path, "users", position), findings)
    _unique_users(path, findings)
    _database_limits(settings, pool, path, findings)
    if pool.auth_query is not None:
        _auth_query(pool.auth_query, (*path, "auth_query"), findings)
        shared = pool.user(pool.auth_query.server_user or "")
        if shared is not None and shared.server_password is None and pool.auth_query.server_password is not None:
            message = f'has no effect: user "{shared.username}" stands in the file, and its pool is used as it is there'
            findings.warn(message, (*path, "auth_query", "server_password"))


def _users_with_positions(pool: PoolSettings, path: Path, findings: Findings) -> Iterable[tuple[int, UserSettings]]:
    """Each user with its place in the file; one without a name is in the file, and complained of, but not in `pool`."""
    items = findings.place((*path, "users")).value
    if not isinstance(items, list):
        return
    users = iter(pool.users)
    for position in range(len(items)):
        if not findings.is_broken((*path, "users", position, "username")):
            user = next(users, None)
            if user is None:
                return
            yield position, user


def _unique_users(path: Path, findings: Findings) -> None:
    seen: dict[str, str] = {}
    items = findings.place((*path, "users")).value
    for position, item in enumerate(items if isinstance(items, list) else []):
        name = item.value.get("username") if isinstance(item.value, dict) else None
        if name is None or not isinstance(name.value, str):
            continue
        if name.value in seen:
            findings.forbid(
                f'user "{name.value}" stands already at {seen[name.value]}', (*path, "users", position, "username")
            )
        seen.setdefault(name.value, name.place)


def _user(effective: UserPoolSettings, user: UserSettings, path: Path, findings: Findings) -> None:
    _least_and_most(user.min_pool_size, user.pool_size, path, findings)
    _user_secret(user.password, (*path, "password"), findings)
    _server_secret(user.server_password, (*path, "server_password"), findings)
    if user.server_password is not None and user.server_username is None:
        findings.forbid("needs server_username as well", (*path, "server_password"), (*path, "server_username"))
    _message_fits(effective, path, findings)


def _least_and_most(least: int, most: int, path: Path, findings: Findings) -> None:
    if least > most:
        findings.forbid(
            f"cannot be more than pool_size, which is {most}", (*path, "min_pool_size"), (*path, "pool_size")
        )


def _user_secret(secret: Secret, path: Path, findings: Findings) -> None:
    text = secret.reveal()
    _jwt(secret, path, findings)
    if text.startswith("SCRAM-SHA-256$") and not _is_verifier(text):
        findings.forbid(
            "begins like a SCRAM secret but is none: it must be SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey, with "
            "the last three in base64 and the keys of 32 bytes",
            path,
        )
    if text.startswith("md5") and len(text) in range(33, 38) and _MD5.fullmatch(text) is None:
        findings.warn('looks like an md5 secret but is none ("md5" and 32 of 0-9a-f): taken as a plain password', path)


def _is_verifier(text: str) -> bool:
    match = _SCRAM.fullmatch(text)
    if match is None:
        return False
    try:
        salt, stored, server = (binascii.a2b_base64(part.encode(), strict_mode=True) for part in match.groups())
    except (binascii.Error, UnicodeEncodeError):
        return False
    return bool(salt) and len(stored) == len(server) == 32


def _server_secret(secret: Secret | None, path: Path, findings: Findings) -> None:
    """A password that we log in with."""
    _jwt(secret, path, findings)
    text = secret.reveal() if secret is not None else ""
    if _is_verifier(text) or _MD5.fullmatch(text):
        findings.warn("is what a server stores, not a password: nobody can log in with it", path)


def _jwt(secret: Secret | None, path: Path, findings: Findings) -> None:
    text = secret.reveal() if secret is not None else ""
    if text.startswith(("jwt-pkey-fpath:", "jwt-priv-key-fpath:")) and not is_available(Feature.JWT):
        findings.forbid("not available in this version (JWT)", path)


def _database_limits(settings: Settings, pool: PoolSettings, path: Path, findings: Findings) -> None:
    users = [settings.effective(pool, user) for user in pool.users]
    most = (*path, "max_db_connections")
    if pool.max_db_connections:
        least = sum(user.min_pool_size for user in users)
        if least > pool.max_db_connections:
            findings.forbid(f"is less than the users' min_pool_size together, which is {least}", most)
        if pool.reserve_pool_size > pool.max_db_connections:
            findings.warn("is more than max_db_connections", (*path, "reserve_pool_size"), most)
        for user in users:
            if user.pool_size > pool.max_db_connections:
                findings.warn(f'is less than pool_size of user "{user.username}", which is {user.pool_size}', most)
    idle = settings.general.idle_timeout if pool.idle_timeout is None else pool.idle_timeout
    if 0 < idle < pool.min_connection_lifetime:
        findings.warn("is more than idle_timeout", (*path, "min_connection_lifetime"), (*path, "idle_timeout"))
    wait = settings.general.query_wait_timeout if pool.query_wait_timeout is None else pool.query_wait_timeout
    if pool.reserve_pool_size and pool.reserve_pool_timeout > wait:
        findings.warn("is more than query_wait_timeout: the reserve is never used", (*path, "reserve_pool_timeout"))
    smallest = min((user.pool_size for user in users), default=pool.min_guaranteed_pool_size)
    if pool.min_guaranteed_pool_size > smallest:
        findings.warn(f"is more than the smallest pool_size, {smallest}", (*path, "min_guaranteed_pool_size"))


def _auth_query(query: AuthQuerySettings, path: Path, findings: Findings) -> None:
    _least_and_most(query.min_pool_size, query.pool_size, path, findings)
    if "$1" not in query.query:
        findings.forbid("needs the parameter $1 for the user's name", (*path, "query"))
    _server_secret(query.password, (*path, "password"), findings)
    _server_secret(query.server_password, (*path, "server_password"), findings)
    if query.server_password is not None and query.server_user is None:
        findings.forbid("needs server_user as well", (*path, "server_password"), (*path, "server_user"))


def _statement_caches(enabled: bool, size: int, path: Path, findings: Findings) -> None:
    if enabled and size == 0:
        findings.forbid(
            "must be at least 1 while prepared_statements is true",
            (*path, "prepared_statements_cache_size"),
            (*path, "prepared_statements"),
        )


def _pool_statement_caches(general: GeneralSettings, pool: PoolSettings, path: Path, findings: Findings) -> None:
    enabled = general.prepared_statements if pool.prepared_statements is None else pool.prepared_statements
    if pool.prepared_statements_cache_size is not None:
        _statement_caches(enabled, pool.prepared_statements_cache_size, path, findings)
    elif pool.prepared_statements:
        _statement_caches(enabled, general.prepared_statements_cache_size, path, findings)


def _warn_endless_cache(path: Path, findings: Findings) -> None:
    findings.warn("0 lets one client fill the memory", (*path, "client_anonymous_prepared_cache_size"))


def _fallback_cooldown(cooldown: float, path: Path, findings: Findings) -> None:
    if cooldown < 1:
        findings.warn("less than a second makes for many needless tries", (*path, "fallback_cooldown"))


def _socket_fits(folder: str, port: int, path: Path, findings: Findings) -> None:
    length = len(f"{folder}/.s.PGSQL.{port}".encode())
    if length > _LONGEST_SOCKET:
        findings.forbid(f"the path of the socket takes {length} bytes; the kernel takes {_LONGEST_SOCKET}", path)


def _parameters_fit(parameters: Parameters, path: Path, findings: Findings, *added: Path) -> None:
    length = encoded_length(parameters)
    if length > LONGEST_BODY:
        how = "together with the general ones " if added else ""
        findings.forbid(f"{how}take {length} bytes; PostgreSQL has room for {LONGEST_BODY}", path, *added)


def _message_fits(effective: UserPoolSettings, path: Path, findings: Findings) -> None:
    length = message_length(effective.server_username, effective.server_database, effective.startup_parameters)
    if length > LONGEST_MESSAGE:
        parameters = (("general", "startup_parameters"), ("pools", effective.pool, "startup_parameters"))
        findings.forbid(
            f"the message that opens a backend takes {length} bytes; PostgreSQL takes {LONGEST_MESSAGE}",
            (*path, "username"),
            *parameters,
        )
