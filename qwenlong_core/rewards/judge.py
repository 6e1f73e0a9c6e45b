"""The judge: any OpenAI-compatible endpoint that says whether two answers mean the same.

In: questions with gold and extracted answers. Out: one :class:`Verdict` each, true, false, or none
with the endpoint's error. An endpoint that fails never yields a "no". Concurrency, time per request
and retries are bounded by :class:`~qwenlong_core.settings.rewards.JudgeSettings`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import TYPE_CHECKING, Any

from qwenlong_core.endpoint import api_key, fault_of, pause_before
from qwenlong_core.rewards.judge_prompt import PROMPT_VERSION, REMINDER, judge_messages, read_verdict
from qwenlong_core.rewards.verdicts import VerdictCache, cache_key
from qwenlong_core.settings.rewards import JudgeSettings

if TYPE_CHECKING:
    from openai import AsyncOpenAI

logger = logging.getLogger(__name__)

MAX_REPLY_TOKENS = 256
"""Room for two sentences and the verdict."""
_CONNECTIONS_PER_CLIENT = 16
"""Each request walks over all connections of its client's pool; at 64 requests at once, pools of 16
took 13% less of the client's processor time than one pool of 64."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeQuestion:
    """One comparison."""

    question: str
    golds: tuple[str, ...]
    answer: str
    """The extracted answer, never the whole completion."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What the judge said."""

    equal: bool | None
    """``None``: no verdict, see ``error``."""
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
    """Replies without the strict verdict form that were asked once more."""
    failures: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    """In the currency of the settings' prices."""


@dataclass(slots=True)
class _Session:
    clients: Iterator[AsyncOpenAI]
    """Taken in turn, without end."""
    slots: asyncio.Semaphore
    close: Callable[[], Awaitable[None]]


class JudgeError(Exception):
    """The endpoint gave no usable reply; the message says what it did."""


