"""TLS towards clients and towards PostgreSQL: who gets it, who must have it, and what nobody gets past it.

Clients are libpq 17's psql, drivers, openssl's s_client and hands of our own; the server is a PostgreSQL with TLS.
"""

import asyncio
import contextlib
import random
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest

from pgdoorman.cli import run as runner
from tests.integration.conftest import StartDoorman
from tests.support.certificates import Authority, self_signed, subject
from tests.support.doorman import ADMIN_PASSWORD, Doorman, pool, user
from tests.support.fake_server import FakeServer, Peer
from tests.support.middleman import Middleman
from tests.support.postgres import SECRET, Postgres
from tests.support.process import wait_until
from tests.support.raw_tls import trusting_context
from tests.support.tls_postgres import TlsPostgres
from tests.support.wire import (
    ServerError,
    Wire,
    WireError,
    cancel_request,
    gssenc_request,
    query,
    ssl_request,
    startup,
)

DAY = timedelta(days=1)
ENCRYPTED = "select ssl from pg_stat_ssl where pid = pg_backend_pid()"


@dataclass(frozen=True)
class Papers:
    """Everything that has been signed."""

    folder: Path
    servers: Authority
    clients: Authority
    servers_ca: Path
    clients_ca: Path
    ours: tuple[Path, Path]
    alice: tuple[Path, Path]
    by_cert: tuple[Path, Path]

    def context(self, client: tuple[Path, Path] | None = None) -> ssl.SSLContext:
        """What a careful client uses."""
        context = ssl.create_default_context(cafile=str(self.servers_ca))
        if client is not None:
            context.load_cert_chain(*client)
        return context

    def general(self, **others: Any) -> dict[str, Any]:
        """Our settings towards clients."""
        return {"tls_certificate": str(self.ours[0]), "tls_private_key": str(self.ours[1]), **others}


@pytest.fixture(scope="module")
def papers(workspace: Path) -> Papers:
    folder = workspace / "papers"
    folder.mkdir()
    servers, clients = Authority("Servers"), Authority("Clients")
    whole = subject("alice", organisation="Example", unit="People")
    return Papers(
        folder,
        servers,
        clients,
        servers.write(folder, "servers-ca"),
        clients.write(folder, "clients-ca"),
        servers.issue("localhost", ["localhost", "127.0.0.1"]).write(folder, "ours"),
        clients.issue(whole, for_clients=True).write(folder, "alice"),
        clients.issue("by_cert", for_clients=True).write(folder, "by_cert"),
    )


@pytest.fixture(scope="module")
def tls_postgres(papers: Papers) -> Iterator[TlsPostgres]:
    pair = papers.servers.issue("postgres", ["localhost", "127.0.0.1"])
    with TlsPostgres(pair, papers.clients) as server:
        server.populate()
        yield server


HBA = """\
host pgdoorman,pgbouncer all all md5
host all scram_user all scram-sha-256
hostssl all alice,by_cert all cert
hostssl all bob all trust
hostssl all plain all trust clientcert=verify-ca
hostnossl all only_plain all trust
local all all trust
"""


@pytest.fixture(scope="module")
def doorman(start_module_doorman: StartDoorman, tls_postgres: TlsPostgres, papers: Papers, workspace: Path) -> Doorman:
    """TLS is allowed on this side and verified on the other."""
    names = ("alice", "bob", "plain", "only_plain", "by_cert")
    return start_module_doorman(
        pools={
            "app": pool(
                tls_postgres,
                *(user(name, pool_size=3) for name in names if name not in ("only_plain", "by_cert", "plain")),
                user("by_cert", server_username="bob"),
                user("plain", server_username="bob"),
                user("only_plain", server_username="bob"),
                user("scram_user", SECRET, pool_size=3),
                server_tls_mode="verify-full",
                server_tls_ca_cert=str(papers.servers_ca),
            )
        },
        general=papers.general(
            tls_ca_cert=str(papers.clients_ca), pg_hba={"content": HBA}, unix_socket_dir=str(workspace)
        ),
    )


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    error: str


@pytest.fixture(scope="module")
def psql(tls_postgres: TlsPostgres, papers: Papers) -> Callable[..., Answer]:
    """libpq 17's psql: PSQL(port, sql, user=..., sslmode=...)."""

    def run(port: int, sql: str = ENCRYPTED, password: str = SECRET, **options: str) -> Answer:
        wanted = {"host": "localhost", "port": str(port), "dbname": "app", "sslmode": "require", **options}
        if wanted["sslmode"].startswith("verify"):
            wanted.setdefault("sslrootcert", str(papers.servers_ca))
        text = " ".join(f"{name}={value}" for name, value in wanted.items())
        done = tls_postgres.run_program("psql", "-qXAt", "-c", sql, text, password=password)
        return Answer(done.returncode, done.stdout.strip(), done.stderr.strip())

    return run


# Towards clients: who gets in.


@pytest.mark.parametrize("negotiation", ["postgres", "direct"])
@pytest.mark.parametrize("sslmode", ["require", "verify-full"])
def test_psql(doorman: Doorman, psql: Callable[..., Answer], sslmode: str, negotiation: str) -> None:
    answer = psql(doorman.port, user="bob", sslmode=sslmode, sslnegotiation=negotiation)
    assert (answer.code, answer.out) == (0, "t"), answer


def test_what_clients_are_is_shown(doorman: Doorman, psql: Callable[..., Answer], papers: Papers) -> None:
    with Wire.connect("localhost", doorman.port, user="bob", database="app", tls=papers.context()) as inside:
        inside.value("select 1")
        shown = psql(doorman.port, "show clients", ADMIN_PASSWORD, user="admin", dbname="pgdoorman").out.splitlines()
        assert sorted(line.split("|")[2:6:3] for line in shown) == [["admin", "true"], ["bob", "true"]]
        servers = doorman.show("servers")
        assert servers
        assert all(row["tls"] == "true" for row in servers)
        with doorman.connect("pgbouncer", "admin", ADMIN_PASSWORD) as console:
            rows = console.rows("show clients")
        assert any("TLSv1.3/TLS_AES_256_GCM_SHA384" in row for row in rows)
        counted = doorman.show("connections")[0]
        assert int(counted["tls"] or 0) >= 2


