# ruff: noqa: E501 - pages of HTML, which read as they are written
"""The pages' Jinja templates and how they are filled in: one file, no network, nothing of a document ever run.

They are Python strings because a stage's code digest covers Python modules only: an edit to the page makes a new report.
"""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from qwenlong_core.report.script import SCRIPT, content_policy
from qwenlong_core.report.style import STYLE

_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<meta http-equiv="Content-Security-Policy" content="{{ policy }}">
<style>{{ style }}</style>
</head>
<body>
<div class="page">
{% if contents %}<nav aria-label="Contents"><strong>Contents</strong>
<ul>{% for section in contents %}<li><a href="#{{ section.id }}">{{ section.title }}</a></li>{% endfor %}</ul></nav>{% endif %}
<main>

{% macro table(rows) %}
<div class="scroll"><table class="rows">
<thead><tr>{% for name in rows[0] %}<th scope="col">{{ name }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in rows %}<tr>
{%- for name, found in row.items() %}{% set cell = found | short %}<td data-name="{{ name }}"{% if not loop.first and cell | string | length < 28 %} class="number"{% endif %}>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>
{% endmacro %}

{% macro panel(p) %}
<figure><h3>{{ p.title }}</h3>{{ p.chart }}
{% if p.legend %}<figcaption class="legend">{% for name in p.legend -%}
<span><i class="c{{ loop.index0 }}"></i>{{ name }}</span>{% endfor %}</figcaption>{% endif %}</figure>
{% endmacro %}

{% macro heading(id) %}<section id="{{ id }}">
<h2>{{ (contents | selectattr("id", "equalto", id) | first).title }}</h2>{% endmacro %}

<header>
<h1>{{ title }}</h1>
{% if facts %}<dl class="facts">{% for name, fact in facts %}<div><dt>{{ name }}</dt><dd>{{ fact }}</dd></div>{% endfor %}</dl>{% endif %}
<p class="soft">{{ subtitle }}</p>
{% for note in notes %}<p class="note">{{ note }}</p>{% endfor %}
</header>
"""

REPORT_BODY = """

{% if scores %}
{{ heading('scores') }}
<p>{{ scores_words }} {{ probe_words }}</p>
{{ table(scores) }}
<div class="grid below">{% for p in forests %}{{ panel(p) }}{% endfor %}</div>
<h3 class="part">By source</h3>
<p class="soft">Accuracy as above, with the benchmarks' own metrics beside it: numeric accuracy, exact match, token F1, ROUGE-L.</p>
{{ table(sources) }}
{% for title, rows in parts %}<h3 class="part">{{ title }}</h3>
{{ table(rows) }}
{% endfor %}{% for words in part_words %}<p class="soft">{{ words }}</p>
{% endfor %}<h3 class="part">Outcomes</h3>
<p class="soft">Every answer is counted once; the total is fixed. An answer is unscored if the judge gave no verdict, and an error if
the engine gave no answer. Both count 0 in the table above; the last column leaves them out.</p>
{{ table(outcomes) }}
</section>
{% endif %}

{% if gain %}
{{ heading('gain') }}
<p>Readable: the answer commits to something that can be compared, right or wrong. The gain on items whose answer was readable
before is no gain in form. Questions of a form that was never trained on show what carries over.</p>
{{ table(gain) }}
</section>
{% endif %}

{% if promotion %}
{{ heading('promotion') }}
<div class="verdict{% if promotion.promote %} yes{% endif %}"><strong>{{ promotion.verdict.capitalize() }}:</strong>
{{ promotion.reason.partition(': ')[2] }}</div>
<div class="scroll"><table class="rows below">
<thead><tr><th scope="col">Result</th><th scope="col">Condition</th><th scope="col">Numbers</th></tr></thead>
<tbody>{% for c in promotion.conditions %}<tr><td data-name="Result" class="{{ 'pass' if c.passed else 'fail' }}">{{ '✓ pass' if c.passed else '✗ fail' }}</td>
<td data-name="Condition">{{ c.name }}</td><td data-name="Numbers">{{ c.detail }}</td></tr>{% endfor %}</tbody></table></div>
{% if promotion.flips %}<details><summary>{{ promotion.flips|length }} items that challenger and champion score differently</summary>
<div class="scroll"><table class="rows">
<thead><tr><th scope="col">Item</th><th scope="col">Benchmark</th><th scope="col">Gain</th><th scope="col">Challenger</th><th scope="col">Champion</th></tr></thead>
<tbody>{% for f in promotion.flips %}<tr><td data-name="Item">{{ f.item }}</td><td data-name="Benchmark">{{ f.benchmark }}</td>
<td data-name="Gain">{{ '%+.2f'|format(f.gain) }}</td><td data-name="Challenger">{{ f.challenger }}</td><td data-name="Champion">{{ f.champion }}</td></tr>{% endfor %}</tbody></table></div>
</details>{% endif %}
</section>
{% endif %}

