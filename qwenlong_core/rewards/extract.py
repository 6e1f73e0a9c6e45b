"""Extract the answer a completion commits to; training and evaluation share this one function.

:func:`extract_answer` takes the decoded completion and returns an :class:`Extraction` with the last answer that the
text commits to, or the reason why it commits to none. The work is bounded: only the last :data:`MAX_VISIBLE_CHARS`
characters of the visible text are searched, and every pattern takes linear time.

These forms commit: "(Therefore,) the answer is ...", "The correct answer is (X)", "Answer: ...", the same in the
languages of :mod:`~.phrases`, and ``\\boxed{...}``. These never do: text inside ``<think>``, the prompt's placeholder
copied back, and an empty phrase.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from qwenlong_core.records import AnswerType
from qwenlong_core.rewards.number.read import measures_after, read_quantity
from qwenlong_core.rewards.options import exact_choice, read_choice, whole_option
from qwenlong_core.rewards.phrases import ABOUT_THE_ANSWER, PHRASE, PLACEHOLDER, without_lead_in
from qwenlong_core.rewards.sentences import sentence_end
from qwenlong_core.rewards.text import strip_invisible, strip_wrappers
from qwenlong_core.rewards.yes_no import read_yes_no

MAX_VISIBLE_CHARS = 50_000
"""Characters at the end of the visible text that are searched for a commitment."""
MAX_ANSWER_CHARS = 2_000
"""A longer commitment is an essay, not an answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Extraction:
    """The committed answer, or the reason why there is none."""

    answer: str | None
    reason: str = ""
    readings: tuple[str, ...] = ()
    """Everything that follows the last commitment's phrase, to the end of its line and, last, of the text, as it
    stands. A gold that is repeated word for word is one of them, whatever signs and sentences it holds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Commitment:
    start: int
    """Where the phrase or box begins in the visible text."""
    end: int
    """First character after the answer."""
    text: str
    closed: bool
    """Whether something ends the answer: punctuation, a line break or the closing brace."""
    about: bool = False
    """It speaks about an answer that stands before it, if there is one: "The answer is supported by ..."."""


_THINK_TAG = re.compile(r"<\s{0,3}(/?)\s{0,3}think(?:ing)?\s{0,3}>", re.IGNORECASE)
_BOX_TOKEN = re.compile(r"\\f?boxed\s{0,3}\{|\\[{}]|[{}]")
_EMPTY_LINE_REST = re.compile(r"[\s*_:：`$>-]*(?:\\[\[(])?[\s*_:：`$]*")
_BARE_BOX = re.compile(r"(\\f?boxed)(?:\s{1,3}|(?=[0-9]))([-+]?[\w.,]{0,30}\w%?)")
"""``\\boxed 5`` is ``\\boxed{5}``."""
_SECOND_THOUGHT = re.compile(
    r"""[\s\W]* (?: (?:or|alternatively|maybe|perhaps|possibly|otherwise|either)\b
        | (?:no|nope|wait|hold\s+on|hang\s+on|actually|scratch\s+that|correction|sorry|oops|i\s+mean|rather
          |on\s+second\s+thoughts?)\b \s* (?:[-,.;:!]|$) | yes\b \s* (?:[.!]|$)
        | (?:it|but\s+it|this|but\s+this)\s+(?:could|may|might)\s+(?:also\s+)?be\b
        | [^\n]{1,500}?\b(?:is|are|would\s+be|could\s+be|may\s+be|might\s+be)\s+(?:also|equally|likewise|just\s+as)\s+
          (?:a\s+|an\s+)?(?:correct|right|acceptable|valid|possible|plausible|answer)\b
        | 或者|或|也可能|也许|不对|等等|更正 )""",
    re.IGNORECASE | re.VERBOSE,
)
"""What comes after an answer and takes it back, or names another one beside it."""
_JOINED = re.compile(
    r"(?:(?:\b(?:or|and|oder|und|ou|nor)|[/&|或和与])[\s$*_(\\\[,]*(?:(?:so|maybe|perhaps|also|that)\s+)*"
    r"|\}[\s$)\]\\]*[,、;+]?[\s$(\[\\]*)$",
    re.IGNORECASE,
)
"""What joins a second commitment to the one before it: a connecting word, or only a comma between two boxes."""
_BULLET = re.compile(r"\s*(?:[-*•]|[0-9]{1,2}[.)])[ \t]+(?=\S)")
_LIST = re.compile(r"\s*(?:[-*•]|[0-9]{1,2}[.)])\s+[^\n]*\n\s*(?:[-*•]|[0-9]{1,2}[.)])\s")
_NOT_IN_WORDS = ("number", "yes_no")
"""Types whose golds hold no signs that look like the end of a sentence."""
_BEFORE_ANSWER = " \t\n\r:：*_"
_PHRASES_READ = 4
"""Phrases of one line that may begin a gold's repetition; a bound for the work."""
_BEFORE_BOX = re.compile(r"(?:(?<![\w)])[-−–]|[€£¥₹]|[A-Z]{0,3}\\\$)\s?\Z")
"""A sign or currency just before a box belongs to its number."""
_CLOSING = re.compile(r"""[\s.。,，;；:：!！*_`]+$""")


