"""The line that ends a run: what was gained, what was decided, and what to do next."""

import pytest

from qwenlong.flows.cli.run import in_one_line, shown_gain
from qwenlong_core.evaluation.statistics import Estimate
from qwenlong_core.report.tables import Interval

GAIN = Interval(
    Estimate(mean=0.52, low=0.41, high=0.62, standard_error=0.05, items=72, documents=72),
    signed=True,
)
ROW = {"part": "grpo-3 over base: all items", "items": 72, "score before": 0.19, "score after": 0.71, "gain": GAIN}


@pytest.mark.parametrize(
    ("promoted", "decided", "verdict", "alias"),
    [
        (True, "PROMOTED", "promoted to champion", "champion"),
        (False, "REFUSED", "not promoted", "challenger"),
        (False, "INCONCLUSIVE", "not promoted, for want of evidence", "challenger"),
        (False, "PROMOTED", "not promoted", "challenger"),  # as after a rollback
    ],
)
def test_the_last_line_says_what_to_do_next(promoted, decided, verdict, alias):
    result = {
        "model": {"name": "qwenlong", "version": "3"},
        "gain": [ROW],
        "promoted": promoted,
        "verdict": decided,
        "report": "runs/1/report.html",
    }
    assert in_one_line(result) == (
        f"qwenlong version 3 is {verdict}: 19% of 72 held-out questions right before training, 71% after, gain +0.52"
        " [+0.41, +0.62] (95% interval). Report: runs/1/report.html."
        f" Ask it: qwenlong ask --model models:/qwenlong@{alias} --example bond"
    )


def test_shares_have_two_decimals_and_the_gain_its_interval():
    shown = shown_gain(ROW | {"score before": 1 / 3})
    assert (shown["score before"], shown["items"], str(shown["gain"])) == ("0.33", 72, "+0.52 [+0.41, +0.62]")
