"""The console command ``qwenlong``, put together from one file per command.

Results go to stdout (``--json`` for machines), logs to stderr. Exit codes: 0 done (also when the gate refuses a
promotion), 1 failed, 2 settings, data or folders that cannot be used, 130 interrupted.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from qwenlong.flows.cli.artifacts import app as artifacts
from qwenlong.flows.cli.ask import ask
from qwenlong.flows.cli.compare import compare
from qwenlong.flows.cli.doctor import doctor
from qwenlong.flows.cli.evaluate import evaluate
from qwenlong.flows.cli.export import export
from qwenlong.flows.cli.generate import generate
from qwenlong.flows.cli.judge_check import judge_check
from qwenlong.flows.cli.plan import plan
from qwenlong.flows.cli.prepare import prepare
from qwenlong.flows.cli.probe import probe
from qwenlong.flows.cli.rollback import rollback
from qwenlong.flows.cli.run import run
from qwenlong.flows.cli.runs import runs
from qwenlong.flows.cli.samples import samples
from qwenlong.flows.cli.score import score
from qwenlong.flows.cli.serve import serve
from qwenlong.flows.cli.sources import sources
from qwenlong.flows.cli.sync import sync

app = typer.Typer(
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    help="Train, evaluate and promote long-context reasoning models. Start with `qwenlong run`.",
)

# In the order of the help page: the pipeline, its services, models, data.
app.command()(run)
app.command()(runs)
app.command()(serve)
app.command()(doctor)
app.command()(plan)
app.command()(sync)
app.command()(rollback)
app.add_typer(artifacts, name="artifacts")
app.command("eval")(evaluate)
app.command()(compare)
app.command()(samples)
app.command()(ask)
app.command()(export)
app.command("judge-check")(judge_check)
app.command()(score)
app.command()(sources)
app.command()(generate)
app.command()(prepare)
app.command()(probe)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"qwenlong {version('qwenlong')}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command that was typed."""
    app()
