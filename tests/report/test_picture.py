"""The picture of a lineage: every artifact above what it was made from, every line where it belongs."""

import re

import pytest

from qwenlong_core.report.picture import Origin, lineage_picture, newest_first


def origin(name, *parents, kind="model", **more):
    return Origin(name=name, kind=kind, sha256=name * 8, parents={one: one * 8 for one in parents}, **more)


RUN = [
    origin("base"),
    origin("data", "base", kind="data"),
    origin("sft", "base", "data"),
    origin("grpo", "sft", "data"),
    origin("eval", "grpo", "data", kind="evaluation"),
    origin("version", "grpo", "eval", kind="registration"),
]


def test_everything_stands_above_what_it_was_made_from():
    names = [one.name for one in newest_first(RUN)]
    assert names == ["version", "eval", "grpo", "sft", "data", "base"]
    assert [one.name for one in newest_first(list(reversed(RUN)))] == names, "only one order is possible here"


def test_of_two_that_could_come_first_the_last_given_does():
    two = [origin("data", kind="data"), origin("a", "data"), origin("b", "data")]
    assert [one.name for one in newest_first(two)] == ["b", "a", "data"]


def test_what_was_made_from_itself_is_refused():
    with pytest.raises(ValueError, match="made from itself"):
        newest_first([origin("a", "b"), origin("b", "a")])


def ends(svg):
    """The dots by name, and of every line where it starts and ends, both as ``(x, y)``."""
    groups = re.findall(r'<circle cx="(\d+)" cy="(\d+)".*?class="name">([^<]*)<', svg)
    dots = {(int(x), int(y)): name for x, y, name in groups}
    lines = []
    for path in re.findall(r'<path d="([^"]*)"', svg):
        x, y = map(int, re.match(r"M(\d+) (\d+)", path).groups())
        lane = int(re.search(r"C\S+ \S+ (\d+) ", path)[1]) if "C" in path else x
        lines.append(((x, y), (lane, int(re.search(r"V(\d+)$", path)[1]))))
    return dots, lines


def test_every_line_leads_from_an_artifact_to_one_of_its_parents():
    dots, lines = ends(str(lineage_picture(RUN)))
    found = {(dots[start], dots[end]) for start, end in lines}
    assert found == {(one.name, parent) for one in RUN for parent in one.parents}
    assert len(lines) == len(found)


def test_no_dot_lies_on_a_line_that_passes_it_by():
    dots, lines = ends(str(lineage_picture(RUN)))
    for (_, top), (lane, bottom) in lines:
        assert not [name for (x, y), name in dots.items() if x == lane and top < y < bottom]


def test_names_are_escaped_cut_to_the_picture_and_spoken():
    svg = str(lineage_picture([origin("data", kind="data", note="2026-01-01"), origin("<b>" + "x" * 99, "data")]))
    assert "<b>" not in svg and "&lt;b&gt;" in svg and "x…</text>" in svg
    assert "data/datadatadata, 2026-01-01</text>" in svg
    assert "x, model/" in svg and "made from data;" in svg


def test_a_parent_that_is_not_there_has_no_line():
    svg = str(lineage_picture([origin("sft", "base")]))
    assert "<path" not in svg and "basebasebase" in svg, "its digest is still told"
