"""Logins of drivers with TLS: SCRAM with channel binding, certificates, direct TLS, tokens, protocol 3.2; and refusals.

libpq 18 (psycopg's wheel), tokio-postgres, pgx, pgjdbc and node-postgres, each as far as it can: docs/drivers.md says what that
is. Others are tried in tests/integration/test_tls.py, with psql 17 among them.
"""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.drivers.builds import (
    ROOT,
    Missing,
    build_go,
    build_java,
    build_node,
    build_python,
    build_rust_logins,
)
from tests.support.certificates import Authority
from tests.support.doorman import make_doorman, missing, pool, user
from tests.support.postgres import SECRET
from tests.support.tls_postgres import TlsPostgres

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

DAY: Final = timedelta(days=1)
ISSUER: Final = "https://id.example"
KEY: Final = rsa.generate_private_key(65537, 2048)


@dataclass(frozen=True)
class Stand:
    port: int
    folder: Path

    def target(self, options: str) -> str:
        return f"host=localhost port={self.port} dbname=app {options}"

    def shown(self, name: str) -> tuple[str, str]:
        return f"{self.folder}/{name}.crt", f"{self.folder}/{name}.key"


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    if reason := missing():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("logins")
    servers, clients = Authority("Servers"), Authority("Clients")
    authority = servers.write(folder, "authority")
    certificate, key = servers.issue("localhost", ["localhost"]).write(folder, "ours")
    revoked = clients.issue("alice", for_clients=True)
    crl = folder / "clients.crl"
    crl.write_bytes(clients.revoke(revoked))
    revoked.write(folder, "revoked")
    clients.issue("alice", for_clients=True).write(folder, "alice")
    clients.issue("alice", begins=-3 * DAY, ends=-DAY, for_clients=True).write(folder, "expired")
    (folder / "token.pem").write_bytes(KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    rules = (
        "host pgdoorman all all md5",
        "host all scram_user all scram-sha-256",
        "hostssl all alice all cert",
        f"host all bob all oauth key={folder}/token.pem issuer={ISSUER} scope=shop",
    )
    with TlsPostgres(servers.issue("postgres", ["localhost", "127.0.0.1"]), clients) as server:
        server.populate()
        entries = (user("alice"), user("bob"), user("scram_user", SECRET))
        doorman = make_doorman(
            folder / "doorman",
            pools={"app": pool(server, *entries, server_tls_mode="verify-full", server_tls_ca_cert=str(authority))},
            general={
                "tls_certificate": str(certificate),
                "tls_private_key": str(key),
                "tls_ca_cert": str(clients.write(folder, "clients")),
                "tls_crl": str(crl),
                "pg_hba": {"content": "\n".join(rules) + "\n"},
            },
        )
        doorman.start()
        yield Stand(doorman.port, folder)
        told = doorman.log()
        doorman.kill()
        assert "Traceback" not in told
        assert SECRET not in told


def token(**claims: object) -> str:
    said = {"preferred_username": "bob", "exp": time.time() + 600, "iss": ISSUER, "scope": "shop", **claims}
    return jwt.encode(said, KEY, "RS256")


def libpq(stand: Stand, options: str, bearer: str = "") -> str:
    command = build_python("logins")
    done = subprocess.run(
        command, cwd=ROOT, input=stand.target(f"sslrootcert={stand.folder}/authority.crt {options}"), text=True,
        env={**os.environ, "TOKEN": bearer}, stdout=subprocess.PIPE, timeout=120, check=True,
    )  # fmt: skip
    if done.stdout == "old\n":
        pytest.skip("psycopg has an older libpq here")
    return done.stdout.strip()


@pytest.mark.parametrize("negotiation", ["postgres", "direct"])
def test_libpq(stand: Stand, negotiation: str) -> None:
    careful = f"sslmode=verify-full sslnegotiation={negotiation}"
    scram = f"{careful} channel_binding=require user=scram_user password="
    assert libpq(stand, f"{scram}{SECRET}") == "in as scram_user by 30000"
    assert libpq(stand, f"{scram}{SECRET} min_protocol_version=3.2") == "in as scram_user by 30002"
    assert 'password authentication failed for user "scram_user"' in libpq(stand, f"{scram}wrong")
    for name, outcome in (
        ("alice", "in as alice"),
        ("revoked", "certificate revoked"),
        ("expired", "certificate expired"),
    ):
        certificate, key = stand.shown(name)
        assert outcome in libpq(stand, f"{careful} user=alice sslcert={certificate} sslkey={key}")
    assert "requires a valid client certificate" in libpq(stand, f"{careful} user=alice")


def test_libpq_with_tokens(stand: Stand) -> None:
    options = f"sslmode=verify-full user=bob oauth_issuer={ISSUER} oauth_client_id=shop"
    assert libpq(stand, options, token()) == "in as bob by 30000"
    for wrong in (token(exp=1), token(preferred_username="alice"), token(scope="other"), token()[:-6] + "AAAAAA"):
        assert 'OAuth bearer authentication failed for user "bob"' in libpq(stand, options, wrong)
    assert "requires OAuth authentication" in libpq(stand, "sslmode=verify-full user=bob")


def test_tokio_postgres(stand: Stand) -> None:
    try:
        program = build_rust_logins()
    except Missing as nothing:
        pytest.skip(str(nothing))

    def log_in(options: str, shown: tuple[str, ...] = (), authority: str = "authority") -> str:
        arguments = [f"{stand.folder}/{authority}.crt", stand.target(f"sslmode=require {options}"), *shown]
        done = subprocess.run(
            [*program, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, timeout=60, check=True
        )
        return done.stdout.strip()

    for negotiation in ("postgres", "direct"):
        scram = f"sslnegotiation={negotiation} channel_binding=require user=scram_user password="
        assert log_in(scram + SECRET) == "in as scram_user"
        assert 'password authentication failed for user \\"scram_user\\"' in log_in(scram + "wrong")
        alice = f"sslnegotiation={negotiation} user=alice"
        assert log_in(alice, stand.shown("alice")) == "in as alice"
        assert "certificate revoked" in log_in(alice, stand.shown("revoked"))
        assert "requires a valid client certificate" in log_in(alice)
        assert "certificate verify failed" in log_in(alice, stand.shown("alice"), "clients")


def tell(build: Callable[[], list[str]], targets: list[str], bearer: str = "") -> list[str]:
    """What a program says to these connection strings, a line each. (A Java machine takes a second to start.)"""
    try:
        program = build()
    except Missing as nothing:
        pytest.skip(str(nothing))
    done = subprocess.run(
        program, input="\n".join(targets) + "\n", text=True, env={**os.environ, "TOKEN": bearer},
        stdout=subprocess.PIPE, timeout=300, check=True,
    )  # fmt: skip
    said = done.stdout.splitlines()
    assert len(said) == len(targets)
    return said


def agree(said: list[str], expected: list[str]) -> None:
    for answer, part in zip(said, expected, strict=True):
        assert part in answer, (said, expected)


WRONG_PASSWORD: Final = 'password authentication failed for user "scram_user"'
NO_CERTIFICATE: Final = "requires a valid client certificate"


def test_pgx(stand: Stand) -> None:
    targets, expected = [], []
    for negotiation in ("postgres", "direct"):
        careful = f"sslmode=verify-full sslrootcert={stand.folder}/authority.crt sslnegotiation={negotiation}"
        scram = f"{careful} channel_binding=require user=scram_user password="
        targets += [stand.target(scram + SECRET), stand.target(scram + "wrong")]
        targets.append(stand.target(f"{scram}{SECRET} min_protocol_version=3.2 max_protocol_version=3.2"))
        expected += ["in as scram_user", WRONG_PASSWORD, "in as scram_user"]
        for name, outcome in (
            ("alice", "in as alice"),
            ("revoked", "tls: revoked certificate"),
            ("expired", "tls: expired certificate"),
        ):
            certificate, key = stand.shown(name)
            targets.append(stand.target(f"{careful} user=alice sslcert={certificate} sslkey={key}"))
            expected.append(outcome)
        targets.append(stand.target(f"{careful} user=alice"))
        targets.append(stand.target(f"{careful} user=scram_user password={SECRET} host=127.0.0.1"))
        targets.append(stand.target(f"sslmode=verify-full sslrootcert={stand.folder}/clients.crt user=alice"))
        expected += [NO_CERTIFICATE, "cannot validate certificate for 127.0.0.1", "unknown authority"]
    agree(tell(lambda: build_go("logins"), targets), expected)


def test_pgx_with_tokens(stand: Stand) -> None:
    target = stand.target(f"sslmode=verify-full sslrootcert={stand.folder}/authority.crt user=bob")
    for bearer, outcome in (
        (token(), "in as bob"),
        (token(exp=1), "invalid_token"),
        (token(preferred_username="alice"), "invalid_token"),
        ("", "server does not support SCRAM-SHA-256"),
    ):
        agree(tell(lambda: build_go("logins"), [target], bearer), [outcome])


def test_pgjdbc(stand: Stand) -> None:
    """It has to be told of which kind a key in PEM is."""
    targets, expected = [], []
    for negotiation in ("postgres", "direct"):
        careful = f"sslmode=verify-full&sslrootcert={stand.folder}/authority.crt&sslNegotiation={negotiation}"

        def url(options: str, host: str = "localhost", careful: str = careful) -> str:
            return f"jdbc:postgresql://{host}:{stand.port}/app?{careful}&{options}"

        scram = "channelBinding=require&user=scram_user&password="
        targets += [url(scram + SECRET), url(scram + "wrong")]
        targets.append(url(f"{scram}{SECRET}&protocolVersion=3.2"))
        expected += ["in as scram_user", WRONG_PASSWORD, "in as scram_user"]
        for name, outcome in (
            ("alice", "in as alice"),
            ("revoked", "certificate_revoked"),
            ("expired", "certificate_expired"),
        ):
            certificate, key = stand.shown(name)
            targets.append(url(f"user=alice&sslcert={certificate}&sslkey={key}&pemKeyAlgorithm=EC"))
            expected.append(outcome)
        targets += [url("user=alice"), url(f"user=scram_user&password={SECRET}", "127.0.0.1")]
        targets.append(url("user=alice").replace("authority.crt", "clients.crt"))
        expected += [
            NO_CERTIFICATE,
            "could not be verified by hostnameverifier",
            "unable to find valid certification path",
        ]
    agree(tell(lambda: build_java("Logins"), targets), expected)


def test_node_postgres(stand: Stand) -> None:
    """It cannot insist on channel binding; the program tells what it has chosen."""
    targets, expected = [], []
    for negotiation in ("postgres", "direct"):
        careful = f"sslmode=verify-full&sslrootcert={stand.folder}/authority.crt&sslnegotiation={negotiation}"

        def url(who: str, options: str = "", host: str = "localhost", careful: str = careful) -> str:
            return f"postgresql://{who}@{host}:{stand.port}/app?{careful}{options}"

        targets += [url(f"scram_user:{SECRET}"), url("scram_user:wrong")]
        expected += ["in as scram_user by SCRAM-SHA-256-PLUS", WRONG_PASSWORD]
        for name, outcome in (
            ("alice", "in as alice"),
            ("revoked", "certificate revoked"),
            ("expired", "certificate expired"),
        ):
            certificate, key = stand.shown(name)
            targets.append(url("alice", f"&sslcert={certificate}&sslkey={key}"))
            expected.append(outcome)
        targets += [url("alice"), url(f"scram_user:{SECRET}", host="127.0.0.1")]
        targets.append(url("alice").replace("authority.crt", "clients.crt"))
        expected += [NO_CERTIFICATE, "not in the cert's list", "UNABLE_TO_VERIFY_LEAF_SIGNATURE"]
    agree(tell(lambda: build_node("logins.mjs"), targets), expected)