def test_modes(
    start_doorman: StartDoorman, tls_postgres: TlsPostgres, papers: Papers, psql: Callable[..., Answer]
) -> None:
    doorman = start_doorman(
        pools={"app": pool(tls_postgres, user("bob"), server_tls_mode="require")},
        general=papers.general(tls_mode="disable", tls_ca_cert=str(papers.clients_ca)),
    )
    refused = "Connection without SSL is not allowed by tls_mode."
    for mode, sslmode, out in (
        ("disable", "prefer", "t"),
        ("disable", "require", "server does not support SSL"),
        ("allow", "disable", "t"),
        ("prefer", "require", "t"),
        ("require", "disable", refused),
        ("require", "prefer", "t"),
        ("require", "verify-full", "t"),
        ("verify-full", "require", "certificate required"),
        ("verify-ca", "disable", refused),
    ):
        if doorman.general["tls_mode"] != mode:
            doorman.general["tls_mode"] = mode
            doorman.write_config()
            loaded = doorman.log().count("reloaded: ")
            doorman.reload()
            wait_until(lambda: doorman.log().count("reloaded: ") > loaded, 10.0, "the reload")  # noqa: B023 - at once
        answer = psql(doorman.port, user="bob", sslmode=sslmode)
        assert out in (answer.error if answer.code else answer.out), (mode, sslmode, answer)
    certificate, key = papers.alice
    assert psql(doorman.port, user="bob", sslcert=str(certificate), sslkey=str(key)).out == "t"


def test_drivers(doorman: Doorman, papers: Papers) -> None:
    text = f"host=localhost port={doorman.port} dbname=app sslmode=verify-full sslrootcert={papers.servers_ca}"
    with psycopg.connect(f"{text} user=bob", autocommit=True) as connection:
        assert connection.execute(ENCRYPTED).fetchone() == (True,)
        assert connection.pgconn.ssl_in_use
        rows = connection.execute("select n, repeat('x', 500) from generate_series(1, 5000) n").fetchall()
        assert len(rows) == 5000
        with connection.pipeline():
            cursors = [connection.execute("select %s::int", (number,)) for number in range(300)]
            assert [cursor.fetchone() for cursor in cursors] == [(number,) for number in range(300)]
    required = "channel_binding=require"
    with psycopg.connect(f"{text} user=scram_user password={SECRET} {required}") as connection:
        assert connection.execute("select 1").fetchone() == (1,)

    async def with_asyncpg() -> None:
        connection: Any = await asyncpg.connect(
            host="localhost", port=doorman.port, user="bob", database="app", ssl=papers.context()
        )
        assert await connection.fetchval(ENCRYPTED) is True
        assert await connection.fetchval("select length($1)", "x" * 300_000) == 300_000
        assert len(await connection.fetch("select repeat('y', 1000) from generate_series(1, 2000)")) == 2000
        await connection.close()

    asyncio.run(with_asyncpg())


@pytest.mark.parametrize(
    ("name", "papers_of", "out"),
    [
        ("alice", "alice", "t"),
        ("alice", None, "connection requires a valid client certificate"),
        ("alice", "by_cert", 'certificate authentication failed for user "alice"'),
        ("by_cert", "by_cert", "t"),
        ("bob", "alice", "t"),
        ("plain", "alice", "t"),
        ("plain", None, "connection requires a valid client certificate"),
        ("only_plain", None, "is not permitted by HBA configuration"),
    ],
)
def test_certificates_of_clients(
    doorman: Doorman, papers: Papers, psql: Callable[..., Answer], name: str, papers_of: str | None, out: str
) -> None:
    shown = {}
    if papers_of is not None:
        certificate, key = getattr(papers, papers_of)
        shown = {"sslcert": str(certificate), "sslkey": str(key)}
    answer = psql(doorman.port, user=name, **shown)
    assert out in (answer.error if answer.code else answer.out), answer


def test_rules_for_those_without_tls(doorman: Doorman, psql: Callable[..., Answer]) -> None:
    assert psql(doorman.port, user="only_plain", sslmode="disable").out == "t"
    assert "(TLS: false) is not permitted" in psql(doorman.port, user="bob", sslmode="disable").error


def test_a_distinguished_name(
    start_doorman: StartDoorman, tls_postgres: TlsPostgres, papers: Papers, psql: Callable[..., Answer]
) -> None:
    rules = "hostssl all all all cert clientname=DN map=people\nhost all all all reject\n"
    (papers.folder / "ident.conf").write_text('people "CN=alice,OU=People,O=Example" bob\n')
    doorman = start_doorman(
        pools={"app": pool(tls_postgres, user("bob"), user("alice"), server_tls_mode="require")},
        general=papers.general(
            tls_ca_cert=str(papers.clients_ca),
            pg_hba={"content": rules},
            pg_ident={"path": str(papers.folder / "ident.conf")},
        ),
    )
    certificate, key = (str(path) for path in papers.alice)
    assert psql(doorman.port, user="bob", sslcert=certificate, sslkey=key).out == "t"
    assert (
        "certificate authentication failed" in psql(doorman.port, user="alice", sslcert=certificate, sslkey=key).error
    )


def test_certificates_that_are_not_valid(
    start_doorman: StartDoorman, tls_postgres: TlsPostgres, papers: Papers, psql: Callable[..., Answer], tmp_path: Path
) -> None:
    """One that is not asked for is refused as well: whoever shows it means to prove something."""
    revoked = papers.clients.issue("alice", for_clients=True)
    crl = papers.folder / "clients.crl"
    crl.write_bytes(papers.clients.revoke(revoked))
    doorman = start_doorman(
        pools={"app": pool(tls_postgres, user("alice"), server_tls_mode="require")},
        general=papers.general(tls_ca_cert=str(papers.clients_ca), tls_crl=str(crl)),
    )
    expired = papers.clients.issue("alice", begins=-3 * DAY, ends=-DAY, for_clients=True)
    for pair, reason in (
        (self_signed("alice"), "it is signed by itself and not trusted"),
        (expired, "it has expired"),
        (Authority("Another").issue("alice", for_clients=True), "its issuer is not known"),
        (revoked, "it has been revoked"),
        (papers.clients.issue("alice"), "it is not for this purpose"),
    ):
        certificate, key = (str(path) for path in pair.write(tmp_path, "shown"))
        answer = psql(doorman.port, user="alice", sslcert=certificate, sslkey=key)
        assert answer.code, (reason, answer)
        wait_until(lambda: f"certificate verify failed: {reason}" in doorman.log(), 5.0, reason)  # noqa: B023 - at once
    certificate, key = (str(path) for path in papers.alice)
    assert psql(doorman.port, user="alice", sslcert=certificate, sslkey=key).out == "t"


