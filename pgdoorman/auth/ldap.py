"""Passwords judged by an LDAP server, with the library ldap3. Blocks: imported and called in an `Offload` only.

Names go into filters and distinguished names escaped or not at all; a password is never empty here, since LDAP takes a
bind without one for an anonymous one and says yes.
"""

import contextlib
import ssl
from typing import Any, Final

import ldap3
from ldap3.core.exceptions import LDAPException
from ldap3.utils.dn import escape_rdn

from pgdoorman.auth.ldap_settings import TIMEOUT, LdapSettings

_SCOPES: Final = {"base": ldap3.BASE, "one": ldap3.LEVEL, "sub": ldap3.SUBTREE}

# What PostgreSQL refuses in a user name that is to be searched for.
_SPECIAL: Final = frozenset("*()\\/")


class _Refused(Exception):
    """Says why, for the log."""


def ldap_refusal(settings: LdapSettings, user: str, password: bytes) -> str:
    """Why not, for the log; "" if an LDAP server admits the user. Never raises."""
    if not password or not user or "\0" in user:
        return "an empty name or password proves nothing"
    try:
        name = _distinguished_name(settings, user)
        _close(_with_any_server(settings, name, password))
    except _Refused as refused:
        return str(refused)
    except Exception as error:  # noqa: BLE001 - ldap3 lets out whatever its decoders trip over in what a server says
        return f"LDAP: {type(error).__name__}: {error}"
    return ""


def _distinguished_name(settings: LdapSettings, user: str) -> str:
    if settings.base is None:
        # A prefix like "cn=" makes it a distinguished name; DOMAIN\user and user@domain are taken as they are.
        return settings.prefix + (escape_rdn(user) if "=" in settings.prefix else user) + settings.suffix
    if not _SPECIAL.isdisjoint(user):
        raise _Refused("invalid character in user name for LDAP authentication")
    connection = _with_any_server(settings, settings.bind_name, settings.bind_password.encode())
    try:
        return _search(connection, settings, user)
    finally:
        _close(connection)


def _search(connection: Any, settings: LdapSettings, user: str) -> str:
    wanted = settings.filter.replace("$username", user) if settings.filter else f"({settings.attribute}={user})"
    connection.search(
        settings.base,
        wanted if wanted.startswith("(") else f"({wanted})",
        search_scope=_SCOPES[settings.scope],
        attributes=[ldap3.NO_ATTRIBUTES],
        # Two are enough to know that it is not one.
        size_limit=2,
        time_limit=TIMEOUT,
    )
    found = [entry["dn"] for entry in connection.response or () if entry.get("type") == "searchResEntry"]
    if len(found) == 1 and connection.result["result"] == 0:
        return str(found[0])
    if len(found) > 1:
        raise _Refused("LDAP user is not unique")
    raise _Refused(f"LDAP user does not exist ({connection.result['description']})")


def _with_any_server(settings: LdapSettings, name: str, password: bytes) -> Any:
    """A connection that is bound as `name`, from the first server that can be reached. What a server that was reached
    says is final. Raises _Refused, LDAPException, OSError."""
    reasons: list[str] = []
    for host in settings.servers:
        try:
            connection = _connect(settings, host, name, password)
        except (LDAPException, OSError) as error:
            reasons.append(f"{host}: {error}")
            continue
        _bind(connection, f"LDAP login failed for {name!r} on server {host}")
        return connection
    raise _Refused(f"no LDAP server can be reached ({'; '.join(reasons)})")


def _bind(connection: Any, failure: str) -> None:
    bound = False
    try:
        bound = connection.bind()
        if not bound:
            raise _Refused(f"{failure}: {connection.result['description']}")
    finally:
        if not bound:
            _close(connection)


def _connect(settings: LdapSettings, host: str, name: str, password: bytes) -> Any:
    server = ldap3.Server(
        host,
        settings.port,
        use_ssl=settings.tls,
        tls=_VerifiedTls(settings.ca_file),
        get_info=ldap3.NONE,
        connect_timeout=TIMEOUT,
    )
    # As bytes, or the library would prepare the password in its own way.
    connection = ldap3.Connection(
        server,
        user=name or None,
        password=password if name else None,
        authentication=ldap3.SIMPLE if name else ldap3.ANONYMOUS,
        receive_timeout=TIMEOUT,
        auto_referrals=False,
        raise_exceptions=False,
        read_only=True,
    )
    try:
        connection.open()
        if settings.start_tls:
            connection.start_tls()
    except Exception:
        _close(connection)
        raise
    return connection


def _close(connection: Any) -> None:
    """Say good-bye where that is possible. The library leaves the socket of a connection that failed open."""
    with contextlib.suppress(LDAPException, OSError):
        connection.unbind()
    if connection.socket is not None:
        connection.socket.close()


class _VerifiedTls(ldap3.Tls):  # type: ignore[misc]  # ldap3 has no types
    """TLS as Python's own library does it. ldap3's way is to verify nothing by default, to compare host names by rules
    of its own, and to leave the socket open when they differ."""

    def __init__(self, ca_file: str) -> None:
        super().__init__()
        self._ca_file = ca_file or None

    def wrap_socket(self, connection: Any, do_handshake: bool = True) -> None:
        """Put TLS over the connection's socket. Raises OSError; the socket is closed then."""
        context = ssl.create_default_context(cafile=self._ca_file)
        connection.socket = context.wrap_socket(
            connection.socket, server_hostname=connection.server.host, do_handshake_on_connect=do_handshake
        )
