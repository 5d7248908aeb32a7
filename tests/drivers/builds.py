"""Makes the check programs runnable: libraries and binaries go below ${PGDOORMAN_CACHE:-~/.cache/pgdoorman}/drivers.

Everything may be deleted at any time. A build is done again when its sources change; what it downloads is kept by the
package managers themselves.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

_BUILD_SECONDS = 450


class Missing(Exception):
    """A toolchain that is not installed, or too old."""


class BuildFailed(Exception):
    """With the end of what the build said."""


@dataclass(frozen=True, slots=True)
class Suite:
    """One driver's checks: a program in the language of the driver."""

    name: str
    source: Path
    command: Callable[[], list[str]]
    """Builds if that is needed, and says how to start the program. Raises Missing, BuildFailed."""

    def check_names(self) -> list[str]:
        """Read from the source, so that they are known before anything is built."""
        return re.findall(r'\bcheck\(\s*"([a-z0-9_]+)"', self.source.read_text())


def cache() -> Path:
    chosen = os.environ.get("PGDOORMAN_CACHE")
    if not chosen:
        chosen = str(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pgdoorman")
    directory = Path(chosen) / "drivers"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def need(tool: str, *arguments: str, minimum: tuple[int, ...]) -> None:
    """Raises Missing unless the tool is on PATH and says a version that is high enough."""
    if shutil.which(tool) is None:
        raise Missing(f"{tool} is not installed")
    done = subprocess.run([tool, *arguments], capture_output=True, text=True, timeout=60, check=False)
    found = re.search(r"(\d+)\.(\d+)", done.stdout + done.stderr)
    version = tuple(map(int, found.groups())) if found else ()
    if version < minimum:
        wanted = ".".join(str(part) for part in minimum)
        raise Missing(f"{tool} is older than {wanted}: {(done.stdout + done.stderr).strip()[:80]}")


def build_java(program: str = "Pgjdbc") -> list[str]:
    need("javac", "-version", minimum=(17,))
    need("java", "-version", minimum=(17,))
    need("mvn", "-version", minimum=(3,))
    sources = sorted((HERE / "java/src").glob("*.java"))
    with _building("java", [HERE / "java/pom.xml", *sources]) as place:
        if place.is_new:
            fetch = [
                "dependency:copy-dependencies",
                f"-DoutputDirectory={place.directory}/lib",
                "-DincludeScope=runtime",
            ]
            place.run("mvn", "-q", "-B", "-f", str(HERE / "java/pom.xml"), *fetch)
            classes = ["-d", f"{place.directory}/classes", "-cp", f"{place.directory}/lib/*"]
            place.run("javac", "-Xlint:all", "-Werror", *classes, *map(str, sources))
        return ["java", "-Xmx512m", "-cp", f"{place.directory}/classes:{place.directory}/lib/*", program]


def build_go(suite: str) -> list[str]:
    need("go", "version", minimum=(1, 25))
    folder = HERE / "go"
    with _building("go", sorted([*folder.glob("*.go"), folder / "go.mod", folder / "go.sum"])) as place:
        if place.is_new:
            flags = {"GOFLAGS": "-mod=readonly", "GOTOOLCHAIN": "local", "CGO_ENABLED": "0"}
            place.run("go", "build", "-o", f"{place.directory}/drivers-go", ".", folder=folder, environment=flags)
        return [f"{place.directory}/drivers-go", suite]


def build_node(program: str) -> list[str]:
    need("node", "--version", minimum=(20,))
    need("npm", "--version", minimum=(9,))
    sources = sorted([*(HERE / "node").glob("*.mjs"), *(HERE / "node").glob("package*.json")])
    with _building("node", sources) as place:
        if place.is_new:
            # A program looks for its libraries beside itself.
            for source in sources:
                shutil.copy(source, place.directory)
            place.run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", folder=place.directory)
        return ["node", "--no-deprecation", f"{place.directory}/{program}"]


def build_rust(program: str) -> list[str]:
    need("cargo", "--version", minimum=(1, 88))
    sources = [*sorted((HERE / "rust").rglob("*.rs")), HERE / "rust/Cargo.toml"]
    with _building("rust", sources) as place:
        if place.is_new:
            # One folder for all versions of the sources: cargo then builds only what changed, and its Cargo.lock,
            # which cannot be committed, keeps what is not pinned in Cargo.toml as it was.
            work = cache() / "rust-work"
            shutil.rmtree(work / "src", ignore_errors=True)
            shutil.copytree(HERE / "rust/src", work / "src")
            shutil.copy(HERE / "rust/Cargo.toml", work)
            target = {"CARGO_TARGET_DIR": f"{work}/target"}
            place.run("cargo", "build", "--quiet", folder=work, environment=target)
            for name in ("tokio_postgres", "sqlx"):
                shutil.copy(work / "target/debug" / name, place.directory)
        return [f"{place.directory}/{program}"]


def build_rust_logins() -> list[str]:
    need("cargo", "--version", minimum=(1, 88))
    need("pkg-config", "--modversion", "openssl", minimum=(1, 1))
    folder = HERE / "rust_logins"
    with _building("tlsrust", [folder / "src/main.rs", folder / "Cargo.toml"]) as place:
        if place.is_new:
            work = cache() / "tlsrust-work"
            shutil.rmtree(work / "src", ignore_errors=True)
            shutil.copytree(folder / "src", work / "src")
            shutil.copy(folder / "Cargo.toml", work)
            place.run("cargo", "build", "--quiet", folder=work, environment={"CARGO_TARGET_DIR": f"{work}/target"})
            shutil.copy(work / "target/debug/rust-logins", place.directory)
        return [f"{place.directory}/rust-logins"]


def build_python(program: str) -> list[str]:
    """With another Python than ours if there is one, since the drivers ship no binaries for free-threaded ones."""
    module = ["-m", f"tests.drivers.python.{program}"]
    requirements = HERE / "python/requirements.txt"
    for name in ("python3.13", "python3.12", "python3.11", "python3", "/usr/bin/python3"):
        python = _ordinary_python(name)
        if python is None:
            continue
        try:
            with _building("python", [requirements], salt=python) as place:
                interpreter = f"{place.directory}/bin/python"
                if place.is_new:
                    place.run(name, "-m", "venv", "--clear", str(place.directory))
                    place.run(interpreter, "-m", "pip", "install", "-q", "--only-binary=:all:", "-r", str(requirements))
                return [interpreter, *module]
        except BuildFailed:
            continue
    return [sys.executable, "-X", "gil=0", *module]


def _ordinary_python(name: str) -> str | None:
    """A description of this interpreter if it has a GIL, is at least 3.11, and can make environments."""
    probe = "import ensurepip, venv, ssl, sys, sysconfig; assert not sysconfig.get_config_var('Py_GIL_DISABLED')"
    probe += "; assert sys.version_info >= (3, 11); print(sys.executable, sys.version)"
    if shutil.which(name) is None:
        return None
    done = subprocess.run([name, "-c", probe], capture_output=True, text=True, timeout=60, check=False)
    return done.stdout if done.returncode == 0 else None


@dataclass(frozen=True, slots=True)
class _Place:
    directory: Path
    is_new: bool

    def run(self, *command: str, folder: Path | None = None, environment: dict[str, str] | None = None) -> None:
        said = " ".join(command)[:200]
        try:
            done = subprocess.run(
                ["nice", *command],
                cwd=folder or self.directory,
                env={**os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=_BUILD_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as late:
            raise BuildFailed(f"{said}\nnot done after {_BUILD_SECONDS} s") from late
        if done.returncode:
            raise BuildFailed(f"{said}\n{done.stdout[-4000:]}")


@contextmanager
def _building(language: str, sources: Sequence[Path], salt: str = "") -> Iterator[_Place]:
    """A directory for exactly these sources. Of several processes one builds, and the others wait."""
    digest = hashlib.sha256(salt.encode())
    for source in sources:
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    directory = cache() / f"{language}-{digest.hexdigest()[:16]}"
    with (cache() / f"{language}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ready = directory / "ready"
        if ready.exists():
            yield _Place(directory, is_new=False)
            return
        for old in cache().glob(f"{language}-????????????????"):
            shutil.rmtree(old, ignore_errors=True)
        directory.mkdir()
        yield _Place(directory, is_new=True)
        ready.touch()


SUITES = (
    # Those that build longest first.
    Suite("tokio_postgres", HERE / "rust/src/bin/tokio_postgres.rs", lambda: build_rust("tokio_postgres")),
    Suite("pgjdbc", HERE / "java/src/Pgjdbc.java", build_java),
    Suite("pgx", HERE / "go/pgx.go", lambda: build_go("pgx")),
    Suite("psycopg3", HERE / "python/suite_psycopg3.py", lambda: build_python("suite_psycopg3")),
    Suite("node_postgres", HERE / "node/pg.mjs", lambda: build_node("pg.mjs")),
    Suite("asyncpg", HERE / "python/suite_asyncpg.py", lambda: build_python("suite_asyncpg")),
    Suite("psycopg2", HERE / "python/suite_psycopg2.py", lambda: build_python("suite_psycopg2")),
    Suite("sqlx", HERE / "rust/src/bin/sqlx.rs", lambda: build_rust("sqlx")),
    Suite("postgres_js", HERE / "node/postgresjs.mjs", lambda: build_node("postgresjs.mjs")),
    Suite("sqlalchemy", HERE / "python/suite_sqlalchemy.py", lambda: build_python("suite_sqlalchemy")),
    Suite("django", HERE / "python/suite_django.py", lambda: build_python("suite_django")),
    Suite("pq", HERE / "go/pq.go", lambda: build_go("pq")),
)
