"""A real tiny policy, a few real rows, and a trainer over them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from parity_stage import score_parity
from training_jobs import example, grpo_job

from qwenlong_core.bundled import bundled_tokenizer
from qwenlong_core.data.prompts import render_prompt
from qwenlong_core.data.rows import write_examples
from qwenlong_core.models import tiny_policy
from qwenlong_core.training.grpo import build_trainer, train_phase
from qwenlong_core.training.rollout import Scorer
from qwenlong_core.training.trainer import LongContextGRPOTrainer

LICENSE = Path(__file__).parents[2] / "LICENSE"
VOCABULARY = 1024


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny policy with 1,024 tokens in place of 49,152, on which a training would spend half of its time."""
    tokenizer: Any = bundled_tokenizer()
    prompts = [render_prompt(tokenizer, example(i)) for i in range(10)]
    texts = [*prompts, LICENSE.read_text()]  # which will not change
    tokenizer = tokenizer.train_new_from_iterator(texts, vocab_size=VOCABULARY)
    assert len(tokenizer) == VOCABULARY
    folder = tmp_path_factory.mktemp("policy")
    tiny_policy(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def plain_run(policy: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work folder of the test job as it is, for tests that compare their own run with it or go on from it."""
    work = tmp_path_factory.mktemp("plain")
    train_phase(grpo_job(), {"model": policy, "data": data}, work, score_parity)
    return work


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten SFT rows, and training rows of two phases."""
    folder = tmp_path_factory.mktemp("data")
    write_examples(folder / "sft.parquet", [example(i) for i in range(10)])
    rows = [(example(i, phase), phase) for phase in (1, 2) for i in range(8)]
    write_examples(folder / "train.parquet", [row for row, _ in rows], [phase for _, phase in rows])
    return folder


@pytest.fixture
def make(policy: Path, data: Path, tmp_path: Path) -> Callable[..., LongContextGRPOTrainer]:
    """``make(scorer, **changes)``: a trainer of the test job."""

    def build(scorer: Scorer, **changes: Any) -> LongContextGRPOTrainer:
        return build_trainer(
            grpo_job(**changes),
            inputs={"model": policy, "data": data},
            work=tmp_path,
            scorer=scorer,
            processes=1,
            rank=0,
        )

    return build
