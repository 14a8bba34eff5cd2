"""What is said of a comparison, whatever the format: how its models and counts are called, and what it comes to.

Requirements this module meets:
- No count stands without saying whether images or copies were counted, and what is known of groups.
- What the table comes to is computed from corrected paired differences, never from whether intervals overlap.
- The paper's figures are never named without "other images, not comparable".
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from leukemia_cli.domain import NO_GROUPS, PROPOSED_GROUPS, counted, few_groups
from leukemia_cli.reporting.caveats import RANDOM, random_warning, subset_warning
from leukemia_cli.reporting.comparison import (
    ComparisonDocument,
    ComparisonRow,
    ModelName,
    Optimism,
    PairedDifference,
    PaperFigure,
)
from leukemia_cli.reporting.evaluation import Figure
from leukemia_cli.reporting.wording import begun, counts, interval, metric_title, number, p_value, signed

_TRAINED = {
    "head": "the head alone, on the features of a frozen backbone",
    "last-stage": "the head and the backbone's last stage",
    "all": "the head and the whole backbone",
}
ALPHA = 0.05
"""Below this corrected p a difference is called distinguishable from 0."""
OPTIMISTIC = "optimistic protocol"
NOT_COMPARABLE = "other images, not comparable"
NO_GROUPED = (
    "There is no comparison over whole groups of the same data set to set these figures against; "
    "leuk compare without --protocol paper makes one."
)
NO_DIFFERENCES = "No differences were computed: it takes two models."


# ---------------------------------------------------------------------------------- names and counts


def model_name(model: ModelName | ComparisonRow | Optimism) -> str:
    """Give backbone and variant, which name a row of the table."""
    return f"{model['backbone']} {model['variant']}"


def metric_inside(metric: str) -> str:
    """Give the title as it stands inside a sentence: 'macro F1', 'AUROC'."""
    title = metric_title(metric)
    return title if title.isupper() else title[:1].lower() + title[1:]


def row_labels(document: ComparisonDocument, row: ComparisonRow) -> list[str]:
    """Give what must be said wherever this row stands."""
    return [*([OPTIMISTIC] if document["optimistic"] else []), *([RANDOM] if row["random_weights"] else [])]


def known_groups(document: ComparisonDocument, figure: Figure | PairedDifference) -> int | None:
    """Give the groups behind a figure; None where unknown, and for copies, which were dealt without regard to them."""
    return None if document["groups_source"] == "none" or document["optimistic"] else figure["groups"]


def counts_behind(document: ComparisonDocument, figure: Figure | PairedDifference) -> str:
    """Say '260 images, 31 groups' or '312 copies, groups ignored'."""
    if document["optimistic"]:
        return f"{thousands(figure['n'])} {'copy' if figure['n'] == 1 else 'copies'}, groups ignored"
    return counts(figure["n"], known_groups(document, figure))


def counts_dealt(document: ComparisonDocument) -> str:
    """Say what was dealt: '260 images, 31 groups' or '1 560 copies of 260 images, 31 groups'."""
    known = None if document["groups_source"] == "none" else document["groups"]
    images = counts(document["images"], known)
    return images if document["copies"] is None else f"{thousands(document['copies'])} copies of {images}"


def thousands(count: int) -> str:
    """Set groups of three digits apart by a narrow space, as in '1 560'."""
    return f"{count:,}".replace(",", "\u202f")


def unit_title(document: ComparisonDocument) -> str:
    """Give the heading of a column of counts."""
    return "Copies" if document["optimistic"] else "Images"


def partition_noun(document: ComparisonDocument) -> str:
    """Give what one repeat of the comparison is called."""
    return "split" if document["optimistic"] else "partition"


def _times(document: ComparisonDocument) -> str:
    """Say '5 folds × 3 partitions', or of a protocol without folds '3 random splits'."""
    if document["optimistic"]:
        return counted(document["repeats"], "random split")
    return f"{counted(document['folds'], 'fold')} × {counted(document['repeats'], 'partition')}"


def _times_said(document: ComparisonDocument) -> bool:
    """Say whether the protocol's own title tells how often the images were dealt."""
    repeats, folds = counted(document["repeats"], "repeat"), counted(document["folds"], "fold")
    return all(said in document["protocol_title"] for said in (repeats, *([] if document["optimistic"] else [folds])))