def extract_answer(
    text: str, answer_type: AnswerType, choices: tuple[str, ...] = (), truncated: bool = False
) -> Extraction:
    """The answer that ``text`` commits to last.

    Args:
        text: Decoded completion. If the chat template opens ``<think>`` itself, the caller puts the tag back in front,
            so that unfinished thinking is recognised. A bare ``</think>`` means that everything before it was thinking.
        answer_type: Type of the example's answer.
        choices: Texts of the options (``choice`` only); empty if they are not known.
        truncated: The completion ran into its token limit. An answer that reaches the very end of the text without
            punctuation or a line break is then incomplete and commits to nothing.
    """
    visible = visible_text(text)
    if visible is None:
        return Extraction(answer=None, reason="the <think> part is not finished")
    if answer_type == "published":
        # To the letter: MRCR's scorer looks at the first characters. What follows the thinking begins after its space.
        whole = visible.lstrip() if _THINK_TAG.search(text) else visible
        return Extraction(answer=whole) if whole.strip() else Extraction(answer=None, reason="the answer is empty")
    visible = visible[-MAX_VISIBLE_CHARS:]
    if "boxed" in visible:
        visible = _BARE_BOX.sub(r"\1{\2}", visible)
    phrases = [(m.start(), m.end()) for m in PHRASE.finditer(visible)]
    boxes = _boxes(visible)
    commitment = _last_commitment(visible, phrases, boxes, truncated)
    known = None if isinstance(commitment, str) else commitment.text
    in_words = answer_type not in _NOT_IN_WORDS
    lines, wholes = _readings(visible, phrases, boxes, truncated, known) if in_words else ((), ())
    if isinstance(commitment, str):
        if answer_type == "choice" and (letter := _exact_letter(wholes, choices)):
            return Extraction(answer=letter)
        # What was refused may still be a gold's own words ("Live and Let Die. Or Not"), if nothing at all follows.
        return Extraction(answer=None, reason=commitment, readings=wholes)
    if len(commitment.text) > MAX_ANSWER_CHARS:
        return Extraction(answer=None, reason=f"the committed text is longer than {MAX_ANSWER_CHARS:,} characters")
    readings = (*lines, *wholes)
    one = _one_answer(commitment.text, answer_type, choices, readings)
    return Extraction(answer=one.answer, reason=one.reason, readings=readings)


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


def _one_answer(text: str, answer_type: AnswerType, choices: tuple[str, ...], readings: tuple[str, ...]) -> Extraction:
    """The committed text as one answer of its type, in the type's short form if it has one."""
    if answer_type == "choice":
        # The text of an option may hold what looks like the end of a sentence.
        for line in readings[:1]:
            text = whole_option(text, line, choices)
        choice = read_choice(text, choices)
        letter = _exact_letter(readings, choices) or choice.letter
        if choice.problem and not letter:
            return Extraction(answer=None, reason=choice.problem)
        return Extraction(answer=letter or text)
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


def _exact_letter(readings: tuple[str, ...], choices: tuple[str, ...]) -> str | None:
    return next(filter(None, (exact_choice(reading, choices) for reading in readings)), None)


