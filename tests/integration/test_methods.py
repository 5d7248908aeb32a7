"""Every way to prove who one is but those with passwords that we keep: at the pooler's own door, with real judges."""

import base64
import json
import os
import pwd
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tests.integration.conftest import StartDoorman
from tests.support import pam
from tests.support.doorman import Doorman, pool, stand_in, user
from tests.support.fake_server import FakeServer, Peer, authentication, greeting
from tests.support.pace import Stopwatch
from tests.support.postgres import SECRET, Postgres
from tests.support.process import DidNotStart, wait_until
from tests.support.slapd import MISSING, Directory, running_slapd
from tests.support.wire import HungUp, ServerError, Wire, frame, password_message, query, sasl_initial, startup

pytestmark = pytest.mark.skipif(bool(stand_in()), reason="about pgdoorman's own way")

ME = pwd.getpwuid(os.geteuid()).pw_name
Start = Callable[..., Doorman]


@pytest.fixture
def house(postgres: Postgres, start_doorman: StartDoorman) -> Start:
    """A pooler with the given rules. Whoever gets in is alice at the server."""

    def start(rules: str, *, users: tuple[str, ...] = ("alice", "bob"), extra: Any = None, **general: Any) -> Doorman:
        entries = [user(name, pool_size=2, server_username="alice", **(extra or {})) for name in users]
        content = f"host pgdoorman all all md5\n{rules}\n"
        return start_doorman(
            pools={"app": pool(postgres, *entries)}, general={"pg_hba": {"content": content}, **general}
        )

    return start


def says(doorman: Doorman, name: str, password: str = SECRET) -> str:
    """ "in", or SQLSTATE and text of the refusal; "" if the connection is lost."""
    try:
        with doorman.connect("app", name, password) as wire:
            assert wire.value("select current_user") == "alice"
            return "in"
    except ServerError as error:
        return f"{error.sqlstate} {error.fields['M']}"
    except (HungUp, OSError):
        return ""


# peer and user-name maps


def by_unix_socket(doorman: Doorman, name: str) -> str:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(10)
    sock.connect(f"{doorman.general['unix_socket_dir']}/.s.PGSQL.{doorman.port}")
    wire = Wire(sock)
    try:
        wire.log_in({"user": name, "database": "app"})
        return "in"
    except ServerError as error:
        return f"{error.sqlstate} {error.fields['M']}"
    finally:
        wire.hang_up()


def test_peer_and_maps(house: Start, workspace: Path) -> None:
    maps = f"staff {ME} alice\nstaff /^(.*)$ \\1_role\nothers nobody bob\n"
    doorman = house(
        "local all bob peer map=others\nlocal all alice peer map=staff\nlocal all all peer",
        users=("alice", "bob", ME),
        unix_socket_dir=str(workspace),
        pg_ident={"content": maps},
    )
    assert by_unix_socket(doorman, "alice") == "in"
    assert by_unix_socket(doorman, ME) == "in"
    assert by_unix_socket(doorman, "bob") == '28000 Peer authentication failed for user "bob"'
    assert by_unix_socket(doorman, "carl") == '28000 role "carl" does not exist'
    doorman.general["pg_ident"] = {"content": maps + f"others {ME} bob\n"}
    doorman.reload()
    wait_until(lambda: by_unix_socket(doorman, "bob") == "in", 15, "the new map is in force")
    doorman.general["pg_ident"] = {"content": "staff x"}
    doorman.reload()
    wait_until(lambda: "missing entry at end of line" in doorman.log(), 15, "a bad map is refused")
    assert by_unix_socket(doorman, "bob") == "in"


