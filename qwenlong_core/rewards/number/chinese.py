"""Numbers in Chinese numerals below ten thousand; 万 and 亿 after them are scales."""

from __future__ import annotations

from decimal import Decimal

_CHINESE = {
    **{c: n for n, c in enumerate("零一二三四五六七八九")},
    **{c: n for n, c in enumerate("〇壹贰叁肆伍陆柒捌玖")},
    **{"两": 2, "兩": 2, "貳": 2, "參": 3, "陸": 6, "十": 10, "拾": 10, "百": 100, "佰": 100, "千": 1000, "仟": 1000},
}
CHINESE_DIGITS = "".join(_CHINESE)


def chinese(text: str) -> Decimal | None:
    """A number below 10,000 in Chinese (``三千五百``) or digit by digit (``二〇二一``); ``None`` if it is neither."""
    values = [_CHINESE[c] for c in text]
    if len(values) > 1 and all(value < 10 for value in values):
        return Decimal("".join(map(str, values))) if len(values) <= 20 else None
    total, digit, last = 0, None, 10_000
    for value in values:
        if value >= 10:
            if value >= last or (digit is None and value > 10 and total == 0 and len(values) == 1):
                return None
            total, digit, last = total + (1 if digit is None else digit) * value, None, value
        elif digit not in (None, 0):
            return None
        else:
            digit = value
    return Decimal(total + (digit or 0))
