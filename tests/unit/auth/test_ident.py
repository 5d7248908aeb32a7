"""User-name maps, by the examples of PostgreSQL's manual and around them."""

from pathlib import Path

import pytest

from pgdoorman.auth.ident import NO_MAPS, parse_ident
from pgdoorman.errors import ConfigErrors

MAPS = parse_ident(
    r"""
# MAPNAME  SYSTEM-USERNAME          PG-USERNAME
omicron    bryanh                   bryanh
omicron    ann                      ann
omicron    robert                   bob
omicron    bryanh                   guest1
mymap      /^(.*)@mydomain\.com$    \1
mymap      /^(.*)@other\.com$       guest
anyone     root                     all
quoted     root                     "all"
roles      ann                      /^app_
"with space"  ann                   ann
optional   /^x(y)?$                 \1
"""
)


@pytest.mark.parametrize(
    ("map_name", "system_user", "role", "admitted"),
    [
        ("omicron", "bryanh", "bryanh", True),
        ("omicron", "bryanh", "guest1", True),
        ("omicron", "robert", "bob", True),
        ("omicron", "robert", "robert", False),
        ("omicron", "ann", "bob", False),
        ("omicron", "Ann", "ann", False),
        ("mymap", "carol@mydomain.com", "carol", True),
        ("mymap", "carol@mydomain.com", "dave", False),
        ("mymap", "carol@other.com", "guest", True),
        ("mymap", "carol@mydomain.com\n", "carol", False),
        ("mymap", "all@mydomain.com", "dave", False),  # what was matched is a name, not a keyword
        ("mymap", "/.@mydomain.com", "x", False),
        ("anyone", "root", "whoever", True),
        ("quoted", "root", "whoever", False),
        ("quoted", "root", "all", True),
        ("roles", "ann", "app_shop", True),
        ("roles", "ann", "shop", False),
        ("with space", "ann", "ann", True),
        ("optional", "x", "", True),
        ("optional", "xy", "y", True),
        ("nosuchmap", "ann", "ann", False),
        ("", "ann", "ann", True),
        ("", "ann", "bob", False),
    ],
)
def test_admits(map_name: str, system_user: str, role: str, admitted: bool) -> None:
    assert MAPS.admits(map_name, system_user, role) is admitted


def test_names() -> None:
    assert MAPS.names == {"omicron", "mymap", "anyone", "quoted", "roles", "with space", "optional"}
    assert NO_MAPS.names == frozenset()


def test_included_files(tmp_path: Path) -> None:
    (tmp_path / "more").write_text("m a b\n")
    maps = parse_ident("include more\n", str(tmp_path / "pg_ident.conf"))
    assert maps.admits("m", "a", "b")


def test_every_bad_line_is_named() -> None:
    with pytest.raises(ConfigErrors) as caught:
        parse_ident("m a\nm a b c\nm a,b c\nm /( b\nm a +group\nm /a \\1\nm a b\nm a /(\n", "ident")
    assert [(error.line, error.message.split(":")[0]) for error in caught.value.errors] == [
        (1, "missing entry at end of line"),
        (2, "unexpected entry at end of line"),
        (3, "multiple values in ident field"),
        (4, 'invalid regular expression "("'),
        (5, 'group membership ("+group") is not supported'),
        (6, 'regular expression "a" has no subexpressions as requested by backreference in "\\1"'),
        (8, 'invalid regular expression "("'),
    ]
