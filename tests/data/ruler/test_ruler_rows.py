"""RULER's rows: each answer found again in its text by a reference of a few lines, and lengths kept."""

import json
import re
from collections import Counter
from random import Random

import pytest

from qwenlong_core.bundled import bundled_tokenizer
from qwenlong_core.data.prompts import prompt_tokens, render_prompt
from qwenlong_core.data.ruler.copies import copies_of, read_dataset, tasks_left_out
from qwenlong_core.data.ruler.counting import common_words_maker, frequent_words_maker
from qwenlong_core.data.ruler.generate import lengths_within, ruler_rows
from qwenlong_core.data.ruler.needles import needle_maker
from qwenlong_core.data.ruler.questions import question_maker
from qwenlong_core.data.ruler.tasks import TASKS, WORDINGS
from qwenlong_core.data.ruler.tracking import tracking_maker
from qwenlong_core.data.sources.read import hub_repo, local_files
from qwenlong_core.rewards.published import published_score
from qwenlong_core.settings.data import DataSettings, RulerSettings

WORDS = [f"{a}{b}{c}" for a in "bcdfgklmnp" for b in "aeiou" for c in ("le", "ng", "rk", "st", "tch", "zz")]
ESSAY = ["I", "like", "it.", "You", "do", "not?", "They", "never", "said", "so!"] * 3
NEEDLE = re.compile(r"One of the special magic (?:number|uuid|word)s for (\S+) is: (\S+?)\.(?= |$)", re.MULTILINE)


@pytest.fixture
def copies(tmp_path):
    def paragraph(name):
        questions = [
            {"question": f"What is {name}?", "is_impossible": False, "answers": [{"text": name}]},
            {"question": "Nothing?", "is_impossible": True, "answers": []},
        ]
        return {"context": f"Text {name}.", "qas": questions}

    squad = {"data": [{"paragraphs": [paragraph(f"{article}{number}") for number in range(3)]} for article in "ab"]}
    hotpot = [
        {"question": f"Who is {i}?", "answer": f"P{i}", "context": [[f"T{i}", [f"P{i} is.", " Yes."]], ["All", ["x"]]]}
        for i in range(3)
    ]
    (tmp_path / "squad.json").write_text(json.dumps(squad))
    (tmp_path / "hotpotqa.json").write_text(json.dumps(hotpot))
    (tmp_path / "PaulGrahamEssays.json").write_text(json.dumps({"text": " ".join(ESSAY)}))
    return tmp_path


@pytest.mark.parametrize("task", [task for task in TASKS.values() if task.family == "niah"], ids=lambda task: task.name)
def test_needles_are_in_the_haystack_and_the_answers_are_theirs(task):
    maker = needle_maker(task, WORDS, ESSAY)
    draft = maker.make(Random(1), 60, 0)
    hidden: dict[str, set[str]] = {}
    for key, value in NEEDLE.findall(draft.context):
        hidden.setdefault(key, set()).add(value)
    asked = [key for key in hidden if key in draft.wording.after]
    assert len(asked) == task.num_queries
    assert set(draft.answers) == {value for key in asked for value in hidden[key]}
    assert len(draft.answers) == task.num_queries * task.num_values
    assert len(hidden) == (task.num_keys if task.haystack != "needle" else 61)
    one = len(draft.answers) == 1
    assert draft.wording.before.startswith("A special magic" if one else "Some special magic")
    assert draft.wording.answer_start.endswith("text is" if one else "text are")


def test_several_keys_are_asked_for_as_a_list():
    draft = needle_maker(TASKS["niah_multiquery"], WORDS, ESSAY).make(Random(2), 60, 0)
    assert re.search(r"numbers for \S+, \S+, \S+, and \S+ mentioned", draft.wording.after)


def test_the_chain_leads_from_the_value_to_every_variable():
    draft = tracking_maker(2).make(Random(3), 30, 0)
    value = re.search(r"assigned the value (\d+) in", draft.wording.after)[1]
    found = [re.search(rf"VAR (\w+) = {value}\b", draft.context)[1]]
    while step := re.search(rf"VAR (\w+) = VAR {found[-1]}\b", draft.context):
        found.append(step[1])
    assert tuple(found) == draft.answers and len(found) == 5
    solved = re.findall(r"they are:  ([A-Z ]+)\n", draft.wording.before)
    assert len(solved) == 1 and len(solved[0].split()) == 5 and not set(solved[0].split()) & set(draft.answers)


