"""TLS on both sides as the settings want it: everything is read and judged before anything comes into force."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pgdoorman.config.settings import ServerTlsSettings, Settings
from pgdoorman.transport.tls_connect import Connectors, TlsConnector

if TYPE_CHECKING:
    from pgdoorman.transport.tls_accept import TlsDoor


@dataclass(frozen=True, slots=True)
class PreparedTls:
    """What may come into force: how clients get TLS (None: not at all), and how each PostgreSQL is asked for it."""

    door: "TlsDoor | None"
    connectors: Mapping[ServerTlsSettings, TlsConnector]


def prepare_tls(settings: Settings, present: "TlsDoor | None", connectors: Connectors) -> PreparedTls:
    """Read every file. What has not changed stays the same object. Raises ConfigError; what is in force stays so."""
    client = settings.general.tls
    door = None
    if client.is_on:
        from pgdoorman.transport.tls_accept import open_tls_door  # noqa: PLC0415 - loads OpenSSL: only who uses it pays

        door = open_tls_door(client, present)
    return PreparedTls(door, connectors.prepare(settings.server_tls(pool) for pool in settings.pools.values()))


def check_tls(settings: Settings) -> None:
    """Raises ConfigError if the files that the settings name cannot be used."""
    prepare_tls(settings, None, Connectors())
