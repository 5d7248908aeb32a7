"""Holes that other poolers have had (CVE reports and release notes), tried here.

Where the same hole is tried elsewhere, in more forms, this table says where:

    CVE-2026-107350            a second StartupMessage     here; test_hostile.test_out_of_place_while_logging_in
    CVE-2026-107349            options=-c=                 here; tests/unit/auth/test_login_fuzz.py
    CVE-2026-107348, -6668     lengths that overflow       here; test_hostile.test_odd_length_fields
    CVE-2026-19888             client-final, no nonce      tests/unit/auth/test_login_fuzz.py; test_hostile, SCRAM
    CVE-2026-6669, -42198      iteration counts            here (auth_query); test_misbehaving_server, SCRAM
    CVE-2026-6664, -6665       lengths inside SCRAM        here; test_hostile, test_misbehaving_server
    CVE-2026-6666              errors without fields       here (auth_query); test_misbehaving_server
    CVE-2026-6667              KILL_CLIENT for all         tests/unit/admin/test_commands.py, admin=False
    CVE-2025-12819, -2291      auth_query                  test_auth_query
    CVE-2021-3935, -43766/7    bytes before TLS            test_hostile, TLS
    CVE-2015-6817              the asking role's password  here
    CVE-2012-4575              long names                  here
    CVE-2025-46801             which proof counts          test_proof_matrix
    CVE-2023-22332             SHOW leaks a password       here
    CVE-2024-45624             results across privileges   here
"""

import base64
import re
import struct
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pgdoorman.auth.secrets import hash_password
from tests.integration.conftest import StartDoorman
from tests.integration.watch import Watch, must_be_refused
from tests.support.certificates import Authority
from tests.support.doorman import ADMIN_PASSWORD, Doorman, pool, stand_in, user
from tests.support.fake_server import FakeServer, Peer, authentication, greeting
from tests.support.pace import Stopwatch
from tests.support.postgres import SECRET, Postgres
from tests.support.process import free_port, wait_until
from tests.support.wire import (
    PROTOCOL_3_0,
    HungUp,
    ServerError,
    WireError,
    frame,
    password_message,
    query,
    sasl_initial,
    startup,
)

pytestmark = pytest.mark.skipif(bool(stand_in()), reason="about pgdoorman's own way")

RULES: Final = """\
host pgdoorman all all md5
host pgbouncer all all md5
host all alice all trust
host all clear all password
host all md5_user all md5
host all all all scram-sha-256
"""


@pytest.fixture(scope="module")
def watch(postgres: Postgres, start_module_doorman: StartDoorman) -> Watch:
    section = {"query": "SELECT usename, passwd FROM pg_shadow WHERE usename = $1", "user": "clear_user"}
    entries = [user("alice", pool_size=2), user("clear", SECRET), user("md5_user", SECRET)]
    settings = pool(postgres, *entries, auth_query={**section, "password": SECRET, "database": "postgres"})
    postgres.run("grant pg_read_all_data to clear_user", "grant select on pg_shadow to clear_user")
    doorman = start_module_doorman(pools={"app": settings}, general={"pg_hba": {"content": RULES}})
    doorman.connect("app", "scram_user", SECRET).hang_up()  # the connection that looks users up stays open
    return Watch(doorman)


# CVE-2026-107350


@pytest.mark.parametrize("who", ["clear", "md5_user", "scram_user", "nobody"])
@pytest.mark.parametrize("database", ["app", "pgdoorman", "no_such_database"])
def test_second_startup_message(watch: Watch, who: str, database: str) -> None:
    """In the middle of a log-in somebody turns into alice, who is trusted."""
    wire = watch.doorman.dial(5.0)
    try:
        wire.send(startup({"user": who, "database": database}))
        first = wire.receive()
        replies = [first]
        if first.kind == "R":
            wire.send(startup({"user": "alice", "database": "app"}))
            replies += wire.wait_closed(4.0)
        must_be_refused(replies, "a second StartupMessage")
        assert first.kind == "E" or replies[-1].fields()["C"] == "08P01"
    finally:
        wire.hang_up()
    watch.must_serve()