def test_channel_binding(doorman: Doorman, psql: Callable[..., Answer]) -> None:
    assert psql(doorman.port, "select 1", user="scram_user", channel_binding="require").out == "1"
    wrong = psql(doorman.port, "select 1", "wrong", user="scram_user", channel_binding="require")
    assert 'password authentication failed for user "scram_user"' in wrong.error
    without = psql(doorman.port, "select 1", user="scram_user", sslmode="disable", channel_binding="prefer")
    assert without.out == "1"


def test_a_refused_client_is_told_although_it_says_more(doorman: Doorman, papers: Papers) -> None:
    """With TLS 1.3 a client is done before its certificate is judged, and goes on: what is unread when its connection is closed
    must not make the alert get lost in a reset."""
    expired = papers.clients.issue("alice", begins=-3 * DAY, ends=-DAY, for_clients=True).write(papers.folder, "late")
    context = papers.context(expired)
    for _ in range(10):
        wire = doorman.dial()
        wire.send(ssl_request())
        assert wire.receive_bytes(1) == b"S"
        with context.wrap_socket(wire.sock, server_hostname="localhost") as sock:
            sock.sendall(startup({"user": "alice", "database": "app"}).data)
            sock.sendall(bytes(100_000))
            with pytest.raises(ssl.SSLError, match=r"(?i)alert.certificate.expired"):
                sock.recv(100)


def test_a_refused_login_is_told_although_it_says_more(doorman: Doorman) -> None:
    for _ in range(10):
        with doorman.dial() as wire:
            refused = startup({"user": "nobody_here", "database": "app"}).data
            wire.send_bytes(refused + query("select 1").data * 5000)
            assert wire.sock.recv(1, socket.MSG_PEEK)
            for _ in range(100):  # many a driver does not read any more once this has failed
                wire.send_bytes(query("select 2").data)
            assert wire.receive().fields()["C"] == "28000"
            assert wire.sock.recv(1) == b""


def test_channel_binding_notices_a_middleman(doorman: Doorman, papers: Papers, psql: Callable[..., Answer]) -> None:
    """His certificate may be as good as ours: it is not ours."""
    his = papers.servers.issue("localhost", ["localhost"]).write(papers.folder, "his")
    with Middleman(("127.0.0.1", doorman.port), his) as middleman:
        assert psql(middleman.port, user="bob", sslmode="verify-full").out == "t", "he passes things on faithfully"
        answer = psql(middleman.port, "select 1", user="scram_user", channel_binding="require")
        assert answer.code
        assert "channel binding" in answer.error.lower()


# Direct TLS, and what is no proper request.


def raw_tls(doorman: Doorman, protocols: list[str]) -> ssl.SSLSocket:
    context = trusting_context()
    if protocols:
        context.set_alpn_protocols(protocols)
    return context.wrap_socket(socket.create_connection((doorman.host, doorman.port), timeout=10))


@pytest.mark.parametrize(
    ("protocols", "reason"), [([], "direct TLS without the protocol"), (["http/1.1"], "another protocol")]
)
def test_direct_tls_says_which_protocol_it_means(doorman: Doorman, protocols: list[str], reason: str) -> None:
    sock = raw_tls(doorman, protocols)
    with sock:
        try:
            sock.sendall(startup({"user": "bob", "database": "app"}).data)
            assert sock.recv(100) == b""
        except OSError:
            pass
    wait_until(lambda: reason in doorman.log(), 5.0, "the reason in the log")


def test_direct_tls(doorman: Doorman) -> None:
    wire = Wire(raw_tls(doorman, ["postgresql"]))
    wire.log_in({"user": "bob", "database": "app"})
    assert wire.value(ENCRYPTED) == "t"
    wire.terminate()


def test_requests_one_after_another(doorman: Doorman, papers: Papers) -> None:
    wire = doorman.dial()
    wire.send(gssenc_request())
    assert wire.receive_bytes(1) == b"N"
    wire.start_tls(papers.context())
    wire.log_in({"user": "bob", "database": "app"})
    assert wire.value("select 1") == "1"
    wire.terminate()


@pytest.mark.parametrize("request_", [ssl_request(), gssenc_request()], ids=["SSLRequest", "GSSENCRequest"])
def test_no_encryption_inside_of_encryption(doorman: Doorman, papers: Papers, request_: Any) -> None:
    wire = doorman.dial()
    wire.start_tls(papers.context())
    wire.send(request_)
    reply = wire.receive()
    assert (reply.kind, reply.fields()["C"]) == ("E", "08P01")
    wire.wait_closed()
    wire.hang_up()


@pytest.mark.parametrize("together", [True, False], ids=["one segment", "two segments"])
def test_bytes_before_the_handshake(doorman: Doorman, together: bool) -> None:
    """CVE-2021-23214: what somebody has put behind the request is never taken for what the client says under TLS."""
    wire = doorman.dial(4.0)
    injected = startup({"user": "only_plain", "database": "app"}).data + query("select 'injected'").data
    if together:
        wire.send_bytes(ssl_request().data + injected)
    else:
        wire.send(ssl_request())
        assert wire.receive_bytes(1) == b"S"
        wire.send_bytes(injected)
    came = b""
    try:
        while data := wire.sock.recv(65536):
            came += data
    except OSError:
        pass
    assert b"injected" not in came
    assert b"R\0\0\0\x08\0\0\0\0" not in came
    if together:
        assert b"received unencrypted data after" in came
    wire.hang_up()


def test_unix_sockets_have_none(doorman: Doorman, workspace: Path, start_doorman: StartDoorman, papers: Papers,
                                tls_postgres: TlsPostgres) -> None:  # fmt: skip
    wire = Wire.dial(str(workspace), doorman.port)
    wire.send(ssl_request())
    assert wire.receive_bytes(1) == b"N"
    wire.log_in({"user": "bob", "database": "app"})
    wire.terminate()
    strict = start_doorman(
        pools={"app": pool(tls_postgres, user("bob"))},
        general=papers.general(tls_mode="require", unix_socket_dir=str(workspace)),
    )
    with Wire.connect(str(workspace), strict.port, user="bob", database="app") as inside:
        assert inside.value("select 1") == "1"


