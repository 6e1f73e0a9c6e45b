"""The GB of each GPU in every phase of the large profiles, by a rehearsal, as the table in docs/speed.md.

    python benchmarks/rehearsal_profiles.py [--profiles 8gpu-14b 32b l1.5-30b] [--typical 10000 40000 90000]

    python benchmarks/rehearsal_profiles.py --whole          the last phase's longest row, at full depth too

Rehearses each phase at a typical row (4,000 tokens a completion) and at the longest. Takes
about four minutes of one core for a profile, on any machine with g++. ``--whole`` checks the rule by which a few layers
stand for all.
"""

from __future__ import annotations

import argparse

from qwenlong_core.rehearsal.rehearse import model_shape, rehearse, rehearse_all
from qwenlong_core.rehearsal.report import TERMS, Peak
from qwenlong_core.settings.profiles import load_settings
from qwenlong_core.settings.tree import Settings

TYPICAL_COMPLETION = 4_000


def steps_of(settings: Settings, prompts: list[int]) -> list[tuple[Settings, str, int, int]]:
    """Every phase of a profile with a typical and with its longest row."""
    steps = []
    for index, (phase, typical) in enumerate(zip(settings.grpo.phases, prompts, strict=True), 1):
        steps.append((settings, f"grpo-{index}", typical, TYPICAL_COMPLETION))
        steps.append((settings, f"grpo-{index}", phase.max_prompt_tokens, phase.max_completion_tokens))
    return steps


def line(step: tuple[Settings, str, int, int], peak: Peak) -> str:
    """A line of the table, in GB (1e9 bytes)."""
    settings, stage, prompt, completion = step
    numbers = [peak.terms[name] for name in TERMS]
    cells = [settings.profile, stage, f"{prompt:,}", f"{completion:,}", f"**{peak.peak / 1e9:.1f}**"]
    return f"| {' | '.join(cells + [f'{n / 1e9:.1f}' for n in numbers])} |"


def by_rule_and_whole(settings: Settings) -> str:
    """The peak of the last phase's longest row by the linear rule, and with all layers rehearsed."""
    index, phase = len(settings.grpo.phases), settings.grpo.phases[-1]
    step = (settings, f"grpo-{index}", phase.max_prompt_tokens, phase.max_completion_tokens)
    layers = model_shape(settings.model)["num_hidden_layers"]
    rule, whole = rehearse(*step), rehearse(*step, layers=layers)
    apart = rule.peak / whole.peak - 1
    return (
        f"{settings.profile} {step[1]}: {rule.peak / 1e9:.3f} GB by the rule, {whole.peak / 1e9:.3f} with all {layers}"
        f" layers: {apart:+.3%}, FLOPs {'equal' if rule.flops == whole.flops else 'unlike'}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profiles", nargs="+", default=["8gpu-14b", "32b", "l1.5-30b"])
    parser.add_argument("--typical", nargs="+", type=int, default=[10_000, 40_000, 90_000], help="P of each phase")
    parser.add_argument("--whole", action="store_true", help="compare the linear rule with the full depth")
    args = parser.parse_args()
    if args.whole:
        for profile in args.profiles:
            print(by_rule_and_whole(load_settings(profile)), flush=True)
        return
    names = ["profile", "stage", "P", "C", "peak", *TERMS]
    print(f"| {' | '.join(names)} |\n{'|---' * len(names)}|")
    for settings in map(load_settings, args.profiles):
        steps = steps_of(settings, args.typical)
        for step, peak in zip(steps, rehearse_all(steps)):
            print(line(step, peak), flush=True)


if __name__ == "__main__":
    main()