def test_startup_message_inside_scram(watch: Watch) -> None:
    wire = watch.doorman.dial(5.0)
    wire.send(startup({"user": "scram_user", "database": "app"}))
    wire.receive()
    wire.send(sasl_initial("SCRAM-SHA-256", b"n,,n=,r=abcdefgh"))
    wire.receive()
    wire.send(startup({"user": "alice", "database": "app"}))
    must_be_refused(wire.wait_closed(4.0), "a StartupMessage for a client-final", ("08P01",))
    wire.hang_up()


# CVE-2026-107349


@pytest.mark.parametrize("options", ["-c=", "-c =", "--=", "-c", "--", "-", "\\", "-c =x", "-c\\", " -c= " * 900])
def test_options_without_a_name(watch: Watch, options: str) -> None:
    with pytest.raises(ServerError) as caught:
        watch.doorman.connect("app", "alice", parameters={"options": options}, patience=5.0)
    assert caught.value.sqlstate in {"08P01", "42601", "42602", "42704", "22023"}
    watch.must_rest()


# CVE-2026-107348, -6668, -6664; CVE-2012-4575


@pytest.mark.parametrize("size", [0, 3, 4, 7, 2**31 - 1, 2**31, 2**31 + 1, 2**32 - 1])
def test_lengths_that_overflow(watch: Watch, size: int) -> None:
    """Of the first packet, of a password, and inside SASLInitialResponse; what follows comes slowly."""
    for begin in (
        struct.pack("!II", size, PROTOCOL_3_0),
        startup({"user": "clear", "database": "app"}).data + b"p" + struct.pack("!I", size),
        startup({"user": "scram_user", "database": "app"}).data
        + frame("p", b"SCRAM-SHA-256\0" + struct.pack("!I", size) + b"n,,n=,r=abc"),
    ):
        wire = watch.doorman.dial(5.0)
        try:
            wire.send_bytes(begin)
            for _ in range(5):
                wire.send_bytes(b"x" * 1000)
                time.sleep(0.002)
            wire.sock.shutdown(1)
            must_be_refused(wire.wait_closed(5.0), f"a length of {size}")
        except (HungUp, OSError, WireError):
            pass
        finally:
            wire.hang_up()
    watch.must_serve().must_rest()


@pytest.mark.parametrize("length", [63, 64, 127, 128, 1024, 4096, 9000])
def test_long_names(watch: Watch, length: int) -> None:
    for parameters in (
        {"user": "u" * length, "database": "app"},
        {"user": "alice", "database": "d" * length},
        {"user": "alice", "database": "app", "n" * length: "x"},
    ):
        with watch.doorman.dial(5.0) as wire, pytest.raises((ServerError, HungUp)):
            wire.log_in(parameters, SECRET)
    watch.must_serve()


# PgBouncer 1.26: options were answered again and again


def test_protocol_options_are_answered_once(watch: Watch) -> None:
    many = {f"_pq_.option{number}": "x" * 20 for number in range(150)}
    with watch.doorman.dial(5.0) as wire:
        wire.send(startup({"user": "clear", "database": "app", **many}))
        replies = [wire.receive()]
        wire.send(password_message(SECRET))
        replies += wire.receive_until("ZE")
        assert [reply.kind for reply in replies].count("v") == 1
        assert replies[0].kind == "v"


# CVE-2015-6817


def test_the_asking_role_lends_nobody_its_name(watch: Watch) -> None:
    """Its password opens the pooler for nobody else, be they known or not."""
    for name in ("nobody", "scram_usr", "locked2", ""):
        with pytest.raises(ServerError):
            watch.doorman.connect("app", name or "x", SECRET)
    with watch.doorman.connect("app", "scram_user", SECRET) as wire:
        assert wire.value("select current_user") == "scram_user"


