"""What the commands share: options, one clear message for an expected error, values for settings, tables."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from qwenlong.flows.cli.environment import use_project_defaults
from qwenlong.tasks.process import ProcessFailed
from qwenlong_core.errors import QwenlongError
from qwenlong_core.settings.secrets import without_secrets
from qwenlong_core.stage_main import raised_here
from qwenlong_core.store.artifacts import ArtifactError, DiskFull

Profile = Annotated[str, typer.Option(help="Name of a profile in infra/profiles, or path of a .toml file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, e.g. grpo.group_size=8. Repeatable."),
]
Json = Annotated[bool, typer.Option("--json", help="Print a machine-readable result on stdout.")]

_REF = typer.Option(
    "--model",
    metavar="REF",
    help="Folder, hub id, smollm2-135m, artifact (model/DIGEST) or models:/qwenlong@champion.",
)
ModelRef = Annotated[str, _REF]
OptionalModelRef = Annotated[str | None, _REF]
TokenizerOf = Annotated[
    str,
    typer.Option("--model", help="Model whose tokenizer counts: smollm2-135m, a model folder or a hub id."),
]

Server = Annotated[
    str | None,
    typer.Option("--server", metavar="URL", help="Base URL of an OpenAI-compatible server that generates the answers."),
]
ServerModel = Annotated[
    str | None, typer.Option("--server-model", help="The server's name for the model; by default REF.")
]
ServerKeyVariable = Annotated[
    str | None, typer.Option("--server-key-variable", help="Environment variable that holds the server's key.")
]
JudgeUrl = Annotated[str | None, typer.Option("--judge", metavar="URL", help="Base URL of an OpenAI-compatible judge.")]
JudgeModel = Annotated[str | None, typer.Option("--judge-model", help="Model that the judge's endpoint serves.")]
JudgeKeyVariable = Annotated[
    str | None, typer.Option("--judge-key-variable", help="Environment variable that holds the judge's key.")
]

SERVER_OPTIONS = {
    "evaluation.engine": "--engine",
    "evaluation.server": "--server",
    "evaluation.server.api_key_variable": "--server-key-variable",
}
"""Options for settings, for :func:`one_clear_message`."""


class Terminated(KeyboardInterrupt):
    """SIGTERM: treated like Ctrl-C, but for the exit code."""


def _terminate(*_: object) -> None:
    # Whoever sends it twice does not mean that nothing should be saved.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Terminated


_SETTING = re.compile(r"[a-z]\w*(?:\.\w+)+")


@contextmanager
def one_clear_message(*, resumes: bool = False, options: Mapping[str, str] | None = None) -> Iterator[None]:
    """Turn an expected error into its message and an exit code, without a traceback.

    Args:
        resumes: whether the same command, run again, continues where it was interrupted.
        options: the command's option for a setting. The core's messages name settings; where one names a
            setting that this command has an option for, a second line names the option.
    """
    options = options or {}
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        use_project_defaults()
        yield
    except typer.Exit:  # is a RuntimeError
        raise
    except (ProcessFailed, ConnectionError, DiskFull) as error:
        raise _exit(error, 1, options) from error
    except (ArtifactError, OSError) as error:
        raise _exit(error, 2, options) from error
    except (ValueError, RuntimeError) as error:
        if not (isinstance(error, QwenlongError) or raised_here(error)):
            raise  # a fault inside a library: its traceback is needed
        raise _exit(error, 2 if isinstance(error, ValueError) else 1, options) from error
    except KeyboardInterrupt as error:
        what, code = ("stopped by SIGTERM", 143) if isinstance(error, Terminated) else ("interrupted", 130)
        typer.echo(what + (": run the same command again to resume" if resumes else ""), err=True)
        raise typer.Exit(code) from error
    except Exception as error:
        if type(error).__module__ != "mlflow.exceptions":  # to import it would take seconds
            raise
        message = f"MLflow did not do what it was asked: {error}. Is the server of tracking.uri up?"
        raise _exit(ConnectionError(message), 1, options) from error
    finally:
        signal.signal(signal.SIGTERM, before)


def _exit(error: Exception, code: int, options: Mapping[str, str]) -> typer.Exit:
    if isinstance(error, OSError) and error.filename is not None:
        error = OSError(
            f"{str(error.filename)!r} cannot be used ({error.strerror}): name another place, or set its permissions"
        )
    named = set(_SETTING.findall(str(error)))
    hints = [f"{setting} is the option {option} here" for setting, option in options.items() if setting in named]
    typer.echo(without_secrets("\n".join([f"error: {error}", *hints])), err=True)
    return typer.Exit(code)


def given_values(block: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by dotted name for :func:`load_settings`, without the options that the user left out."""
    return {f"{block}.{name}": value for name, value in values.items() if value is not None}


def server_values(url: str | None, served: str | None, key_variable: str | None, model: str | None) -> dict[str, Any]:
    """Settings that make a server generate the answers; none if there is no server.

    Args:
        served: the server's name for the model; by default ``model``.

    Raises:
        typer.BadParameter: an option of the server is given without its address.
    """
    if url is None:
        if served or key_variable:
            raise typer.BadParameter("--server-model and --server-key-variable need --server")
        return {}
    server = {"base_url": url, "model": served or model, "api_key_variable": key_variable}
    return {"evaluation.engine": "openai"} | given_values("evaluation.server", server)


def judge_values(url: str | None, model: str | None, key_variable: str | None) -> dict[str, Any]:
    """Settings of the evaluation's judge; none if there is no judge.

    Raises:
        typer.BadParameter: see :func:`check_judge`.
    """
    check_judge(url, model, key_variable)
    given = given_values("evaluation.judge", {"base_url": url, "model": model, "api_key_variable": key_variable})
    return given | ({"evaluation.judge.serve": None} if url else {})  # it takes the place of one that is started here


def check_engine(server: str | None, engine: str | None) -> None:
    """Refuse an engine beside a server.

    Raises:
        ValueError: both are given.
    """
    if server is not None and engine not in (None, "openai"):
        raise ValueError(f"--server replaces the engine, so --engine {engine} would do nothing: leave one of them out")


def check_judge(url: str | None, model: str | None, key_variable: str | None) -> None:
    """Refuse half a judge.

    Raises:
        typer.BadParameter: the address, the model or the key's variable is given without the others.
    """
    if (url is None) != (model is None):
        raise typer.BadParameter("--judge and --judge-model go together")
    if key_variable is not None and url is None:
        raise typer.BadParameter("--judge-key-variable needs --judge")


def busy(words: str) -> AbstractContextManager[object]:
    """A spinner with these words on a terminal, for what takes seconds in silence."""
    return Console(stderr=True).status(words) if sys.stderr.isatty() else nullcontext()


def say(text: str) -> None:
    """Print a line for the user on stderr, beside the result on stdout."""
    print(f"qwenlong: {text}", file=sys.stderr)


def table(title: str, rows: list[dict[str, Any]]) -> Table:
    """A table with one line per row and the keys of the first row as columns; ``rows`` must not be empty."""
    shown = Table(title=title, title_justify="left")
    for name in rows[0]:
        shown.add_column(name)
    for row in rows:
        shown.add_row(*(str(value) for value in row.values()))
    return shown


def console(width: int, *, stderr: bool = False) -> Console:
    """A console as wide as the terminal, or of a fixed ``width`` where the output goes elsewhere.

    It prints text as it is: as rich's markup, ``pip install ".[gpu]"`` would lose its extra. Style a ``Text``.
    """
    stream = sys.stderr if stderr else sys.stdout
    return Console(width=None if stream.isatty() else width, markup=False, stderr=stderr)
