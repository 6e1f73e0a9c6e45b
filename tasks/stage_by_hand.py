"""A stage's module for a command that is no pipeline: run in the interpreter of the stages (``launch.python``).

``qwenlong eval`` and ``qwenlong probe`` work in their own process if it can run stages itself, and come here if another
interpreter does.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from qwenlong.tasks.judge import Service
from qwenlong.tasks.process import run_or_refuse, stage_command
from qwenlong_core.settings.base import Block
from qwenlong_core.stage_main import OUTPUT


def run_by_hand(
    python: str,
    module: str,
    job: Block,
    inputs: dict[str, Path],
    output: Path,
    *,
    lock: int | None = None,
    judge: Service | None = None,
) -> None:
    """Run a stage's module, which writes to ``output`` and resumes what it finds there. Its lines go to stderr.

    Args:
        python: the interpreter of the stages.
        lock: descriptor of a lock that is held on ``output``, if there is one.
        judge: the judge that was started for it, if it was.

    Raises:
        StageRefused: the stage refused its settings or data.
        ProcessFailed: it ended with an error.
    """
    output.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="qwenlong-") as scratch:
        work = Path(scratch)
        (work / OUTPUT).symlink_to(output.absolute())
        (work / "job.json").write_text(job.model_dump_json())
        where = judge.url if judge else None
        command = stage_command(module, None, work / "job.json", inputs, work, python=python, judge=where)
        held = [*([] if lock is None else [lock]), *([judge.lifeline] if judge else [])]
        run_or_refuse(command, module, work, lambda line: print(line, file=sys.stderr), *held)
