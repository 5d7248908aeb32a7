"""The auth room against the real thing: our log-in at PostgreSQL 17 (with TLS) and 18, psql at ours, and PostgreSQL's
own reading of rule files beside ours."""

import hashlib
import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pgdoorman.auth.backend_login import (
    BackendCredentials,
    BackendGreeting,
    CredentialsMissing,
    LoginPolicy,
    log_in,
)
from pgdoorman.auth.client_login import LoginAttempt, LoginKnobs, LoginRefused, TlsFacts, authenticate
from pgdoorman.auth.hba import parse_hba
from pgdoorman.auth.rule_files import split_fields
from pgdoorman.auth.scram import MadeVerifiers
from pgdoorman.auth.secrets import ScramKeys, StoredSecret, derive_keys, hash_password, parse_secret, verifier_of
from pgdoorman.cli.embedded_postgres import EmbeddedPostgres
from pgdoorman.errors import BackendRefused, BackendUnavailable, ConfigErrors, PgDoormanError
from pgdoorman.protocol import authentication as wire
from pgdoorman.protocol import codes
from pgdoorman.protocol.dialogue import Dialogue, FindSecret, Offload, Runner, Send
from pgdoorman.protocol.startup import ssl_request, startup_message

PASSWORD = "p\u00e4sswort\u00a0\u2168"  # SASLprep has something to do
PATIENCE = 20.0
_HBA = (
    "local all all trust",
    "host all postgres all trust",
    "host all md5_user all md5",
    "host all clear_user all password",
    "host all bound_user all scram-sha-256",
    "host all all all scram-sha-256",
)
_ROLES = f"""
set password_encryption = 'md5';
create role md5_user login password '{PASSWORD}';
set password_encryption = 'scram-sha-256';
create role scram_user login password '{PASSWORD}';
create role clear_user login password '{PASSWORD}';
create role ours_user login password '{hash_password("ours_user", PASSWORD)}';
create role ours_md5 login password '{hash_password("md5_user", PASSWORD, "md5")}';
"""


@pytest.fixture(scope="module")
def postgres18() -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(18, hba=_HBA) as server:
        server.execute(_ROLES)
        yield server


@pytest.fixture(scope="module")
def postgres17() -> Iterator[EmbeddedPostgres]:
    """With TLS."""
    certificate, key = _self_signed()
    with EmbeddedPostgres(17, hba=_HBA) as server:
        owner = server.directory.stat()
        for name, data in (("cert", certificate), ("key", key)):
            path = server.directory / f"server.{name}"
            path.write_bytes(data)
            path.chmod(0o600)
            os.chown(path, owner.st_uid, owner.st_gid)
            server.execute(f"alter system set ssl_{name}_file = '{path}'")
        server.execute("alter system set ssl = on")
        server.restart()
        server.execute(_ROLES)
        yield server


