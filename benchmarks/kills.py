"""Kills at random moments over all stages of the pipeline: are the weights the same, and is anything left behind?

    python benchmarks/kills.py --output DIR                       # 30 kills, six in each state folder
    python benchmarks/kills.py --output DIR --kills 6             # the first folder only; call again for more
    python benchmarks/kills.py --output DIR --set launch.cpu_threads=1

An undisturbed run of the profile ``smoke`` comes first: it gives the weights, and how long each stage takes. Then,
folder by folder, ``qwenlong run`` is started in an empty one, killed at a drawn moment, started again, and so on, until
it may end in peace. A kill is SIGTERM or SIGKILL, to the process group or to the main process alone. Moments and ways
are drawn from ``--seed``; ``kills.jsonl`` has a line for each, and what it has is not done again.

After SIGTERM no process may be alive, and MLflow and Prefect must show nothing as running. After SIGKILL a training
that has lost its pipeline may live on, and the next run waits for it. After a folder's last run there must be no
process, held lock, temporary file or checkpoint, and nothing that is shown as running. Prints tables in Markdown; exit
code 1 if anything differed or was left.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from left_behind import MARK, alive, alive_after, left, shown_as_running, weights

WAYS = [(sign, whom) for sign in ("SIGTERM", "SIGKILL") for whom in ("group", "main process")]
IN_A_FOLDER = 6
END = "end"
"""From the last stage's line to the end of the process."""
STATE = Path(".qwenlong/smoke")
_DONE = re.compile(r"stage \d+/\d+ (\S+): ")
_ENDED_SECONDS = 30.0
"""Time for Prefect's server and a killed group to be gone."""


class Run:
    """``qwenlong run`` in a folder, in a process group of its own."""

    def __init__(self, home: Path, arguments: Sequence[str]) -> None:
        self.home, self.begun = home, time.monotonic()
        self.done: dict[str, float] = {}
        """Seconds from the start to the end of each stage so far."""
        (home / "tmp").mkdir(parents=True, exist_ok=True)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        environment |= {MARK: str(home), "TMPDIR": str(home / "tmp")}
        command = [sys.executable, "-m", "qwenlong.flows.cli", "run", "--profile", "smoke", "--json", *arguments]
        with (home / "result.json").open("w") as result:
            self.process = subprocess.Popen(
                command, cwd=home, env=environment, stdout=result, stderr=subprocess.PIPE, start_new_session=True,
                text=True, errors="replace",
            )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        with (self.home / "log").open("a") as log:
            for line in self.process.stderr:
                log.write(line)
                log.flush()
                if found := _DONE.search(line):
                    self.done[found[1]] = self.seconds

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.begun

    def finish(self) -> dict[str, Any]:
        """Wait for its end; returns its result."""
        if self.process.wait():
            raise SystemExit(f"the run in {self.home} failed: see its log")
        self._reader.join(60)
        result: dict[str, Any] = json.loads((self.home / "result.json").read_text())
        return result

    def at(self, order: Sequence[str]) -> str:
        """The stage at work."""
        return next((stage for stage in order if stage not in self.done), END)

    def reached(self, order: Sequence[str], moment: dict[str, Any]) -> bool:
        """Wait for a moment; ``False`` if the run ended before it."""
        place = [*order, END].index(moment["stage"])
        while self.process.poll() is None:
            begun = self.done.get(order[place - 1]) if place else 0.0
            if begun is not None and self.seconds >= begun + moment["after"]:
                return True
            time.sleep(0.02)
        return False

    def kill(self, sign: str, whom: str) -> float:
        """Kill it; returns the seconds until the main process had ended."""
        begun, number = time.monotonic(), getattr(signal, sign)
        (os.killpg if whom == "group" else os.kill)(self.process.pid, number)
        self.process.wait(600)
        return time.monotonic() - begun


@contextmanager
def ended_with_this(home: Path) -> Iterator[None]:
    """If the block fails or is interrupted, end what it started in the folder."""
    try:
        yield
    except BaseException:
        for pid in alive(home):
            os.kill(pid, signal.SIGKILL)
        raise


def undisturbed(output: Path, arguments: Sequence[str]) -> dict[str, Any]:
    """Stages in their order, seconds of each, and the weights; made once."""
    known = output / "undisturbed.json"
    if not known.exists():
        shutil.rmtree(output / "undisturbed", ignore_errors=True)
        run = Run(output / "undisturbed", arguments)
        result = run.finish()
        ends = [0.0, *run.done.values(), run.seconds]
        seconds = {
            stage: after - before for stage, before, after in zip([*run.done, END], ends[:-1], ends[1:], strict=True)
        }
        after_all = left(run.home, run.home / STATE)
        found = {"order": list(run.done), "seconds": seconds, "weights": weights(result), "left": after_all}
        known.write_text(json.dumps(found, indent=1))
    stored: dict[str, Any] = json.loads(known.read_text())
    return stored


