"""A slapd of the tests' own: a few people, a reader, TLS.

    with running_slapd() as directory: ...        # directory.port, directory.tls_port, directory.certificate
    with running_slapd(people={"dave": "word"})   # some more people, by name, and their passwords

Skips the test where Debian's slapd is not installed.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support.certificates import self_signed
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
TLSCACertificateFile {directory}/server.crt
TLSCertificateFile {directory}/server.crt
TLSCertificateKeyFile {directory}/server.key
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
PERSON = """
dn: uid={name},ou=people,dc=example,dc=net
objectClass: inetOrgPerson
uid: {name}
cn: {name}
sn: X
userPassword: {password}
"""

NOBODY_ELSE: Mapping[str, str] = {}


@dataclass(frozen=True)
class Directory:
    port: int
    tls_port: int
    certificate: str


@contextlib.contextmanager
def running_slapd(anonymous: str = "read", people: Mapping[str, str] = NOBODY_ELSE) -> Iterator[Directory]:
    """Runs until the end of the block. `anonymous` is what somebody may do who has not said a name; `people` are there beside
    the usual ones, names to passwords."""
    entries = ENTRIES + "".join(PERSON.format(name=name, password=password) for name, password in people.items())
    with tempfile.TemporaryDirectory(prefix="slapd-") as name, _running(Path(name), anonymous, entries) as directory:
        yield directory


@contextlib.contextmanager
def _running(directory: Path, anonymous: str, entries: str) -> Iterator[Directory]:
    certificate, _ = self_signed("localhost").write(directory, "server")
    (directory / "data").mkdir()
    configuration = directory / "slapd.conf"
    configuration.write_text(CONFIGURATION.format(directory=directory, schemas=SCHEMAS, anonymous=anonymous))
    assert SLAPD is not None
    subprocess.run(
        [SLAPD, "-T", "add", "-f", str(configuration)],
        input=entries.encode(),
        check=True,
        capture_output=True,
        timeout=60,
    )
    port, tls_port = free_port(), free_port()
    listeners = f"ldap://127.0.0.1:{port} ldap://127.0.0.2:{port} ldaps://127.0.0.1:{tls_port}"
    process = subprocess.Popen([SLAPD, "-d", "0", "-f", str(configuration), "-h", listeners])
    try:
        _wait_for(port)
        yield Directory(port, tls_port, str(certificate))
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
