"""Steps on pretended GPUs: those of the large profiles, and one with an error that only a GPU would run into."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from qwenlong_core.jobs import GRPOJob
from qwenlong_core.rehearsal.rehearse import model_shape, rehearse_all, run_process
from qwenlong_core.rehearsal.report import Run
from qwenlong_core.settings.profiles import load_settings
from qwenlong_core.shipped import SHIPPED

pytestmark = pytest.mark.slow

SMALL = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 8, "num_key_value_heads": 2}
LAST = "update 2, forward 2: backward"
GPU = 80 * 10**9


def asked(*overrides: str, prompt: int, completion: int, layers: tuple[int, ...], **shape: Any) -> dict[str, Any]:
    settings = load_settings("8gpu-14b", overrides)
    return {
        "job": GRPOJob.of(settings, 1, None).model_dump(mode="json"),
        "shape": model_shape(settings.model) | shape,
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "layers": layers,
    }


def terms(run: Run, label: str) -> dict[str, int]:
    return next(moment.terms for moment in run.moments if moment.label == label)


def test_an_error_of_the_cuda_path_is_found(tmp_path: Path) -> None:
    """The flash call for the GPU gets its queries in another order of dimensions; no CPU runs that line."""
    shutil.copytree(SHIPPED / "qwenlong_core", tmp_path / "qwenlong_core")
    shutil.copytree(SHIPPED / "infra" / "accelerate", tmp_path / "infra" / "accelerate")
    job = asked(prompt=300, completion=40, layers=(2,), **SMALL)
    (tmp_path / "job.json").write_text(json.dumps([job]))
    command = [sys.executable, "-m", "qwenlong_core.rehearsal.run", "--job", "job.json"]

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    whole = run()
    assert whole.returncode == 0, whole.stderr[-4000:]
    file = tmp_path / "qwenlong_core/training/logprobs/merged.py"
    right = "_aten._scaled_dot_product_flash_attention(query, key"
    text = file.read_text()
    assert text.count(right) == 1
    file.write_text(text.replace(right, "_aten._scaled_dot_product_flash_attention(query.transpose(1, 2), key"))
    broken = run()
    assert broken.returncode != 0
    assert "merged.py" in broken.stderr


def test_kept_activations_shrink_with_the_ranks_of_a_row() -> None:
    """The 14B shape at P = 120,000; every layer keeps the same, so two of them do.

    At the peak one of the two is computed again, from an input that counts with what it computes.
    """
    sizes = (1, 2, 4, 8)
    jobs = [asked(f"launch.sequence_parallel={s}", prompt=120_000, completion=4_000, layers=(2,)) for s in sizes]
    kept = {s: terms(runs[0], LAST)["kept activations"] for s, runs in zip(sizes, run_process(jobs))}
    print({s: f"{size / 2**30:.2f} GiB, {size * s / kept[1]:.3f} / {s} of one process" for s, size in kept.items()})
    for size in sizes:
        assert kept[size] <= 1.1 / size * kept[1]
    tokens = 120_000 - 1 + 8 * 4_000
    assert kept[1] == tokens * 5120 * 2, "the input of the other layer, in bfloat16"


@pytest.mark.parametrize("profile", ["8gpu-14b", "32b", "l1.5-30b"])
def test_a_large_profile_fits_its_gpus(profile: str) -> None:
    settings = load_settings(profile)
    steps = [
        (settings, f"grpo-{i}", phase.max_prompt_tokens, phase.max_completion_tokens)
        for i, phase in enumerate(settings.grpo.phases, 1)
    ]
    for (_, stage, *_), peak in zip(steps, rehearse_all(steps), strict=True):
        print(profile, stage, f"{peak.peak / 1e9:.1f} GB", peak.where)
        assert sum(peak.terms.values()) == peak.peak
        assert peak.peak < GPU, stage
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 < 6e9
