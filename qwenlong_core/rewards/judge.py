"""The judge: any OpenAI-compatible endpoint that says whether two answers mean the same.

:class:`Judge` takes questions with gold and extracted answers and returns one :class:`Verdict` each: equal, different,
or none, with the endpoint's error. A failing endpoint never counts as a "no".
:class:`~qwenlong_core.settings.rewards.JudgeSettings` bounds concurrency, time per request and retries. A judge that
the pipeline serves is started again if it dies; questions wait for it as long as a start may take.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, cycle
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from qwenlong_core.endpoint import Fault, api_key, fault_of, pause_before
from qwenlong_core.proxies import reached
from qwenlong_core.rewards import published_judges
from qwenlong_core.rewards.autorater import REMINDER as AUTORATER_REMINDER
from qwenlong_core.rewards.autorater import autorater_messages, read_decision
from qwenlong_core.rewards.judge_prompt import PROMPT_VERSION, REMINDER, judge_messages, read_verdict, without_thoughts
from qwenlong_core.rewards.verdicts import VerdictCache, cache_key
from qwenlong_core.settings.rewards import JudgeSettings

if TYPE_CHECKING:
    from openai import AsyncOpenAI

logger = logging.getLogger(__name__)

_CONNECTIONS_PER_CLIENT = 16
"""A request walks over all connections in its client's pool. With 64 concurrent requests, pools of 16 took 13% less
processor time in the client than one pool of 64."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeQuestion:
    """One comparison."""

    question: str
    golds: tuple[str, ...]
    answer: str
    """The extracted answer, never the whole completion."""
    form: Literal["equality", "frames", "aa-lcr", "corpusqa", "qwenlong-l1"] = "equality"
    """How it is asked: our comparison, or in the words of a published benchmark."""


class _Form(NamedTuple):
    messages: Callable[[str, tuple[str, ...], str], list[dict[str, str]]]
    read: Callable[[str], bool | None]
    reminder: str


