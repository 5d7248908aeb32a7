"""From a tree to settings, by the table of keys. Nothing here knows one key from another, but for how sections nest."""

from typing import Any

from pgdoorman.config.document import Node, Path, describe
from pgdoorman.config.findings import Findings
from pgdoorman.config.keys import KEYS, REQUIRED, Key, Section, Since, keys_of
from pgdoorman.config.kinds import Refused, suggest
from pgdoorman.config.references import Surroundings
from pgdoorman.config.settings import (
    AuthQuerySettings,
    GeneralSettings,
    PoolSettings,
    Secret,
    Settings,
    TalosSettings,
    UserSettings,
    WebSettings,
)

_TOP = ("include", "general", "pools", "web", "prometheus", "talos")

# Sections inside a section, which the table of keys does not list.
_NESTED = {Section.POOL: ("users", "auth_query")}

# What to put for a required value that is missing or wrong, so that the rest can still be looked at.
_STAND_INS = {"pool_size": 1, "password": Secret(""), "admin_password": Secret("")}

# Names from PgBouncer's file, and from documents of PgDoorman that were wrong.
_ELSEWHERE = {
    "auth_file": 'users stand under "[[pools.NAME.users]]"',
    "auth_hba_file": 'it is "pg_hba" in [general], with {path = "file"}',
    "default_pool_size": 'it is "pool_size" of each user',
    "listen_addr": 'it is "host"',
    "listen_port": 'it is "port"',
    "log_connections": 'it is "log_client_connections"',
    "log_disconnections": 'it is "log_client_disconnections"',
    "log_level": "it is the option -l, or LOG_LEVEL in the environment",
    "max_client_conn": 'it is "max_connections"',
    "max_prepared_statements": 'it is "server_prepared_statements_cache_size"',
    "pidfile": 'it is "daemon_pid_file"',
    "pkt_buf": "there is no such setting",
    "server_check_delay": 'it is "server_idle_check_timeout"',
    "server_connect_timeout": 'it is "connect_timeout"',
    "server_idle_timeout": 'it is "idle_timeout"',
    "server_tls": 'it is "server_tls_mode"',
    "tls_ca_file": 'it is "tls_ca_cert"',
    "verify_server_certificate": 'it is "server_tls_mode"',
}


