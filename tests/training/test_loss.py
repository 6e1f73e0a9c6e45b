"""Advantages, loss and gradient against short plain references: groups of the last step, truncated
completions, ways to scale rewards, the KL term."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from training_jobs import grpo_job, scripted
from trl.trainer.utils import split_tensor_dict

from qwenlong_core.generation.engine import Sampling
from qwenlong_core.models import load_policy
from qwenlong_core.records import Completion
from qwenlong_core.training.grpo import build_trainer
from qwenlong_core.training.trainer import LongContextGRPOTrainer

Make = Callable[..., LongContextGRPOTrainer]
INFORMATIVE, WRONG = [1, 0, 0, 0], [0, 0, 0, 0]


def token_logprobs(model: Any, row: Any, temperature: float) -> Tensor:
    """``log softmax(logits / T)`` over the whole vocabulary, by one plain forward of one completion."""
    prompt, completion = torch.tensor(row.prompt_ids), torch.tensor(row.completion_ids)
    logits = model(input_ids=torch.cat([prompt, completion])[None]).logits[0, len(prompt) - 1 : -1]
    return (logits / temperature).log_softmax(-1).gather(-1, completion[:, None])[:, 0]


def reference_loss(
    trainer: LongContextGRPOTrainer, policies: Sequence[Any], start: Any = None, kl: float = 0.0
) -> Tensor:
    """DAPO's loss, completion by completion; ``policies`` sampled the groups, the trainer's own where ``None``.

    A batch that is not full is weighed by its share of the groups of a full one.
    """
    total, tokens, size = torch.zeros(()), 0, trainer.num_generations
    for number, row in enumerate(trainer.batch.rows):
        if not row.in_loss:
            continue
        rewards = [r.reward for r in trainer.batch.rows[number // size * size :][:size] if r.in_loss]
        advantage = (row.reward - fmean(rewards)) / (stdev(rewards) + 1e-4)
        logprobs = token_logprobs(trainer.model, row, trainer.temperature)
        old = token_logprobs(policies[number // size] or trainer.model, row, trainer.temperature).detach()
        ratio = (logprobs - old).exp()
        loss = -torch.min(ratio * advantage, ratio.clamp(1 - 0.2, 1 + 0.28) * advantage)
        if kl:
            gap = token_logprobs(start, row, trainer.temperature).detach() - logprobs
            loss = loss + kl * ratio * (gap.exp() - gap - 1)
        total, tokens = total + loss.sum(), tokens + len(logprobs)
    share = len(trainer.batch.drawn.kept) / trainer.job.grpo.batch_size
    return total / tokens * share


def gradient(trainer: LongContextGRPOTrainer) -> dict[str, Tensor]:
    found = {name: p.grad.clone() for name, p in trainer.model.named_parameters()}
    trainer.model.zero_grad()
    return found


def trained_gradient(trainer: LongContextGRPOTrainer, batch: dict[str, Any]) -> tuple[dict[str, Tensor], float]:
    """Of the trainer's loss over a batch that is one optimizer step."""
    trainer.model.train()
    forwards = trainer.args.steps_per_generation
    trainer.current_gradient_accumulation_steps = forwards
    total = 0.0
    for part in split_tensor_dict(batch, forwards):
        loss = trainer.compute_loss(trainer.model, part)
        loss.backward()
        total += float(loss.detach())
    return gradient(trainer), total


def assert_gradients(trainer: LongContextGRPOTrainer, batch: dict[str, Any], reference: Callable[[], Tensor]) -> None:
    ours, loss = trained_gradient(trainer, batch)
    expected = reference()
    expected.backward()
    assert loss == pytest.approx(float(expected.detach()), abs=1e-5)
    theirs = gradient(trainer)
    assert sum(float(g.abs().sum()) for g in theirs.values()) > 0
    for name, value in ours.items():
        largest = float(theirs[name].abs().max())
        torch.testing.assert_close(value, theirs[name], atol=1e-4 * largest + 1e-7, rtol=0)


