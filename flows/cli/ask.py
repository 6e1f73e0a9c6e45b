"""``qwenlong ask``: a question about one document, answered on the terminal as it is written."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from qwenlong.flows.cli.evaluate import server_overrides

_GREY, _PLAIN, _LINE_START = "\x1b[2m", "\x1b[0m", "\r\x1b[K"


def ask(
    document: Annotated[Path, typer.Option(help="A text, markdown or JSON file.")],
    question: Annotated[str, typer.Option(help="What to ask about it.")],
    model: Annotated[
        str, typer.Option(help="Folder, hub id, artifact (model/DIGEST) or models:/qwenlong@champion.", metavar="REF")
    ] = "smollm2-135m",
    engine: Annotated[
        str, typer.Option(help="transformers, vllm (prints when whole) or openai (needs --server).")
    ] = "transformers",
    max_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="New tokens at most; 10,000, or less under a shorter context, if left out."),
    ] = None,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the likeliest token.")] = 0.7,
    top_p: Annotated[float, typer.Option(min=0.01, max=1)] = 0.95,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**32 - 1, help="Same seed, same answer; a fresh one if left out.")
    ] = None,
    show_thinking: Annotated[
        bool, typer.Option("--show-thinking", help="Print the thinking instead of folding it.")
    ] = False,
    server: Annotated[str | None, typer.Option(metavar="URL", help="Base URL of an OpenAI-compatible server.")] = None,
    server_model: Annotated[
        str | None, typer.Option(help="Name under which it serves the model; REF if left out.")
    ] = None,
    server_key_variable: Annotated[str | None, typer.Option(help="Environment variable with the server's key.")] = None,
    profile: Annotated[str, typer.Option(help="Whose store, registry and model settings count.")] = "local",
) -> None:
    """Ask about a document, in the article's wording and with its recommended sampling.

    The answer goes to stdout as it comes; the rest (what was cut, how much was thought) to stderr.
    """
    from qwenlong.flows.cli.main import one_clear_message  # the command line imports this module

    overrides = [
        f"evaluation.temperature={temperature}",
        f"evaluation.top_p={top_p}",
        *(
            server_overrides(server, server_model, server_key_variable, model)
            or [f"evaluation.engine={json.dumps(engine)}"]
        ),
    ]
    with one_clear_message():
        if server is not None and engine != "transformers" and engine != "openai":
            raise ValueError(f"--server answers in place of --engine {engine}: leave one of them out")
        from qwenlong.flows.cli.evaluation_run import evaluation_settings

        text = read_document(document)
        if not question.strip():
            raise ValueError("--question is empty: ask something")
        settings = evaluation_settings(None if profile == "local" else profile, overrides)
        _answer(settings, model, text, question, max_tokens, seed, show_thinking)


def _answer(
    settings: Any, model: str, text: str, question: str, max_tokens: int | None, seed: int | None, show_thinking: bool
) -> None:
    from transformers.utils import logging as transformers_logging

    from qwenlong.tasks.models import resolve_model, resolve_tokenizer
    from qwenlong_core.data.prompts import (
        analysis_message,
        encode,
        opens_thinking,
        render_prompt,
        truncate_middle,
    )
    from qwenlong_core.generation.engine import Sampling
    from qwenlong_core.generation.streaming import split_thinking
    from qwenlong_core.models import load_tokenizer
    from qwenlong_core.records import Example

    transformers_logging.disable_progress_bar()
    found = (resolve_tokenizer if settings.evaluation.server else resolve_model)(settings, model)
    prompt_limit, limit = _limits(found, max_tokens)
    tokenizer = load_tokenizer(found.folder)
    row = Example(
        id="question",
        source="ask",
        domain="reading",
        answer_type="span",
        context=text,
        question=question,
        answers=("",),
    )
    shown, kept, lost = truncate_middle(tokenizer, row, prompt_limit, analysis_message)
    if lost:
        _say(
            f"the document has {kept + lost:,} tokens; its first and last {kept:,} are read, {lost:,} in the middle"
            " are not"
        )
    prompt = render_prompt(tokenizer, shown, analysis_message)
    sampling = Sampling(
        settings.evaluation.temperature, settings.evaluation.top_p, limit, seed, settings.evaluation.stop
    )
    pieces = _pieces(settings, found.folder, tokenizer, analysis_message(shown), encode(tokenizer, prompt), sampling)
    started = time.monotonic()
    tokens = _print(split_thinking(pieces, opens_thinking(prompt)), show_thinking)
    ended = f"cut at the limit of {limit:,} tokens (--max-tokens)" if tokens >= limit else f"{tokens:,} tokens"
    _say(f"{found.name}: {ended} in {time.monotonic() - started:.1f} s")


def _limits(model: Any, max_tokens: int | None) -> tuple[int, int]:
    """Tokens of prompt and answer; said where they are less than recommended."""
    from qwenlong_core.evaluation.limits import fit_limits
    from qwenlong_core.generation.load import context_of
    from qwenlong_core.settings.evaluation import EvaluationSettings

    context = context_of(model.folder)
    if max_tokens is not None and context is not None and max_tokens >= context:
        raise ValueError(
            f"--max-tokens {max_tokens} leaves no room for the document in a context of {context:,}: lower it"
        )
    prompt, limit = fit_limits(context, completion=max_tokens)
    if max_tokens is None and limit < EvaluationSettings().max_completion_tokens:
        _say(
            f"the context of {model.name} is {context:,} tokens: an answer may take {limit:,}, not the recommended"
            " 10,000"
        )
    return prompt, limit


def _pieces(settings: Any, folder: Path, tokenizer: Any, message: str, ids: list[int], sampling: Any) -> Iterator[Any]:
    from qwenlong_core.generation.streaming import Piece, stream_local, stream_served

    if settings.evaluation.server is not None:
        yield from stream_served(settings.evaluation.server, message, sampling)
    elif settings.evaluation.engine == "vllm":
        from qwenlong_core.generation.load import load_engine

        engine = load_engine(
            "vllm",
            folder,
            tokenizer,
            settings.model,
            settings.launch,
            batch_size=1,
            longest=len(ids) + sampling.max_tokens,
            setting="evaluation.engine",
        )
        ((completion,),) = engine.generate([ids], 1, sampling)
        yield Piece(completion.text, len(completion.token_ids))
    else:
        from qwenlong_core.generation.load import load_on_device

        yield from stream_local(load_on_device(folder, settings.model), tokenizer, ids, sampling)


def _print(parts: Iterator[Any], show_thinking: bool) -> int:
    """Print the parts as they come; returns the tokens of all."""
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
        _say("it was still thinking when it ended: no answer (--show-thinking shows it)")
    sys.stdout.write("\n")
    return tokens


def _fold(tokens: int, final: bool) -> None:
    """One grey line that counts up on a terminal; elsewhere its last state alone."""
    if sys.stderr.isatty():
        sys.stderr.write(f"{_LINE_START}{_GREY}thinking ... {tokens:,} tokens{_PLAIN}" + ("\n" if final else ""))
    elif final:
        sys.stderr.write(f"thinking ... {tokens:,} tokens\n")
    sys.stderr.flush()


def _say(text: str) -> None:
    print(f"qwenlong: {text}", file=sys.stderr)


def read_document(path: Path) -> str:
    """The text of a plain text, Markdown or JSON file, unchanged.

    Raises:
        ValueError: there is no such file, it is empty, no text, or broken JSON; it says what to do.
    """
    if not path.is_file():
        raise ValueError(f"--document {path}: {'a folder, name one file' if path.is_dir() else 'no such file'}")
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
            f"--document {path} is not valid JSON ({error}): mend it, or name it .txt to ask about it as it is"
        ) from error
