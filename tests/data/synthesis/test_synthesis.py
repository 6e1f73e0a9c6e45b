import re
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from solver import solve

from qwenlong_core.data.prompts import encode, prompt_tokens
from qwenlong_core.data.synthesis.generate import bucket_lengths, domain_of_row, generate, generate_bucket
from qwenlong_core.data.synthesis.layout import DoesNotFit, Generated
from qwenlong_core.records import Completion
from qwenlong_core.rewards.hybrid import score_by_rule
from qwenlong_core.settings.data import LengthBucket
from qwenlong_core.settings.rewards import RewardSettings

DOMAINS = ("math", "logical", "multihop", "reading")
LANGUAGES = [("math", "en"), ("logical", "en"), ("multihop", "en"), ("reading", "en"), ("multihop", "zh")]
KINDS = [
    *(("math", kind) for kind in ("figure", "year_of", "change", "percent_change", "share", "annual_interest",
                                  "mixed_scale", "first_year_cost", "weighted_rate", "extension_interest")),
    *(("logical", kind) for kind in ("lookup", "order_of", "exception", "amended", "amended_exception")),
    *(("multihop", kind) for kind in ("bridge_2", "film_of", "bridge_3", "bridge_4", "same_country", "older",
                                      "unanswerable")),
    *(("reading", kind) for kind in ("limit", "reserve", "kit", "next_step", "cross_reference")),
]  # fmt: skip


def number(text: str) -> Fraction:
    return Fraction(re.sub(r"[^\d.]", "", text))


def printed(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:,.10g}"


def gold_is_solved(generated: Generated) -> None:
    example, solved = generated.example, solve(generated)
    if example.answer_type == "number":
        assert float(abs(number(example.answers[0]) - solved)) <= 0.0015 * float(abs(solved)) / 2
    elif example.answer_type == "choice":
        assert [letter for letter, option in zip("ABCD", example.choices, strict=True) if option == solved] == list(
            example.answers
        )
    elif example.answer_type == "unanswerable":
        assert solved is None
    else:
        assert solved == example.answers[0]


def evidence_is_where_it_is_said_to_be(generated: Generated) -> None:
    example = generated.example
    assert len(generated.evidence) == len(example.metadata["evidence"]) >= 1
    for facts, (start, end), depth in zip(
        generated.evidence, example.metadata["evidence"], example.metadata["evidence_depth"], strict=True
    ):
        place = example.context[start:end].lower()
        for fact in facts:
            assert printed(fact.value).lower() in place, (fact, place)
        assert depth == pytest.approx(start / len(example.context), abs=1e-4)


def the_twin_says_what_the_document_says(generated: Generated) -> None:
    context = generated.example.context.lower()
    for fact in generated.twin:
        assert fact.subject.lower() in context
        assert printed(fact.value).lower() in context
    keys = [(fact.subject, fact.attribute, fact.qualifier) for fact in generated.twin]
    assert len(keys) == len(set(keys))


def the_question_gives_nothing_away(generated: Generated) -> None:
    example = generated.example
    if example.answer_type == "number":
        numbers = {number(found) for found in re.findall(r"\d[\d,.]*\d|\d", example.question)}
        assert number(example.answers[0]) not in numbers
    elif example.answer_type == "choice":
        assert not [option for option in example.choices if option in example.question]
        assert len(set(example.choices)) == 4
    elif example.answer_type == "span":
        assert not [answer for answer in example.answers if answer.lower() in example.question.lower()]


def check(generated: Generated, tokenizer: Any, tokens: int) -> None:
    example = generated.example
    assert example.num_tokens == prompt_tokens(tokenizer, example)
    assert abs(example.num_tokens - tokens) <= 0.02 * tokens
    gold_is_solved(generated)
    evidence_is_where_it_is_said_to_be(generated)
    the_twin_says_what_the_document_says(generated)
    the_question_gives_nothing_away(generated)


