"""``qwenlong artifacts``: look into the store, trace an artifact back, verify it, clean up."""

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

from qwenlong_core.settings.tree import Settings

app = typer.Typer(no_args_is_help=True, help="List, trace, verify and clean up artifacts, in a folder or a bucket.")

Profile = Annotated[str, typer.Option(help="Profile in infra/profiles, or a path to a .toml file.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting.")]
Json = Annotated[bool, typer.Option("--json", help="Print a machine-readable result on stdout.")]
Reference = Annotated[
    str, typer.Argument(metavar="REF", help="Start of a digest, KIND/DIGEST, an address, or models:/qwenlong@champion.")
]
_console = Console(width=160)


def _settings(profile: str, overrides: list[str] | None) -> Settings:
    from qwenlong_core.settings.profiles import load_settings

    return load_settings(profile, overrides or ())


@app.command("ls")
def list_artifacts(profile: Profile = "local", overrides: Overrides = None, as_json: Json = False) -> None:
    """List the artifacts of the store, the newest first."""
    from qwenlong.flows.cli.main import one_clear_message  # the command line imports this module

    with one_clear_message():
        from qwenlong.tasks.inventory import listed
        from qwenlong.tasks.store import open_store
        from qwenlong_core.store.contents import read_contents

        rows = listed(read_contents(open_store(_settings(profile, overrides))))
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
    from qwenlong.flows.cli.main import one_clear_message

    with one_clear_message():
        from qwenlong.tasks.lineage import ancestor_tree
        from qwenlong.tasks.references import resolve_artifact
        from qwenlong.tasks.store import open_store
        from qwenlong_core.store.contents import read_contents

        settings = _settings(profile, overrides)
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
    ref: Annotated[str | None, typer.Argument(metavar="[REF]", help="One artifact; or give --all.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All artifacts of the store.")] = False,
    profile: Profile = "local",
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Read every byte and compare with the digests. Exit code 1 if anything is damaged."""
    from qwenlong.flows.cli.main import one_clear_message

    with one_clear_message():
        from qwenlong.tasks.references import resolve_artifact
        from qwenlong.tasks.store import open_store
        from qwenlong_core.store.contents import verify_all
        from qwenlong_core.store.protocol import refs_in

        if every == (ref is not None):
            raise ValueError("artifacts verify: give one artifact, or --all")
        settings = _settings(profile, overrides)
        store = open_store(settings)
        refs = refs_in(store.listing(), store.uri)
        damage = verify_all(store, refs if ref is None else [resolve_artifact(ref, refs, settings.tracking)])
        broken = {name: files for name, files in damage.items() if files}
        if as_json:
            typer.echo(json.dumps({"verified": len(damage), "damaged": broken}))
        else:
            for name, files in broken.items():
                typer.echo(f"{name}: damaged: {', '.join(files)}; re-run its stage with --refresh")
            typer.echo(f"{len(damage)} artifacts verified, {len(broken)} damaged")
        if broken:
            raise typer.Exit(1)


@app.command()
def gc(
    keep_days: Annotated[float, typer.Option(min=0, help="Artifacts and records younger than this stay.")] = 30.0,
    grace_hours: Annotated[
        float, typer.Option(min=0, help="Unfinished uploads and everything else younger than this stay.")
    ] = 24.0,
    delete: Annotated[bool, typer.Option("--delete", help="Do it; without, only say what would go.")] = False,
    profile: Profile = "local",
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Remove what nothing needs: no registry version, no open run, no newest result of a stage and
    profile, and no artifact made from it. Says only what would go, unless --delete is given."""
    from qwenlong.flows.cli.main import one_clear_message

    with one_clear_message():
        from qwenlong.tasks.inventory import collect, freed
        from qwenlong.tasks.store import open_store
        from qwenlong_core.store.garbage import Rules

        settings = _settings(profile, overrides)
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
            typer.echo("nothing to remove")
        else:
            typer.echo("removed" if delete else "nothing was touched: give --delete to remove them")
