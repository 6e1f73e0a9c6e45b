# ruff: noqa: E501 - a page of HTML, which reads as it is written
"""The report's style sheet and Jinja template: one page, no scripts, no network, light and dark.

Both are Python strings because a stage's code digest covers Python modules only: an edit to the page makes a new report.
"""

STYLE = """
:root { color-scheme: light dark;
  --back: #fbfbfa; --panel: #ffffff; --ink: #1d2126; --soft: #5b6470; --rule: #dfe2e6; --grid: #eceef0;
  --c0: #6b7480; --c1: #1f66c7; --c2: #b8560b; --c3: #2a7d46; --c4: #8a3fa8;
  --good: #1d6e3a; --bad: #b3261e; --mark: #ffe28a; --evidence: #1f66c7; }
@media (prefers-color-scheme: dark) { :root {
  --back: #14171b; --panel: #1c2026; --ink: #e6e8eb; --soft: #a0a9b4; --rule: #333a43; --grid: #2a3038;
  --c0: #9aa4b0; --c1: #6fa8f5; --c2: #f0985a; --c3: #6cc48a; --c4: #cf92e6;
  --good: #77cf95; --bad: #ff8f85; --mark: #6b5410; --evidence: #6fa8f5; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 24px 16px 64px; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 8px; }
h2 { font-size: 1.2rem; margin: 44px 0 8px; }
h3 { font-size: .95rem; margin: 0 0 4px; }
p { margin: 6px 0 12px; max-width: 76ch; }
.soft, figcaption, .legend { color: var(--soft); font-size: .9rem; }
.note { border-left: 4px solid var(--c2); background: var(--panel); padding: 10px 14px; margin: 14px 0; max-width: 80ch; }
.verdict { border: 1px solid var(--rule); border-left: 4px solid var(--bad); background: var(--panel); padding: 12px 16px; }
.verdict.yes { border-left-color: var(--good); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; background: var(--panel); font-size: .92rem; }
th, td { text-align: left; padding: 7px 10px; border-bottom: 1px solid var(--rule); vertical-align: top; }
th { font-weight: 600; color: var(--soft); vertical-align: bottom; }
td:first-child { white-space: nowrap; }
td.number { white-space: nowrap; font-variant-numeric: tabular-nums; }
.pass { color: var(--good); font-weight: 600; } .fail { color: var(--bad); font-weight: 600; }
code { font: .86em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
.grid { display: grid; gap: 16px; grid-template-columns: repeat(auto-fill, minmax(min(100%, 320px), 1fr)); }
figure { margin: 0; padding: 12px; background: var(--panel); border: 1px solid var(--rule); border-radius: 6px; }
svg { display: block; width: 100%; height: auto; max-width: 460px; }
svg text { fill: var(--soft); font: 11px system-ui, sans-serif; } svg text.name { fill: var(--ink); font-size: 12px; }
.grid line.grid, svg line.grid { stroke: var(--grid); } svg line.mark { stroke: var(--soft); stroke-dasharray: 3 3; }
svg .curve { fill: none; stroke-width: 2; } svg .whisker { stroke-width: 2; }
.c0 { stroke: var(--c0); color: var(--c0); } .c1 { stroke: var(--c1); color: var(--c1); } .c2 { stroke: var(--c2); color: var(--c2); }
.c3 { stroke: var(--c3); color: var(--c3); } .c4 { stroke: var(--c4); color: var(--c4); }
svg .dot { fill: currentColor; stroke: none; } svg .area { fill: currentColor; fill-opacity: .75; stroke: none; }
figcaption { margin-top: 6px; } .legend span { margin-right: 14px; white-space: nowrap; } .legend i { display: inline-block; width: 10px; height: 10px;
  border-radius: 50%; background: currentColor; margin-right: 5px; }
details { background: var(--panel); border: 1px solid var(--rule); border-radius: 6px; margin: 8px 0; }
details > summary { cursor: pointer; padding: 9px 14px; } details > :not(summary) { margin-left: 14px; margin-right: 14px; }
details[open] { padding-bottom: 8px; } details details { margin: 8px 14px; }
summary:focus-visible { outline: 2px solid var(--c1); outline-offset: 2px; }
.tag { display: inline-block; font-size: .78rem; border: 1px solid currentColor; border-radius: 10px; padding: 0 8px; margin-right: 6px; }
.gained, .right { color: var(--good); } .lost, .wrong { color: var(--bad); }
.text { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .92rem; }
.document { max-height: 340px; overflow-y: auto; border-top: 1px solid var(--rule); padding: 10px 0; }
mark { background: var(--mark); color: inherit; padding: 0 1px; } .evidence { border-bottom: 2px solid var(--evidence); }
@media (max-width: 640px) {
  .rows thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  .rows tr { display: block; padding: 6px 0; border-bottom: 1px solid var(--rule); }
  .rows td, .rows td.number { display: grid; grid-template-columns: 9.5em 1fr; gap: 8px; border: 0; padding: 2px 10px; white-space: normal; overflow-wrap: anywhere; }
  .rows td:empty { display: none; }
  .rows td::before { content: attr(data-name); color: var(--soft); }
  .rows td:first-child { font-weight: 600; } }
pre { overflow-x: auto; font: .84rem/1.45 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
"""

TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>{{ style }}</style>
</head>
<body>
<main>

{% macro table(rows) %}
<div class="scroll"><table class="rows">
<thead><tr>{% for name in rows[0] %}<th scope="col">{{ name }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in rows %}<tr>
{%- for name, cell in row.items() %}<td data-name="{{ name }}"{% if not loop.first and cell | string | length < 28 %} class="number"{% endif %}>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>
{% endmacro %}

{% macro panel(p) %}
<figure><h3>{{ p.title }}</h3>{{ p.chart }}
{% if p.legend %}<figcaption class="legend">{% for name in p.legend -%}
<span><i class="c{{ loop.index0 }}"></i>{{ name }}</span>{% endfor %}</figcaption>{% endif %}</figure>
{% endmacro %}

<header>
<h1>{{ title }}</h1>
<p class="soft">{{ subtitle }}</p>
{% for note in notes %}<p class="note">{{ note }}</p>{% endfor %}
</header>

{% if scores %}
<section>
<h2>{{ 'Scores by stage' if scores | length > 1 else 'Scores' }}</h2>
<p>{{ scores_words }} {{ probe_words }}</p>
{{ table(scores) }}
<div class="grid" style="margin-top:16px">{% for p in forests %}{{ panel(p) }}{% endfor %}</div>
<h3 style="margin-top:20px">By source</h3>
<p class="soft">Accuracy as above, with the benchmarks' own metrics beside it: numeric accuracy, exact match, token F1, ROUGE-L.</p>
{{ table(sources) }}
{% for title, rows in parts %}<h3 style="margin-top:20px">{{ title }}</h3>
{{ table(rows) }}
{% endfor %}{% for words in part_words %}<p class="soft">{{ words }}</p>
{% endfor %}<h3 style="margin-top:20px">Outcomes</h3>
<p class="soft">Every answer is counted once; the total is fixed. An answer is unscored if the judge gave no verdict, and an error if
the engine gave no answer. Both count 0 in the table above; the last column leaves them out.</p>
{{ table(outcomes) }}
</section>
{% endif %}

{% if gain %}
<section>
<h2>What the gain is made of</h2>
<p>Readable: the answer commits to something that can be compared, right or wrong. The gain on items whose answer was readable
before is no gain in form. Questions of a form that was never trained on show what carries over.</p>
{{ table(gain) }}
</section>
{% endif %}

