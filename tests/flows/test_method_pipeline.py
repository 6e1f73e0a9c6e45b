"""The pipeline with QwenLong-L1.5's method and the bonus for evidence: killed in the middle, it ends with the same
weights as one that was left alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_pipeline import how, kill_when, run

METHOD = {
    "grpo.on_policy": "true",
    "grpo.mini_batch_size": "4",
    "grpo.balance_tasks": "true",
    "grpo.scale_rewards": "task",
    "grpo.aepo.high": "0.2",
    "grpo.aepo.low": "0.1",
    "rewards.evidence.of": "paragraphs",
    "data.number_paragraphs": "true",
}
ARGUMENTS = [part for name, value in METHOD.items() for part in ("--set", f"{name}={value}")]


def folders(result: dict[str, Any]) -> dict[str, Path]:
    return {row["stage"]: Path(row["uri"].removeprefix("file://")) for row in result["stages"]}


def weights(result: dict[str, Any]) -> dict[str, str]:
    """Digest of the weights of every model, by stage."""
    manifests = {name: json.loads((folder / "manifest.json").read_text()) for name, folder in folders(result).items()}
    files = {name: manifest["files"].get("model.safetensors") for name, manifest in manifests.items()}
    return {name: entry["sha256"] for name, entry in files.items() if entry}


def lines(result: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """A file of the three phases, line by line."""
    of_phases = [folders(result)[f"grpo-{index}"] / name for index in (1, 2, 3)]
    return [json.loads(line) for file in of_phases for line in file.read_text().splitlines()]


def steps(result: dict[str, Any]) -> list[dict[str, Any]]:
    return lines(result, "metrics.jsonl")


def reasons(result: dict[str, Any]) -> list[str]:
    """Why the sampled completions have their scores."""
    return [row["score"]["reason"] for row in lines(result, "samples.jsonl")]


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_killed_and_resumed_to_the_bit(tmp_path: Path) -> None:
    alone, disturbed = tmp_path / "alone", tmp_path / "disturbed"
    for home in (alone, disturbed):
        home.mkdir()
    expected = run(alone, *ARGUMENTS)
    for pattern in (r"grpo-1 step 1/2", r"grpo-2 step 2/3"):
        kill_when(disturbed, pattern, *ARGUMENTS)
    found = run(disturbed, *ARGUMENTS)

    assert how(found)["grpo-1"] == "cached" and how(found)["grpo-2"] == "ran"
    assert weights(found) == weights(expected)
    assert {"sft", "grpo-1", "grpo-2", "grpo-3"} <= set(weights(found))

    rows = steps(expected)
    assert len(rows) == 7
    assert any(row["groups_kept"] for row in rows)
    assert any(row["negatives_masked_share"] > 0 for row in rows)
    kept = [row.get(f"groups_kept_{name}", 0) for row in rows for name in ("math", "logical", "multihop")]
    assert max(kept) <= 2, "a batch of four has at most two of a task"
    # The tiny model cites wrong paragraphs, which earns nothing; what it cited was read where it was right.
    assert any("; evidence " in reason for reason in reasons(expected))
    same = ("groups_kept", "negatives_masked_share", "entropy_batch", "grad_norm")
    assert [[row[name] for name in same] for row in rows] == [[row[name] for name in same] for row in steps(found)]
    assert reasons(found) == reasons(expected)
