"""``qwenlong artifacts``: list the store, show where an artifact came from, verify it, clean up."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from qwenlong.flows.cli.common import Json, Overrides, Profile, one_clear_message
from qwenlong.tasks.references import resolve_artifact
from qwenlong.tasks.store import open_store
from qwenlong_core.settings.profiles import load_settings
from qwenlong_core.store.contents import read_contents, verify_all
from qwenlong_core.store.garbage import Rules
from qwenlong_core.store.protocol import refs_in

app = typer.Typer(no_args_is_help=True, help="List, trace, verify and clean up the artifacts of the store.")

Reference = Annotated[
    str, typer.Argument(metavar="REF", help="Start of a digest, KIND/DIGEST, address, or models:/qwenlong@champion.")
]
_console = Console(width=160)


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
        _console.print(table)


@app.command()
def show(ref: Reference, profile: Profile = "local", overrides: Overrides = None, as_json: Json = False) -> None:
    """Show an artifact and where it came from: settings, code and every parent, back to the data."""
    with one_clear_message():
        from qwenlong.tasks.lineage import ancestor_tree

        settings = load_settings(profile, overrides or ())
        contents = read_contents(open_store(settings))
        found = resolve_artifact(ref, contents.refs, settings.tracking)
        tree = ancestor_tree(found.sha256, contents)
        if as_json:
            files = contents.manifests[found.sha256].model_dump()["files"] if found.sha256 in contents.manifests else {}
            typer.echo(json.dumps(tree | {"uri": found.uri, "files": files}))
            return
        _console.print(f"{found.uri}\n")
        _console.print(_drawn(tree))


def _drawn(node: dict[str, Any]) -> Tree:
    label = f"[bold]{node['input']}[/] " if node["input"] else ""
    if node.get("missing"):
        return Tree(f"{label}{node['sha256'][:12]} [red]is not in the store[/]")
    made = (
        f"stage {node['stage']}, profile {node['profile']}, MLflow run {node['mlflow_run_id']}"
        if node["stage"]
        else "no record"
    )
    lines = [
        f"{label}{node['kind']}/{node['sha256']}  {node['created_at'][:19]}",
        made,
        f"code {node['code_digest'][:12]}, settings {node['settings_digest'][:12]}: "
        + escape(json.dumps(node["settings"]) if node["settings"] is not None else "not recorded"),
    ]
    tree = Tree("\n".join(lines))
    for parent in node["parents"]:
        tree.add(_drawn(parent))
    return tree


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
        for each in doomed:
            typer.echo(f"{each.stored.name}  ({each.reason})")
        for reason, (count, size) in freed(doomed).items():
            typer.echo(f"{reason}: {count} files, {decimal(size)}")
        if not doomed:
            typer.echo("nothing to delete")
        else:
            typer.echo("deleted" if delete else "nothing was deleted: give --delete to delete these")
