"""How a client proves itself (or who says so: PAM, LDAP, the kernel) x what is stored for it x what the server asks of us, with
right and wrong passwords, with TLS on either side, on both and on none.

Nobody is to be let in unless both proofs hold (the class of CVE-2025-46801). Each cell says whose door stays shut.
TLS changes no cell: with it SCRAM becomes SCRAM-SHA-256-PLUS, which is tried by libpq, which can insist on it.
"""

import os
import pwd
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from typing import Final

import jwt
import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pgdoorman.auth.secrets import hash_password
from tests.integration.conftest import StartDoorman
from tests.support import pam, slapd
from tests.support.certificates import Authority, self_signed
from tests.support.doorman import Doorman, pool, stand_in, user
from tests.support.postgres import SECRET, Postgres
from tests.support.raw_tls import trusting_context
from tests.support.tls_postgres import TlsPostgres
from tests.support.wire import ServerError, Wire, md5_secret

pytestmark = pytest.mark.skipif(bool(stand_in()), reason="about pgdoorman's own way")

JUDGED: Final = ("pam", "ldap")
"""Somebody else says whether a password is right: what is stored here does not matter at our door."""
FRONTS: Final = ("trust", "password", "md5", "scram-sha-256", *JUDGED)
OTHERS: Final = ("cert", "jwt")
PEERS: Final = ("peer", "stranger")
"""By the unix socket, as whom the kernel knows; the second with a map that has nobody in it."""
STORED: Final = ("plain", "md5", "verifier", "foreign", "nothing")
"""The password; its md5 hash; the verifier that the server has; a verifier of the same password that it has not."""
ROLES: Final = {"plain": "trust", "md5_user": "md5", "scram_user": "scram-sha-256", "clear_user": "password"}
"""What the tests' PostgreSQL asks of each role."""
CLIENTS: Final = Authority("Clients")
TOKEN_KEY: Final = rsa.generate_private_key(65537, 2048)
ENDS: Final = {"": "disable", "_tls": "require"}
"""Of the names of databases: TLS towards the server."""
ENCRYPTED: Final = "select ssl from pg_stat_ssl where pid = pg_backend_pid()"
TLS: Final = ("none", "client", "server", "both")
WAYS: Final = [(front, tls) for front in FRONTS for tls in TLS if front not in JUDGED or tls in ("none", "both")]


def database_of(front: str, stored: str) -> str:
    return f"{front}_{stored}"


@pytest.fixture(scope="module")
def tls_postgres() -> Iterator[TlsPostgres]:
    server = TlsPostgres(self_signed(), Authority())
    server.hba = (*server.hba, *(f"host all {role} all {asked}" for role, asked in ROLES.items()))
    with server:
        server.populate()
        yield server


