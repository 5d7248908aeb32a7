"""When there can be no upgrade, and that nothing has happened then."""

import os
from pathlib import Path

import pytest

from pgdoorman.config.load import load_text
from pgdoorman.doorman.house import Doorman
from pgdoorman.errors import HandoverError
from pgdoorman.upgrade.successor import SuccessorPlan
from tests.support.doorman import pool, toml, user


def _house(successor: SuccessorPlan | None) -> Doorman:
    general = {"host": "127.0.0.1", "port": 1, "admin_username": "admin", "admin_password": "admin"}
    pools = {"app": pool(("127.0.0.1", 1), user("alice"))}
    return Doorman(load_text(toml({"general": general, "pools": pools})), successor=successor)


def test_without_a_way_to_start_another() -> None:
    with pytest.raises(HandoverError, match="does not know how"):
        _house(None).upgrade()


def test_the_first_process_of_a_container_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    marker = tmp_path / "started"
    house = _house(SuccessorPlan(("/bin/sh", "-c", f"touch {marker}"), (), "x.toml"))
    monkeypatch.setattr(os, "getpid", lambda: 1)
    with pytest.raises(HandoverError, match="container"):
        house.upgrade()
    assert not house.upgrading
    assert not marker.exists()
