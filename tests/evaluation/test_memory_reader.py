"""The memory reader, with an engine that takes perfect notes: what it is shown, and what reaches the answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from qwenlong_core.bundled import bundled_tokenizer
from qwenlong_core.data.synthesis.generate import generate
from qwenlong_core.data.wordings import conversation
from qwenlong_core.evaluation.answers import LocalAnswerer
from qwenlong_core.evaluation.memory import check_fits, first_tokens, parts_of
from qwenlong_core.generation.engine import Sampling
from qwenlong_core.jobs import PrepareJob
from qwenlong_core.records import Completion, Example
from qwenlong_core.settings.evaluation import EvaluationSettings, ServerSettings
from qwenlong_core.settings.profiles import load_settings

LIMIT, CHUNK, NOTES = 512, 192, 96
SETTINGS = EvaluationSettings(
    max_prompt_tokens=LIMIT, reader="memory", chunk=CHUNK, memory_tokens=NOTES, max_completion_tokens=32, samples=2
)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return bundled_tokenizer()


@dataclass
class NoteTaker:
    """Notes every sentence that names a code, and answers with the last code that it reads."""

    tokenizer: Any
    prompts: list[tuple[str, int, Sampling]] = field(default_factory=list)

    def generate(self, prompts: Sequence[Sequence[int]], samples: int, sampling: Sampling) -> list[list[Completion]]:
        return [[self._one(list(prompt), sampling)] * samples for prompt in prompts]

    def _one(self, prompt: list[int], sampling: Sampling) -> Completion:
        text = self.tokenizer.decode(prompt)
        self.prompts.append((text, len(prompt), sampling))
        codes = re.findall(r"The code of \w+ is \w+\.", text)
        if "Notes so far" in text:
            return Completion(text="<think>Hm.</think> " + " ".join(codes), token_ids=(1,), finish_reason="stop")
        code = codes[-1].rpartition(" ")[2] if codes else "unknown."
        return Completion(text=f"Therefore, the answer is {code}", token_ids=(1,), finish_reason="stop")


def row(context: str, **changes: Any) -> Example:
    values = {
        "id": "m", "source": "test", "domain": "reading", "answer_type": "span", "context": context,
        "question": "What is the code of Ann?", "answers": ("K7",),
    }  # fmt: skip
    return Example(**values | changes)


def long_row(tokenizer: Any, place: float) -> Example:
    """A document of four times the limit with one sentence that answers."""
    text = generate(tokenizer, domain="reading", tokens=4 * LIMIT, seed=3).example.context
    paragraphs = text.split("\n\n")
    paragraphs.insert(round(place * len(paragraphs)), "The code of Ann is K7.")
    return row("\n\n".join(paragraphs))


def answers(tokenizer: Any, example: Example, settings: EvaluationSettings = SETTINGS) -> tuple[list[Any], NoteTaker]:
    engine = NoteTaker(tokenizer)
    answerer = LocalAnswerer(engine=engine, tokenizer=tokenizer, settings=settings, sampling=Sampling(1, 1, 32, 5))
    wanted = {(example.id, number) for number in range(settings.samples)}
    return [answer for batch in answerer.answers([example], wanted) for answer in batch], engine


@pytest.mark.parametrize("place", [0.0, 0.3, 0.5, 1.0])
def test_a_fact_anywhere_in_a_document_of_four_contexts_reaches_the_answer(tokenizer: Any, place: float) -> None:
    example = long_row(tokenizer, place)
    found, engine = answers(tokenizer, example)
    assert [answer.completion.text for answer in found] == ["Therefore, the answer is K7."] * 2
    assert all(tokens <= LIMIT for _, tokens, _ in engine.prompts)
    # The log knows the row by its whole prompt, and by its length.
    assert all(len(answer.prompt.token_ids) > 4 * LIMIT * 0.95 and not answer.prompt.lost_tokens for answer in found)


def test_where_the_middle_is_cut_the_fact_is_lost(tokenizer: Any) -> None:
    whole = EvaluationSettings(max_prompt_tokens=LIMIT, max_completion_tokens=32, samples=2)
    found, _ = answers(tokenizer, long_row(tokenizer, 0.5), whole)
    assert [answer.completion.text for answer in found] == ["Therefore, the answer is unknown."] * 2


def test_every_part_is_read_once_a_sample_with_a_seed_of_its_own(tokenizer: Any) -> None:
    example = long_row(tokenizer, 0.5)
    parts = parts_of(tokenizer, example.context, CHUNK)
    _, engine = answers(tokenizer, example)
    assert len(engine.prompts) == 2 * (len(parts) + 1)
    reading = [(text, sampling) for text, _, sampling in engine.prompts if "Notes so far" in text]
    assert [part in text for (text, _), part in zip(reading, parts * 2, strict=True)] == [True] * len(reading)
    assert {sampling.max_tokens for _, sampling in reading} == {NOTES}
    assert len({sampling.seed for _, _, sampling in engine.prompts}) == 2


def test_a_document_that_fits_is_asked_whole(tokenizer: Any) -> None:
    found, engine = answers(tokenizer, row("The code of Ann is K7."))
    assert [answer.completion.text for answer in found] == ["Therefore, the answer is K7."] * 2
    assert not any("Notes so far" in text for text, _, _ in engine.prompts)


def test_parts_are_the_document(tokenizer: Any) -> None:
    text = long_row(tokenizer, 0.5).context + "  naïve 中文 \U0001f600\n"
    for size in (1, 7, 192, 10_000):
        parts = parts_of(tokenizer, text, size)
        assert "".join(parts) == text
    assert parts_of(tokenizer, "", 8) == []
    assert first_tokens(tokenizer, "a b c", 100) == "a b c"
    assert len(tokenizer.encode(first_tokens(tokenizer, text, 50))) <= 51


def test_what_cannot_be_read_in_parts_is_refused(tokenizer: Any) -> None:
    talk = row(conversation([{"role": "user", "content": "Hi"}]), metadata={"turns": True})
    with pytest.raises(ValueError, match="is a conversation"):
        check_fits(tokenizer, talk, SETTINGS)
    with pytest.raises(ValueError, match=r"evaluation.chunk=500.* lower chunk to \d+"):
        check_fits(tokenizer, row("x"), SETTINGS.model_copy(update={"chunk": 500}))


def test_the_prepare_stage_leaves_the_document_whole() -> None:
    whole, memory = (
        load_settings("smoke", [f"evaluation.reader={reader}", *more])
        for reader, more in (("whole", []), ("memory", ["evaluation.chunk=128"]))
    )
    limit = whole.evaluation.max_prompt_tokens
    assert PrepareJob.of(whole, {}).eval_max_tokens == limit
    assert PrepareJob.of(memory, {}).eval_max_tokens > 1_000 * limit


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"chunk": 1_000}, "evaluation.chunk=1000 is for reader='memory'"),
        ({"memory_tokens": 99}, "evaluation.memory_tokens=99"),
        ({"reader": "memory", "document": "none"}, "leaves nothing to read"),
        (
            {"reader": "memory", "engine": "openai", "server": ServerSettings(base_url="http://a/v1", model="m")},
            "drop evaluation.server",
        ),
    ],
)
def test_settings_that_say_nothing_are_refused(values: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=re.escape(named)):
        EvaluationSettings.model_validate(values)
