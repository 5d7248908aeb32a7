"""What the settings say about access, and everything in it that cannot be used."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from pgdoorman.auth.hba import Method
from pgdoorman.auth.tokens import TalosRules
from pgdoorman.config.load import load_text
from pgdoorman.doorman.access import Access, read_access
from pgdoorman.errors import ConfigErrors

HEAD = '[general]\nadmin_username = "a"\nadmin_password = "b"\n'


def access(general: str = "", rest: str = "[pools.shop]\n") -> Access:
    return read_access(load_text(f"{HEAD}{general}\n{rest}", environment={}))


def complaints(general: str = "", rest: str = "[pools.shop]\n") -> list[str]:
    with pytest.raises(ConfigErrors) as caught:
        access(general, rest)
    return [str(error) for error in caught.value.errors]


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    key = rsa.generate_private_key(65537, 2048)
    spki = (Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "k1.pem").write_bytes(key.public_key().public_bytes(*spki))
    (tmp_path / "ed.pem").write_bytes(ed25519.Ed25519PrivateKey.generate().public_key().public_bytes(*spki))
    (tmp_path / "k1.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (tmp_path / "text").write_text("no key")
    return tmp_path


def test_without_rules() -> None:
    assert [rule.method for rule in access().rules.rules] == [Method.STORED, Method.STORED]
    assert len(access('hba = ["10.0.0.0/8", "::1/128"]').rules.rules) == 3


def test_rules_and_maps_of_a_text() -> None:
    found = access("pg_hba = '''\nlocal all all peer map=m\n'''\npg_ident = 'm root alice'")
    assert [rule.method for rule in found.rules.rules] == [Method.PEER]
    assert found.ident_maps.admits("m", "root", "alice")
    assert found.talos is None


def test_errors_name_the_line_of_the_file_in_which_the_text_stands() -> None:
    found = complaints("pg_hba = '''\nlocal all all trust\nhost all all all trus\n'''\npg_ident = '''\nm x\n'''")
    assert found == [
        'pgdoorman.toml:6: invalid authentication method "trus"',
        "pgdoorman.toml:9: missing entry at end of line",
    ]


def test_errors_of_files(tmp_path: Path) -> None:
    (tmp_path / "hba").write_text("# nothing\nlocal all\n")
    assert complaints(f'pg_hba = {{path = "{tmp_path}/hba"}}') == [
        f"{tmp_path}/hba:2: end-of-line before role specification"
    ]


def test_maps_that_nobody_has_written() -> None:
    assert complaints("pg_hba = 'local all all peer map=x'", "[pools.shop]\n") == [
        'pgdoorman.toml:4: there is no user-name map "x" in pg_ident'
    ]


def test_keys_of_rules_and_users(keys: Path) -> None:
    rules = f"pg_hba = '''\nhost all all all jwt key={keys}/k1.pem\nhost all all all jwt key={keys}/text\n'''"
    user = '[[pools.shop.users]]\nusername = "u"\npool_size = 1\nserver_username = "s"\n'
    secrets = f'password = "jwt-pkey-fpath:{keys}/none"\nserver_password = "jwt-priv-key-fpath:{keys}/k1.pem"\n'
    found = complaints(rules, user + secrets)
    assert len(found) == 3
    assert found[0].startswith(f"pgdoorman.toml:6: {keys}/text: not a public key that can be used")
    assert (
        found[1] == f"pools.shop.users.u.password: {keys}/none: could not read the token key: No such file or directory"
    )
    assert found[2].startswith(f"pools.shop.users.u.server_password: {keys}/k1.pem: not an RSA private key")
    good = f'password = "jwt-pkey-fpath:{keys}/k1.pem"\nserver_password = "jwt-priv-key-fpath:{keys}/k1.key"\n'
    assert access("", user + good).rules.rules


def test_talos(keys: Path) -> None:
    pools = '[pools.shop]\nserver_database = "real"\n[pools.other]\n'
    talos = f'[talos]\nkeys = ["{keys}/k1.pem"]\ndatabases = ["shop", "real", "elsewhere"]\n'
    names = {"shop": frozenset({"shop", "real"}), "other": frozenset[str]()}
    assert access("", pools + talos).talos == TalosRules((f"{keys}/k1.pem",), names)
    assert complaints("", pools + talos.replace("k1.pem", "ed.pem")) == [
        f"talos.keys: {keys}/ed.pem: not an RSA public key"
    ]
