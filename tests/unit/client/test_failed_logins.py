"""Failed logins by address."""

import pytest

from pgdoorman.client.failed_logins import FailedLogins, TooManyFailures


def is_barred(failed: FailedLogins, address: str, now: float) -> bool:
    try:
        failed.check(address, now)
    except TooManyFailures:
        return True
    return False


def test_limit_and_window() -> None:
    failed = FailedLogins(3, 60.0)
    for moment in (100.0, 110.0):
        failed.note("10.0.0.1", moment)
        assert not is_barred(failed, "10.0.0.1", moment)
    failed.note("10.0.0.1", 120.0)
    assert is_barred(failed, "10.0.0.1", 120.0)
    assert is_barred(failed, "10.0.0.1", 159.9)
    assert not is_barred(failed, "10.0.0.2", 120.0)
    assert not is_barred(failed, "10.0.0.1", 160.0)
    failed.note("10.0.0.1", 170.0)
    assert not is_barred(failed, "10.0.0.1", 170.0)


def test_no_limit() -> None:
    failed = FailedLogins(0)
    for _ in range(100):
        failed.note("10.0.0.1", 1.0)
    assert not is_barred(failed, "10.0.0.1", 1.0)
    assert len(failed) == 0


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("10.0.0.1", "10.0.0.2", False),
        ("not an address", "not an address", True),
    ],
)
def test_who_counts_as_one(one: str, other: str, same: bool) -> None:
    failed = FailedLogins(1)
    failed.note(one, 1.0)
    assert is_barred(failed, other, 1.0) is same


def test_memory_is_bounded() -> None:
    failed = FailedLogins(1, most=100)
    for number in range(1000):
        failed.note(f"10.0.{number // 256}.{number % 256}", 1.0)
    assert len(failed) == 100
    assert is_barred(failed, "10.0.3.231", 1.0)
