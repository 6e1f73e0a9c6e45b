# ruff: noqa: E501 - a style sheet, which reads as it is written
"""The style sheet of the pages: light and dark, from a phone's width up.

A Python string because a stage's code digest covers Python modules only: an edit to the page makes a new report.
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
.page { max-width: 1360px; margin: 0 auto; padding: 0 16px; }
main { min-width: 0; max-width: 1120px; padding: 24px 0 64px; }
nav { padding-top: 20px; font-size: .9rem; } nav ul { list-style: none; margin: 6px 0 0; padding: 0; display: flex; flex-wrap: wrap; gap: 4px 14px; }
nav a { color: var(--c1); text-decoration: none; } nav a:hover { text-decoration: underline; }
@media (min-width: 1160px) { .page { display: grid; grid-template-columns: 172px minmax(0, 1fr); gap: 36px; }
  nav { position: sticky; top: 0; align-self: start; max-height: 100vh; overflow-y: auto; padding-top: 32px; } nav ul { display: block; } nav li { padding: 4px 0; line-height: 1.3; } }
section { scroll-margin-top: 8px; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 8px; }
h2 { font-size: 1.2rem; margin: 44px 0 8px; }
h3 { font-size: .95rem; margin: 0 0 4px; }
p { margin: 6px 0 12px; max-width: 76ch; }
.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 210px), 1fr)); gap: 10px 20px; margin: 14px 0; }
.facts dt { color: var(--soft); font-size: .85rem; } .facts dd { margin: 0; font-weight: 600; overflow-wrap: anywhere; }
.part { margin-top: 20px; } .below { margin-top: 14px; }
.soft, figcaption, .legend { color: var(--soft); font-size: .9rem; }
.note { border-left: 4px solid var(--c2); background: var(--panel); padding: 10px 14px; margin: 14px 0; max-width: 80ch; }
.verdict { border: 1px solid var(--rule); border-left: 4px solid var(--bad); background: var(--panel); padding: 12px 16px; }
.verdict.yes { border-left-color: var(--good); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; background: var(--panel); font-size: .92rem; }
th, td { text-align: left; padding: 7px 10px; border-bottom: 1px solid var(--rule); vertical-align: top; }
th { font-weight: 600; color: var(--soft); vertical-align: bottom; }
th button { all: unset; cursor: pointer; text-decoration: underline dotted; text-underline-offset: 3px; } th button:hover, th[aria-sort] button { color: var(--ink); }
th[aria-sort="ascending"] button::after { content: " ↑"; content: " ↑" / ""; } th[aria-sort="descending"] button::after { content: " ↓"; content: " ↓" / ""; }
th button:focus-visible, a:focus-visible, select:focus-visible { outline: 2px solid var(--c1); outline-offset: 2px; }
.filter { display: flex; flex-wrap: wrap; gap: 8px 16px; align-items: center; margin: 10px 0 14px; font-size: .92rem; } .filter[hidden] { display: none; }
.filter select, .filter button { font: inherit; color: inherit; background: var(--panel); border: 1px solid var(--rule); border-radius: 6px; padding: 4px 8px; }
.filter output { color: var(--soft); }
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
svg .lane { fill: none; stroke-width: 2; } svg.lineage { max-width: 520px; }
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
  .live .rows thead:has(button) { position: static; display: block; width: auto; height: auto; clip-path: none; padding: 6px 10px; border-bottom: 1px solid var(--rule); }
  .live .rows thead:has(button) tr { display: flex; flex-wrap: wrap; gap: 2px 14px; padding: 0; border: 0; } .rows thead th { padding: 0; border: 0; }
  .live .rows thead:has(button) tr::before { content: "Sort by"; color: var(--soft); }
  .rows tbody, .rows { display: block; }
  .rows tr { display: block; padding: 6px 0; border-bottom: 1px solid var(--rule); }
  .rows td, .rows td.number { display: grid; grid-template-columns: 9.5em 1fr; gap: 8px; border: 0; padding: 2px 10px; white-space: normal; overflow-wrap: anywhere; }
  .rows td:empty { display: none; } .rows td > details { grid-column: 2; margin: 4px 0; }
  .rows td::before { content: attr(data-name); color: var(--soft); }
  .rows td:first-child { font-weight: 600; } }
pre { overflow-x: auto; font: .84rem/1.45 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
"""
