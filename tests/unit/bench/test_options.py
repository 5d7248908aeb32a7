"""The benchmark's command line."""

import pytest

from bench.macro.options import Address, Peer, parse


def test_peer_with_and_without_a_process() -> None:
    assert Peer.parse("odyssey=127.0.0.1:6433:812") == Peer("odyssey", Address("127.0.0.1", 6433), 812)
    assert Peer.parse("far=db.example:6432") == Peer("far", Address("db.example", 6432), None)


@pytest.mark.parametrize("text", ["nothing", "=h:1", "a=h", "a=h:0", "a=h:65536", "a=:5", "a=h:x"])
def test_peers_that_make_no_sense(text: str) -> None:
    with pytest.raises(ValueError, match="is not"):
        Peer.parse(text)


def test_lists() -> None:
    options = parse(["--clients", "1,40", "--families", "simple,ratio", "--ratio-pool", "10", "--pgbouncer", ""])
    assert options.clients == (1, 40)
    assert [family.name for family in options.families] == ["simple", "ratio"]
    assert options.pgbouncer is None
    assert options.most_clients == 1000


@pytest.mark.parametrize(
    "arguments",
    [["--clients", "0"], ["--clients", "x"], ["--families", "simpel"], ["--seconds", "2"], ["--rounds", "0"]],
)
def test_bad_arguments_end_with_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(arguments)
    assert ended.value.code == 2
    assert arguments[0] in capsys.readouterr().err