@pytest.fixture(scope="module")
def judges(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The rules of those of `JUDGED` that can be had here."""
    script = f'#!/bin/sh\nIFS= read -r password\n[ "$password" = {SECRET} ]\n'
    rules = {}
    with ExitStack() as stack:
        if not pam.MISSING:
            rules["pam"] = (
                f"pam pamservice={stack.enter_context(pam.pam_service(tmp_path_factory.mktemp('pam'), script))}"
            )
        if not slapd.MISSING:
            directory = stack.enter_context(slapd.running_slapd(people=dict.fromkeys(ROLES, SECRET)))
            where = 'ldapprefix=uid= ldapsuffix=",ou=people,dc=example,dc=net"'
            rules["ldap"] = f"ldap ldapserver=127.0.0.1 ldapport={directory.port} {where}"
        yield rules


@pytest.fixture(scope="module")
def house(
    tls_postgres: TlsPostgres, start_module_doorman: StartDoorman, workspace: Path, judges: dict[str, str]
) -> Doorman:
    """Databases whose names end in `_tls` ask the server for TLS; clients may have it or not."""
    certificate, key = self_signed().write(workspace, "matrix")
    with tls_postgres.connect() as wire:
        rows = wire.rows("select rolname, rolpassword from pg_authid where rolpassword like 'SCRAM%'")
        verifiers = {str(row[0]): row[1] for row in rows}
    pools = {}
    for front, stored in product((*FRONTS, *OTHERS, *PEERS), STORED):
        entries = []
        for role in ROLES:
            secret = {
                "plain": SECRET,
                "md5": md5_secret(role, SECRET),
                "verifier": str(verifiers.get(role) or hash_password(role, SECRET)),
                "foreign": hash_password(role, SECRET),
                "nothing": "",
            }[stored]
            entries.append(user(role, secret, pool_size=1))
        for end, mode in ENDS.items():
            name = database_of(front, stored) + end
            pools[name] = pool(tls_postgres, *entries, server_database="app", server_tls_mode=mode)
    (workspace / "matrix.pem").write_bytes(
        TOKEN_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    methods = {front: front for front in FRONTS if front not in JUDGED} | judges
    rules = "".join(f'host "/^{front}_" all all {method}\n' for front, method in methods.items())
    rules += f'hostssl "/^cert_" all all cert\nhost "/^jwt_" all all jwt key={workspace}/matrix.pem\n'
    rules += "".join(f'local "/^{front}_" all peer map={front}\n' for front in PEERS)
    content = f"host pgdoorman all all md5\n{rules}"
    me = pwd.getpwuid(os.geteuid()).pw_name
    maps = "".join(f"peer {me} {role}\nstranger nobody-{me} {role}\n" for role in ROLES)
    files = {"tls_certificate": str(certificate), "tls_private_key": str(key)}
    files["tls_ca_cert"] = str(CLIENTS.write(workspace, "matrix-clients"))
    return start_module_doorman(
        pools=pools,
        general={
            "pg_hba": {"content": content},
            "pg_ident": {"content": maps},
            "unix_socket_dir": str(workspace),
            **files,
        },
    )


def let_in_by_us(front: str, stored: str, right: bool) -> bool:
    if front == "trust":
        return True
    if front in JUDGED:
        return right
    if front == "scram-sha-256" and stored == "md5":
        return False
    return right and stored != "nothing"


def let_in_by_the_server(front: str, stored: str, asked: str) -> bool:
    """Provided that the client has proved itself to us."""
    if asked == "trust" or stored == "plain" or front in ("password", *JUDGED):
        return True
    if asked == "md5":
        return stored == "md5"
    by_scram = front in ("md5", "scram-sha-256") and stored in ("verifier", "foreign")
    return asked == "scram-sha-256" and by_scram and stored == "verifier"


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize(("front", "tls"), WAYS)
def test_both_proofs_must_hold(
    house: Doorman, judges: dict[str, str], front: str, stored: str, role: str, tls: str
) -> None:
    """With a wrong password first: it must not spoil the right one that follows."""
    if front in JUDGED and front not in judges:
        pytest.skip(f"there is no {front} here")
    database = database_of(front, stored) + ("_tls" if tls in ("server", "both") else "")
    for right in (False, True, False):
        password = SECRET if right else "wrong"
        ours, theirs = let_in_by_us(front, stored, right), let_in_by_the_server(front, stored, ROLES[role])
        told = says(house, database, role, password, context=trusting_context() if tls in ("client", "both") else None)
        if not ours:
            what = f"{front.upper()} authentication" if front in JUDGED else "password authentication"
            assert told == f'28P01 {what} failed for user "{role}"'
        elif theirs:
            assert told == role
        else:
            assert told.startswith("28000 ")
            assert f'of "{role}": ' in told, "it says what is missing"
            assert SECRET not in told


@pytest.fixture(scope="module")
def proofs(workspace: Path) -> dict[str, ssl.SSLContext]:
    """What clients show who have a certificate for this name."""
    contexts = {}
    for name in (*ROLES, "somebody"):
        contexts[name] = trusting_context()
        contexts[name].load_cert_chain(*CLIENTS.issue(name, for_clients=True).write(workspace, f"matrix-{name}"))
    return contexts


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("front", OTHERS)
def test_who_proves_itself_without_a_password_brings_none(
    house: Doorman, proofs: dict[str, ssl.SSLContext], front: str, stored: str, role: str, end: str
) -> None:
    """By a certificate or a token: what is stored decides alone whether the server can be satisfied."""
    for whose in ("somebody", role):
        said = {"preferred_username": whose, "exp": time.time() + 600}
        password = jwt.encode(said, TOKEN_KEY, "RS256") if front == "jwt" else SECRET
        told = says(house, database_of(front, stored) + end, role, password, context=proofs[whose])
        if whose != role:
            refusals = {"cert": "28000 certificate authentication failed", "jwt": "28P01 JWT token username mismatch"}
            assert told.startswith(refusals[front])
        elif let_in_by_the_server(front, stored, ROLES[role]):
            assert told == role
        else:
            assert told.startswith("28000 ")
            assert f'of "{role}": ' in told


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("stored", STORED)
def test_the_kernel_vouches(house: Doorman, workspace: Path, stored: str, role: str, end: str) -> None:
    """By the unix socket (peer): again what is stored decides alone; but not for somebody whom the map does not know."""

    def by_socket(front: str) -> str:
        return says(house, database_of(front, stored) + end, role, "", context=None, host=str(workspace))

    assert by_socket("stranger") == f'28000 Peer authentication failed for user "{role}"'
    told = by_socket("peer")
    if let_in_by_the_server("peer", stored, ROLES[role]):
        assert told == role
    else:
        assert told.startswith("28000 ")
        assert f'of "{role}": ' in told


def says(
    house: Doorman, database: str, role: str, password: str, *, context: ssl.SSLContext | None, host: str = ""
) -> str:
    """Who one is at the server, and whether TLS is as it should be there; or SQLSTATE and text of the refusal."""
    try:
        with Wire.connect(
            host or house.host, house.port, user=role, database=database, password=password, patience=20, tls=context
        ) as wire:
            assert wire.value(ENCRYPTED) == ("t" if database.endswith("_tls") else "f")
            return str(wire.value("select current_user"))
    except ServerError as error:
        return f"{error.sqlstate} {error.fields['M']}"


@pytest.mark.parametrize("stored", STORED)
def test_channel_binding(house: Doorman, stored: str) -> None:
    """libpq insists on SCRAM-SHA-256-PLUS, with what is stored in each way, right and wrong."""
    for front, end in product(("md5", "scram-sha-256"), ENDS):
        target = f"host={house.host} port={house.port} user=scram_user dbname={database_of(front, stored)}{end}"
        target += " sslmode=require channel_binding=require password="
        possible = stored in ("verifier", "foreign") or (front == "scram-sha-256" and stored == "plain")
        for password in ("wrong", SECRET):
            if possible and password == SECRET and stored != "foreign":
                with psycopg.connect(target + password) as connection:
                    assert connection.execute("select current_user").fetchone() == ("scram_user",)
                continue
            with pytest.raises(psycopg.OperationalError) as caught:
                psycopg.connect(target + password)
            refused = 'password authentication failed for user "scram_user"'
            told = (
                ("channel binding", 'of "scram_user": ', refused)
                if password == SECRET
                else ("channel binding", refused)
            )
            assert any(text in str(caught.value) for text in told), (front, stored, password, caught.value)


def test_a_password_of_our_own_for_the_server(postgres: Postgres, start_doorman: StartDoorman) -> None:
    """With server_password the server's door is ours alone: the client's proof neither opens nor shuts it."""
    entries = [
        user("right", SECRET, server_username="scram_user", server_password=SECRET),
        user("false", SECRET, server_username="scram_user", server_password="not it"),
        user("verifier", hash_password("", SECRET), server_username="md5_user", server_password=SECRET),
    ]
    rules = "host all all all scram-sha-256"
    doorman = start_doorman(pools={"app": pool(postgres, *entries)}, general={"pg_hba": {"content": rules}})
    for name, role in (("right", "scram_user"), ("verifier", "md5_user")):
        with doorman.connect("app", name, SECRET) as wire:
            assert wire.value("select current_user") == role
        with pytest.raises(ServerError, match=f'password authentication failed for user "{name}"'):
            doorman.connect("app", name, "wrong")
    with pytest.raises(ServerError, match='password authentication failed for user "scram_user"'):
        doorman.connect("app", "false", SECRET)
    with pytest.raises(ServerError, match='password authentication failed for user "false"'):
        doorman.connect("app", "false", "not it")