# Under load, and from clients that dawdle.


def test_half_a_handshake_stalls_nobody(start_doorman: StartDoorman, tls_postgres: TlsPostgres, papers: Papers) -> None:
    doorman = start_doorman(
        pools={"app": pool(tls_postgres, user("bob"))}, general=papers.general(client_login_timeout="3s")
    )
    opened = [Wire.connect("localhost", doorman.port, user="bob", database="app", tls=papers.context())]
    assert opened[0].value("select 1") == "1"
    base = doorman.descriptor_count()
    idle: list[Wire] = []
    for number in range(60):
        wire = doorman.dial()
        if number % 3 == 0:
            wire.send_bytes(b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03")
        else:
            wire.send(ssl_request())
            assert wire.receive_bytes(1) == b"S"
            if number % 3 == 1:
                wire.send_bytes(b"\x16\x03\x01")
        idle.append(wire)
    for _ in range(20):
        with Wire.connect("localhost", doorman.port, user="bob", database="app", tls=papers.context()) as wire:
            assert wire.value("select 1") == "1"
            assert opened[0].value("select 2") == "2"
    for wire in idle:
        wire.sock.settimeout(10.0)
        try:
            assert wire.sock.recv(100) == b"", "nobody understands plain text in the middle of a handshake"
        except ConnectionResetError:
            pass
        wire.hang_up()
    doorman.wait_descriptors(base, slack=4)
    opened[0].terminate()


def test_handshakes_that_never_end_are_no_more_than_clients_may_be(
    start_doorman: StartDoorman, tls_postgres: TlsPostgres, papers: Papers
) -> None:
    doorman = start_doorman(
        pools={"app": pool(tls_postgres, user("bob"))}, general=papers.general(max_connections=5)
    )  # fmt: skip
    begun = [doorman.dial() for _ in range(5)]
    for wire in begun:
        wire.send(ssl_request())
        assert wire.receive_bytes(1) == b"S"
    refused = doorman.dial()
    refused.send(ssl_request())
    reply = refused.receive()
    assert (reply.kind, reply.fields()["C"]) == ("E", "53300")
    refused.hang_up()
    with pytest.raises(OSError, match=r"EOF|reset|closed"), raw_tls(doorman, ["postgresql"]):
        pass
    with doorman.connect("app", "bob") as wire:
        assert wire.value("select 1") == "1", "those without TLS come in as before"
    for wire in begun:
        wire.hang_up()
    wait_until(lambda: _lets_in(doorman, papers), 10.0, "there is room again")


def _lets_in(doorman: Doorman, papers: Papers) -> bool:
    try:
        Wire.connect("localhost", doorman.port, user="bob", database="app", tls=papers.context()).terminate()
    except (OSError, WireError, ServerError):
        return False
    return True


def test_handshakes_are_limited(start_doorman: StartDoorman, tls_postgres: TlsPostgres, papers: Papers) -> None:
    doorman = start_doorman(
        pools={"app": pool(tls_postgres, user("bob"))}, general=papers.general(tls_rate_limit_per_second=100)
    )
    began = time.monotonic()
    waiting = [doorman.dial() for _ in range(60)]
    for wire in waiting:
        wire.send(ssl_request())
    context = papers.context()
    for wire in waiting:
        assert wire.receive_bytes(1) == b"S"
    threads = [threading.Thread(target=_shake, args=(wire, context)) for wire in waiting]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - began > 0.5, "60 handshakes at 100 a second"
    for wire in waiting:
        assert isinstance(wire.sock, ssl.SSLSocket)
        wire.hang_up()


def _shake(wire: Wire, context: ssl.SSLContext) -> None:
    wire.sock = context.wrap_socket(wire.sock, server_hostname="localhost")


def test_many_clients_few_backends(doorman: Doorman, papers: Papers) -> None:
    """Clients that wait go over to the worker that has a backend for them, TLS and all."""
    failures: list[BaseException] = []
    context = papers.context()

    def work(number: int) -> None:
        try:
            chance = random.Random(number)
            with Wire.connect("localhost", doorman.port, user="bob", database="app", tls=context, patience=60) as wire:
                for turn in range(40):
                    size = chance.choice((1, 100, 8000, 16384, 40_000))
                    text = f"{number}.{turn}." + "x" * size
                    assert wire.value(f"select '{text}'") == text
        except BaseException as error:  # noqa: BLE001 - reported below
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[:3]


@pytest.mark.parametrize("towards", ["client", "server"])
def test_much_data(doorman: Doorman, psql: Callable[..., Answer], tmp_path: Path, towards: str) -> None:
    """32 MB, through a client that is slower than the server, or a server that is slower than the client."""
    file = tmp_path / "data"
    if towards == "client":
        sql = f"\\copy (select n, repeat(md5(n::text), 30) from generate_series(1, 33000) n) to '{file}'"
        answer = psql(doorman.port, sql, user="bob")
        assert answer.code == 0, answer
        assert file.stat().st_size > 31_000_000
        assert file.read_bytes().count(b"\n") == 33000
        return
    file.write_text("".join(f"{number}\t{'y' * 990}\n" for number in range(33000)))
    psql(doorman.port, "create table if not exists poured (n int, t text); truncate poured", user="bob")
    answer = psql(doorman.port, f"\\copy poured from '{file}'", user="bob")
    assert answer.code == 0, answer
    assert psql(doorman.port, "select count(*), sum(length(t)) from poured", user="bob").out == "33000|32670000"


def test_a_client_that_reads_late(doorman: Doorman, papers: Papers) -> None:
    """Records that are half out are taken up where they stopped, whatever came meanwhile."""
    with Wire.connect("localhost", doorman.port, user="bob", database="app", tls=papers.context()) as wire:
        wire.send(query("select repeat('z', 100000) from generate_series(1, 120)"), query("select 'behind'"))
        time.sleep(0.5)  # not for anybody: it lets the buffers fill up
        replies = wire.settle(60.0)
        assert sum(len(reply.body) for reply in replies if reply.kind == "D") > 12_000_000
        assert replies[-3].columns() == [b"behind"]


def test_byte_by_byte(start_doorman: StartDoorman, tls_postgres: TlsPostgres, papers: Papers) -> None:
    """Nobody may count on records, or messages, that come whole: on neither side, from the first byte on."""
    with contextlib.ExitStack() as stack:
        behind = stack.enter_context(Middleman((tls_postgres.host, tls_postgres.port), piece=1))
        doorman = start_doorman(
            pools={
                "app": pool(
                    (behind.host, behind.port), user("scram_user", SECRET), server_tls_mode="require",
                    connect_timeout="20s",
                )
            },
            general=papers.general(pg_hba={"content": "host all all all scram-sha-256"}),
        )  # fmt: skip
        front = stack.enter_context(Middleman((doorman.host, doorman.port), piece=1))
        text = f"host=localhost port={front.port} user=scram_user password={SECRET} dbname=app"
        with psycopg.connect(f"{text} sslmode=require channel_binding=require", autocommit=True) as connection:
            assert connection.execute("select repeat('x', 20000)").fetchone() == ("x" * 20000,)
            assert connection.execute("select length(%s)", ("y" * 20000,)).fetchone() == (20000,)


@pytest.mark.parametrize("centre", [8192, 16384, 32768, 65536])
def test_around_the_sizes_of_buffers(doorman: Doorman, papers: Papers, centre: int) -> None:
    """An answer, or a query, whose last byte falls just before or behind the end of a record, a read or a buffer."""
    with Wire.connect("localhost", doorman.port, user="bob", database="app", tls=papers.context()) as wire:
        for size in range(centre - 70, centre + 10, 3):
            assert wire.value(f"select length('{'q' * size}')") == str(size)
            assert len(wire.value(f"select repeat('a', {size})") or "") == size


def test_cancels_in_a_storm(doorman: Doorman, papers: Papers) -> None:
    """Over TLS on both sides: each hits the query that was meant, or nothing."""
    context = papers.context()
    failures: list[BaseException] = []

    def work(number: int) -> None:
        chance = random.Random(number)
        try:
            with Wire.connect("localhost", doorman.port, user="bob", database="app", tls=context, patience=60) as wire:
                for turn in range(12):
                    cancelled = chance.random() < 0.5
                    wire.send(query(f"select '{number}.{turn}' from pg_sleep({chance.choice((0, 0.01, 0.03))})"))
                    if cancelled:
                        killer = doorman.dial()
                        if chance.random() < 0.7:
                            killer.start_tls(context)
                        killer.send(cancel_request(wire.process_id, wire.secret))
                        killer.hang_up()
                    for reply in wire.settle(60.0):
                        if reply.kind == "D":
                            assert reply.columns() == [f"{number}.{turn}".encode()]
                        if reply.kind == "E":
                            assert reply.fields()["C"] == "57014", reply
        except BaseException as error:  # noqa: BLE001 - reported below
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[:3]


def test_openssl(doorman: Doorman, papers: Papers) -> None:
    """A key update from the client is answered in the stream; a renegotiation is refused; no session is resumed."""
    base = ["openssl", "s_client", "-connect", f"127.0.0.1:{doorman.port}", "-CAfile", str(papers.servers_ca)]
    session = papers.folder / "session"
    done = subprocess.run(
        [*base, "-starttls", "postgres", "-tls1_3", "-sess_out", str(session)],
        input=b"", capture_output=True, timeout=30, check=False,
    )  # fmt: skip
    assert b"Verification: OK" in done.stdout
    if session.exists():
        again = subprocess.run(
            [*base, "-starttls", "postgres", "-tls1_3", "-sess_in", str(session)],
            input=b"", capture_output=True, timeout=30, check=False,
        )  # fmt: skip
        assert b"New, TLSv1.3" in again.stdout
    for version, command, word in (("-tls1_3", b"K\n", b"KEYUPDATE"), ("-tls1_2", b"R\n", b"RENEGOTIATING")):
        said = _talk([*base, "-starttls", "postgres", version], command)
        assert word in said
        assert (b"server_version" in said) == (version == "-tls1_3"), said[-2000:]
    with Wire.connect("localhost", doorman.port, user="bob", database="app", tls=papers.context()) as wire:
        assert wire.value("select 1") == "1"


def _talk(command: list[str], first: bytes) -> bytes:
    """What s_client says when it is given a command and then, if it lives, a start-up message."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as client:
        assert client.stdin is not None
        with contextlib.suppress(OSError):
            for data in (first, startup({"user": "bob", "database": "app"}).data):
                time.sleep(0.3)  # it looks for commands at the beginning of what it reads at once
                client.stdin.write(data)
                client.stdin.flush()
            time.sleep(0.5)
        return client.communicate(timeout=30)[0]


# Cancel.


@pytest.mark.parametrize("encrypted", [True, False])
def test_cancel(doorman: Doorman, papers: Papers, tls_postgres: TlsPostgres, encrypted: bool) -> None:
    context = papers.context()
    with Wire.connect("localhost", doorman.port, user="bob", database="app", tls=context) as wire:
        wire.send(query("select pg_sleep(60)"))
        wait_until(lambda: _sleeping(tls_postgres) == 1, 10.0, "the query runs")
        killer = doorman.dial()
        if encrypted:
            killer.start_tls(context)
        killer.send(cancel_request(wire.process_id, wire.secret))
        killer.wait_closed()
        killer.hang_up()
        replies = wire.settle(10.0)
        assert [reply.fields()["C"] for reply in replies if reply.kind == "E"] == ["57014"]
        assert wire.value("select 1") == "1"


def _sleeping(server: Postgres) -> int:
    text = "select count(*) from pg_stat_activity where query like 'select pg_sleep%' and state = 'active'"
    return int(server.execute(text))


def test_a_cancel_goes_to_the_server_as_the_connection_came(
    start_doorman: StartDoorman, tls_postgres: TlsPostgres, papers: Papers
) -> None:
    with Middleman((tls_postgres.host, tls_postgres.port)) as witness:
        doorman = start_doorman(
            pools={"app": pool((witness.host, witness.port), user("bob"), server_tls_mode="require")},
            general=papers.general(),
        )
        with doorman.connect("app", "bob") as wire:
            wire.send(query("select pg_sleep(60)"))
            wait_until(lambda: _sleeping(tls_postgres) == 1, 10.0, "the query runs")
            killer = doorman.dial()
            killer.send(cancel_request(wire.process_id, wire.secret))
            killer.wait_closed()
            killer.hang_up()
            assert [reply.fields()["C"] for reply in wire.settle(10.0) if reply.kind == "E"] == ["57014"]
        assert len(witness.beginnings) == 2
        assert set(witness.beginnings) == {ssl_request().data}


# Towards PostgreSQL.


def test_server_modes(
    start_doorman: StartDoorman, tls_postgres: TlsPostgres, postgres: Postgres, papers: Papers
) -> None:
    """With a server that has TLS, users whom it lets in only with or only without, and a server that has none."""
    expected = {
        ("disable", "bob"): "f",
        ("disable", "only_tls"): "no pg_hba.conf entry",
        ("allow", "bob"): "f",
        ("allow", "only_tls"): "t",
        ("prefer", "bob"): "t",
        ("prefer", "only_plain"): "f",
        ("require", "bob"): "t",
        ("require", "only_plain"): "no pg_hba.conf entry",
        ("verify-ca", "bob"): "t",
        ("verify-full", "bob"): "t",
        ("allow", "alice"): "f",
        ("prefer", "alice"): "f",
        ("require", "alice"): "has no TLS",
        ("verify-full", "alice"): "has no TLS",
    }
    doorman = start_doorman(
        pools={
            f"{mode}-{name}": pool(
                postgres if name == "alice" else tls_postgres,
                user(name, server_username=name, server_password=SECRET),
                server_tls_mode=mode,
                server_tls_ca_cert=str(papers.servers_ca),
                server_database="app",
            )
            for mode, name in expected
        },
        general={"pg_hba": {"content": "host all all all trust"}},
    )
    for (mode, name), outcome in expected.items():
        assert outcome in _outcome(doorman, name, f"{mode}-{name}"), (mode, name)


def _outcome(doorman: Doorman, name: str = "bob", database: str = "app") -> str:
    """Whether the server's connection is encrypted, or why there is none."""
    try:
        with doorman.connect(database, name) as wire:
            return str(wire.value(ENCRYPTED))
    except ServerError as error:
        return str(error)


def test_a_server_that_wants_tls_is_asked_at_once_the_next_time(
    start_doorman: StartDoorman, tls_postgres: TlsPostgres
) -> None:
    """Each try without it would be a connection, and a line in the server's log, for nothing."""
    with Middleman((tls_postgres.host, tls_postgres.port)) as witness:
        doorman = start_doorman(
            pools={
                "app": pool(
                    (witness.host, witness.port), user("only_tls", server_username="only_tls", server_password=SECRET),
                    server_tls_mode="allow",
                )
            },
            general={"pg_hba": {"content": "host all all all trust"}},
        )  # fmt: skip
        for _ in range(3):
            with doorman.connect("app", "only_tls") as wire:
                assert wire.value(ENCRYPTED) == "t"
                tls_postgres.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'only_tls'"
                )
            wait_until(lambda: not doorman_has_backends(doorman, "only_tls"), 10.0, "the backend is gone")
        plain = [beginning for beginning in witness.beginnings if beginning != ssl_request().data]
        assert len(witness.beginnings) >= 4
        assert len(plain) <= 2, "the first one, and perhaps one that was opened at the same time"


