"""Summary of a probe: pass rates, rows without a training signal, and the cost of a GRPO step."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from math import comb
from statistics import fmean
from typing import Any

from qwenlong_core.jobs import ProbeJob

Line = Mapping[str, Any]


def informative_chance(right: int, samples: int, group_size: int) -> float:
    """Chance that a group of ``group_size`` completions holds right and wrong ones, and so gives a gradient.

    With at least ``group_size`` samples this is unbiased: the share of all ways to draw the group from the samples.
    With fewer, the measured pass rate stands in for the true one.
    """
    if samples >= group_size:
        same = comb(right, group_size) + comb(samples - right, group_size)
        return 1 - same / comb(samples, group_size)
    rate = right / samples  # 1 - P(all right) - P(all wrong) of independent draws
    return float(1 - rate**group_size - (1 - rate) ** group_size)


def _right(line: Line) -> int:
    return sum(accuracy >= 0.5 for accuracy in line["accuracies"])


def _statistics(lines: Sequence[Line], group_size: int) -> dict[str, Any]:
    right = [_right(line) for line in lines]
    samples = [len(line["accuracies"]) for line in lines]
    return {
        "rows": len(lines),
        "pass_rate": fmean(r / n for r, n in zip(right, samples)),
        "all_wrong_share": fmean(r == 0 for r in right),
        "all_right_share": fmean(r == n for r, n in zip(right, samples)),
        "informative_share": fmean(informative_chance(r, n, group_size) for r, n in zip(right, samples)),
        "truncated_share": sum(line["truncated"] for line in lines) / sum(samples),
        "prompt_tokens": fmean(line["prompt_tokens"] for line in lines),
        "completion_tokens": fmean(tokens for line in lines for tokens in line["tokens"]),
        "seconds_per_completion": fmean(line["seconds"] / n for line, n in zip(lines, samples)),
    }


def step_cost(found: Mapping[str, Any], job: ProbeJob) -> dict[str, Any]:
    """What a GRPO step of a phase will draw, and how long the sampling takes.

    Dynamic sampling draws until the batch is full of informative groups or ``max_rounds`` are used up. So on average
    ``groups_drawn`` is ``batch_size / informative share``, but at most ``batch_size * max_rounds``. Tokens count each
    prompt once per group. Seconds cover sampling alone, as measured on this machine.
    """
    share = found["informative_share"]
    allowed = job.batch_size * job.max_rounds
    drawn = min(job.batch_size / share, allowed) if share else float(allowed)
    return {
        "groups_drawn": drawn,
        "groups_kept": min(float(job.batch_size), drawn * share),
        "tokens": drawn * (found["prompt_tokens"] + job.group_size * found["completion_tokens"]),
        "sampling_seconds": drawn * job.group_size * found["seconds_per_completion"],
    }


def summary(lines: Sequence[Line], job: ProbeJob) -> dict[str, Any]:
    """Statistics by phase, with the cost of a step, and by domain within each phase."""

    def by(key: Callable[[Line], Hashable]) -> dict[Any, list[Line]]:
        found: dict[Any, list[Line]] = {}
        for line in lines:
            found.setdefault(key(line), []).append(line)
        return found

    phases = {}
    for index, members in sorted(by(lambda line: line["step"]).items()):
        of_phase = _statistics(members, job.group_size)
        phases[str(index)] = of_phase | {
            "max_prompt_tokens": job.phases[index - 1].max_prompt_tokens,
            "step": step_cost(of_phase, job),
        }
    domains = {
        f"{index}/{domain}": _statistics(members, job.group_size)
        for (index, domain), members in sorted(by(lambda line: (line["step"], line["domain"])).items())
    }
    return {"samples": job.samples, "group_size": job.group_size, "phases": phases, "domains": domains}


_HEAD = f"{'rows':>26} {'pass':>6} {'all wrong':>10} {'all right':>10} {'informative':>12} {'cut off':>8}"


def _row(name: str, found: Mapping[str, Any]) -> str:
    shares = (found[f"{key}_share"] for key in ("all_wrong", "all_right", "informative", "truncated"))
    wrong, right, informative, cut = shares
    return (
        f"{name:<18} {found['rows']:>7} {found['pass_rate']:>6.1%} {wrong:>10.1%} {right:>10.1%} {informative:>12.1%}"
        f" {cut:>8.1%}"
    )


def table(found: Mapping[str, Any]) -> str:
    """The summary as a text table for the console."""
    lines = [f"{found['samples']} completions per row; informative: share of groups of {found['group_size']}", _HEAD]
    for index, phase in found["phases"].items():
        lines.append(_row(f"phase {index}", phase))
        members = {k.partition("/")[2]: v for k, v in found["domains"].items() if k.startswith(f"{index}/")}
        lines += [_row(f"  {domain}", one) for domain, one in members.items()]
    for index, phase in found["phases"].items():
        step = phase["step"]
        lines.append(
            f"a step of phase {index}: {step['groups_drawn']:.1f} groups drawn for {step['groups_kept']:.1f}"
            f" informative ones, {step['tokens']:,.0f} tokens, {step['sampling_seconds']:,.0f} s of sampling here"
        )
    return "\n".join(lines)
