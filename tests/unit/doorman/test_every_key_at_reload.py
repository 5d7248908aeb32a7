"""Every key of the table, changed in the file of a house that runs: whoever goes by it goes by the new value after a
reload, what needs a restart stays as it is and is named, and nothing else is touched."""

import gc
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from pgdoorman.config.keys import KEYS, Change, Key, Section, Since
from pgdoorman.config.kinds import Choice, Duration, Flag, Integer, ListOf, ParameterTable, Rules, SecretText, Size
from pgdoorman.config.load import load
from pgdoorman.config.settings import FallbackSettings, UserPoolSettings
from pgdoorman.doorman.house import Doorman
from pgdoorman.pool.pool import Pool
from pgdoorman.transport import libssl
from tests.support.certificates import DH_2048, Authority
from tests.unit.config.sample import toml

PLACES = [
    (key, section) for key in KEYS for section in key.sections if key.since is Since.AVAILABLE and not key.ignored
]
CASES = [
    pytest.param(key, section, id=f"{section}.{key.name}") for key, section in PLACES if key.name != "username"
]  # another name is another user

Tree = dict[str, Any]


@dataclass
class House:
    """A house that nobody visits, and its file."""

    path: Path
    certificates: Path
    said: Tree
    doorman: Any = None

    def write(self) -> None:
        self.path.write_text("".join(f"{name} = {_toml(value)}\n" for name, value in self.said.items()))

    def section(self, section: Section) -> Tree:
        pools = self.said["pools"]
        found: dict[Section, Tree] = {
            Section.GENERAL: self.said["general"],
            Section.POOL: pools["shop"],
            Section.USER: pools["shop"]["users"][0],
            Section.AUTH_QUERY: pools["found"]["auth_query"],
            Section.WEB: self.said["web"],
            Section.TALOS: self.said["talos"],
        }
        return found[section]

    @property
    def pool(self) -> Pool:
        pool = self.doorman.registry.find("shop", "alice")
        assert isinstance(pool, Pool)
        return pool

    @property
    def fallback(self) -> FallbackSettings:
        fallback = self.pool.fallback
        assert fallback is not None
        return fallback.settings

    @property
    def lookup(self) -> Any:
        return self.doorman.lookups.of("found")


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(name)} = {_toml(item)}" for name, item in value.items()) + " }"
    if isinstance(value, list):
        return "[ " + ", ".join(map(_toml, value)) + " ]"
    return toml(value)


@pytest.fixture(scope="module")
def _house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("every-key")
    authority = Authority()
    authority.write(folder, "ca")
    (folder / "crl.pem").write_bytes(authority.revoke())
    for name in ("one", "other"):
        authority.issue(name).write(folder, name)
    authority.issue("locked").write(folder, "locked", passphrase="word")
    (folder / "dh.pem").write_text(DH_2048)
    (folder / "talos.pem").write_bytes(_public_key())
    pem = {"tls_certificate": str(folder / "one.crt"), "tls_private_key": str(folder / "one.key")}
    general = {
        "port": 0, "host": "127.0.0.1", "worker_threads": 1, "admin_username": "admin", "admin_password": "x",
        "local_console": False, "tls_ca_cert": str(folder / "ca.crt"), **pem,
        "patroni_api_urls": ["http://127.0.0.1:1"],
    }  # fmt: skip
    user = {"username": "alice", "password": "secret", "pool_size": 5, "server_username": "role"}
    shop = {"server_host": "127.0.0.1", "server_port": 1, "users": [user]}
    query = {"query": "select $1", "user": "asker", "server_user": "all"}
    found = {"server_host": "127.0.0.1", "server_port": 1, "auth_query": query}
    house = House(
        folder / "pgdoorman.toml",
        folder,
        {"general": general, "pools": {"shop": shop, "found": found}, "web": {}, "talos": {}},
    )
    house.write()
    doorman = Doorman(load(house.path), house.path)
    try:
        doorman.open()
        house.doorman = doorman
        yield house
    finally:
        doorman.close()
        gc.enable()
        gc.unfreeze()


def _public_key() -> bytes:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture
def house(_house: House) -> Iterator[House]:
    before = json.dumps(_house.said)
    yield _house
    _house.said = json.loads(before)
    _house.write()
    _house.doorman.reload()


