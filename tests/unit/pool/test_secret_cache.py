"""What is remembered of look-ups, and for how long."""

from pgdoorman.auth.found_user import FoundUser
from pgdoorman.auth.secrets import PlainSecret
from pgdoorman.pool.secret_cache import SecretCache

FOUND = FoundUser(PlainSecret(b"x"))


def test_times() -> None:
    cache = SecretCache(100.0, 5.0)
    cache.put("a", FOUND, 1000.0)
    cache.put("b", None, 1000.0)
    cache.put("c", FoundUser(PlainSecret(b"x"), seconds_valid=7.0), 1000.0)
    ends = {name: known.expires_at for name in "abc" if (known := cache.get(name)) is not None}
    assert ends == {"a": 1100.0, "b": 1005.0, "c": 1007.0}
    assert cache.get("d") is None


def test_an_answer_takes_the_place_of_the_other_kind() -> None:
    cache = SecretCache(100.0, 5.0)
    cache.put("a", None, 0.0)
    cache.put("a", FOUND, 1.0)
    assert len(cache) == 1
    known = cache.get("a")
    assert known is not None
    assert known.found == FOUND
    cache.put("a", None, 2.0)
    known = cache.get("a")
    assert known is not None
    assert known.found is None
    assert len(cache) == 1
    cache.clear()
    assert len(cache) == 0


def test_names_that_nobody_has_push_out_no_user() -> None:
    cache = SecretCache(100.0, 5.0, most=10)
    for number in range(5):
        cache.put(f"user{number}", FOUND, 0.0)
    for number in range(1000):
        cache.put(f"guess{number}", None, 0.0)
    assert len(cache) == 15
    assert all(cache.get(f"user{number}") is not None for number in range(5))


def test_the_least_used_user_goes_first() -> None:
    cache = SecretCache(100.0, 5.0, most=2)
    cache.put("a", FOUND, 0.0)
    cache.put("b", FOUND, 0.0)
    cache.get("a")
    cache.put("c", FOUND, 0.0)
    assert cache.get("b") is None
    assert cache.get("a") is not None
