"""The live view, fed with the events of a run, as rich prints it."""

import io
import logging
import sys

import pytest
from prefect.logging.handlers import PrefectConsoleHandler
from rich.console import Console

from qwenlong.flows.cli import live
from qwenlong.flows.cli.live import LiveView, can_show, live_view
from qwenlong.tasks.curves import clock, sparkline
from qwenlong.tasks.events import StageEvent, tell, watching


class Clock:
    now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock_of(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(live, "time", clock)
    return clock


def shown(view):
    console = Console(file=io.StringIO(), width=120)
    console.print(view)
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in console.file.getvalue().splitlines()]
    return {cells[0]: cells[1:] for cells in lines if len(cells) == 5}


def step(number, of, **line):
    return StageEvent(stage="grpo-1", what="step", line={"step": number, "total_steps": of, **line})


def test_states_times_steps_and_the_curve(clock_of):
    view = LiveView(["base", "sft", "grpo-1", "report"])
    with watching(view.on_event):
        for name, how in (("base", "cached"), ("sft", "ran")):
            tell(StageEvent(stage=name, what="started"))
            clock_of.now += 30
            tell(StageEvent(stage=name, what="ended", how=how))
        tell(StageEvent(stage="grpo-1", what="started"))
        clock_of.now += 9
        tell(step(1, 6, reward=0.25, groups_kept=1, groups_drawn=2))
        clock_of.now += 10
        tell(step(2, 6, reward=None, groups_kept=0, groups_drawn=4))
        clock_of.now += 10
        tell(step(3, 6, reward=0.75, groups_kept=2, groups_drawn=2))
        clock_of.now += 4
    assert shown(view) == {
        "base": ["cached", "30s", "", ""],
        "sft": ["done", "30s", "", ""],
        "grpo-1": ["running", "33s", "26s", "3/6  reward 0.75  kept 2/2 groups  ▁█"],
        "report": ["waiting", "", "", ""],
    }


def test_after_the_block_nobody_is_told(clock_of):
    view = LiveView(["base"])
    with watching(view.on_event):
        pass
    tell(StageEvent(stage="base", what="started"))
    assert view.stages["base"].state == "waiting"


def test_an_evaluation_shows_its_accuracy_and_a_new_stage_is_added(clock_of):
    view = LiveView([])
    view.on_event(StageEvent(stage="evaluate-champion", what="started"))
    view.on_event(
        StageEvent(stage="evaluate-champion", what="step", line={"step": 16, "total_steps": 88, "accuracy": 0.5})
    )
    assert shown(view)["evaluate-champion"] == ["running", "0s", "", "16/88  accuracy 0.50  ▁"]


def test_curves_and_clocks():
    assert sparkline([0, 1, 0.5]) == "▁█▅"
    assert sparkline([2.0, 2.0]) == "▁▁"
    assert len(sparkline(range(100))) == 24
    assert [clock(seconds) for seconds in (7.4, 185, 3725)] == ["7s", "3m05s", "1h02m"]


def test_the_log_keeps_to_warnings_while_it_is_shown(monkeypatch):
    handler, logger = PrefectConsoleHandler(stream=io.StringIO()), logging.getLogger("made.of.a.test")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with live_view(["base"]):
        logger.info("a step")
        logger.warning("a fault")
    logger.info("after it")
    logger.removeHandler(handler)
    assert "a fault" in stream.getvalue() and "base" in stream.getvalue()
    assert "a step" not in stream.getvalue() and handler.stream.getvalue().strip() == "after it"
    assert not can_show()
