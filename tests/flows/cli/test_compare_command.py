"""``qwenlong compare`` on a store with two trained models and their evaluations."""

from __future__ import annotations

import json
from html import unescape
from pathlib import Path

import pytest
from typer.testing import CliRunner

from qwenlong.flows.cli.main import app
from qwenlong_core.data.rows import write_examples
from qwenlong_core.records import Example
from qwenlong_core.store.artifacts import ArtifactRef, describe, now
from qwenlong_core.store.local import LocalStore
from qwenlong_core.store.protocol import StageRecord


def row(item: str) -> Example:
    return Example(
        id=item,
        source="made",
        domain="math",
        answer_type="number",
        question=f"What is {item}?",
        answers=("7",),
        context=f"The document of {item}: it is 7.",
        document_id=item,
    )


class Filled:
    """A store with a base model and two models trained from it."""

    def __init__(self, folder: Path, write_evaluation, make_evaluation) -> None:
        self.folder, self.store = folder, LocalStore(folder / "store")
        self.write, self.make = write_evaluation, make_evaluation
        (folder / "data").mkdir()
        write_examples(folder / "data" / "eval.parquet", [row(f"q{i:04d}") for i in range(40)])
        self.data = self.publish("data", "data", {})
        self.base = self.publish("base", "model", {"name": "tiny"})
        self.a = self.model("a", {"sft": {"learning_rate": 1e-5, "epochs": 1}, "seed": 1})
        self.b = self.model("b", {"sft": {"learning_rate": 3e-5, "epochs": 1}, "seed": 1}, code="d" * 64)

    def publish(self, name: str, kind: str, settings: dict, code: str = "c" * 64, **parents: str) -> ArtifactRef:
        path = self.folder / name
        if not path.exists():
            path.mkdir()
            (path / "content.json").write_text(json.dumps(name))
        manifest = describe(path, kind, parents=parents, settings_digest="s", code_digest=code)
        ref = self.store.publish(path, manifest)
        stage = {"model": "base" if name == "base" else "sft", "data": "prepare"}.get(kind, "evaluate")
        self.store.record(
            StageRecord(
                stage=stage, fingerprint=name * 8, ref=ref, profile="smoke", settings=settings, created_at=now()
            )
        )
        return ref

    def model(self, name: str, settings: dict, code: str = "c" * 64) -> ArtifactRef:
        return self.publish(name, "model", settings, code, model=self.base.sha256, data=self.data.sha256)

    def evaluated(self, model: ArtifactRef, name: str, values: list[int | None]) -> ArtifactRef:
        self.write(self.make(values), self.folder / name)
        return self.publish(name, "evaluation", {}, model=model.sha256, data=self.data.sha256)

    def run(self, *words: str):
        options = ["--set", f"storage.uri={self.store.root}", "--profile", "smoke"]
        return CliRunner().invoke(app, ["compare", *words, *options])


@pytest.fixture
def filled(tmp_path, monkeypatch, write_evaluation, make_evaluation) -> Filled:
    monkeypatch.chdir(tmp_path)
    return Filled(tmp_path, write_evaluation, make_evaluation)


def test_scores_flips_and_what_differs(filled: Filled) -> None:
    filled.evaluated(filled.a, "of-a", [0] * 30 + [1] * 10)
    second = filled.evaluated(filled.b, "of-b", [1] * 20 + [0] * 10 + [1] * 9 + [0])
    done = filled.run(f"model/{filled.a.short}", f"evaluation/{second.short}", "--show", "2")
    assert done.exit_code == 0, done.stderr
    for words in ("B is better.", "B gained 20 items and lost 1.", "q0000", "q0001", "Lost by B", "q0039"):
        assert words in done.stdout, words
    assert "q0002" not in done.stdout
    found = json.loads(filled.run(filled.a.short, filled.b.short, "--json").stdout)
    assert (found["verdict"], len(found["flips"]), found["left_out"]) == ("B is better", 21, 0)
    overall = found["scores"][0]
    assert (overall["items"], overall["a"], overall["b"], overall["verdict"]) == (40, 0.25, 0.725, "B is better")
    assert 0 < overall["low"] < overall["gain"] < overall["high"] and overall["gain"] == pytest.approx(0.475)
    assert [change for change in found["changes"] if change["stage"] == "sft"] == [
        {"stage": "sft", "what": "sft.learning_rate", "a": 1e-5, "b": 3e-5},
        {"stage": "sft", "what": "code", "a": "c" * 12, "b": "d" * 12},
    ]
    assert not [change for change in found["changes"] if change["stage"] in ("prepare", "base", "evaluate")]


def test_a_page_shows_both_with_their_answers(filled: Filled) -> None:
    filled.evaluated(filled.a, "of-a", [0, 1, 1, 0])
    filled.evaluated(filled.b, "of-b", [1, 1, 0, 0])
    done = filled.run(filled.a.short, filled.b.short, "--html", "beside.html")
    assert done.exit_code == 0, done.output
    text = Path("beside.html").read_text()
    assert text.count("<script") == 1 and "script-src 'sha256-" in unescape(text), "the page's own script alone"
    assert "INCONCLUSIVE" in done.stdout
    assert f"B is {filled.b.short}" in text and "gained" in text and "What is q0000?" in text


def test_what_was_never_evaluated_alike_is_refused(filled: Filled) -> None:
    filled.evaluated(filled.a, "of-a", [0, 1])
    alone = filled.run(filled.a.short, filled.b.short)
    assert alone.exit_code == 2 and "has no evaluation in the store" in alone.stderr
    filled.evaluated(filled.b, "of-b", [0, 1, 1])
    other = filled.run(filled.a.short, filled.b.short)
    assert other.exit_code == 2 and "never evaluated on the same items" in other.stderr
    assert filled.run("nothing", filled.b.short).exit_code == 2
