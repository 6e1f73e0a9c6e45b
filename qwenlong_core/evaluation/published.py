"""The paper's own scores, to compare ours with: QwenLong-L1, arXiv 2505.17667, table 4.

One sample per item, judged by DeepSeek-V3, 200 items per benchmark (FRAMES: 824). They are the authors' numbers on
the authors' data; this project measured none of them.
"""

from typing import NamedTuple

BENCHMARKS = {
    "docmath": "DocMath",
    "frames": "FRAMES",
    "2wikimultihopqa": "2WikiMQA",
    "hotpotqa": "HotpotQA",
    "musique": "MuSiQue",
    "narrativeqa": "NarrativeQA",
    "qasper": "Qasper",
}
"""Our name of each benchmark, and the paper's."""

SCORES: dict[str, tuple[float, ...]] = {
    "R1-Distill-Qwen-14B": (61.0, 64.2, 87.0, 77.5, 58.0, 51.0, 51.0),
    "14B + SFT": (60.0, 65.7, 88.5, 80.5, 60.0, 52.0, 48.5),
    "14B + SFT + GRPO": (65.0, 68.7, 88.5, 86.5, 63.5, 53.5, 51.5),
    "14B + SFT + DAPO": (65.5, 67.4, 89.0, 84.0, 63.0, 57.0, 52.5),
    "R1-Distill-Qwen-32B": (62.5, 67.0, 84.0, 80.5, 61.0, 54.0, 50.0),
    "32B + SFT": (65.0, 71.6, 87.0, 80.5, 65.5, 57.5, 54.0),
    "32B + SFT + GRPO": (68.0, 72.2, 87.0, 82.0, 66.0, 61.0, 56.0),
    "QwenLong-L1-32B (DAPO)": (67.5, 70.1, 90.5, 83.0, 69.0, 56.0, 58.5),
    "Claude-3.7-Sonnet-Thinking": (67.5, 70.9, 86.5, 84.4, 68.3, 61.5, 56.0),
    "OpenAI o3-mini": (66.5, 75.5, 86.5, 83.5, 66.5, 59.0, 55.0),
    "Qwen3-235B-A22B": (67.5, 74.6, 91.5, 84.4, 63.3, 60.0, 53.0),
}
"""Percent by model, in the order of :data:`BENCHMARKS`."""

ITEMS = {"frames": 824}
"""Questions of a benchmark; the others have 200."""
PROTOCOL = {
    "max_prompt_tokens": 120_000,
    "max_completion_tokens": 10_000,
    "temperature": 0.7,
    "top_p": 0.95,
    "samples": 1,
    "document": "whole",
}
"""Section 3.2 and the released evaluation scripts, by the names of our settings."""
JUDGE = "deepseek-chat"
"""The judge's name at its provider, as the released scripts ask for it: DeepSeek-V3 at that time."""


class Published(NamedTuple):
    """How the numbers of a long benchmark are made that its authors publish."""

    judges: tuple[str, ...] = ()
    """Models that decide, any of them; none where a rule does."""
    samples: int = 1
    """Answers per question."""


LONG = {
    "aa-lcr": Published(("Qwen3-235B-A22B-Instruct-2507", "Qwen/Qwen3-235B-A22B-Instruct-2507"), samples=4),
    "corpusqa": Published(("deepseek-v3", "deepseek-chat")),
}
"""Long benchmarks that a judge decides."""
