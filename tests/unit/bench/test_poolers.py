"""What the poolers are configured with."""

import tomllib
from pathlib import Path

from bench.macro.options import Address, parse
from bench.macro.poolers import Certificate, Setup, doorman_settings, pgbouncer_settings
from bench.macro.postgres import Postgres
from pgdoorman.config.load import load

SERVER = Postgres(Address("127.0.0.1", 5499), None, "17.10")
PLAIN = Setup(SERVER, Path("/nowhere"), 40, 500, None)
WITH_TLS = Setup(SERVER, Path("/nowhere"), 40, 500, Certificate(Path("/c.crt"), Path("/c.key")))


def test_pgdoorman_takes_its_settings(tmp_path: Path) -> None:
    file = tmp_path / "pgdoorman.toml"
    file.write_text(doorman_settings(PLAIN, parse(["--workers", "3"]), 6499))
    settings = load(file)
    assert settings.general.port == 6499
    assert settings.general.worker_threads == 3
    assert settings.general.max_connections >= 500
    (user,) = settings.pools["postgres"].users
    assert user.pool_size == 40


def test_pgdoorman_gets_a_certificate_and_what_the_operator_adds() -> None:
    options = parse(["--doorman-option", "prepared_statements = false"])
    general = tomllib.loads(doorman_settings(WITH_TLS, options, 6499))["general"]
    assert general["tls_certificate"] == "/c.crt"
    assert general["prepared_statements"] is False


def test_pgbouncer_gets_the_same_pool() -> None:
    lines = pgbouncer_settings(WITH_TLS, 6498, (1, 25, 2)).splitlines()
    assert {"default_pool_size = 40", "pool_mode = transaction", "listen_port = 6498"} <= set(lines)
    assert "client_tls_key_file = /c.key" in lines
    assert any(line.startswith("max_prepared_statements") for line in lines)


def test_an_old_pgbouncer_is_not_given_what_it_does_not_know() -> None:
    assert "max_prepared_statements" not in pgbouncer_settings(PLAIN, 6498, (1, 18, 0))