def test_servers_that_are_judged(start_doorman: StartDoorman, tls_postgres: TlsPostgres, papers: Papers) -> None:
    modes = ("require", "verify-ca", "verify-full")
    places = {mode: (tls_postgres.host, mode) for mode in modes} | {"by name": ("localhost", "verify-full")}
    doorman = start_doorman(
        pools={
            name: pool(
                (host, tls_postgres.port), user("bob"), server_tls_mode=mode, server_tls_ca_cert=str(papers.servers_ca),
                server_database="app",
            )
            for name, (host, mode) in places.items()
        }
    )  # fmt: skip
    stranger = Authority("Another").issue("localhost", ["localhost", "127.0.0.1"])
    expired = papers.servers.issue("localhost", ["127.0.0.1"], begins=-3 * DAY, ends=-DAY)
    failed = "certificate verify failed: "
    before = tls_postgres.pair
    try:
        for pair, outcomes in (
            (before, {"require": "t", "verify-ca": "t", "verify-full": "t", "by name": "t"}),
            (stranger, {"require": "t", "verify-ca": failed, "verify-full": failed}),
            (papers.servers.issue("x", ["elsewhere"]), {"verify-ca": "t", "verify-full": "is for 'elsewhere'"}),
            (expired, {"require": "t", "verify-ca": failed + "it has expired"}),
            (self_signed(), {"require": "t", "verify-full": failed + "it is signed by itself"}),
            (papers.servers.issue("localhost"), {"by name": "t", "verify-full": "is for 'localhost', not for '127.0"}),
        ):
            tls_postgres.renew(pair)
            serial = pair.certificate.serial_number
            wait_until(lambda: _serial(tls_postgres.port) == serial, 10.0, "the server's certificate")  # noqa: B023
            for name, outcome in outcomes.items():
                with doorman.admin() as console:
                    console.run(f'RECONNECT "{name}"')
                assert outcome in _outcome(doorman, "bob", name), (name, outcome)
    finally:
        tls_postgres.renew(before)


