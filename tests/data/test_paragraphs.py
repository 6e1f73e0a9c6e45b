"""Numbered paragraphs: every one has its number, and the evidence is where it was."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from qwenlong_core.data.paragraphs import numbered
from qwenlong_core.data.prompts import as_asked, user_message
from qwenlong_core.data.synthesis.generate import generate
from qwenlong_core.data.wordings import frame
from qwenlong_core.records import Example
from qwenlong_core.rewards.evidence import chain_entities
from qwenlong_core.rewards.hybrid import score_text

PLAIN = Example(
    id="p", source="test", domain="math", answer_type="number", context="  Sales\n\nwere 5.\n \nCosts were 3.\n",
    question="Sales?", answers=("5",), solution="<think>5</think>\n\nTherefore, the answer is 5.",
    metadata={"evidence": [[9, 15]]},
)  # fmt: skip


def test_by_hand() -> None:
    row = numbered(PLAIN)
    assert row.context == "  [1] Sales\n\n[2] were 5.\n \n[3] Costs were 3.\n"
    assert row.metadata == {"evidence": [[17, 23]], "paragraphs": {"count": 3, "evidence": [2]}}
    assert row.context[17:23] == PLAIN.context[9:15]
    assert row.solution == "<think>5</think>\n\nEvidence: [2].\n\nTherefore, the answer is 5."
    assert numbered(row) == row
    aloud = numbered(replace(PLAIN, solution="It is 5.\n\nTherefore, the answer is 5."))
    assert aloud.solution == "It is 5.\n\nEvidence: [2].\n\nTherefore, the answer is 5."
    bare = numbered(replace(PLAIN, solution="Therefore, the answer is 5."))
    assert bare.solution == "Evidence: [2].\n\nTherefore, the answer is 5."


def test_what_is_not_known_is_not_said() -> None:
    row = numbered(replace(PLAIN, metadata={}, solution="The answer is 5."))
    assert row.metadata == {"paragraphs": {"count": 3}}
    assert row.solution == "The answer is 5."
    empty = numbered(replace(PLAIN, context="", metadata={}))
    assert empty.metadata == {"paragraphs": {"count": 1}}


def test_rows_in_words_of_their_own_stay() -> None:
    own = replace(PLAIN, metadata=frame("Read: ", "?"))
    assert numbered(own) == own


def test_the_prompt_asks_for_the_numbers_only_where_there_are_some() -> None:
    assert as_asked(PLAIN, "brackets", False) == PLAIN
    asked = user_message(as_asked(PLAIN, "brackets", True))
    assert 'Sales?\n\nFirst name the paragraphs that the answer rests on: "Evidence: [' in asked
    assert "Evidence" not in user_message(PLAIN)


def test_generated_documents_name_their_evidence_and_chain(tokenizer: Any) -> None:
    for seed, domain in enumerate(("math", "logical", "multihop", "multihop")):
        plain = generate(tokenizer, domain=domain, tokens=700, seed=seed).example  # type: ignore[arg-type]
        row = numbered(plain)
        paragraphs = re.split(r"\n\n(?=\[\d+\] )", row.context)
        assert len(paragraphs) == row.metadata["paragraphs"]["count"]
        assert [re.match(r"\[(\d+)\] ", text)[1] for text in paragraphs] == [  # type: ignore[index]
            str(number + 1) for number in range(len(paragraphs))
        ]
        spans = zip(plain.metadata["evidence"], row.metadata["evidence"], strict=True)
        assert all(plain.context[a:b] == row.context[c:d].partition("] ")[2] or plain.context[a:b] == row.context[c:d]
                   for (a, b), (c, d) in spans)  # fmt: skip
        for (start, end), number in zip(plain.metadata["evidence"], row.metadata["paragraphs"]["evidence"]):
            assert plain.context[start:end] in paragraphs[number - 1]
        assert score_text(row, row.solution or "", 0.0015).score.value == 1.0
    bridge = generate(tokenizer, domain="multihop", kind="bridge_3", tokens=400, seed=1).example
    person, town = chain_entities(bridge)
    assert f"by {person}." in bridge.context
    assert f"{person} was born in {town}." in bridge.context