@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    case=st.sampled_from(LANGUAGES),
    seed=st.integers(0, 10**6),
    tokens=st.integers(256, 3_000),
    depth=st.none() | st.floats(0, 1),
    distractors=st.none() | st.integers(0, 30),
)
def test_properties(
    tokenizer: Any, case: tuple[Any, str], seed: int, tokens: int, depth: float | None, distractors: int | None
) -> None:
    domain, language = case

    def write() -> Generated:
        return generate(
            tokenizer, domain=domain, language=language, tokens=tokens, seed=seed, depth=depth, distractors=distractors
        )

    try:
        generated = write()
    except DoesNotFit:
        # SmolLM2 spells Chinese with two to three tokens a character, so short prompts may be too short.
        assert language == "zh"
        assert tokens < 400
        return
    check(generated, tokenizer, tokens)
    assert write() == generated


@pytest.mark.parametrize(("domain", "kind"), KINDS)
@pytest.mark.parametrize("tokens", [256, 1_000])
def test_every_kind_of_question(tokenizer: Any, domain: Any, kind: str, tokens: int) -> None:
    for seed in range(8):
        generated = generate(tokenizer, domain=domain, kind=kind, tokens=tokens, seed=seed)
        assert generated.example.metadata["kind"] == kind
        check(generated, tokenizer, tokens)


@pytest.mark.parametrize(("domain", "language"), LANGUAGES)
def test_long_documents(tokenizer: Any, domain: Any, language: str) -> None:
    check(generate(tokenizer, domain=domain, language=language, tokens=20_000, seed=1), tokenizer, 20_000)


@pytest.mark.slow
@pytest.mark.parametrize(("domain", "language"), LANGUAGES)
@pytest.mark.parametrize("tokens", [60_000, 131_072])
def test_longest_documents(tokenizer: Any, domain: Any, language: str, tokens: int) -> None:
    for seed in range(2):
        check(generate(tokenizer, domain=domain, language=language, tokens=tokens, seed=seed), tokenizer, tokens)


@pytest.mark.parametrize("domain", DOMAINS)
def test_gold_and_worked_solution_earn_the_reward(tokenizer: Any, domain: Any) -> None:
    for seed in range(40):
        example = generate(tokenizer, domain=domain, tokens=256, seed=seed).example
        assert example.solution is not None
        completion = Completion(text=example.solution, token_ids=(), finish_reason="stop")
        score = score_by_rule(example, completion, RewardSettings()).score
        assert score.value == 1.0, (example.question, example.solution, score)
        assert len(encode(tokenizer, example.solution)) <= 80


@pytest.mark.parametrize("seed", range(4))
def test_a_lookup_is_solved_by_reading_everything_and_then_choosing(tokenizer: Any, seed: int) -> None:
    """So that no step of a solution is to stop at the right place, or to find what stands before a value."""
    choice = generate(tokenizer, domain="logical", kind="lookup", tokens=192, seed=seed).example
    read = [f"{option} ({letter})" for letter, option in zip("ABCD", choice.choices, strict=True)]
    right = read["ABCD".index(choice.answers[0])]
    assert f"\n{', '.join(read)}. So {right}.</think>" in (choice.solution or "")
    figure = generate(tokenizer, domain="math", kind="figure", tokens=192, seed=seed).example
    [asked] = re.findall(r"in (\d{4})\?", figure.question)
    quoted, _, chosen = (figure.solution or "").removeprefix("<think>").partition(" The question asks about ")
    assert quoted in figure.context
    assert len(re.findall(r"In \d{4}, ", quoted)) == 2
    assert chosen.startswith(f"{asked}: {figure.answers[0]}.</think>")


def test_chinese_solution_earns_the_reward(tokenizer: Any) -> None:
    for seed in range(20):
        example = generate(tokenizer, domain="multihop", language="zh", tokens=600, seed=seed).example
        assert example.solution is not None
        completion = Completion(text=example.solution, token_ids=(), finish_reason="stop")
        assert score_by_rule(example, completion, RewardSettings()).score.value == 1.0