# Where the value of a key is when it is used, if that is neither the pool's settings nor the house's general ones.
USED: dict[str, Callable[[House], Any]] = {
    "max_db_connections": lambda house: house.pool.quota.terms.maximum,
    "reserve_pool_size": lambda house: house.pool.quota.terms.reserve,
    "reserve_pool_timeout": lambda house: house.pool.quota.terms.reserve_timeout,
    "min_connection_lifetime": lambda house: house.pool.quota.terms.min_lifetime,
    "min_guaranteed_pool_size": lambda house: house.pool.quota.terms.guaranteed,
    "pool_size": lambda house: house.pool.ledger._limit,
    "min_pool_size": lambda house: house.pool.ledger._minimum,
    "server_round_robin": lambda house: house.pool.ledger._round_robin,
    "server_login_retry": lambda house: house.pool.ledger._retry_delay,
    "max_concurrent_creates": lambda house: house.pool.ledger._eager_openings,
    "scaling_max_parallel_creates": lambda house: house.pool.ledger._parallel_openings,
    "scaling_warm_pool_ratio": lambda house: house.pool.ledger._warm,
    "prepared_statements_cache_size": lambda house: house.pool.book._limit,
    "pooler_check_query": lambda house: house.pool.check.text,
    "password": lambda house: house.pool._secret,
    "max_memory_usage": lambda house: house.doorman.budget.limit,
    "client_login_timeout": lambda house: house.doorman.desk.login_timeout,
    "failed_login_limit": lambda house: house.doorman.desk.failed.limit,
    "failed_login_window": lambda house: house.doorman.desk.failed.window,
    "scram_iterations": lambda house: house.doorman.desk.knobs.verifiers.iterations,
    "hba": lambda house: house.doorman.desk.rules,
    "pg_hba": lambda house: house.doorman.desk.rules,
    "pg_ident": lambda house: house.doorman.desk.knobs.ident_maps,
    "tls_rate_limit_per_second": lambda house: house.doorman.desk.handshakes.per_second,
    "keys": lambda house: house.doorman.desk.knobs.talos,
    "databases": lambda house: house.doorman.desk.knobs.talos,
    "patroni_api_urls": lambda house: house.fallback.patroni_api_urls,
    "patroni_api_timeout": lambda house: house.fallback.api_timeout,
    "fallback_cooldown": lambda house: house.fallback.cooldown,
    "fallback_connect_timeout": lambda house: house.fallback.connect_timeout,
    "fallback_lifetime": lambda house: house.fallback.lifetime,
    "backlog": lambda house: house.doorman.general.listen_backlog,
}
# These are looked up in the house's general settings at the moment of use.
OF_THE_HOUSE = {
    "max_connections", "log_client_connections", "log_client_disconnections", "admin_username", "admin_password",
    "shutdown_timeout", "shutdown_delay", "shutdown_idle_clients", "retain_connections_time", "retain_connections_max",
    "query_interner_gc_interval_seconds", "query_interner_anon_idle_ttl_seconds", "log_stats",
}  # fmt: skip
OF_A_POOL = {field.name for field in fields(UserPoolSettings)}


def _used(house: House, key: Key, section: Section) -> Any:
    """What whoever goes by the key would go by now."""
    if section is Section.AUTH_QUERY:
        return getattr(house.lookup._query, key.name)
    if section is Section.WEB:
        return getattr(house.doorman.settings.web, key.name)
    if key.name in USED:
        return USED[key.name](house)
    if key.name.startswith("tls_"):
        door = house.doorman.desk.tls
        return None if door is None else (door.material, door.settings.mode)
    if key.name.startswith("server_tls_"):
        return house.pool.settings.server_tls
    if key.name.startswith(("tcp_", "unix_socket_buffer")):
        return house.pool.settings.tcp, house.doorman.general.tcp, house.doorman._socket_options
    if key.change is Change.RESTART or key.name in OF_THE_HOUSE:
        return getattr(house.doorman.general, key.name)
    assert key.name in OF_A_POOL, "nobody knows who goes by this key: say so here"
    return getattr(house.pool.settings, key.name)