def _protocol(document: ComparisonDocument) -> str:
    title = document["protocol_title"]
    return title if _said_in([title], OPTIMISTIC) else captioned(document, title)


def captioned(document: ComparisonDocument, caption: str) -> str:
    """Begin a caption with what must be said wherever a figure of this protocol stands."""
    return f"{begun(OPTIMISTIC)}: {caption}" if document["optimistic"] else caption


def subject(document: ComparisonDocument) -> str:
    """Say '12 models on five-class, 3 of five classes'."""
    task = document["task"] + (f", {document['subset']}" if document["subset"] else "")
    return f"{counted(len(document['rows']), 'model')} on {task}"


def page_title(document: ComparisonDocument) -> str:
    """Give the title of every file and page."""
    return f"Comparison of {subject(document)}" + (f" ({OPTIMISTIC})" if document["optimistic"] else "")


def usual_way(document: ComparisonDocument) -> str | None:
    """Give the way most intervals of the table came about: said once, above it."""
    ways = [f["method"] for row in document["rows"] for f in row["metrics"].values() if f["low"] is not None]
    return max(dict.fromkeys(ways), key=ways.count, default=None)


def statement(document: ComparisonDocument) -> str:
    """Say what every figure of the table rests on, for captions."""
    subset = f", {document['subset']}" if document["subset"] else ""
    usual, repeats = usual_way(document), document["repeats"]
    over = f"Over the {repeats} {partition_noun(document)}s only the spread is given, least to greatest"
    parts = [
        begun(_protocol(document)).rstrip("."),
        f"Task {document['task']}{subset} ({', '.join(document['classes'])})",
        counts_dealt(document) + ("; n counts copies, groups are ignored" if document["optimistic"] else ""),
        *([] if _times_said(document) else [_times(document)]),
        "No figure has an interval"
        if usual is None
        else f"Each interval is that of the first {partition_noun(document)}, conditional on its fitted models: {usual}",
        *([over] if repeats > 1 else []),
    ]
    return ". ".join(parts) + "."


# ---------------------------------------------------------------------------------- what it comes to


def comparison_finding(document: ComparisonDocument) -> str:
    """Say which model is highest and from how many others that is distinguishable, by corrected differences alone."""
    metric = document["headline_metric"]
    title = metric_inside(metric)
    scored = [(value, row) for row in document["rows"] if (value := row["metrics"][metric]["value"]) is not None]
    if not scored:
        return f"No model has a {title} on these images."
    best = max(value for value, _ in scored)
    top, *equals = [row for value, row in scored if value == best]
    figure = top["metrics"][metric]
    held = "no interval" if figure["low"] is None else interval(figure["low"], figure["high"])
    labels = "".join(f", {label}" for label in row_labels(document, top))
    told = f"Highest {title}: {model_name(top)}{labels}, {number(best)} ({held}; {counts_behind(document, figure)})"
    if equals:
        told += f"; equal to it: {', '.join(map(model_name, equals))}"
    others = len(document["rows"]) - 1
    spread = _over_partitions(document, top)
    if not others:
        return f"{told}. {spread}There is no other model to compare it with."
    return f"{told}. {spread}{_beyond_chance(document, top, others)}"


def _over_partitions(document: ComparisonDocument, top: ComparisonRow) -> str:
    """Say in how many partitions the highest model of the first is highest, and what it reached in them; '' for one."""
    metric = document["headline_metric"]
    table, own = [row["repeats"].get(metric, []) for row in document["rows"]], top["repeats"].get(metric, [])
    known = [place for place, value in enumerate(own) if value is not None]
    if len(known) < 2:
        return ""
    first = 0
    for place in known:
        first += own[place] == max(v for row in table if len(row) > place and (v := row[place]) is not None)
    reached = [value for value in own if value is not None]
    least, most = min(reached), max(reached)
    return (
        f"Over {len(known)} partitions it reached {number(least)} to {number(most)} and was highest in {first}; "
        "differences and p are of the first. "
    )


