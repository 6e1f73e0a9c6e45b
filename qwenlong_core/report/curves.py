"""Charts of training: one panel per quantity, with all stages along one step axis."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from qwenlong_core.records import DOMAINS
from qwenlong_core.report.charts import Series, line_chart
from qwenlong_core.store.files import METRICS

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """A chart with its heading, and with the names of its lines if it has several."""

    title: str
    chart: Markup
    legend: tuple[str, ...] = ()


def _field(name: str) -> Callable[[Row], float | None]:
    return lambda row: row.get(name)


def _kept_share(row: Row) -> float | None:
    return row["groups_kept"] / row["groups_drawn"] if row.get("groups_drawn") else None


_Lines = Mapping[str, Callable[[Row], float | None]]

_SFT: dict[str, _Lines] = {
    "SFT loss": {"loss": _field("loss")},
    "SFT token accuracy": {"token accuracy": _field("mean_token_accuracy")},
}
_GRPO: dict[str, _Lines] = {
    "Reward and accuracy": {"reward": _field("reward"), "accuracy": _field("accuracy")},
    "Completion length (tokens)": {
        "mean": _field("length_mean"),
        "90th percentile": _field("length_p90"),
        "99th": _field("length_p99"),
    },
    "Entropy (nats per token)": {"entropy": _field("entropy")},
    "Groups kept by dynamic sampling (share)": {"kept": _kept_share},
    "Truncated / without an answer (share)": {
        "truncated": _field("truncated_share"),
        "no answer": _field("no_answer_share"),
    },
    "Gradient norm": {"gradient norm": _field("grad_norm")},
    "KL to the start of the phase": {"KL": _field("kl")},
    "Accuracy by domain": {domain: _field(f"accuracy_{domain}") for domain in DOMAINS},
    "Clipped ratios (share of tokens)": {"low": _field("clip_low_share"), "high": _field("clip_high_share")},
    "Unscored / rewarded by the judge alone (share)": {
        "unscored": _field("unscored_share"),
        "judge alone": _field("judge_only_share"),
    },
    "Log-prob mismatch of engine and trainer (beyond the effect of top-p)": {
        "mean": _field("engine_mismatch"),
        "largest": _field("engine_mismatch_max"),
    },
}


_IN_ONE = ("reward", "accuracy", "entropy", "length_mean", "truncated_share", "grad_norm")


def read_rows(path: Path) -> list[Row]:
    """Rows of a ``metrics.jsonl``; none where there is no such file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def idle_stages(stages: Mapping[str, Sequence[Row]]) -> list[str]:
    """What to say of each phase of GRPO that learned nothing, because no group had answers of different accuracy.

    Args:
        stages: Step lines by stage.
    """
    said = []
    for stage, rows in stages.items():
        drawn = sum(row.get("groups_drawn", 0) for row in rows)
        if drawn and not any(row["groups_kept"] for row in rows):
            said.append(
                f"{stage} learned nothing: in none of its {drawn} groups did the answers differ in accuracy. The"
                " questions may be too easy or too hard for the model, or it does not answer in the asked form."
            )
    return said


def phases_in_one(stages: Mapping[str, Sequence[Row]]) -> list[dict[str, float]]:
    """Step lines of all phases of GRPO as of one training: steps counted through, names as ``phases/reward``.

    Args:
        stages: Step lines by stage, in the order of training; other stages are passed over.
    """
    lines: list[dict[str, float]] = []
    offset = 0
    for stage, rows in stages.items():
        if not stage.startswith("grpo-"):
            continue
        for row in rows:
            shown = {f"phases/{name}": row.get(name) for name in _IN_ONE}
            shown |= {"phases/groups_kept_share": _kept_share(row), "time": row.get("time")}
            numbers = {name: value for name, value in shown.items() if value is not None}
            lines.append({"step": offset + row["step"], **numbers})
        offset += max((row["step"] for row in rows), default=0)
    return lines


def _panel(title: str, lines: _Lines, stages: Mapping[str, Sequence[Row]]) -> Panel | None:
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in lines}
    marks, offset = [], 0
    for stage, rows in stages.items():
        marks.append((offset + 1, stage))
        for row in rows:
            for name, value_of in lines.items():
                value = value_of(row)
                if value is not None:
                    found[name].append((offset + row["step"], value))
        # Each stage counts its steps from 1; on the axis they follow each other.
        offset += max((row["step"] for row in rows), default=0)
    series = [Series(name=name, points=points) for name, points in found.items() if points]
    if not series:
        return None
    legend = tuple(one.name for one in series) if len(series) > 1 else ()
    return Panel(title=title, chart=line_chart(title, series, marks if len(marks) > 1 else ()), legend=legend)


def training_panels(inputs: Mapping[str, Path]) -> list[Panel]:
    """The panels for which the training artifacts have numbers."""
    rows = {name: read_rows(folder / METRICS) for name, folder in inputs.items()}
    sft = {name: found for name, found in rows.items() if name == "sft" and found}
    grpo = {name: found for name, found in rows.items() if name.startswith("grpo-") and found}
    panels = [_panel(title, lines, grpo) for title, lines in _GRPO.items()]
    panels += [_panel(title, lines, sft) for title, lines in _SFT.items()]
    return [panel for panel in panels if panel]
