"""``qwenlong ask``: a question about one document, answered on the terminal as it is written."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from qwenlong.flows.cli.common import (
    SERVER_OPTIONS,
    ModelRef,
    Server,
    ServerKeyVariable,
    ServerModel,
    check_engine,
    given_values,
    one_clear_message,
    say,
    server_values,
)
from qwenlong_core.records import Example
from qwenlong_core.settings.evaluation import EvaluationSettings
from qwenlong_core.settings.profiles import load_settings
from qwenlong_core.settings.tree import Settings

_GREY, _PLAIN, _LINE_START = "\x1b[2m", "\x1b[0m", "\r\x1b[K"


def ask(
    document: Annotated[Path | None, typer.Option(help="A text, Markdown or JSON file.")] = None,
    question: Annotated[str | None, typer.Option(help="What to ask about it.")] = None,
    example: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="bond or debt: a case study instead, with a document and a known answer."),
    ] = None,
    model: ModelRef = "smollm2-135m",
    engine: Annotated[
        str | None,
        typer.Option(help="transformers or openai (needs --server)."),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Longest answer in tokens; by default 10,000, or less in a shorter context."),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, help="0 takes the most likely token; by default the paper's 0.7.")
    ] = None,
    top_p: Annotated[float | None, typer.Option(min=0.01, max=1, help="By default the paper's 0.95.")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**32 - 1, help="Same seed, same answer; by default a new one every time.")
    ] = None,
    show_thinking: Annotated[
        bool, typer.Option("--show-thinking", help="Print the thinking instead of only counting its tokens.")
    ] = False,
    server: Server = None,
    server_model: ServerModel = None,
    server_key_variable: ServerKeyVariable = None,
    profile: Annotated[str, typer.Option(help="Profile that supplies store, registry and model settings.")] = "local",
) -> None:
    """Ask about a document, with the paper's prompt and recommended sampling.

    The answer goes to stdout as it is generated. Everything else, such as what was cut from a long document, goes to
    stderr. With --example, the document is written to .qwenlong/examples and the answer is scored.
    """
    values = {
        **given_values("evaluation", {"engine": engine, "temperature": temperature, "top_p": top_p}),
        **server_values(server, server_model, server_key_variable, model),
    }
    with one_clear_message(options=SERVER_OPTIONS):
        check_engine(server, engine)
        asked = example or _own_row(document, question)
        if example is not None:
            from qwenlong.flows.cli.ask_example import check_example

            check_example(example, document, question)
        # PAPER_PROTOCOL's module loads MLflow, and the checks above should answer at once.
        from qwenlong.flows.cli.evaluation_run import PAPER_PROTOCOL

        settings = load_settings(profile, values={**PAPER_PROTOCOL, **values})
        if settings.evaluation.engine == "vllm":
            raise ValueError(
                "evaluation.engine='vllm' cannot answer here: vLLM shares no environment with Prefect, which this "
                "command needs. Start `vllm serve FOLDER` in the environment of the stages and give --server, or set "
                "evaluation.engine='transformers'"
            )
        _answer(settings, model, asked, max_tokens=max_tokens, seed=seed, show_thinking=show_thinking)


def _own_row(document: Path | None, question: str | None) -> Example:
    """The user's own document and question. Only these two reach the prompt; a row needs the other fields.

    Raises:
        ValueError: one of them is missing, or cannot be used.
    """
    if document is None or question is None:
        missing = "--document" if document is None else "--question"
        raise ValueError(f"{missing} is missing: give --document FILE and --question TEXT, or --example NAME")
    text = read_document(document)
    if not question.strip():
        raise ValueError("--question is empty: ask something")
    return Example(
        id="question",
        source="ask",
        domain="reading",
        answer_type="span",
        context=text,
        question=question,
        answers=("",),
    )


def _answer(
    settings: Settings,
    given: str,
    asked: Example | str,
    *,
    max_tokens: int | None,
    seed: int | None,
    show_thinking: bool,
) -> None:
    """Load what is needed, print the answer as it is generated, and say on stderr what was cut.

    Args:
        asked: the user's own row, or the name of an example.
    """
    from transformers.utils import logging as transformers_logging

    from qwenlong.tasks.models import resolve_model, resolve_tokenizer
    from qwenlong_core.data.prompts import (
        encode,
        opens_thinking,
        render_prompt,
        served_message,
    )
    from qwenlong_core.generation.engine import Sampling
    from qwenlong_core.generation.streaming import split_thinking
    from qwenlong_core.models import load_tokenizer

    transformers_logging.disable_progress_bar()
    model = (resolve_tokenizer if settings.evaluation.server else resolve_model)(settings, given)
    prompt_limit, limit = _limits(model, max_tokens)
    tokenizer = load_tokenizer(model.folder)
    shown, wording = _shown(settings, asked, tokenizer, prompt_limit)
    prompt = render_prompt(tokenizer, shown, wording)
    chosen = settings.evaluation
    sampling = Sampling(chosen.temperature, chosen.top_p, limit, seed, chosen.stop)
    message = served_message(tokenizer, wording(shown))
    pieces = _pieces(settings, model.folder, tokenizer, message, encode(tokenizer, prompt), sampling)
    started = time.monotonic()
    answer: list[str] = []
    tokens = _print(_kept(split_thinking(pieces, opens_thinking(prompt)), answer), show_thinking)
    ended = f"cut off at the limit of {limit:,} tokens (--max-tokens)" if tokens >= limit else f"{tokens:,} tokens"
    say(f"{model.name}: {ended} in {time.monotonic() - started:.1f} s")
    if not isinstance(asked, Example):
        from qwenlong.flows.cli.ask_example import say_outcome

        say_outcome(shown, "".join(answer), tokens >= limit, settings.rewards.number_tolerance)


def _shown(settings: Settings, asked: Example | str, tokenizer: Any, limit: int) -> tuple[Example, Any]:
    """The row as the model sees it, and the wording of its prompt; says what was cut from the user's document."""
    from qwenlong_core.data.prompts import analysis_message, truncate_middle, user_message

    if not isinstance(asked, Example):
        from qwenlong.flows.cli.ask_example import write_example

        # Asked as in evaluation, whose wording asks for a form of answer that can be scored.
        return write_example(asked, settings.data.prompt_form, tokenizer, limit), user_message
    shown, kept, lost = truncate_middle(tokenizer, asked, limit, analysis_message)
    if lost:
        say(
            f"the document has {kept + lost:,} tokens: the model reads the first and last of them, {kept:,} in all; the"
            f" {lost:,} in the middle are left out"
        )
    return shown, analysis_message