@dataclass
class Judge:
    """A client of one endpoint; usable from any event loop, one at a time.

    Raises:
        ValueError: if ``settings.api_key_variable`` names a variable that is not set.
    """

    settings: JudgeSettings
    counts: JudgeCounts = field(default_factory=JudgeCounts)
    last_error: str = ""

    def __post_init__(self) -> None:
        self._key = api_key(self.settings.api_key_variable, "judge.api_key_variable")
        self._cache = VerdictCache(self.settings.cache_dir) if self.settings.cache_dir else None
        self._sessions: dict[asyncio.AbstractEventLoop, _Session] = {}

    async def verdicts(self, questions: Sequence[JudgeQuestion]) -> list[Verdict]:
        """One verdict per question, in order; equal questions are asked once."""
        keys = [self._key_of(question) for question in questions]
        unique = dict(zip(keys, questions))
        known = {key: Verdict(equal=equal) for key, equal in self._cached(list(unique)).items()}
        asked = [key for key in unique if key not in known]
        answers = await asyncio.gather(*(self._ask(key, unique[key]) for key in asked))
        known.update(zip(asked, answers))
        self.counts.questions += len(questions)
        self.counts.cache_hits += len(questions) - len(asked)
        return [known[key] for key in keys]

    async def close(self) -> None:
        """Close the running loop's connections; the judge itself stays usable."""
        session = self._sessions.pop(asyncio.get_running_loop(), None)
        if session:
            await session.close()

    def _cached(self, keys: list[str]) -> dict[str, bool]:
        return self._cache.get(keys) if self._cache else {}

    def _key_of(self, question: JudgeQuestion) -> str:
        settings = self.settings
        return cache_key(
            settings.model,
            settings.temperature,
            settings.seed,
            PROMPT_VERSION,
            question.question,
            *question.golds,
            "answer:",
            question.answer,
        )

    async def _ask(self, key: str, question: JudgeQuestion) -> Verdict:
        session = self._session()
        messages = judge_messages(question.question, question.golds, question.answer)
        async with session.slots:
            try:
                client = next(session.clients)
                reply = await self._complete(client, messages)
                equal = read_verdict(reply)
                if equal is None:
                    self.counts.asked_again += 1
                    again = [
                        *messages,
                        {"role": "assistant", "content": reply[:2_000]},
                        {"role": "user", "content": REMINDER},
                    ]
                    reply = await self._complete(client, again)
                    equal = read_verdict(reply)
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
        """The reply's text, after as many tries as the settings allow."""
        for attempt in range(self.settings.max_retries + 1):
            try:
                return await self._request(client, messages)
            except Exception as error:
                fault = fault_of(error, self.settings.timeout_seconds)
                if not fault.passing or attempt == self.settings.max_retries:
                    raise JudgeError(f"{self.settings.base_url}: {fault.text} (try {attempt + 1})") from error
                self.counts.retries += 1
                logger.debug("judge: %s; trying again", fault.text)
                await asyncio.sleep(pause_before(attempt, fault.retry_after))
        raise AssertionError("the last attempt returns or raises")

    async def _request(self, client: AsyncOpenAI, messages: list[dict[str, str]]) -> str:
        self.counts.requests += 1
        body = {
            "model": self.settings.model,
            "messages": messages,
            "temperature": self.settings.temperature,
            "max_tokens": MAX_REPLY_TOKENS,
        }
        if self.settings.seed is not None:
            body["seed"] = self.settings.seed
        # The client's own timeout restarts with every byte; a trickling server must end too. Plain JSON
        # both ways halves the client's work per request, which is what bounds throughput.
        async with asyncio.timeout(self.settings.timeout_seconds):
            reply = await client.post("/chat/completions", body=body, cast_to=object)
        content = _content(reply)
        self._count_tokens(reply)
        return content.encode("utf-8", "replace").decode()  # half a surrogate pair can be neither stored nor sent on

    def _count_tokens(self, reply: Any) -> None:
        usage = reply.get("usage")
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
        """Connections belong to the event loop that opened them, so each loop has its own."""
        from openai import AsyncOpenAI  # a second of import that only a judge needs

        loop = asyncio.get_running_loop()
        self._sessions = {other: session for other, session in self._sessions.items() if not other.is_closed()}
        if loop not in self._sessions:
            clients = [
                AsyncOpenAI(
                    base_url=self.settings.base_url,
                    api_key=self._key,
                    max_retries=0,
                    timeout=self.settings.timeout_seconds,
                )
                for _ in range(-(-self.settings.concurrency // _CONNECTIONS_PER_CLIENT))
            ]

            async def close() -> None:
                for client in clients:
                    await client.close()

            self._sessions[loop] = _Session(cycle(clients), asyncio.Semaphore(self.settings.concurrency), close)
        return self._sessions[loop]


def _content(reply: Any) -> str:
    """The text of a chat completion.

    Raises:
        ValueError: if the reply is anything else.
    """
    try:
        content = reply["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(f"no chat completion: {str(reply)[:80]!r}") from error
    if not isinstance(content, str) or not content.strip():
        raise ValueError(f"the reply holds no text: {str(content)[:80]!r}")
    return content


def training_judge(base_url: str) -> JudgeSettings:
    """The training preset: Qwen2.5-1.5B-Instruct, T 0, on a local server (vLLM)."""
    return JudgeSettings(base_url=base_url, model="Qwen/Qwen2.5-1.5B-Instruct", temperature=0.0)


def evaluation_judge(base_url: str = "https://api.deepseek.com") -> JudgeSettings:
    """The evaluation preset: DeepSeek-V3, T 0, seed 42; its key stands in ``DEEPSEEK_API_KEY``."""
    return JudgeSettings(
        base_url=base_url,
        model="deepseek-chat",
        api_key_variable="DEEPSEEK_API_KEY",
        temperature=0.0,
        seed=42,
    )
