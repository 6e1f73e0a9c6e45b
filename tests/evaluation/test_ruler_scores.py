"""RULER's averages and effective length, against rows of the table in its README."""

import pytest

from qwenlong_core.data.ruler.tasks import TASKS, label_of, tokens_of
from qwenlong_core.evaluation.ruler import ruler_scores, table, weighted_averages
from qwenlong_core.evaluation.samples import Sample
from qwenlong_core.records import Score

LENGTHS = ("4K", "8K", "16K", "32K", "64K", "128K")
PUBLISHED = [
    # scores by length, effective length, average, weights rising, falling (NVIDIA/RULER, README.md)
    ((96.6, 96.3, 95.2, 93.2, 87.0, 81.2), "64K", 91.6, 89.0, 94.1),  # GPT-4-1106-preview
    ((95.5, 93.8, 91.6, 87.4, 84.7, 77.0), "32K", 88.3, 85.4, 91.3),  # Llama3.1 8B
    ((88.1, 85.5, 84.5, 82.7, 75.5, 68.9), "4K", 80.9, 77.8, 83.9),  # InternLM2.5
    ((87.8, 87.2, 87.7, 69.0, 46.8, 19.0), "16K", 66.2, 54.7, 77.8),  # Mistral-Nemo
    ((82.3, 78.4, 73.7, 69.1, 68.1, 65.0), None, 72.8, 69.9, 75.7),  # LWM
]


def whole(scores):
    return table({length: dict.fromkeys(TASKS, score) for length, score in zip(LENGTHS, scores, strict=True)})


@pytest.mark.parametrize(("scores", "effective", "average", "rising", "falling"), PUBLISHED)
def test_the_published_table(scores, effective, average, rising, falling):
    found = whole(scores)
    assert found.effective == effective
    assert sum(found.averages.values()) / 6 == pytest.approx(average, abs=0.06)
    assert found.weighted == pytest.approx((rising, falling), abs=0.06)


def test_the_words_name_the_length_or_why_there_is_none():
    assert "effective length 64K" in whole(PUBLISHED[0][0]).words
    assert "below 4K" in whole(PUBLISHED[4][0]).words
    assert "no longer one was asked" in whole((95.0,) * 6).words
    short = table({"4K": dict.fromkeys(list(TASKS)[:-2], 99.0)})
    assert short.averages == {"4K": None} and short.effective is None and short.weighted is None
    assert short.missing == ("qa_1", "qa_2") and "qa_1, qa_2" in short.words


def test_equal_scores_pass_at_no_length():
    assert whole((85.6,) * 6).effective is None  # over the threshold, not at it
    assert weighted_averages([50.0]) == (50.0, 50.0)


def sample(length, task, item, value):
    return Sample(
        example_id=f"{length}-{task}-{item}", document_id=str(item), domain="reading", source=f"ruler-{length}",
        sample=0, prompt_digest="", prompt_tokens=1, lost_tokens=0, depth=None, completion="", num_tokens=1,
        finish_reason="stop", score=Score(value=value, rule=value), metrics={}, parts=(task,), seconds=0.0,
    )  # fmt: skip


def test_from_samples_tasks_count_once_whatever_their_items():
    samples = [sample("8K", "vt", 0, 0.4), sample("8K", "vt", 1, 0.8), sample("4K", "cwe", 0, 1.0)]
    found = ruler_scores(samples)
    assert list(found.tasks) == ["4K", "8K"]
    assert found.tasks["8K"]["vt"] == pytest.approx(60) and found.tasks["4K"] == {"cwe": 100}
    assert ruler_scores([]) is None


def test_labels_of_lengths():
    assert [label_of(length) for length in (512, 4096, 131_072)] == ["512", "4K", "128K"]
    assert [tokens_of(label) for label in ("512", "4K", "128K")] == [512, 4096, 131_072]
