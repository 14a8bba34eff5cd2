"""What a model was made from, and its card: what it is for, and what two reporting guidelines ask of a report."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from leukemia_cli.reporting.checklists import CLAIM, TRIPOD_AI, Checklist, Fact
from leukemia_cli.reporting.evaluation_finding import finding, within
from leukemia_cli.reporting.evaluation_source import HEADLINE, Source
from leukemia_cli.reporting.evaluation_words import level_words
from leukemia_cli.reporting.html import (
    Markup,
    definitions,
    details,
    escaped,
    heads,
    joined,
    named,
    paragraph,
    preformatted,
    subsection,
    table,
)
from leukemia_cli.reporting.wording import begun, counts, metric_title, number


def origin(source: Source) -> Markup:
    """Give what the model was made from, as far as the report tells."""
    report, model = source.report, source.model
    bootstrap = report.get("bootstrap") or {}
    trained, groups = source.trained_on
    size = model.get("input_size_px")
    pairs: list[tuple[str, object]] = [
        ("Run", report["run"]),
        ("Task", model.get("task_title") or report.get("task")),
        ("Backbone", " · ".join(str(v) for v in (report.get("backbone"), model.get("timm_name")) if v)),
        ("Variant", report.get("variant")),
        ("Weights", report.get("weights")),
        ("Trained", report.get("tune")),
        ("Licence of the weights", model.get("licence")),
        ("Source of the weights", model.get("source") or model.get("weights_source")),
        ("SHA-256 of the weights", model.get("weights_sha256")),
        ("Features", model.get("feature_width")),
        ("Trained on", None if trained is None else counts(trained, groups)),
        ("Evaluated on", f"{source.protocol}: {source.of}"),
        ("Groups", {"none": "unknown"}.get(str(report.get("groups_source")), report.get("groups_source"))),
        ("Input", None if size is None else f"{size} × {size} px, {model.get('fit')}, {model.get('interpolation')}"),
        ("Mean and standard deviation", _moments(model)),
        ("Remedies", ", ".join(model.get("remedies_titles") or ())),
        ("Seed", model.get("seed", report.get("seed"))),
        ("Looks at these images" if report.get("external") else "Looks at the test split", report.get("test_looks")),
        ("Intervals", _bootstrap_words(bootstrap)),
        ("Manifest", report.get("manifest")),
        ("Made by leuk", report.get("leuk_version")),
        ("Trained at", model.get("created")),
        ("Evaluated at", report.get("created")),
        *((str(key).capitalize(), value) for key, value in (report.get("facts") or {}).items()),
    ]
    parts = [definitions([(term, named(str(value))) for term, value in pairs if value not in (None, "")])]
    versions, command = model.get("versions"), model.get("command")
    if versions:
        parts.append(subsection("Versions", paragraph(escaped(_versions(versions)))))
    if command:
        parts.append(subsection("Command line", preformatted(shlex.join(map(str, command)))))
    if not model:
        parts.append(paragraph(escaped("What the model was trained from is not in this report."), kind="pale"))
    return joined(parts)


def _moments(model: Mapping[str, Any]) -> str | None:
    if "mean" not in model or "std" not in model:
        return None
    return "; ".join(", ".join(f"{v:g}" for v in model[key]) for key in ("mean", "std"))


def _versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _bootstrap_words(bootstrap: Mapping[str, Any]) -> str | None:
    if not bootstrap:
        return None
    return (
        f"{level_words(bootstrap['level'])}, whole groups drawn again {bootstrap['resamples']} times within their class, "
        f"seed {bootstrap['seed']}"
    )


# ---------------------------------------------------------------------------------- the model card


def card(source: Source) -> Markup:
    """Say what the model is for and what it is not, and answer the checklists as far as the report can."""
    report = source.report
    facts = _facts(source)
    pairs = [
        ("Intended use", escaped("Research on the classification of leukaemia from images of blood smears.")),
        ("Not for", escaped("The diagnosis of patients; it is not a medical device.")),
        ("Classes", joined(map(named, report["confusion"]["classes"]), ", ")),
        ("Gives out", escaped(facts["output"])),
        ("Finding", finding(source)),
        (
            "Known limits",
            escaped(f"{len(report['warnings'])} listed under Warnings, on top of this page.")
            if report.get("warnings")
            else escaped("No warning was raised; that is no proof that there is no limit."),
        ),
    ]
    said = (
        "Two reporting guidelines follow, in words of this tool: filled in where the report knows the answer, marked “not "
        "reported” where only the authors of a study do. Check the published lists before submitting."
    )
    checklists = [_checklist(checklist, facts) for checklist in (TRIPOD_AI, CLAIM)]
    return joined([definitions(pairs), paragraph(escaped(said)), *checklists])


def _checklist(checklist: Checklist, facts: Mapping[Fact, str]) -> Markup:
    answers = [None if item.fact is None else facts.get(item.fact) for item in checklist.items]
    rows = [
        (
            Markup(f'<span class="pale">{escaped(item.number)}</span> {escaped(item.asks)}'),
            escaped(answer) if answer else Markup('<span class="pale">not reported</span>'),
        )
        for item, answer in zip(checklist.items, answers, strict=True)
    ]
    filled = sum(answer is not None for answer in answers)
    shown = table(heads("Item", "This report", names=2), rows, caption=f"{checklist.name} ({checklist.citation})")
    return subsection(checklist.name, details(f"{filled} of {len(rows)} items answered by this report", shown))


def _facts(source: Source) -> dict[Fact, str]:
    """Give what the report can answer of the checklists, in words; what it cannot is left out."""
    return {**_facts_of_data(source), **_facts_of_figures(source), **_facts_of_model(source)}


def _facts_of_data(source: Source) -> dict[Fact, str]:
    report = source.report
    supports = ", ".join(f"{name} {row['support']}" for name, row in report["per_class"].items())
    if source.groups_known:
        disjoint = f"Whole groups (from: {report.get('groups_source')}): no group lies on two sides."
    else:
        disjoint = "Images; groups are unknown, so that images of one patient can lie on both sides."
    facts: dict[Fact, str] = {
        "counts": f"{source.of}; images by class: {supports}.",
        "balance": f"Images by class: {supports}. Balanced accuracy counts every class alike.",
        "disjoint": disjoint,
    }
    if report.get("folds"):
        facts["partition"] = f"{report['folds']} folds, pooled out-of-fold predictions. {disjoint}"
        facts["calculation"] = "Each image was judged by the model of the fold that did not see it; no ensemble."
    elif report.get("external"):
        facts["external"] = f"{report['external']}: {source.of}."
    else:
        facts["partition"] = f"Evaluated on {source.protocol}. {disjoint}"
    if not report.get("external"):
        facts["internal"] = f"{begun(source.protocol)}: {source.of}."
    if report.get("manifest"):
        trained, groups = source.trained_on
        on = "" if trained is None else f", trained on {counts(trained, groups)}"
        facts["data"] = f"Manifest {report['manifest']}; {source.of} evaluated{on}."
    return facts


def _facts_of_figures(source: Source) -> dict[Fact, str]:
    report = source.report
    calibration, abstention = report.get("calibration") or {}, report.get("abstention") or {}
    calibrated = "" if calibration.get("fitted_on") is None else ", after temperature scaling"
    unanswered = " Images that are too unlike the training images or too uncertain are left unanswered."
    measures = ", ".join(metric_title(name) for name in report["metrics"])
    curves = "; ROC, precision–recall, reliability and risk–coverage curves" if report.get("curves") else ""
    mistakes = " and the most confident mistakes" if report.get("mistakes") else ""
    facts: dict[Fact, str] = {
        "output": f"A probability for each class{calibrated}; the most probable class is the label, without a threshold."
        + (unanswered if abstention.get("measured") else ""),
        "measures": f"{measures}; confusion matrix{curves}.",
        "failures": f"Confusion matrix{mistakes}.",
    }
    estimate = report["metrics"].get(HEADLINE)
    if estimate and estimate["value"] is not None:
        facts["performance"] = f"Balanced accuracy {number(estimate['value'])}{within(source, estimate)}."
    if report.get("bootstrap"):
        facts["uncertainty"] = f"{_bootstrap_words(report['bootstrap'])}."
    if abstention.get("measured"):
        facts["abstention"] = (
            f"Of {source.of}, {abstention.get('novel')} were left unanswered as unlike the training images and "
            f"{abstention.get('uncertain')} as too uncertain."
        )
    if report.get("heatmaps"):
        facts["heatmaps"] = "Heat maps, with deletion and insertion beside random order."
    return facts


def _facts_of_model(source: Source) -> dict[Fact, str]:
    report, model = source.report, source.model
    facts: dict[Fact, str] = {}
    if report.get("leuk_version"):
        weights = f"; weights under {model['licence']}" if model.get("licence") else ""
        facts["code"] = f"leuk {report['leuk_version']}{weights}."
    if report.get("backbone"):
        facts["architecture"] = f"{model.get('timm_name') or report['backbone']}, variant {report.get('variant')}."
        facts["technology"] = f"Deep learning: {report['backbone']}, variant {report.get('variant')}."
    if report.get("weights"):
        facts["initial"] = f"Weights: {report['weights']}."
    if report.get("tune"):
        seed = model.get("seed", report.get("seed"))
        facts["training"] = f"Trained: {report['tune']}" + ("." if seed is None else f"; seed {seed}.")
    if model.get("input_size_px"):
        remedies = "".join(f"; {title}" for title in model.get("remedies_titles") or ())
        facts["preprocessing"] = (
            f"{model['input_size_px']} px, {model.get('fit')}, {model.get('interpolation')}; "
            f"mean and standard deviation {_moments(model)}{remedies}."
        )
    if model.get("versions"):
        facts["software"] = f"{_versions(model['versions'])}."
    choices = report.get("choices")
    if choices:
        most = max(len(choice.get("trials") or ()) for choice in choices)
        facts["candidates"] = (
            f"{most} candidates, the highest balanced accuracy on validation images kept."
            if most > 1
            else "One candidate; nothing was chosen."
        )
    return facts
