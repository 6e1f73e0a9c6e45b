"""Invented names.

Lists for different kinds of name share no word, so that an answer is never part of a name in its question.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


COMPANY_FIRST = _words(
    "Nord Delta Atlas Orion Vega Summit Harbor Cedar Falcon Granite Beacon Pioneer Meridian Quartz Sterling "
    "Crown Aurora Boreal Castor Draco Ember Fjord Garnet Helios Indigo Jasper Kestrel Lumen Magnet Nimbus Onyx "
    "Pallas Quill Raven Sable Tundra Umber Vertex Willow Xenon Yarrow Zephyr Anchor Basalt Copper Dynamo Echo "
    "Flint Glacier Hazel Iris Juniper Kelvin Lotus Maple Noble Osprey Prairie Radiant"
)
COMPANY_SECOND = _words(
    "Foods Steel Energy Paper Motors Glass Textiles Chemicals Shipping Media Bank Cement Health Optics Pharma "
    "Retail Rail Airlines Timber Mining Software Telecom Plastics Tools Water Packaging Dairy Brewing Toys "
    "Furniture Apparel Robotics Sensors Logistics Fisheries Batteries Bearings Cables Pumps Turbines"
)
FIRST_NAMES = _words(
    "Anna Boris Clara David Elena Felix Greta Hugo Ines Jonas Karin Leo Maria Nils Olga Peter Rosa Simon Tara "
    "Viktor Wanda Yusuf Zoe Adam Bella Carl Dora Emil Fiona Georg Helen Ivan Julia Kurt Lena Martin Nora Oscar "
    "Paula Ralf Sara Tom Ursula Vera Walter Alma Bruno Cora Dirk Edith Frank Gina Hans Irma Jan Klara Lukas"
)
LAST_NAMES = _words(
    "Albers Brandt Conti Duval Eklund Farrow Garcia Hansen Ivers Jansen Keller Lindt Moreau Novak Ortega Petrov "
    "Quinn Rossi Sandoval Tanaka Ulrich Varga Weber Yilmaz Zeman Abbott Becker Carver Dalton Engel Fischer Gruber "
    "Hoffman Ibsen Jarvis Kovac Larsen Mercer Nolan Olsen Palmer Quist Ritter Schmidt Torres Unger Vogel Winter "
    "Xavier York Zimmer Archer Bishop Cooper Draper Ellis Fowler Gibson Hubbard Irving Jensen Knight"
)
CITY_FIRST = _words(
    "Al Bren Cal Dor El Fen Gar Hol Ister Jor Kal Lor Mar Nor Ost Pel Quen Ros Sel Tor Ul Ver Wes Yar Zel Ash "
    "Bel Cor Dun Em Far Gol Hel Il Kor Lan Mor Nev Or Par Ran Sol Tal Und Val Win"
)
CITY_LAST = _words("burg mouth dale grad ford holm wick stadt haven mere field bridge port minster stead")
COUNTRIES_FIRST = _words(
    "Ar Bal Cast Dan Est Flor Gal Hib Ill Jut Kar Lat Mold Nav Ol Pom Rut Sax Trans Urb Val Wal Zet"
)
COUNTRIES_LAST = ["ovia", "aria", "onia", "istan", "ania", "edia"]
WORK_FIRST = _words(
    "Silent Golden Broken Hidden Distant Crimson Frozen Gentle Hollow Ivory Jagged Lonely Midnight Narrow Open "
    "Pale Quiet Restless Scarlet Twisted Uncertain Velvet Wandering Yellow Burning Careless Dusty Empty Fading "
    "Green Humble Icy Last Modern Nameless Old Patient Rising Second Tender"
)
WORK_LAST = _words(
    "Lantern Mirror Orchard Voyage Shadow Garden Letter Clock Island Promise Season Window Thief Violin Desert "
    "Kingdom Summer Signal Portrait Whisper Carnival Echoes Feather Horizon Journey Key Ladder Museum Needle "
    "Ocean Puzzle Queen Refuge Stairway Tide Umbrella Valley Wedding Arrow Bell"
)
DEVICE_FIRST = _words("AX BR CT DM EV FK GL HP KR LS MT NV PX QR RS TL VK WX ZT")
DEVICE_KINDS = _words("pump blower compressor boiler conveyor mixer chiller dryer press lathe generator fan")


_COMPANY_MORE = [
    "{} " + word for word in _words("Group Holdings Partners Systems Works Europe Asia Pacific Iberia Nordic")
]
_PLACE_MORE = [word + " {}" for word in _words("Upper Lower Old New Great Little East West North South Inner Outer")]
_PERSON_MORE = ["{} " + word for word in _words("Junior Senior")]
_WORK_MORE = ["{} " + word for word in _words("Returns Revisited Remembered Unbound Rises Abroad")]
_EASY_DRAWS = 12
"""Failed draws after which names get longer, since short ones are running out."""


class Names:
    """Draws names and never gives the same one twice."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._used: set[str] = set()

    def _draw(self, first: Sequence[str], last: Sequence[str], pattern: str, more: Sequence[str] = ("{}",)) -> str:
        for attempt in range(100_000):
            name = pattern.format(self._rng.choice(first), self._rng.choice(last))
            if attempt >= _EASY_DRAWS:
                name = self._rng.choice(more).format(name)
            if attempt >= 10 * _EASY_DRAWS:
                name = f"{name} {self._rng.randint(2, attempt)}"
            if name not in self._used:
                self._used.add(name)
                return name
        raise RuntimeError(f"every name of the form {pattern!r} is used: ask for a shorter document")

    def company(self) -> str:
        return self._draw(COMPANY_FIRST, COMPANY_SECOND, "{} {}", _COMPANY_MORE)

    def person(self) -> str:
        return self._draw(FIRST_NAMES, LAST_NAMES, "{} {}", _PERSON_MORE)

    def city(self) -> str:
        return self._draw(CITY_FIRST, CITY_LAST, "{}{}", _PLACE_MORE)

    def country(self) -> str:
        return self._draw(COUNTRIES_FIRST, COUNTRIES_LAST, "{}{}", _PLACE_MORE)

    def work(self) -> str:
        return self._draw(WORK_FIRST, WORK_LAST, "The {} {}", _WORK_MORE)

    def device(self) -> str:
        return self._draw(DEVICE_FIRST, [str(n) for n in range(10, 100)], "{}-{}")
