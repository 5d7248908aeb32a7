"""`python -m bench.logins`: quiet and stormy rounds in turn, and what the storm costs the queries."""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench.logins.storm import PASSWORD, USER
from bench.macro import poolers, postgres
from bench.macro.children import free_port, own_directory, spawn, stop
from bench.macro.figures import median, percentile
from bench.macro.options import Address, chosen_cpus
from bench.macro.processes import usage
from bench.macro.wire import wait_until_answers

PROCESSES = 8
"""That many log-ins can be under way at a time."""
LIMIT = 3.0
"""p99 in a storm may be so many times what it is without."""


@dataclass(frozen=True, slots=True)
class Round:
    """Sorted milliseconds of queries and of log-ins (empty in a quiet round), and seconds of the pooler's CPU."""

    queries: list[float]
    logins: list[float]
    cpu: float


def settings(port: int, database: Address, certificate: poolers.Certificate, extra: list[str]) -> str:
    """pgdoorman's configuration: queries come in by trust, the storm by SCRAM."""
    from pgdoorman.auth.secrets import hash_password  # noqa: PLC0415 - the bench itself needs no pooler

    rules = f"host all {USER} all scram-sha-256\\nhost all all 127.0.0.1/32 trust"
    return "\n".join(
        [
            "[general]",
            'host = "127.0.0.1"',
            f"port = {port}",
            'admin_username = "admin"',
            'admin_password = "bench"',
            "worker_threads = 2",
            "log_client_connections = false",
            "log_client_disconnections = false",
            f'tls_certificate = "{certificate.certificate}"',
            f'tls_private_key = "{certificate.key}"',
            f'pg_hba = {{content = "{rules}"}}',
            *extra,
            "[pools.postgres]",
            f'server_host = "{database.host}"',
            f"server_port = {database.port}",
            "[[pools.postgres.users]]",
            'username = "postgres"',
            'password = ""',
            "pool_size = 10",
            "[[pools.postgres.users]]",
            f'username = "{USER}"',
            f'password = "{hash_password(USER, PASSWORD)}"',
            'server_username = "postgres"',
            "pool_size = 5",
            "",
        ]
    )


def run_round(port: int, pid: int, options: argparse.Namespace, *, storm: bool) -> Round:
    """One round. Raises CalledProcessError."""
    python = [sys.executable, "-X", "gil=0", "-m"]
    per_process = options.logins / PROCESSES
    storms = [
        subprocess.Popen(
            [*python, "bench.logins.storm", str(port), str(per_process), str(options.seconds + 2)],
            stdout=subprocess.PIPE, text=True, cwd=poolers.REPOSITORY,
        )
        for _ in range(PROCESSES if storm else 0)
    ]  # fmt: skip
    try:
        before = usage(pid).cpu
        steady = subprocess.run(
            [*python, "bench.logins.steady", str(port), str(options.rate), str(options.clients), str(options.seconds)],
            stdout=subprocess.PIPE, text=True, check=True, cwd=poolers.REPOSITORY, timeout=options.seconds + 60,
        )  # fmt: skip
        cpu = usage(pid).cpu - before
        logins = [float(line) for one in storms for line in one.communicate(timeout=60)[0].split()]
    finally:
        for one in storms:
            one.kill()
            one.wait()
    if any(one.returncode for one in storms):
        raise subprocess.CalledProcessError(1, "a storm")
    return Round(sorted(float(line) for line in steady.stdout.split()), sorted(logins), cpu)


def describe(name: str, one: Round, seconds: float) -> str:
    """A line."""
    text = f"{name:6} {len(one.queries):6} queries, p50 {percentile(one.queries, 0.5):6.2f} ms, "
    text += (
        f"p99 {percentile(one.queries, 0.99):7.2f}, p99.9 {percentile(one.queries, 0.999):7.2f}; CPU {one.cpu:5.2f} s"
    )
    if one.logins:
        rate = len(one.logins) / (seconds + 2)
        text += f"; {rate:5.0f} log-ins/s, p50 {percentile(one.logins, 0.5):6.2f} ms, p99 {percentile(one.logins, 0.99):7.2f}"
    return text


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.logins", description="Delay of running queries by new log-ins with TLS and SCRAM."
    )
    parser.add_argument("--logins", type=float, default=200.0, help="new log-ins per second (default 200)")
    parser.add_argument("--rate", type=float, default=500.0, help="queries per second (default 500)")
    parser.add_argument("--clients", type=int, default=10, help="clients that ask them (default 10)")
    parser.add_argument("--seconds", type=float, default=8.0, help="length of a round (default 8)")
    parser.add_argument("--rounds", type=int, default=3, help="quiet and stormy rounds, each (default 3)")
    parser.add_argument("--cpus", type=int, default=2, help="CPUs for everything together, 0 for all (default 2)")
    parser.add_argument("--doorman-option", action="append", default=[], metavar="KEY=VALUE", dest="extra")
    return parser.parse_args()


def main() -> int:
    """Returns 1 if p99 in the storm is beyond the limit."""
    options = parse()
    os.sched_setaffinity(0, chosen_cpus(options.cpus))
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pgdoorman-logins-")))
        scratch.chmod(0o711)
        certificate = poolers.make_certificate(scratch)
        if certificate is None:
            print("this needs the openssl program", file=sys.stderr)
            return 2
        server = stack.enter_context(postgres.launched(0, 100))
        port = free_port()
        directory = own_directory(scratch, "pgdoorman", None)
        config = directory / "pgdoorman.toml"
        config.write_text(settings(port, server.address, certificate, options.extra))
        log = directory / "log"
        process = spawn(
            [sys.executable, "-X", "gil=0", "-m", "pgdoorman", str(config)], log=log, directory=poolers.REPOSITORY
        )
        stack.callback(stop, process, signal.SIGTERM, poolers.STOP_SECONDS)
        wait_until_answers(Address("127.0.0.1", port), lambda: process.poll() is None, log)
        run_round(port, process.pid, argparse.Namespace(**{**vars(options), "seconds": 2.0}), storm=True)
        ratios = []
        for _ in range(options.rounds):
            quiet = run_round(port, process.pid, options, storm=False)
            stormy = run_round(port, process.pid, options, storm=True)
            print(describe("quiet", quiet, options.seconds))
            print(describe("storm", stormy, options.seconds), flush=True)
            ratios.append(percentile(stormy.queries, 0.99) / percentile(quiet.queries, 0.99))
    print(f"p99 in the storm: x{median(ratios):.2f} (rounds: {', '.join(f'{ratio:.2f}' for ratio in ratios)})")
    return int(median(ratios) > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
