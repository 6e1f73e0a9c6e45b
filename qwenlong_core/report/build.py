"""The report stage: one self-contained HTML page about a pipeline run.

Inputs are folders by name, all optional: ``data``, ``distill``, ``sft``, ``grpo-1`` ..., ``evaluate-base``,
``evaluate-sft`` ..., ``probe`` (the last stage asked without documents), ``promote``, ``register``. A section without
its input is left out.
Output: ``report.html``, ``warnings.json``. Stage command::

    python -m qwenlong_core.report.build --job job.json --input evaluate-base=DIR ... --work DIR
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qwenlong_core.data.distill_counts import in_words
from qwenlong_core.data.prepared import EVAL_ROWS, SUMMARY
from qwenlong_core.data.rows import read_examples
from qwenlong_core.evaluation.average import AVERAGE
from qwenlong_core.evaluation.results import Evaluation, read_evaluation
from qwenlong_core.evaluation.scores import Bootstrap, Scores, Slice
from qwenlong_core.jobs import ReportJob
from qwenlong_core.promotion.decision import read_decision
from qwenlong_core.records import DOMAINS
from qwenlong_core.report.cases import case_sections
from qwenlong_core.report.charts import Series, Whisker, category_chart, forest_chart
from qwenlong_core.report.curves import Panel, Row, idle_stages, phases_in_one, read_rows, training_panels
from qwenlong_core.report.gain import gain_rows
from qwenlong_core.report.page import REPORT_BODY, render
from qwenlong_core.report.paper import paper_rows, protocol_differences
from qwenlong_core.report.parts import notes_of, part_tables
from qwenlong_core.report.picture import lineage_picture
from qwenlong_core.report.reader import MAX_COMPLETION_CHARS, MAX_DOCUMENT_CHARS, choose_samples, filters_of
from qwenlong_core.report.summary import facts_of, origins_of
from qwenlong_core.report.tables import Interval, average_cell, baseline_of, plan_rows, score_cell, score_rows
from qwenlong_core.stage_main import OUTPUT, stage_main
from qwenlong_core.store.artifacts import folder_digest
from qwenlong_core.store.files import JOB, METRICS

logger = logging.getLogger(__name__)

REPORT = "report.html"
WARNINGS = "warnings.json"
"""A list of sentences, which the pipeline's result repeats."""
PHASES = "phases.json"
"""The step lines of all phases of GRPO as of one training, for MLflow."""
_EVALUATE = "evaluate-"
_SECTIONS = {
    "scores": "Scores",
    "gain": "What the gain is made of",
    "promotion": "Promotion",
    "slices": "By length and place of the evidence",
    "planned": "Planned beside measured",
    "training": "Training",
    "cases": "Case studies",
    "samples": "Sample answers",
    "lineage": "Lineage",
    "data": "Data, artifacts and settings",
}
"""The sections of the page in their order; one without content is left out, but for the last."""


def _whisker(label: str, part: Slice) -> Whisker:
    accuracy = part.accuracy
    return Whisker(label=label, mean=accuracy.mean, low=accuracy.low, high=accuracy.high)


def _forests(evaluations: Mapping[str, Evaluation]) -> list[Panel]:
    """One chart overall and one per domain, with a row for each stage."""
    panels = [("All items", {name: e.scores.overall for name, e in evaluations.items()})]
    for domain in DOMAINS:
        parts = {n: e.scores.domains[domain] for n, e in evaluations.items() if domain in e.scores.domains}
        panels += [(domain.capitalize(), parts)] if parts else []
    return [
        Panel(title=title, chart=forest_chart(title, [_whisker(name, part) for name, part in parts.items()]))
        for title, parts in panels
    ]


def _slice_panel(title: str, evaluations: Mapping[str, Evaluation], field: str) -> Panel | None:
    """The baseline and the last stage side by side; more than two would be hard to tell apart."""
    names = list(evaluations)
    shown = list(dict.fromkeys((baseline_of(names), names[-1])))
    parts: dict[str, dict[str, Slice]] = {name: getattr(evaluations[name].scores, field) for name in shown}
    categories = list(parts[shown[0]])
    if not categories:
        return None
    series = [
        Series(name=name, whiskers=[_whisker(label, part) for label, part in parts[name].items()]) for name in shown
    ]
    return Panel(title=title, chart=category_chart(title, series, categories), legend=tuple(shown))


def _slices(evaluations: Mapping[str, Evaluation]) -> list[Panel]:
    fields = {
        "Accuracy by prompt length (tokens)": "lengths",
        "Accuracy by place of the evidence in the document": "depths",
    }
    panels = (_slice_panel(title, evaluations, field) for title, field in fields.items())
    return [panel for panel in panels if panel]


def _outcome_row(stage: str, scores: Scores) -> dict[str, Any]:
    part = scores.overall
    without = part.accuracy_without_unscored
    pass_at_k = {f"pass@{k}": f"{value:.2f}" for k, value in part.pass_at_k.items() if k > 1}
    return {
        "stage": stage,
        "samples": part.samples,
        **part.outcomes,
        "cut prompts": part.truncated_prompts,
        "tokens per answer": f"{part.mean_completion_tokens:.0f}",
        **pass_at_k,
        "without unscored": "" if without is None else f"{without.mean:.2f}",
    }