def test_our_certificate_for_the_server(start_doorman: StartDoorman, tls_postgres: TlsPostgres, papers: Papers) -> None:
    certificate, key = papers.clients.issue("by_cert", for_clients=True).write(
        papers.folder, "locked", passphrase="open sesame"
    )
    shown = {
        "server_tls_certificate": str(certificate),
        "server_tls_private_key": str(key),
        "server_tls_private_key_passphrase": "open sesame",
    }
    doorman = start_doorman(
        pools={
            "app": pool(tls_postgres, user("by_cert"), server_tls_mode="require", **shown),
            "bare": pool(tls_postgres, user("by_cert"), server_tls_mode="require", server_database="app"),
        }
    )
    assert _outcome(doorman, "by_cert") == "t"
    with pytest.raises(ServerError, match="connection requires a valid client certificate"):
        doorman.connect("bare", "by_cert")


def test_channel_binding_towards_the_server(
    start_doorman: StartDoorman, tls_postgres: TlsPostgres, papers: Papers
) -> None:
    """Nobody but SCRAM-SHA-256-PLUS notices a middleman whose certificate nobody looks at."""
    his = self_signed("middleman").write(papers.folder, "middleman")
    with Middleman((tls_postgres.host, tls_postgres.port), his) as middleman:
        where = (middleman.host, middleman.port)
        doorman = start_doorman(
            pools={
                "app": pool(where, user("bob"), user("scram_user", SECRET), server_tls_mode="require"),
                "honest": pool(
                    tls_postgres, user("scram_user", SECRET), server_tls_mode="require", server_database="app"
                ),
            }
        )
        assert _outcome(doorman, "bob") == "t", "he passes things on faithfully"
        with doorman.connect("honest", "scram_user", SECRET) as wire:
            assert wire.value(ENCRYPTED) == "t"
        with pytest.raises(ServerError, match="SCRAM channel binding check failed"):
            doorman.connect("app", "scram_user", SECRET)