def _beyond_chance(document: ComparisonDocument, top: ComparisonRow, others: int) -> str:
    tested = {
        model_name(other): d["p_holm"]
        for d in document["differences"]
        if d["metric"] == document["headline_metric"] and d["p_holm"] is not None
        for me, other in ((d["a"], d["b"]), (d["b"], d["a"]))
        if model_name(me) == model_name(top)
    }
    if not tested:
        whom = "the other" if others == 1 else "the others"
        return f"Whether it differs from {whom} by more than chance was not tested."
    beyond = [name for name, p in tested.items() if p < ALPHA]
    least, most = p_value(min(tested.values())), p_value(max(tested.values()))
    spread = f"(p after Holm {least})" if least == most else f"(p after Holm {least} to {most})"
    if len(tested) == 1:
        said = f"It is {'' if beyond else 'not '}distinguishable from {next(iter(tested))} {spread}"
    elif not beyond:
        said = f"It is not distinguishable from any of the {len(tested)} others {spread}"
    elif len(beyond) == len(tested):
        said = f"It is distinguishable from each of the {len(tested)} others {spread}"
    else:
        said = (
            f"It is distinguishable from {len(beyond)} of the {len(tested)} others "
            f"({', '.join(beyond)}) and not from the rest {spread}"
        )
    if len(beyond) < len(tested):
        said += ": which comes first may be chance"
    untested = others - len(tested)
    return said + (f"; {counted(untested, 'other')} not compared." if untested else ".")


def comparison_reading(document: ComparisonDocument, metric: str) -> str:
    """Say which paired differences of a metric are distinguishable from 0 after correction; '' where there are none."""
    rows = [d for d in document["differences"] if d["metric"] == metric]
    if not rows:
        return ""
    title = metric_title(metric)
    tested = sorted(((d["p_holm"], place) for place, d in enumerate(rows) if d["p_holm"] is not None))
    untested = len(rows) - len(tested)
    if not tested:
        return f"{title}: no difference was tested ({'; '.join(dict.fromkeys(d['test'] for d in rows))})."
    rest = f"; {untested} not tested" if untested else ""
    beyond = [rows[place] for p, place in tested if p < ALPHA]
    if not beyond:
        return (
            f"{title}: no difference is distinguishable from 0 after Holm ({len(tested)} tested, corrected over the "
            f"{_family(document)} of all metrics, smallest corrected p {p_value(tested[0][0])}{rest}). "
            "That does not say that the models are equal."
        )
    listed = [f"{model_name(d['a'])} − {model_name(d['b'])} {signed(d['value'])}" for d in beyond[:6]]
    listed += [f"{len(beyond) - 6} more in the table"] if len(beyond) > 6 else []
    return (
        f"{title}: {len(beyond)} of {counted(len(tested), 'difference')} {'is' if len(beyond) == 1 else 'are'} "
        f"distinguishable from 0 after Holm over the {_family(document)} of all metrics{rest}: {'; '.join(listed)}."
    )


def _family(document: ComparisonDocument) -> str:
    """Count the tests that p values are corrected over."""
    return counted(sum(d["p"] is not None for d in document["differences"]), "test")


# ---------------------------------------------------------------------------------- what must be known before it is read


