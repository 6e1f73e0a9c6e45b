"""What a right answer earns for showing its evidence, against values worked out by hand and a table of tricks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenlong_core.data.paragraphs import numbered
from qwenlong_core.records import Completion, Example, Score
from qwenlong_core.rewards.bonus import with_bonus
from qwenlong_core.rewards.evidence import f_beta, shown
from qwenlong_core.settings.rewards import EvidenceBonus

PARAGRAPHS = EvidenceBonus(of="paragraphs", beta=1)
ENTITIES = EvidenceBonus(of="entities")
FILMS = ("Golden Valley", "Quiet Harbour", "Broken Lantern", "Silver Orchard", "Distant Bells")
PEOPLE = ("Zoe Winter", "Carl Hoffman", "Elena Brandt", "Frank Irving", "Walter Ivers")
TOWNS = ("Isterstead", "Emholm", "Marfield", "Elgrad", "Kalport")


def example() -> Example:
    """Twelve paragraphs. Evidence: 3 (the film of Carl Hoffman), 8 (his birth) and 11 (where Emholm lies)."""
    texts = [f"The {film} is a film by {who}." for film, who in zip(FILMS, PEOPLE)]
    texts = [texts[0], texts[2], texts[1], *texts[3:], "It rained.", "Sources agree."]
    texts += [f"{who} was born in {town}." for who, town in zip(("Carl Hoffman", "Zoe Winter"), ("Emholm", "Marfield"))]
    texts += ["Elgrad and Kalport lie by the sea.", "Emholm is a town in Norland.", "Isterstead is a town in Sudland."]
    context = "\n\n".join(texts)
    proof = [texts[2], texts[7], texts[10]]
    row = Example(
        id="e", source="test", domain="multihop", answer_type="span", context=context,
        question="In which country was the director of The Quiet Harbour born?", answers=("Norland",),
        metadata={"evidence": [[context.index(text), context.index(text) + len(text)] for text in proof],
                  "entities": ["Quiet Harbour", "Carl Hoffman", "Emholm", "Norland"]},
    )  # fmt: skip
    return numbered(row)


ROW = example()
ALL = ", ".join(f"[{n}]" for n in range(1, 13))
SAID = "\n\nTherefore, the answer is Norland."
# (what precedes the answer, F1 of 3, 8, 11): precision p and recall r give 2pr / (p + r).
CITED: list[tuple[str, float]] = [
    ("Evidence: [3], [8], [11].", 1.0),
    ("Evidence: [11], [3], [8]", 1.0),
    ("evidence: 3, 8 and 11", 1.0),
    ("**Evidence:** [3, 8, 11]", 1.0),
    ("Evidence: paragraphs [3], [8] and [11].", 1.0),
    ("Evidence: [3], [8].", 0.8),
    ("Evidence: [3].", 0.5),
    ("Evidence: [3], [8], [11], [1].", 6 / 7),
    ("Evidence: [3], [8], [11], [1], [2], [4].", 2 / 3),
    ("Evidence: [3], [1].", 0.4),
    ("Evidence: [3], [3], [3].", 0.5),
    ("<think>Perhaps [1] or [2].\nEvidence: [1].</think>Evidence: [3], [8], [11].", 1.0),
    ("Evidence: [3].\nEvidence: [8], [11].", 1.0),
    # tricks: nothing
    ("", 0.0),
    (f"Evidence: {ALL}.", 0.0),
    (f"Evidence: {ALL.replace('[5], ', '')}.", 0.0),
    (f"Evidence: {ALL.replace('[3], ', '')}.", 0.0),
    ("Evidence: [1], [2], [3], [4], [5], [6], [7].", 0.0),
    ("Evidence: [3], [8], [11], [1], [2], [4], [5].", 0.0),
    ("Evidence: [3], [1], [2].", 0.0),
    ("Evidence: [1], [2], [4].", 0.0),
    ("Evidence: [0], [13], [99].", 0.0),
    ("Evidence: [3], [13], [14].", 0.0),
    ("Evidence: [1]-[12].", 0.0),
    ("Evidence: [1] to [12].", 0.0),
    ("Evidence: [3]...[11].", 0.0),
    ("Evidence: 3-11", 0.0),
    ("Evidence: [3] through [11]", 0.0),
    ("Evidence: all of [3], [8], [11] and every other paragraph.", 0.0),
    ("Evidence: all paragraphs.", 0.0),
    ("Evidence: [3]. [1]. [2]. [4].", 0.0),
    ("Evidence: [3]; [1]; [2]; [4]", 0.0),
    ("Evidence: [3]. And also [1], [2].", 0.0),
    ("Evidence: [3]. Also (1), (2).", 0.0),
    ("Evidence: [3], [8], [11].\nEvidence: [1], [2], [4], [5].", 0.0),
    (f"Evidence: {ALL}.\nEvidence: [3], [8], [11].", 0.0),
    (f"Evidence: [3], [8], [11].\nEvidence: {ALL}.", 0.0),
    ("Evidence: [3].\nEvidence: none of the rest.", 0.0),
    ("Evidence: [insert paragraph numbers here].", 0.0),
    ("Evidence: [3.8].", 0.0),
    ("Evidence: [³], [⁸].", 0.0),
    ("Evidence: [３], [８], [１１].", 0.0),
    ("Evidence: three, eight, eleven.", 0.0),
    ("Evidence: III, VIII, XI.", 0.0),
    ("Evidence: [-3].", 0.0),
    ("Evidence: [3|1|2|4].", 0.0),
    ("Evidence: [3/8/11].", 0.0),
    ("Evidence: [3000000008].", 0.0),
    ("Evidence: [38], [11].", 0.4),
    ("Evidence: [3811].", 0.0),
    ("Evidence:", 0.0),
    ("Evidence: .", 0.0),
    ("Evidence: [].", 0.0),
    ("The evidence is in [3], [8], [11].", 0.0),
    ("Proof: [3], [8], [11].", 0.0),
    ("<think>Evidence: [3], [8], [11].</think>", 0.0),
    ("Evidence: The Quiet Harbour is a film by Carl Hoffman.", 0.0),
    ("Evidence: " + "[3], " * 1_000 + "[8]", 0.0),
]
# (what precedes the answer, recall of Carl Hoffman and Emholm)
NAMED: list[tuple[str, float]] = [
    ("Carl Hoffman made it, and he was born in Emholm.", 1.0),
    ("Its director is Carl Hoffman.", 0.5),
    ("He was born in Emholm.", 0.5),
    ("Carl Hoffman, unlike Zoe Winter, was born in Emholm.", 1.0),
    ("The Quiet Harbour is by Carl Hoffman of Emholm, in Norland.", 1.0),
    ("<think>Zoe Winter? Frank Irving? Elena Brandt?</think>Carl Hoffman was born in Emholm.", 1.0),
    # tricks: nothing
    ("", 0.0),
    (", ".join(PEOPLE), 0.0),
    (", ".join((*PEOPLE, *TOWNS)), 0.0),
    (" ".join((*PEOPLE, *TOWNS)), 0.0),
    ("; ".join((*FILMS, *PEOPLE, *TOWNS)), 0.0),
    ("".join((*PEOPLE, *TOWNS)), 0.0),
    ("_".join((*PEOPLE, *TOWNS)), 0.0),
    ("\n- ".join(("Names:", *PEOPLE, *TOWNS)), 0.0),
    (", ".join(TOWNS), 0.0),
    (", ".join((*PEOPLE, *TOWNS)).lower(), 0.0),
    (", ".join((*PEOPLE, *TOWNS)).upper(), 0.0),
    (ROW.context, 0.0),
    (ROW.context.replace("\n", " "), 0.0),
    (", ".join(reversed((*PEOPLE, *TOWNS))), 0.0),
    ("Carl Hoffman, Emholm, zoe winter, elena brandt, frank irving", 0.0),
    ("Emholm or Marfield or Elgrad or Kalport.", 0.0),
    ("Carl, Hoffman.", 0.0),
    ("Hoffman was born there.", 0.0),
    ("Carl Hoffmann was born in Emholmen.", 0.0),
    ("carl hoffman was born in emholm.", 0.0),
    ("The Quiet Harbour, Norland.", 0.0),
    ("<think>Carl Hoffman was born in Emholm.</think>", 0.0),
    ("Carl Hoffman 1 Zoe Winter 2 Elena Brandt 3 Frank Irving", 0.0),
    ("Carl Hoffman|Zoe Winter|Elena Brandt|Emholm|Marfield|Elgrad", 0.0),
    ("Carl Hoffman\u200bZoe Winter\u200bElena Brandt\u200bFrank Irving", 0.0),
]


def test_the_tables_of_tricks_are_long_enough() -> None:
    assert sum(share == 0 for _, share in CITED + NAMED) >= 60


@pytest.mark.parametrize(("text", "share"), CITED)
def test_citations(text: str, share: float) -> None:
    found = shown(ROW, text + SAID, PARAGRAPHS)
    assert found is not None
    assert found.share == pytest.approx(share), found.reason


@pytest.mark.parametrize(("text", "share"), NAMED)
def test_names_of_the_chain(text: str, share: float) -> None:
    found = shown(ROW, text + SAID, ENTITIES)
    assert found is not None
    assert found.share == pytest.approx(share), found.reason


def test_f_beta_by_hand() -> None:
    # precision 2/3, recall 2/4: F1 = 4/7, F2 = 5 * (1/3) / (4 * 2/3 + 1/2) = 10/19
    assert f_beta(2, 3, 4, 1) == pytest.approx(4 / 7)
    assert f_beta(2, 3, 4, 2) == pytest.approx(10 / 19)
    assert f_beta(0, 0, 4, 2) == f_beta(0, 3, 4, 2) == 0.0


def test_a_row_without_known_evidence_has_no_share() -> None:
    bare = replace(ROW, metadata={})
    assert shown(bare, "Evidence: [3]." + SAID, PARAGRAPHS) is None
    assert shown(bare, "Carl Hoffman." + SAID, ENTITIES) is None
    # So small that all but one of the paragraphs would be half right: 3 of 7.
    small = replace(ROW, metadata={"paragraphs": {"count": 7, "evidence": [3, 5, 6]}})
    assert shown(small, "Evidence: [3], [5], [6]." + SAID, PARAGRAPHS) is None


def group(*rows: tuple[str, Score]) -> list[Score]:
    completions = [Completion(text=text + SAID, token_ids=(1,), finish_reason="stop") for text, _ in rows]
    return with_bonus([ROW] * len(rows), completions, [score for _, score in rows], PARAGRAPHS, len(rows))


RIGHT, WRONG = Score(value=1.0, rule=1.0, reason="equals gold"), Score(value=-0.5, rule=0.0, length_penalty=-0.5)
UNSCORED = Score(value=None, status="unscored", reason="the judge gave no verdict")


def test_only_right_answers_earn_it_and_the_best_of_the_group_earns_all() -> None:
    judged = Score(value=0.75, rule=0.0, judge=1.0, length_penalty=-0.25)
    found = group(("Evidence: [3].", RIGHT), ("Evidence: [3], [8].", judged), ("Evidence: [3], [8], [11].", WRONG),
                  ("", RIGHT), ("Evidence: [3], [8], [11].", UNSCORED))  # fmt: skip
    assert [score.bonus for score in found] == pytest.approx([0.3 * 0.5 / 0.8, 0.3, 0, 0, 0])
    assert found[0].value == pytest.approx(1 + 0.3 * 0.5 / 0.8)
    assert found[1].value == pytest.approx(0.75 + 0.3)
    assert found[2:5:2] == [WRONG, UNSCORED]
    assert found[0].reason == "equals gold; evidence 0.50: 1 of 3 paragraphs, 0 others"
    assert [score.accuracy for score in found] == [1, 1, 0, 1, None]


def test_groups_are_measured_apart() -> None:
    completions = [
        Completion(text=text + SAID, token_ids=(1,), finish_reason="stop") for text in ("Evidence: [3].", "", "", "")
    ]
    found = with_bonus([ROW] * 4, completions, [RIGHT] * 4, PARAGRAPHS, 2)
    assert [score.bonus for score in found] == [0.3, 0, 0, 0]


@given(st.sets(st.integers(1, 12)), st.sampled_from([0.5, 1.0, 2.0]))
def test_more_that_is_right_and_less_that_is_wrong_never_earn_less(cited: set[int], beta: float) -> None:
    bonus, known = EvidenceBonus(of="paragraphs", beta=beta), {3, 8, 11}

    def share(numbers: set[int]) -> float:
        said = f"Evidence: {', '.join(f'[{n}]' for n in sorted(numbers))}." if numbers else ""
        found = shown(ROW, said + SAID, bonus)
        assert found is not None
        return found.share

    here = share(cited)
    assert 0 <= here <= 1
    assert (here == 1) == (cited == known)
    assert here == 0 or len(cited & known) >= len(cited - known)
    assert all(share(cited | {n}) >= here for n in known)
    assert all(share(cited - {n}) >= here for n in cited - known)


@given(st.text(max_size=300))
def test_any_text_is_read_in_bounds(text: str) -> None:
    for bonus in (PARAGRAPHS, ENTITIES):
        found = shown(ROW, text, bonus)
        assert found is not None
        assert 0 <= found.share <= 1


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"of": "entities", "beta": 1.0}, "rewards.evidence.beta=1.0"),
        ({"of": "chunks"}, "of"),
        ({"of": "paragraphs", "weight": 0}, "weight"),
    ],
)
def test_settings_that_say_nothing_are_refused(values: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        EvidenceBonus.model_validate(values)
