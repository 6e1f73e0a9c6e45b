"""The page of one artifact: every step once, with digests, settings and what is missing."""

import re

from report_pages import Page

from qwenlong_core.report.lineage_page import flat, lineage_page


def node(name, *parents, entry="", **changes):
    fields = {
        "input": entry, "kind": "model", "sha256": name * 10, "created_at": "2026-03-04T05:06:07+00:00", "stage": name,
        "profile": "mine", "mlflow_run_id": "run7", "code_digest": "c" * 64, "settings_digest": "s" * 64,
        "settings": {"rate": f"<{name}>"}, "parents": list(parents),
    }  # fmt: skip
    return fields | changes


DATA = node("rows", entry="data", kind="data")
GONE = {"input": "model", "sha256": "g" * 64, "missing": True}
SFT = node("sft", GONE, DATA, entry="model")
TREE = node("qwenlong version 2", node("grpo", SFT, DATA, entry="model"), kind="registration")


def test_every_artifact_comes_once_and_after_its_parents():
    assert [one["sha256"][:4] for one in flat(TREE)] == ["gggg", "rows", "sftsft"[:4], "grpo", "qwen"]


def test_the_page_names_every_step_with_its_digest_and_settings():
    text = lineage_page("models:/<b>@champion", TREE, [("Score", "0.75")])
    page = Page(text)
    assert page.open == [] and not page.tags.keys() & {"b", "link", "img"}
    assert set(page.addresses) == {"#lineage", "#artifacts"} <= {f"#{name}" for name in page.ids}
    rows = re.findall(r'data-name="sha-256"[^>]*>([^<]*)<', text)
    assert rows == ["registration/" + "qwenlong version 2" * 10, "model/" + "grpo" * 10, "model/" + "sft" * 10,
                    "data/" + "rows" * 10, "g" * 64]  # fmt: skip
    assert "&lt;grpo&gt;" in text and "not in the store" in text and "<dt>Score</dt><dd>0.75</dd>" in text
    assert text.count("<path") == 5, "version-grpo, grpo-sft, grpo-rows, sft-rows and sft-lost"
