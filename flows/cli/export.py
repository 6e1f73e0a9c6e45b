"""``qwenlong export``: a model as a folder that transformers and vLLM load, with a model card."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from qwenlong.flows.cli.common import Json, ModelRef, Overrides, busy, one_clear_message
from qwenlong_core.settings.profiles import load_settings
from qwenlong_core.settings.tree import Settings


def export(
    model: ModelRef,
    out: Annotated[Path, typer.Option(help="Folder to write; it must be new or empty.")],
    evaluation: Annotated[
        str | None,
        typer.Option(
            metavar="LOGDIR",
            help="Its evaluation, a folder or evaluation/DIGEST; by default the one it was registered with.",
        ),
    ] = None,
    profile: Annotated[str, typer.Option(help="Profile that supplies store and registry.")] = "local",
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Write a model with a model card (README.md): data, settings, scores, digests, lineage, licence."""
    with one_clear_message():
        settings = load_settings(profile, overrides or ())
        with busy("copying the model"):
            result = _export(settings, model, out, evaluation)
    typer.echo(
        json.dumps(result)
        if as_json
        else f"{result['folder']}: {len(result['files'])} files and the model card, README.md"
    )


def _export(settings: Settings, given: str, out: Path, evaluation: str | None) -> dict[str, Any]:
    from dataclasses import replace

    from qwenlong.tasks.models import resolve_model
    from qwenlong_core.report.model_card import model_card
    from qwenlong_core.store.artifacts import NOTES
    from qwenlong_core.store.files import MANIFEST, digest_file, files_below
    from qwenlong_core.training.output import OF_TRAINING

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out {out} is not empty: name a new folder; nothing is overwritten")
    model = resolve_model(settings, given)
    facts = _facts(settings, model, out, evaluation)
    staging = out.with_name(f".{out.name}.unfinished")
    shutil.rmtree(staging, ignore_errors=True)
    ours = (MANIFEST, *NOTES, *OF_TRAINING, "README.md", ".*")
    # copyfile and not copy: a store's files may be readable by their owner alone, what is given away is not.
    shutil.copytree(model.folder, staging, ignore=shutil.ignore_patterns(*ours), copy_function=shutil.copyfile)
    try:
        files = {path.relative_to(staging).as_posix(): digest_file(path) for path in files_below(staging)}
        _check_copied(model.folder, files)
        (staging / "README.md").write_text(model_card(replace(facts, files=files)), encoding="utf-8")
        if out.exists():
            out.rmdir()
        staging.rename(out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return {"folder": str(out), "model": given, "files": files}


def _facts(settings: Settings, model: Any, out: Path, evaluation: str | None) -> Any:
    """What the card states, except the files."""
    from qwenlong.tasks.lineage import lineage
    from qwenlong.tasks.store import open_store
    from qwenlong_core.data.prepared import SUMMARY
    from qwenlong_core.generation.load import context_of
    from qwenlong_core.report.model_card import Facts

    store = open_store(settings)
    known = model.artifact is not None and store.manifest(model.artifact) is not None
    steps, data = lineage(store, model.artifact) if known else ([], None)
    summary = store.fetch(data) / SUMMARY if data else None
    return Facts(
        name=out.name,
        path=str(out),
        context=context_of(model.folder),
        steps=steps,
        data=json.loads(summary.read_text()) if summary and summary.is_file() else None,
        data_digest=data.sha256 if data else None,
        evaluation=_evaluation(store, model, evaluation),
        files={},
    )


def _evaluation(store: Any, model: Any, given: str | None) -> Any:
    """The model's evaluation: the one given, or the one it was registered with.

    Raises:
        ValueError: the evaluation given is of another model.
    """
    from qwenlong.tasks.references import evaluation_folder
    from qwenlong_core.evaluation.results import read_evaluation
    from qwenlong_core.store.artifacts import folder_digest

    if given is None:
        return read_evaluation(store.fetch(model.evaluation)) if model.evaluation else None
    evaluation = read_evaluation(evaluation_folder(store, given))
    digest = model.artifact.sha256 if model.artifact else folder_digest(model.folder)
    if evaluation.plan.model_digest != digest:
        raise ValueError(
            f"--evaluation {given} is of model {evaluation.plan.model_digest[:12]}, not of {model.given}"
            f" ({digest[:12]}): give an evaluation of this model, or none"
        )
    return evaluation


def _check_copied(folder: Path, files: dict[str, str]) -> None:
    """Check the copies against the manifest, if there is one.

    Raises:
        ArtifactError: a file changed while it was copied.
    """
    from qwenlong_core.store.artifacts import ArtifactError, Manifest
    from qwenlong_core.store.files import MANIFEST

    if not (folder / MANIFEST).is_file():
        return
    known = Manifest.model_validate_json((folder / MANIFEST).read_text()).files
    for name, digest in files.items():
        if known[name].sha256 != digest:
            raise ArtifactError(
                f"{folder / name} differs from its manifest: the disk is failing, or a process is changing the file"
            )
