"""``qwenlong run``: the whole pipeline, a readable log, and the result as a table."""

from __future__ import annotations

import json
from contextlib import nullcontext
from typing import Annotated, Any

import typer

from qwenlong.flows.cli.common import Json, Overrides, Profile, console, one_clear_message, say, table
from qwenlong.flows.cli.environment import prefect_api, quiet_logs


def run(
    profile: Profile = "local",
    overrides: Overrides = None,
    refresh: Annotated[
        str | None, typer.Option(metavar="STAGE", help="Run this stage again, and everything that depends on it.")
    ] = None,
    start: Annotated[
        str | None,
        typer.Option("--from", metavar="STAGE", help="Start at this stage, reusing the outputs of earlier stages."),
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Print log lines, also in a terminal.")] = False,
    as_json: Json = False,
) -> None:
    """Run the whole pipeline: data, SFT, GRPO phases, evaluation, registry, promotion, report.

    A stage whose inputs, settings and code have not changed is taken from the store. A terminal shows the stages live;
    elsewhere, and with --plain or --json, the log is printed line by line.
    """
    with one_clear_message(resumes=True):
        result = _run_pipeline(profile, overrides or [], refresh, start, lines=plain or as_json)
    if as_json:
        print(json.dumps(result))
    else:
        _print_result(result)


def _run_pipeline(
    profile: str, overrides: list[str], refresh: str | None, start: str | None, *, lines: bool
) -> dict[str, Any]:
    """Check everything that can be known beforehand, then run the flow.

    Args:
        lines: Print the log line by line, also in a terminal.

    Raises:
        ValueError: settings or data that cannot be used.
    """
    from qwenlong_core.settings.profiles import load_settings

    settings = load_settings(profile, overrides)  # a wrong one is refused before Prefect and MLflow are loaded

    from qwenlong.flows.cli.live import can_show, live_view
    from qwenlong.flows.dead_runs import tagged_with_process
    from qwenlong.flows.form import BEGINNING, NOTHING
    from qwenlong.flows.full_pipeline import describe_settings, full_pipeline
    from qwenlong.flows.pipeline_run import preflight
    from qwenlong.tasks.specs import stage_names

    # The flow checks the same; here the message comes before a Prefect server is started.
    preflight(settings, refresh, start)
    say(f"profile {settings.profile}: {describe_settings(settings)}")
    with prefect_api() as url:
        quiet_logs()
        say(f"Prefect API at {url}")
        shown = nullcontext() if lines or not can_show() else live_view(stage_names(settings))
        with tagged_with_process(), shown:
            result: dict[str, Any] = full_pipeline(profile, start or BEGINNING, refresh or NOTHING, overrides=overrides)
    return result | {"mlflow_uri": settings.tracking.uri, "given": profile}


def _print_result(result: dict[str, Any]) -> None:
    """The scores, the artifacts, the registry version and where to look further."""
    from qwenlong_core.data.distill_counts import in_words

    out = console(width=120)
    out.print(table("Accuracy by stage and domain, with 95% intervals clustered on documents", result["scores"]))
    if result["gain"]:
        out.print(table("What the gain is made of", [shown_gain(row) for row in result["gain"]]))
    for note in result["notes"]:
        out.print(note, style="italic")
    for words in result["warnings"]:
        out.print(words, style="bold", soft_wrap=True)
    if result["distill"]:
        out.print(f"Distilled  {in_words(result['distill'])}", soft_wrap=True)
    out.print(table("Artifacts", [_artifact_row(row) for row in result["stages"]]))
    if all(row["how"] != "ran" for row in result["stages"]):
        out.print("Every stage was a cache hit: nothing was trained or generated.")
    version = result["model"]
    out.print(f"Registry   {version['name']} version {version['version']}; {result['promotion']}", soft_wrap=True)
    out.print(f"Report     {result['report']}", soft_wrap=True)
    serve = "make serve" if result["given"] == "local" else f"qwenlong serve --profile {result['given']}"
    out.print(f"Pages      `{serve}` shows this run in MLflow and Prefect:", soft_wrap=True)
    for path in result["refused_by_mlflow"]:
        out.print(f"Refused    MLflow did not take {path}: see `qwenlong sync`", soft_wrap=True)
    for page in filter(None, result["pages"].values()):
        out.print(f"           {page}", soft_wrap=True)
    out.print()
    out.print(in_one_line(result), soft_wrap=True)


def shown_gain(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the gain's parts with shares to two decimals."""
    return {name: f"{cell:.2f}" if type(cell) is float else cell for name, cell in row.items()}


def in_one_line(result: dict[str, Any]) -> str:
    """What was gained and decided, where to read more, and how to ask the model a question."""
    model, version, gain = result["model"]["name"], result["model"]["version"], result["gain"][0]
    refused = "not promoted, for want of evidence" if result["verdict"] == "INCONCLUSIVE" else "not promoted"
    verdict, alias = ("promoted to champion", "champion") if result["promoted"] else (refused, "challenger")
    before, after = f"{gain['score before']:.0%}", f"{gain['score after']:.0%}"
    scored = f"{before} of {gain['items']} held-out questions right before training, {after} after"
    return (
        f"{model} version {version} is {verdict}: {scored}, gain {gain['gain']} (95% interval). Report:"
        f" {result['report']}. Ask it: qwenlong ask --model models:/{model}@{alias} --example bond"
    )


def _artifact_row(row: dict[str, Any]) -> dict[str, Any]:
    again = ""
    if "taken_up_again" in row:
        again = f", taken up again {row['taken_up_again']}x, {row['lost_minutes']:.1f} min lost"
    return {
        "stage": row["stage"],
        "result": row["how"] + again,
        "seconds": f"{row['seconds']:.0f}",
        "artifact": row["sha256"][:12],
    }
