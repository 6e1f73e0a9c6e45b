"""The console command ``qwenlong``.

Results go to stdout (``--json`` for machines), logs to stderr. Exit codes: 0 done (a refused
promotion is a normal end), 1 failed, 2 refused settings, data or folders, 130 interrupted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated

import typer

from qwenlong.flows.cli.artifacts import app as artifacts
from qwenlong.flows.cli.ask import ask
from qwenlong.flows.cli.environment import use_project_defaults
from qwenlong.flows.cli.evaluate import evaluate
from qwenlong.flows.cli.export import export
from qwenlong.flows.cli.generate import generate
from qwenlong.flows.cli.prepare import prepare
from qwenlong.flows.cli.probe import probe
from qwenlong.flows.cli.score import score
from qwenlong.flows.cli.sources import sources

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train, evaluate and promote long-context reasoning models. Start with `qwenlong run`.",
)

Profile = Annotated[str, typer.Option(help="Profile in infra/profiles, or a path to a .toml file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, e.g. grpo.group_size=8. Repeatable."),
]
Json = Annotated[bool, typer.Option("--json", help="Print a machine-readable result on stdout.")]


@contextmanager
def one_clear_message(*, resumes: bool = False, options: Mapping[str, str] | None = None) -> Iterator[None]:
    """Turn an expected error into its message and an exit code, without a traceback.

    Args:
        resumes: the same command goes on where it was interrupted.
        options: the command's option for a setting, named where a message names the setting.
    """
    from qwenlong.tasks.process import ProcessFailed
    from qwenlong_core.stage_main import raised_here
    from qwenlong_core.store.artifacts import ArtifactError

    try:
        use_project_defaults()
        yield
    except typer.Exit:  # a RuntimeError too
        raise
    except (ProcessFailed, ConnectionError) as error:
        _say(error, options or {})
        raise typer.Exit(1) from error
    except (ArtifactError, OSError) as error:
        _say(error, options or {})
        raise typer.Exit(2) from error
    except (ValueError, RuntimeError) as error:
        if not raised_here(error):
            raise  # a fault, not a refusal: its traceback is wanted
        _say(error, options or {})
        raise typer.Exit(2 if isinstance(error, ValueError) else 1) from error
    except KeyboardInterrupt as error:
        typer.echo("interrupted" + (": run the same command again to go on from there" if resumes else ""), err=True)
        raise typer.Exit(130) from error


def _say(error: Exception, options: Mapping[str, str]) -> None:
    from qwenlong_core.settings.secrets import without_secrets

    if isinstance(error, OSError) and error.filename is not None:
        error = OSError(
            f"{str(error.filename)!r} cannot be used ({error.strerror}): name another place, or set its permissions"
        )
    given = [f"{setting} is the option {option}" for setting, option in options.items() if setting in str(error)]
    typer.echo(without_secrets("\n".join([f"error: {error}", *given])), err=True)


@app.command()
def run(
    profile: Profile = "local",
    overrides: Overrides = None,
    refresh: Annotated[
        str | None, typer.Option(metavar="STAGE", help="Run this stage again, and everything that depends on it.")
    ] = None,
    start: Annotated[
        str | None,
        typer.Option("--from", metavar="STAGE", help="Start at this stage, on what earlier stages have left."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Run the whole pipeline: data, SFT, GRPO phases, evaluation, registry, promotion, report.

    Stages whose inputs, settings and code have not changed are taken from the store.
    """
    with one_clear_message(resumes=True):
        from qwenlong.flows.cli.run import print_result, run_pipeline

        result = run_pipeline(profile, overrides or [], refresh, start)
        print_result(result, as_json=as_json)


@app.command()
def serve(
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Prefect's port.")] = 4200,
    mlflow_port: Annotated[int, typer.Option(min=1, max=65_535, help="MLflow's port.")] = 5000,
    profile: Profile = "local",
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Start Prefect, MLflow and a worker on loopback and apply prefect.yaml. Ctrl-C stops them."""
    with one_clear_message():
        from qwenlong.flows.cli.serve import serve_all
        from qwenlong_core.settings.profiles import load_settings

        serve_all(load_settings(profile, overrides or ()), port, mlflow_port, as_json=as_json)


@app.command()
def sync(profile: Profile = "local", overrides: Overrides = None, as_json: Json = False) -> None:
    """Send MLflow the runs that it could not take while it was away. Exit code 1 if some still wait."""
    with one_clear_message():
        from qwenlong.flows.cli.sync import sync_outbox
        from qwenlong_core.settings.profiles import load_settings

        sync_outbox(load_settings(profile, overrides or ()), as_json=as_json)


@app.command()
def doctor(profile: Profile = "local", overrides: Overrides = None, as_json: Json = False) -> None:
    """Say what is installed, which accelerator and engines will be used, what is reachable, and how
    many rows each phase will see. Exit code 1 if the profile cannot run here."""
    with one_clear_message():
        from qwenlong.flows.cli.doctor import examine, print_findings
        from qwenlong_core.settings.profiles import load_settings

        findings = examine(load_settings(profile, overrides or ()))
        print_findings(findings, as_json=as_json)
        if not all(finding.ok for finding in findings):
            raise typer.Exit(1)


@app.command()
def rollback(
    reason: Annotated[str, typer.Option(help="Why, in words; kept with the version that is taken out.")],
    profile: Profile = "local",
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Give the registry's alias `champion` back to the version before the last promotion, once."""
    with one_clear_message():
        from qwenlong.flows.cli.rollback import run_rollback

        done = run_rollback(reason, profile, overrides or [])
        typer.echo(json.dumps(done) if as_json else done["rollback"])


@app.command("judge-check")
def judge_check(
    profile: Profile = "local",
    overrides: Overrides = None,
    pairs: Annotated[int, typer.Option(min=8, help="Labelled comparisons to ask about, half of them equal.")] = 200,
    seed: Annotated[int, typer.Option(help="Same seed, same comparisons.")] = 7,
    as_json: Json = False,
) -> None:
    """Ask the profile's judges about answers whose right verdict is known: Cohen's kappa, its interval
    and the confusion table. Exit code 1 if a judge gave no verdict at all."""
    with one_clear_message():
        from qwenlong.flows.cli.judge_check import check_judges, in_words
        from qwenlong_core.settings.profiles import load_settings

        found = check_judges(load_settings(profile, overrides or ()), pairs, seed)
        typer.echo(json.dumps(found) if as_json else "\n".join(in_words(name, one) for name, one in found.items()))
        if any(one["kappa"] is None for one in found.values()):
            raise typer.Exit(1)


app.add_typer(artifacts, name="artifacts")
app.command("eval")(evaluate)
app.command()(ask)
app.command()(export)
app.command()(score)
app.command()(generate)
app.command()(prepare)
app.command()(probe)
app.command()(sources)


def main() -> None:
    """Entry point of the console command."""
    app()


if __name__ == "__main__":
    main()