def _source_rows(evaluations: Mapping[str, Evaluation]) -> list[dict[str, Any]]:
    """One row per source: the accuracy of every stage, and the source's own metrics of the last one.

    The average over the paper's seven follows, where one of them was evaluated.
    """
    scores = list(evaluations.values())[-1].scores
    rows, last_average = [], scores.average
    for source, part in scores.sources.items():
        row: dict[str, Any] = {"source": source, "items": part.items}
        # All stages answered the same items, so each has every source.
        row |= {name: score_cell(e.scores.sources[source]) for name, e in evaluations.items()}
        row["its own metrics (last stage)"] = ", ".join(f"{name} {value:.2f}" for name, value in part.metrics.items())
        rows.append(row)
    if last_average is not None:
        row = {"source": AVERAGE, "items": last_average.accuracy.items if last_average.accuracy else ""}
        rows.append(
            row
            | {name: average_cell(e.scores) for name, e in evaluations.items()}
            | {"its own metrics (last stage)": ""}
        )
    return rows


def _scores_words(evaluations: Mapping[str, Evaluation], job: ReportJob) -> str:
    first = next(iter(evaluations.values()))
    overall, baseline = first.scores.overall, baseline_of(list(evaluations))
    effect = overall.minimum_detectable_effect
    words = (
        f"Accuracy over {overall.items} items on {overall.documents} documents, {first.plan.samples}"
        f" {'sample' if first.plan.samples == 1 else 'samples'} each, with {first.bootstrap.confidence:.0%} intervals"
        f" from {first.bootstrap.resamples:,} bootstrap resamples of documents."
    )
    if len(evaluations) > 1:
        words += (
            f" Gains are paired ({job.confidence:.0%} intervals): {baseline} and the stage answered the same items."
        )
    if first.scores.average is not None:
        words += f" The {AVERAGE} counts each of the paper's benchmarks once, whatever its number of items."
    notes = [
        f"{name}: {e.scores.average.words}."
        for name, e in evaluations.items()
        if e.scores.average and e.scores.average.words
    ]
    words = " ".join([words, *notes])
    if effect is None:
        return words
    return words + f" Without pairing, only a difference of {effect:.2f} or more would be detected with 80% power."


def _part_words(evaluation: Evaluation) -> list[str]:
    ruler = evaluation.scores.ruler
    return [*([ruler.words] if ruler else []), *notes_of(evaluation)]


def _probe_words(folder: Path) -> str:
    """How much of the score does not need the document."""
    probe = read_evaluation(folder)
    if probe.plan.protocol["document"] != "none":
        raise ValueError(
            f'input probe={folder} was asked with documents: evaluate it with evaluation.document = "none"'
        )
    accuracy = Interval(probe.scores.overall.accuracy)
    return f"Without the documents the last stage still answers {accuracy}: that share is memory or luck."


def _data_rows(folder: Path) -> list[dict[str, Any]]:
    """Rows of each split, kept and dropped by reason, as the prepare stage counted them."""
    path = folder / SUMMARY
    if not path.is_file():
        return []
    splits: dict[str, dict[str, Any]] = json.loads(path.read_text())["splits"]
    return [
        {
            "split": name,
            "rows": split["rows"],
            "documents": split["documents"],
            "by domain": ", ".join(f"{domain} {count}" for domain, count in split["domains"].items()),
            "prompt tokens": "{min:,}–{max:,}, median {median:,}".format(**split["tokens"]) if split["rows"] else "",
            "refused": split["refused"],
            "dropped": ", ".join(f"{reason} {count}" for reason, count in split["dropped"].items()) or "0",
        }
        for name, split in splits.items()
    ]


def _traces(folder: Path) -> str:
    """Where SFT's solutions came from: counts and price."""
    counts = json.loads((folder / SUMMARY).read_text())["distill"]
    return f"SFT imitates traces that the reward's rule verified: {in_words(counts)}."


def _settings(inputs: Mapping[str, Path]) -> list[dict[str, str]]:
    """The job of each stage, where the pipeline stored it beside the result."""
    jobs = {name: folder / JOB for name, folder in inputs.items()}
    return [
        {"name": name, "text": json.dumps(json.loads(path.read_text()), indent=2)}
        for name, path in jobs.items()
        if path.is_file()
    ]


def _artifact_rows(job: ReportJob, inputs: Mapping[str, Path]) -> list[dict[str, Any]]:
    """Each stage with its digest; where one was stopped and taken up again, how often, and the work lost by that."""
    rows: list[dict[str, Any]] = []
    for name, folder in inputs.items():
        row: dict[str, Any] = {"stage": name, "digest": folder_digest(folder)[:12]}
        if job.taken_up:
            stage = "prepare" if name == "data" else name
            row |= {"taken up again": job.taken_up.get(stage, 0), "minutes lost": job.lost_minutes.get(stage, 0.0)}
        rows.append(row)
    return rows