def _kept(parts: Iterator[Any], answer: list[str]) -> Iterator[Any]:
    """The parts as they come; the text of the answer is added to ``answer``."""
    for part in parts:
        if not part.thinking:
            answer.append(part.text)
        yield part


def _limits(model: Any, max_tokens: int | None) -> tuple[int, int]:
    """The most tokens of prompt and answer; says so if the answer gets less than the paper recommends."""
    from qwenlong_core.evaluation.limits import fit_limits
    from qwenlong_core.generation.load import context_of

    context = context_of(model.folder)
    if max_tokens is not None and context is not None and max_tokens >= context:
        raise ValueError(
            f"--max-tokens {max_tokens} leaves no room for the document in a context of {context:,}: lower it"
        )
    prompt, limit = fit_limits(context, completion=max_tokens)
    recommended = EvaluationSettings().max_completion_tokens
    if max_tokens is None and limit < recommended:
        say(
            f"the context of {model.name} is {context:,} tokens: an answer may take {limit:,}, not the recommended"
            f" {recommended:,}"
        )
    return prompt, limit


def _pieces(
    settings: Settings, folder: Path, tokenizer: Any, message: str, ids: list[int], sampling: Any
) -> Iterator[Any]:
    """The answer in pieces, from the server or from transformers.

    Args:
        message: the user's message, which a server renders itself.
        ids: the rendered prompt in tokens, for the engine of this process.
    """
    from qwenlong_core.generation.streaming import stream_local, stream_served

    if settings.evaluation.server is not None:
        yield from stream_served(settings.evaluation.server, message, sampling)
    else:
        from qwenlong_core.generation.load import load_on_device

        yield from stream_local(load_on_device(folder, settings.model), tokenizer, ids, sampling)


def _print(parts: Iterator[Any], show_thinking: bool) -> int:
    """Print the parts as they come; returns the number of tokens of all of them."""
    tokens = thought = 0
    answered = shown = False
    for part in parts:
        tokens += part.tokens
        if part.thinking and not show_thinking:
            thought += part.tokens
            _fold(thought, final=False)
            continue
        if thought:
            _fold(thought, final=True)
            thought = 0
        text = part.text if answered or part.thinking else part.text.lstrip()
        if shown and not answered and text and not part.thinking:
            sys.stdout.write("\n\n")
        shown, answered = shown or part.thinking, answered or (bool(text) and not part.thinking)
        sys.stdout.write(f"{_GREY}{text}{_PLAIN}" if part.thinking and sys.stdout.isatty() else text)
        sys.stdout.flush()
    if thought:
        _fold(thought, final=True)
        say("the model was still thinking when it ended, so there is no answer (--show-thinking prints the thinking)")
    sys.stdout.write("\n")
    return tokens


def _fold(tokens: int, final: bool) -> None:
    """On a terminal, one grey line that counts up; elsewhere, only the final count."""
    if sys.stderr.isatty():
        sys.stderr.write(f"{_LINE_START}{_GREY}thinking ... {tokens:,} tokens{_PLAIN}" + ("\n" if final else ""))
    elif final:
        sys.stderr.write(f"thinking ... {tokens:,} tokens\n")
    sys.stderr.flush()


def read_document(path: Path) -> str:
    """The text of a plain text, Markdown or JSON file, unchanged.

    Raises:
        ValueError: the file is missing, empty, not text, or broken JSON; the message says what to do.
    """
    if not path.is_file():
        raise ValueError(f"--document {path} {'is a folder: name one file' if path.is_dir() else 'does not exist'}")
    content = path.read_bytes()
    try:
        if b"\0" in content:
            raise UnicodeDecodeError("utf-8", content, content.index(b"\0"), content.index(b"\0") + 1, "a zero byte")
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"--document {path} is not UTF-8 text (byte {error.start:,}: {error.reason}): convert it to text first, a"
            " PDF for example with `pdftotext`"
        ) from error
    if not text.strip():
        raise ValueError(f"--document {path} is empty: there is nothing to ask about")
    if path.suffix.lower() == ".json":
        _check_json(path, text)
    return text


def _check_json(path: Path, text: str) -> None:
    try:
        json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(
            f"--document {path} is not valid JSON ({error}): mend it, or rename it to .txt to ask about it as it is"
        ) from error
