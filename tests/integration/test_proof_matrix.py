"""How a client proves itself x what is stored for it x what the server asks of us, with right and wrong passwords.

Nobody is to be let in unless both proofs hold (the class of CVE-2025-46801). Each cell says whose door stays shut.
"""

from itertools import product
from typing import Final

import pytest

from pgdoorman.auth.secrets import hash_password
from tests.integration.conftest import StartDoorman
from tests.support.doorman import Doorman, pool, stand_in, user
from tests.support.postgres import SECRET, Postgres
from tests.support.wire import ServerError, md5_secret

pytestmark = pytest.mark.skipif(bool(stand_in()), reason="about pgdoorman's own way")

FRONTS: Final = ("trust", "password", "md5", "scram-sha-256")
STORED: Final = ("plain", "md5", "verifier", "foreign", "nothing")
"""The password; its md5 hash; the verifier that the server has; a verifier of the same password that it has not."""
ROLES: Final = {"plain": "trust", "md5_user": "md5", "scram_user": "scram-sha-256", "clear_user": "password"}
"""What the tests' PostgreSQL asks of each role."""


def database_of(front: str, stored: str) -> str:
    return f"{front}_{stored}"


@pytest.fixture(scope="module")
def house(postgres: Postgres, start_module_doorman: StartDoorman) -> Doorman:
    with postgres.connect() as wire:
        rows = wire.rows("select rolname, rolpassword from pg_authid where rolpassword like 'SCRAM%'")
        verifiers = {str(row[0]): row[1] for row in rows}
    pools = {}
    for front, stored in product(FRONTS, STORED):
        entries = []
        for role in ROLES:
            secret = {
                "plain": SECRET,
                "md5": md5_secret(role, SECRET),
                "verifier": str(verifiers.get(role) or hash_password(role, SECRET)),
                "foreign": hash_password(role, SECRET),
                "nothing": "",
            }[stored]
            entries.append(user(role, secret, pool_size=1))
        pools[database_of(front, stored)] = pool(postgres, *entries, server_database="app")
    rules = "".join(f'host "/^{front}_" all all {front}\n' for front in FRONTS)
    return start_module_doorman(pools=pools, general={"pg_hba": {"content": f"host pgdoorman all all md5\n{rules}"}})


def let_in_by_us(front: str, stored: str, right: bool) -> bool:
    if front == "trust":
        return True
    if front == "scram-sha-256" and stored == "md5":
        return False
    return right and stored != "nothing"


def let_in_by_the_server(front: str, stored: str, asked: str) -> bool:
    """Provided that the client has proved itself to us."""
    if asked == "trust" or stored == "plain" or front == "password":
        return True
    if asked == "md5":
        return stored == "md5"
    by_scram = front in ("md5", "scram-sha-256") and stored in ("verifier", "foreign")
    return asked == "scram-sha-256" and by_scram and stored == "verifier"


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("front", FRONTS)
def test_both_proofs_must_hold(house: Doorman, front: str, stored: str, role: str) -> None:
    """With a wrong password first: it must not spoil the right one that follows."""
    for right in (False, True, False):
        password = SECRET if right else "wrong"
        ours, theirs = let_in_by_us(front, stored, right), let_in_by_the_server(front, stored, ROLES[role])
        told = says(house, database_of(front, stored), role, password)
        if not ours:
            assert told == f'28P01 password authentication failed for user "{role}"'
        elif theirs:
            assert told == role
        else:
            assert told.startswith("28000 ")
            assert f'of "{role}": ' in told, "it says what is missing"
            assert SECRET not in told


def says(house: Doorman, database: str, role: str, password: str) -> str:
    """Who one is at the server, or SQLSTATE and text of the refusal."""
    try:
        with house.connect(database, role, password, patience=20) as wire:
            return str(wire.value("select current_user"))
    except ServerError as error:
        return f"{error.sqlstate} {error.fields['M']}"


def test_a_password_of_our_own_for_the_server(postgres: Postgres, start_doorman: StartDoorman) -> None:
    """With server_password the server's door is ours alone: the client's proof neither opens nor shuts it."""
    entries = [
        user("right", SECRET, server_username="scram_user", server_password=SECRET),
        user("false", SECRET, server_username="scram_user", server_password="not it"),
        user("verifier", hash_password("", SECRET), server_username="md5_user", server_password=SECRET),
    ]
    rules = "host all all all scram-sha-256"
    doorman = start_doorman(pools={"app": pool(postgres, *entries)}, general={"pg_hba": {"content": rules}})
    for name, role in (("right", "scram_user"), ("verifier", "md5_user")):
        with doorman.connect("app", name, SECRET) as wire:
            assert wire.value("select current_user") == role
        with pytest.raises(ServerError, match=f'password authentication failed for user "{name}"'):
            doorman.connect("app", name, "wrong")
    with pytest.raises(ServerError, match='password authentication failed for user "scram_user"'):
        doorman.connect("app", "false", SECRET)
    with pytest.raises(ServerError, match='password authentication failed for user "false"'):
        doorman.connect("app", "false", "not it")
