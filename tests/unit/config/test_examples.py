"""The examples for containers: what they hold is a configuration, and what they say of each other is true."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from ruamel.yaml import YAML

from pgdoorman.config import Settings, load, load_text
from pgdoorman.control import LatencyRow
from pgdoorman.web.messages import Request
from pgdoorman.web.prometheus import HouseCollector
from pgdoorman.web.routes import Routes
from tests.support.control import House

ROOT = Path(__file__).parents[3]
CONFIG = ROOT / "config"
PASSWORDS = {"PGDOORMAN_ADMIN_PASSWORD": "a", "SHOP_PASSWORD": "b"}


def _yaml(path: Path) -> list[dict[str, Any]]:
    return [document for document in YAML(typ="safe").load_all(path) if document is not None]


def _kinds() -> dict[str, Any]:
    return {document["kind"]: document for document in _yaml(CONFIG / "kubernetes/pgdoorman.yaml")}


def _pod() -> dict[str, Any]:
    spec: dict[str, Any] = _kinds()["Deployment"]["spec"]["template"]["spec"]
    return spec


def _kubernetes_settings() -> Settings:
    (container,) = _pod()["containers"]
    environment = {variable["name"]: "secret" for variable in container["env"]}
    return load_text(_kinds()["ConfigMap"]["data"]["pgdoorman.toml"], environment=environment)


def _compose() -> dict[str, Any]:
    (document,) = _yaml(CONFIG / "compose/compose.yaml")
    services: dict[str, Any] = document["services"]
    return services


def _compose_settings() -> Settings:
    return load(CONFIG / "compose/pgdoorman.toml", _compose()["pgdoorman"]["environment"])


def _last_stage() -> list[str]:
    """The instructions of what runs, one a line."""
    text = (ROOT / "Containerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    last = max(number for number, line in enumerate(lines) if line.startswith("FROM "))
    return lines[last:]


def _instruction(word: str) -> str:
    (line,) = [line for line in _last_stage() if line.startswith(f"{word} ")]
    return line.removeprefix(word).strip()


# The context of the build.


def test_what_is_copied_is_there_and_gets_to_the_builder() -> None:
    text = (ROOT / "Containerfile").read_text()
    copied = [word for line in text.splitlines() if re.match(r"COPY (?!--from)", line) for word in line.split()[1:-1]]
    assert len(copied) >= 4
    assert all((ROOT / name).exists() for name in copied)
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert sorted(copied) == sorted(allowed)


# Kubernetes.


def test_kubernetes_configuration() -> None:
    settings = _kubernetes_settings()
    assert settings.warnings == ()
    assert settings.web.enabled


def test_its_ports_are_those_of_the_configuration() -> None:
    settings = _kubernetes_settings()
    (container,) = _pod()["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"postgres": settings.general.port, "web": settings.web.port}
    annotations = _kinds()["Deployment"]["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(settings.web.port)
    assert _kinds()["Service"]["spec"]["ports"][0]["targetPort"] in ports


@pytest.mark.parametrize("probe", ["startupProbe", "livenessProbe", "readinessProbe"])
def test_its_probes_ask_for_what_is_answered(probe: str) -> None:
    (container,) = _pod()["containers"]
    asked = container[probe]["httpGet"]
    assert asked["port"] == "web"
    assert asked["path"] == ("/readyz" if probe == "readinessProbe" else "/livez")
    assert Routes(House()).answer(Request("GET", asked["path"])).status is HTTPStatus.OK


def test_its_pods_get_the_time_that_they_need_to_end() -> None:
    general = _kubernetes_settings().general
    assert _pod()["terminationGracePeriodSeconds"] > general.shutdown_delay + general.shutdown_timeout
    (container,) = _pod()["containers"]
    probe = container["readinessProbe"]
    assert general.shutdown_delay > probe["periodSeconds"] * probe["failureThreshold"]


def test_its_configuration_is_mounted_where_it_is_looked_for() -> None:
    (container,) = _pod()["containers"]
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    (path,) = json.loads(_instruction("CMD"))
    assert str(Path(path).parent) in mounts
    assert Path(path).name in _kinds()["ConfigMap"]["data"]


def test_its_user_is_the_image_s() -> None:
    assert str(_pod()["securityContext"]["runAsUser"]) == _instruction("USER")


# Compose.


def test_compose_configuration() -> None:
    settings = _compose_settings()
    services = _compose()
    assert settings.warnings == ()
    (shop,) = settings.pools.values()
    assert shop.server_host in services
    postgres = services["postgres"]["environment"]
    assert (shop.database, shop.users[0].username) == (postgres["POSTGRES_DB"], postgres["POSTGRES_USER"])
    assert shop.users[0].password.reveal() == postgres["POSTGRES_PASSWORD"]
    ports = {int(port.rpartition(":")[2]) for port in services["pgdoorman"]["ports"]}
    assert ports == {settings.general.port, settings.web.port}
    assert int(services["pgdoorman"]["stop_grace_period"].removesuffix("s")) > settings.general.shutdown_timeout


def test_every_file_that_compose_mounts_is_there() -> None:
    mounts = [volume.split(":")[0] for service in _compose().values() for volume in service.get("volumes", [])]
    assert len(mounts) == 5
    for mount in mounts:
        assert (CONFIG / "compose" / mount).is_file(), mount
    build = _compose()["pgdoorman"]["build"]
    assert (CONFIG / "compose" / build["context"] / build["dockerfile"]).resolve() == ROOT / "Containerfile"


def test_prometheus_asks_pgdoorman() -> None:
    (scrapes,) = _yaml(CONFIG / "compose/prometheus.yaml")
    (job,) = scrapes["scrape_configs"]
    (target,) = job["static_configs"][0]["targets"]
    name, _, port = target.partition(":")
    assert name in _compose()
    assert int(port) == _compose_settings().web.port
    (source,) = _yaml(CONFIG / "compose/grafana/datasource.yaml")
    assert source["datasources"][0]["url"] == "http://prometheus:9090"


def _series() -> set[str]:
    house = House()
    house.rows["latencies"] = [LatencyRow(database="shop", user="app")]
    registry = CollectorRegistry(auto_describe=False)
    registry.register(HouseCollector(house))
    return {sample.name for family in registry.collect() for sample in family.samples}


def _asked_for() -> Iterator[tuple[str, str]]:
    for path in (CONFIG / "compose/grafana/pgdoorman.json", ROOT / "docs/monitoring.md"):
        for expression in re.findall(r"pg_doorman_[a-z_]+\b", path.read_text()):
            yield path.name, expression


def test_dashboard_and_page_speak_of_series_that_exist() -> None:
    series = _series()
    asked = [(file, name) for file, name in _asked_for() if name != "pg_doorman_"]
    assert len({name for _, name in asked}) > 10
    assert [(file, name) for file, name in asked if name not in series] == []


def test_the_page_names_every_series() -> None:
    page = (ROOT / "docs/monitoring.md").read_text()
    for name in _series():
        family = re.sub(r"_(bucket|sum|count|created)$", "", name.removeprefix("pg_doorman_"))
        assert f"`{family}`" in page or family.startswith("auth_query"), family


def test_the_dashboard_s_panels_do_not_overlap() -> None:
    board = json.loads((CONFIG / "compose/grafana/pgdoorman.json").read_text())
    places = [panel["gridPos"] for panel in board["panels"]]
    cells = [(x, y) for p in places for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


# The image.


def test_the_image_runs_as_nobody_special() -> None:
    assert int(_instruction("USER")) > 0
    assert _instruction("STOPSIGNAL") == "SIGTERM"
    assert set(_instruction("EXPOSE").split()) == {"6432", "9127"}


def test_its_paths_are_those_of_the_first_stage() -> None:
    copies = [line.split()[2:] for line in _last_stage() if line.startswith("COPY --from=build")]
    assert copies
    assert all(source == target for source, target in copies)
    (entry,) = json.loads(_instruction("ENTRYPOINT"))
    assert any(entry.startswith(f"{target}/") for _, target in copies)


def health_check(port: int) -> int:
    """Runs the image's health check with this interpreter against a port. The exit code."""
    command = json.loads(_instruction("HEALTHCHECK").partition("CMD")[2])
    assert command[1] == "-c"
    done = subprocess.run(
        [sys.executable, *command[1:]], env={"PGDOORMAN_PORT": str(port)}, capture_output=True, timeout=30, check=False
    )
    return done.returncode


def test_scripts_of_the_image_can_be_read() -> None:
    for line in _last_stage():
        if line.startswith("RUN "):
            assert shlex.split(line.removeprefix("RUN "))
