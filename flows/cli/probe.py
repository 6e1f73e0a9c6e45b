"""``qwenlong probe``: how hard the training rows are for a model, and what a GRPO step costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from qwenlong.flows.cli.common import Json, Overrides, Profile, one_clear_message, say
from qwenlong.tasks.judge import at, served
from qwenlong.tasks.stage_by_hand import run_by_hand
from qwenlong.tasks.store import open_store
from qwenlong_core.settings.model import ModelSettings
from qwenlong_core.settings.profiles import load_settings
from qwenlong_core.settings.tree import Settings
from qwenlong_core.store.artifacts import ArtifactError
from qwenlong_core.store.protocol import check_writable


def probe(
    out: Annotated[Path, typer.Option(help="Folder to write; the same command resumes there.")],
    profile: Profile = "local",
    overrides: Overrides = None,
    model: Annotated[
        str | None,
        typer.Option(help="Model folder, bundled name or hub id; by default the profile's base model."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder that `qwenlong prepare` wrote; by default the data that the profile's pipeline prepared last."
        ),
    ] = None,
    samples: Annotated[int | None, typer.Option(min=2, help="Completions per row; by default grpo.group_size.")] = None,
    rows: Annotated[int, typer.Option(min=0, help="Rows per phase; 0 takes all, as the curriculum needs.")] = 32,
    as_json: Json = False,
) -> None:
    """Measure before training: pass rate by domain and length, rows without a learning signal, cost of a step.

    Training rows are sampled and scored as GRPO will, with the profile's sampling, rewards and engine.
    """
    with one_clear_message(resumes=True, options={"model.name": "--model"}):
        settings = load_settings(profile, overrides or ())  # a wrong one is refused before anything heavy is loaded

        from qwenlong_core.jobs import ProbeJob
        from qwenlong_core.training.probe import SUMMARY, measure
        from qwenlong_core.training.probe_summary import table

        job = ProbeJob.of(settings, samples or settings.grpo.group_size, rows or None)
        check_writable(out, "--out")
        prepared = data or _prepared(settings)  # before the model, whose import takes a while
        inputs = {"model": _model(settings, model, out), "data": prepared}
        with served(settings.rewards.judge, settings.launch, out / "judge.log", say) as judge:
            if settings.launch.python:
                run_by_hand(settings.launch.python, "qwenlong_core.training.probe", job, inputs, out, judge=judge)
                found = json.loads((out / SUMMARY).read_text())
            else:
                found = measure(at(judge, job), inputs["model"], inputs["data"], out)
    typer.echo(json.dumps({"folder": str(out), **found}) if as_json else f"{table(found)}\nsee {out}")


def _model(settings: Settings, name: str | None, out: Path) -> Path:
    """The policy's folder: the one named, or one imported into ``out``."""
    from qwenlong_core.models import import_base

    if name is not None and (Path(name) / "config.json").is_file():
        return Path(name)
    wanted = settings.model if name is None else ModelSettings(name=name, dtype=settings.model.dtype)
    folder = out / f"model-{wanted.name.strip('/').replace('/', '-')}"
    if not (folder / "tokenizer_config.json").is_file():  # the file that an import writes last
        import_base(wanted, folder)
    return folder


def _prepared(settings: Settings) -> Path:
    store = open_store(settings)
    record = store.latest("prepare", settings.profile)
    if record is None:
        raise ArtifactError(
            f"the pipeline of profile {settings.profile!r} has prepared no data yet: give --data with a folder that"
            " `qwenlong prepare` wrote"
        )
    return store.fetch(record.ref)