def move(model: Any, seed: int = 0) -> None:
    """Change the weights as some updates would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.01 * torch.randn(parameter.shape, generator=generator)


def test_the_update_is_the_gradient_of_the_token_level_loss(make: Make) -> None:
    """Two informative groups and two empty slots, each in a forward of its own."""
    accuracies = [INFORMATIVE, WRONG, [0, 1, 1, 0], [1, 1, 1, 1]]
    trainer = make(scripted(accuracies), mini_batch_size=4, dynamic_sampling={"max_rounds": 1}, temperature=0.8)
    assert_gradients(trainer, trainer.next_batch(), lambda: reference_loss(trainer, [None] * 4))


@pytest.mark.parametrize("mini_batch_size", [2, 1])
def test_a_group_of_the_last_step_is_weighed_against_the_policy_that_sampled_it(
    mini_batch_size: int, make: Make, policy: Path
) -> None:
    """Three of four groups drawn are informative, so one is surplus. Its ratio is to the policy of its own step,
    also after a checkpoint, and whether TRL computes old log-probs (two optimizer steps) or not (one)."""
    trainer = make(
        scripted([INFORMATIVE, WRONG, INFORMATIVE, INFORMATIVE, WRONG, INFORMATIVE]),
        batch_size=2,
        mini_batch_size=mini_batch_size,
        temperature=0.8,
        top_p=0.9,
        dynamic_sampling={"max_rounds": 1, "oversampling": 2.0},
    )
    trainer.next_batch()
    assert trainer.batch.drawn.counts()["groups_surplus"] == 1
    before = load_policy(policy, grpo_job().model)
    move(trainer.model)
    trainer.restore(json.loads(json.dumps(trainer.own_state())))
    batch = trainer.next_batch()
    counts = trainer.batch.drawn.counts()
    assert (counts["kept_from_last_step"], counts["groups_kept"], counts["groups_drawn"]) == (1, 2, 2)

    row = trainer.batch.rows[0]
    sampled = token_logprobs(before, row, 0.8)
    torch.testing.assert_close(torch.tensor(row.old_logprobs), sampled.detach(), atol=1e-5, rtol=1e-5)
    ratio = (token_logprobs(trainer.model, row, 0.8) - sampled).exp()
    assert float((ratio - 1).abs().max()) > 0.05
    assert_gradients(trainer, batch, lambda: reference_loss(trainer, [before, None]))
    trainer.model.zero_grad()
    ignored = reference_loss(trainer, [None, None])
    assert abs(float(ignored - reference_loss(trainer, [before, None]))) > 1e-4, "the policies must tell apart"


def test_surplus_survives_a_checkpoint_to_the_bit(make: Make) -> None:
    trainer = make(
        scripted([INFORMATIVE] * 4),
        batch_size=2,
        mini_batch_size=2,
        top_p=0.9,
        dynamic_sampling={"max_rounds": 1, "oversampling": 2.0},
    )
    trainer.next_batch()
    surplus = list(trainer.batches.surplus)
    assert len(surplus) == 2
    trainer.restore(json.loads(json.dumps(trainer.own_state())))
    assert trainer.batches.surplus == surplus


def test_the_engines_correction_is_against_the_sampling_policy_too(make: Make) -> None:
    """TRL's ratio for vLLM, trainer over engine when the group was sampled, is 1 here on a surplus group,
    although the weights have moved since: the engine's log-probs are exact without top-p."""
    trainer = make(
        scripted([INFORMATIVE] * 4),
        batch_size=2,
        mini_batch_size=2,
        temperature=0.8,
        dynamic_sampling={"max_rounds": 1, "oversampling": 2.0},
    )
    trainer.next_batch()
    move(trainer.model)
    trainer.use_vllm = trainer.vllm_importance_sampling_correction = True
    batch = trainer.next_batch()
    assert trainer.batch.drawn.from_last == 2
    ratio = batch["importance_sampling_ratio"]
    torch.testing.assert_close(ratio, torch.ones_like(ratio), atol=1e-4, rtol=0)


