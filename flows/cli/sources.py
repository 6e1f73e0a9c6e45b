"""``qwenlong sources``: which data sources can be read, and where to get them."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import typer
from rich.table import Table

from qwenlong.flows.cli.common import Json, console, one_clear_message


def sources(as_json: Json = False) -> None:
    """List the data sources for data.train, data.eval and data.sft, and where to get each."""
    from qwenlong_core.data.sources.catalogue import sources as all_sources

    with one_clear_message():
        listed = [_described(asdict(source)) for source in all_sources().values()]
    if as_json:
        typer.echo(json.dumps(listed, indent=2))
        return
    table = Table("source", "for", "domain", "size", "licence", "where", box=None)
    for row in listed:
        table.add_row(row["name"], row["role"], row["domain"], row["size"], row["licence"], row["where"])
    console(width=160).print(table)
    typer.echo(
        "\nWrite a source as NAME:PATH, NAME:HUB_ID or NAME: (its own hub id), as `generated`, or as a path to JSONL."
    )


def _described(source: dict[str, Any]) -> dict[str, Any]:
    source.pop("parse")
    place = "comes with its package" if source["place"] else ""
    places = (source["hub"] and f"hub: {source['hub']}", place, source["note"])
    source["where"] = "; ".join(part for part in places if part)
    return source
