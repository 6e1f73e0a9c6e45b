"""Which rows an evaluation takes: benchmarks by name, their own denominators, and clear refusals."""

import json

import pytest

from qwenlong_core.bundled import bundled_tokenizer
from qwenlong_core.data.prepare import prepare
from qwenlong_core.data.rows import read_examples
from qwenlong_core.evaluation.benchmarks import PAPER, benchmark_specs, read_benchmarks
from qwenlong_core.evaluation.limits import fit_limits
from qwenlong_core.evaluation.published import BENCHMARKS
from qwenlong_core.jobs import PrepareJob
from qwenlong_core.settings.data import DataSettings, LengthBucket

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
    assert list(benchmark_specs(("paper",), ())) == list(PAPER)
    assert list(benchmark_specs(("all",), ())) == [*PAPER, *benchmark_specs(("long",), ())]


@pytest.mark.parametrize(
    ("names", "data", "specs"),
    [
        ((), (), {"generated": "generated"}),
        (("musique",), (), {"musique": "longbench-musique:"}),
        (("docmath",), (), {"docmath": "docmath-200:"}),
        ((), ("musique=dev.jsonl",), {"musique": "musique:dev.jsonl"}),
        (("frames", "musique"), ("musique=dev.jsonl",), {"frames": "frames:", "musique": "musique:dev.jsonl"}),
        (("hotpotqa",), ("hotpotqa=longbench:h.jsonl",), {"hotpotqa": "longbench:h.jsonl"}),
        ((), ("mine=held_out.jsonl",), {"mine": "held_out.jsonl"}),
        (("ruler", "mrcr"), (), {"ruler": "ruler", "mrcr": "mrcr:"}),
        ((), ("ruler=copies",), {"ruler": "ruler:copies"}),
        (("longbench-v2",), ("longbench-v2=v2.json",), {"longbench-v2": "longbench-v2:v2.json"}),
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
        (f"qasper=longbench:{tmp_path}/rows.jsonl", "1 of 1 rows are unreadable.*rows.jsonl reads as longbench"),
        (f"qasper={tmp_path}/missing.json", "no file matches"),
    ):
        with pytest.raises(ValueError, match=said) as refused:
            read_benchmarks(benchmark_specs((), (data,)), ())
        assert "It can be read from" not in str(refused.value) and "hub id of its own" not in str(refused.value)


def test_benchmarks_without_a_copy_are_all_named_before_anything_is_read(tmp_path):
    with pytest.raises(ValueError) as refused:
        read_benchmarks(benchmark_specs(("paper",), ()), (), str(tmp_path))
    assert all(f"benchmark {name}: " in str(refused.value) for name in PAPER)


def test_without_network_the_error_names_the_other_ways(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match=r"longbench-musique:/path/to/data\.zip.*musique=PATH.*benchmarks_dir"):
        read_benchmarks(benchmark_specs(("musique",), ()), ())


PAIR = {
    "id": "2hop__1_2",
    "paragraphs": [{"idx": 0, "title": "A", "paragraph_text": "Ann rules A.", "is_supporting": True}],
    "question": "Who rules A?",
    "answer": "Ann",
    "answer_aliases": [],
    "question_decomposition": [],
}


def test_pairs_of_one_id_are_read_as_preparation_reads_them(tmp_path):
    other = [{"idx": 0, "title": "B", "paragraph_text": "B has no ruler.", "is_supporting": False}]
    pair = [{**PAIR, "answerable": True}, {**PAIR, "paragraphs": other, "answerable": False}]
    (tmp_path / "full.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pair))
    rows = read_benchmarks({"musique": f"musique:{tmp_path}/full.jsonl"}, ())
    assert [(row.id, row.answer_type) for row in rows] == [
        ("musique-2hop__1_2", "span"),
        ("musique-2hop__1_2#2", "unanswerable"),
    ]
    data = DataSettings(sft=(), train=(), eval=(f"musique:{tmp_path}/full.jsonl",))
    job = PrepareJob(data=data, sft_max_tokens=500, phase_limits=(500,), eval_max_tokens=500, seed=7)
    prepare(job, bundled_tokenizer(), tmp_path / "prepared", ("eval",), every_phase=False)
    prepared = {row.id: row for row in read_examples(tmp_path / "prepared" / "eval.parquet")}
    assert {row.id: (row.context, row.answers) for row in rows} == {
        name: (row.context, row.answers) for name, row in prepared.items()
    }


def test_a_row_that_comes_twice_keeps_its_id_so_that_the_plan_refuses_it(tmp_path):
    (tmp_path / "twice.jsonl").write_text(2 * (json.dumps(UNIFORM) + "\n"))
    assert [row.id for row in read_benchmarks({"mine": f"{tmp_path}/twice.jsonl"}, ())] == ["u1", "u1"]


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
