"""The page's only script: it sorts tables and filters the sample answers. Without it the page shows everything.

Documents, questions and completions are untrusted. They are escaped, and the page carries a policy under which a
browser runs this script and style sheet alone, known by their digests, and loads nothing.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode

SCRIPT = r"""
(() => {
  "use strict";
  document.documentElement.classList.add("live");

  // A number may have a sign, an interval or a percent sign after it; a digest that begins with digits is none.
  const NUMBER = /^[+\-\u2212]?[\d,]*\.?\d+(?=$|[\s[(%\u2013])/;
  const numberOf = text => {
    const found = NUMBER.exec(text);
    return found ? Number(found[0].replace(/,/g, "").replace("\u2212", "-")) : null;
  };
  const textOf = (row, column) => row.cells[column].textContent.trim();

  function order(rows, column) {
    const keyed = rows.map(row => ({row, text: textOf(row, column), number: numberOf(textOf(row, column))}));
    const numeric = keyed.some(one => one.number !== null) && 2 * keyed.filter(one => one.number !== null).length >=
      keyed.filter(one => one.text !== "").length;
    const words = (a, b) => a.text.localeCompare(b.text, "en", {numeric: true});
    const known = numeric ? one => one.number !== null : one => one.text !== "";
    const compare = numeric ? (a, b) => a.number - b.number : words;
    return {known: keyed.filter(known).sort(compare), rest: keyed.filter(one => !known(one))};
  }

  function sortable(table) {
    const body = table.tBodies[0], rows = [...body.rows], heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const next = {none: "ascending", ascending: "descending", descending: "none"}[head.ariaSort || "none"];
        heads.forEach(one => one.removeAttribute("aria-sort"));
        if (next === "none") { body.append(...rows); return; }
        head.ariaSort = next;
        const {known, rest} = order(rows, column);
        if (next === "descending") known.reverse();
        body.append(...known.map(one => one.row), ...rest.map(one => one.row));  // what has no value stays last
      });
    });
  }

  function filterable(form) {
    const items = [...document.querySelectorAll(".item")], fields = [...form.querySelectorAll("select")];
    const apply = () => {
      let shown = 0;
      items.forEach(item => {
        item.hidden = fields.some(field => field.value && item.dataset[field.name] !== field.value);
        shown += !item.hidden;
      });
      form.querySelector("output").textContent = `${shown} of ${items.length} shown`;
    };
    form.hidden = false;
    form.addEventListener("change", apply);
    form.addEventListener("reset", () => setTimeout(apply));
    apply();
  }

  document.querySelectorAll("table.rows").forEach(table => table.tBodies[0].rows.length > 1 && sortable(table));
  document.querySelectorAll("form.filter").forEach(filterable);
})();
"""


def _source(text: str) -> str:
    return f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def content_policy(style: str, script: str) -> str:
    """The content security policy of a page with this style sheet and this script, and with nothing else."""
    return (
        f"default-src 'none'; style-src {_source(style)}; script-src {_source(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