{% if slices %}
{{ heading('slices') }}
<p>Accuracy by length of the prompt and by place of the evidence in the document, with intervals, for the stages in the legend.</p>
<div class="grid">{% for p in slices %}{{ panel(p) }}{% endfor %}</div>
</section>
{% endif %}

{% if planned %}
{{ heading('planned') }}
<p class="soft">Planned before the run by <code>qwenlong plan</code>, with assumed lengths where no probe stood. Seconds are the
median of the steps after the first; memory is the most that one process held.</p>
{{ table(planned) }}
</section>
{% endif %}

{% if training %}
{{ heading('training') }}
<p>Steps are numbered through all phases; a dashed line marks the start of each.</p>
<div class="grid">{% for p in training %}{{ panel(p) }}{% endfor %}</div>
</section>
{% endif %}

{% if cases %}
{{ heading('cases') }}
<p>Two questions whose evidence lies in two places of an annual report, asked once of every checkpoint. They are in no score and
decide nothing. <code>qwenlong ask</code> writes the report and asks another model.</p>
{% for case in cases %}
<h3 class="part">{{ case.name | capitalize }}</h3>
<p>{{ case.question }} <strong>Right: {{ case.gold }}</strong></p>
<div class="scroll"><table class="rows">
<thead><tr><th scope="col">stage</th><th scope="col">outcome</th><th scope="col">answer</th><th scope="col">why</th><th scope="col">report</th></tr></thead>
<tbody>{% for a in case.answers %}<tr><td data-name="stage">{{ a.stage }}</td><td data-name="outcome" class="{{ 'pass' if a.outcome == 'right' else 'fail' }}">{{ a.outcome }}</td>
<td data-name="answer">{{ a.answer or "none" }}{% if a.completion %}<details><summary>whole completion</summary><div class="text">{{ a.completion }}</div></details>{% endif %}</td>
<td data-name="why">{{ a.reason }}</td><td data-name="report">{{ a.report }}</td></tr>
{% endfor %}</tbody></table></div>
{% endfor %}
</section>
{% endif %}