def test_maps_and_keys_that_are_not_there(house: Start, tmp_path: Path) -> None:
    """What a log-in could only trip over is found at the start, with its line."""
    with pytest.raises(DidNotStart) as caught:
        house(f"local all all peer map=nowhere\nhost all all all jwt key={tmp_path}/none.pem")
    told = str(caught.value)
    assert re.search(r'pgdoorman\.toml:\d+: there is no user-name map "nowhere" in pg_ident', told)
    assert "could not read the token key" in told
    with pytest.raises(DidNotStart, match=r"users\.alice.server_password: .*could not read the token key"):
        house("host all all all trust", extra={"server_password": f"jwt-priv-key-fpath:{tmp_path}/none.pem"})


# PAM


@pytest.fixture
def pam_service(tmp_path: Path) -> Iterator[str]:
    """A service that admits alice and bob with the password pencil, and takes three seconds about `slow`."""
    if pam.MISSING:
        pytest.skip(pam.MISSING)
    slow = '[ "$password" = slow ] && sleep 3'
    script = f'#!/bin/sh\nIFS= read -r password\n{slow}\n[ "$password/$PAM_RHOST" = "pencil/127.0.0.1" ]\n'
    with pam.pam_service(tmp_path, script) as name:
        yield name


def test_pam(house: Start, pam_service: str) -> None:
    doorman = house(f"host all all all pam pamservice={pam_service}")
    assert says(doorman, "alice", "pencil") == "in"
    assert says(doorman, "alice", "pen") == '28P01 PAM authentication failed for user "alice"'
    assert says(doorman, "carl", "pencil") == '28000 role "carl" does not exist'
    assert says(doorman, "carl", "pen") == '28P01 PAM authentication failed for user "carl"'
    assert "pencil" not in doorman.log()


def test_pam_of_a_user(house: Start, pam_service: str) -> None:
    """The key of a user: whatever method a line has, PAM judges; trust lets in all the same."""
    doorman = house("host all alice all scram-sha-256\nhost all bob all trust", extra={"auth_pam_service": pam_service})
    assert says(doorman, "alice", "pencil") == "in"
    assert says(doorman, "alice", "pen") == '28P01 PAM authentication failed for user "alice"'
    assert says(doorman, "bob", "") == "in"


def test_slow_judges_hold_nobody_up(house: Start, pam_service: str) -> None:
    """Six log-ins wait for PAM; queries and log-ins by SCRAM go on meanwhile."""
    doorman = house(
        f"host all alice all pam pamservice={pam_service}\nhost all all all scram-sha-256",
        extra={"password": SECRET},
        helper_threads=2,
    )
    running = doorman.connect("app", "bob", SECRET)
    crowd = [threading.Thread(target=says, args=(doorman, "alice", "slow")) for _ in range(6)]
    for one in crowd:
        one.start()
    time.sleep(0.3)
    watched = Stopwatch()
    for _ in range(5):
        assert running.value("select 1") == "1"
        assert says(doorman, "bob") == "in"
    assert any(one.is_alive() for one in crowd), "the judge was too quick for this test to say anything"
    watched.must_be_below(7, "five log-ins beside slow ones")
    running.hang_up()
    doorman.kill()  # those who wait need not be waited for
    for one in crowd:
        one.join(60)


# LDAP


@pytest.fixture(scope="module")
def slapd() -> Iterator[Directory]:
    if MISSING:
        pytest.skip(MISSING)
    with running_slapd() as directory:
        yield directory


BELOW = 'ldapprefix=uid= ldapsuffix=",ou=people,dc=example,dc=net"'