_FORMS = {
    "equality": _Form(judge_messages, read_verdict, REMINDER),
    "frames": _Form(autorater_messages, read_decision, AUTORATER_REMINDER),
    "aa-lcr": _Form(published_judges.aa_lcr_messages, published_judges.read_aa_lcr, published_judges.AA_LCR_REMINDER),
    "corpusqa": _Form(
        published_judges.corpusqa_messages, published_judges.read_corpusqa, published_judges.COMPARISON_REMINDER
    ),
    "qwenlong-l1": _Form(
        published_judges.comparison_messages, published_judges.read_yes_anywhere, published_judges.COMPARISON_REMINDER
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What the judge said."""

    equal: bool | None
    """``None`` means that there is no verdict; see ``error``."""
    error: str = ""


@dataclass(kw_only=True, slots=True)
class JudgeCounts:
    """Running totals since the judge was built."""

    questions: int = 0
    requests: int = 0
    retries: int = 0
    cache_hits: int = 0
    """Questions answered from disk or by an equal question of the same batch."""
    asked_again: int = 0
    """Replies that were not in the strict verdict form and were asked for once more."""
    failures: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    """In the currency of the settings' prices."""


@dataclass(slots=True)
class _Session:
    clients: Iterator[AsyncOpenAI]
    """An endless iterator that takes the clients in turn."""
    slots: asyncio.Semaphore
    close: Callable[[], Awaitable[None]]


class JudgeError(Exception):
    """The endpoint gave no usable reply; the message says what happened."""


@dataclass
class Judge:
    """A client of one endpoint. It can be used from different event loops, one at a time.

    Raises:
        ValueError: ``settings.api_key_variable`` names a variable that is not set, or the judge's address is unknown
            because nothing has started it.
        ConnectionError: a proxy is in the way.
    """

    settings: JudgeSettings
    counts: JudgeCounts = field(default_factory=JudgeCounts)
    last_error: str = ""

    def __post_init__(self) -> None:
        if self.settings.base_url is None:
            raise ValueError(
                f"judge {self.settings.model!r} has no address: the pipeline starts it (judge.serve); by hand, serve "
                "the model and give the stage --judge-url URL"
            )
        self._key = api_key(self.settings.api_key_variable, "judge.api_key_variable")
        reached(self.settings.base_url)
        self._away_since: float | None = None  # while nobody listens at the address
        self._cache = VerdictCache(self.settings.cache_dir) if self.settings.cache_dir else None
        self._sessions: dict[asyncio.AbstractEventLoop, _Session] = {}

    async def verdicts(self, questions: Sequence[JudgeQuestion]) -> list[Verdict]:
        """One verdict per question, in order. Equal questions are asked only once."""
        keys = [self._key_of(question) for question in questions]
        # The completions of a group often give the same answer.
        unique = dict(zip(keys, questions))
        known = {key: Verdict(equal=equal) for key, equal in self._cached(list(unique)).items()}
        asked = [key for key in unique if key not in known]
        answers = await asyncio.gather(*(self._ask(key, unique[key]) for key in asked))
        known.update(zip(asked, answers))
        self.counts.questions += len(questions)
        self.counts.cache_hits += len(questions) - len(asked)
        return [known[key] for key in keys]

    async def close(self) -> None:
        """Close the connections of the running event loop; the judge itself stays usable."""
        session = self._sessions.pop(asyncio.get_running_loop(), None)
        if session:
            await session.close()

    def _cached(self, keys: list[str]) -> dict[str, bool]:
        return self._cache.get(keys) if self._cache else {}

    def _key_of(self, question: JudgeQuestion) -> str:
        settings = self.settings
        # The marker keeps golds and answer apart. Address and concurrency are left out: they do not change a verdict.
        return cache_key(
            settings.model,
            settings.temperature,
            settings.seed,
            settings.reasoning_effort,
            PROMPT_VERSION,
            question.form,
            question.question,
            *question.golds,
            "answer:",
            question.answer,
        )

    async def _ask(self, key: str, question: JudgeQuestion) -> Verdict:
        session = self._session()
        form = _FORMS[question.form]
        messages = form.messages(question.question, question.golds, question.answer)
        async with session.slots:
            try:
                client = next(session.clients)
                reply = await self._complete(client, messages)
                equal = form.read(reply)
                if equal is None:
                    self.counts.asked_again += 1
                    # The reply is shortened, since a judge that rambles could fill its own context.
                    again = [
                        *messages,
                        {"role": "assistant", "content": reply[:2_000]},
                        {"role": "user", "content": form.reminder},
                    ]
                    reply = await self._complete(client, again)
                    equal = form.read(reply)
            except JudgeError as error:
                return self._failed(str(error))
        if equal is None:
            return self._failed(f"no strict verdict in {reply[-120:]!r}, asked twice")
        if self._cache:
            self._cache.put(key, equal, reply)
        return Verdict(equal=equal)

    def _failed(self, error: str) -> Verdict:
        self.counts.failures += 1
        self.last_error = error
        return Verdict(equal=None, error=error)

    async def _complete(self, client: AsyncOpenAI, messages: list[dict[str, str]]) -> str:
        """The text of the reply, after as many tries as the settings allow."""
        for attempt in count():
            try:
                reply = await self._request(client, messages)
                self._away_since = None
                return reply
            except JudgeError:
                raise  # asking the same again would end the same way
            except Exception as error:
                fault = fault_of(error, self.settings.timeout_seconds)
                waits = self._is_started_again(fault)
                if not fault.passing or (attempt >= self.settings.max_retries and not waits):
                    raise JudgeError(f"{self.settings.base_url}: {fault.text} (try {attempt + 1})") from error
                self.counts.retries += 1
                logger.debug("judge: %s; trying again", fault.text)
                await asyncio.sleep(pause_before(attempt, fault.retry_after))
        raise AssertionError("the last attempt returns or raises")

    def _is_started_again(self, fault: Fault) -> bool:
        """Whether nobody listens at the address of a judge that the pipeline serves, not longer than a start takes."""
        if self.settings.serve is None or not fault.unreachable:
            return False
        now = time.monotonic()
        # Since the first failure of any question: when the judge stays away, they do not wait one after the other.
        self._away_since = self._away_since or now
        return now - self._away_since < 60 * self.settings.serve.start_minutes

    async def _request(self, client: AsyncOpenAI, messages: list[dict[str, str]]) -> str:
        self.counts.requests += 1
        body = request_body(self.settings, messages)
        # The client's own timeout restarts with every byte, so a server that trickles would never time out. Plain JSON
        # instead of the library's typed objects halves the client's work per request, which limits the throughput.
        async with asyncio.timeout(self.settings.timeout_seconds):
            reply = await client.post("/chat/completions", body=body, cast_to=object)
        self._count_tokens(reply)
        content = _content(reply, self.settings)
        return content.encode("utf-8", "replace").decode()  # half a surrogate pair cannot be stored or sent on

    def _count_tokens(self, reply: Any) -> None:
        usage = reply.get("usage") if isinstance(reply, dict) else None
        if not isinstance(usage, dict):
            return
        counted = (usage.get(key) for key in ("prompt_tokens", "completion_tokens"))
        prompt, completion = (tokens if isinstance(tokens, int) else 0 for tokens in counted)
        self.counts.prompt_tokens += prompt
        self.counts.completion_tokens += completion
        prices = (
            self.settings.price_per_million_prompt_tokens,
            self.settings.price_per_million_completion_tokens,
        )
        self.counts.cost += (prompt * prices[0] + completion * prices[1]) / 1e6

    def _session(self) -> _Session:
        """The session of the running event loop; connections belong to the loop that opened them."""
        from openai import AsyncOpenAI  # takes a second to import, and only a judge needs it

        loop = asyncio.get_running_loop()
        self._sessions = {other: session for other, session in self._sessions.items() if not other.is_closed()}
        if loop not in self._sessions:
            clients = [
                # No retries in the client: _complete retries, and counts what it does.
                AsyncOpenAI(
                    base_url=self.settings.base_url,
                    api_key=self._key,
                    max_retries=0,
                    timeout=self.settings.timeout_seconds,
                )
                # enough clients for the concurrency, rounded up
                for _ in range(-(-self.settings.concurrency // _CONNECTIONS_PER_CLIENT))
            ]

            async def close() -> None:
                for client in clients:
                    await client.close()

            self._sessions[loop] = _Session(cycle(clients), asyncio.Semaphore(self.settings.concurrency), close)
        return self._sessions[loop]


def request_body(settings: JudgeSettings, messages: list[dict[str, str]]) -> dict[str, Any]:
    """The request, with the parameter names that the settings' kind of model takes."""
    body: dict[str, Any] = {"model": settings.model, "messages": messages}
    if settings.reasoning_model:
        body["max_completion_tokens"] = settings.max_tokens
    else:
        body |= {"max_tokens": settings.max_tokens, "temperature": settings.temperature}
    optional = {"seed": settings.seed, "reasoning_effort": settings.reasoning_effort}
    return body | {name: value for name, value in optional.items() if value is not None}


def _content(reply: Any, settings: JudgeSettings) -> str:
    """The text of a chat completion, without thoughts.

    Raises:
        JudgeError: the judge's thoughts took all the tokens that it may use.
        ValueError: the reply is not a chat completion, or holds no text.
    """
    try:
        choice = reply["choices"][0]
        message = choice["message"]
        content = message["content"]
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(f"not a chat completion: {str(reply)[:80]!r}") from error
    answer = without_thoughts(content) if isinstance(content, str) else ""
    if answer.strip():
        return answer
    # Some endpoints show the thoughts, some hide them: an empty reply that was cut holds nothing else.
    if choice.get("finish_reason") == "length":
        raise JudgeError(
            f"{settings.base_url}: the thoughts of judge {settings.model!r} used up max_tokens={settings.max_tokens} "
            "before a verdict: raise max_tokens of the judge, or lower its reasoning_effort"
        )
    raise ValueError(f"the reply holds no text: {str(content)[:80]!r}")
