"""Units of measure with their dimension, and exact conversion between them. Also printed in ``docs/rewards.md``."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from qwenlong_core.rewards.number.digits import MATH


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit of measure."""

    dimension: str
    base: str
    """Units of one base convert into each other exactly. Days and months do not, though both are times."""
    factor: Decimal


_TABLE = """
length      metre    1e-9      nm, nanometre, nanometres, nanometer, nanometers
length      metre    1e-6      μm, micron, microns, micrometre, micrometres, micrometer, micrometers
length      metre    1e-3      mm, millimetre, millimetres, millimeter, millimeters, 毫米
length      metre    1e-2      cm, centimetre, centimetres, centimeter, centimeters, 厘米, 公分
length      metre    1         metre, metres, meter, meters, mètre, mètres, 米, 公尺, メートル, 미터
length      metre    1e3       km, kms, kilometre, kilometres, kilometer, kilometers, 公里, 千米, キロ, 킬로미터
length      metre    0.0254    inch, inches
length      metre    0.3048    foot, feet, ft
length      metre    0.9144    yard, yards, yd, yds
length      metre    1609.344  mile, miles, mi, 英里
length      sea      1         nautical mile, nautical miles
area        m²       1         m^2, sq m, sqm, square metre, square metres, square meter, square meters, 平方米
area        m²       1e6       km^2, sq km, square kilometre, square kilometres, square kilometer, square kilometers
area        m²       1e4       hectare, hectares, ha, 公顷
area        foot²    1         ft^2, sq ft, sqft, square foot, square feet
area        mile²    1         sq mi, square mile, square miles
area        acre     1         acre, acres, 英亩
area        亩       1         亩
volume      litre    1e-3      ml, millilitre, millilitres, milliliter, milliliters, 毫升
volume      litre    1         l, L, litre, litres, liter, liters, 升
volume      litre    1e3       m^3, cubic metre, cubic metres, cubic meter, cubic meters, 立方米
volume      foot³    1         ft^3, cubic foot, cubic feet
volume      gallon   1         gallon, gallons, gal
volume      barrel   1         barrel, barrels, bbl, bbls, 桶
volume      boe      1         boe, barrels of oil equivalent
mass        gram     1e-6      μg, microgram, micrograms
mass        gram     1e-3      mg, milligram, milligrams, 毫克
mass        gram     1         g, gram, grams, gramme, grammes, 克
mass        gram     1e3       kg, kgs, kilo, kilos, kilogram, kilograms, kilogramme, kilogrammes, 公斤, 千克, 킬로그램
mass        gram     1e6       tonne, tonnes, metric ton, metric tons, mt, 吨, 噸, 公吨
mass        gram     453.59237 lb, lbs
mass        ton      1         ton, tons
mass        ounce    1         oz, ounce, ounces
time        second   1e-3      ms, millisecond, milliseconds, 毫秒
time        second   1         sec, secs, second, seconds, 秒
time        second   60        min, mins, minute, minutes, 分钟, 분
time        second   3600      h, hr, hrs, hour, hours, 小时, 小時, 時間, 시간
time        second   86400     day, days, 天, 日, 日間, 일, jour, jours, Tag, Tage, Tagen, día, días
time        second   604800    week, weeks, wk, wks, 周, 星期, 週間, Woche, Wochen
time        business 1         business day, business days, working day, working days, trading days, 工作日
time        month    1         month, months, mo, mos, 月, 个月, 個月, か月, ヶ月, 개월, mois, Monat, Monate, mes, meses
time        month    3         quarter, quarters, 季度
time        month    12        year, years, yr, yrs, 年, 年间, 年間, 년, ans, Jahr, Jahre, Jahren, año, años
time        month    120       decade, decades
time        month    1200      century, centuries, 世纪
data        byte     1         byte, bytes
data        byte     1e3       kB, KB, kilobyte, kilobytes
data        byte     1e6       MB, megabyte, megabytes
data        byte     1e9       GB, gigabyte, gigabytes
data        byte     1e12      TB, terabyte, terabytes
data        bit      1         bit, bits
energy      Wh       1e3       kWh, kilowatt-hour, kilowatt-hours, kilowatt hours, 千瓦时, 度
energy      Wh       1e6       MWh, megawatt-hour, megawatt-hours, megawatt hours
energy      Wh       1e9       GWh, gigawatt-hour, gigawatt-hours, gigawatt hours
energy      Wh       1e12      TWh, terawatt-hour, terawatt-hours, terawatt hours
energy      joule    1         joule, joules
energy      joule    1e3       kJ, kilojoule, kilojoules
energy      btu      1         btu
energy      calorie  1         calorie, calories, kcal
power       watt     1         watt, watts
power       watt     1e3       kW, kilowatt, kilowatts
power       watt     1e6       MW, megawatt, megawatts
power       watt     1e9       GW, gigawatt, gigawatts
power       hp       1         hp, horsepower
speed       km/h     1         km/h, kph, kmh
speed       mile/h   1         mph
speed       m/s      1         m/s
frequency   hertz    1         Hz, hertz
frequency   hertz    1e3       kHz, kilohertz
frequency   hertz    1e6       MHz, megahertz
frequency   hertz    1e9       GHz, gigahertz
temperature celsius  1         ° C, °C, degrees Celsius, 摄氏度
temperature degree   1         °F, ° F, degrees Fahrenheit
temperature kelvin   1         kelvin, kelvins
angle       degree   1         °, degree, degrees
ratio       ppm      1         ppm, parts per million
multiple    times    1         x, times, -fold, fold, 倍, 배
"""
"""Dimension, base, factor to the base, and every way to write the unit; the first is its name."""

_CASE_MATTERS = frozenset({"kB", "KB", "MB", "GB", "TB", "L", "MW", "kW", "GW", "kJ"})

UNITS: dict[str, Unit] = {}
"""The unit of a name."""
WORDS: dict[str, tuple[str, ...]] = {}
"""Every way to write the unit of a name."""
for _line in _TABLE.strip().splitlines():
    _dimension, _base, _factor, _words = _line.split(maxsplit=3)
    _names = tuple(word.strip() for word in _words.split(","))
    UNITS[_names[0]], WORDS[_names[0]] = Unit(_dimension, _base, Decimal(_factor)), _names


def unit_words() -> dict[str, str]:
    """Every way to write a unit, folded except where the case matters (MW, GB), with the unit's name."""
    return {word if word in _CASE_MATTERS else word.casefold(): name for name, words in WORDS.items() for word in words}


def unit_ratio(answer: str | None, gold: str | None) -> Decimal | bool | None:
    """What one unit of the answer is in the gold's unit.

    ``True`` if they are the same or one is left out, ``False`` if they measure different things, ``None`` if only a
    reader can tell: shares and bonds, days and months.
    """
    if answer is None or gold is None or answer == gold:
        return True
    a, b = UNITS.get(answer), UNITS.get(gold)
    if a is None or b is None:
        return None
    if a.dimension != b.dimension:
        return False
    return MATH.divide(a.factor, b.factor) if a.base == b.base else None
