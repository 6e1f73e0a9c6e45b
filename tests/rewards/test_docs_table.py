"""The tables of ``docs/rewards.md`` say what the golden table says."""

import re
from pathlib import Path

from reward_cases import cases

DOCS = (Path(__file__).parents[2] / "docs" / "rewards.md").read_text(encoding="utf-8")
SHOWN = {1.0: "yes", 0.0: "no", None: "none"}
ROW = re.compile(r"^\| (\w+) \| `(.+?)` \| `(.+?)` \| (yes|no|none) \| .+ \|$", re.MULTILINE)
LANGUAGE_ROW = re.compile(r"^\| [A-Z]\w+ \| `.+` \|$", re.MULTILINE)
"""Read by ``test_words.py``."""
NUMBER_ROW = re.compile(r"^\| \*\*.+?\*\* \| .+ \|$", re.MULTILINE)
"""Read by ``number/test_number_tables.py``."""
CHOICE_ROW = re.compile(r"^\| `(.+?)` \| (yes|no|none) \|$", re.MULTILINE)


def test_every_row_of_the_main_table_is_a_golden_case() -> None:
    golden = {
        (case["answer_type"], case["answers"][0], case["completion"]): SHOWN[case["rule"]]
        for case in [*cases(), *cases("words"), *cases("numbers")]
        if "question" not in case and "answer_scale" not in case
    }
    rows = ROW.findall(DOCS)
    assert len(rows) >= 40
    for kind, gold, answer, shown in rows:
        assert golden[kind, gold, f"Therefore, the answer is {answer}."] == shown, (kind, gold, answer)
    assert {kind for kind, *_ in rows} == {"span", "number", "yes_no", "unanswerable"}


def test_every_row_of_the_choice_table_is_a_golden_case() -> None:
    golden = {
        case["completion"]: SHOWN[case["rule"]]
        for case in cases()
        if case["answer_type"] == "choice" and case["answers"] == ["B"]
    }
    rows = CHOICE_ROW.findall(DOCS)
    assert len(rows) >= 8
    for completion, shown in rows:
        assert golden[completion] == shown, completion


def test_every_row_of_a_rule_was_checked() -> None:
    """A table whose first column has no name holds measurements; all others hold rules."""
    tables = re.findall(r"(?:^\|.*\n)+", DOCS, re.MULTILINE)
    rows = [row for table in tables if not table.startswith("| |") for row in table.splitlines()[2:]]
    kinds = (ROW, CHOICE_ROW, LANGUAGE_ROW, NUMBER_ROW)
    assert len(rows) == sum(len(kind.findall(DOCS)) for kind in kinds)