def test_servers_that_answer_oddly(start_doorman: StartDoorman) -> None:
    """CVE-2021-23222, CVE-2024-10977: nothing of what came in clear is taken for the server's word."""
    answers = {
        "early": (b"S" + bytes(20), "received unencrypted data"),
        "error": (b"E\0\0\0\x20SFATAL\0Mtake this instead\0\0", "does not answer the request for TLS"),
        "nonsense": (b"?", "does not answer the request for TLS"),
        "nothing": (b"", "closed the connection when it was asked for TLS"),
    }

    def script_for(answer: bytes) -> Callable[[Peer], None]:
        def script(peer: Peer) -> None:
            with contextlib.suppress(OSError):
                peer.sock.recv(8, socket.MSG_WAITALL)
                peer.send(answer)
                peer.sock.settimeout(0.5)
                peer.sock.recv(1000)

        return script

    with contextlib.ExitStack() as stack:
        servers = {name: stack.enter_context(FakeServer(script_for(answer))) for name, (answer, _) in answers.items()}
        doorman = start_doorman(
            pools={
                name: pool((server.host, server.port), user("bob"), server_tls_mode="require")
                for name, server in servers.items()
            }
        )
        for name, (_, complaint) in answers.items():
            with pytest.raises(ServerError, match=complaint) as refused:
                doorman.connect(name, "bob")
            assert "take this instead" not in str(refused.value)


def test_a_server_that_stops_in_the_handshake(start_doorman: StartDoorman, tls_postgres: TlsPostgres) -> None:
    def script(peer: Peer) -> None:
        peer.sock.recv(8, socket.MSG_WAITALL)
        peer.send(b"S")
        peer.sock.settimeout(10.0)
        while peer.sock.recv(1000):
            pass

    with FakeServer(script) as server:
        doorman = start_doorman(
            pools={
                "slow": pool((server.host, server.port), user("bob"), server_tls_mode="require", connect_timeout="700ms"),
                "app": pool(tls_postgres, user("bob"), server_tls_mode="require"),
            }
        )  # fmt: skip
        waiting = threading.Thread(target=_refused, args=(doorman,))
        waiting.start()
        assert _outcome(doorman) == "t"
        waiting.join(20.0)
        doorman.wait_logged("did not complete the TLS handshake in time")


def _refused(doorman: Doorman) -> None:
    with pytest.raises((ServerError, WireError)):
        doorman.connect("slow", "bob")


def test_backends_that_die_are_noticed(doorman: Doorman, papers: Papers, tls_postgres: TlsPostgres) -> None:
    context = papers.context()
    with Wire.connect("localhost", doorman.port, user="bob", database="app", tls=context) as wire:
        for _ in range(3):
            assert wire.value("select 1") == "1"
            tls_postgres.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where datname = 'app' and usename = 'bob'"
            )
            wait_until(lambda: not doorman_has_backends(doorman, "bob"), 10.0, "the pooler knows that they are gone")


def doorman_has_backends(doorman: Doorman, name: str) -> bool:
    return any(row["user"] == name for row in doorman.show("servers"))


# Settings and reloads.


def _serial(port: int) -> int:
    """The serial number of the certificate that a server on this port shows."""
    wire = Wire.dial("127.0.0.1", port)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    wire.start_tls(context)
    assert isinstance(wire.sock, ssl.SSLSocket)
    der = wire.sock.getpeercert(binary_form=True)
    wire.hang_up()
    from cryptography import x509  # noqa: PLC0415

    assert der is not None
    return x509.load_der_x509_certificate(der).serial_number


def test_certificates_are_renewed(start_doorman: StartDoorman, tls_postgres: TlsPostgres, papers: Papers) -> None:
    """By SIGHUP, with connections that stay; what cannot be used changes nothing, and the log says why."""
    folder = papers.folder / "renewed"
    folder.mkdir()
    first, second = (papers.servers.issue("localhost", ["localhost"]) for _ in range(2))
    certificate, key = first.write(folder, "ours")
    doorman = start_doorman(
        pools={"app": pool(tls_postgres, user("bob"), server_tls_mode="require")},
        general={"tls_certificate": str(certificate), "tls_private_key": str(key)},
    )
    context = papers.context()
    assert _serial(doorman.port) == first.certificate.serial_number
    with Wire.connect("localhost", doorman.port, user="bob", database="app", tls=context) as old:
        second.write(folder, "ours")
        doorman.process.send_signal(signal.SIGHUP)
        renewed = second.certificate.serial_number
        wait_until(lambda: _serial(doorman.port) == renewed, 10.0, "the new certificate")
        assert old.value("select 1") == "1"
        # Half of a change, as a tool that writes file after file leaves for a moment.
        papers.servers.issue("localhost", ["localhost"]).write(folder, "other")
        key.write_bytes((folder / "other.key").read_bytes())
        doorman.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "is not the key of" in doorman.log(), 10.0, "the complaint")
        assert _serial(doorman.port) == renewed
        certificate.write_text("no certificate any more")
        with doorman.admin() as console, pytest.raises(ServerError, match="holds no certificate"):
            console.run("RELOAD")
        assert _serial(doorman.port) == renewed
        assert old.value("select 1") == "1"


