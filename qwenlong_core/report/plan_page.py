"""The page of a plan: memory over a step of each stage, as stacked areas under the limit."""

from __future__ import annotations

from collections.abc import Sequence

from qwenlong_core.plan.machine import GIB
from qwenlong_core.plan.make import Plan
from qwenlong_core.plan.memory import Memory
from qwenlong_core.plan.tell import memory_rows, memory_unit, time_rows
from qwenlong_core.report.charts import stacked_chart
from qwenlong_core.report.curves import Panel
from qwenlong_core.report.page import render

_GROUPS = {
    "reserve": ("reserve",),
    "weights, gradients, optimizer": ("weights", "gradients", "optimizer"),
    "kept activations": ("kept activations",),
    "one layer and head": ("one layer", "head"),
    "engine, checkpoint": ("engine", "checkpoint"),
}
"""Terms drawn as one area, in the order of the colours."""
_BODY = """
<div class="grid">{% for p in panels %}{{ panel(p) }}{% endfor %}</div>
<h2>{{ unit }} of one process</h2>{{ table(memory) }}
<h2>Seconds of a step</h2>{{ table(times) }}
"""


def _panel(title: str, memory: Memory, limit: float) -> Panel:
    moments = list(memory.instants)
    areas = {
        name: [sum(memory.instants[moment][term] for term in terms) / GIB for moment in moments]
        for name, terms in _GROUPS.items()
    }
    return Panel(title=title, chart=stacked_chart(title, moments, areas, limit / GIB), legend=tuple(areas))


def plan_page(plan: Plan, answer: Sequence[str]) -> str:
    """The whole page as HTML."""
    panels = [
        _panel(f"{stage.name}, longest row (GiB)", stage.longest, plan.limit) for stage in plan.stages if stage.longest
    ]
    return render(
        _BODY,
        title=f"Plan of profile {plan.settings.profile}",
        subtitle=" ".join(answer),
        panels=panels,
        unit=memory_unit(plan)[0],
        memory=memory_rows(plan),
        times=time_rows(plan),
    )
