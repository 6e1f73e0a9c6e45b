"""The page of one artifact: where it came from, as a picture, with the settings and the code of every step."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from qwenlong_core.report.page import render
from qwenlong_core.report.picture import Origin, lineage_picture

_BODY = """
{{ heading('lineage') }}
<p>Each artifact above what it was made from, down to the data.</p>
<figure>{{ picture }}</figure>
</section>
{{ heading('artifacts') }}
{{ table(rows) }}
{% for step in settings %}<details><summary>Settings of {{ step.name }}</summary><pre>{{ step.text }}</pre></details>
{% endfor %}</section>
"""
_CONTENTS = ({"id": "lineage", "title": "Lineage"}, {"id": "artifacts", "title": "Artifacts and settings"})

Node = Mapping[str, Any]
"""An artifact with its parents below it, as the console prints it in JSON."""


def flat(tree: Node) -> list[Node]:
    """Each artifact of a tree once, everything after what it was made from."""
    found: dict[str, Node] = {}

    def walk(node: Node) -> None:
        if node["sha256"] not in found:
            for parent in node.get("parents", ()):
                walk(parent)
            found.setdefault(node["sha256"], node)

    walk(tree)
    return list(found.values())


def origin(node: Node) -> Origin:
    """An artifact as the picture shows it."""
    if node.get("missing"):
        return Origin(name=node["input"] or "artifact", kind="artifact", sha256=node["sha256"], note="not in the store")
    return Origin(
        name=_name(node),
        kind=node["kind"],
        sha256=node["sha256"],
        parents={parent["input"]: parent["sha256"] for parent in node["parents"]},
        note=_moment(node),
    )


def _name(node: Node) -> str:
    return str(node["stage"] or node["kind"])


def _moment(node: Node) -> str:
    return str(node["created_at"])[:16].replace("T", " ")


def _row(node: Node) -> dict[str, str]:
    if node.get("missing"):
        return {"artifact": node["input"], "sha-256": node["sha256"], "made (UTC)": "not in the store", "profile": "",
                "MLflow run": "", "code": ""}  # fmt: skip
    return {
        "artifact": _name(node),
        "sha-256": f"{node['kind']}/{node['sha256']}",
        "made (UTC)": _moment(node),
        "profile": node["profile"] or "",
        "MLflow run": node["mlflow_run_id"] or "",
        "code": node["code_digest"][:12],
    }


def lineage_page(title: str, tree: Node, facts: Sequence[tuple[str, str]] = ()) -> str:
    """The whole page as HTML.

    Args:
        title: What was asked for.
        tree: The artifact with its parents.
        facts: Name and value of what stands on top.
    """
    nodes = flat(tree)
    settings = [
        {"name": _name(node), "text": json.dumps(node["settings"], indent=2)} for node in nodes if node.get("settings")
    ]
    return render(
        _BODY,
        title=title,
        subtitle=f"{len(nodes)} artifacts.",
        facts=facts,
        contents=_CONTENTS,
        picture=lineage_picture([origin(node) for node in nodes]),
        rows=[_row(node) for node in reversed(nodes)],
        settings=settings,
    )