@pytest.mark.parametrize("how", ["simple", "url", "ldaps", "starttls"])
def test_ldap(house: Start, slapd: Directory, how: str) -> None:
    server = f"ldapserver=127.0.0.1 ldapport={slapd.port}"
    options = {
        "simple": f"{server} {BELOW}",
        "url": f'ldapurl="ldap://127.0.0.1:{slapd.port}/dc=example,dc=net?uid?sub" '
        'ldapbinddn="cn=reader,dc=example,dc=net" ldapbindpasswd=readersecret',
        "ldaps": f"ldapserver=127.0.0.1 ldapport={slapd.tls_port} ldapscheme=ldaps ldapcafile={slapd.certificate} {BELOW}",
        "starttls": f"{server} ldaptls=1 ldapcafile={slapd.certificate} {BELOW}",
    }[how]
    doorman = house(f"host all all all ldap {options}", users=("alice", "bob", "nopassword"))
    assert says(doorman, "alice", "pencil") == "in"
    for name, password in (("alice", "pen"), ("nopassword", "x"), ("carl", "x"), ("*", "pencil"), ("bob", "pencil")):
        assert says(doorman, name, password) == f'28P01 LDAP authentication failed for user "{name}"'
    assert says(doorman, "bob", "") == '28P01 password authentication failed for user "bob"'
    told = doorman.log() + str(doorman.show("config"))
    assert "readersecret" not in told
    assert "pencil" not in told


def test_ldap_server_that_is_away_or_not_trusted(house: Start, slapd: Directory) -> None:
    away = "ldapserver=127.0.0.9 ldapport=1 ldapprefix=x="
    strange = f"ldapserver=127.0.0.1 ldapport={slapd.tls_port} ldapscheme=ldaps {BELOW}"
    doorman = house(f"host all alice all ldap {away}\nhost all bob all ldap {strange}")
    assert says(doorman, "alice", "pencil") == '28P01 LDAP authentication failed for user "alice"'
    assert says(doorman, "bob", "bobsecret") == '28P01 LDAP authentication failed for user "bob"'
    doorman.wait_logged("no LDAP server can be reached")


# Tokens


RSA = rsa.generate_private_key(65537, 2048)
ED = ed25519.Ed25519PrivateKey.generate()


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """Public keys: rsa.pem, and ed.pem in a directory of keys by id; rsa.key is private."""
    tmp_path.chmod(0o755)
    (tmp_path / "ids").mkdir()
    spki = (Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "rsa.pem").write_bytes(RSA.public_key().public_bytes(*spki))
    (tmp_path / "ids" / "ed.pem").write_bytes(ED.public_key().public_bytes(*spki))
    private = RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "rsa.key").write_bytes(private)
    return tmp_path


def token(key: Any = RSA, algorithm: str = "RS256", headers: Any = None, **claims: Any) -> str:
    said = {"preferred_username": "alice", "exp": time.time() + 60, **claims}
    return jwt.encode({name: value for name, value in said.items() if value is not None}, key, algorithm, headers)


def test_tokens(house: Start, keys: Path) -> None:
    doorman = house(
        f"host all alice all jwt key={keys}/rsa.pem audience=shop\n"
        f"host all bob all jwt key={keys}/ids claim=email map=mail\n",
        pg_ident={"content": "mail /^(.*)@example\\.com$ \\1\n"},
    )
    invalid = "28P01 JWT token validation failed. Please provide a valid token."
    assert says(doorman, "alice", token(aud="shop")) == "in"
    good = {"aud": "shop"}
    for bad in (
        token(aud="other"),
        token(),
        token(exp=time.time() - 5, **good),
        token(exp=None, **good),
        token(nbf=time.time() + 60, **good),
        token(rsa.generate_private_key(65537, 2048), **good),
        token(**good)[:-4],
        jwt.encode({"preferred_username": "alice", "exp": time.time() + 60, **good}, "", "none"),
        _signed_with_the_public_key(keys, good),
        "x",
        "a.b.c",
    ):
        assert says(doorman, "alice", bad) == invalid
    mismatch = (
        "28P01 JWT token username mismatch. Token contains username 'eve' but you're trying to connect as 'alice'."
    )
    assert says(doorman, "alice", token(preferred_username="eve", **good)) == mismatch
    assert says(doorman, "bob", token(ED, "EdDSA", {"kid": "ed"}, email="bob@example.com")) == "in"
    assert says(doorman, "bob", token(ED, "EdDSA", {"kid": "ed"}, email="bob@example.org")).startswith("28P01")
    assert says(doorman, "bob", token(ED, "EdDSA", {"kid": "no"}, email="bob@example.com")).startswith("28P01")
    assert token(aud="shop")[:20] not in doorman.log()


