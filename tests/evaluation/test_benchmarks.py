"""Which rows an evaluation takes: benchmarks by name, their own denominators, and clear refusals."""

import json

import pytest

from qwenlong_core.evaluation.benchmarks import PAPER, benchmark_specs, read_benchmarks
from qwenlong_core.evaluation.limits import fit_limits
from qwenlong_core.evaluation.published import BENCHMARKS
from qwenlong_core.settings.data import LengthBucket

HOTPOT = [
    {
        "_id": f"h{i}",
        "question": f"Who is {i}?",
        "answer": f"Person {i}",
        "supporting_facts": [["A", 0]],
        "type": "bridge",
        "level": "hard",
        "context": [["A", [f"Person {i} is A."]], ["B", ["B is nobody."]]],
    }
    for i in range(3)
]
LONGBENCH = {
    "input": "Which?",
    "context": "It is this.",
    "answers": ["this"],
    "length": 3,
    "dataset": "hotpotqa",
    "language": "en",
    "all_classes": None,
    "_id": "abc",
}
UNIFORM = {
    "id": "u1",
    "domain": "math",
    "context": "It is 5.",
    "question": "How much?",
    "answers": ["5"],
    "source": "x",
}


def test_the_papers_seven_in_the_order_of_its_table():
    assert len(PAPER) == 7
    assert [name.lower()[:5] for name in BENCHMARKS.values()] == [name[:5] for name in PAPER]
    assert list(benchmark_specs(("all",), ())) == list(PAPER)


@pytest.mark.parametrize(
    ("names", "data", "specs"),
    [
        ((), (), {"generated": "generated"}),
        (("musique",), (), {"musique": "musique:"}),
        ((), ("musique=dev.jsonl",), {"musique": "musique:dev.jsonl"}),
        (("frames", "musique"), ("musique=dev.jsonl",), {"frames": "frames:", "musique": "musique:dev.jsonl"}),
        (("hotpotqa",), ("hotpotqa=longbench:h.jsonl",), {"hotpotqa": "longbench:h.jsonl"}),
        ((), ("mine=held_out.jsonl",), {"mine": "held_out.jsonl"}),
        (("musique", "musique"), ("musique=a/b",), {"musique": "musique:a/b"}),
    ],
)
def test_names_and_data_become_sources(names, data, specs):
    assert benchmark_specs(names, data) == specs


@pytest.mark.parametrize(
    ("names", "data", "said"),
    [
        (("hotpot",), (), "unknown benchmark 'hotpot': take one of docmath, frames"),
        (("frames",), ("musique=x",), "data is given for 'musique', which is not among the benchmarks asked for"),
        ((), ("musique",), "is not NAME=PATH_OR_HUB_ID"),
    ],
)
def test_what_names_nothing_is_refused(names, data, said):
    with pytest.raises(ValueError, match=said):
        benchmark_specs(names, data)


def test_rows_carry_their_benchmarks_name_whatever_format_they_came_in(tmp_path):
    (tmp_path / "hotpot.json").write_text(json.dumps(HOTPOT))
    (tmp_path / "longbench.jsonl").write_text(json.dumps(LONGBENCH) + "\n")
    (tmp_path / "mine.jsonl").write_text(json.dumps(UNIFORM) + "\n")
    data = (
        f"hotpotqa={tmp_path}/hotpot.json",
        f"2wikimultihopqa=longbench:{tmp_path}/longbench.jsonl",
        f"mine={tmp_path}/mine.jsonl",
    )
    rows = read_benchmarks(benchmark_specs((), data), ())
    assert [row.source for row in rows] == ["hotpotqa"] * 3 + ["2wikimultihopqa", "mine"]


def test_the_generated_set_is_the_same_every_time():
    buckets = (LengthBucket(min_tokens=190, max_tokens=256, rows=4),)
    specs = benchmark_specs((), ())
    assert read_benchmarks(specs, buckets) == read_benchmarks(specs, buckets)
    with pytest.raises(ValueError, match="no length bucket"):
        read_benchmarks(specs, ())


def test_an_unreadable_row_is_no_smaller_benchmark(tmp_path):
    (tmp_path / "hotpot.json").write_text(json.dumps([*HOTPOT, {"_id": "broken"}]))
    with pytest.raises(ValueError, match=r"benchmark hotpotqa: 1 of 4 rows are unreadable: .*hotpot.json:4"):
        read_benchmarks({"hotpotqa": f"hotpotqa:{tmp_path}/hotpot.json"}, ())


def test_what_is_wrong_with_a_named_file_is_said_and_not_where_else_it_might_be(tmp_path):
    (tmp_path / "rows.jsonl").write_text("{broken\n")
    for data, said in (
        (f"mine={tmp_path}/rows.jsonl", "1 of 1 rows are unreadable"),
        (f"qasper=longbench:{tmp_path}/rows.jsonl", "1 of 1 rows are unreadable"),
        (f"qasper={tmp_path}/missing.json", "no file matches"),
    ):
        with pytest.raises(ValueError, match=said) as refused:
            read_benchmarks(benchmark_specs((), (data,)), ())
        assert "It can be read from" not in str(refused.value) and "hub id of its own" not in str(refused.value)


def test_benchmarks_without_a_place_are_all_named_before_anything_is_fetched():
    with pytest.raises(ValueError) as refused:
        read_benchmarks(benchmark_specs(("all",), ()), ())
    assert "benchmark 2wikimultihopqa" in str(refused.value) and "benchmark qasper" in str(refused.value)
    assert "qasper=longbench:PATH" in str(refused.value)


def test_without_network_the_error_names_both_ways(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        ConnectionError, match=r"musique=dgslibisey/MuSiQue \(the hub\) or musique=PATH \(a local copy\)"
    ):
        read_benchmarks(benchmark_specs(("musique",), ()), ())


@pytest.mark.parametrize(
    ("context", "limits"),
    [(None, (120_000, 10_000)), (131_072, (120_000, 10_000)), (32_768, (24_576, 8_192)), (8_192, (6_144, 2_048))],
)
def test_limits_are_the_papers_where_the_context_holds_them(context, limits):
    assert fit_limits(context) == limits


@pytest.mark.parametrize(
    ("given", "limits"),
    [
        ({"completion": 64}, (8_128, 64)),
        ({"prompt": 300}, (300, 7_892)),
        ({"prompt": 300, "completion": 64}, (300, 64)),
        ({"prompt": 9_000}, (9_000, 1)),  # over the context with anything: the engine says so
        ({"completion": 9_000}, (1, 9_000)),
    ],
)
def test_a_given_limit_stays_and_the_other_gets_the_rest_of_the_context(given, limits):
    assert fit_limits(8_192, **given) == limits