def test_the_engine_is_corrected_token_by_token(make: Make) -> None:
    """An engine whose log-prob of a completion's token i is too high by 0.1 i is weighed by ``e^(-0.1 i)`` there; too
    low by 2 at the first token would be ``e^2``, which is cut at 3."""
    trainer = make(scripted([INFORMATIVE]), batch_size=1, mini_batch_size=1, temperature=0.8)
    trainer.use_vllm = trainer.vllm_importance_sampling_correction = True
    exact = trainer.batches.rollouts.engine

    def askew(completion: Completion) -> Completion:
        assert completion.logprobs is not None
        wrong = [0.1 * i if i else -2.0 for i in range(len(completion.logprobs))]
        return replace(completion, logprobs=tuple(p + w for p, w in zip(completion.logprobs, wrong)))

    class Askew:
        def generate(self, prompts: Any, samples: int, sampling: Sampling) -> list[list[Completion]]:
            return [list(map(askew, group)) for group in exact.generate(prompts, samples, sampling)]

    trainer.batches.rollouts.engine = Askew()
    batch = trainer.next_batch()
    tokens = batch["completion_mask"].size(1)
    by_token = torch.tensor([3.0, *(math.exp(-0.1 * i) for i in range(1, tokens))])
    expected = torch.where(batch["completion_mask"].bool(), by_token, 1.0)
    torch.testing.assert_close(batch["importance_sampling_ratio"], expected, atol=1e-4, rtol=0)


def test_the_kl_term_by_hand(make: Make, policy: Path) -> None:
    """``beta r (e^d - d - 1)`` with ``d`` from the policy to the phase's start on the same tokens, and the
    importance ratio ``r``, which makes the gradient that of the KL (DeepSeek-V3.2; TRL's default)."""
    trainer = make(
        scripted([INFORMATIVE, [0, 1, 1, 0]]),
        batch_size=2,
        mini_batch_size=2,
        temperature=0.8,
        kl_coefficient=0.5,
    )
    start = load_policy(policy, grpo_job().model)
    move(trainer.model)
    batch = trainer.next_batch()
    assert_gradients(trainer, batch, lambda: reference_loss(trainer, [None] * 2, start, 0.5))


class Written:
    """An engine whose completions end as written down: each is told by whether it is cut at the limit."""

    def __init__(self, cuts: Sequence[bool]) -> None:
        self.cuts = list(cuts)

    def generate(self, prompts: Sequence[Any], samples: int, sampling: Sampling) -> list[list[Completion]]:
        return [[self._completion() for _ in range(samples)] for _ in prompts]

    def _completion(self) -> Completion:
        cut = self.cuts.pop(0)
        length = 8 if cut else 1 + len(self.cuts) % 5
        ids = tuple(100 + len(self.cuts) + i for i in range(length))
        return Completion(text="", token_ids=ids, finish_reason="length" if cut else "stop")


def write(trainer: LongContextGRPOTrainer, cuts: Sequence[bool]) -> None:
    trainer.batches.rollouts.engine = Written(cuts)


@pytest.mark.parametrize(
    ("truncated", "expected", "counted"),
    [
        # (1, 0, 0) without the cut one: mean 1/3, std sqrt(1/3)
        ("mask", [1.1547, -0.5774, -0.5774, 0.0], 3),
        # (1, 0, 0, 1): mean 1/2, std sqrt(1/3)
        ("keep", [0.8660, -0.8660, -0.8660, 0.8660], 4),
    ],
)
def test_a_truncated_completion_counts_everywhere_or_nowhere(
    truncated: str, expected: list[float], counted: int, make: Make
) -> None:
    trainer = make(scripted([[1, 0, 0, 1]]), batch_size=1, mini_batch_size=1, truncated=truncated)
    write(trainer, [False, False, False, True])
    batch = trainer.next_batch()
    torch.testing.assert_close(batch["advantages"], torch.tensor(expected), atol=1e-3, rtol=0)
    tokens = sum(len(row.completion_ids) for row in trainer.batch.rows[:counted])
    assert int(batch["num_items_in_batch"]) == tokens
    assert_gradients(trainer, batch, lambda: reference_loss(trainer, [None]))


