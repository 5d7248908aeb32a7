"""The form of rule files: fields, tokens, quotes, continued lines, included files."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgdoorman.auth.rule_files import RuleText, read_rules, split_fields


def words(line: str) -> list[list[str]]:
    """Fields as lists of text; a token that began with a quote is shown with one."""
    return [[("'" if token.quoted else "") + token.text for token in field] for field in split_fields(line)]


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("", []),
        ("   ", []),
        ("# comment", []),
        ("a b\tc", [["a"], ["b"], ["c"]]),
        ("a,b c", [["a", "b"], ["c"]]),
        ("a, b c", [["a", "b"], ["c"]]),
        ("a ,b c", [["a"], ["b"], ["c"]]),  # a comma joins only what follows a token directly
        ("a,,b", [["a", "b"]]),
        ("a b#c d", [["a"], ["b"]]),
        ('"a b" c', [["'a b"], ["c"]]),
        ('"a,b" c', [["'a,b"], ["c"]]),
        ('"a#b" c', [["'a#b"], ["c"]]),
        ('"a""b"', [["'a\"b"]]),
        ('a"b c"d', [["ab cd"]]),  # quoted inside, but did not begin so
        ('""', [["'"]]),
        ('"all"', [["'all"]]),
        ('key="a b"', [["key=a b"]]),
        ('"unclosed a', [["'unclosed a"]]),
        ("a,", [["a"]]),
        (",", []),
        ("a\r", [["a"]]),
    ],
)
def test_fields(line: str, wanted: list[list[str]]) -> None:
    assert words(line) == wanted


@given(st.text(alphabet='ab ",#\t\\@', max_size=40))
def test_splitting_always_ends(line: str) -> None:
    split_fields(line)


def numbered(source: RuleText) -> list[tuple[int, list[str]]]:
    return [(line.number, [token.text for field in line.fields for token in field]) for line in source.lines]


def test_continued_lines_count_from_their_first() -> None:
    source = read_rules("a \\\nb\n\n# x\nc\\\nd\\\n", "f")
    assert numbered(source) == [(1, ["a", "b"]), (5, ["cd"])]


def test_windows_line_ends() -> None:
    assert numbered(read_rules("a b\r\nc\\\r\nd\r\n", "f")) == [(1, ["a", "b"]), (2, ["cd"])]


def write(directory: Path, **files: str) -> None:
    for name, text in files.items():
        (directory / name.replace("__", ".")).write_text(text)


def test_files_of_names(tmp_path: Path) -> None:
    write(tmp_path, names="alice bob\n# nobody\ncarol,dave\n@more\n", more='"eve"\n')
    source = read_rules('x @names y\nz a,@more\nq "@names" @\n', str(tmp_path / "hba"))
    assert not source.errors
    assert numbered(source) == [
        (1, ["x", "alice", "bob", "carol", "dave", "eve", "y"]),
        (2, ["z", "a", "eve"]),
        (3, ["q", "@names", "@"]),
    ]
    assert [len(field) for field in source.lines[0].fields] == [1, 5, 1]


def test_included_files_take_the_place_of_the_line(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    write(tmp_path, inner="i1\ninclude d/deeper\n")
    write(tmp_path / "d", deeper="i2\ninclude_if_exists nothing\ninclude_if_exists beside\n", beside="i3\n")
    source = read_rules("first\ninclude inner\nlast\n", str(tmp_path / "hba"))
    assert not source.errors
    assert [(Path(line.file).name, line.number, line.text) for line in source.lines] == [
        ("hba", 1, "first"),
        ("inner", 1, "i1"),
        ("deeper", 1, "i2"),
        ("beside", 1, "i3"),
        ("hba", 3, "last"),
    ]


def test_a_directory_is_read_in_order_of_names(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    write(tmp_path / "conf", b__conf="b", a__conf="a", c__txt="no", __hidden__conf="no")
    source = read_rules("include_dir conf", str(tmp_path / "hba"))
    assert [line.text for line in source.lines] == ["a", "b"]


def test_include_is_a_directive_only_with_two_fields() -> None:
    source = read_rules("include a b\ninclude\n", "f")
    assert len(source.lines) == 2
    assert not source.errors


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ok\ninclude nothing\nok", 'f:2: could not open file "nothing"'),
        ("ok\ninclude_dir nothing\nok", 'f:2: could not open directory "nothing"'),
        ("ok\nx @nothing\nok", 'f:2: could not open file "nothing"'),
        ("ok\ninclude a,b\nok", 'f:2: multiple values specified for "include"'),
    ],
)
def test_what_cannot_be_read_is_an_error_of_its_line_and_reading_goes_on(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = read_rules(text, "f")
    assert [line.number for line in source.lines] == [1, 3]
    assert [str(error).startswith(message) for error in source.errors] == [True]


@pytest.mark.parametrize("line", ["include hba\n", "x @hba\n"])
def test_a_file_that_includes_itself_is_read_ten_times_and_no_more(tmp_path: Path, line: str) -> None:
    (tmp_path / "hba").write_text(line)
    source = read_rules(line, str(tmp_path / "hba"))
    assert "maximum nesting depth exceeded" in str(source.errors[0])


def test_a_file_that_includes_itself_twice_ends_too(tmp_path: Path) -> None:
    (tmp_path / "hba").write_text("include hba\ninclude hba\n")
    source = read_rules("include hba\n", str(tmp_path / "hba"))
    assert 0 < len(source.errors) <= 1024


def test_a_file_that_is_not_utf_8(tmp_path: Path) -> None:
    (tmp_path / "names").write_bytes(b"\xff\n")
    assert "not UTF-8" in str(read_rules("x @names", str(tmp_path / "hba")).errors[0])
