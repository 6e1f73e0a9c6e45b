"""The smoke pipeline with its stages in another interpreter, which has vLLM and no Prefect: ``make test-vllm``."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, LlamaForCausalLM

from qwenlong_core.interpreter import installed_in
from qwenlong_core.models import load_tokenizer
from qwenlong_core.store.fingerprint import ROOT
from qwenlong_core.store.local import LocalStore

STAGES = ROOT / ".venv-vllm/bin/python"
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # one process; nothing compiled, which takes minutes; one GiB of cache
    "TORCHDYNAMO_DISABLE": "1",
    "VLLM_USE_AOT_COMPILE": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}

WORDS = ("river", "stone", "lamp", "green", "table", "paper", "window", "garden", "school", "bridge", "music", "winter")

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(3600)]


@pytest.fixture
def keeps_weights(tmp_path: Path) -> Path:
    """A plugin of vLLM: on a CPU it packs each weight for oneDNN and drops it, so that none could be loaded again."""
    folder = tmp_path / "plugin"
    about = folder / "keeps_weights-1.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: keeps-weights\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[vllm.general_plugins]\nkeeps_weights = keeps_weights:register\n")
    (folder / "keeps_weights.py").write_text(
        "def register():\n    import vllm._custom_ops as ops\n    ops._supports_onednn = False\n"
    )
    return folder


@pytest.fixture
def model(policy: Path, tmp_path: Path) -> Path:
    """The tiny policy with half the heads, twice as wide: 32 is the least that vLLM's attention on a CPU can do."""
    config = AutoConfig.from_pretrained(policy)
    config.update({"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32})
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    load_tokenizer(policy).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def write_rows(folder: Path) -> dict[str, Path]:
    """Documents of random words and a question whose answer is yes or no by chance.

    A tiny policy learns to say either, so groups have contrast; of real questions it seldom gets one right. The last
    lengths are those of the three phases of profile ``smoke``.
    """
    draw, files = random.Random(7), {}
    for split, lengths in (("sft", [40] * 64), ("train", [40] * 8 + [190] * 8 + [310] * 8), ("eval", [40] * 12)):
        files[split] = folder / f"{split}.jsonl"
        with files[split].open("w") as out:
            for i, words in enumerate(lengths):
                answer = draw.choice(["yes", "no"])
                row = {
                    "id": f"{split}-{i}",
                    "source": "test",
                    "domain": "logical",
                    "context": " ".join(draw.choices(WORDS, k=words)) + ".",
                    "question": f"Is there a {draw.choice(WORDS)} in room {i}?",
                    "answers": [answer],
                    "answer_type": "yes_no",
                    "solution": f"Therefore, the answer is {answer}.",
                }
                out.write(json.dumps(row) + "\n")
    return files


def metrics(home: Path, stage: str) -> list[dict[str, Any]]:
    store = LocalStore(home / ".qwenlong/smoke/artifacts")
    record = store.latest(stage, "smoke")
    assert record is not None
    return [json.loads(line) for line in (store.fetch(record.ref) / "metrics.jsonl").read_text().splitlines()]


def test_rollouts_and_evaluation_with_vllm(model: Path, keeps_weights: Path, tmp_path: Path) -> None:
    """The trainer's log-probs of what vLLM has sampled agree with vLLM's in every step, so it has the right weights.

    With those of another phase they would be nats apart. ``test_vllm_colocate.py`` sees a single update.
    """
    has = installed_in(str(STAGES))
    assert {"prefect", "mlflow", "boto3"}.isdisjoint(has.packages)
    assert has.version_of("transformers") != installed_in(None).version_of("transformers")
    home = tmp_path / "home"
    home.mkdir()
    rows = write_rows(tmp_path)
    given = {
        **{f"data.{split}": path for split, path in rows.items()},
        "sft.epochs": 10,
        "launch.python": STAGES,
        "launch.cpu_threads": 1,
        "model.name": model,
        "grpo.engine": "vllm-colocate",
        "evaluation.engine": "vllm",
    }
    command = [sys.executable, "-m", "qwenlong.flows.cli", "run", "--profile", "smoke", "--json"]
    command += [f"--set={name}={value}" for name, value in given.items()]
    path = os.pathsep.join([str(keeps_weights), str(ROOT)])
    environment = os.environ | ENVIRONMENT | {"PREFECT_HOME": str(home / "prefect"), "PYTHONPATH": path}
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-6000:]
    result = json.loads(done.stdout)
    how = {row["stage"]: row["how"] for row in result["stages"]}
    # A phase that had nothing to learn from ends with the weights it began with, which are evaluated once.
    assert {name for name in how if how[name] != "ran"} <= {"evaluate-grpo-1", "evaluate-grpo-2", "evaluate-grpo-3"}
    steps = [row for phase in (1, 2, 3) for row in metrics(home, f"grpo-{phase}")]
    assert len(steps) == 7
    learned_from = [row for row in steps if row["groups_kept"]]
    assert learned_from
    assert max(row["engine_mismatch"] for row in learned_from) < 1e-3
    print(json.dumps({"result": result, "steps": learned_from}))