{% if decision %}
<section>
<h2>Promotion</h2>
<div class="verdict{% if decision.promote %} yes{% endif %}"><strong>{{ decision.verdict.capitalize() }}.</strong>
{{ decision.reason.partition(': ')[2] }}</div>
<div class="scroll"><table class="rows" style="margin-top:12px">
<thead><tr><th scope="col">Result</th><th scope="col">Condition</th><th scope="col">Numbers</th></tr></thead>
<tbody>{% for c in decision.conditions %}<tr><td data-name="Result" class="{{ 'pass' if c.passed else 'fail' }}">{{ '✓ pass' if c.passed else '✗ fail' }}</td>
<td data-name="Condition">{{ c.name }}</td><td data-name="Numbers">{{ c.detail }}</td></tr>{% endfor %}</tbody></table></div>
{% if decision.flips %}<details><summary>{{ decision.flips|length }} items that challenger and champion score differently</summary>
<div class="scroll"><table class="rows">
<thead><tr><th scope="col">Item</th><th scope="col">Benchmark</th><th scope="col">Gain</th><th scope="col">Challenger</th><th scope="col">Champion</th></tr></thead>
<tbody>{% for f in decision.flips %}<tr><td data-name="Item">{{ f.item }}</td><td data-name="Benchmark">{{ f.benchmark }}</td>
<td data-name="Gain">{{ '%+.2f'|format(f.gain) }}</td><td data-name="Challenger">{{ f.challenger }}</td><td data-name="Champion">{{ f.champion }}</td></tr>{% endfor %}</tbody></table></div>
</details>{% endif %}
</section>
{% endif %}

{% if slices %}
<section>
<h2>By length and place of the evidence</h2>
<p>Accuracy by length of the prompt and by place of the evidence in the document, with intervals, for the stages in the legend.</p>
<div class="grid">{% for p in slices %}{{ panel(p) }}{% endfor %}</div>
</section>
{% endif %}

{% if planned %}
<section>
<h2>Planned beside measured</h2>
<p class="soft">Planned before the run by <code>qwenlong plan</code>, with assumed lengths where no probe stood. Seconds are the
median of the steps after the first; memory is the most that one process held.</p>
{{ table(planned) }}
</section>
{% endif %}

{% if curves %}
<section>
<h2>Training</h2>
<p>Steps are numbered through all phases; a dashed line marks the start of each.</p>
<div class="grid">{% for p in curves %}{{ panel(p) }}{% endfor %}</div>
</section>
{% endif %}

{% if cases %}
<section>
<h2>Case studies</h2>
<p>Two questions whose evidence lies in two places of an annual report, asked once of every checkpoint. They are in no score and
decide nothing. <code>qwenlong ask</code> writes the report and asks another model.</p>
{% for case in cases %}
<h3 style="margin-top:20px">{{ case.name | capitalize }}</h3>
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

{% if items %}
<section>
<h2>Sample answers</h2>
<p>{{ items | length }} of {{ num_items }} items, taken in turn from every domain and outcome, so their proportions do not
reflect the score. In the documents <span class="evidence">evidence</span> is underlined where the source names it, and
<mark>texts equal to a gold answer</mark> are highlighted. Documents are cut to {{ '{:,}'.format(max_document) }} characters here,
completions to their last {{ '{:,}'.format(max_completion) }}.</p>
{% for item in items %}
<details>
<summary><span class="tag {{ item.outcome }}">{{ item.outcome }}</span>{{ item.example.domain }} · {{ item.example.question | truncate(140) }}</summary>
<p class="text"><strong>Question.</strong> {{ item.example.question }}
{%- for choice in item.example.choices %}<br>({{ 'ABCDEFGHIJKLMNOPQRSTUVWXYZ'[loop.index0] }}) {{ choice }}{% endfor %}</p>
<p class="text"><strong>Gold.</strong> {{ item.example.answers | join(' · ') }}</p>
<details><summary>Document{% if item.shown[1] - item.shown[0] < item.example.context | length %}, characters
{{ '{:,}'.format(item.shown[0]) }}–{{ '{:,}'.format(item.shown[1]) }} of {{ '{:,}'.format(item.example.context | length) }}{% endif %}</summary>
<div class="text document" tabindex="0">{{ item.document }}</div></details>
{% for answer in item.answers %}
<details{% if loop.first %} open{% endif %}><summary><strong>{{ answer.stage }}</strong>
<span class="tag {{ answer.verdict }}" style="margin-left:8px">{{ answer.verdict }}</span></summary>
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

<section>
<h2>Data, artifacts and settings</h2>
{% if data %}{{ table(data) }}{% endif %}
{% if traces %}<p>{{ traces }}</p>{% endif %}
<h3 style="margin-top:20px">Artifacts</h3>
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

</main>
</body>
</html>
"""
