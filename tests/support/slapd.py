"""A slapd of the tests' own: a few people, a reader, TLS.

    with running_slapd() as directory: ...        # directory.port, directory.tls_port, directory.certificate

Skips the test where Debian's slapd is not installed.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.support.process import free_port

SLAPD = shutil.which("slapd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/lib/openldap")
SCHEMAS = Path("/etc/ldap/schema")
MISSING = "" if SLAPD is not None and SCHEMAS.is_dir() else "slapd is not installed (Debian: apt-get install slapd)"

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


@contextlib.contextmanager
def running_slapd(anonymous: str = "read") -> Iterator[Directory]:
    """Runs until the end of the block. `anonymous` is what somebody may do who has not said a name."""
    with tempfile.TemporaryDirectory(prefix="slapd-") as name, _running(Path(name), anonymous) as directory:
        yield directory


@contextlib.contextmanager
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
    port, tls_port = free_port(), free_port()
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