{% if samples %}
{{ heading('samples') }}
<p>{{ samples | length }} of {{ num_items }} items, taken in turn from every domain and outcome, so their proportions do not
reflect the score. In the documents <span class="evidence">evidence</span> is underlined where the source names it, and
<mark>texts equal to a gold answer</mark> are highlighted. Documents are cut to {{ '{:,}'.format(max_document) }} characters here,
completions to their last {{ '{:,}'.format(max_completion) }}.</p>
<form class="filter" hidden>
{% for name, values in filters.items() %}<label>{{ name | capitalize }} <select name="{{ name }}"><option value="">all</option>
{% for value in values %}<option>{{ value }}</option>{% endfor %}</select></label>
{% endfor %}<button type="reset">Show all</button> <output></output>
</form>
{% for item in samples %}
<details class="item"{% for name in filters %} data-{{ name }}="{{ item.facts[name] }}"{% endfor %}>
<summary><span class="tag {{ item.outcome }}">{{ item.outcome }}</span>{{ item.example.domain }} · {{ item.example.question | truncate(140) }}</summary>
<p class="text"><strong>Question.</strong> {{ item.example.question }}
{%- for choice in item.example.choices %}<br>({{ 'ABCDEFGHIJKLMNOPQRSTUVWXYZ'[loop.index0] }}) {{ choice }}{% endfor %}</p>
<p class="text"><strong>Gold.</strong> {{ item.example.answers | join(' · ') }}</p>
<details><summary>Document{% if item.shown[1] - item.shown[0] < item.example.context | length %}, characters
{{ '{:,}'.format(item.shown[0]) }}–{{ '{:,}'.format(item.shown[1]) }} of {{ '{:,}'.format(item.example.context | length) }}{% endif %}</summary>
<div class="text document" tabindex="0">{{ item.document }}</div></details>
{% for answer in item.answers %}
<details{% if loop.first %} open{% endif %}><summary><strong>{{ answer.stage }}</strong>{% if answer.repeated_by %} and, word for word, {{ answer.repeated_by | join(', ') }}{% endif %}
<span class="tag {{ answer.verdict }}">{{ answer.verdict }}</span></summary>
{% if answer.thinking %}<details><summary>Thinking, {{ '{:,}'.format(answer.thinking | length) }} characters</summary>
<div class="text">{{ answer.thinking }}</div></details>{% endif %}
<p class="text">{{ answer.visible or ('(nothing after the thinking)' if answer.thinking else '(no text)') }}</p>
<p class="soft">{% if answer.sample.score.extracted is not none %}Extracted “{{ answer.sample.score.extracted }}”: {% endif %}
{{- answer.sample.score.reason }}. {{ answer.sample.num_tokens }} tokens, {{ 'cut at the limit' if answer.sample.finish_reason == 'length' else 'complete' }};
prompt of {{ '{:,}'.format(answer.sample.prompt_tokens) }} tokens{% if answer.sample.lost_tokens %}, {{ '{:,}'.format(answer.sample.lost_tokens) }} cut from the middle{% endif %}
{%- if answer.cut_characters %}; {{ '{:,}'.format(answer.cut_characters) }} characters not shown{% endif %}.</p>
</details>
{% endfor %}
</details>
{% endfor %}
</section>
{% endif %}

{% if lineage %}
{{ heading('lineage') }}
<p>Each artifact above what it was made from, down to the data. A name is the stage that made it; <code>qwenlong artifacts show</code>
takes its digest.</p>
<figure>{{ lineage }}</figure>
</section>
{% endif %}

{{ heading('data') }}
{% if data %}{{ table(data) }}{% endif %}
{% if traces %}<p>{{ traces }}</p>{% endif %}
<h3 class="part">Artifacts</h3>
{{ table(artifacts) }}
{% for setting in settings %}
<details><summary>Settings of {{ setting.name }}</summary><pre>{{ setting.text }}</pre></details>
{% endfor %}
<details{% if differences %} open{% endif %}><summary>Scores published in the paper (not measured here), with this run's where it has the benchmark</summary>
<p class="soft">QwenLong-L1, arXiv 2505.17667, table 4, in percent: the authors' numbers, one sample per item, 200 items per benchmark
(FRAMES: 824), so about ±6 points each. Comparable only with a run on the same questions under the same protocol, never
with a scaled-down run.</p>
{% if differences %}<p class="soft">This run's protocol differs from the paper's: {{ differences | join('; ') }}.</p>{% endif %}
{{ table(published) }}</details>
</section>

"""

_FOOT = """</main>
</div>
<script>{{ script }}</script>
</body>
</html>
"""


def _short(cell: Any) -> Any:
    """A plain number with two decimals; whatever says itself how it is written stays as it is."""
    return f"{cell:.2f}" if type(cell) is float else cell


def render(body: str, **context: Any) -> str:
    """A whole page. ``context`` has ``title``, ``subtitle`` and what the body asks for; the rest of the head is optional.

    Raises:
        UndefinedError: the body asks for a value that is not given.
    """
    # Autoescape: questions, documents and completions are untrusted text. Strict: a missing value fails the stage.
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters["short"] = _short
    context = {"notes": (), "contents": (), "facts": ()} | context
    return environment.from_string(_HEAD + body + _FOOT).render(
        context, style=Markup(STYLE), script=Markup(SCRIPT), policy=Markup(content_policy(STYLE, SCRIPT))
    )