def test_a_group_that_only_its_truncated_completion_makes_informative_is_dropped(make: Make) -> None:
    trainer = make(
        scripted([[1, 1, 1, 0], [0, 0, 0, 0]]),
        batch_size=2,
        mini_batch_size=2,
        truncated="mask",
        dynamic_sampling={"max_rounds": 1},
    )
    write(trainer, [False, False, False, True] + [True] * 4)
    trainer.next_batch()
    counts = trainer.batch.drawn.counts()
    assert (counts["groups_kept"], counts["groups_all_right"], counts["groups_truncated"]) == (0, 1, 1)


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        ("group", [1.5, -0.5, -0.5, -0.5, 0.8660, 0.8660, -0.8660, -0.8660]),
        ("none", [0.75, -0.25, -0.25, -0.25, 0.5, 0.5, -0.5, -0.5]),
        # std of 1 0 0 0 1 1 0 0: sqrt(15/56) = 0.51755; two empty slots have no part in it
        ("batch", [1.4491, -0.4830, -0.4830, -0.4830, 0.9661, 0.9661, -0.9661, -0.9661]),
    ],
)
def test_scales_by_hand(scale: str, expected: list[float], make: Make) -> None:
    accuracies = [INFORMATIVE, [1, 1, 0, 0], WRONG, [1, 1, 1, 1]]
    trainer = make(scripted(accuracies), mini_batch_size=4, dynamic_sampling={"max_rounds": 1}, scale_rewards=scale)
    batch = trainer.next_batch()
    torch.testing.assert_close(batch["advantages"], torch.tensor(expected + [0.0] * 8), atol=1e-3, rtol=0)


def test_a_tasks_deviation_by_hand(make: Make) -> None:
    """Rows 3, 6 and 0 are math, row 2 is multi-hop. Std of math's 1 0 0 0 1 1 0 0: 0.51755, of 1 1 1 0: 0.5. The mean
    stays the group's."""
    accuracies = [INFORMATIVE, [1, 1, 0, 0], WRONG, [1, 1, 1, 0]]
    trainer = make(scripted(accuracies), mini_batch_size=4, dynamic_sampling={"max_rounds": 1}, scale_rewards="task")
    batch = trainer.next_batch()
    names = {tuple(ids): name for name, ids in trainer.batches._prompt_ids.items()}
    of_rows = [names.get(tuple(row.prompt_ids)) for row in trainer.batch.rows]
    found = {name: batch["advantages"][[n == name for n in of_rows]] for name in ("p1-3", "p1-6", "p1-2", None)}
    expected = {
        "p1-3": [1.4491, -0.4830, -0.4830, -0.4830],
        "p1-6": [0.9661, 0.9661, -0.9661, -0.9661],
        "p1-2": [0.5, 0.5, 0.5, -1.5],
        None: [0.0] * 4,
    }
    for name, values in expected.items():
        torch.testing.assert_close(found[name], torch.tensor(values), atol=1e-3, rtol=0)


GROUPS = st.lists(
    st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.booleans()), min_size=4, max_size=4),
    min_size=4,
    max_size=4,
)


