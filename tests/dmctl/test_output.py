from datetime import UTC, datetime, timedelta

import pytest

from dmctl.output import age, moment, print_table, printable, short_ids, size, span

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(-5, "0 s"), (0, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "120 min"), (7200, "2 h"), (200_000, "2 d")],
)
def test_age(seconds: int, expected: str) -> None:
    assert age((NOW - timedelta(seconds=seconds)).isoformat(), NOW) == expected


def test_moment_is_in_utc() -> None:
    assert moment("2026-03-01T13:30:00.25+01:00") == "2026-03-01 12:30:00Z"
    assert moment(NOW) == "2026-03-01 12:00:00Z"


def test_a_time_that_is_not() -> None:
    assert (moment(None), age(None, NOW), span(None)) == ("-", "-", "-")


@pytest.mark.parametrize(("count", "expected"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (67_108_864, "67.1 MB")])
def test_size(count: int, expected: str) -> None:
    assert size(count) == expected


def test_ids_are_cut_to_what_tells_them_apart() -> None:
    ids = ["169a2e55-b243-5da6-ab5c-8a76424c98a4", "169a2e55-0000-5da6-ab5c-8a76424c98a4"]
    assert short_ids(ids[:1]) == {ids[0]: "169a2e55"}
    assert short_ids(ids) == {ids[0]: "169a2e55-b243", ids[1]: "169a2e55-0000"}
    assert short_ids([]) == {}
    nodes = ["a" * 63 + sign for sign in "01"]
    assert short_ids(nodes) == {node: node for node in nodes}


def test_only_what_is_printable_is_printed() -> None:
    assert printable("a\x1b[31m\u202eb\nc") == "a?[31m?b\nc"


def test_a_table_takes_any_cell_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("[title]", ["name", "n"], [["[red]x[/]", 1], ["y" * 150, 22]], ["n"])
    assert capsys.readouterr().out.splitlines() == [
        "[title]",
        f"{'name':150}   n",
        f"{'[red]x[/]':150}   1",
        f"{'y' * 150}  22",
    ]
