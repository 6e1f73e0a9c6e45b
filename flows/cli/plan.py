"""``qwenlong plan``: what a profile needs before it runs, and whether it fits."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Annotated, Any

import typer

from qwenlong.flows.cli.common import Json, Overrides, Profile, console, one_clear_message, say, table
from qwenlong.tasks.process import HEAP
from qwenlong.tasks.store import open_store
from qwenlong_core.interpreter import executable
from qwenlong_core.plan.check import plan_here
from qwenlong_core.plan.confirm import rehearse_stages
from qwenlong_core.plan.make import Plan, make_plan
from qwenlong_core.plan.search import Found, helps_most, nearest
from qwenlong_core.plan.tell import answer, assumptions, facts, lever_table, memory_rows, memory_unit, record, time_rows
from qwenlong_core.rehearsal.shim import NoRehearsal
from qwenlong_core.settings.profiles import load_settings
from qwenlong_core.settings.tree import Settings
from qwenlong_core.store.artifacts import ArtifactError

_PROBE = "probe.json"


def plan(
    profile: Profile = "local",
    overrides: Overrides = None,
    probe: Annotated[
        Path | None,
        typer.Option(
            help="Folder that `qwenlong probe` wrote: lengths and pass rates. By default the pipeline's last probe."
        ),
    ] = None,
    chart: Annotated[
        Path | None, typer.Option(help="Write an HTML page with charts of memory over a step of each stage.")
    ] = None,
    rehearse: Annotated[
        bool, typer.Option(help="Run the trainer's step of each stage on pretended GPUs; takes minutes, and is kept.")
    ] = False,
    measure: Annotated[
        bool, typer.Option(help="First measure this machine's rates at the model's sizes, and keep them; a minute.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Memory, disk, hours and money of a profile, before its first GPU hour.

    Exit code 1 if it does not fit; the nearest settings that do are named.
    """
    with one_clear_message():
        settings = load_settings(profile, overrides or ())
        found = probe_of(settings, probe)
        if measure:
            _measure(settings)
        if rehearse:
            rehearse_stages(settings)
        made = plan_here(settings, found)
        near = [] if made.fits else nearest(made, found)
        if rehearse and near:
            near = _confirmed(near, found)
        helping = helps_most(made, found) if made.fits else []
        if chart is not None:
            from qwenlong_core.report.plan_page import plan_page

            chart.write_text(plan_page(made, answer(made, near)))
    if as_json:
        print(json.dumps(record(made, near, helping, found)))
    else:
        _print(made, near, helping, found)
    if not made.fits:
        raise typer.Exit(1)


def _measure(settings: Settings) -> None:
    """Measure this machine with the interpreter of the stages, which may be another one than this."""
    command = [executable(settings.launch.python), "-m", "qwenlong_core.plan.measure"]
    job = {"model": settings.model.model_dump(mode="json"), "folder": settings.plan.folder}
    # With the memory settings of a stage, on which the speed of everything but products depends.
    environment = HEAP | os.environ
    done = subprocess.run([*command, json.dumps(job)], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"the machine could not be measured:\n{done.stderr[-2000:]}")
    say(f"measured: {done.stdout.strip().splitlines()[-1]}")


def _confirmed(near: list[Found], probe: dict[str, Any] | None) -> list[Found]:
    """The nearest settings that also fit when they are rehearsed; the formula found them.

    Those that cannot be rehearsed stay, and the answer does not call them rehearsed.
    """
    kept = []
    for found in near:
        settings = found.plan.settings
        try:
            plan = make_plan(settings, found.plan.machine, probe, rehearse_stages(settings))
        except NoRehearsal as error:
            say(f"{' and '.join(found.overrides)} is not rehearsed: {error}")
            plan = found.plan
        kept += [Found(found.changes, plan)] if plan.fits else []
    return kept


def probe_of(settings: Settings, folder: Path | None) -> dict[str, Any] | None:
    """The probe's summary: the one that is named, else that of the pipeline's last probe stage, if there was one.

    A store that cannot be reached has none to give: a plan is made before there is a cluster.

    Raises:
        ValueError: the folder holds no finished probe.
    """
    if folder is None:
        try:
            store = open_store(settings)
            record = store.latest("probe", settings.profile)
            if record is None:
                return None
            folder = store.fetch(record.ref)
        except (ArtifactError, ConnectionError) as error:
            say(f"no probe was looked for: {error}")
            return None
    if not (folder / _PROBE).is_file():
        raise ValueError(f"{folder} has no {_PROBE}: give the folder that a finished `qwenlong probe --out` wrote")
    summary: dict[str, Any] = json.loads((folder / _PROBE).read_text())
    return summary


def _print(made: Plan, near: Any, helping: Any, probe: dict[str, Any] | None) -> None:
    out = console(width=170)
    for line in answer(made, near):
        out.print(line, style="bold", highlight=False, soft_wrap=True, markup=False)
    for line in facts(made, helping):
        out.print(line, highlight=False, soft_wrap=True, markup=False)
    unit, size = memory_unit(made)
    title = f"{unit} of one {'GPU' if made.machine.is_gpu else 'process'}, of {made.limit / size:,.1f}"
    if rows := memory_rows(made):
        out.print(table(title, rows))
    if rows := time_rows(made):
        out.print(table("Seconds of a step", rows))
    if rows := lever_table(made, probe):
        out.print(table("Seconds of a step if rollouts were cheaper", rows))
    out.print("Assumed:")
    for line in assumptions(made, probe):
        out.print(f"  {line}", highlight=False, soft_wrap=True, markup=False)
