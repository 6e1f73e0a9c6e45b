"""Extract the answer a completion commits to; training and evaluation share this one function.

:func:`extract_answer` takes the decoded completion and returns an :class:`Extraction` with the last answer that the
text commits to, or the reason why it commits to none. The work is bounded: only the last :data:`MAX_VISIBLE_CHARS`
characters of the visible text are searched, and every pattern takes linear time.

These forms commit: "(Therefore,) the answer is ...", "The correct answer is (X)", "Answer: ...", the same in a few
other languages, and ``\\boxed{...}``. These never do: text inside ``<think>``, the prompt's placeholder copied back,
and an empty phrase.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from qwenlong_core.records import AnswerType
from qwenlong_core.rewards.numbers import read_quantity
from qwenlong_core.rewards.options import read_choice, read_yes_no
from qwenlong_core.rewards.text import strip_invisible, strip_wrappers

MAX_VISIBLE_CHARS = 50_000
"""Characters at the end of the visible text that are searched for a commitment."""
MAX_ANSWER_CHARS = 2_000
"""A longer commitment is an essay, not an answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Extraction:
    """The committed answer, or the reason why there is none."""

    answer: str | None
    reason: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Commitment:
    start: int
    """Where the phrase or box begins in the visible text."""
    end: int
    """First character after the answer."""
    text: str
    closed: bool
    """Whether something ends the answer: punctuation, a line break or the closing brace."""


_THINK_TAG = re.compile(r"<\s{0,3}(/?)\s{0,3}think(?:ing)?\s{0,3}>", re.IGNORECASE)
_PHRASE = re.compile(
    r"""(?: \b(?:the|my|our)\s{1,3}(?:(?:final|correct|right|best|most|suitable|appropriate|overall|short)\s{1,3}){0,3}
            (?:answer|choice|option)
            (?:\s{1,3}(?:to|for)\b[^.\n?!:]{1,100}?)?
            (?:\s{1,3}(?:is|would\s+be|should\s+be|must\s+be)\b | \s{0,3}[:：=])
        | (?:^|(?<=[\n.!?>])) [ \t>*_\#-]{0,12} (?:final\s+|correct\s+)?answer [*_]{0,3} \s{0,2} [:：]
        | (?:正确|最终|最后的?)?(?:答案|选项)(?:应该|应当)?(?:是|为|[:：]) | (?:正解|答え)は | (?:정답|답)[은:]
        | \bla\s+(?:bonne\s+)?réponse\s+(?:correcte\s+|finale\s+)?est\b
        | \bla\s+respuesta\s+(?:correcta\s+|final\s+)?es\b
        | \bdie\s+(?:richtige\s+)?antwort\s+(?:ist|lautet)\b
        | \bla\s+risposta\s+(?:corretta\s+)?è\b
        | (?:правильный\s+)?ответ\s*[:：]
        )""",
    re.IGNORECASE | re.VERBOSE | re.MULTILINE,
)
_BOX_TOKEN = re.compile(r"\\f?boxed\s{0,3}\{|\\[{}]|[{}]")
_EMPTY_LINE_REST = re.compile(r"[\s*_:：`$>-]*(?:\\[\[(])?[\s*_:：`$]*")
_SENTENCE_END = re.compile(r"""(?<!\.)[.!?](?!\.)["')\]*_`]*(?=\s)|[。！？]["'”’）)】*_`]*""")
_ABBREVIATION = re.compile(
    r"(?:\b(?:[A-Za-z]|st|mr|mrs|ms|dr|prof|jr|sr|inc|ltd|co|corp|no|nos|vs|v|mt|ft|gen|col|lt|sgt|capt|rev|hon|gov|sen|"
    r"rep|bros|ave|blvd|dept|approx|ca|etc|al|e\.g|i\.e|fig|vol|art|sec|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec|"
    r"(?:[A-Za-z]\.)+[A-Za-z]))$",
    re.IGNORECASE,
)
_NEW_SENTENCE = re.compile(
    r"\s+(?:(?:it|this|that|these|those|the|he|she|they|we|i|as|in|on|so|therefore|thus|hence|because|since|however|"
    r"according|based|note|also|for|or|there|here|its|his|her|their|but|if|to|explanation|reason|alternatively|"
    r"perhaps|maybe|option|answer)\b|\n)",
    re.IGNORECASE,
)
_SECOND_THOUGHT = re.compile(
    r"[\s\W]*(?:(?:or|alternatively|maybe|perhaps|possibly|otherwise|either)\b|(?:it|but\s+it|this|but\s+this)\s+"
    r"(?:could|may|might)\s+(?:also\s+)?be\b|或者|或|也可能|也许)",
    re.IGNORECASE,
)
_JOINED = re.compile(
    r"(?:(?:\b(?:or|and|oder|und|ou|nor)|[/&|或和与])[\s$*_(\\\[,]*(?:(?:so|maybe|perhaps|also|that)\s+)*"
    r"|\}[\s$)\]\\]*[,、;+]?[\s$(\[\\]*)$",
    re.IGNORECASE,
)
"""What joins a second commitment to the one before it: a connecting word, or only a comma between two boxes."""
_PLACEHOLDER = re.compile(
    r"""[\s"'`(\[<{*_]*(?:insert\b.{0,40}|your\s+(?:final\s+)?answer(?:\s+here)?|(?:final\s+)?answer(?:\s+here)?|\.{2,}|…|_+|
    option\s+letter|letter|placeholder|your\s+choice|x{2,}|\?+)[\s"'`)\]>}*_.]*""",
    re.IGNORECASE | re.VERBOSE,
)
_BULLET = re.compile(r"\s*(?:[-*•]|[0-9]{1,2}[.)])[ \t]+(?=\S)")
_LIST = re.compile(r"\s*(?:[-*•]|[0-9]{1,2}[.)])\s+[^\n]*\n\s*(?:[-*•]|[0-9]{1,2}[.)])\s")
_CLOSING = re.compile(r"""[\s.。,，;；:：!！*_`]+$""")


