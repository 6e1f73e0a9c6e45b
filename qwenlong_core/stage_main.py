"""The command line that every stage shares.

A stage is a module that a person can run by hand with the same command the pipeline uses::

    python -m qwenlong_core.data.prepare --job job.json --input base=DIR --work DIR

It reads its inputs, keeps what it needs for resuming in the ``--work`` folder, and leaves its finished output in
``WORK/output``.
"""

from __future__ import annotations

import argparse
import logging
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from qwenlong_core.proxies import spare_loopback
from qwenlong_core.settings.base import Block
from qwenlong_core.settings.rewards import with_judge_at

J = TypeVar("J", bound=Block)

OUTPUT = "output"
"""Folder under the work directory that holds a stage's finished output."""

REFUSED = "refused.txt"
"""File in the work directory that says why the stage refused its settings or data. It tells the pipeline that a
retry cannot help, even where a launcher replaces the exit status."""


def stage_main(schema: type[J], run: Callable[[J, Mapping[str, Path], Path], None]) -> None:
    """Run one stage from the command line.

    ``run(job, inputs, work)`` must leave its result in ``work / OUTPUT``. Exit status 2: it refused
    its settings or data (a ``ValueError`` or ``FileNotFoundError`` raised by this project's own
    code), and the reason is the last line on stderr and in ``work / REFUSED``. Any other exception
    ends the process with its traceback.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {run.__module__}", description=schema.__doc__)
    parser.add_argument("--job", type=Path, required=True, help="JSON file of the job's settings")
    parser.add_argument("--input", action="append", default=[], metavar="NAME=DIR", help="an input folder")
    parser.add_argument("--work", type=Path, required=True, help="working folder; the result is in WORK/output")
    parser.add_argument(
        "--judge-url", metavar="URL", help="where the judge runs that the job's settings serve themselves"
    )
    args = parser.parse_args()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    for noisy in ("httpx", "filelock", "fsspec", "matplotlib"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    spare_loopback()
    (args.work / REFUSED).unlink(missing_ok=True)
    (args.work / OUTPUT).mkdir(parents=True, exist_ok=True)
    try:
        job = schema.model_validate_json(args.job.read_text())
        if args.judge_url:
            job = with_judge_at(job, args.judge_url)
        inputs = {name: Path(path) for name, _, path in (item.partition("=") for item in args.input)}
        run(job, inputs, args.work)
    except (ValueError, FileNotFoundError) as error:
        if not raised_here(error):
            raise
        (args.work / REFUSED).write_text(str(error))
        logging.getLogger(run.__module__).error("%s", error)
        raise SystemExit(2) from None


def raised_here(error: BaseException) -> bool:
    """Whether this project's own code raised the error.

    A ``ValueError`` of ours refuses a setting or data; one raised inside a library is a fault.
    """
    # The innermost frame is where it was raised.
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    names = frames[-1].f_globals if frames else {}
    # Under `python -m` the name is "__main__", but the spec keeps the module's own.
    module = names["__spec__"].name if names.get("__spec__") else names.get("__name__", "")
    return module.partition(".")[0] in ("qwenlong", "qwenlong_core")
