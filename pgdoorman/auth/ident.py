"""User-name maps (pg_ident.conf): which role a certificate's name, an operating-system user or a token may be.

PostgreSQL manual, "User Name Maps". A line is MAP SYSTEM-USER ROLE. SYSTEM-USER may be a regular expression, and then
\\1 in ROLE stands for what its first parentheses matched. ROLE may be `all` or a regular expression. Lines of one map
accumulate; any that fits admits.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from pgdoorman.auth.patterns import compile_pattern, search
from pgdoorman.auth.rule_files import ReadFile, RuleLine, Token, read_file, read_rules
from pgdoorman.errors import ConfigError, ConfigErrors


@dataclass(frozen=True, slots=True)
class IdentRule:
    """One line. `system_pattern` and `role_pattern` are set where that name is a regular expression."""

    file: str
    line: int
    map: str
    system_user: str
    role: Token
    system_pattern: re.Pattern[str] | None = None
    role_pattern: re.Pattern[str] | None = None

    def admits(self, system_user: str, role: str) -> bool:
        """Whether this line lets `system_user` be `role`."""
        if self.system_pattern is None:
            return system_user == self.system_user and self._is_role(role)
        match = search(self.system_pattern, system_user)
        if match is None:
            return False
        if self.role_pattern is None and "\\1" in self.role.text:
            # What was matched is a name and nothing else, whatever it looks like.
            return role == self.role.text.replace("\\1", match[1] or "", 1)
        return self._is_role(role)

    def _is_role(self, role: str) -> bool:
        if self.role.is_keyword("all"):
            return True
        if self.role_pattern is not None:
            return search(self.role_pattern, role) is not None
        return role == self.role.text


@dataclass(frozen=True, slots=True)
class IdentMaps:
    """All maps."""

    rules: tuple[IdentRule, ...] = ()

    @property
    def names(self) -> frozenset[str]:
        """The names of the maps."""
        return frozenset(rule.map for rule in self.rules)

    def admits(self, map_name: str, system_user: str, role: str) -> bool:
        """Whether `system_user` may log in as `role`. Without a map ("") the two must be equal."""
        if not map_name:
            return system_user == role
        return any(rule.admits(system_user, role) for rule in self.rules if rule.map == map_name)


NO_MAPS: Final = IdentMaps()


def parse_ident(text: str, file: str = "pg_ident.conf", read: ReadFile = read_file, first_line: int = 1) -> IdentMaps:
    """Read user-name maps; the text begins at `first_line` of `file`. Raises ConfigErrors with every line that cannot
    be used."""
    source = read_rules(text, file, read, first_line)
    errors: list[ConfigError] = list(source.errors)
    rules: list[IdentRule] = []
    for line in source.lines:
        try:
            rules.append(_parse_line(line))
        except ConfigError as error:
            errors.append(error)
    if errors:
        raise ConfigErrors(errors)
    return IdentMaps(tuple(rules))


def _parse_line(line: RuleLine) -> IdentRule:
    if len(line.fields) < 3:
        raise line.error("missing entry at end of line")
    if len(line.fields) > 3:
        raise line.error("unexpected entry at end of line")
    map_name, system_user, role = _single_tokens(line)
    if not role.quoted and role.text.startswith("+"):
        raise line.error(
            f'group membership ("{role.text}") is not supported: the catalogs of PostgreSQL are not at hand'
        )
    system_pattern = _pattern(line, system_user.text)
    role_pattern = _pattern(line, role.text)
    if system_pattern and not role_pattern and "\\1" in role.text and not system_pattern.groups:
        raise line.error(
            f'regular expression "{system_user.text[1:]}" has no subexpressions as requested by backreference in '
            f'"{role.text}"'
        )
    return IdentRule(line.file, line.number, map_name.text, system_user.text, role, system_pattern, role_pattern)


def _single_tokens(line: RuleLine) -> Iterable[Token]:
    for field in line.fields:
        if len(field) > 1:
            raise line.error("multiple values in ident field")
        yield field[0]


def _pattern(line: RuleLine, text: str) -> re.Pattern[str] | None:
    if not text.startswith("/"):
        return None
    try:
        return compile_pattern(text[1:])
    except ValueError as error:
        raise line.error(f'invalid regular expression "{text[1:]}": {error}') from None
