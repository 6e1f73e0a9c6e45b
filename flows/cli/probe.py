"""``qwenlong probe``: how hard the training rows are for a model, and what a GRPO step will cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from qwenlong_core.settings.model import ModelSettings
from qwenlong_core.settings.tree import Settings


def probe(
    out: Annotated[Path, typer.Option(help="Folder to write; the same command goes on where it was stopped.")],
    profile: Annotated[str, typer.Option(help="Profile in infra/profiles, or a path to a .toml file.")] = "local",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting. Repeatable.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Model folder, bundled name or hub id; the profile's own base model if left out."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder that `qwenlong prepare` wrote; what the profile's pipeline prepared last if left out."
        ),
    ] = None,
    samples: Annotated[int | None, typer.Option(min=2, help="Completions a row; grpo.group_size if left out.")] = None,
    rows: Annotated[int, typer.Option(min=0, help="Rows a phase; 0 takes all, which the curriculum wants.")] = 32,
    as_json: Annotated[bool, typer.Option("--json", help="Print a machine-readable result on stdout.")] = False,
) -> None:
    """Measure before paying: pass rate by domain and length, rows without signal, cost of a step.

    Samples and scores training rows as GRPO will, with the profile's sampling, rewards and engine.
    """
    from qwenlong.flows.cli.main import one_clear_message  # the command line imports this module

    with one_clear_message(resumes=True):
        from qwenlong_core.jobs import ProbeJob
        from qwenlong_core.settings.profiles import load_settings
        from qwenlong_core.store.protocol import check_writable
        from qwenlong_core.training.probe import measure
        from qwenlong_core.training.probe_summary import table

        settings = load_settings(profile, overrides or ())
        job = ProbeJob.of(settings, samples or settings.grpo.group_size, rows or None)
        check_writable(out, "--out")
        prepared = data or _prepared(settings)  # looked for first: a model takes a while to import
        found = measure(job, _model(settings, model, out), prepared, out)
    typer.echo(json.dumps({"folder": str(out), **found}) if as_json else f"{table(found)}\nsee {out}")


def _model(settings: Settings, name: str | None, out: Path) -> Path:
    """A policy folder: the one named, or one imported into ``out``."""
    from qwenlong_core.models import import_base

    if name is not None and (Path(name) / "config.json").is_file():
        return Path(name)
    wanted = settings.model if name is None else ModelSettings(name=name, dtype=settings.model.dtype)
    folder = out / f"model-{wanted.name.strip('/').replace('/', '-')}"
    if not (folder / "tokenizer_config.json").is_file():  # written last
        import_base(wanted, folder)
    return folder


def _prepared(settings: Settings) -> Path:
    from qwenlong.tasks.store import open_store
    from qwenlong_core.store.artifacts import ArtifactError

    store = open_store(settings)
    record = store.latest("prepare", settings.profile)
    if record is None:
        raise ArtifactError(
            f"profile {settings.profile!r} has prepared no data yet: give --data with a folder that `qwenlong prepare`"
            " wrote"
        )
    return store.fetch(record.ref)
