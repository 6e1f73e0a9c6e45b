import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from qwenlong_core.data.lengths import phase_of
from qwenlong_core.data.near_duplicates import similarity
from qwenlong_core.data.prepare import FILES, prepare, rows_per_phase
from qwenlong_core.data.prompts import prompt_tokens
from qwenlong_core.data.rows import read_examples, read_phase
from qwenlong_core.data.splits import document_key
from qwenlong_core.jobs import PrepareJob
from qwenlong_core.records import Example
from qwenlong_core.settings.data import DataSettings

BUCKETS = {
    "generate_sft": ({"min_tokens": 170, "max_tokens": 256, "rows": 8},),
    "generate_train": (
        {"min_tokens": 170, "max_tokens": 256, "rows": 8},
        {"min_tokens": 257, "max_tokens": 400, "rows": 8},
    ),
    "generate_eval": ({"min_tokens": 170, "max_tokens": 400, "rows": 8},),
}


def job(phase_limits: tuple[int, ...] = (256, 400), eval_max_tokens: int = 400, **data: Any) -> PrepareJob:
    settings = DataSettings.model_validate({**BUCKETS, **data})
    return PrepareJob(
        data=settings, sft_max_tokens=400, phase_limits=phase_limits, eval_max_tokens=eval_max_tokens, seed=3
    )


def story(index: int) -> str:
    """A text that shares no run of words with another story."""
    return " ".join(f"word{index}x{i}" for i in range(40))


def record(index: int, **changes: Any) -> dict[str, Any]:
    return {
        "id": f"r{index}",
        "domain": "multihop",
        "context": story(index),
        "question": f"How many wells has town {index}?",
        "answers": [f"about {index}"],
        **changes,
    }


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def reasons(output: Path) -> dict[str, str]:
    return {row["id"]: row["reason"] for row in map(json.loads, (output / "dropped.jsonl").read_text().splitlines())}


def summary(output: Path) -> Any:
    return json.loads((output / "summary.json").read_text())


