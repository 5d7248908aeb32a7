"""Where things stand in a YAML document, and what YAML's oddities come to."""

import pytest

from pgdoorman.config.document import Node, Path, find
from pgdoorman.config.yaml_format import parse
from pgdoorman.errors import ConfigError

LAYOUT = """\
# comment
general:
  host: "0.0.0.0"

  port: 6432   # comment
  rules: |
    first
    second
  folded: >-
    a
    b
  inline: {x: 1,
           y: [2,
               3]}
  nothing:
  tilde: ~
pools:
  shop:
    users:
      - name: a
        size: 1

      -
        name: b
  copy: &anchor
    size: 4
  other:
    <<: *anchor
    name: c
0: zero
"""


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("general",), 2),
        (("general", "host"), 3),
        (("general", "port"), 5),
        (("general", "rules"), 6),
        (("general", "inline", "y"), 13),
        (("general", "inline", "y", 1), 14),
        (("pools", "shop", "users"), 19),
        (("pools", "shop", "users", 0), 20),
        (("pools", "shop", "users", 0, "size"), 21),
        (("pools", "shop", "users", 1), 24),
        (("pools", "shop", "users", 1, "name"), 24),
        (("pools", "other", "name"), 29),
        (("0",), 30),
    ],
)
def test_places(path: Path, line: int) -> None:
    node = find(parse(LAYOUT, "f"), path)
    assert node.line == line


def test_blocks_begin_on_the_next_line() -> None:
    root = parse(LAYOUT, "f")
    assert find(root, ("general", "rules")).text_line == 7
    assert find(root, ("general", "folded")).text_line == 10
    assert find(root, ("general", "host")).text_line == 3


def test_nulls_are_left_out() -> None:
    general = find(parse(LAYOUT, "f"), ("general",)).value
    assert isinstance(general, dict)
    assert "nothing" not in general
    assert "tilde" not in general
    items = find(parse("a: [1, ~, 2]", "f"), ("a",)).value
    assert isinstance(items, list)
    assert [item.value for item in items] == [1, 2]


def test_merged_keys_are_there() -> None:
    assert find(parse(LAYOUT, "f"), ("pools", "other", "size")).value == 4


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("&x false", False),
        ("yes", "yes"),
        ("12", 12),
        ("1.5", 1.5),
        ("0600", 600),
        ("!tag word", "word"),
    ],
)
def test_scalars_are_plain_values(text: str, value: object) -> None:
    node = find(parse(f"a: {text}", "f"), ("a",))
    assert node.value == value
    assert type(node.value).__mro__[-2] is type(value).__mro__[-2]


@pytest.mark.parametrize("text", ["", "\n", "# only a comment\n", "---\n", "~"])
def test_an_empty_document_is_an_empty_table(text: str) -> None:
    assert parse(text, "f") == Node({}, "f", 1, 1)


@pytest.mark.parametrize(
    ("text", "line"),
    [("a: 1\nb: [1, 2\nc: 3\n", 3), ("a: 1\n b: 2\n", 2), ("a: 'x\n", 2), ("a: 1\n---\nb: 2\n", 2), ("a: *b\n", 1)],
)
def test_a_syntax_error_has_its_line(text: str, line: int) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, "some.yaml")
    assert (caught.value.file, caught.value.line) == ("some.yaml", line)
    assert caught.value.message.startswith("YAML: ")


@pytest.mark.parametrize(
    "text",
    [
        "password: hunter2\npassword: hunter3\n",
        'password: "hunter2\n',
        "password: hunter2: hunter3\n",
        "password: [hunter2\n",
    ],
)
def test_a_syntax_error_quotes_nothing(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, "f")
    assert "hunter" not in str(caught.value)
    assert caught.value.__context__ is None or caught.value.__suppress_context__


def test_one_key_twice() -> None:
    with pytest.raises(ConfigError, match="twice") as caught:
        parse("a: 1\nb: 2\na: 3\n", "f")
    assert caught.value.line == 3
    with pytest.raises(ConfigError, match="twice") as caught:
        parse("a:\n  1: x\n  '1': y\n", "f")
    assert caught.value.line == 3


@pytest.mark.timeout(20)
def test_documents_without_end_are_refused() -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
    )
    for text in (bomb, "a: " + "[" * 300 + "]" * 300):
        with pytest.raises(ConfigError):
            parse(text, "f")