@pytest.mark.parametrize(("length", "often", "seldom"), [(2_048, 6, 1), (4_096, 30, 3)])
def test_common_words_stand_in_the_list_most_often(length, often, seldom):
    words = [f"w{number}x" for number in range(200)]
    draft = common_words_maker(words, length).make(Random(4), 50, 0)
    counts = Counter(re.findall(r"\d+\. (\w+)", draft.context))
    assert {word for word, count in counts.items() if count == often} == set(draft.answers)
    assert len(draft.answers) == 10 and set(counts.values()) == {often, seldom} and len(counts) == 50


def test_frequent_words_are_those_after_the_dots():
    maker = frequent_words_maker(4_096)
    for size in (maker.least, 500):
        counts = Counter(maker.make(Random(5), size, 0).context.split())
        assert counts.most_common(4)[0][0] == "..."
        assert [word for word, _ in counts.most_common(4)[1:]] == list(maker.make(Random(5), size, 0).answers)


@pytest.mark.parametrize(("name", "sizes"), [("squad.json", (1, 3, 5, 9)), ("hotpotqa.json", (2, 3, 9))])
def test_a_question_stands_among_its_own_documents_and_others(copies, name, sizes):
    data = read_dataset(copies, name)
    maker = question_maker(data)
    assert len(data.questions) == (6 if name == "squad.json" else 3)  # none of the impossible ones
    for size in sizes:
        draft = maker.make(Random(6), size, 1)
        texts = re.findall(r"^Document (\d+):$", draft.context, re.MULTILINE)
        assert texts == [str(place) for place in range(1, size + 1)]
        assert all(answer in draft.context for answer in draft.answers)
        assert data.questions[1].question in draft.wording.after


def test_rows_keep_their_length_and_their_own_answer_scores_1(copies):
    tokenizer = bundled_tokenizer()
    settings = RulerSettings(lengths=(1_024,), rows=1)
    rows = list(ruler_rows(tokenizer, f"ruler:{copies}", settings, longest=1_000))
    assert [row.metadata["parts"][0] for row in rows] == list(TASKS)
    for row in rows:
        task = TASKS[row.metadata["parts"][0]]
        tokens = prompt_tokens(tokenizer, row)
        assert 800 < tokens <= min(1_000, 1_024 - WORDINGS[task.family].new_tokens)
        assert published_score(" ".join(row.answers), row) == 1
        assert render_prompt(tokenizer, row).endswith(row.metadata["answer_start"])
    assert rows[0] == next(ruler_rows(tokenizer, f"ruler:{copies}", settings, longest=1_000))


def test_without_copies_the_other_six_are_made(tmp_path):
    assert len(tasks_left_out("ruler")) == 7 and local_files("ruler") == [] and hub_repo("ruler") is None
    with pytest.raises(ValueError, match="holds none of PaulGraham"):
        copies_of(f"ruler:{tmp_path}")
    (tmp_path / "squad.json").write_text("[]")
    assert "qa_1" not in tasks_left_out(f"ruler:{tmp_path}") and "qa_2" in tasks_left_out(f"ruler:{tmp_path}")
    with pytest.raises(ValueError, match=r"another layout than squad.json"):
        read_dataset(tmp_path, "squad.json")


def test_lengths_have_to_fit_the_limit_of_prompts():
    assert lengths_within(RulerSettings(), 120_000) == (4_096, 8_192, 16_384, 32_768, 65_536)
    assert lengths_within(RulerSettings(lengths=(8_192, 512)), 8_192 - 128) == (512, 8_192)
    with pytest.raises(ValueError, match=r"data.ruler.lengths holds 8,192"):
        lengths_within(RulerSettings(lengths=(8_192,)), 8_000)
    with pytest.raises(ValueError, match="begin at 4,096 tokens"):
        lengths_within(RulerSettings(), 512)


def test_ruler_is_never_trained_on():
    with pytest.raises(ValueError, match=r"data.train names 'ruler'"):
        DataSettings(train=("ruler",))
    assert DataSettings(eval=("ruler", "generated")).eval == ("ruler", "generated")
