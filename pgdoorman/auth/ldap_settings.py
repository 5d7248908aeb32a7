"""What an `ldap` line says: which servers, and how to get from a user's name to the name that binds there.

PostgreSQL manual, "LDAP Authentication". Simple bind: the name is ldapprefix + user + ldapsuffix. Search+bind: bind as
ldapbinddn (or anonymously), look below ldapbasedn for the one entry that is the user's, bind as that.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal
from urllib.parse import unquote, urlsplit

type Scope = Literal["base", "one", "sub"]

TIMEOUT: Final = 5
"""Whole seconds that one step (connecting, an answer) may take, per server."""


@dataclass(frozen=True, slots=True)
class LdapSettings:
    """All that a line says. `servers` are tried in order until one can be reached. With `base` it is search+bind.

    `ca_file` is a PEM file of authorities for `ldaps` and StartTLS, "" for the system's; a server's certificate is
    always verified."""

    servers: tuple[str, ...]
    port: int
    tls: bool = False
    start_tls: bool = False
    ca_file: str = ""
    prefix: str = ""
    suffix: str = ""
    base: str | None = None
    scope: Scope = "sub"
    attribute: str = "uid"
    filter: str = ""
    bind_name: str = ""
    bind_password: str = field(default="", repr=False)

    @classmethod
    def from_options(cls, options: Mapping[str, str]) -> "LdapSettings":
        """From the options of an HBA line; a URL gives what the other options do not. Raises ValueError."""
        merged = {**_options_of_url(options["ldapurl"]), **options} if "ldapurl" in options else dict(options)
        _check(merged)
        tls = merged.get("ldapscheme", "ldap") == "ldaps"
        return cls(
            servers=tuple(merged["ldapserver"].split()),
            port=_port(merged.get("ldapport", "636" if tls else "389")),
            tls=tls,
            start_tls=merged.get("ldaptls") == "1",
            ca_file=merged.get("ldapcafile", ""),
            prefix=merged.get("ldapprefix", ""),
            suffix=merged.get("ldapsuffix", ""),
            base=merged.get("ldapbasedn"),
            scope=_SCOPES[merged.get("scope", "sub")],
            attribute=merged.get("ldapsearchattribute") or "uid",
            filter=merged.get("ldapsearchfilter", ""),
            bind_name=merged.get("ldapbinddn", ""),
            bind_password=merged.get("ldapbindpasswd", ""),
        )


_SCOPES: Final[Mapping[str, Scope]] = {"base": "base", "one": "one", "sub": "sub"}


def _check(options: Mapping[str, str]) -> None:
    if not options.get("ldapserver", "").split():
        raise ValueError('authentication method "ldap" requires argument "ldapserver" or "ldapurl" to be set')
    if options.get("ldapscheme", "ldap") not in ("ldap", "ldaps"):
        raise ValueError(f'invalid ldapscheme value: "{options["ldapscheme"]}"')
    if options.get("ldapscheme") == "ldaps" and options.get("ldaptls") == "1":
        raise ValueError("ldaptls=1 cannot be used with ldaps, which is TLS from the start")
    simple = options.keys() & {"ldapprefix", "ldapsuffix"}
    searching = options.keys() & {
        "ldapbasedn",
        "ldapbinddn",
        "ldapbindpasswd",
        "ldapsearchattribute",
        "ldapsearchfilter",
    }
    if simple and searching:
        raise ValueError("cannot mix options for simple bind and search+bind modes")
    if not simple and "ldapbasedn" not in options:
        raise ValueError(
            'authentication method "ldap" requires argument "ldapbasedn", "ldapprefix", or "ldapsuffix" to be set'
        )
    if {"ldapsearchattribute", "ldapsearchfilter"} <= options.keys():
        raise ValueError("cannot use ldapsearchattribute together with ldapsearchfilter")


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 6 and 0 < int(text) < 65536):
        raise ValueError(f'invalid LDAP port number: "{text}"')
    return int(text)


def _options_of_url(url: str) -> dict[str, str]:
    """RFC 4516: ldap[s]://host[:port]/base[?[attribute][?[scope][?[filter]]]]. An empty part says nothing."""
    parts = urlsplit(url)
    if parts.scheme not in ("ldap", "ldaps") or not parts.hostname:
        raise ValueError(f'could not parse LDAP URL "{url}"')
    attribute, scope, wanted, *more = [*(unquote(part) for part in parts.query.split("?")), "", ""]
    if scope not in ("", *_SCOPES) or any(more) or "," in attribute:
        raise ValueError(f'could not parse LDAP URL "{url}"')
    said = {
        "ldapscheme": parts.scheme,
        "ldapserver": parts.hostname,
        "ldapport": str(parts.port) if parts.port else "",
        "ldapbasedn": unquote(parts.path.removeprefix("/")),
        "ldapsearchattribute": attribute,
        "ldapsearchfilter": wanted,
        "scope": scope,
    }
    return {name: value for name, value in said.items() if value}