def _self_signed() -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem, form, clear = (
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return certificate.public_bytes(pem), key.private_bytes(pem, form, clear)


def converse[T](dialogue: Dialogue[T], peer: socket.socket, secret: StoredSecret | None = None) -> T:
    """Run a dialogue over a blocking socket."""
    runner = Runner(dialogue)
    while True:
        asked = runner.wants
        if isinstance(asked, Offload):
            runner.answer(asked.work())
            continue
        if isinstance(asked, FindSecret):
            runner.answer(secret)
            continue
        peer.sendall(runner.take_output())
        if runner.done:
            return runner.result()
        data = peer.recv(65536)
        if not data:
            runner.fail(BackendUnavailable("the peer hung up"))
            continue
        runner.feed(data)


def connect(server: EmbeddedPostgres) -> socket.socket:
    return socket.create_connection((server.host, server.port), timeout=PATIENCE)


def log_in_to(
    server: EmbeddedPostgres, credentials: BackendCredentials, version: int = codes.PROTOCOL_3_0
) -> BackendGreeting:
    startup = startup_message({"user": credentials.user, "database": "postgres"}, version)
    with connect(server) as peer:
        return converse(log_in(startup, credentials), peer)


def password_of(user: str, password: str = PASSWORD) -> BackendCredentials:
    return BackendCredentials(user, password=password.encode())


METHODS = {
    "postgres": "trust",
    "md5_user": "md5",
    "clear_user": "password",
    "scram_user": "scram-sha-256",
    "ours_user": "scram-sha-256",
}


@pytest.mark.parametrize("user", METHODS)
def test_every_method_of_postgresql_18(postgres18: EmbeddedPostgres, user: str) -> None:
    greeting = log_in_to(postgres18, password_of(user), codes.PROTOCOL_3_2)
    assert greeting.method == METHODS[user]
    assert greeting.version == codes.PROTOCOL_3_2
    assert len(greeting.cancel_secret) == 32
    assert greeting.status == codes.IDLE
    assert dict(greeting.parameters)["server_version"].startswith("18")


@pytest.mark.parametrize("user", METHODS)
def test_every_method_of_postgresql_17(postgres17: EmbeddedPostgres, user: str) -> None:
    greeting = log_in_to(postgres17, password_of(user), codes.PROTOCOL_3_2)
    assert greeting.method == METHODS[user]
    assert greeting.version == codes.PROTOCOL_3_0  # negotiated
    assert len(greeting.cancel_secret) == 4


@pytest.mark.parametrize("user", [user for user in METHODS if user != "postgres"])
def test_a_wrong_password_is_refused_by_the_server(postgres18: EmbeddedPostgres, user: str) -> None:
    with pytest.raises(BackendRefused) as caught:
        log_in_to(postgres18, password_of(user, "wrong"))
    assert caught.value.sqlstate_of_server == "28P01"
    assert caught.value.fields["M"] == f'password authentication failed for user "{user}"'


def rolpassword(server: EmbeddedPostgres, user: str) -> StoredSecret:
    return parse_secret(server.execute(f"select rolpassword from pg_authid where rolname = '{user}'"))


def test_pass_through_by_hash(postgres18: EmbeddedPostgres) -> None:
    secret = rolpassword(postgres18, "md5_user")
    greeting = log_in_to(postgres18, BackendCredentials.from_secret("md5_user", secret))
    assert greeting.method == "md5"


def test_pass_through_by_client_key(postgres18: EmbeddedPostgres) -> None:
    """The keys that a client's log-in at our door teaches open PostgreSQL's."""
    secret = rolpassword(postgres18, "scram_user")
    keys = learn_keys(secret)
    greeting = log_in_to(postgres18, BackendCredentials.from_secret("scram_user", secret, keys))
    assert greeting.method == "scram-sha-256"
    with pytest.raises(CredentialsMissing):
        log_in_to(postgres18, BackendCredentials.from_secret("scram_user", secret))
    with pytest.raises(CredentialsMissing, match="was the password changed"):
        log_in_to(postgres18, BackendCredentials("ours_user", scram_keys=keys))


def learn_keys(secret: StoredSecret) -> ScramKeys | None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        thread = threading.Thread(target=converse, args=(_password_login(), theirs), daemon=True)
        thread.start()
        identity = converse(authenticate(attempt("scram_user", "scram-sha-256")), ours, secret)
        ours.sendall(wire.ok() + b"Z\0\0\0\x05I")
        thread.join(PATIENCE)
    return identity.scram_keys


def _password_login() -> Dialogue[BackendGreeting]:
    greeting = log_in(startup_message({"user": "scram_user"}), password_of("scram_user"))
    next(greeting)  # the start-up packet goes to nobody here
    result = yield from greeting
    return result


def test_channel_binding_with_a_real_certificate(postgres17: EmbeddedPostgres) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with connect(postgres17) as plain:
        plain.sendall(ssl_request())
        assert plain.recv(1) == b"S"
        with context.wrap_socket(plain) as peer:
            certificate = peer.getpeercert(binary_form=True)
            assert certificate is not None
            bindings = {"tls-server-end-point": hashlib.sha256(certificate).digest()}
            startup = startup_message({"user": "scram_user", "database": "postgres"})
            policy = LoginPolicy(bindings, channel_binding="require")
            assert converse(log_in(startup, password_of("scram_user"), policy), peer).method == "scram-sha-256-plus"


# psql at our door.


def attempt(user: str, method: str) -> LoginAttempt:
    rules = parse_hba(f"host all all all {method}")
    return LoginAttempt(user, "shop", "127.0.0.1", rules, LoginKnobs(MadeVerifiers()))


@dataclass
class Door:
    """Takes one client and has it prove itself; what came of it is in `outcome`."""

    login: LoginAttempt
    secret: StoredSecret | None
    outcome: object = None

    def serve(self, listener: socket.socket) -> None:
        peer, _ = listener.accept()
        peer.settimeout(PATIENCE)
        with peer:
            size = int.from_bytes(peer.recv(4, socket.MSG_WAITALL))
            peer.recv(size - 4, socket.MSG_WAITALL)
            try:
                self.outcome = converse(self._admit(), peer, self.secret)
            except PgDoormanError as error:
                self.outcome = error
                text = f"SFATAL\0VFATAL\0C{error.sqlstate}\0M{error}\0\0".encode()
                with suppress(OSError):
                    peer.sendall(b"E" + (4 + len(text)).to_bytes(4) + text)
            else:
                peer.recv(1000)  # the query, which gets an empty answer
                peer.sendall(b"I\0\0\0\x04Z\0\0\0\x05I")

    def _admit(self) -> Dialogue[object]:
        identity = yield from authenticate(self.login)
        yield Send(wire.ok() + b"Z\0\0\0\x05I")
        return identity


def psql(server: EmbeddedPostgres, door: Door, password: str) -> "subprocess.CompletedProcess[str]":
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        listener.settimeout(PATIENCE)
        thread = threading.Thread(target=door.serve, args=(listener,), daemon=True)
        thread.start()
        port = listener.getsockname()[1]
        where = f"host=127.0.0.1 port={port} user={door.login.user} dbname=shop sslmode=disable gssencmode=disable"
        done = server.run_program("psql", "-X", "-c", ";", where, password=password, patience=PATIENCE)
        thread.join(PATIENCE)
        return done


STORED = {
    "plain": PASSWORD,
    "md5": hash_password("alice", PASSWORD, "md5"),
    "scram": verifier_of(derive_keys(PASSWORD.encode(), b"saltsaltsaltsalt", 4096)).text(),
}


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        ("password", "plain"),
        ("password", "md5"),
        ("password", "scram"),
        ("md5", "plain"),
        ("md5", "md5"),
        ("md5", "scram"),
        ("scram-sha-256", "plain"),
        ("scram-sha-256", "scram"),
    ],
)
def test_psql_logs_in(postgres17: EmbeddedPostgres, method: str, kind: str) -> None:
    door = Door(attempt("alice", method), parse_secret(STORED[kind]))
    done = psql(postgres17, door, PASSWORD)
    assert done.returncode == 0, done.stderr
    assert not isinstance(door.outcome, PgDoormanError)
    door = Door(attempt("alice", method), parse_secret(STORED[kind]))
    done = psql(postgres17, door, "wrong")
    assert 'FATAL:  password authentication failed for user "alice"' in done.stderr
    assert isinstance(door.outcome, LoginRefused)


