"""``qwenlong artifacts``: list the store, show where an artifact came from, verify it, clean up."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from qwenlong.flows.cli.common import Json, Overrides, Profile, console, one_clear_message
from qwenlong.tasks.references import resolve_artifact
from qwenlong.tasks.store import open_store
from qwenlong_core.settings.profiles import load_settings
from qwenlong_core.store.contents import read_contents, verify_all
from qwenlong_core.store.garbage import Rules
from qwenlong_core.store.protocol import refs_in

if TYPE_CHECKING:
    from qwenlong_core.store.artifacts import ArtifactRef

app = typer.Typer(no_args_is_help=True, help="List, trace, verify and clean up the artifacts of the store.")

Reference = Annotated[
    str, typer.Argument(metavar="REF", help="Start of a digest, KIND/DIGEST, address, or models:/qwenlong@champion.")
]


@app.command("ls")
def list_artifacts(profile: Profile = "local", overrides: Overrides = None, as_json: Json = False) -> None:
    """List the artifacts of the store, the newest first."""
    with one_clear_message():
        from qwenlong.tasks.inventory import listed

        rows = listed(read_contents(open_store(load_settings(profile, overrides or ()))))
        if as_json:
            typer.echo(json.dumps(rows))
            return
        table = Table("kind", "digest", "stage", "profile", "size", "created (UTC)", box=None)
        for row in rows:
            size = "damaged" if row["bytes"] is None else decimal(row["bytes"])
            names = (", ".join(row["stages"]), ", ".join(row["profiles"]))
            table.add_row(row["kind"], row["sha256"][:12], *names, size, row["created_at"][:19])
        console(width=160).print(table)


@app.command()
def show(
    ref: Reference,
    profile: Profile = "local",
    overrides: Overrides = None,
    with_settings: Annotated[bool, typer.Option("--settings", help="Show each stage's settings, too.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write a page with the lineage as a picture.")] = None,
    as_json: Json = False,
) -> None:
    """Show an artifact, its scores, and where it came from: every parent, back to the data."""
    with one_clear_message():
        from qwenlong.tasks.inventory import scores_of
        from qwenlong.tasks.lineage import ancestor_tree, tree_below_version
        from qwenlong_core.report.lineage_page import lineage_page

        settings = load_settings(profile, overrides or ())
        store = open_store(settings)
        contents = read_contents(store)
        found = resolve_artifact(ref, contents.refs, settings.tracking)
        tree, scores = ancestor_tree(found.sha256, contents), scores_of(store, contents, found.sha256)
        if html is not None:
            html.write_text(lineage_page(ref, tree_below_version(store, found.sha256, contents), _facts(found, scores)))
        if as_json:
            files = contents.manifests[found.sha256].model_dump()["files"] if found.sha256 in contents.manifests else {}
            typer.echo(json.dumps(tree | {"uri": found.uri, "files": files, "scores": scores}))
            return
        out = console(width=160)
        out.print(f"{found.uri}\n", soft_wrap=True)
        for score in scores:
            out.print(f"scored {score['accuracy']} over {score['items']} items, evaluation/{score['sha256'][:12]}")
        out.print(_drawn(tree, with_settings, set()))
        if html is not None:
            out.print(f"\nPage    {html}", soft_wrap=True)


def _facts(found: ArtifactRef, scores: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """What stands on top of the page."""
    facts = [("Artifact", f"{found.kind}/{found.sha256}")]
    return facts + [(f"Score, {s['items']} items, evaluation/{s['sha256'][:12]}", s["accuracy"]) for s in scores]


def _drawn(node: dict[str, Any], with_settings: bool, drawn: set[str]) -> Tree:
    """A node and its parents; the parents of one that was drawn before are not drawn again."""
    label = Text(f"{node['input']} " if node["input"] else "", "bold")
    if node.get("missing"):
        return Tree(Text.assemble(label, f"{node['sha256'][:12]} ", ("is not in the store", "red")))
    label.append(f"{node['kind']}/{node['sha256'][:12]}", "not bold")
    if node["sha256"] in drawn:
        return Tree(Text.assemble(label, "  as above"))
    drawn.add(node["sha256"])
    tree = Tree(Text.assemble(label, f"  {_made(node)}" + (f"\n{_settings(node)}" if with_settings else "")))
    for parent in node["parents"]:
        tree.add(_drawn(parent, with_settings, drawn))
    return tree


def _made(node: dict[str, Any]) -> str:
    at = f"{node['created_at'][:19]}Z"
    if not node["stage"]:
        return f"{at}, made by an unknown stage"
    return f"{at}, stage {node['stage']} of profile {node['profile']}, MLflow run {node['mlflow_run_id']}"


def _settings(node: dict[str, Any]) -> str:
    settings = json.dumps(node["settings"]) if node["settings"] is not None else "not recorded"
    return f"code {node['code_digest'][:12]}, settings {node['settings_digest'][:12]}: {settings}"


@app.command()
def verify(
    ref: Annotated[
        str | None, typer.Argument(metavar="[REF]", help="The artifact to verify; --all verifies every one.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Verify all artifacts of the store.")] = False,
    profile: Profile = "local",
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Read every byte and compare with the digests. Exit code 1 if anything is damaged."""
    with one_clear_message():
        if every == (ref is not None):
            raise ValueError("artifacts verify: name one artifact, or give --all")
        settings = load_settings(profile, overrides or ())
        store = open_store(settings)
        refs = refs_in(store.listing(), store.uri)
        damage = verify_all(store, refs if ref is None else [resolve_artifact(ref, refs, settings.tracking)])
        broken = {name: files for name, files in damage.items() if files}
        if as_json:
            typer.echo(json.dumps({"verified": len(damage), "damaged": broken}))
        else:
            for name, files in broken.items():
                typer.echo(
                    f"{name}: damaged: {', '.join(files)}; run its stage again with `qwenlong run --refresh STAGE`"
                )
            typer.echo(f"{len(damage)} artifacts verified, {len(broken)} damaged")
        if broken:
            raise typer.Exit(1)


@app.command()
def gc(
    keep_days: Annotated[float, typer.Option(min=0, help="Keep artifacts and records younger than this.")] = 30.0,
    grace_hours: Annotated[
        float, typer.Option(min=0, help="Keep unfinished uploads and all other files younger than this.")
    ] = 24.0,
    delete: Annotated[bool, typer.Option("--delete", help="Actually delete (default: dry run).")] = False,
    profile: Profile = "local",
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Delete artifacts that nothing needs; a dry run unless --delete is given.

    Needed are the artifacts of registry versions and open runs, the newest result of each stage and profile, and
    everything that one of these was made from.
    """
    with one_clear_message():
        from qwenlong.tasks.inventory import collect, freed

        settings = load_settings(profile, overrides or ())
        rules = Rules(datetime.now(UTC), timedelta(days=keep_days), timedelta(hours=grace_hours))
        doomed = collect(open_store(settings), settings.tracking, rules, delete=delete)
        if as_json:
            rows = [{"name": each.stored.name, "bytes": each.stored.size, "reason": each.reason} for each in doomed]
            typer.echo(json.dumps({"deleted": delete, "doomed": rows}))
            return
        for (folder, reason), (count, size) in freed(doomed).items():
            typer.echo(f"{folder}  {decimal(size)} in {count} files  ({reason})")
        if not doomed:
            typer.echo("nothing to delete")
        else:
            total = f"{decimal(sum(each.stored.size for each in doomed))} in {len(doomed)} files"
            typer.echo(f"{total} deleted" if delete else f"{total}; nothing was deleted: give --delete to delete these")