# What a server can do to those who look users up (CVE-2026-6669, -6665, -6666)


SALT: Final = base64.b64encode(b"sixteen  bytes!!").decode()


def _asks_scram(first: Callable[[bytes], bytes]) -> Callable[[Peer], None]:
    def script(peer: Peer) -> None:
        peer.receive_startup()
        peer.send(authentication(10, b"SCRAM-SHA-256\0\0"))
        nonce = peer.receive().body.split(b"r=")[-1]
        peer.send(authentication(11, first(nonce)))
        peer.receive()

    return script


def _answers(*answer: bytes) -> Callable[[Peer], None]:
    def script(peer: Peer) -> None:
        peer.receive_startup()
        peer.send(greeting())
        while peer.receive().kind != "Q":
            pass
        peer.send(*answer)
        peer.receive()

    return script


READY: Final = frame("Z", b"I")
BAD_SERVERS: Final[dict[str, Callable[[Peer], None]]] = {
    "2**31 iterations": _asks_scram(lambda nonce: b"r=%bx,s=%b,i=2147483648" % (nonce, SALT.encode())),
    "100 million iterations": _asks_scram(lambda nonce: b"r=%bx,s=%b,i=100000000" % (nonce, SALT.encode())),
    "a nonce of 64 kB": _asks_scram(lambda nonce: b"r=%b,s=%b,i=4096" % (nonce + b"x" * 65536, SALT.encode())),
    "an error with no fields": _answers(frame("E", b"\0"), READY, READY, READY),
    "an error that does not end": _answers(frame("E", b"SERROR"), READY, READY, READY),
    "a transaction": _answers(frame("Z", b"T") * 3),
    "no end": _answers(frame("D", b"\0\1\xff\xff\xff\xff") * 200_000),
    "a row beyond its end": _answers(
        frame("T", b"\0\1x\0" + bytes(18)), frame("D", b"\0\1\x7f\xff\xff\xff"), READY * 3
    ),
    "a row without columns": _answers(frame("D", b"\0\1\0\0\0\1x"), READY * 3),
    "columns beyond their end": _answers(frame("T", b"\xff\xffx\0"), READY * 3),
    "a length of 2 GB": _answers(b"D\x7f\xff\xff\xff"),
    "more than was asked": _answers(READY * 4),
    "noise": _answers(bytes(range(256))),
}


@pytest.mark.parametrize("name", BAD_SERVERS)
def test_servers_that_answer_look_ups_badly(watch: Watch, start_doorman: StartDoorman, name: str) -> None:
    """The log-in is refused, soon; users of the file and other databases do not notice."""
    doorman, settings = watch.doorman, dict(watch.doorman.pools)
    with FakeServer(BAD_SERVERS[name]) as fake:
        section = {"query": "SELECT passwd FROM pg_shadow WHERE usename = $1", "user": "u", "password": "p"}
        doorman.pools["bad"] = pool((fake.host, fake.port), auth_query=section)
        doorman.reload()
        wait_until(lambda: "bad" in {row["database"] for row in doorman.show("auth_query")}, 15, "the reload")
        before, watched = doorman.process.processor_seconds(), Stopwatch()
        with pytest.raises(ServerError) as caught:
            doorman.connect("bad", "somebody", SECRET, patience=60)
        assert caught.value.sqlstate in {"58000", "28P01"}, caught.value
        watched.must_be_below(15, "a refusal")
        assert doorman.process.processor_seconds() - before < 3, "it let itself be made to compute"
        watch.must_serve()
    doorman.pools.clear()
    doorman.pools.update(settings)
    doorman.reload()
    wait_until(lambda: len(doorman.show("auth_query")) == 1, 15, "the reload")


# CVE-2024-45624: what is answered from memory was answered to somebody with other rights