def _readings(
    visible: str, phrases: list[tuple[int, int]], boxes: list[_Box], truncated: bool, known: str | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What follows the phrases of the last line that has one, to the end of the line and of the text; the last box.

    A gold may itself hold a phrase ("The answer is blowing in the wind"), so each phrase of that line counts.
    """
    last = phrases[-1][0] if phrases else -1
    lines = [visible[box.inner : box.end] for box in boxes[-1:] if box.start > last]
    wholes = []
    for start, end in reversed(phrases[-_PHRASES_READ:]):
        if "\n" in visible[start : phrases[-1][0]]:
            break
        rest = visible[end : end + 2 * MAX_ANSWER_CHARS].lstrip(_BEFORE_ANSWER).rstrip()
        line, _, more = rest.partition("\n")
        # A reading that reaches the end of a text that was cut may lack its own end.
        lines += [line] * bool(more or not truncated)
        wholes += [rest] * (not truncated and end + 2 * MAX_ANSWER_CHARS >= len(visible))
    # The line's first phrase is last here: only what follows all of it is the whole text.
    return _distinct([*lines, *wholes[:-1]], known), _distinct(wholes[-1:], known)


def _distinct(texts: list[str], known: str | None) -> tuple[str, ...]:
    """The texts that say more than what is ``known`` already, each as it stands and without the words of its form."""
    more = [text for text in texts if len(text) <= MAX_ANSWER_CHARS and text.rstrip(" .") != known]
    both = [form for text in more for form in (text, without_lead_in(text))]
    return tuple(text for text in dict.fromkeys(both) if not PLACEHOLDER.fullmatch(text))


def _last_commitment(
    visible: str, phrases: list[tuple[int, int]], boxes: list[_Box], truncated: bool
) -> _Commitment | str:
    """The last commitment, or the reason why there is none."""
    about: _Commitment | None = None
    for commitment in _commitments_from_the_end(visible, phrases, boxes):
        if truncated and not commitment.closed:
            continue  # the cut may have shortened it; an earlier commitment still counts
        if not any(c.isalnum() for c in commitment.text) or PLACEHOLDER.fullmatch(commitment.text):
            continue
        if commitment.about:
            about = about or commitment
            continue
        return _problem(visible, commitment) or commitment
    where = "; the text was cut" if truncated else ""
    return about or f"no committed answer outside <think>{where}"


def _problem(visible: str, commitment: _Commitment) -> str:
    """Why a commitment names more than one answer; empty if it does not."""
    if _SECOND_THOUGHT.match(visible[commitment.end : commitment.end + 600]):
        return "an alternative follows the committed answer"
    # Only the end of the same line is searched, which keeps the work linear in the number of commitments.
    before = visible[max(0, commitment.start - 200) : commitment.start].rpartition("\n")[2]
    if _JOINED.search(before) and ("boxed" in before or PHRASE.search(before)):
        return "several answers are committed together"
    return "a list of answers is committed" if _LIST.match(commitment.text) else ""


def _commitments_from_the_end(visible: str, phrases: list[tuple[int, int]], boxes: list[_Box]) -> Iterator[_Commitment]:
    """Phrases and boxes, last first; a phrase with its box inside is one commitment."""
    phrases, boxes = list(phrases), list(boxes)
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
    about = ABOUT_THE_ANSWER.match(visible, end, line_end) is not None
    stop, closed = sentence_end(visible, bullet.end() if bullet else end, line_end)
    return _Commitment(
        start=start,
        end=stop,
        text=_clean(visible[bullet.end() if bullet else end : stop]),
        closed=closed,
        about=about,
    )


def _line_end(text: str, start: int) -> int:
    end = text.find("\n", start, start + MAX_ANSWER_CHARS + 100)
    return end if end >= 0 else min(len(text), start + MAX_ANSWER_CHARS + 100)


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
    inner = visible[box.inner : box.end]
    if any(c.isdigit() for c in inner):
        tail = max(tail, visible[box.end + 1 :][: measures_after(visible[box.end + 1 : box.end + 120])], key=len)
        if before := _BEFORE_BOX.search(visible, max(0, box.start - 6), box.start):
            return _Commitment(
                start=box.start, end=box.end + 1 + len(tail), text=_clean(before[0] + inner + tail), closed=True
            )
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
    text = without_lead_in(text)
    text = _CLOSING.sub("", strip_wrappers(text))
    quoted = len(text) > 1 and text[0] + text[-1] in ('""', "''", "“”", "‘’", "「」", "«»", "$$")
    return _CLOSING.sub("", text[1:-1].strip() if quoted else text)