@pytest.fixture(scope="module")
def bench(policy: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> LongContextGRPOTrainer:
    """One trainer for many batches; what each needs is set on it."""
    job = grpo_job(mini_batch_size=4, dynamic_sampling={"max_rounds": 1})
    work = tmp_path_factory.mktemp("bench")
    return build_trainer(
        job, inputs={"model": policy, "data": data}, work=work, scorer=scripted([]), processes=1, rank=0
    )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    groups=GROUPS,
    scale=st.sampled_from(["group", "batch", "task", "none"]),
    truncated=st.sampled_from(["keep", "mask"]),
)
def test_advantages_of_any_batch(bench: LongContextGRPOTrainer, groups: Any, scale: str, truncated: str) -> None:
    """Whatever is right and whatever is cut: the ten lines below give the same advantages and denominator."""
    bench.scale_rewards = "none" if scale == "task" else scale
    changes = {"truncated": truncated, "scale_rewards": scale}
    bench.batches.settings = bench.batches.settings.model_copy(update=changes)
    bench.batches.rollouts.scoring.scorer = scripted([[accuracy for accuracy, _ in group] for group in groups])
    write(bench, [cut for group in groups for _, cut in group])
    batch = bench.next_batch()

    counted = [[a for a, cut in group if truncated == "keep" or not cut] for group in groups]
    informative = [i for i, rewards in enumerate(counted) if len(set(rewards)) == 2]
    all_counted = [reward for i in informative for reward in counted[i]]
    expected: list[float] = []
    of_example = dict(zip((group.example.id for group in bench.batch.drawn.kept), informative, strict=True))
    ids = {tuple(prompt): name for name, prompt in bench.batches._prompt_ids.items()}
    domain = {group.example.id: group.example.domain for group in bench.batch.drawn.kept}
    for name in (ids[tuple(row.prompt_ids)] for row in bench.batch.rows[: 4 * len(informative) : 4]):
        i = of_example[name]
        of_task = [r for other, n in of_example.items() if domain[other] == domain[name] for r in counted[n]]
        deviations = {"group": counted[i], "batch": all_counted, "task": of_task}
        divisor = 1.0 if scale == "none" else stdev(deviations[scale]) + 1e-4
        for accuracy, cut in groups[i]:
            counts = truncated == "keep" or not cut
            expected.append((accuracy - fmean(counted[i])) / divisor if counts else 0.0)
    expected += [0.0] * (16 - len(expected))
    torch.testing.assert_close(batch["advantages"], torch.tensor(expected), atol=1e-4, rtol=1e-4)
    tokens = sum(len(r.completion_ids) for r in bench.batch.rows if r.in_loss)
    assert float(batch["num_items_in_batch"]) == pytest.approx(tokens * 4 / max(1, len(informative)))
    assert sum(row.in_loss for row in bench.batch.rows) == len(all_counted)


def test_a_group_weighs_in_a_batch_that_is_not_full_what_it_weighs_in_a_full_one(make: Make) -> None:
    """One of eight groups is informative; four updates have two groups each.

    A full update is the mean over the tokens of its two groups, so one group alone must give half the mean over its own
    tokens. TRL's denominator, a quarter of the batch's tokens, would give four times that mean: eight times too much.
    """
    sizes = {"batch_size": 8, "mini_batch_size": 2, "micro_batch_size": 1}
    trainer = make(scripted([INFORMATIVE] + [WRONG] * 7), **sizes, dynamic_sampling={"max_rounds": 1})
    batch = trainer.next_batch()
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 2
    first, second = split_tensor_dict(batch, 8)[:2]
    (trainer.compute_loss(trainer.model, first) + trainer.compute_loss(trainer.model, second)).backward()
    ours = gradient(trainer)
    rows = [row for row in trainer.batch.rows if row.in_loss]
    assert len(rows) == 4
    mean = torch.zeros(())
    for row, advantage in zip(rows, [1.5, -0.5, -0.5, -0.5]):
        logprobs = token_logprobs(trainer.model, row, trainer.temperature)
        mean = mean - advantage * (logprobs - logprobs.detach()).exp().sum() / sum(len(r.completion_ids) for r in rows)
    mean.backward()
    for name, of_the_mean in gradient(trainer).items():
        torch.testing.assert_close(
            ours[name], of_the_mean / 2, atol=1e-3 * float(of_the_mean.abs().max()), rtol=0, msg=name
        )
