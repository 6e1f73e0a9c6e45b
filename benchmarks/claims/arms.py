"""The claims, and the arms that are compared for each. Settings were fixed on a pilot seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SEEDS = (11, 12, 13, 14, 15)
EVERY = 10
"""Steps between two evaluations on the held-out questions."""
PHASES, ONE_STAGE = (20, 20, 20), (60,)


@dataclass(frozen=True)
class Arm:
    """One way to train."""

    name: str
    """Also of its result files: the claims that have the arm share its runs."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Settings that differ from those that all claims share."""
    steps: tuple[int, ...] = PHASES
    """GRPO steps of each phase."""
    cache_tokens: int = 8
    """Tokens before the limit over which the length penalty falls; 1 leaves a penalty for answers cut at the limit."""
    warm_up: float = 0.1
    """Epochs of SFT before GRPO; 0 skips it."""
    uniform: bool = False
    """Whether earlier rows return with equal weights: their difficulties are made equal between the phases."""
    rows: Mapping[str, str] = field(default_factory=dict)
    """Files of a split other than the world's own."""
    judge: bool = False
    """Whether the judge of known errors is asked where the rule does not pay."""


@dataclass(frozen=True)
class Claim:
    """Arms that are compared, the first with each of the others."""

    name: str
    said: str
    """What the article or the paper says."""
    measure: str
    """The difference that answers it, by its name in the claim's table."""
    arms: Mapping[str, Arm]
    """By what they are in this comparison."""
    drawn: str = "accuracy"
    """Which accuracy is in the picture, is gained over the start, and is reached where something is saved."""


_WORDS = {"sft": "sft-words.jsonl"}
_MASKED = {**_WORDS, "train": "train-masked.jsonl"}
_JUDGED = {"rewards": {"max_judge_only_share": 1.0}}


def _grpo(**changes: Any) -> dict[str, Any]:
    return {"grpo": changes}


_IN_PHASES = Arm("phases")
_IN_ONE_STAGE = Arm("one-stage", steps=ONE_STAGE)

CLAIMS = {
    claim.name: claim
    for claim in (
        Claim(
            "phases",
            "article: phases of growing length converge 40% faster than one stage",
            "tokens saved",
            {"phases": _IN_PHASES, "one stage": _IN_ONE_STAGE},
        ),
        Claim(
            "curriculum",
            "article: the curriculum has 67% lower KL",
            "KL saved",
            {
                "by difficulty": _IN_PHASES,
                "uniform": Arm("uniform", uniform=True),
                "no earlier rows": Arm("no-retrospective", _grpo(curriculum={"retrospective_share": 0.0})),
            },
        ),
        Claim(
            "reward",
            "article: the hybrid reward has 23% higher recall",
            "by construction",
            {
                "hybrid": Arm("hybrid", _JUDGED, ONE_STAGE, rows=_WORDS, judge=True),
                "rule alone": Arm("rule-alone", steps=ONE_STAGE, rows=_WORDS),
                "judge alone": Arm("judge-alone", _JUDGED, ONE_STAGE, rows=_MASKED, judge=True),
            },
            "by_construction",
        ),
        Claim(
            "warm-up",
            "paper (section 4.2): long SFT leaves RL little to add",
            "gain",
            {
                "short SFT": _IN_PHASES,
                "no SFT": Arm("no-sft", warm_up=0.0),
                "long SFT": Arm("long-sft", warm_up=1.0),
            },
        ),
        Claim(
            "ablations",
            "paper: dynamic sampling, the length penalty and the handling of truncated answers each help",
            "accuracy",
            {
                "all on": _IN_ONE_STAGE,
                "no dynamic sampling": Arm("no-dynamic", _grpo(dynamic_sampling={"max_rounds": 1}), ONE_STAGE),
                "no length penalty": Arm("no-penalty", steps=ONE_STAGE, cache_tokens=1),
                "truncated masked": Arm("masked", _grpo(truncated="mask"), ONE_STAGE),
            },
        ),
    )
}