def _signed_with_the_public_key(keys: Path, claims: Any) -> str:
    """The oldest trick: HMAC, with the public key for a secret."""
    import hashlib  # noqa: PLC0415
    import hmac  # noqa: PLC0415

    def part(value: Any) -> bytes:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")

    text = part({"alg": "HS256", "typ": "JWT"}) + b"." + part({"preferred_username": "alice", "exp": 2**40, **claims})
    signature = hmac.digest((keys / "rsa.pem").read_bytes(), text, hashlib.sha256)
    return (text + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


def test_token_key_of_a_user(house: Start, keys: Path) -> None:
    doorman = house("host all all all scram-sha-256", extra={"password": f"jwt-pkey-fpath:{keys}/rsa.pem"})
    assert says(doorman, "alice", token()) == "in"
    assert says(doorman, "bob", token()).startswith("28P01 JWT token username mismatch")
    (keys / "rsa.pem").write_bytes((keys / "ids" / "ed.pem").read_bytes())
    assert says(doorman, "alice", token()).startswith("28P01"), "keys are read again when they change"
    assert says(doorman, "alice", token(ED, "EdDSA")) == "in"


def test_oauth(house: Start, keys: Path) -> None:
    doorman = house(f"host all all all oauth key={keys}/rsa.pem issuer=https://id.example scope=shop")
    good = token(iss="https://id.example", scope="openid shop")

    def try_token(text: str, name: str = "alice") -> str:
        wire = doorman.dial()
        try:
            wire.send(startup({"user": name, "database": "app"}))
            assert wire.receive().body[4:] == b"OAUTHBEARER\0\0"
            auth = f"Bearer {text}" if text else ""
            wire.send(sasl_initial("OAUTHBEARER", f"n,,\1auth={auth}\1\1".encode()))
            reply = wire.receive()
            if reply.kind == "R" and reply.body[:4] == b"\0\0\0\0":
                return "in"
            if reply.kind == "R":
                assert json.loads(reply.body[4:])["status"] == "invalid_token"
                wire.send(frame("p", b"\1"))
                reply = wire.receive()
            return reply.fields()["C"]
        finally:
            wire.hang_up()

    assert try_token(good) == "in"
    assert try_token(good, "bob") == "28P01"
    assert try_token("") == "28P01"
    assert try_token(token(iss="https://other.example", scope="shop")) == "28P01"
    assert try_token(token(iss="https://id.example", scope="openid")) == "28P01"


def test_token_for_a_server(start_doorman: StartDoorman, keys: Path) -> None:
    """A backend's password is minted anew for each connection, and only said in clear where that is asked for."""
    seen: list[dict[str, Any]] = []

    def server(peer: Peer) -> None:
        peer.receive_startup()
        peer.send(authentication(3))
        said = peer.receive().body[:-1]
        seen.append(jwt.decode(said, RSA.public_key(), ["RS256"]))
        peer.send(greeting())
        peer.serve()

    with FakeServer(server) as fake:
        entry = user("alice", pool_size=3, server_username="svc", server_password=f"jwt-priv-key-fpath:{keys}/rsa.key")
        doorman = start_doorman(pools={"app": pool((fake.host, fake.port), entry)})
        wires = [doorman.connect("app", "alice") for _ in range(2)]
        for wire in wires:
            wire.send(query("begin"), query("select"))
            wire.settle()
        for wire in wires:
            wire.hang_up()
        doorman.kill()
    assert {one["preferred_username"] for one in seen} == {"svc"}
    assert all(one["exp"] - one["iat"] == 120 for one in seen)


# How often one may fail


def test_failed_log_ins_are_limited(house: Start) -> None:
    doorman = house(
        "host all bob all trust\nhost all all all scram-sha-256",
        extra={"password": SECRET},
        failed_login_limit=5,
        failed_login_window="5m",
    )
    staying = doorman.connect("app", "bob")
    wrong = [says(doorman, name, "wrong") for name in ("alice", "alice", "carl", "carl", "alice")]
    assert wrong == [f'28P01 password authentication failed for user "{name}"' for name in
                     ("alice", "alice", "carl", "carl", "alice")]  # fmt: skip
    barred = "28000 too many failed logins from this address; try again later"
    assert says(doorman, "alice") == barred
    assert says(doorman, "bob") == barred
    assert staying.value("select 1") == "1", "who is in stays in"
    doorman.general["failed_login_limit"] = 0
    doorman.reload()
    wait_until(lambda: says(doorman, "alice") == "in", 20, "no limit any more")
    staying.hang_up()


def test_a_crowd_of_guesses_does_not_get_past_the_limit(house: Start) -> None:
    """All come in before the first has failed; the right guess among them is no good any more."""
    doorman = house(
        "host all all all password", extra={"password": SECRET}, failed_login_limit=3, failed_login_window="60s"
    )
    wires = [doorman.dial() for _ in range(10)]
    for wire in wires:
        wire.send(startup({"user": "alice", "database": "app"}))
    for wire in wires:
        assert wire.receive().kind == "R"
    for wire in wires[:-1]:
        wire.send(password_message("wrong"))
        assert wire.receive().fields()["C"] == "28P01"
    wires[-1].send(password_message(SECRET))
    assert wires[-1].receive().fields()["C"] == "28000"
    for wire in wires:
        wire.hang_up()


# Role tokens


def test_talos(postgres: Postgres, start_doorman: StartDoorman, keys: Path) -> None:
    """Who comes as `talos` becomes the strongest role that the token grants in the database asked for."""
    pools = {
        "app": pool(postgres, *(user(name, "x", server_username="alice") for name in ("owner", "read_only"))),
        "shop": pool(postgres, user("owner", "x", server_username="bob"), server_database="other"),
    }
    doorman = start_doorman(
        pools=pools,
        general={"pg_hba": {"content": "host pgdoorman all all md5\nhost app,shop talos all md5\n"}},
        sections={"talos": {"keys": [f"{keys}/rsa.pem"], "databases": ["app", "other"]}},
    )

    def try_talos(database: str, access: Any, **options: Any) -> str:
        said = token(headers={"kid": "rsa"}, resource_access=access, clientId="robot", **options)
        try:
            with doorman.connect(database, "talos", said) as wire:
                return f"{wire.value('select current_user')} {wire.value('show application_name')}"
        except ServerError as error:
            return error.sqlstate

    def grants(**roles: list[str]) -> Any:
        return {f"svc:{database}": {"roles": granted} for database, granted in roles.items()}

    assert try_talos("app", grants(app=["read_only", "owner"])) == "alice robot"
    assert {row["user"]: row["cl_idle"] for row in doorman.show("pools")}.keys() == {"owner", "read_only"}
    assert try_talos("app", grants(app=["read_only"], other=["owner"])) == "alice robot"
    assert try_talos("shop", grants(other=["owner"])) == "bob robot", "called as at the server"
    assert try_talos("app", grants(other=["owner"])) == "28000", "granted elsewhere"
    assert try_talos("app", grants(app=["read_write"])) == "28000", "a role that is no user here"
    assert try_talos("app", grants(app=["superuser"])) == "28000"
    assert try_talos("app", {}) == "28000"
    assert try_talos("app", grants(app=["owner"]), exp=1) == "28000"
    assert says(doorman, "talos", token(ED, "EdDSA", {"kid": "rsa"}, resource_access=grants(app=["owner"]))).startswith(
        "28000"
    )
    assert says(doorman, "owner", "x").startswith("28000"), "no line lets them in by themselves"