def extract_answer(text: str, answer_type: AnswerType, num_choices: int = 0, truncated: bool = False) -> Extraction:
    """The answer that ``text`` commits to last.

    Args:
        text: Decoded completion. If the chat template opens ``<think>`` itself, the caller puts the tag back in front,
            so that unfinished thinking is recognised. A bare ``</think>`` means that everything before it was thinking.
        answer_type: Type of the example's answer.
        num_choices: Number of options (``choice`` only); 0 if it is not known.
        truncated: The completion ran into its token limit. An answer that reaches the very end of the text without
            punctuation or a line break is then incomplete and commits to nothing.
    """
    visible = visible_text(text)
    if visible is None:
        return Extraction(answer=None, reason="the <think> part is not finished")
    commitment = _last_commitment(visible[-MAX_VISIBLE_CHARS:], truncated)
    if commitment is None:
        where = "; the text was cut" if truncated else ""
        return Extraction(answer=None, reason=f"no committed answer outside <think>{where}")
    if isinstance(commitment, str):
        return Extraction(answer=None, reason=commitment)
    if len(commitment.text) > MAX_ANSWER_CHARS:
        return Extraction(answer=None, reason=f"the committed text is longer than {MAX_ANSWER_CHARS:,} characters")
    return _one_answer(commitment.text, answer_type, num_choices)


def visible_text(text: str) -> str | None:
    """The text outside ``<think>`` blocks; ``None`` if the last block is not closed."""
    parts: list[str] = []
    position, thinking = 0, False
    for tag in _THINK_TAG.finditer(text):
        closing = bool(tag[1])
        if not thinking and closing:
            parts.clear()  # a bare closing tag: everything before it was thinking
        elif not thinking:
            parts.append(text[position : tag.start()])
        thinking, position = not closing, tag.end()
    return None if thinking else "\n".join([*parts, text[position:]])


def _one_answer(text: str, answer_type: AnswerType, num_choices: int) -> Extraction:
    """The committed text as one answer of its type, in the type's short form if it has one."""
    if answer_type == "choice":
        choice = read_choice(text, num_choices)
        if choice.problem:
            return Extraction(answer=None, reason=choice.problem)
        # With the letter an option's text is kept, so that the rule can see whether both name the same option.
        return Extraction(answer=choice.letter if choice.letter and not choice.rest else text)
    if answer_type == "yes_no":
        verdict = read_yes_no(text)
        return (
            Extraction(answer=None, reason=verdict.problem)
            if verdict.problem
            else Extraction(answer=verdict.word or text)
        )
    if answer_type == "number":
        reading = read_quantity(text)
        if reading.several:
            return Extraction(answer=None, reason=reading.reason)
    return Extraction(answer=text)


def _last_commitment(visible: str, truncated: bool) -> _Commitment | str | None:
    """The last commitment, the reason why it is ambiguous, or ``None`` if there is no commitment."""
    for commitment in _commitments_from_the_end(visible):
        if truncated and not commitment.closed:
            continue  # the cut may have shortened it; an earlier commitment still counts
        if not any(c.isalnum() for c in commitment.text) or _PLACEHOLDER.fullmatch(commitment.text):
            continue
        if _SECOND_THOUGHT.match(visible[commitment.end : commitment.end + 200]):
            return "an alternative follows the committed answer"
        # Only the end of the same line is searched, which keeps the work linear in the number of commitments.
        before = visible[max(0, commitment.start - 200) : commitment.start].rpartition("\n")[2]
        if _JOINED.search(before) and ("boxed" in before or _PHRASE.search(before)):
            return "several answers are committed together"
        if _LIST.match(commitment.text):
            return "a list of answers is committed"
        return commitment
    return None


def _commitments_from_the_end(visible: str) -> Iterator[_Commitment]:
    """Phrases and boxes, last first; a phrase with its box inside is one commitment."""
    phrases = [(m.start(), m.end()) for m in _PHRASE.finditer(visible)]
    boxes = _boxes(visible)
    while phrases or boxes:
        if not boxes or (phrases and phrases[-1][0] > boxes[-1].start):
            yield _phrase_commitment(visible, *phrases.pop())
            continue
        box = boxes.pop()
        phrase = _phrase_commitment(visible, *phrases[-1]) if phrases else None
        # "The answer is \\(\\boxed{5}\\)." is one commitment: the closing delimiter may lie just after the sentence.
        if phrase and phrase.start < box.start and box.end <= phrase.end + 2:
            phrases.pop()
            boxes = [b for b in boxes if b.start < phrase.start]
            yield phrase
        else:
            yield _box_commitment(visible, box)