def _another(house: House, key: Key, section: Section) -> Tree:
    """The key with a value that it does not have, and what has to come with it."""
    folder = house.certificates
    before = house.section(section).get(key.name)
    special: dict[str, Any] = {
        "tls_certificate": {"tls_certificate": str(folder / "other.crt"), "tls_private_key": str(folder / "other.key")},
        "tls_private_key_passphrase": {
            "tls_certificate": str(folder / "locked.crt"), "tls_private_key": str(folder / "locked.key"),
            "tls_private_key_passphrase": "word",
        },
        "tls_ca_cert": {"tls_ca_cert": str(folder / "one.crt")},
        "tls_crl": {"tls_crl": str(folder / "crl.pem")},
        "tls_ciphers": {"tls_ciphers": "ECDHE+AESGCM"},
        "tls_cipher_suites": {"tls_cipher_suites": "TLS_AES_128_GCM_SHA256"},
        "tls_groups": {"tls_groups": "P-256"},
        "tls_dh_params": {"tls_dh_params": str(folder / "dh.pem")},
        "query": {"query": "select $1, 2"},
        "keys": {"keys": [str(folder / "talos.pem")], "databases": ["shop"]},
        "databases": {"keys": [str(folder / "talos.pem")], "databases": ["shop"]},
        "pg_hba": {"pg_hba": "host all all all md5\n"},
        "pg_ident": {"pg_ident": "m a b\n"},
        "host": {"host": "127.0.0.2"},
        "unix_socket_dir": {"unix_socket_dir": "/run/elsewhere"},
        "prepared_statements_cache_size": {"prepared_statements_cache_size": 77},
        "tls_rate_limit_per_second": {"tls_rate_limit_per_second": 700},
        "max_memory_usage": {"max_memory_usage": "7MB"},
        "server_password": {"server_password": "other"},
        "server_tls_mode": {"server_tls_mode": "require"},
        "patroni_api_urls": {"patroni_api_urls": ["http://127.0.0.1:2/cluster"]},
    }  # fmt: skip
    special["tls_private_key"] = special["tls_certificate"]
    special["server_tls_certificate"] = special["server_tls_private_key"] = {
        "server_tls_certificate": str(folder / "one.crt"), "server_tls_private_key": str(folder / "one.key"),
    }  # fmt: skip
    special["server_tls_private_key_passphrase"] = {
        "server_tls_certificate": str(folder / "locked.crt"), "server_tls_private_key": str(folder / "locked.key"),
        "server_tls_private_key_passphrase": "word",
    }  # fmt: skip
    for name in ("crl", "ciphers", "cipher_suites", "groups"):
        special[f"server_tls_{name}"] = {f"server_{given}": value for given, value in special[f"tls_{name}"].items()}
    special["server_tls_ca_cert"] = {"server_tls_ca_cert": str(folder / "ca.crt")}
    special["server_tls_crl"] |= special["server_tls_ca_cert"]
    if key.name in special:
        return dict(special[key.name])
    value: Any = "other"
    match key.kind:
        case Flag():
            default = key.default if before is None else before
            value = not default
        case Choice():
            words = [str(word) for word in key.kind.words]
            value = words[-1] if str(key.default) != words[-1] else words[0]
        case Integer():
            value = 4321 if key.name == "port" else 4096 + 7 if key.name == "scram_iterations" else 7
            value = 3 if key.name in ("min_pool_size", "scaling_max_parallel_creates") else value
        case Duration():
            value = "7s"
        case Size():
            value = "77KB"
        case ListOf():
            value = ["10.0.0.0/8"]
        case ParameterTable():
            value = {"work_mem": "7MB"}
        case Rules() | SecretText():
            value = "other"
        case _ if key.name == "unix_socket_mode":
            value = "0640"
    return {key.name: value}


# Only those that are opened from now on: nothing is wrong with the ones that are there.
FOR_NEW_ONES = {"server_password", "server_prepared_statements_cache_size"}


@pytest.mark.parametrize(("key", "section"), CASES)
def test_a_change_takes_effect(house: House, key: Key, section: Section) -> None:
    if key.name.endswith("tls_groups") and not libssl._library():
        pytest.skip("cryptography hides OpenSSL's functions here")
    pool, epoch, before = house.pool, house.pool.ledger.epoch, _used(house, key, section)
    house.section(section).update(_another(house, key, section))
    house.write()
    outcome = house.doorman.reload()
    assert any(f".{key.name}: " in change for change in outcome.changed), outcome
    if key.change is Change.RESTART:
        assert [name.rpartition(".")[2] for name in outcome.restart_needed] == [key.name]
        assert _used(house, key, section) == before
        return
    assert not outcome.restart_needed
    assert _used(house, key, section) != before
    assert house.pool is pool, "clients and backends would have to move"
    renewed = key.change is Change.NEW_BACKENDS and key.name not in FOR_NEW_ONES and section is not Section.AUTH_QUERY
    assert (house.pool.ledger.epoch != epoch) == renewed
