"""LDAP, against a slapd of the tests' own: both ways to bind, LDAPS, StartTLS, and everything that must be refused."""

import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace

import pytest

from pgdoorman.auth.client_login import LoginAttempt, LoginKnobs, LoginRefused, authenticate
from pgdoorman.auth.hba import parse_hba
from pgdoorman.auth.ldap import ldap_refusal
from pgdoorman.auth.ldap_settings import LdapSettings
from pgdoorman.auth.scram import MadeVerifiers
from pgdoorman.auth.secrets import NoSecret
from pgdoorman.protocol.authentication import password_message
from tests.support.script import drive
from tests.support.slapd import MISSING, Directory, running_slapd

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)


@pytest.fixture(scope="module")
def slapd() -> Iterator[Directory]:
    with running_slapd() as directory:
        yield directory


def simple(slapd: Directory) -> LdapSettings:
    return LdapSettings(("127.0.0.1",), slapd.port, prefix="uid=", suffix=",ou=people,dc=example,dc=net")


def searching(slapd: Directory) -> LdapSettings:
    return LdapSettings(
        ("127.0.0.1",),
        slapd.port,
        base="dc=example,dc=net",
        bind_name="cn=reader,dc=example,dc=net",
        bind_password="readersecret",
    )


@pytest.mark.parametrize(
    ("user", "password", "admitted"),
    [
        ("alice", "pencil", True),
        ("alice", "pencil2", False),
        ("alice", "", False),  # LDAP itself would say yes: an anonymous bind
        ("bob", "pencil", False),
        ("nobody", "pencil", False),
        ("nopassword", "", False),
        ("nopassword", "x", False),
        ("", "pencil", False),
        ("carol", "p\u00e4ss", False),  # elsewhere in the tree
        ("carol,ou=more", "p\u00e4ss", False),  # a comma in a name is no way to get there
        ("alice\0", "pencil", False),
        ("alice", "x" * 65_535, False),
    ],
)
def test_simple_bind(slapd: Directory, user: str, password: str, admitted: bool) -> None:
    refusal = ldap_refusal(simple(slapd), user, password.encode())
    assert (refusal == "") is admitted, refusal
    assert "pencil" not in refusal


def test_a_prefix_that_is_no_distinguished_name(slapd: Directory) -> None:
    settings = LdapSettings(("127.0.0.1",), slapd.port, prefix="uid=alice,ou=people,dc=", suffix=",dc=net")
    assert ldap_refusal(settings, "example", b"pencil") == ""


@pytest.mark.parametrize(
    ("user", "password", "admitted"),
    [
        ("alice", "pencil", True),
        ("carol", "p\u00e4ss", True),
        ("alice", "readersecret", False),
        ("alice", "", False),
        ("nobody", "pencil", False),
        ("*", "pencil", False),
        ("al*", "pencil", False),
        ("alice)(uid=*", "pencil", False),
        ("al\\69ce", "pencil", False),
    ],
)
def test_search_and_bind(slapd: Directory, user: str, password: str, admitted: bool) -> None:
    refusal = ldap_refusal(searching(slapd), user, password.encode())
    assert (refusal == "") is admitted, refusal
    assert "readersecret" not in refusal


def test_anonymous_search(slapd: Directory) -> None:
    settings = replace(searching(slapd), bind_name="", bind_password="")
    assert ldap_refusal(settings, "alice", b"pencil") == ""
    assert ldap_refusal(settings, "alice", b"wrong") != ""