def _phrase_commitment(visible: str, start: int, end: int) -> _Commitment:
    """The rest of the phrase's sentence or, if its line ends there, the next line that is not empty."""
    line_end = _line_end(visible, end)
    bullet = None
    # "The answer is:" may be followed by empty lines or an opening delimiter before the answer itself.
    for _ in range(6):
        if not _EMPTY_LINE_REST.fullmatch(visible, end, line_end) or line_end >= len(visible):
            break
        end, line_end = line_end + 1, _line_end(visible, line_end + 1)
        bullet = _BULLET.match(visible, end, line_end)
    # Two bullets or more: both lines are kept, so that the list is recognised and refused.
    if bullet and _BULLET.match(visible, line_end + 1):
        stop = _line_end(visible, line_end + 1)
        return _Commitment(start=start, end=stop, text=visible[end:stop], closed=True)
    stop, closed = _sentence_end(visible, bullet.end() if bullet else end, line_end)
    return _Commitment(
        start=start, end=stop, text=_clean(visible[bullet.end() if bullet else end : stop]), closed=closed
    )


def _line_end(text: str, start: int) -> int:
    end = text.find("\n", start, start + MAX_ANSWER_CHARS + 100)
    return end if end >= 0 else min(len(text), start + MAX_ANSWER_CHARS + 100)


def _sentence_end(text: str, start: int, line_end: int) -> tuple[int, bool]:
    """Where the sentence ends within its line, and whether punctuation or a line break ends it."""
    for match in _SENTENCE_END.finditer(text, start, line_end):
        abbreviated = match[0][0] == "." and _ABBREVIATION.search(text, max(start, match.start() - 12), match.start())
        ends = not abbreviated or _NEW_SENTENCE.match(text, match.end(), min(len(text), match.end() + 40))
        if ends and text[start : match.start()].strip():
            return match.end(), True
    ended = line_end < len(text) or bool(re.search(r"[.!?。！？]\W*$", text[start:line_end]))
    return line_end, ended


@dataclass(frozen=True, slots=True)
class _Box:
    start: int
    inner: int
    end: int


def _boxes(text: str) -> list[_Box]:
    """Outermost closed ``\\boxed{...}`` groups in order, found in one pass with a stack of braces."""
    found: list[_Box] = []
    stack: list[_Box | None] = []
    for token in _BOX_TOKEN.finditer(text):
        if token[0] in ("\\{", "\\}"):
            continue
        if token[0] == "}":
            opened = stack.pop() if stack else None
            if opened:
                # Boxes inside this one were found before it; only the outermost stays.
                while found and found[-1].start > opened.start:
                    found.pop()
                found.append(_Box(opened.start, opened.inner, token.start()))
        else:
            stack.append(None if token[0] == "{" else _Box(token.start(), token.end(), -1))
    return found


def _box_commitment(visible: str, box: _Box) -> _Commitment:
    """The content of a box, with a unit or an alternative that follows directly after it."""
    after = re.match(
        r"\s?\}?\$?\s?(?:\\?%|\\text\{[^{}\n]{1,30}\}|(?:thousand|million|billion|trillion|percent|bn)\b"
        r"|[\s$,(]*(?:(?:or\b|/).{1,80}|(?:and|to|-)\s?[$\\(]*(?:[0-9]|boxed).{0,80}|and\s(?-i:[A-Z]).{0,80}))?",
        visible[box.end + 1 : box.end + 120],
        re.IGNORECASE,
    )
    tail = after[0] if after else ""
    text = _clean(visible[box.start : box.end + 1] + tail) if tail.strip(" $") else _clean(visible[box.inner : box.end])
    return _Commitment(start=box.start, end=box.end + 1 + len(tail), text=text, closed=True)


def _clean(text: str) -> str:
    """The answer without wrappers, lead-in and closing punctuation; boxes are replaced by their content."""
    if len(text) > MAX_ANSWER_CHARS:
        return text
    text = strip_invisible(text)
    # From the last box to the first, so that the earlier positions stay valid.
    for box in reversed(_boxes(text)):
        text = text[: box.start] + text[box.inner : box.end].strip() + text[box.end + 1 :]
        text = re.sub(r"^\s*\\f?boxed\s*\{(.*)\}\s*$", r"\1", text, flags=re.DOTALL)
    text = re.sub(r"^[\s*_:：=`]*(?:that\b)?[\s*_:：`]*", "", text)
    text = _CLOSING.sub("", strip_wrappers(text))
    quoted = len(text) > 1 and text[0] + text[-1] in ('""', "''", "“”", "‘’", "「」", "«»", "$$")
    return _CLOSING.sub("", text[1:-1].strip() if quoted else text)
