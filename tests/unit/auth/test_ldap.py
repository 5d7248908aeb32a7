"""LDAP, against a slapd of the tests' own: both ways to bind, LDAPS, StartTLS, and everything that must be refused."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from pgdoorman.auth.client_login import LoginAttempt, LoginKnobs, LoginRefused, authenticate
from pgdoorman.auth.hba import parse_hba
from pgdoorman.auth.ldap import ldap_refusal
from pgdoorman.auth.ldap_settings import LdapSettings
from pgdoorman.auth.scram import MadeVerifiers
from pgdoorman.auth.secrets import NoSecret
from pgdoorman.protocol.authentication import password_message
from tests.support.script import drive

SLAPD = shutil.which("slapd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/lib/openldap")
SCHEMAS = Path("/etc/ldap/schema")
pytestmark = pytest.mark.skipif(SLAPD is None or not SCHEMAS.is_dir(), reason="no slapd here")

CONFIGURATION = """
include {schemas}/core.schema
include {schemas}/cosine.schema
include {schemas}/inetorgperson.schema
modulepath /usr/lib/ldap
moduleload back_mdb
pidfile {directory}/pid
TLSCACertificateFile {directory}/cert.pem
TLSCertificateFile {directory}/cert.pem
TLSCertificateKeyFile {directory}/key.pem
database mdb
directory {directory}/data
suffix "dc=example,dc=net"
rootdn "cn=root,dc=example,dc=net"
rootpw rootsecret
access to attrs=userPassword by anonymous auth by * none
access to * by dn.base="cn=reader,dc=example,dc=net" read by anonymous {anonymous} by * none
"""
ENTRIES = """
dn: dc=example,dc=net
objectClass: dcObject
objectClass: organization
dc: example
o: example

dn: cn=reader,dc=example,dc=net
objectClass: person
cn: reader
sn: reader
userPassword: readersecret

dn: ou=people,dc=example,dc=net
objectClass: organizationalUnit
ou: people

dn: ou=more,ou=people,dc=example,dc=net
objectClass: organizationalUnit
ou: more

dn: uid=alice,ou=people,dc=example,dc=net
objectClass: inetOrgPerson
uid: alice
cn: Alice
sn: A
mail: alice@example.net
userPassword: pencil

dn: uid=bob,ou=people,dc=example,dc=net
objectClass: inetOrgPerson
uid: bob
cn: Same
sn: B
userPassword: bobsecret

dn: uid=carol,ou=more,ou=people,dc=example,dc=net
objectClass: inetOrgPerson
uid: carol
cn: Same
sn: C
userPassword: p\u00e4ss

dn: uid=nopassword,ou=people,dc=example,dc=net
objectClass: inetOrgPerson
uid: nopassword
cn: nopassword
sn: N
"""


@dataclass(frozen=True)
class Directory:
    port: int
    tls_port: int
    certificate: str


def _certificate(directory: Path) -> None:
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = (
        builder.serial_number(1).not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    )
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    (directory / "cert.pem").write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    (directory / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def _free_ports() -> tuple[int, int]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        return one.getsockname()[1], two.getsockname()[1]


@pytest.fixture(scope="module")
def slapd() -> Iterator[Directory]:
    with tempfile.TemporaryDirectory(prefix="slapd-") as name:
        yield from _running(Path(name), "read")


def _running(directory: Path, anonymous: str) -> Iterator[Directory]:
    _certificate(directory)
    (directory / "data").mkdir()
    configuration = directory / "slapd.conf"
    configuration.write_text(CONFIGURATION.format(directory=directory, schemas=SCHEMAS, anonymous=anonymous))
    assert SLAPD is not None
    subprocess.run(
        [SLAPD, "-T", "add", "-f", str(configuration)],
        input=ENTRIES.encode(),
        check=True,
        capture_output=True,
        timeout=60,
    )
    port, tls_port = _free_ports()
    listeners = f"ldap://127.0.0.1:{port} ldap://127.0.0.2:{port} ldaps://127.0.0.1:{tls_port}"
    process = subprocess.Popen([SLAPD, "-d", "0", "-f", str(configuration), "-h", listeners])
    try:
        _wait_for(port)
        yield Directory(port, tls_port, str(directory / "cert.pem"))
    finally:
        process.terminate()
        process.wait(30)


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


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
