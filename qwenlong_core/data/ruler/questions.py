"""Question answering: the documents of a question among those of others."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from qwenlong_core.data.ruler.copies import Asked, Dataset
from qwenlong_core.data.ruler.draft import Draft, Maker
from qwenlong_core.data.ruler.tasks import WORDINGS


def question_maker(data: Dataset) -> Maker:
    """Drafts about a data set's questions in order; a size is a number of documents.

    Where more documents are wanted than the data set has, they repeat, as in RULER.
    """

    def make(random: Random, size: int, index: int) -> Draft:
        asked = data.questions[index % len(data.questions)]
        texts = [data.documents[place] for place in _chosen(random, asked, size, len(data.documents))]
        random.shuffle(texts)
        context = "\n\n".join(f"Document {place}:\n{text}" for place, text in enumerate(texts, 1))
        words = WORDINGS["qa"]
        return Draft(replace(words, after=words.after.format(query=asked.question)), context, asked.answers)

    return Maker(make=make, least=max(len(asked.own) for asked in data.questions))


def _chosen(random: Random, asked: Asked, size: int, documents: int) -> list[int]:
    if size >= documents:
        return [place % documents for place in range(size)]
    wanted = size - len(asked.own)
    if wanted <= len(asked.near):
        return [*asked.own, *random.sample(asked.near, wanted)]
    known = {*asked.own, *asked.near}
    others = [place for place in range(documents) if place not in known]
    missing = min(wanted - len(asked.near), len(others))
    return [*asked.own, *asked.near, *random.sample(others, missing)]
