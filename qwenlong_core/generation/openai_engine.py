"""Sample from any OpenAI-compatible server: bounded concurrency, retries, one request per completion.

A request that fails for good gives a :class:`Reply` with the error and no completion, so that a server's failure is
never mistaken for a model's answer. There are no log-probabilities and no token ids.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from qwenlong_core.endpoint import api_key, fault_of, pause_before
from qwenlong_core.generation.engine import Sampling
from qwenlong_core.generation.seeds import prompt_seed
from qwenlong_core.proxies import reached
from qwenlong_core.records import Completion, FinishReason
from qwenlong_core.settings.evaluation import Server

if TYPE_CHECKING:
    from openai import AsyncOpenAI

Prompt = str | Sequence[Mapping[str, str]] | Sequence[int]
"""A user message or the turns of a conversation for ``/chat/completions``, or token ids for ``/completions``."""

K = TypeVar("K")

_FINISH: dict[str, FinishReason] = {"stop": "stop", "length": "length"}


@dataclass(frozen=True, slots=True)
class Request(Generic[K]):
    """A request for one completion."""

    key: K
    """Identifies the request; the reply carries it too."""
    prompt: Prompt
    sample: int = 0
    """Number of the sample within its prompt; together with the seed it determines the server's seed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply(Generic[K]):
    """The outcome of a request."""

    key: K
    completion: Completion | None
    """``None`` if the server gave none; see ``error``."""
    num_tokens: int | None
    """Number of tokens of the completion as counted by the server, if it said."""
    seconds: float
    error: str = ""
    prompt_tokens: int | None = None
    """Number of tokens of the prompt as counted by the server, if it said."""


class BadReply(Exception):
    """A reply without a completion, where another try would not help."""


class OpenAIEngine:
    """A client of one server.

    Args:
        settings: The server.
        setting: Where in the settings the server is, for the error message.

    Raises:
        ValueError: ``settings.api_key_variable`` names a variable that is not set.
        ConnectionError: a proxy is in the way.
    """

    def __init__(self, settings: Server, setting: str = "evaluation.server") -> None:
        self.settings = settings
        self._key = api_key(settings.api_key_variable, f"{setting}.api_key_variable")
        reached(settings.base_url)

    def replies(self, requests: Iterable[Request[K]], sampling: Sampling) -> Iterator[Reply[K]]:
        """A reply to each request, in the order in which the replies arrive.

        A separate thread takes requests from the iterable as slots become free, so that prompts can be rendered while
        answers are awaited.
        """
        done: queue.SimpleQueue[Reply[K] | BaseException | None] = queue.SimpleQueue()
        loop = asyncio.new_event_loop()
        task = loop.create_task(self._ask_all(requests, sampling, done.put))

        def work() -> None:
            try:
                loop.run_until_complete(task)
                done.put(None)
            # Everything goes to the reader, which would otherwise wait forever.
            except BaseException as error:
                done.put(error)
            finally:
                loop.run_until_complete(loop.shutdown_default_executor())
                loop.close()

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            while (reply := done.get()) is not None:
                if isinstance(reply, BaseException):
                    raise reply
                yield reply
        finally:
            # Also reached if the caller stops reading: cancel the requests in flight.
            if not loop.is_closed():
                loop.call_soon_threadsafe(task.cancel)
            thread.join(10)

    def generate(self, prompts: Sequence[Sequence[int]], samples: int, sampling: Sampling) -> list[list[Completion]]:
        """See :class:`qwenlong_core.generation.engine.Engine`; completions hold only text.

        Raises:
            ConnectionError: the server did not give a completion.
        """
        requests = [Request((i, n), ids, n) for i, ids in enumerate(prompts) for n in range(samples)]
        found: dict[tuple[int, int], Completion] = {}
        for reply in self.replies(requests, sampling):
            if reply.completion is None:
                raise ConnectionError(reply.error)
            found[reply.key] = reply.completion
        return [[found[i, n] for n in range(samples)] for i in range(len(prompts))]

    async def _ask_all(self, requests: Iterable[Request[K]], sampling: Sampling, put: Any) -> None:
        from openai import AsyncOpenAI

        slots = asyncio.Semaphore(self.settings.concurrency)
        waiting = iter(requests)
        async with (
            AsyncOpenAI(
                # no retries in the client: _ask retries
                base_url=self.settings.base_url,
                api_key=self._key,
                max_retries=0,
                timeout=self.settings.timeout_seconds,
            ) as client,
            asyncio.TaskGroup() as group,
        ):

            async def one(request: Request[K]) -> None:
                try:
                    put(await self._ask(client, request, sampling))
                finally:
                    slots.release()

            while True:
                # A slot first: a prompt is rendered only when it can be sent, and in a thread, since that takes time.
                await slots.acquire()
                request = await asyncio.to_thread(next, waiting, None)
                if request is None:
                    return
                group.create_task(one(request))

    async def _ask(self, client: AsyncOpenAI, request: Request[K], sampling: Sampling) -> Reply[K]:
        """The reply, after as many tries as the settings allow."""
        started = time.monotonic()
        settings, body = self.settings, self._body(request, sampling)
        path = "/completions" if _turns(request.prompt) is None else "/chat/completions"
        error = ""
        for attempt in range(settings.max_retries + 1):
            try:
                # The client's own timeout restarts with every byte, so a server that trickles would never time out.
                async with asyncio.timeout(settings.timeout_seconds):
                    reply = await client.post(path, body=body, cast_to=object)
                completion, (prompt, tokens) = _completion(reply), _usage(reply)
                seconds = time.monotonic() - started
                return Reply(
                    key=request.key, completion=completion, num_tokens=tokens, seconds=seconds, prompt_tokens=prompt
                )
            except BadReply as refusal:
                error = f"{settings.base_url}: {refusal}"
                break
            except Exception as problem:
                fault = fault_of(problem, settings.timeout_seconds)
                error = f"{settings.base_url}: {fault.text} (try {attempt + 1})"
                if not fault.passing or attempt == settings.max_retries:
                    break
                await asyncio.sleep(pause_before(attempt, fault.retry_after))
        seconds = time.monotonic() - started
        return Reply(key=request.key, completion=None, num_tokens=None, seconds=seconds, error=error)

    def _body(self, request: Request[K], sampling: Sampling) -> dict[str, Any]:
        prompt, turns = request.prompt, _turns(request.prompt)
        asked: dict[str, Any] = {"prompt": list(prompt)} if turns is None else {"messages": turns}
        asked |= sampling_body(self.settings.model, sampling)
        if sampling.seed is not None:
            ids: Any = prompt if turns is None else list("\n".join(turn["content"] for turn in turns).encode())
            # Servers accept seeds of different widths; 31 bits fit everywhere.
            asked["seed"] = prompt_seed(sampling.seed, ids, request.sample) >> 32
        return asked


