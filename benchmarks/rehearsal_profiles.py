"""The GB of each GPU in every phase of the large profiles, by a rehearsal, as the table in docs/speed.md.

    python benchmarks/rehearsal_profiles.py [--profiles 8gpu-14b 32b]

Rehearses each phase at a typical row (the middle of its prompts, 4,000 tokens a completion) and at the longest. Takes
about four minutes of one core for a profile, on any machine with g++.
"""

from __future__ import annotations

import argparse

from qwenlong_core.rehearsal.rehearse import rehearse_all
from qwenlong_core.rehearsal.report import TERMS, Peak
from qwenlong_core.settings.profiles import load_settings
from qwenlong_core.settings.tree import Settings

TYPICAL_COMPLETION = 4_000


def steps_of(settings: Settings) -> list[tuple[Settings, str, int, int]]:
    """Every phase of a profile with a typical and with its longest row."""
    steps, below = [], 0
    for index, phase in enumerate(settings.grpo.phases, 1):
        longest = phase.max_prompt_tokens
        typical = (settings, f"grpo-{index}", (below + longest) // 2, TYPICAL_COMPLETION)
        steps += [typical, (settings, f"grpo-{index}", longest, phase.max_completion_tokens)]
        below = longest
    return steps


def line(step: tuple[Settings, str, int, int], peak: Peak) -> str:
    """A line of the table, in GB (1e9 bytes)."""
    settings, stage, prompt, completion = step
    numbers = [peak.terms[name] for name in TERMS]
    cells = [settings.profile, stage, f"{prompt:,}", f"{completion:,}", f"**{peak.peak / 1e9:.1f}**"]
    return f"| {' | '.join(cells + [f'{n / 1e9:.1f}' for n in numbers])} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profiles", nargs="+", default=["8gpu-14b", "32b"])
    names = ["profile", "stage", "P", "C", "peak", *TERMS]
    print(f"| {' | '.join(names)} |\n{'|---' * len(names)}|")
    for settings in map(load_settings, parser.parse_args().profiles):
        steps = steps_of(settings)
        for step, peak in zip(steps, rehearse_all(steps)):
            print(line(step, peak), flush=True)


if __name__ == "__main__":
    main()