@pytest.mark.parametrize("depth", [0.0, 0.25, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("domain", DOMAINS)
def test_depth_is_controlled(tokenizer: Any, domain: Any, depth: float) -> None:
    example = generate(tokenizer, domain=domain, tokens=8_000, seed=2, depth=depth).example
    assert all(abs(found - depth) <= 0.06 for found in example.metadata["evidence_depth"])


def test_spread_evidence_reaches_every_part_of_the_document(tokenizer: Any) -> None:
    depths = [
        depth
        for seed in range(60)
        for depth in generate(tokenizer, domain="multihop", tokens=1_500, seed=seed).example.metadata["evidence_depth"]
    ]
    assert all(sum(low <= depth < low + 0.25 for depth in depths) > len(depths) / 8 for low in (0.0, 0.25, 0.5, 0.75))


def test_difficulty_by_steps_and_distractors(tokenizer: Any) -> None:
    for steps in (2, 3, 4):
        example = generate(tokenizer, domain="math", tokens=600, seed=1, steps=steps).example
        assert example.metadata["steps"] == steps
    few, many = (generate(tokenizer, domain="math", tokens=4_000, seed=1, distractors=n).example for n in (0, 30))
    assert (few.metadata["distractors"], many.metadata["distractors"]) == (0, 30)


def test_bucket_rows_stay_in_the_bucket_in_the_papers_proportion(tokenizer: Any) -> None:
    bucket = LengthBucket(min_tokens=200, max_tokens=500, rows=32)
    rows = list(generate_bucket(tokenizer, bucket, 7))
    assert all(200 <= (row.num_tokens or 0) <= 500 for row in rows)
    assert [sum(row.domain == domain for row in rows) for domain in ("math", "logical", "multihop")] == [12, 12, 8]
    assert len({row.id for row in rows}) == len({row.context for row in rows}) == 32
    assert sorted(bucket_lengths(bucket, 7)) == sorted(bucket_lengths(bucket, 8)) != bucket_lengths(bucket, 7)


def test_a_bucket_may_name_its_kinds(tokenizer: Any) -> None:
    kinds: dict[Any, tuple[str, ...]] = {"math": ("figure", "change"), "multihop": ("film_of",)}
    rows = list(generate_bucket(tokenizer, LengthBucket(min_tokens=200, max_tokens=300, rows=16, kinds=kinds), 7))
    drawn = {domain: [row.metadata["kind"] for row in rows if row.domain == domain] for domain in DOMAINS}
    assert drawn["math"] == ["figure", "change"] * 3
    assert drawn["multihop"] == ["film_of"] * 4
    assert len(set(drawn["logical"])) > 1
    other = LengthBucket(min_tokens=200, max_tokens=300, rows=16, kinds={"math": ("year_of",)})
    twins = [*rows, *generate_bucket(tokenizer, other, 7)]
    assert len({row.id for row in twins}) == len({row.context for row in twins}) == 32
    assert len({row.context.split("\n")[0] for row in twins if row.domain == "math"}) == 12, "other companies, too"
    wrong = LengthBucket(min_tokens=200, max_tokens=300, rows=16, kinds={"math": ("lookup",)})
    with pytest.raises(ValueError, match="'lookup' is not a form of question of this domain: use one of figure,"):
        list(generate_bucket(tokenizer, wrong, 7))


def test_only_one_order_has_the_value_that_is_asked_for(tokenizer: Any) -> None:
    for seed in range(20):
        generated = generate(tokenizer, domain="logical", kind="order_of", tokens=1_500, seed=seed)
        query = generated.query
        holders = {f.subject for f in generated.twin if (f.attribute, f.value) == (query["attribute"], query["value"])}
        (letter,) = generated.example.answers
        assert holders == {generated.example.choices["ABCD".index(letter)]}


def test_proportion_over_1600_rows() -> None:
    domains = [domain_of_row(index) for index in range(1_600)]
    assert [domains.count(domain) for domain in ("math", "logical", "multihop")] == [600, 600, 400]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"domain": "poetry"}, "'poetry' cannot be generated in language 'en': use one of math"),
        ({"domain": "math", "language": "zh"}, "use one of multihop"),
        ({"domain": "multihop", "language": "fr"}, "'fr' is unknown: use one of en, zh"),
        ({"domain": "math", "kind": "bridge_2"}, "use one of figure, year_of, change, "),
        ({"domain": "math", "steps": 9}, "steps=9: the questions of this domain take 1, 2, 3, 4 steps"),
        ({"domain": "math", "depth": 1.5}, "depth=1.5 is not between 0"),
        ({"domain": "math", "tokens": 100}, "prompt tokens, the limit is 102: ask for longer"),
    ],
)
def test_wrong_requests_name_what_is_right(tokenizer: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        generate(tokenizer, **{"tokens": 400, "seed": 1, **arguments})