@pytest.mark.parametrize(
    ("change", "user", "refusal"),
    [
        ({"filter": "(|(uid=$username)(mail=$username))"}, "alice@example.net", ""),
        ({"filter": "mail=$username"}, "alice@example.net", ""),
        ({"attribute": "mail"}, "alice@example.net", ""),
        ({"attribute": "cn"}, "Same", "LDAP user is not unique"),
        ({"scope": "one"}, "alice", "LDAP user does not exist"),
        ({"scope": "one", "base": "ou=people,dc=example,dc=net"}, "alice", ""),
        ({"scope": "base", "base": "uid=alice,ou=people,dc=example,dc=net"}, "alice", ""),
        ({"base": "dc=nowhere"}, "alice", "LDAP user does not exist"),
        ({"bind_password": "wrong"}, "alice", "LDAP login failed"),
        ({"filter": "(((("}, "alice", "LDAP: "),
    ],
)
def test_searches(slapd: Directory, change: dict[str, str], user: str, refusal: str) -> None:
    settings = replace(searching(slapd), **change)  # type: ignore[arg-type]  # the table keeps to the fields' types
    answer = ldap_refusal(settings, user, b"pencil")
    assert answer.startswith(refusal) if refusal else answer == ""


@pytest.mark.parametrize("user", ["alice", "bob"])
@pytest.mark.parametrize("kind", ["ldaps", "starttls"])
def test_tls(slapd: Directory, kind: str, user: str) -> None:
    change = {"tls": True, "port": slapd.tls_port} if kind == "ldaps" else {"start_tls": True}
    settings = replace(searching(slapd), ca_file=slapd.certificate, **change)  # type: ignore[arg-type]  # as declared
    assert (ldap_refusal(settings, user, b"pencil") == "") is (user == "alice")


def test_servers_that_are_not_who_they_should_be(slapd: Directory) -> None:
    settings = simple(slapd)
    refusals = [
        ldap_refusal(changed, "alice", b"pencil")
        for changed in (
            replace(settings, tls=True, port=slapd.tls_port),  # not known to the system's authorities
            replace(settings, start_tls=True),
            replace(settings, tls=True),  # not speaking TLS at all
            replace(settings, start_tls=True, servers=("127.0.0.2",), ca_file=slapd.certificate),  # another's name
        )
    ]
    assert ldap_refusal(replace(settings, servers=("127.0.0.2",)), "alice", b"pencil") == ""
    for refusal, wanted in zip(refusals, ("self-signed", "self-signed", "ssl", "IP address mismatch"), strict=True):
        assert wanted in refusal


def test_a_client_at_our_door(slapd: Directory) -> None:
    options = f'ldapserver=127.0.0.1 ldapport={slapd.port} ldapprefix=uid= ldapsuffix=",ou=people,dc=example,dc=net"'
    attempt = LoginAttempt(
        "alice", "shop", "10.0.0.1", parse_hba(f"host all all all ldap {options}"), LoginKnobs(MadeVerifiers(1))
    )
    identity = drive(authenticate(attempt), password_message(b"pencil"), lambda _: NoSecret()).get()
    assert (identity.method, identity.password) == ("ldap", b"pencil")
    outcome = drive(authenticate(attempt), password_message(b"wrong"))
    assert isinstance(outcome.error, LoginRefused)
    assert str(outcome.error) == 'LDAP authentication failed for user "alice"'


def test_the_next_server_is_tried_when_one_cannot_be_reached(slapd: Directory) -> None:
    settings = replace(simple(slapd), servers=("127.0.0.9", "127.0.0.1"))
    assert ldap_refusal(settings, "alice", b"pencil") == ""
    assert "LDAP login failed" in ldap_refusal(settings, "alice", b"wrong")
    settings = replace(settings, servers=("127.0.0.9",))
    assert "no LDAP server can be reached" in ldap_refusal(settings, "alice", b"pencil")


def test_a_server_that_talks_nonsense() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        process = subprocess.Popen(
            [
                "python3",
                "-c",
                "import socket,sys\ns=socket.socket(fileno=0)\nc,_=s.accept()\nc.recv(1)\nc.sendall(b'0\\x82zz'*50)",
            ],
            stdin=listener.fileno(),
        )
        try:
            settings = LdapSettings(("127.0.0.1",), listener.getsockname()[1], prefix="uid=")
            assert ldap_refusal(settings, "alice", b"pencil") != ""
        finally:
            process.kill()
            process.wait(10)