def drawn(seed: int, folder: int, seconds: dict[str, float]) -> list[dict[str, Any]]:
    """The kills of a folder, in the order of the pipeline. Over the folders all stages come equally often."""
    first = folder * IN_A_FOLDER
    stages, ways = (_dealt(cards, random.Random(f"{seed}-{cards}"), first) for cards in (list(seconds), WAYS))
    rng = random.Random(f"{seed}-{folder}")
    kills = [
        {"stage": stage, "after": rng.random() * seconds[stage], "signal": sign, "whom": whom}
        for stage, (sign, whom) in zip(stages, ways, strict=True)
    ]
    order = list(seconds)
    return sorted(kills, key=lambda kill: (order.index(kill["stage"]), kill["after"]))


def _dealt(cards: Sequence[Any], rng: random.Random, first: int) -> list[Any]:
    dealt: list[Any] = []
    while len(dealt) < first + IN_A_FOLDER:
        dealt += rng.sample(cards, len(cards))
    return dealt[first : first + IN_A_FOLDER]


def killed(run: Run, order: Sequence[str], moment: dict[str, Any]) -> dict[str, Any]:
    """Kill a run that has reached its moment; what happened, and what should have ended and has not."""
    stage, after = run.at(order), run.seconds
    took = run.kill(moment["signal"], moment["whom"])
    lives = list(alive_after(run.home, _ENDED_SECONDS).values())
    if (moment["signal"], moment["whom"]) == ("SIGKILL", "main process"):
        lives = [command for command in lives if "own_server" in command]
    bad = [f"process {command}" for command in lives]
    if moment["signal"] == "SIGTERM":
        bad += shown_as_running(run.home, run.home / STATE)
    status = run.process.returncode
    return {"stage": stage, "run_s": round(after, 1), "ended_s": round(took, 1), "status": status, "left": bad}


def in_folder(
    output: Path, number: int, moments: Sequence[dict[str, Any]], known: dict[str, Any], arguments: Sequence[str]
) -> None:
    """The kills of one folder that are not done yet, and its last run."""
    home, rows = output / f"folder-{number}", [row for row in read(output) if row["folder"] == number]
    missed = False
    for moment in moments[len(rows) :]:
        run = Run(home, arguments)
        missed = not run.reached(known["order"], moment)
        if missed:
            break
        write(output, {"folder": number, **moment, **killed(run, known["order"], moment)})
    if not missed:
        run = Run(home, arguments)
    result = run.finish()
    found = weights(result)
    differing = [stage for stage in known["weights"] if found.get(stage) != known["weights"][stage]]
    after_all = left(home, home / STATE)
    write(output, {"folder": number, "ended": True, "models": len(found), "differing": differing, "left": after_all})
    if not differing and not after_all:
        shutil.rmtree(home / ".qwenlong")


def read(output: Path) -> list[dict[str, Any]]:
    """The lines so far."""
    path = output / "kills.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def write(output: Path, row: dict[str, Any]) -> None:
    """Add a line, and show it."""
    with (output / "kills.jsonl").open("a") as stream:
        print(json.dumps(row), file=stream)
    print(json.dumps(row), file=sys.stderr, flush=True)


def tables(rows: Sequence[dict[str, Any]], order: Sequence[str]) -> str:
    """The kills by way and by stage, and the folders."""
    kills, folders = [row for row in rows if "signal" in row], [row for row in rows if row.get("ended")]
    lines = ["| signal | to | kills | seconds to the end: median, longest | left |", "|---|---|---|---|---|"]
    for sign, whom in WAYS:
        of = [row for row in kills if (row["signal"], row["whom"]) == (sign, whom)]
        took = sorted(row["ended_s"] for row in of) or [0.0]
        bad = sum(bool(row["left"]) for row in of)
        lines.append(f"| {sign} | {whom} | {len(of)} | {took[len(took) // 2]}, {took[-1]} | {bad or 'nothing'} |")
    hit = {stage: sum(row["stage"] == stage for row in kills) for stage in [*order, END]}
    lines += ["", "Hit: " + ", ".join(f"{stage} {count}" for stage, count in hit.items() if count)]
    equal = sum(not row["differing"] for row in folders)
    clean = sum(not row["left"] for row in folders)
    lines.append(f"Folders: {len(folders)}; weights of all models equal in {equal}, nothing left in {clean}")
    return "\n".join(lines)


def main() -> None:
    """Kill until there are as many kills as asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", dest="overrides", metavar="KEY=VALUE", action="append", default=[])
    args = parser.parse_args()
    arguments = [part for override in args.overrides for part in ("--set", override)]
    output: Path = args.output.absolute()
    output.mkdir(parents=True, exist_ok=True)
    with ended_with_this(output / "undisturbed"):
        known = undisturbed(output, arguments)
    folder = 0
    while (missing := args.kills - _count(output, before=folder)) > 0:
        if not any(row["folder"] == folder and row.get("ended") for row in read(output)):
            moments = drawn(args.seed, folder, known["seconds"])[:missing]
            with ended_with_this(output / f"folder-{folder}"):
                in_folder(output, folder, moments, known, arguments)
        folder += 1
    rows = read(output)
    print(tables(rows, known["order"]))
    if any(row["left"] or row.get("differing") for row in rows):
        raise SystemExit(1)


def _count(output: Path, before: int) -> int:
    return sum("signal" in row and row["folder"] < before for row in read(output))


if __name__ == "__main__":
    main()
