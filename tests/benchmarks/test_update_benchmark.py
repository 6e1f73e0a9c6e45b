"""The methods in ``benchmarks/update.py`` compute the same update; its figures and those of ``growth.py`` are right."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from transformers import LlamaConfig

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from documents import bound as bound_of_questions
from growth import FIELDS, exponent
from update import bound, compare
from update_variants import measure, parser

LAYER = LlamaConfig(
    hidden_size=2,
    intermediate_size=1,
    num_hidden_layers=1,
    num_attention_heads=1,
    num_key_value_heads=1,
    vocab_size=1,
    head_dim=2,
)


@pytest.mark.parametrize("extras", [[], ["--ragged", "--checkpointing"]], ids=["equal", "ragged-checkpointed"])
def test_every_method_gives_the_same_loss_and_gradient(policy: Path, extras: list[str]) -> None:
    shape = ["--model", str(policy), "--prompt", "24", "--completion", "8", "--group", "4", *extras]
    runs = [measure(parser().parse_args([*shape, "--variant", name])) for name in ("ours", "loop", "torch-loop", "trl")]
    for run in runs:
        assert run["loss"] == pytest.approx(runs[-1]["loss"], rel=1e-4, abs=1e-6)
        assert run["gradient_norm"] == pytest.approx(runs[-1]["gradient_norm"], rel=1e-4)
        assert run["gradient_norm"] > 0


def test_questions_on_one_document_are_the_same_update_together_and_group_by_group(policy: Path) -> None:
    shape = ["--model", str(policy), "--prompt", "160", "--completion", "8", "--group", "2", "--questions", "3"]
    together, one_by_one = (measure(parser().parse_args([*shape, "--variant", v])) for v in ("ours", "groups"))
    assert one_by_one["loss"] == pytest.approx(together["loss"], rel=1e-4, abs=1e-6)
    assert one_by_one["gradient_norm"] == pytest.approx(together["gradient_norm"], rel=1e-5)


def test_prefix_grouper_computes_it_too(policy: Path) -> None:
    pytest.importorskip("prefix_grouper", reason="pip install prefix-grouper")
    shape = ["--model", str(policy), "--prompt", "24", "--completion", "8", "--group", "4", "--ragged"]
    ours, theirs = (measure(parser().parse_args([*shape, "--variant", v])) for v in ("ours", "prefix-grouper"))
    assert theirs["loss"] == pytest.approx(ours["loss"], rel=1e-4, abs=1e-6)
    assert theirs["gradient_norm"] == pytest.approx(ours["gradient_norm"], rel=1e-4)


def test_the_exponents_of_known_curves() -> None:
    points = [{"prompt": p, "seconds": 3 * p**1.5, "grown_mb": 40.0 * p} for p in (512, 1024, 4096)]
    assert [exponent(points, "prompt", field) for field in FIELDS] == pytest.approx([1.5, 1.0])


def test_the_bound_and_the_share_by_hand() -> None:
    """One layer of width 2, one head, one intermediate unit and a vocabulary of one, P=3, two completions of 1."""
    weights = 4 * 2 * 2 + 3 * 2 * 1
    apart = 2 * 8 * weights * 3 + 2 * (10 + 10) * 2 * 7 + 2 * 2 * 2 * 4
    shared = 2 * 4 * weights * 3 + 2 * (3 + 2 * (2 + 1)) * 2 * 7 + 2 * 2 * 2 * 4
    assert bound(LAYER, 3, [1, 1], checkpointing=False) == pytest.approx(apart / shared)
    shape = {"prompt": 3, "completion": 1, "group": 2, "checkpointing": False, "ragged": False}
    rows = [shape | {"variant": name, "seconds": s, "grown_mb": s} for name, s in (("ours", 2.0), ("loop", 3.0))]
    compare(rows, LAYER)
    assert rows[0]["share"] == pytest.approx(1.5 / (apart / shared))
    assert rows[1]["times_ours"] == 1.5
    assert rows[0]["grown_of_loop"] == pytest.approx(2 / 3)


def test_the_bound_of_questions_by_hand() -> None:
    """The layer above, two questions (64 tokens) on a document of one token, one completion of one token each."""
    weights, head = 4 * 2 * 2 + 3 * 2 * 1, 2 * 2 * 2 * 4
    apart = 2 * (2 * 65) * weights * 3 + 2 * (2 * 65 * 66 // 2) * 2 * 7 + head
    shared = 2 * (1 + 2 * 64) * weights * 3 + 2 * (1 + 2 * (64 * 65 // 2 + 64)) * 2 * 7 + head
    shape = {"prompt": 65, "completion": 1, "group": 1, "questions": 2, "checkpointing": False}
    assert bound_of_questions(LAYER, shape) == pytest.approx(apart / shared)
