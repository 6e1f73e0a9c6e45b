"""One process or two, one group a forward or two: the same update from the same rollouts."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from spread_batch import loss_and_gradient
from test_resume import PARITY_STAGE, Stage
from training_jobs import example, grpo_job, lines

from qwenlong_core.data.rows import write_examples

FRUITS = ("apples", "pears")
ROLLOUT_FIELDS = ("accuracy", "reward", "groups_drawn", "groups_kept", "groups_all_right", "length_mean")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("oversampling", "spreads"),
    [(1.0, [(1, 1, 1), (1, 2, 1), (2, 1, 1), (2, 2, 1), (2, 1, 2)]), (2.0, [(1, 1, 1), (2, 1, 1), (2, 1, 2)])],
)
def test_the_spread_of_a_batch_does_not_change_the_update(
    oversampling: float, spreads: list[tuple[int, int, int]], policy: Path, data: Path, tmp_path: Path
) -> None:
    """With an empty slot among what is compared, and with groups of the last step: twice what is missing is even, so
    one process and two draw the same. The last number of a spread is how many processes compute a row together."""
    ends = []
    for processes, micro, span in spreads:
        job = grpo_job(
            launch={"num_processes": processes, "cpu_threads": 1, "sequence_parallel": span},
            micro_batch_size=micro,
            batch_size=4,
            mini_batch_size=4,
            dynamic_sampling={"max_rounds": 1, "oversampling": oversampling},
        )
        work = tmp_path / f"{processes}-{micro}-{span}"
        Stage(PARITY_STAGE, job, {"model": policy, "data": data}, work, processes).finish()
        ends.append((lines(work / "output/metrics.jsonl"), load_file(work / "output/model.safetensors")))
    (rows, weights), *others = ends
    if oversampling == 1:
        assert any(row["groups_kept"] < 4 for row in rows)
    else:
        assert any(row["kept_from_last_step"] for row in rows)
    for other_rows, other_weights in others:
        for name in ROLLOUT_FIELDS:
            assert [row[name] for row in other_rows] == [row[name] for row in rows], name
        assert [r["grad_norm"] for r in other_rows] == pytest.approx([r["grad_norm"] for r in rows], rel=1e-5)
        assert [r["loss"] for r in other_rows] == pytest.approx([r["loss"] for r in rows], abs=1e-6)
        apart = max(float((tensor - other_weights[name]).abs().max()) for name, tensor in weights.items())
        assert apart < 1e-2 * job.grpo.learning_rate


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "span", "how"), [(2, 1, "replicated"), (2, 2, "sharded"), (4, 2, "sharded")])
def test_questions_on_one_document_have_the_loss_and_gradient_of_groups_run_one_by_one(
    processes: int, span: int, how: str, policy: Path, tmp_path: Path
) -> None:
    """Eight questions on two documents, drawn in turn, of which some leave empty slots; two groups a forward."""
    documents = [
        " ".join(f"Store {i * i + n} sold {i + 3} {fruit}." for i in range(9)) for n, fruit in enumerate(FRUITS)
    ]
    rows = [replace(example(i), context=documents[i % 2]) for i in range(8)]
    write_examples(tmp_path / "train.parquet", rows, [1] * 8)
    expected = loss_and_gradient("alone", 1, policy, tmp_path, tmp_path / "one", per_forward=1)
    assert 4 <= int(expected["kept"]) < 8
    tokens = spread(expected, processes, [how, span, policy, tmp_path], tmp_path / "two")
    assert tokens < 0.8 * int(expected["tokens"]), "documents that are run once"


def spread(expected: dict[str, Any], processes: int, arguments: list[Any], work: Path) -> int:
    """Hold the gradient of several processes against that of one; returns the tokens that they ran."""
    work.mkdir()
    program = map(str, [Path(__file__).with_name("spread_batch.py"), *arguments, work])
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone", *program]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    found = load_file(work / "gradient.safetensors")
    assert found.keys() == expected.keys()
    tokens = int(found.pop("tokens"))
    assert sum(float(found[name].abs().sum()) for name in found.keys() - {"loss", "kept"}) > 0
    for name in found:
        value = expected[name]
        largest = float(value.abs().max())
        # Other shapes of products round otherwise: in one process, too, a float32 gradient moves by 1.1e-6 and one in
        # double precision, up to the output head's float32, by 5e-7.
        torch.testing.assert_close(found[name], value, atol=2e-6 * largest + 1e-8, rtol=0, msg=name)
    return tokens
