"""``qwenlong eval`` from the console, on a tiny random model: resumable, keyed, honest at the door."""

import json
import os
import shutil
from pathlib import Path

import pytest
from endpoint_server import says, served
from stage_interpreters import with_our_libraries
from typer.testing import CliRunner

from qwenlong.flows.cli.main import app
from qwenlong_core.evaluation.results import read_evaluation
from qwenlong_core.evaluation.samples import read_samples

STATE = ("--set", "evaluation.bootstrap_resamples=200", "--set", "storage.uri=store")
SMALL = ("--set", "evaluation.max_prompt_tokens=300", "--set", "evaluation.max_completion_tokens=8", *STATE)


def call(*arguments):
    return CliRunner().invoke(app, ["eval", *map(str, arguments)])


def evaluated(*arguments, settings=SMALL):
    done = call(*arguments, *settings, "--json")
    assert done.exit_code == 0, done.output + done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A working folder with two small benchmarks and an imported tiny model."""
    from qwenlong_core.models import import_base
    from qwenlong_core.settings.model import ModelSettings

    root = tmp_path_factory.mktemp("eval")
    import_base(ModelSettings(name="tiny"), root / "policy")
    for name, domain in (("sums", "math"), ("names", "reading")):
        rows = [
            {
                "id": f"{name}-{i}",
                "domain": domain,
                "context": f"Note {i}: the value is {i}.",
                "question": f"Value {i}?",
                "answers": [str(i)],
                "document_id": f"{name}-d{i // 2}",
            }
            for i in range(4)
        ]
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    before = Path.cwd()
    os.chdir(root)
    yield root
    os.chdir(before)


DATA = ("--model", "policy", "--data", "sums=sums.jsonl", "--data", "names=names.jsonl")


@pytest.fixture(scope="module")
def first(place):
    return evaluated(*DATA, "--samples", 2)


def test_the_interpreter_of_the_stages_gives_the_same_answers(place, first):
    python = with_our_libraries(place / "stages")
    there = evaluated(*DATA, "--samples", 2, "--out", "there", "--set", f"launch.python={python}")
    assert there["scores"] == first["scores"]
    here, found = (read_samples(folder / "samples.jsonl") for folder in (Path(first["folder"]), place / "there"))
    assert [(s.key, s.completion, s.score) for s in found] == [(s.key, s.completion, s.score) for s in here]


def test_every_benchmark_has_its_own_scores(place, first):
    folder = Path(first["folder"])
    assert {path.name for path in folder.iterdir()} >= {
        "plan.json",
        "samples.jsonl",
        "scores.json",
        "eval.parquet",
        "report.html",
    }
    assert list(first["scores"]["sources"]) == ["names", "sums"]
    for name, metric in (("sums", "numeric_accuracy"), ("names", "rouge_l")):
        part = first["scores"]["sources"][name]
        assert (part["items"], part["documents"], part["samples"]) == (4, 2, 8)
        assert metric in part["metrics"] and sum(part["outcomes"].values()) == 8
        assert part["accuracy"]["low"] <= part["accuracy"]["mean"] <= part["accuracy"]["high"]
        assert set(part["pass_at_k"]) == {"1", "2"}
    assert first["plan"]["samples"] == 2 and first["plan"]["protocol"]["temperature"] == 0.7
    report = (folder / "report.html").read_text()
    assert "names" in report and "sums" in report


def test_finished_it_is_a_no_op_and_killed_it_goes_on(place, first):
    folder = Path(first["folder"])
    log = folder / "samples.jsonl"
    before = log.read_bytes(), log.stat().st_mtime_ns
    assert evaluated(*DATA, "--samples", 2) == first
    assert (log.read_bytes(), log.stat().st_mtime_ns) == before
    log.write_bytes(before[0][: len(before[0]) // 2])
    (folder / "scores.json").unlink()
    again = evaluated(*DATA, "--samples", 2)
    assert again["scores"] == first["scores"] and again["folder"] == first["folder"]
    assert len(read_samples(log)) == 16


def test_what_decides_the_answers_decides_the_folder(place, first):
    other = evaluated(*DATA, "--samples", 2, "--set", "seed=8")
    assert other["folder"] != first["folder"]
    fewer = evaluated(*DATA, "--limit", 2)
    assert fewer["folder"] not in (first["folder"], other["folder"])
    assert {name: part["items"] for name, part in fewer["scores"]["sources"].items()} == {"names": 2, "sums": 2}


def test_the_probe_says_what_the_documents_add(place, first):
    done = call(*DATA, "--samples", 2, "--document", "none", *SMALL)
    assert done.exit_code == 0, done.output
    words = " ".join(done.stdout.split())
    assert "Asked without documents:" in words and "the documents add" in words


def test_rescoring_needs_no_model_and_leaves_the_log(place, first):
    folder, moved = Path(first["folder"]), Path("moved")
    shutil.copytree(folder, moved)
    Path("policy").rename("gone")
    try:
        again = evaluated("--rescore", moved, "--out", "rescored")
    finally:
        Path("gone").rename("policy")
    assert again["scores"] == first["scores"]
    assert read_evaluation(Path("rescored")).samples == read_evaluation(moved).samples
    assert (moved / "samples.jsonl").read_bytes() == (folder / "samples.jsonl").read_bytes()


def test_rescoring_does_not_write_over_the_log_of_another_evaluation(place, first):
    other = Path(evaluated(*DATA, "--limit", 2)["folder"])
    log = (other / "samples.jsonl").read_bytes()
    done = call("--rescore", first["folder"], "--out", other, *SMALL)
    assert done.exit_code == 2 and "holds another evaluation, whose log would be lost" in " ".join(done.stderr.split())
    assert (other / "samples.jsonl").read_bytes() == log
    stricter = ("--set", "rewards.number_tolerance=0.001")
    twice = [evaluated("--rescore", first["folder"], "--out", "stricter", *stricter) for _ in range(2)]
    assert twice[0] == twice[1], "its own result is made anew"


def test_a_server_answers_in_the_models_place(place):
    with served(lambda n, request: says("Therefore, the answer is 3.")) as server:
        found = evaluated(*DATA, "--server", server.url, "--server-model", "served")
        assert {request["model"] for request in server.requests} == {"served"}
        assert len(server.requests) == 8 + 2, "the items, and the two case studies"
    assert found["plan"]["protocol"]["engine"] == "openai"
    assert found["scores"]["sources"]["sums"]["outcomes"]["right"] == 1


def test_without_a_profile_the_paper_s_protocol_is_bounded_by_the_context_and_says_so(place):
    with served(lambda n, request: says("Therefore, the answer is 3.")) as server:
        done = call(*DATA, "--limit", 1, "--server", server.url, "--set", "storage.uri=store", "--json")
        assert done.exit_code == 0, done.output
        assert {(r["max_tokens"], r["temperature"], r["top_p"]) for r in server.requests} == {(2048, 0.7, 0.95)}
    assert "the context of policy is 8,192 tokens: prompts up to 6,144 and 2,048 new tokens" in done.stderr


@pytest.mark.parametrize(
    ("setting", "limits"),
    [
        ("max_unscored_share=0.5", (6_144, 2_048)),
        ("max_completion_tokens=64", (8_128, 64)),
        ("max_prompt_tokens=300", (300, 7_892)),
    ],
)
def test_another_setting_or_one_limit_leaves_the_rest_bounded_by_the_context(place, setting, limits):
    """A ceiling on unscored answers has "max" in its name as well."""
    with served(lambda n, request: says("Therefore, the answer is 3.")) as server:
        found = evaluated(*DATA, "--limit", 1, "--server", server.url, "--set", f"evaluation.{setting}", settings=STATE)
    protocol = found["plan"]["protocol"]
    assert (protocol["max_prompt_tokens"], protocol["max_completion_tokens"]) == limits


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "give --model REF"),
        (("--model", "policy", "--rescore", "x"), "--rescore asks no model, so --model would do nothing"),
        (("--rescore", "x", "--samples", "2", "--limit", "3"), "so --samples, --limit would do nothing"),
        (("--rescore", "x", "--server", "http://127.0.0.1:9/v1"), "--server would do nothing"),
        (
            ("--model", "policy", "--engine", "vllm", "--server", "http://127.0.0.1:9/v1"),
            "--server replaces the engine, so --engine vllm would do nothing",
        ),
        (("--model", "no/such/folder"), "names no model"),
        (("--model", "policy", "--benchmarks", "hotpot"), "unknown benchmark 'hotpot': take one of docmath"),
        (("--model", "policy", "--engine", "openai"), "evaluation.engine='openai' and evaluation.server go together"),
        (("--model", "policy", "--engine", "magic"), "evaluation.engine"),
        (("--rescore", "nowhere"), "is no folder and no artifact evaluation/DIGEST"),
        (("--rescore", "policy"), "holds no scores.json, so no finished evaluation"),
        (
            ("--model", "policy", *SMALL, "--set", "evaluation.max_completion_tokens=9000"),
            "is over the model's context of 8,192",
        ),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(place, arguments, said):
    done = call(*arguments)
    assert done.exit_code == 2 and said in " ".join(done.stderr.split()), done.stderr