def test_the_answer_to_a_check_query_belongs_to_its_role(postgres: Postgres, start_doorman: StartDoorman) -> None:
    postgres.run(
        "drop table if exists of_alice",
        "create table of_alice as select current_user || '!' as word",
        database="app",
    )
    doorman = start_doorman(
        pools={"app": pool(postgres, user("alice"), user("plain"))},
        general={"pooler_check_query": "select word || current_user from of_alice"},
    )
    for _ in range(2):
        with doorman.connect("app", "alice") as alice, doorman.connect("app", "plain") as plain:
            for _ in range(3):
                assert alice.value("select word || current_user from of_alice") == "postgres!alice"
                with pytest.raises(ServerError) as caught:
                    plain.value("select word || current_user from of_alice")
                assert caught.value.sqlstate == "42501"
    postgres.run("drop table of_alice", database="app")


# CVE-2023-22332: nothing shows a secret


MARK: Final = "Zx9hidden"


def test_no_secret_is_shown(postgres: Postgres, start_doorman: StartDoorman, tmp_path: Path) -> None:
    """Not by any SHOW of either console, not in the log at its most talkative, not by errors, not by a reload's report, not
    by the metrics: passwords, verifiers, tokens, passphrases, keys."""
    tmp_path.chmod(0o755)
    pair = Authority().issue("localhost", use_rsa=True)
    certificate, key = pair.write(tmp_path, "ours", passphrase=f"{MARK}-k")
    secret_key = "".join(pair.key_pem().decode().splitlines()[1:-1])
    (tmp_path / "token.pem").write_bytes(
        pair.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    (tmp_path / "token.key").write_bytes(pair.key_pem())
    token = jwt.encode({"preferred_username": "tok", "exp": time.time() + 600, "aud": MARK}, pair.key, "RS256")
    verifier = hash_password("v", MARK)
    section = {"query": f"SELECT '{MARK}-q', $1", "user": "postgres", "password": f"{MARK}-a", "server_user": "s",
               "server_password": f"{MARK}-s"}  # fmt: skip
    entries = [
        user("plain", f"{MARK}-p", server_username="scram_user", server_password=f"{MARK}-u"),
        user("v", verifier),
        user("alice"),
        user("tok", server_username="clear_user", server_password=f"jwt-priv-key-fpath:{tmp_path}/token.key"),
    ]
    ldap = f"host all lda all ldap ldapserver=127.0.0.1 ldapbasedn=x ldapbindpasswd={MARK}-l"
    tokens = f"host all tok all jwt key={tmp_path}/token.pem"
    tokens += f"\nhost all bearer all oauth key={tmp_path}/token.pem issuer=x scope=y"
    web = free_port()
    doorman = start_doorman(
        pools={"app": pool(postgres, *entries, auth_query=section)},
        general={
            "pg_hba": {"content": f"{ldap}\n{tokens}\nhost all alice all trust\nhost all all all md5\n"},
            "tls_certificate": str(certificate),
            "tls_private_key": str(key),
            "tls_private_key_passphrase": f"{MARK}-k",
        },
        sections={"web": {"enabled": True, "host": "127.0.0.1", "port": web}},
        arguments=("-l", "trace"),
    )
    attempts = [("plain", f"{MARK}-p"), ("plain", f"{MARK}-x"), ("v", f"{MARK}-x"), ("found", f"{MARK}-x")]
    attempts += [("lda", f"{MARK}-x"), ("tok", token), ("tok", f"{MARK}.x.y"), ("tok", token[:-9] + "AAAAAAAAA")]
    for name, password in attempts:
        with pytest.raises(ServerError) as caught:
            doorman.connect("app", name, password)
        assert MARK not in str(caught.value)
        assert password not in str(caught.value)
    wire = doorman.dial()
    wire.send(startup({"user": "bearer", "database": "app"}))
    wire.receive()
    wire.send(sasl_initial("OAUTHBEARER", f"n,,\1auth=Bearer {token}\1\1".encode()))
    wire.receive()
    wire.hang_up()
    shown = []
    for page in ("metrics", "livez", "readyz"):
        with urllib.request.urlopen(f"http://127.0.0.1:{web}/{page}", timeout=20) as answer:
            shown.append(answer.read().decode())
    for database in ("pgdoorman", "pgbouncer"):
        with doorman.connect(database, "admin", ADMIN_PASSWORD) as console:
            for what in _all_shows(console):
                try:
                    shown.append(str(console.rows(f"SHOW {what}", patience=10)))
                except ServerError as error:
                    shown.append(str(error))
            doorman.pools["app"]["auth_query"]["password"] = f"{MARK}-new-{database}"
            doorman.write_config()
            shown.append(str(console.ask(query("RELOAD"), patience=15)))
            doorman.general["tls_private_key_passphrase"] = f"{MARK}-not-it"
            doorman.write_config()
            shown.append(str(console.ask(query("RELOAD"), patience=15)))
            assert "wrong passphrase" in shown[-1]
            doorman.general["tls_private_key_passphrase"] = f"{MARK}-k"
    assert len(shown) > 30
    told = "\n".join(shown) + doorman.log()
    assert "app" in told
    # The text of the query is the owner's own business, and shown: no secret belongs into it.
    told = told.replace(f"{MARK}-q", "")
    assert MARK not in told, re.findall(f".*{MARK}.*", told)[:3]
    assert verifier.split("$")[2] not in told
    assert token[:40] not in told
    assert secret_key[:40] not in told
    assert ADMIN_PASSWORD not in told


def _all_shows(console: Any) -> list[str]:
    from pgdoorman.admin.show import NAMES  # noqa: PLC0415

    return list(NAMES)


# Whether a user exists must not show in the time of a refusal.


@pytest.mark.parametrize("method", ["password", "md5", "scram-sha-256"])
def test_time_of_a_refusal(postgres: Postgres, start_doorman: StartDoorman, method: str) -> None:
    """Key derivations are made dear here, so that one more or less would stand out. What is measured is the pooler's
    processor time, which other programs on the machine leave alone."""
    entries = [
        user("plain", SECRET),
        user("verifier", hash_password("", SECRET, iterations=60_000)),
        user("hash", hash_password("hash", SECRET, "md5")),
        user("empty"),
    ]
    doorman = start_doorman(
        pools={"app": pool(postgres, *entries)},
        general={"pg_hba": {"content": f"host all all all {method}"}, "scram_iterations": 60_000},
    )
    used: dict[str, float] = {}
    for name in ("plain", "verifier", "hash", "empty", "absent"):
        before = doorman.process.processor_seconds()
        for _ in range(8):
            with pytest.raises(ServerError, match=f'password authentication failed for user "{name}"'):
                _refused_without_work_of_ours(doorman, name)
        used[name] = doorman.process.processor_seconds() - before
    assert max(used.values()) < 2 * min(used.values()), used


def _refused_without_work_of_ours(doorman: Doorman, name: str) -> None:
    """A wrong password; for SCRAM a proof that is just noise, since deriving one would take this side's time."""
    wire = doorman.dial(20)
    try:
        wire.send(startup({"user": name, "database": "app"}))
        asked = struct.unpack("!I", wire.receive().body[:4])[0]
        if asked == 10:
            wire.send(sasl_initial("SCRAM-SHA-256", b"n,,n=,r=abcdefgh"))
            nonce = wire.receive().body[4:].split(b",")[0]
            wire.send(frame("p", b"c=biws," + nonce + b",p=" + base64.b64encode(bytes(32))))
        else:
            wire.send(password_message("md5" + "0" * 32))
        raise ServerError(wire.receive())
    finally:
        wire.hang_up()