def comparison_warnings(document: ComparisonDocument) -> list[str]:
    """Give the document's warnings, after those that follow from it and that it does not hold; no sentence twice."""
    given = document["warnings"]
    found = []
    random = [model_name(row) for row in document["rows"] if row["random_weights"]]
    if random and not _said_in(given, RANDOM):
        which = "every backbone" if len(random) == len(document["rows"]) else f"the backbone of {', '.join(random)}"
        found.append(random_warning(which))
    if document["optimistic"] and not _said_in(given, OPTIMISTIC):
        found.append(
            f"{OPTIMISTIC}: copies of one image lie in training and test data alike, as if each were an image of its own; "
            "these figures are no estimate for new patients, and n counts copies"
        )
    if document["subset"] and not _said_in(given, document["subset"]):
        found.append(subset_warning(document["subset"], document["classes"]))
    if document["repeats_note"]:
        found.append(document["repeats_note"])
    elif document["repeats"] < document["repeats_asked"]:
        found.append(f"fewer repeats than asked for: {document['repeats']} of {document['repeats_asked']}")
    if document["groups_source"] == "proposed":
        found.append(PROPOSED_GROUPS)
    if document["groups_source"] != "none":
        found += few_groups(document["groups_per_class"])
    elif not document["optimistic"]:
        found.append(NO_GROUPS)
    every = [*(warning for warning in found if warning not in given), *given]
    return sorted(dict.fromkeys(every), key=lambda warning: not warning.startswith(RANDOM))


def _said_in(warnings: Sequence[str], beginning: str) -> bool:
    return any(warning.casefold().startswith(beginning.casefold()) for warning in warnings)


# ---------------------------------------------------------------------------------- how it was made, and what stands beside it


def how_made(document: ComparisonDocument) -> list[tuple[str, str]]:
    """Give how the comparison was made, term by term."""
    asked = document["repeats_asked"]
    seconds = sum(row["seconds"] for row in document["rows"])
    return [
        ("Protocol", _protocol(document)),
        ("Images", counts_dealt(document)),
        ("Groups", _groups_told(document)),
        ("Partitions", _times(document) + (f", {asked} asked for" if asked != document["repeats"] else "")),
        ("Candidates", f"grid {document['grid']}"),
        ("Trained", f"{_TRAINED[document['tune']]}; {counted(document['views'], 'view')} of each training image"),
        ("Weights", "; ".join(dict.fromkeys(f"{r['backbone']}: {r['weights']}" for r in document["rows"]))),
        ("Made with", f"leuk {document['leuk_version']}, seed {document['seed']}, {document['created']}"),
        ("Intervals", f"{document['resamples']} resamples"),
        ("Versions", ", ".join(f"{name} {version}" for name, version in document["versions"].items())),
        ("Looks", f"{document['looks']} at the images of this manifest, this comparison among them"),
        *([("Command", shlex.join(document["command"]))] if document["command"] else []),
        ("Manifest", document["manifest"]),
        ("Comparison", f"{document['id']}, {_hours(seconds)} of computing"),
    ]


def _groups_told(document: ComparisonDocument) -> str:
    if document["groups_source"] == "none":
        return "unknown"
    per_class = ", ".join(f"{name} {count}" for name, count in document["groups_per_class"].items())
    return f"{'ignored' if document['optimistic'] else document['groups_source']}; of each class: {per_class}"


def _hours(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def published(document: ComparisonDocument) -> list[PaperFigure]:
    """Give the paper's figures, that of this task first."""
    return sorted(document["paper"], key=lambda paper: paper["task"] != document["task"])


def paper_sentence(document: ComparisonDocument) -> str:
    """Name the paper's figures, the one of this task first, and say what they are not."""
    listed = published(document)
    if not listed:
        return "None is listed."
    named = "; ".join(
        f"{p['model']}, {p['task']}: {100 * p['value']:.2f} % {metric_inside(p['metric'])}" for p in listed
    )
    return f"{named}. {begun(NOT_COMPARABLE)}: how many images and patients they rest on is not published."


def without_choice(document: ComparisonDocument) -> str:
    """Name the models that had nothing to choose from in some fit; '' where every fit chose."""
    lost = {model_name(row): sum(not c["trials"] for c in row["choices"]) for row in document["rows"]}
    named = [f"{name} in {counted(count, 'fit')}" for name, count in lost.items() if count]
    return f"Without a choice, so that the first candidate was taken: {', '.join(named)}." if named else ""