def test_psql_sees_no_channel_binding_without_tls(postgres17: EmbeddedPostgres) -> None:
    login = replace(attempt("alice", "scram-sha-256"), tls=TlsFacts({"tls-server-end-point": b"x" * 32}))
    done = psql(postgres17, Door(login, parse_secret(STORED["scram"])), PASSWORD)
    # It is offered PLUS over a connection that it knows to be plain, and libpq refuses that.
    assert "SCRAM-SHA-256-PLUS" in done.stderr


# Rule files.

# Lines that both sides judge alike. The form of the error is ours, whether there is one is not.
LINES = [
    "local all all trust",
    "local all all trust trust",
    "local all all ident",
    "local all all peer map=m",
    "local all all cert",
    "local all",
    "host all all all trust",
    'host "all" "all" "all" "trust"',
    "host a,b c, d 10.0.0.0/8 md5",
    "host a , b c 10.0.0.0/8 md5",
    "host a,b c,d e,f md5",
    "host all all 10.0.0.0/8 md5 # comment",
    "host all all 10.0.0.0/8 md5 map=m",
    "host all all 10.0.0.0/33 md5",
    "host all all 10.0.0.0/ md5",
    "host all all 10.0.0.0 255.0.0.0 md5",
    "host all all 10.0.0.0 ::1 md5",
    "host all all 10.0.0.0 md5",
    "host all all 10.0.0.0",
    "host all all ::/0 md5",
    "host all all ::1/129 md5",
    "host all all fe80::1/64 md5",
    "host all all example.com md5",
    "host all all .example.com md5",
    "host all all example.com/8 md5",
    "host all all samehost md5",
    "host all all samenet md5",
    "host all all all peer",
    "host all all all cert",
    "host all all all md5,trust",
    "host all all all MD5",
    "host,hostssl all all all md5",
    "hostnossl all all all reject",
    "nonsense all all all trust",
    "host /^db[0-9]+$ /^app all md5",
    'host "/^(a|b){1,2}$" all all md5',
    "host /( all all md5",
    "host all /[ all md5",
    "host all all all password nonsense",
    "host all all all password nonsense=1",
    "host replication,sameuser all all scram-sha-256",
    "hostssl all all all md5 clientcert=verify-ca",
    "hostssl all all all md5 clientcert=verify-full",
    "hostssl all all all md5 clientcert=verify-full clientname=DN",
    "hostssl all all all md5 clientname=CN",
    "hostssl all all all cert",
    "hostssl all all all cert map=m",
    "hostssl all all all cert clientname=CN",
    "hostssl all all all cert clientcert=verify-ca",
    "hostssl all all all cert clientcert=verify-full",
    "host all all all cert clientcert=verify-full",
    "host all all all md5 clientcert=verify-full",
]