def test_same_inputs_same_bytes(tokenizer: Any, tmp_path: Path) -> None:
    for name in ("a", "b"):
        prepare(job(), tokenizer, tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == sorted(FILES)
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_a_form_of_question_outside_training_is_marked(tokenizer: Any, tmp_path: Path) -> None:
    trained = {"kinds": {"math": ["figure"], "logical": ["lookup"], "multihop": ["bridge_2", "older"]}}
    asked = {"kinds": {"math": ["figure", "year_of"], "logical": ["order_of"], "multihop": ["older"]}}
    buckets = {name: tuple(bucket | trained for bucket in BUCKETS[name]) for name in BUCKETS}
    prepare(job(**buckets | {"generate_eval": ({**BUCKETS["generate_eval"][0], **asked},)}), tokenizer, tmp_path)
    rows = read_examples(tmp_path / "eval.parquet")
    assert {row.metadata["kind"] for row in rows if row.metadata.get("untrained")} == {"year_of", "order_of"}
    assert {row.metadata["kind"] for row in rows if "untrained" not in row.metadata} == {"figure", "older"}


def test_without_named_kinds_every_form_is_trained(tokenizer: Any, tmp_path: Path) -> None:
    prepare(job(), tokenizer, tmp_path)
    assert not [row for row in read_examples(tmp_path / "eval.parquet") if "untrained" in row.metadata]


def test_rows_survive_the_file_and_stand_in_their_phase(tokenizer: Any, tmp_path: Path) -> None:
    prepare(job(), tokenizer, tmp_path)
    phases = [read_phase(tmp_path / "train.parquet", index) for index in (1, 2)]
    assert [len(rows) for rows in phases] == [8, 8]
    assert rows_per_phase(job().data, (256, 400), 3) == {1: 8, 2: 8}
    for rows, (low, high) in zip(phases, ((0, 256), (256, 400)), strict=True):
        for row in rows:
            assert low < prompt_tokens(tokenizer, row) == row.num_tokens <= high
            assert row.solution is not None
            assert row.metadata["evidence"]
    assert [row.domain for row in read_examples(tmp_path / "sft.parquet")].count("multihop") == 2
    with pytest.raises(ValueError, match="no row of phase 3"):
        read_phase(tmp_path / "train.parquet", 3)


def test_training_rows_that_stand_in_evaluation_are_dropped(tokenizer: Any, tmp_path: Path) -> None:
    evaluation = [record(i) for i in range(5)]
    train = [
        record(0, id="same-row"),
        record(1, id="same-document", question="Another question?"),
        record(2, id="same-document-other-spaces", context="\n".join(record(2)["context"].split(" "))),
        record(30, id="same-question", question=record(3)["question"].upper(), answers=record(3)["answers"]),
        record(31, id="same-question-other-answer", question=record(4)["question"], answers=["none"]),
        *(record(i) for i in range(40, 46)),
        record(40, id="twice"),
    ]
    prepare(
        job((400,), train=write(tmp_path / "t.jsonl", train), eval=write(tmp_path / "e.jsonl", evaluation)),
        tokenizer,
        tmp_path / "out",
    )
    assert reasons(tmp_path / "out") == {
        "same-row": "document_in_evaluation",
        "same-document": "document_in_evaluation",
        "same-document-other-spaces": "document_in_evaluation",
        "same-question": "question_in_evaluation",
        "twice": "duplicate",
    }
    assert len(read_examples(tmp_path / "out" / "train.parquet")) == 7
    met = {
        row["id"]: row["met"] for row in map(json.loads, (tmp_path / "out" / "dropped.jsonl").read_text().splitlines())
    }
    assert met == {
        "same-row": "r0",
        "same-document": "r1",
        "same-document-other-spaces": "r2",
        "same-question": "r3",
        "twice": "r40",
    }


def test_near_duplicates_are_dropped_with_what_they_met(tokenizer: Any, tmp_path: Path) -> None:
    def edited(index: int) -> str:
        return story(index).replace(f"word{index}x39", "changed")

    evaluation = [record(0)]
    train = [
        record(50, id="near-evaluation", context=edited(0)),
        record(1),
        record(1, id="near-repeat", context=edited(1)),
        record(1, id="other-question", context=edited(1), question="Another?"),
        record(2),
        record(2, id="half-shared", context=" ".join([*story(2).split()[:20], *story(3).split()])),
    ]
    paths = {"train": write(tmp_path / "t.jsonl", train), "eval": write(tmp_path / "e.jsonl", evaluation)}
    prepare(job((700,), **paths, near_duplicates=0.7), tokenizer, tmp_path / "out")
    dropped = map(json.loads, (tmp_path / "out" / "dropped.jsonl").read_text().splitlines())
    assert {row["id"]: (row["reason"], row["met"]) for row in dropped} == {
        "near-evaluation": ("near_document_in_evaluation", "r0"),
        "near-repeat": ("near_duplicate", "r1"),
    }
    prepare(job((700,), **paths, near_duplicates=None), tokenizer, tmp_path / "exact")
    assert reasons(tmp_path / "exact") == {}


@pytest.mark.parametrize("words", ["{}", "字{}"])
def test_similarity_is_the_jaccard_index_of_runs_of_words(words: str) -> None:
    a, b = ([words.format(f"w{i}") for i in numbers] for numbers in (range(0, 400), range(100, 500)))
    runs = [{" ".join(text[i : i + 8]) for i in range(len(text) - 7)} for text in (a, b)]
    exact = len(runs[0] & runs[1]) / len(runs[0] | runs[1])
    assert similarity(" ".join(a), " ".join(b)) == pytest.approx(exact, abs=0.12)


def test_questions_asked_of_many_documents_are_not_leaks(tokenizer: Any, tmp_path: Path) -> None:
    templated = {"question": "Is it secret?", "answers": ["yes"]}
    evaluation, train = [record(0, **templated)], [record(i, **templated) for i in range(1, 5)]
    prepare(
        job((400,), train=write(tmp_path / "t.jsonl", train), eval=write(tmp_path / "e.jsonl", evaluation)),
        tokenizer,
        tmp_path / "out",
    )
    assert reasons(tmp_path / "out") == {}


def test_a_file_named_for_both_sides_is_split_by_document(tokenizer: Any, tmp_path: Path) -> None:
    rows = [record(i // 2, id=f"q{i}", question=f"Question {i}?") for i in range(80)]
    path = write(tmp_path / "both.jsonl", rows)
    prepare(job((400,), train=path, eval=path), tokenizer, tmp_path / "out")
    train, evaluation = (read_examples(tmp_path / "out" / f"{name}.parquet") for name in ("train", "eval"))
    assert len(train) + len(evaluation) == 80
    assert {document_key(row) for row in train}.isdisjoint(document_key(row) for row in evaluation)
    assert 4 <= len(evaluation) <= 32


def test_long_rows_are_dropped_from_training_and_shortened_for_evaluation(tokenizer: Any, tmp_path: Path) -> None:
    long = record(99, id="long", context="A long tale. " * 400)
    train = [*(record(i) for i in range(4)), long]
    evaluation = [record(50), record(51, id="long-eval", context="Another tale. " * 400)]
    prepare(
        job((400,), 400, train=write(tmp_path / "t.jsonl", train), eval=write(tmp_path / "e.jsonl", evaluation)),
        tokenizer,
        tmp_path / "out",
    )
    assert reasons(tmp_path / "out") == {"long": "over_length (more than 400 tokens)"}
    cut = next(row for row in read_examples(tmp_path / "out" / "eval.parquet") if row.id == "long-eval")
    assert cut.num_tokens == prompt_tokens(tokenizer, cut) <= 400
    assert cut.metadata["lost_tokens"] > 800
    assert summary(tmp_path / "out")["splits"]["eval"]["truncated"] == 1


def test_sft_rows_need_a_solution(tokenizer: Any, tmp_path: Path) -> None:
    rows = [
        record(0, id="with", solution="<think>x</think> Therefore, the answer is about 0."),
        record(1, id="without"),
    ]
    prepare(job(sft=write(tmp_path / "s.jsonl", rows)), tokenizer, tmp_path / "out")
    assert [row.id for row in read_examples(tmp_path / "out" / "sft.parquet")] == ["with"]
    assert reasons(tmp_path / "out") == {"without": "no_solution"}


def test_repeated_ids_are_told_apart(tokenizer: Any, tmp_path: Path) -> None:
    rows = [record(i, id="same") for i in range(3)]
    prepare(job((400,), train=write(tmp_path / "t.jsonl", rows)), tokenizer, tmp_path / "out")
    assert [row.id for row in read_examples(tmp_path / "out" / "train.parquet")] == ["same", "same#2", "same#3"]


def test_one_unreadable_row_fails_by_default_and_is_counted_where_allowed(tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    write(path, [record(i) for i in range(9)])
    path.write_text(path.read_text() + '{"id": "cut')
    with pytest.raises(ValueError, match=r"1 of 26 rows.*t\.jsonl:10: not valid JSON.*data\.max_refused_share=0\.039"):
        prepare(job((400,), train=str(path)), tokenizer, tmp_path / "out")
    prepare(job((400,), train=str(path), max_refused_share=0.039), tokenizer, tmp_path / "out")
    (refused,) = map(json.loads, (tmp_path / "out" / "refused.jsonl").read_text().splitlines())
    assert (refused["file"], refused["line"]) == (str(path), 10)
    assert summary(tmp_path / "out")["splits"]["train"]["refused"] == 1


def test_an_empty_phase_names_limits_and_counts(tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'phase 1 \(<= 150 tokens\)': 0, 'phase 2 \(<= 400 tokens\)': 16"):
        prepare(job((150, 400)), tokenizer, tmp_path)


def test_an_empty_split_and_a_missing_bucket_name_the_setting(tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(ValueError, match=r"the eval split is empty: 0 rows were read"):
        prepare(job(eval=str(tmp_path / "empty.jsonl")), tokenizer, tmp_path)
    with pytest.raises(ValueError, match=r"data\.generate_eval holds no length bucket"):
        prepare(job(generate_eval=()), tokenizer, tmp_path)


def test_phase_of() -> None:
    assert [phase_of(n, (256, 512)) for n in (1, 256, 257, 512, 513)] == [1, 1, 2, 2, None]


def test_stage_command(policy_folder: Path, tmp_path: Path) -> None:
    def stage(work: str, settings: PrepareJob) -> "subprocess.CompletedProcess[str]":
        (tmp_path / "job.json").write_text(settings.model_dump_json())
        command = [sys.executable, "-m", "qwenlong_core.data.prepare", "--job", str(tmp_path / "job.json")]
        command += ["--input", f"base={policy_folder}", "--work", str(tmp_path / work)]
        return subprocess.run(command, capture_output=True, text=True)

    done = stage("good", job())
    assert done.returncode == 0, done.stderr
    assert len(read_phase(tmp_path / "good" / "output" / "train.parquet", 2)) == 8
    failed = stage("bad", job(train="/nowhere/*.jsonl"))
    assert failed.returncode == 2
    assert "no file matches '/nowhere/*.jsonl'" in failed.stderr.splitlines()[-1]


def test_data_loads_without_torch() -> None:
    code = "import sys, qwenlong_core.data.prepare, qwenlong_core.data.sources.read; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_examples_read_back_equal(tmp_path: Path) -> None:
    from qwenlong_core.data.rows import write_examples

    rows = [
        Example(id="a", source="s", domain="logical", answer_type="choice", context="合同\n…", question="?",
                answers=("A",), choices=("x", "y"), metadata={"b": [1, {"c": None}]}),
        Example(id="b", source="s", domain="math", answer_type="number", context="c", question="?", answers=("1", "2"),
                num_tokens=5, solution="s", document_id="d"),
    ]  # fmt: skip
    write_examples(tmp_path / "rows.parquet", rows)
    assert read_examples(tmp_path / "rows.parquet") == rows


def test_the_size_of_batches_changes_nothing(tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = job((300, 400), 300, generate_train=BUCKETS["generate_train"], near_duplicates=0.9)
    prepare(settings, tokenizer, tmp_path / "whole")
    monkeypatch.setattr("qwenlong_core.data.lengths._BATCH_CHARACTERS", 2_000)
    prepare(settings, tokenizer, tmp_path / "batches")
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "batches" / path.name).read_bytes(), path.name


def test_rows_are_read_back_from_many_row_groups(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(job(), tokenizer, tmp_path / "whole")
    monkeypatch.setattr("qwenlong_core.data.rows._GROUP_ROWS", 3)
    prepare(job(), tokenizer, tmp_path / "groups")
    for name in ("sft", "train", "eval"):
        paths = [tmp_path / folder / f"{name}.parquet" for folder in ("whole", "groups")]
        assert pq.ParquetFile(paths[1]).num_row_groups > 1
        assert read_examples(paths[0]) == read_examples(paths[1])


def test_only_files_that_both_sides_name_are_split(tokenizer: Any, tmp_path: Path) -> None:
    both, only = tmp_path / "both.jsonl", tmp_path / "only.jsonl"
    write(both, [record(i) for i in range(30)])
    write(only, [record(i, id=f"only{i}") for i in range(100, 110)])
    prepare(job((400,), train=str(both), eval=(str(both), str(only))), tokenizer, tmp_path / "out")
    evaluation = [row.id for row in read_examples(tmp_path / "out" / "eval.parquet")]
    assert sum(name.startswith("only") for name in evaluation) == 10
    assert 10 < len(evaluation) < 30


def test_a_failed_preparation_leaves_the_refused_rows_alone(tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"id": "cut\n' * 20)
    with pytest.raises(
        ValueError, match=r"20 of 36 rows are unreadable.*and 19 more.*all are listed in .*refused\.jsonl"
    ):
        prepare(job((400,), train=str(path)), tokenizer, tmp_path / "out")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["refused.jsonl"]
    assert len((tmp_path / "out" / "refused.jsonl").read_text().splitlines()) == 20
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out", "t.jsonl"]


MEMORY = """
import re, sys
from pathlib import Path
from transformers import AutoTokenizer
from qwenlong_core.data import lengths, rows
from qwenlong_core.data.prepare import prepare
from qwenlong_core.jobs import PrepareJob
lengths._BATCH_CHARACTERS = rows._GROUP_CHARACTERS = 1_000_000  # so that even the smaller file is many batches
prepare(PrepareJob.model_validate_json(Path(sys.argv[1]).read_text()), AutoTokenizer.from_pretrained(sys.argv[2]),
        Path(sys.argv[3]), ("train",), every_phase=False)
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) // 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
def test_memory_does_not_grow_with_the_data(policy_folder: Path, tmp_path: Path) -> None:
    peaks = []
    for megabytes in (15, 45):
        path = tmp_path / f"{megabytes}.jsonl"
        write(path, [record(i, context=f"{i} " + "the quick brown fox " * 2_500) for i in range(20 * megabytes)])
        settings = job((60_000,), train=str(path), eval=())
        (tmp_path / "job.json").write_text(settings.model_dump_json())
        command = [sys.executable, "-c", MEMORY, str(tmp_path / "job.json"), str(policy_folder), str(tmp_path / "out")]
        peaks.append(int(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    assert peaks[1] - peaks[0] < 15, peaks
