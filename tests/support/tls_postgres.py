"""A PostgreSQL with TLS.

role         pg_hba
alice, bob   with or without TLS
scram_user   by SCRAM, with or without TLS
only_tls     with TLS only
only_plain   without TLS only
by_cert      with a certificate for this name, signed by the authority of its clients
"""

import os
from collections.abc import Mapping

from tests.support.certificates import Authority, Pair
from tests.support.postgres import SECRET, Postgres

_HBA = (
    "local all all trust",
    "host all postgres 127.0.0.1/32 trust",
    "host all scram_user all scram-sha-256",
    "hostssl all only_tls all scram-sha-256",
    "hostnossl all only_plain all trust",
    "hostssl all by_cert all cert",
    "host all alice,bob all trust",
)


class TlsPostgres(Postgres):
    """PostgreSQL 17 that has TLS. `pair` is its certificate, `clients` signs those of its clients."""

    def __init__(self, pair: Pair, clients: Authority, settings: Mapping[str, str] | None = None) -> None:
        files = {"ssl": "on", "ssl_cert_file": "../tls.crt", "ssl_key_file": "../tls.key", "ssl_ca_file": "../ca.crt"}
        super().__init__(17, {**files, **(settings or {})})
        self.hba = _HBA
        self.pair = pair
        self._clients = clients

    def create(self) -> None:
        super().create()
        self._write()

    def renew(self, pair: Pair) -> None:
        """Another certificate, for connections from now on."""
        self.pair = pair
        self._write()
        self.execute("select pg_reload_conf()")

    def _write(self) -> None:
        paths = [*self.pair.write(self.directory, "tls"), self._clients.write(self.directory, "ca")]
        if self._account is not None:
            for path in paths:
                os.chown(path, self._account.pw_uid, self._account.pw_gid)

    def populate(self) -> None:
        super().populate()
        self.run(
            f"create role only_tls login password '{SECRET}'",
            "create role only_plain login",
            "create role by_cert login",
        )