def sampling_body(model: str, sampling: Sampling) -> dict[str, Any]:
    """What a request says of the model and its sampling, but for the seed, which depends on the prompt."""
    asked = {"model": model, "max_tokens": sampling.max_tokens}
    asked |= {"temperature": sampling.temperature, "top_p": sampling.top_p}
    return asked | ({"stop": list(sampling.stop)} if sampling.stop else {})


def _turns(prompt: Prompt) -> list[dict[str, str]] | None:
    """The turns to send; ``None`` for token ids."""
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    turns = [dict(turn) for turn in prompt if isinstance(turn, Mapping)]
    return turns or None


def _completion(reply: Any) -> Completion:
    """The completion in a reply.

    Raises:
        BadReply: the server stopped the answer for a reason of its own, such as a content filter.
        ValueError: the reply is not a completion at all.
    """
    try:
        choice = reply["choices"][0]
        message, reason = choice.get("message"), choice.get("finish_reason")
        text = choice.get("text") if message is None else message.get("content")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"not a completion: {str(reply)[:80]!r}") from error
    if reason not in _FINISH:
        raise BadReply(f"finish_reason={reason!r} is none of {', '.join(_FINISH)}")
    # Servers with a reasoning parser return the thinking in a separate field; the rewards expect it in its tags.
    thinking = (message or {}).get("reasoning_content") or (message or {}).get("reasoning")
    if not isinstance(text, str) and not thinking:
        raise ValueError(f"the reply holds no text: {str(text)[:80]!r}")
    text = (text or "").encode("utf-8", "replace").decode()  # half a surrogate pair cannot be stored
    if isinstance(thinking, str) and thinking.strip():
        closed = f"\n</think>\n\n{text.strip()}" if text.strip() or reason == "stop" else ""
        text = f"<think>\n{thinking.strip()}{closed}"
    return Completion(text=text, token_ids=(), finish_reason=_FINISH[reason])


def _usage(reply: Any) -> tuple[int | None, int | None]:
    """The numbers of tokens of prompt and completion in a reply, as far as the server gives them."""
    usage = reply.get("usage")
    counted = (usage.get(name) if isinstance(usage, dict) else None for name in ("prompt_tokens", "completion_tokens"))
    prompt, completion = (tokens if isinstance(tokens, int) else None for tokens in counted)
    return prompt, completion
