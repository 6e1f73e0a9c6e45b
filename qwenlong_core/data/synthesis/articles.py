"""Linked articles about people, places and films (domain ``multihop``).

A question follows links from article to article, or compares two articles. The other articles look alike but
are about other subjects. An unanswerable question lacks its last link and has a tempting fact in its place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

from qwenlong_core.data.prompts import answer_form
from qwenlong_core.data.synthesis.document import Block, Draft, Fact, Kind, Shape, choose_kind
from qwenlong_core.data.synthesis.words import Names
from qwenlong_core.records import AnswerType

UNANSWERABLE = ("unanswerable", "Insufficient information.")
_ASK = ' If the text does not say, answer "unanswerable".'

_CLOSERS = (
    "Further reading is listed elsewhere.", "This article is a summary.", "See also the index.", "Sources agree.",
    "The archive is open to the public.", "Critics remain divided.", "Photographs survive.", "Some letters survive.",
    "Much has been written about it.", "The story is often told in schools.", "A revised edition is planned.",
    "It is well known.", "The records of those years are incomplete.", "Little else is known.",
    "Some details are disputed by historians of the period.", "Most visitors come in summer.",
    "A plaque was put up later.", "The matter has been studied at length.", "An exhibition was held.",
    "Older books spell some of the names differently.", "The facts have been checked.", "Opinions differ.",
    "Translations followed soon after.", "The editors last reviewed this page in the spring.",
    "None of this was reported at the time.",
)  # fmt: skip


class _World:
    """Invented people, places and films. Every block states facts about one of them."""

    def __init__(self, rng: Random, shape: Shape) -> None:
        self.rng, self.shape, self.names = rng, shape, Names(rng)
        self.far_countries = [self.names.country() for _ in range(24)]

    def film(self, work: str, director: str) -> Block:
        text = f"{work} is a {self.rng.randint(1930, 2019)} film directed by {director}."
        return Block(text, (Fact(work, "director", director),))

    def birth(self, person: str, city: str) -> Block:
        return Block(f"{person} was born in {city}.", (Fact(person, "birthplace", city),))

    def schooling(self, person: str, city: str) -> Block:
        return Block(f"{person} went to school in {city}.", (Fact(person, "school town", city),))

    def birth_year(self, person: str, year: int) -> Block:
        return Block(f"{person} was born in {year}.", (Fact(person, "birth year", str(year)),))

    def place(self, city: str, country: str) -> Block:
        return Block(f"{city} is a town in {country}.", (Fact(city, "country", country),))

    def capital(self, country: str, city: str) -> Block:
        return Block(f"The capital of {country} is {city}.", (Fact(country, "capital", city),))

    def filler(self, rng: Random) -> Block:
        kind = rng.randrange(3)
        if kind == 0:
            film = self.film(self.names.work(), self.names.person())
            return Block(f"{film.text} {rng.choice(_FILM_REMARKS)}", film.facts)
        if kind == 1:
            person, city, other = self.names.person(), self.names.city(), self.names.city()
            facts = (*self.birth(person, city).facts, *self.schooling(person, other).facts)
            text = f"{person} was born in {city} and went to school in {other}. {rng.choice(_PERSON_REMARKS)}"
            return Block(text, facts)
        place = self.place(self.names.city(), rng.choice(self.far_countries))
        return Block(f"{place.text} {rng.choice(_PLACE_REMARKS).format(n=rng.randint(3, 90))}", place.facts)

    def near_misses(self, *more: Block) -> list[Block]:
        blocks = list(more)
        while len(blocks) < self.shape.distractors:
            person = self.names.person()
            blocks.append(self.film(self.names.work(), person))
            blocks.append(self.birth(person, self.names.city()))
        return blocks[: self.shape.distractors]

    def draft(
        self,
        kind: str,
        answer_type: AnswerType,
        evidence: list[Block],
        *,
        question: str,
        answers: tuple[str, ...],
        work: str,
        query: dict[str, Any],
        misses: list[Block],
    ) -> Draft:
        names = [str(name) for block in evidence for fact in block.facts for name in (fact.subject, fact.value)]
        return Draft(
            domain="multihop",
            answer_type=answer_type,
            kind=kind,
            steps=len(evidence),
            title="",
            question=question + _ASK,
            answers=answers,
            solution=f"<think>{work}</think>\n\n{answer_form(answer_type, answers[0])}",
            query=query,
            evidence=tuple(evidence),
            distractors=tuple(misses),
            filler=self.filler,
            closers=_CLOSERS,
            entities=tuple(dict.fromkeys(name for name in names if name[0].isupper())),
        )


_FILM_REMARKS = (
    "It was shot in nine weeks with a small crew and found its audience only years later.",
    "The music was recorded first, and the scenes were cut to fit it.",
    "Two endings were filmed, and the studio chose the darker one after a test screening.",
    "The lead role had been offered to four actors before a stage actor from the provinces took it.",
    "Reviewers praised the understated camera work, but box office takings were modest in the first weeks.",
    "Most of the outdoor scenes were shot on a single farm over one long, rainy summer.",
    "A print that had been thought lost turned up in a school cellar and was restored by hand.",
    "It was shown without an interval, which was unusual for a film of that length.",
)
_PERSON_REMARKS = (
    "Letters from those years show a patient and rather private person who liked long walks.",
    "A first job in a print shop left a lasting interest in maps and old books.",
    "Friends remembered a dry sense of humour and a habit of answering every letter the same day.",
    "The family moved twice before settling in a narrow house behind the market.",
    "Two years at sea came before any thought of a career and were mentioned in every interview.",
    "The early work was signed with initials only, and some of it was identified only recently.",
    "Later in life there was a small orchard to look after, and little time for journalists.",
    "Teaching paid the bills for a decade, and several students went on to become well known themselves.",
)
_PLACE_REMARKS = (
    "It has a population of about {n} thousand, a weekly market and a bridge from the last century.",
    "The river floods every few years, and {n} houses near the mill stand on raised ground.",
    "Its railway station, {n} kilometres from the coast, was rebuilt after a fire.",
    "A glassworks employs {n} people; many others commute to the larger towns nearby.",
    "The town hall keeps {n} volumes of council minutes, the oldest of them bound in wood.",
    "In winter, the pass is closed for about {n} days, and supplies come by the valley road.",
    "The old quarter burned down once and was rebuilt on the same {n} plots.",
    "A festival in August attracts some {n} thousand visitors, most of them just for the day.",
)


def _bridge(hops: int) -> Callable[[_World], Draft]:
    """The question that follows ``hops`` links: film, director, birthplace, country, capital."""

    def make(world: _World) -> Draft:
        names = world.names
        work, person, city, country, capital = names.work(), names.person(), names.city(), names.country(), names.city()
        chain = [
            world.film(work, person),
            world.birth(person, city),
            world.place(city, country),
            world.capital(country, capital),
        ]
        asked = {
            2: f"In which town was the director of {work} born?",
            3: f"In which country was the director of {work} born?",
            4: f"What is the capital of the country in which the director of {work} was born?",
        }[hops]
        answer = (city, country, capital)[hops - 2]
        said = [
            f"{work} was directed by {person}.",
            f"{person} was born in {city}.",
            f"{city} is in {country}.",
            f"Its capital is {capital}.",
        ]
        path = ["director", "birthplace", "country", "capital"][:hops]
        misses = world.near_misses(world.schooling(person, names.city()))
        return world.draft(
            f"bridge_{hops}",
            "span",
            chain[:hops],
            question=asked,
            answers=(answer,),
            work=" ".join(said[:hops]),
            query={"op": "path", "start": work, "path": path},
            misses=misses,
        )

    return make


def _film_of(world: _World) -> Draft:
    """The two links of ``bridge_2`` the other way round: from a town to the film of a person born there."""
    names = world.names
    work, person, city = names.work(), names.person(), names.city()
    return world.draft(
        "film_of",
        "span",
        [world.film(work, person), world.birth(person, city)],
        question=f"Which film was directed by a person born in {city}?",
        answers=(work,),
        work=f"{person} was born in {city}. {work} was directed by {person}.",
        query={"op": "film_of", "city": city},
        misses=world.near_misses(world.schooling(person, names.city())),
    )


def _unanswerable(world: _World) -> Draft:
    """A chain of two to four links without its last one, and with a similar fact in its place."""
    hops = world.rng.choice((2, 3, 4) if not world.shape.is_short else (2,))
    draft, names = KINDS[f"bridge_{hops}"].make(world), world.names
    last = draft.evidence[-1].facts[0]
    tempting = {
        "birthplace": world.schooling(last.subject, names.city()),
        "country": Block(
            f"Merchants in {last.subject} trade mostly with {(far := names.country())}.",
            (Fact(last.subject, "trade partner", far),),
        ),
        "capital": Block(
            f"The largest port in {last.subject} is {(port := names.city())}.",
            (Fact(last.subject, "largest port", port),),
        ),
    }[last.attribute]
    # The chain may already offer a fact of this kind about this subject: two of them would contradict each other.
    misses = [
        block for block in draft.distractors if not {f[:2] for f in block.facts} & {f[:2] for f in tempting.facts}
    ]
    said = draft.solution[len("<think>") : draft.solution.index("</think>")].rsplit(". ", 1)[0]
    work = f"{said}. The text does not give the {last.attribute} of {last.subject}."
    return replace(
        draft,
        kind="unanswerable",
        answer_type="unanswerable",
        answers=UNANSWERABLE,
        evidence=(*draft.evidence[:-1], tempting),
        distractors=tuple(misses),
        solution=f"<think>{work}</think>\n\n{answer_form('unanswerable', UNANSWERABLE[0])}",
    )


def _same_country(world: _World) -> Draft:
    names, same = world.names, world.rng.random() < 0.5
    a, b, home = names.city(), names.city(), names.country()
    other = home if same else names.country()
    evidence = [world.place(a, home), world.place(b, other)]
    answer = "yes" if same else "no"
    return world.draft(
        "same_country",
        "yes_no",
        evidence,
        question=f"Are the towns of {a} and {b} in the same country?",
        answers=(answer,),
        work=f"{a} is in {home}. {b} is in {other}.",
        query={"op": "same", "of": [[a, "country"], [b, "country"]]},
        misses=world.near_misses(world.place(names.city(), home)),
    )


def _older(world: _World) -> Draft:
    names = world.names
    a, b = names.person(), names.person()
    years = world.rng.sample(range(1900, 1990), 2)
    answer = "yes" if years[0] < years[1] else "no"
    evidence = [world.birth_year(a, years[0]), world.birth_year(b, years[1])]
    return world.draft(
        "older",
        "yes_no",
        evidence,
        question=f"Was {a} born before {b}?",
        answers=(answer,),
        work=f"{a} was born in {years[0]} and {b} in {years[1]}.",
        query={"op": "before", "of": [[a, "birth year"], [b, "birth year"]]},
        misses=world.near_misses(world.birth_year(names.person(), world.rng.randint(1900, 1989))),
    )


KINDS: dict[str, Kind] = {
    "bridge_2": Kind(2, 5, _bridge(2)),
    "film_of": Kind(2, 1, _film_of),
    "bridge_3": Kind(3, 4, _bridge(3), min_tokens=208),
    "bridge_4": Kind(4, 3, _bridge(4), min_tokens=224),
    "same_country": Kind(2, 1, _same_country),
    "older": Kind(2, 1, _older),
    "unanswerable": Kind(2, 1, _unanswerable),
}


def draft(rng: Random, shape: Shape) -> Draft:
    """Linked articles with their question."""
    return choose_kind(KINDS, shape, rng).make(_World(rng, shape))
