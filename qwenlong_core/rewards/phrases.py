"""The forms that commit to an answer, by language. ``docs/rewards.md`` lists them; a test reads the list from there."""

from __future__ import annotations

import re

_ENGLISH = r"""
    \b(?:the|my|our)\s{1,3}(?:(?:final|correct|right|best|most|suitable|appropriate|overall|short)\s{1,3}){0,3}
      (?:answer|choice|option)
      (?:\s{1,3}(?:to|for)\b[^.\n?!:]{1,100}?)?
      (?:\s{1,3}(?:is|would\s+be|should\s+be|must\s+be)\b | \s{0,3}[:：=])
"""
_LABEL = r"""
    (?:^|(?<=[\n.!?>])) [^\w\n]{0,12}
      (?: (?:final\s+|correct\s+)?answer | (?:richtige\s+)?antwort | réponse(?:\s+finale)? | respuesta(?:\s+final)?
        | risposta(?:\s+finale)? | resposta(?:\s+final)? | (?:правильный\s+)?ответ )
      [*_]{0,3} \s{0,2} [:：]
  | ^ (?:\#{1,6}\ {0,3}[*_]{0,3} | [*_]{2,3}) (?:final\s+)?answer [*_]{0,3} [ \t]* $
"""
_SENTENCES = r"""
    (?:正[确確]|最[终終]|最[后後]的?)?(?:答案|[选選][项項])(?:[应應][该該當当]?|就)?(?:[是为為爲]|[:：])
  | (?:正解|答え|回答|解答)(?:は|[:：]) | (?:정답|답변|답)(?:[은는]|\s?[:：])
  | \bla\s+(?:bonne\s+)?réponse\s+(?:correcte\s+|finale\s+)?est\b
  | \bla\s+respuesta\s+(?:correcta\s+|final\s+)?es\b
  | \bdie\s+(?:richtige\s+|endgültige\s+)?antwort\s+(?:ist|lautet)\b
  | \bla\s+risposta\s+(?:corretta\s+|finale\s+)?è
  | \ba\s+resposta\s+(?:correta\s+|final\s+)?é\b
"""
PHRASE = re.compile(f"(?:{_ENGLISH}|{_LABEL}|{_SENTENCES})", re.IGNORECASE | re.VERBOSE | re.MULTILINE)
"""What comes before a committed answer."""

ABOUT_THE_ANSWER = re.compile(
    r"\s+(?:(?:also|further|directly|clearly|well|fully)\s+)?"
    r"(?:supported|confirmed|based|found|given|stated|derived|mentioned|taken|explained|located|consistent|because)\b"
    r"(?!\W*$)"
)
"""After "the answer is", these words speak of an answer that was given before."""

_LEAD_IN = re.compile(
    r"[\s*_:：=`,]*(?:(?:that(?!['’])|therefore|thus|hence|then|simply|clearly|indeed|consequently|accordingly|daher|donc|dunque|"
    r"portanto|por\s+(?:lo\s+)?tanto|also)\b,?)?[\s*_:：`]*"
)
"""Markers and one adverb in small letters before the answer. ``Then`` with a capital begins a name."""
_COPULA = re.compile(r"(?<=\S)\s?(?:です|である|だ|でした|となります|になります|でございます|입니다|이다|이에요|예요)$")
"""The verb that ends a Japanese or Korean sentence."""

_PLACE = r"(?:insert|your|the|final|correct|chosen|option|answer|letter|choice|number|value|text|here|placeholder|\s)"
PLACEHOLDER = re.compile(
    rf"""[\s"'`*_]* (?: [(\[<{{]\s* (?:{_PLACE}{{0,7}}(?:answer|letter|choice|option|placeholder)(?:\s+here)?|x+)
        \s*[)\]>}}]
      | insert\s+(?:{_PLACE}){{1,8}} | your\s+(?:final\s+)?answer(?:\s+here)? | (?:final\s+)?answer\s+here
      | [(\[<{{]? (?:\.{{2,}}|…|_+|\?+|x{{3,}}) [)\]>}}]? ) [\s"'`*_.]*""",
    re.IGNORECASE | re.VERBOSE,
)
"""The prompt's or the model's own placeholder, where an answer would stand."""


def without_lead_in(text: str) -> str:
    """The answer without the words that belong to the form: an adverb before it, a Japanese or Korean verb after it."""
    text = text[_LEAD_IN.match(text).end() :]  # type: ignore[union-attr]
    return text if text.isascii() else _COPULA.sub("", text.rstrip(" .。"))
