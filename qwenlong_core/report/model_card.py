"""The README.md of an exported model: its origin, its scores, its data and its licence."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwenlong_core.evaluation.average import AVERAGE
from qwenlong_core.evaluation.results import Evaluation
from qwenlong_core.markdown import markdown_table
from qwenlong_core.report.tables import Interval, average_cell

_LICENCES = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": "apache-2.0",
    "Qwen/Qwen3-0.6B": "apache-2.0",
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-14B": "mit",
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B": "mit",
}
"""As stated on the cards of the base models."""
_BUNDLED = {"smollm2-135m": "HuggingFaceTB/SmolLM2-135M-Instruct"}

_USE = """## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{path}")
model = AutoModelForCausalLM.from_pretrained("{path}", dtype="auto", device_map="auto")
```

or `vllm serve {path}`. Recommended sampling: temperature 0.7, top-p 0.95, up to 10,000 new tokens.
Context: {context} tokens.
"""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One artifact on the way from the base model."""

    name: str
    digest: str
    settings: dict[str, Any]
    made: str
    """When, UTC."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a card states. The card says so where something is not known."""

    name: str
    path: str
    context: int | None
    steps: Sequence[Step]
    """From the base model on; empty for a folder of unknown origin."""
    data: Mapping[str, Any] | None
    """``summary.json`` of the data it was trained on."""
    data_digest: str | None
    evaluation: Evaluation | None
    files: Mapping[str, str]
    """SHA-256 by file name."""


def stage_name(job: Mapping[str, Any]) -> str:
    """What a stage did, in words, from its job."""
    if "phase" in job:
        return f"GRPO phase {job['index']}, prompts up to {job['phase']['max_prompt_tokens']:,} tokens"
    return "supervised fine-tuning" if "sft" in job else "base model"


def base_of(steps: Sequence[Step]) -> str | None:
    """Hub id of the base model, or ``None`` where the steps do not name one."""
    named = str(steps[0].settings.get("model", {}).get("name", "")) if steps else ""
    name = _BUNDLED.get(named, named)
    # OWNER/NAME is a hub id; everything else is a path of the machine that imported it.
    return name if name.count("/") == 1 and not name.startswith((".", "/", "~")) else None


def model_card(facts: Facts) -> str:
    """The card in markdown, with the front matter that the Hugging Face hub reads."""
    base = base_of(facts.steps)
    use = _USE.format(path=facts.path, context=f"{facts.context:,}" if facts.context else "see config.json")
    parts = [_front(base), f"# {facts.name}\n", _origin(facts, base), use, _scores(facts.evaluation), _data(facts)]
    return "\n".join(filter(None, [*parts, _settings(facts.steps), _files(facts.files), _licence(base)]))


def _front(base: str | None) -> str:
    lines = ["library_name: transformers", "pipeline_tag: text-generation", "tags: [long-context, grpo]"]
    lines += [f"base_model: {base}"] if base else []
    lines += [f"license: {_LICENCES[base]}"] if base in _LICENCES else []
    return "\n".join(["---", *lines, "---", ""])


def _origin(facts: Facts, base: str | None) -> str:
    if not facts.steps:
        return "Exported from a folder; its origin is not recorded.\n"
    if len(facts.steps) == 1:
        return f"{base or 'The base model'}, without further training; artifact `{facts.steps[0].digest}`.\n"
    rows = [{"step": s.name, "artifact (SHA-256)": f"`{s.digest}`", "made": s.made} for s in facts.steps]
    words = f"Trained by qwenlong from {base or 'a local base model'}, after QwenLong-L1 (arXiv 2505.17667).\n\n"
    return f"{words}## How it was made\n\n{markdown_table(rows)}"


def _scores(evaluation: Evaluation | None) -> str:
    if evaluation is None:
        return "## Scores\n\nNone: the model was exported without an evaluation.\n"
    plan, scores = evaluation.plan, evaluation.scores
    protocol, confidence = plan.protocol, f"{evaluation.bootstrap.confidence:.0%}"
    rows = [
        {
            "benchmark": name,
            f"score, {confidence} interval": Interval(part.accuracy),
            "items": part.items,
            "own metrics": ", ".join(f"{metric} {value:.3f}" for metric, value in part.metrics.items()),
        }
        for name, part in {**scores.sources, "all": scores.overall}.items()
    ]
    if scores.average is not None:
        average: dict[str, Any] = dict.fromkeys(rows[0], "") | {"benchmark": AVERAGE}
        rows.append(average | {list(average)[1]: average_cell(scores)})
    counts = ", ".join(f"{outcome} {count:,}" for outcome, count in scores.overall.outcomes.items())
    judge = (protocol["judge"] or {}).get("model", "none (exact match only)")
    return (
        f"## Scores\n\n{markdown_table(rows)}\nPrompts up to {protocol['max_prompt_tokens']:,} tokens (the middle of"
        f" longer documents is cut), {protocol['max_completion_tokens']:,} new tokens, temperature"
        f" {protocol['temperature']:g}, top-p {protocol['top_p']:g}, {plan.samples} per question, seed {plan.seed},"
        f" engine {protocol['engine']}, judge {judge}; intervals by bootstrap clustered on documents. Answers:"
        f" {counts}. Rows: SHA-256 `{plan.dataset_digest}`.\n"
    )


def _data(facts: Facts) -> str:
    if facts.data is None:
        return ""
    rows = [
        {
            "split": name,
            "rows": split["rows"],
            "documents": split["documents"],
            "domains": ", ".join(f"{domain} {count}" for domain, count in split["domains"].items()),
        }
        for name, split in facts.data["splits"].items()
    ]
    return f"## Data\n\nArtifact `{facts.data_digest}`.\n\n{markdown_table(rows)}"


def _settings(steps: Sequence[Step]) -> str:
    if not steps:
        return ""
    blocks = (
        f"<details><summary>{step.name}</summary>\n\n"
        f"```json\n{json.dumps(step.settings, indent=1)}\n```\n\n</details>\n"
        for step in steps
    )
    return "## Settings\n\n" + "\n".join(blocks)


def _files(files: Mapping[str, str]) -> str:
    rows = [{"file": name, "SHA-256": f"`{digest}`"} for name, digest in files.items()]
    return f"## Files\n\n{markdown_table(rows)}"


def _licence(base: str | None) -> str:
    if base in _LICENCES:
        return f"## Licence\n\n{_LICENCES[base]}, like its base model {base}.\n"
    return f"## Licence\n\nThat of its base model{f', {base}' if base else ''}.\n"