class Reader:
    """Reads one merged tree."""

    def __init__(self, root: Node, at: Surroundings, findings: Findings) -> None:
        self._root = root
        self._at = at
        self._findings = findings

    def settings(self) -> Settings:
        """The settings; what was wrong stands in the findings and has its default here."""
        table = self._table(self._root, ())
        self._refuse_unknown_sections(table)
        web = "web" if "web" in table else "prometheus"
        if "web" in table and "prometheus" in table:
            self._findings.refuse(("prometheus",), "is another name of [web]; use one of them", table["prometheus"])
        if "general" not in table:
            self._findings.refuse(("general",), "this section is required", self._root)
        if "pools" not in table:
            self._findings.refuse(("pools",), "this section is required", self._root)
        return Settings(
            general=GeneralSettings(**self._section(Section.GENERAL, ("general",), table.get("general"))),
            pools=self._pools(table.get("pools")),
            web=WebSettings(**self._section(Section.WEB, (web,), table.get(web))),
            talos=TalosSettings(**self._section(Section.TALOS, ("talos",), table.get("talos"))),
        )

    def _refuse_unknown_sections(self, table: dict[str, Node]) -> None:
        for name, node in table.items():
            if name not in _TOP:
                allowed = ", ".join(f"[{word}]" for word in _TOP)
                self._findings.refuse((name,), f"no such section; there are {allowed}{suggest(name, _TOP)}", node)

    def _table(self, node: Node | None, path: Path) -> dict[str, Node]:
        if node is None:
            return {}
        if isinstance(node.value, dict):
            return node.value
        if not self._findings.is_broken(path):
            self._findings.refuse(path, f"must be a table, not {describe(node.value)}", node)
        return {}

    def _pools(self, node: Node | None) -> dict[str, PoolSettings]:
        pools = {}
        for name, item in self._table(node, ("pools",)).items():
            path: Path = ("pools", name)
            table = self._table(item, path)
            if not name or "\0" in name:
                self._findings.refuse(path, "a pool needs a name that a database can have", item)
            pools[name] = PoolSettings(
                name=name,
                users=self._users(table.get("users"), (*path, "users")),
                auth_query=self._auth_query(table.get("auth_query"), (*path, "auth_query")),
                **self._section(Section.POOL, path, item),
            )
        return pools

    def _users(self, node: Node | None, path: Path) -> tuple[UserSettings, ...]:
        # Legacy tables of numbered users have been turned into a list when the file was parsed.
        if node is None or not isinstance(node.value, list):
            if node is not None and node.value != {}:
                self._findings.refuse(path, f"must be a list of tables, not {describe(node.value)}", node)
            return ()
        users = []
        for position, item in enumerate(node.value):
            user = UserSettings(**self._section(Section.USER, (*path, position), item))
            if user.username:
                users.append(user)
        return tuple(users)

    def _auth_query(self, node: Node | None, path: Path) -> AuthQuerySettings | None:
        if node is None:
            return None
        return AuthQuerySettings(**self._section(Section.AUTH_QUERY, path, node))

    def _section(self, section: Section, path: Path, node: Node | None) -> dict[str, Any]:
        """Every key of the section with its value."""
        keys = keys_of(section)
        if node is None:
            # A missing section that has required keys has been reported as a whole.
            return {name: self._stand_in(key, section) for name, key in keys.items()}
        table = self._table(node, path)
        if all(key.since is Since.LATER for key in keys.values()):
            self._findings.refuse(path, "this section is not available in this version", node)
            for name in keys:
                self._findings.doubt((*path, name))
            return {name: self._stand_in(key, section) for name, key in keys.items()}
        self._refuse_unknown(section, path, table)
        return {name: self._value(key, section, path, table, node) for name, key in keys.items()}

    def _refuse_unknown(self, section: Section, path: Path, table: dict[str, Node]) -> None:
        keys = keys_of(section)
        known = {*keys, *(alias for key in keys.values() for alias in key.aliases), *_NESTED.get(section, ())}
        for name, node in table.items():
            if name not in known:
                self._findings.refuse((*path, name), "no such key" + hint(name, section, known), node)

    def _value(self, key: Key, section: Section, path: Path, table: dict[str, Node], parent: Node) -> Any:
        name = self._name_used(key, path, table)
        if name is None:
            if key.default is REQUIRED:
                self._refuse_missing(key, (*path, key.name), parent)
            return self._stand_in(key, section)
        node, where = table[name], (*path, key.name)
        if key.since is Since.LATER:
            self._refuse_feature(key, where, node)
            return self._stand_in(key, section)
        if key.ignored:
            self._findings.warn(f"has no effect here. {key.meaning}", where)
        try:
            return key.kind.read(node, self._at)
        except Refused as refused:
            for message, blamed in refused.complaints:
                self._findings.refuse(where, message, blamed)
            return self._stand_in(key, section)

    def _refuse_missing(self, key: Key, path: Path, parent: Node) -> None:
        if isinstance(parent.value, dict):
            self._findings.refuse(path, f"this key is required; it must be {key.kind.allowed}", parent)
        else:
            self._findings.doubt(path)  # that the section is no table has been said

    def _name_used(self, key: Key, path: Path, table: dict[str, Node]) -> str | None:
        """The key's own name or the alias that the file uses."""
        used = [name for name in (key.name, *key.aliases) if name in table]
        for alias in used:
            if alias == key.name:
                continue
            self._findings.warn(f'is an old name of "{key.name}"', (*path, alias))
            if len(used) > 1:
                self._findings.refuse(
                    (*path, alias), f'is an old name of "{key.name}", which is there too', table[alias]
                )
        return used[0] if used else None

    def _refuse_feature(self, key: Key, path: Path, node: Node) -> None:
        feature = key.feature.value if key.feature is not None else ""
        self._findings.refuse(path, f"not available in this version ({feature})", node)

    def _stand_in(self, key: Key, section: Section) -> Any:
        default = key.default_in(section)
        return _STAND_INS.get(key.name, "") if default is REQUIRED else default


def hint(name: str, section: Section, known: set[str]) -> str:
    """Where the key belongs if it stands in the wrong section, else the key that looks most like it."""
    homes = [key for key in KEYS if name == key.name or name in key.aliases]
    if homes:
        return f" in {section}; it belongs to {' or '.join(homes[0].sections)}"
    if name in _ELSEWHERE:
        return f"; {_ELSEWHERE[name]}"
    return suggest(name, known)
