"""What the tests of the report share: a job, an example, and a page taken apart."""

from collections import Counter
from html.parser import HTMLParser

from qwenlong_core.jobs import ReportJob
from qwenlong_core.records import Example

JOB = ReportJob(title="A <run>", notes=("Scaled down.",), bootstrap_resamples=200, confidence=0.95, seed=1)


def example(item="q0000", **changes):
    fields = dict(
        id=item,
        source="made",
        domain="math",
        answer_type="span",
        question="Where?",
        answers=("Paris",),
        context="It was in Paris.",
    )
    return Example(**fields | changes)


class Page(HTMLParser):
    """What a page is made of: ``open`` has the tags that were not closed, ``styled`` those with code or style."""

    void = frozenset({"meta", "br", "circle", "line", "polyline", "rect"})

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.addresses, self.ids, self.styled = [], Counter(), [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags[tag] += 1
        self.ids |= {value for name, value in attributes if name == "id"}
        self.styled += [tag for name, _ in attributes if name == "style" or name.startswith("on")]
        self.addresses += [value for name, value in attributes if name in ("src", "href", "srcset", "action")]
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags[tag] += 1

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