def test_postgresql_reads_rules_as_we_do(postgres17: EmbeddedPostgres) -> None:
    path = next(postgres17.directory.rglob("pg_hba.conf"))
    kept = path.read_text()
    try:
        path.write_text("\n".join(LINES) + "\n")
        rows = postgres17.execute("select line_number, error is null from pg_hba_file_rules order by 1")
    finally:
        path.write_text(kept)
    theirs = {int(number): good == "t" for number, good in (row.split("|") for row in rows.splitlines())}
    for number, line in enumerate(LINES, 1):
        try:
            parse_hba(line)
            ours = True
        except ConfigErrors:
            ours = False
        assert ours == theirs[number], line


def test_postgresql_cuts_fields_as_we_do(postgres18: EmbeddedPostgres) -> None:
    """The database field of odd lines, as pg_hba_file_rules shows it."""
    fields = ['a,b', '"a,b"', '"a""b"', 'a"b c"d', 'a, b', '"a b",c', 'a,,b', '"",x', 'a",",b']  # fmt: skip
    path = next(postgres18.directory.rglob("pg_hba.conf"))
    kept = path.read_text()
    try:
        path.write_text("\n".join(f"local {field} all trust" for field in fields) + "\n")
        rows = postgres18.execute("select array_to_string(database, '/') from pg_hba_file_rules order by line_number")
    finally:
        path.write_text(kept)
    ours = ["/".join(token.text for token in split_fields(f"local {field} all trust")[1]) for field in fields]
    assert ours == rows.splitlines()