def test_revocation_lists_are_renewed(
    start_doorman: StartDoorman, tls_postgres: TlsPostgres, papers: Papers, psql: Callable[..., Answer], tmp_path: Path
) -> None:
    """On both sides; a list that cannot be used leaves the old one in force."""
    ours = papers.clients.issue("alice", for_clients=True)
    certificate, key = (str(path) for path in ours.write(tmp_path, "shown"))
    clients, servers = tmp_path / "clients.crl", tmp_path / "servers.crl"
    clients.write_bytes(papers.clients.revoke())
    servers.write_bytes(papers.servers.revoke())
    doorman = start_doorman(
        pools={
            "app": pool(
                tls_postgres, user("alice"), server_tls_mode="verify-ca", server_tls_ca_cert=str(papers.servers_ca),
                server_tls_crl=str(servers),
            )
        },
        general=papers.general(
            tls_ca_cert=str(papers.clients_ca), tls_crl=str(clients), tls_mode="verify-full",
            pg_hba={"content": "host pgdoorman all all md5\nhostssl all all all cert\n"},
        ),
    )  # fmt: skip

    def asked() -> Answer:
        return psql(doorman.port, user="alice", sslcert=certificate, sslkey=key)

    def reload(log: str) -> None:
        seen = doorman.log().count(log)
        doorman.process.send_signal(signal.SIGHUP)
        wait_until(lambda: doorman.log().count(log) > seen, 15.0, log)

    assert asked().out == "t"
    servers.write_bytes(papers.servers.revoke(tls_postgres.pair))
    reload("reloaded")
    assert "certificate verify failed: it has been revoked" in asked().error
    servers.write_bytes(papers.servers.revoke())
    reload("reloaded")
    assert asked().out == "t"
    for bad, complaint in ((servers, "holds no revocation list"), (clients, "holds no revocation list")):
        good = bad.read_bytes()
        bad.write_text("nothing")
        reload(complaint)
        assert asked().out == "t"
        bad.write_bytes(good)
    clients.write_bytes(papers.clients.revoke(ours))
    reload("reloaded")
    assert "revoked" in asked().error


def test_tls_comes_and_goes_by_reload(start_doorman: StartDoorman, tls_postgres: TlsPostgres, papers: Papers) -> None:
    doorman = start_doorman(pools={"app": pool(tls_postgres, user("bob"), server_tls_mode="disable")})

    def offered() -> bytes:
        wire = doorman.dial()
        wire.send(ssl_request())
        answer = wire.receive_bytes(1)
        wire.hang_up()
        return answer

    assert offered() == b"N"
    assert _outcome(doorman) == "f"
    doorman.general |= papers.general()
    doorman.pools["app"]["server_tls_mode"] = "require"
    doorman.reload()
    wait_until(lambda: offered() == b"S", 10.0, "TLS for clients")
    wait_until(lambda: _outcome(doorman) == "t", 10.0, "TLS towards the server")
    doorman.general["tls_mode"] = "disable"
    doorman.reload()
    wait_until(lambda: offered() == b"N", 10.0, "no TLS any more")


def test_another_authority_of_the_server(
    start_doorman: StartDoorman, tls_postgres: TlsPostgres, papers: Papers
) -> None:
    """The file changes, not its name: backends that were let in under the old one are replaced."""
    ca = papers.folder / "changing-ca.crt"
    ca.write_bytes(papers.servers_ca.read_bytes())
    doorman = start_doorman(
        pools={
            "app": pool(tls_postgres, user("bob", pool_size=1), server_tls_mode="verify-ca", server_tls_ca_cert=str(ca))
        }
    )  # fmt: skip
    with doorman.connect("app", "bob") as wire:
        before = wire.value("select pg_backend_pid()")
        doorman.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "reloaded" in doorman.log(), 10.0, "the reload")
        assert wire.value("select pg_backend_pid()") == before, "nothing has changed, so nothing is replaced"
        ca.write_bytes(Authority("Another").pair.certificate_pem())
        doorman.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "certificates for bob@app: renewed" in doorman.log(), 10.0, "the reload")
        with pytest.raises(ServerError, match="certificate verify failed"):
            wire.value("select pg_backend_pid()")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"tls_private_key": "nowhere.key"}, "nowhere.key"),
        ({"tls_certificate": "PAPERS/alice.key"}, "holds no certificate in PEM form"),
        ({"tls_private_key": "PAPERS/alice.key"}, "is not the key of"),
        ({"tls_mode": "verify-full"}, "verify-full needs tls_ca_cert"),
        ({"tls_ciphers": "NONSENSE"}, "OpenSSL does not take 'NONSENSE'"),
        ({"tls_min_version": "1.3", "tls_max_version": "1.2"}, "is older than the oldest"),
        ({"server_tls_ca_cert": "PAPERS/alice.key"}, "server_tls_ca_cert"),
    ],
)
def test_settings_that_cannot_be_used(
    postgres: Postgres, papers: Papers, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, str],
    complaint: str,
) -> None:  # fmt: skip
    change = {name: value.replace("PAPERS", str(papers.folder)) for name, value in change.items()}
    doorman = Doorman(tmp_path, pools={"app": pool(postgres, user("bob"))}, general=papers.general())
    assert runner.check_config(doorman.write_config()) == 0
    doorman.general |= change
    assert runner.check_config(doorman.write_config()) == 78
    assert complaint in capsys.readouterr().err


def test_a_key_with_a_passphrase(start_doorman: StartDoorman, postgres: Postgres, papers: Papers) -> None:
    pair = papers.servers.issue("localhost", ["localhost"])
    certificate, key = pair.write(papers.folder, "guarded", passphrase="open sesame")
    doorman = start_doorman(
        pools={"app": pool(postgres, user("bob"))},
        general={
            "tls_certificate": str(certificate),
            "tls_private_key": str(key),
            "tls_private_key_passphrase": "${KEY_PASSPHRASE}",
        },
        environment={"KEY_PASSPHRASE": "open sesame"},
    )
    assert _serial(doorman.port) == pair.certificate.serial_number
    assert "open sesame" not in doorman.log()
    assert all("open sesame" not in (row["value"] or "") for row in doorman.show("config"))