def _bootstrap(job: ReportJob) -> Bootstrap:
    return Bootstrap(resamples=job.bootstrap_resamples, confidence=job.confidence, seed=job.seed)


def _evaluation_context(
    job: ReportJob, evaluations: Mapping[str, Evaluation], data: Path | None, probe: Path | None
) -> dict[str, Any]:
    if not evaluations:
        return {"scores": [], "gain": [], "samples": [], "filters": {}, "slices": [], "parts": [], "part_words": []}
    baseline = baseline_of(list(evaluations))
    bootstrap = _bootstrap(job)
    items = choose_samples(evaluations, baseline, read_examples(data / EVAL_ROWS) if data else [])
    return {
        "scores": score_rows(evaluations, bootstrap),
        "gain": gain_rows(evaluations, bootstrap),
        "scores_words": _scores_words(evaluations, job),
        "probe_words": _probe_words(probe) if probe else "",
        "forests": _forests(evaluations),
        "outcomes": [_outcome_row(name, e.scores) for name, e in evaluations.items()],
        "sources": _source_rows(evaluations),
        "parts": [(f"{name}: {title}", rows) for name, e in evaluations.items() for title, rows in part_tables(e)],
        "part_words": [f"{name}: {words}." for name, e in evaluations.items() for words in _part_words(e)],
        "slices": _slices(evaluations),
        "samples": items,
        "filters": filters_of(items),
        "num_items": evaluations[baseline].scores.overall.items,
    }


def _subtitle(evaluations: Mapping[str, Evaluation]) -> str:
    if not evaluations:
        return "No stage was evaluated."
    protocol = next(iter(evaluations.values())).plan.protocol
    stages = ", ".join(evaluations)
    return (
        f"{'Stages evaluated' if len(evaluations) > 1 else 'Evaluated'}: {stages}. Prompts up to"
        f" {protocol['max_prompt_tokens']:,} tokens, answers up to {protocol['max_completion_tokens']:,}, temperature"
        f" {protocol['temperature']:g}, top-p {protocol['top_p']:g}, engine {protocol['engine']}, judge"
        f" {(protocol['judge'] or {}).get('model', 'none (rules only)')}."
    )


def warnings_of(inputs: Mapping[str, Path]) -> list[str]:
    """What the reader of a run must not miss: phases that learned nothing."""
    return idle_stages(_step_lines(inputs))


def _step_lines(inputs: Mapping[str, Path]) -> dict[str, list[Row]]:
    return {name: read_rows(folder / METRICS) for name, folder in inputs.items()}


def build_page(job: ReportJob, inputs: Mapping[str, Path]) -> str:
    """The whole page as HTML.

    Args:
        job: Title, notes and the bootstrap of the gains.
        inputs: Folders by name, as the module says.

    Raises:
        ValueError: an evaluation is unfinished or damaged, or the evaluations answered different items.
    """
    folders = {name.removeprefix(_EVALUATE): path for name, path in inputs.items() if name.startswith(_EVALUATE)}
    evaluations = {name: read_evaluation(folder) for name, folder in folders.items()}
    decision = read_decision(inputs["promote"]) if "promote" in inputs else None
    origins = origins_of(inputs)
    context = {
        "title": job.title,
        "subtitle": _subtitle(evaluations),
        "notes": (*job.notes, *warnings_of(inputs)),
        "facts": facts_of(inputs, evaluations, decision, _bootstrap(job)),
        **_evaluation_context(job, evaluations, inputs.get("data"), inputs.get("probe")),
        "cases": case_sections(folders, MAX_COMPLETION_CHARS),
        "promotion": decision,
        "lineage": lineage_picture(origins) if origins else "",
        "training": training_panels(inputs),
        "planned": plan_rows(job.planned_seconds, job.planned_gib, _step_lines(inputs)),
        "max_document": MAX_DOCUMENT_CHARS,
        "max_completion": MAX_COMPLETION_CHARS,
        "data": _data_rows(inputs["data"]) if "data" in inputs else [],
        "traces": _traces(inputs["distill"]) if "distill" in inputs else "",
        "artifacts": _artifact_rows(job, inputs),
        "settings": _settings(inputs),
        "published": paper_rows(evaluations),
        "differences": protocol_differences(evaluations),
    }
    contents = [{"id": name, "title": title} for name, title in _SECTIONS.items() if name == "data" or context[name]]
    return render(REPORT_BODY, contents=contents, **context)


def run(job: ReportJob, inputs: Mapping[str, Path], work: Path) -> None:
    """The report stage: writes ``report.html``, ``warnings.json`` and ``phases.json``."""
    text = build_page(job, inputs)
    (work / OUTPUT / REPORT).write_text(text)
    (work / OUTPUT / WARNINGS).write_text(json.dumps(warnings_of(inputs)))
    (work / OUTPUT / PHASES).write_text(json.dumps(phases_in_one(_step_lines(inputs))))
    logger.info("report | %d KB", len(text.encode()) // 1024)


if __name__ == "__main__":
    stage_main(ReportJob, run)
