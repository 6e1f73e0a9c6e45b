"""Every upstream layout as its authors document it, written the way the hub or the release serves it."""

import csv
import gzip
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qwenlong_core.data.prompts import answer_form
from qwenlong_core.data.sources.catalogue import SOURCES
from qwenlong_core.data.sources.read import local_files, read_source
from qwenlong_core.data.sources.validation import Refused
from qwenlong_core.evaluation.official import official_metrics
from qwenlong_core.records import Completion, Example
from qwenlong_core.rewards.hybrid import score_by_rule
from qwenlong_core.settings.rewards import RewardSettings


def save(path: Path, rows: Any) -> Path:
    """Write rows in the format that the file's name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        with path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        lines = (
            "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            if ".jsonl" in path.name
            else json.dumps(rows)
        )
        path.write_bytes(gzip.compress(lines.encode()) if path.suffix == ".gz" else lines.encode())
    return path


def examples(name: str, path: Path) -> list[Example]:
    rows = list(read_source(f"{name}:{path}"))
    assert not [row for row in rows if isinstance(row, Refused)], rows
    return [row for row in rows if isinstance(row, Example)]


def refusals(name: str, path: Path) -> list[str]:
    return [row.reason for row in read_source(f"{name}:{path}") if isinstance(row, Refused)]


def gold_scores_one(rows: list[Example]) -> None:
    for row in rows:
        for gold in row.answers:
            text = f"<think>x</think>\n\n{answer_form(row.answer_type, gold)}"
            completion = Completion(text=text, token_ids=(), finish_reason="stop")
            assert score_by_rule(row, completion, RewardSettings()).score.value == 1.0, (row.id, gold)


HOTPOT = {
    "question": "Where was he born?",
    "answer": "Rockland",
    "type": "bridge",
    "level": "hard",
    "supporting_facts": [["A", 0]],
    "context": [["A", ["First. ", "Second."]], ["B", ["Third."]]],
}
PASSAGES = "Passage 1:\nA\nFirst. Second.\n\nPassage 2:\nB\nThird."


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".json.gz", ".jsonl.gz"])
def test_hotpotqa_original(tmp_path: Path, suffix: str) -> None:
    (row,) = examples("hotpotqa", save(tmp_path / f"dev{suffix}", [{"_id": "5a", **HOTPOT}]))
    assert (row.id, row.context, row.answers, row.answer_type) == ("hotpotqa-5a", PASSAGES, ("Rockland",), "span")
    assert row.metadata == {"type": "bridge", "level": "hard", "evidence": [[0, 27]]}
    assert row.context[:27] == "Passage 1:\nA\nFirst. Second."


def test_hotpotqa_hub(tmp_path: Path) -> None:
    hub = {
        **HOTPOT,
        "id": "5a",
        "answer": "no",
        "context": {"title": ["A", "B"], "sentences": [["First. ", "Second."], ["Third."]]},
    }
    hub["supporting_facts"] = {"title": ["B"], "sent_id": [0]}
    (row,) = examples("hotpotqa", save(tmp_path / "validation.parquet", [hub]))
    assert (row.id, row.context, row.answer_type) == ("hotpotqa-5a", PASSAGES, "yes_no")
    assert [row.context[start:end] for start, end in row.metadata["evidence"]] == ["Passage 2:\nB\nThird."]


def test_supporting_facts_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    raw = {"_id": "5a", **HOTPOT, "supporting_facts": [3]}
    (row,) = read_source(f"hotpotqa:{save(tmp_path / 'dev.json', [raw])}")
    assert "'supporting_facts' is not a list" in str(row)


@pytest.mark.parametrize("as_text", [False, True])
def test_2wikimultihopqa(tmp_path: Path, as_text: bool) -> None:
    context = json.dumps(HOTPOT["context"]) if as_text else HOTPOT["context"]
    raw = {
        "_id": "x",
        **HOTPOT,
        "context": context,
        "entity_ids": "Q1",
        "evidences": [["s", "r", "o"]],
        "answer_id": "Q2",
    }
    (row,) = examples("2wikimultihopqa", save(tmp_path / "dev.json", [raw]))
    assert (row.source, row.context, row.answers) == ("2wikimultihopqa", PASSAGES, ("Rockland",))
    assert "aliases" not in row.metadata
    save(tmp_path / "with_aliases" / "dev.json", [{**raw, "answer_id": "Q1"}])
    names = [{"Q_id": "Q1", "aliases": ["Rockland City"], "demonyms": ["Rocklander"]}, {"Q_id": "Q2", "aliases": []}]
    names[1]["demonyms"] = []
    (tmp_path / "with_aliases" / "id_aliases.json").write_text("\n".join(map(json.dumps, names)))
    (row,) = examples("2wikimultihopqa", tmp_path / "with_aliases" / "dev.json")
    assert (row.answers, row.metadata["aliases"]) == (("Rockland",), ["Rockland City", "Rocklander"])
    # The scorer's golds are the answer and its aliases (2wikimultihop_evaluate_v1.1.py, update_answer).
    assert official_metrics(row, "rockland city", 0.0015)["em"] == 1.0
    assert official_metrics(row, "the city", 0.0015)["f1"] == pytest.approx(2 / 3)  # P 1, R 1/2


def musique(**changes: Any) -> dict[str, Any]:
    return {
        "id": "2hop__1_2",
        "question": "Which county?",
        "answer": "Presque Isle",
        "answer_aliases": ["Presque Isle County"],
        "answerable": True,
        "question_decomposition": [{"id": 1}, {"id": 2}],
        "paragraphs": [{"idx": 0, "title": "A", "paragraph_text": "First.", "is_supporting": True}],
        **changes,
    }


def test_musique_keeps_aliases_and_unanswerable_rows(tmp_path: Path) -> None:
    rows = examples("musique", save(tmp_path / "m.jsonl", [musique(), musique(id="u", answerable=False)]))
    assert [(row.answer_type, row.answers) for row in rows] == [
        ("span", ("Presque Isle", "Presque Isle County")),
        ("unanswerable", ("unanswerable",)),
    ]
    assert rows[0].metadata["hops"] == 2
    assert rows[0].metadata["evidence"] == [[0, len("Passage 1:\nA\nFirst.")]]
    assert "evidence" not in rows[1].metadata
    steps = [{"id": 1, "answer": "Ann"}, {"id": 2, "answer": "Presque Isle"}]
    (row,) = examples("musique", save(tmp_path / "n.jsonl", [musique(question_decomposition=steps)]))
    assert row.metadata["entities"] == ["Ann", "Presque Isle"]
    gold_scores_one(rows)


def multihoprag() -> list[dict[str, Any]]:
    fact = {
        "author": "D",
        "category": "c",
        "fact": "Deals matter.",
        "published_at": "2023-10",
        "source": "Verge",
        "title": "T1",
        "url": "u",
    }
    return [
        {"query": "Did it?", "answer": "Yes", "question_type": "comparison_query", "evidence_list": [fact]},
        {"query": "Who?", "answer": "Insufficient information.", "question_type": "null_query", "evidence_list": []},
    ]


def test_multihoprag_without_its_corpus(tmp_path: Path) -> None:
    rows = list(read_source(f"multihoprag:{save(tmp_path / 'MultiHopRAG.json', multihoprag())}"))
    assert isinstance(rows[0], Example)
    assert rows[0].context == "Passage 1:\ntitle: T1\nsource: Verge\npublished_at: 2023-10\nDeals matter."
    assert "put corpus.json" in str(rows[1])


def test_multihoprag_with_its_corpus(tmp_path: Path) -> None:
    corpus = [{"title": f"T{i}", "body": f"Body {i}.", "url": "u", "source": "s"} for i in range(20)]
    path, corpus_path = save(tmp_path / "MultiHopRAG.json", multihoprag()), save(tmp_path / "corpus.json", corpus)
    rows = examples("multihoprag", path)
    assert [row.answer_type for row in rows] == ["yes_no", "unanswerable"]
    assert "T1\nBody 1." in rows[0].context
    assert [row.context.count("Passage ") for row in rows] == [7, 6]
    assert examples("multihoprag", tmp_path) == rows
    assert local_files(f"multihoprag:{path}") == [path, corpus_path]


def test_docmath(tmp_path: Path) -> None:
    raw = {
        "question_id": "simpshort-1",
        "source": "tatqa",
        "question": "By how much?",
        "paragraphs": ["One.", "| a | 5 |"],
        "table_evidence": [1],
        "paragraph_evidence": [],
        "python_solution": "def solution(): ...",
        "ground_truth": -12.6,
    }
    (row,) = examples("docmath", save(tmp_path / "simpshort_testmini.jsonl", [raw]))
    assert (row.context, row.answer_type, row.answers) == ("One.\n| a | 5 |", "number", ("-12.6",))
    raw.pop("ground_truth")
    assert "use testmini" in refusals("docmath", save(tmp_path / "simpshort_test.jsonl", [raw]))[0]


@pytest.mark.parametrize("encode", [lambda items: items, json.dumps, repr])
def test_frames_with_articles(tmp_path: Path, encode: Any) -> None:
    items = [{"title": "A", "link": "l", "text": "It's first."}, {"title": "B", "link": "l", "text": "Second."}]
    raw = {"Prompt": "Which?", "Answer": "A", "reasoning_types": "Tabular", "wiki_items": encode(items)}
    (row,) = examples("frames", save(tmp_path / "test.jsonl", [raw]))
    assert row.context == "A\nIt's first.\nB\nSecond."


def test_frames_without_articles_says_where_they_are(tmp_path: Path) -> None:
    links = save(tmp_path / "test.csv", [{"Prompt": "Which?", "Answer": "A", "wiki_links": "['https://x']"}])
    assert "Tongyi-Zhiwen/frames" in refusals("frames", links)[0]
    assert (
        "not rows of FRAMES"
        in refusals("frames", save(tmp_path / "meta.json", {"meta": {"name": "FRAMES"}, "readme": "x"}))[0]
    )


def test_longbench(tmp_path: Path) -> None:
    base = {"context": "文本。", "length": 5, "language": "zh", "all_classes": None, "_id": "a1"}
    raw = [
        {"input": "主题是什么？", "answers": ["成长。"], "dataset": "multifieldqa_zh", **base},
        {"input": "Where?", "answers": ["Rome", "Roma"], "dataset": "2wikimqa_e", **base},
        {"input": "", "answers": ["x"], "dataset": "gov_report", **base},
    ]
    path = save(tmp_path / "lb.jsonl", raw)
    rows = [row for row in read_source(f"longbench:{path}") if isinstance(row, Example)]
    assert [(row.source, row.domain, row.answers) for row in rows] == [
        ("multifieldqa_zh", "reading", ("成长。",)),
        ("2wikimultihopqa", "multihop", ("Rome", "Roma")),
    ]
    assert rows[0].context == "文本。"
    assert "'gov_report'" in refusals("longbench", path)[0]
    gold_scores_one(rows)


def test_longbench_v2(tmp_path: Path) -> None:
    raw = {"_id": "v", "domain": "Single-Document QA", "sub_domain": "Legal", "difficulty": "hard", "length": "short",
           "question": "Which?", "choice_A": "a", "choice_B": "b", "choice_C": "c", "choice_D": "d",
           "answer": "C", "context": "T"}  # fmt: skip
    (row,) = examples("longbench-v2", save(tmp_path / "data.json", [raw]))
    assert (row.choices, row.answers, row.metadata["sub_domain"]) == (("a", "b", "c", "d"), ("C",), "Legal")
    gold_scores_one([row])
    assert "not one letter" in refusals("longbench-v2", save(tmp_path / "bad.json", [{**raw, "answer": "E"}]))[0]


def test_narrativeqa_hub(tmp_path: Path) -> None:
    raw = {
        "document": {
            "id": "d1",
            "kind": "movie",
            "url": "u",
            "text": "A long story.",
            "summary": {"text": "s", "tokens": ["s"]},
        },
        "question": {"text": "Who?", "tokens": ["Who"]},
        "answers": [{"text": "A loner.", "tokens": ["A"]}, {"text": "He is a student.", "tokens": ["He"]}],
    }
    (row,) = examples("narrativeqa", save(tmp_path / "test-0.parquet", [raw]))
    assert (row.context, row.answers, row.document_id) == ("A long story.", ("A loner.", "He is a student."), "d1")


def test_narrativeqa_official_csv_needs_the_stories(tmp_path: Path) -> None:
    raw = {
        "document_id": "d1",
        "set": "test",
        "question": "Who is Mark?",
        "answer1": "A student.",
        "answer2": "A loner.",
    }
    path = save(tmp_path / "qaps.csv", [raw])
    assert "download_stories.sh" in refusals("narrativeqa", path)[0]
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp" / "d1.content").write_text("Mark is a student.")
    (row,) = examples("narrativeqa", path)
    assert (row.context, row.answers) == ("Mark is a student.", ("A student.", "A loner."))
    assert tmp_path / "tmp" / "d1.content" in local_files(f"narrativeqa:{path}")
    documents = save(tmp_path / "documents.csv", [{"document_id": "d1", "set": "test", "story_url": "u"}])
    assert "give qaps.csv" in refusals("narrativeqa", documents)[0]


def answer(**given: Any) -> dict[str, Any]:
    blank = {"unanswerable": False, "extractive_spans": [], "yes_no": None, "free_form_answer": "", "evidence": []}
    return {"answer": {**blank, **given}, "annotation_id": "a", "worker_id": "w"}


QAS = [
    ("q1", [answer(free_form_answer="a vocabulary"), answer(extractive_spans=["seed", "lexicon"])]),
    ("q2", [answer(yes_no=True), answer(yes_no=True)]),
    ("q3", [answer(unanswerable=True)]),
    ("q4", [answer(yes_no=True), answer(yes_no=False)]),
    ("q5", [answer(unanswerable=True), answer(free_form_answer="three")]),
]
EXPECTED = [
    ("span", ("a vocabulary", "seed, lexicon")),
    ("yes_no", ("Yes",)),
    ("unanswerable", ("Unanswerable",)),
    ("span", ("Yes", "No")),
    ("span", ("Unanswerable", "three")),
]
SECTIONS = [
    {"section_name": "Introduction", "paragraphs": ["One.", ""]},
    {"section_name": "Method", "paragraphs": ["Two."]},
]


def test_qasper_release(tmp_path: Path) -> None:
    paper = {
        "title": "T",
        "abstract": "Abs.",
        "full_text": SECTIONS,
        "qas": [{"question": f"{key}?", "question_id": key, "answers": answers} for key, answers in QAS],
    }
    rows = examples("qasper", save(tmp_path / "qasper.json", {"1909.1": paper}))
    assert [(row.answer_type, row.answers) for row in rows] == EXPECTED
    assert {row.context for row in rows} == {"T\n\nAbs.\n\nIntroduction\n\nOne.\n\nMethod\n\nTwo."}
    assert {row.document_id for row in rows} == {"1909.1"}
    gold_scores_one(rows)


def test_qasper_hub(tmp_path: Path) -> None:
    columns = {
        "question": [f"{key}?" for key, _ in QAS],
        "question_id": [key for key, _ in QAS],
        "answers": [
            {"answer": [a["answer"] for a in answers], "worker_id": ["w"] * len(answers)} for _, answers in QAS
        ],
    }
    text = {key: [section[key] for section in SECTIONS] for key in ("section_name", "paragraphs")}
    paper = {"id": "1909.1", "title": "T", "abstract": "Abs.", "full_text": text, "qas": columns}
    rows = examples("qasper", save(tmp_path / "test.parquet", [paper]))
    assert [(row.answer_type, row.answers) for row in rows] == EXPECTED


def test_json_lists_are_read_element_by_element(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwenlong_core.data.sources.jsontext._CHUNK_CHARACTERS", 64)
    whole = save(tmp_path / "whole.json", [{"_id": str(i), **HOTPOT} for i in range(30)])
    assert [row.id for row in examples("hotpotqa", whole)] == [f"hotpotqa-{i}" for i in range(30)]
    cut = tmp_path / "cut.json"
    cut.write_text(whole.read_text()[:2_000])
    rows = list(read_source(f"hotpotqa:{cut}"))
    assert isinstance(rows[-1], Refused)
    assert "not valid JSON from here on" in rows[-1].reason
    assert 3 < len(rows) < 30


def test_folders_are_read_whole(tmp_path: Path) -> None:
    for name in ("b", "a"):
        save(tmp_path / "deep" / f"{name}.jsonl", [musique(id=name)])
    (tmp_path / "readme.md").write_text("not data")
    assert [row.id for row in examples("musique", tmp_path)] == ["musique-a", "musique-b"]


def test_a_source_without_hub_says_where_its_files_are() -> None:
    with pytest.raises(ValueError, match=r"Alab-NII/2wikimultihop"):
        local_files("2wikimultihopqa:")
    assert local_files("docqa-rl:") == []


@pytest.mark.parametrize("name", [name for name in SOURCES if name != "jsonl"])
def test_rows_of_another_format_are_refused_not_raised(tmp_path: Path, name: str) -> None:
    odd = [
        {},
        {"id": 5},
        {"question": None, "context": 3, "answers": {}},
        {"paragraphs": [1], "question_id": "x"},
        {"_id": "x", "context": [["t"]], "question": "q", "answer": "a"},
        {"document": {}, "question": {}, "answers": None},
        {"full_text": 3, "qas": 4, "title": "t"},
        {"wiki_items": "[", "Prompt": "p"},
        {"qas": [{"answers": [{}]}], "full_text": [], "title": "t"},
        {"query": "q", "answer": "a", "evidence_list": 3},
        {"data_source": "docmath", "prompt": [3], "reward_model": 3},
    ]
    rows = list(read_source(f"{name}:{save(tmp_path / 'odd.jsonl', odd)}"))
    assert all(isinstance(row, Refused) for row in rows)


@pytest.mark.skipif("QWENLONG_REAL_DATA" not in os.environ, reason="set QWENLONG_REAL_DATA to a folder with raw/")
def test_gold_of_real_upstream_files_scores_one() -> None:
    raw = Path(os.environ["QWENLONG_REAL_DATA"]) / "raw"
    files = {
        "docmath": "docmath_*.json",
        "hotpotqa": "hotpotqa_*.json",
        "longbench": "longbench_*.jsonl",
        "multihoprag": "multihoprag_*.json",
        "musique": "musique_*.jsonl",
        "qasper": "qasper_*.json",
    }
    for name, pattern in files.items():
        rows = [row for row in read_source(f"{name}:{raw / pattern}") if isinstance(row, Example)]
        assert rows, name
        gold_scores_one(rows)
