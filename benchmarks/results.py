"""Measure leuk on real images and write docs/results.md: every figure with command, seed, counts and interval.

Usage: LEUK_TEST_DATA=FOLDER python benchmarks/results.py [--work DIR] [--output docs/results.md] [--only SECTION,…]

FOLDER holds `Taleqani/` (with appearance_groups.csv), `ALL_IDB1/` (with capture_blocks.csv), `AML_cells/` (with labels.csv)
and `healthy_cells/`. Each section is kept as Markdown in the working folder; the page is put together from all that are there.
"""

from __future__ import annotations

import argparse
import csv
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from leukemia_cli.data.manifest import read_manifest
from leukemia_cli.domain import Manifest
from leukemia_cli.judging.evaluation import judge
from leukemia_cli.judging.predictions import Predictions
from leukemia_cli.learning.machine import granted_cores
from leukemia_cli.workspace.files import write_text
from leukemia_cli.workspace.folders import open_workspace

BACKBONE = "efficientnet-lite0"
VARIANTS = ("base", "svm", "hidden", "dropout")
SEED = 0
SHOWN = ("balanced_accuracy", "macro_f1", "accuracy", "sensitivity", "specificity", "auroc", "ece")


class Bench:
    """Runs commands in a working folder and keeps them as they would be typed, private paths replaced."""

    def __init__(self, data: Path, work: Path, name: str) -> None:
        self.data, self.work, self.name = data, work, name
        self.workspace = work / name
        self.log: list[str] = []

    def leuk(self, *arguments: str, workspace: bool = True) -> Any:
        """Run one command and give its JSON document."""
        common = ["--workspace", str(self.workspace), "--seed", str(SEED)] if workspace else []
        every = [*arguments, *common]
        line = " ".join(["leuk", *every])
        for private, public in ((str(self.data), "$LEUK_TEST_DATA"), (f"{self.work}/", "")):
            line = line.replace(private, public)
        self.log.append(line)
        print(line, file=sys.stderr, flush=True)
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "leukemia_cli", *every, "--json", "--quiet"], stdout=subprocess.PIPE, check=False
        )
        print(f"  {time.monotonic() - started:.0f} s, exit {done.returncode}", file=sys.stderr, flush=True)
        if done.returncode not in (0, 3):
            raise SystemExit(done.stdout.decode())
        return json.loads(done.stdout)

    @property
    def commands(self) -> str:
        """Give what was run as a fenced block."""
        return "\n".join(["```sh", *self.log, "```"])


def shown(figure: dict[str, Any] | None) -> str:
    """Show a figure with its interval, or without where there is none."""
    if figure is None or figure["value"] is None:
        return "–"
    if figure["low"] is None:
        return f"{figure['value']:.3f}"
    return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Give a Markdown table."""
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def counts(figure: dict[str, Any]) -> str:
    """Say what a figure rests on."""
    return f"{figure['n']} images, {figure['groups']} groups"


# ------------------------------------------------------------------------------------------------------- comparisons


def rows_of(document: dict[str, Any]) -> str:
    """Show a comparison's rows: every metric with interval and counts, and the spread over repeats."""
    body = []
    for row in document["rows"]:
        figures = [row["metrics"][name] for name in SHOWN]
        spread = [value for value in row["repeats"]["balanced_accuracy"] if value is not None]
        body.append(
            [
                f"`{row['variant']}`",
                *map(shown, figures),
                f"{min(spread):.3f} to {max(spread):.3f} ({len(spread)})",
                counts(figures[0]),
            ]
        )
    return table(["variant", *SHOWN, "balanced accuracy over partitions", "n"], body)


def differences_of(document: dict[str, Any], metric: str = "balanced_accuracy") -> str:
    """Show paired differences of one metric with p values after Holm."""
    body = [
        [
            f"`{d['a']['variant']}` − `{d['b']['variant']}`",
            shown(d).replace("0.", "0."),
            f"{d['p']:.3f}",
            f"{d['p_holm']:.3f}",
            counts(d),
        ]
        for d in document["differences"]
        if d["metric"] == metric
    ]
    holm = f"{metric}; p from {document['differences'][0]['test']}, Holm over the whole table of both metrics"
    return f"{table(['pair', 'difference', 'p', 'p (Holm)', 'n'], body)}\n\n{holm}."


def baseline(manifest: Manifest, features: np.ndarray) -> Predictions:
    """Score each fold by scikit-learn's linear SVC on standardised features of the other folds."""
    classes = manifest.task.classes
    labels = np.array([classes.index(s.label) for s in manifest.samples])
    folds = np.array([s.fold for s in manifest.samples])
    margins = np.zeros(len(labels))
    for fold in np.unique(folds):
        inside = folds == fold
        model = make_pipeline(StandardScaler(), SVC(kernel="linear")).fit(features[~inside], labels[~inside])
        margins[inside] = model.decision_function(features[inside])
    second = 1 / (1 + np.exp(-margins))
    return Predictions(
        classes=classes,
        positive=manifest.task.positive,
        labels=labels,
        probabilities=np.stack([1 - second, second], axis=1),
        groups=tuple(s.group for s in manifest.samples),
        groups_source=manifest.groups_source,
    )


def peer(bench: Bench) -> str:
    """Judge the frozen baseline on the manifest's own folds."""
    exported = bench.work / f"{bench.name}.npz"
    bench.leuk("extract-features", "--backbone", BACKBONE, "--format", "npz", "--output", str(exported))
    manifest = read_manifest(open_workspace(bench.workspace, create=False))
    stored = np.load(exported)
    if list(stored["paths"]) != [s.path for s in manifest.samples]:
        raise SystemExit("features and manifest are not in the same order")
    figure = judge(baseline(manifest, stored["features"]), seed=SEED).metrics["balanced_accuracy"]
    as_dict = {"value": figure.value, "low": figure.low, "high": figure.high}
    return f"scikit-learn's StandardScaler and linear SVC on the same frozen features and folds: {shown(as_dict)}"


def kept_away(bench: Bench, arguments: Sequence[str], variants: Sequence[str]) -> str:
    """Show calibration, doubt and label sets of out-of-fold predictions, one row a variant."""
    body = []
    for variant in variants:
        run = bench.leuk("train", "--backbone", BACKBONE, "--variant", variant, *arguments)
        report = bench.leuk("evaluate", run["run"])
        before, after = report["calibration"]["before"], report["calibration"]["after"]
        doubt, sets = report["abstention"], report["label_sets"]
        body.append(
            [
                f"`{variant}`",
                f"{shown(before['ece'])} → {shown(after['ece'])}",
                f"{before['log_loss']['value']:.3f} → {after['log_loss']['value']:.3f}",
                f"{doubt['answered']} / {doubt['novel']} / {doubt['uncertain']}",
                shown(doubt["accuracy_answered"]),
                shown(doubt["accuracy_at_80"]),
                f"{shown(sets['coverage'])}, mean size {sets['mean_size']:.2f}",
                f"{report['images']} images, {report['groups']} groups",
            ]
        )
    headers = [
        "variant", "ECE before → after", "log loss before → after", "answered / novel / uncertain",
        "accuracy of the answered", "accuracy of the surest 80 %", "label sets (10 %): coverage, each group alike", "n",
    ]  # fmt: skip
    return table(headers, body)


# ----------------------------------------------------------------------------------------------------------- sections


def taleqani(data: Path, work: Path) -> str:
    """Compare all variants on Taleqani, and say what the optimistic protocol adds."""
    bench = Bench(data, work, "taleqani")
    groups = f"file:{data}/Taleqani/appearance_groups.csv"
    prepared = bench.leuk("prepare", f"{data}/Taleqani", "--task", "binary", "--folds", "5", "--group-by", groups)
    compare = ("compare", "--backbones", BACKBONE)
    document = bench.leuk(*compare, "--repeats", "3", "--grid", "full")
    quick = bench.leuk(*compare, "--repeats", "3")
    optimistic = bench.leuk(*compare, "--repeats", "1", "--protocol", "paper")
    other = peer(bench)
    body = [
        [
            f"`{o['variant']}`",
            o["metric"],
            f"{shown(o['optimistic'])}, {o['optimistic']['n']} copies",
            f"{shown(o['grouped'])}, {counts(o['grouped'])}",
            f"{o['difference']:+.3f}",
        ]
        for o in optimistic["optimism"]
        if o["metric"] in ("balanced_accuracy", "accuracy")
    ]
    flattery = table(["variant", "metric", "optimistic protocol", "grouped", "optimism of the protocol"], body)
    doubt = kept_away(bench, (), ("base", "svm", "dropout"))
    warned = "\n".join(f"> {line}" for line in document["warnings"])
    return f"""## Taleqani (Aria et al. 2021): ALL against benign, whole fields

Fields of 224 × 224 px, 250 of each of four published folders; benign (haematogones) counts as HTL. No patient ids are
published: the groups are clusters of like appearance, found by a heuristic, so two groups may be one patient. Near copies,
of which this set has many, are never parted: groups that share some are dealt as one, so that a fold may leave out nearly a
whole subtype ([what that changes](how-to/remedies.md#what-it-was-worth-on-taleqani)). Every image carries a scale
bar, and stain and density differ by class, so part of these figures may be a shortcut
([heat-maps](how-to/heat-maps.md)); what masks, tiles and stain normalisation change is [measured](how-to/remedies.md).

{prepared["images"]} images of {prepared["groups"]} groups; 5 folds × {document["repeats"]} partitions;
grid {document["grid"]}; seed {SEED}.

{warned}

{rows_of(document)}

Intervals: {document["rows"][0]["metrics"]["balanced_accuracy"]["method"]}, of the first partition, conditional on its models.
The last column but one is the least and greatest figure over the partitions. {other} balanced accuracy.

{differences_of(document)}

One choice was made after a look at these very folds: an SVM takes all four views of a training image, because it scored 0.889 on
the plain view alone. So the `svm` rows are optimistic.

With `--grid quick`, the default of `leuk compare`. Its widths were chosen after a look at outer folds of these images, so
these rows are optimistic here; the full grid's networks were not.

{rows_of(quick)}

### What the paper's kind of protocol would have shown

{optimistic["protocol_title"].capitalize()}. {optimistic["copies"]} copies of {optimistic["images"]} images;
n counts test copies. Both columns with the quick grid.

{flattery}

### Probabilities, doubt and label sets, out of fold (grid full, as `leuk train` has it)

{doubt}

{bench.commands}
"""


def all_idb1(data: Path, work: Path) -> str:
    """Train on two blocks of ALL-IDB1 and test on the other two, in the four ways that have both classes on both sides."""
    with (data / "ALL_IDB1" / "capture_blocks.csv").open(newline="") as file:
        block = {row["image"]: row["block"] for row in csv.DictReader(file)}
    names = sorted(path.name for path in (data / "ALL_IDB1" / "im").iterdir() if path.name in block)
    body, commands, others = [], [], []
    for leukaemia, healthy in (("A1", "H1"), ("A1", "H3"), ("A3", "H1"), ("A3", "H3")):
        bench = Bench(data, work, f"blocks-{leukaemia}-{healthy}")
        labels = work / f"{bench.name}.csv"
        lines = ["path,label,group,split"]
        for name in names:
            split = "train" if block[name] in (leukaemia, healthy) else "test"
            lines.append(f"im/{name},{'ALL' if name.endswith('_1.jpg') else 'HTL'},{block[name]},{split}")
        write_text(labels, "\n".join(lines) + "\n")
        bench.leuk("prepare", f"{data}/ALL_IDB1", "--task", "binary", "--layout", "csv", "--labels", str(labels))
        cells = []
        for variant in VARIANTS:
            run = bench.leuk("train", "--backbone", BACKBONE, "--variant", variant)
            report = bench.leuk("evaluate", run["run"])
            cells.append(shown(report["metrics"]["balanced_accuracy"]))
        left = [b for b in ("A1", "A3", "H1", "H3") if b not in (leukaemia, healthy)]
        trained = sum(block[name] in (leukaemia, healthy) for name in names)
        body.append(
            [
                f"{leukaemia}, {healthy} ({trained} images)",
                f"{', '.join(left)} ({report['images']} images, {report['groups']} groups)",
                *cells,
            ]
        )
        others += bench.log if not commands else []
        commands = commands or bench.log
    blocks = table(["trained on", "tested on", *(f"`{v}`" for v in VARIANTS)], body)
    return f"""## ALL-IDB1 (Donida Labati et al. 2011): ALL against healthy, whole fields

66 of the set's 108 fields, in four blocks of images that look taken together, two of each class; there are no patient ids.
Balanced accuracy, trained on two blocks and tested on the other two. With one group a class there is nothing to choose by, so
fixed defaults were taken, nothing is calibrated, and **there are no intervals: four groups are too few**.
**Do not read these figures as skill at telling leukaemia.** In this set the class can be told without a blast in sight: every
field of 1712 × 1368 px is ALL, the number of white cells differs, and many ALL fields show a yellow pointer. The next section
is what is left of it elsewhere.

{blocks}

The commands of the first row; the others differ in the column `split` of the labels.

```sh
{chr(10).join(commands)}
```
"""


def elsewhere(data: Path, work: Path) -> str:
    """Take a model trained on one hospital's images to the other's, both ways."""
    body, logs = [], []
    there = {
        "Taleqani": (f"{data}/Taleqani", f"file:{data}/Taleqani/appearance_groups.csv", "5"),
        "ALL-IDB1": (f"{data}/ALL_IDB1", f"file:{data}/ALL_IDB1/capture_blocks.csv:block", "4"),
    }
    for name, other in (("Taleqani", "ALL-IDB1"), ("ALL-IDB1", "Taleqani")):
        bench = Bench(data, work, f"from-{name.lower()}")
        source, groups, folds = there[name]
        bench.leuk("prepare", source, "--task", "binary", "--folds", folds, "--group-by", groups)
        for variant in ("base", "svm", "dropout"):
            run = bench.leuk("train", "--backbone", BACKBONE, "--variant", variant)
            outer, outer_groups, _ = there[other]
            external = f"{other.lower()}={outer}"
            report = bench.leuk("evaluate", run["run"], "--external", external, "--group-by", outer_groups)
            drop, doubt = report["drop"], report["abstention"]
            told = f"{doubt['novel']} novel, {doubt['uncertain']} uncertain, {doubt['answered']} answered"
            body.append(
                [
                    f"{name} → {other}, `{variant}`",
                    f"{shown(drop['internal'])}, {counts(drop['internal'])}",
                    f"{shown(drop['external'])}, {counts(drop['external'])}",
                    shown(drop["difference"]),
                    shown(report["metrics"]["sensitivity"]),
                    shown(report["metrics"]["specificity"]),
                    told if doubt["measured"] else doubt["reason"],
                ]
            )
        logs += bench.log
    headers = [
        "trained → judged",
        "own test",
        "elsewhere",
        "difference",
        "sensitivity",
        "specificity",
        "with abstention",
    ]
    commands = "\n".join(logs)
    return f"""## From one hospital to another

Balanced accuracy on the run's own out-of-fold test and on the other hospital's images, all members together, thresholds and
temperature as they were. 0.5 is chance; read sensitivity and specificity together. The last column is what `leuk classify`
would have said: an image that is called `novel` gets no label.

{table(headers, body)}

```sh
{commands}
```
"""


LEUKAEMIC = ("blast", "promyelocyte", "promonocyte")
MATURE = ("lymphocyte", "segmented_neutrophil", "monocyte")


def aml_cells(data: Path, work: Path) -> str:
    """Tell leukaemic-looking cells from mature ones of the same patients, and show a shortcut for what it is."""
    bench = Bench(data, work, "aml")
    task = work / "maturity.yaml"
    aliases = f"  LEUKAEMIC: [{', '.join(LEUKAEMIC)}]\n  MATURE: [{', '.join(MATURE)}]\n"
    write_text(task, f"name: maturity\nclasses: [LEUKAEMIC, MATURE]\npositive: LEUKAEMIC\naliases:\n{aliases}")
    prepared = bench.leuk(
        "prepare", f"{data}/AML_cells", "--task", str(task), "--layout", "csv", "--labels", f"{data}/AML_cells/labels.csv",
        "--label-column", "cell_type", "--group-by", "column:patient", "--folds", "5",
    )  # fmt: skip
    document = bench.leuk("compare", "--backbones", BACKBONE, "--repeats", "3")
    doubt = kept_away(bench, (), ("svm",))
    shortcut = Bench(data, work, "shortcut")
    dataset = work / "shortcut.yaml"
    kinds = ", ".join(LEUKAEMIC)
    write_text(
        dataset,
        "task: five-class\nsources:\n"
        f"  - path: {data}/AML_cells\n    layout: csv\n    labels: {data}/AML_cells/labels.csv\n"
        f"    label_column: diagnosis\n    only: {{cell_type: [{kinds}]}}\n    group_by: column:patient\n"
        f"  - path: {data}/healthy_cells\n    class: HTL\n    group_by: none\n",
    )
    made = shortcut.leuk("prepare", str(dataset), "--classes", "AML,HTL", "--positive", "AML")
    run = shortcut.leuk("train", "--backbone", BACKBONE, "--variant", "base")
    report = shortcut.leuk("evaluate", run["run"])
    manifest = read_manifest(open_workspace(shortcut.workspace, create=False))
    seen = {s.group for s in manifest.samples if s.split in ("train", "val", "calib")}
    with (data / "AML_cells" / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    # Groups carry the source's name before the id of the patient.
    mature = [r for r in rows if r["cell_type"] in MATURE and not any(g.endswith(r["patient"]) for g in seen)]
    listed = work / "mature-cells.txt"
    write_text(listed, "".join(f"{data}/AML_cells/{row['path']}\n" for row in mature))
    found = shortcut.leuk("classify", f"@{listed}", "--run", run["run"], workspace=True)
    called = sum(row["label"] == "AML" for row in found)
    answered = [row for row in found if row["decision"] == "label"]
    patients = len({row["patient"] for row in mature})
    kept = sum(row["label"] == "AML" for row in answered)
    yaml = dataset.read_text().replace(str(data), "$LEUK_TEST_DATA")
    test = report["metrics"]["balanced_accuracy"]
    return f"""## AML cells (Sidhom et al., DeepAPL): leukaemic-looking against mature cells of the same patients

Single cells, groups are the patients' own ids. `LEUKAEMIC` are blasts, promyelocytes and promonocytes, `MATURE` lymphocytes,
segmented neutrophils and monocytes, by the task file below. {prepared["images"]} cells of {prepared["groups"]} patients;
5 folds × {document["repeats"]} partitions; seed {SEED}. Stain, microscope and laboratory are the same on both sides:
this is the honest question.

{rows_of(document)}

{differences_of(document)}

{doubt}

```text
{task.read_text().rstrip()}
```

{bench.commands}

### A shortcut, for comparison

Here AML cells come from one laboratory and healthy cells from another, as in many a published set. The same backbone,
`base`, splits by patient: balanced accuracy {shown(test)} on the test part
({report["images"]} images). Then the model is asked about {len(mature)} *mature* cells of {patients} of the AML patients,
of whom it has seen no image. It calls **{called} of {len(mature)} ({100 * called / max(1, len(mature)):.0f} %)** AML,
though they look healthy: it has learnt the laboratory more than the disease. With abstention it answers
{len(answered)}, {kept} of them as AML. Groups of the healthy cells are unknown, which the report says
({made["groups_source"]}).

```text
{yaml.rstrip()}
```

{shortcut.commands}
"""


def interrupted(data: Path, work: Path) -> str:
    """Kill a comparison in its middle, run it again, and hold its table against that of one never killed."""
    whole, cut = Bench(data, work, "taleqani"), Bench(data, work, "killed")
    shutil.rmtree(cut.workspace, ignore_errors=True)
    cut.workspace.mkdir(parents=True)
    shutil.copy(whole.workspace / "workspace.json", cut.workspace)
    for part in ("manifest", "features"):
        shutil.copytree(whole.workspace / part, cut.workspace / part)
    arguments = ["compare", "--backbones", BACKBONE, "--repeats", "3"]
    line = [sys.executable, "-m", "leukemia_cli", *arguments, "--workspace", str(cut.workspace), "--seed", str(SEED)]
    child = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    cells = cut.workspace / "comparisons" / "cells"
    while len(list(cells.glob("*.safetensors"))) < 25 and child.poll() is None:
        time.sleep(0.05)
    child.kill()
    child.wait()
    kept = len(list(cells.glob("*.safetensors")))
    again, never = cut.leuk(*arguments), whole.leuk(*arguments)
    equal = all(
        [row["metrics"] for row in again["rows"]] == [row["metrics"] for row in never["rows"]]
        and again[key] == never[key]
        for key in ("differences", "repeats")
    )
    if not equal:
        raise SystemExit("the killed comparison came to another table")
    models = sum(len(row["choices"]) for row in again["rows"])
    return f"""## Killed in the middle

`leuk compare` on Taleqani was killed with SIGKILL when {kept} of its {models} models were done, and the same command was given
again: it trained the other {models - kept}. Every figure and paired difference equals that of a comparison that was never
killed, to the last digit ({again["images"]} images, {again["groups"]} groups, 4 variants, 3 partitions).

{cut.commands}
"""


SECTIONS: dict[str, Callable[[Path, Path], str]] = {
    "taleqani": taleqani,
    "all_idb1": all_idb1,
    "elsewhere": elsewhere,
    "aml_cells": aml_cells,
    "interrupted": interrupted,
}


def main() -> None:
    """Measure the sections asked for and write the page from all that are there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=None)
    parser.add_argument("--output", type=Path, default=Path("docs/results.md"))
    parser.add_argument("--only", default=",".join(SECTIONS))
    asked = parser.parse_args()
    if "LEUK_TEST_DATA" not in os.environ:
        raise SystemExit("set LEUK_TEST_DATA to the folder of the real images")
    data = Path(os.environ["LEUK_TEST_DATA"]).absolute()
    work = (asked.work or Path(tempfile.mkdtemp(prefix="leuk-results-"))).absolute()
    work.mkdir(parents=True, exist_ok=True)
    for name in filter(None, asked.only.split(",")):
        write_text(work / f"{name}.md", SECTIONS[name](data, work))
    there = [(work / f"{name}.md").read_text() for name in SECTIONS if (work / f"{name}.md").is_file()]
    versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in ("torch", "timm", "scikit-learn", "numpy"))
    where = f"{granted_cores()} CPU cores, no GPU; Python {platform.python_version()}, {versions}"
    write_text(asked.output, PAGE.format(where=where, sections="\n".join(there)))


PAGE = """# Results on real images

Written by `python benchmarks/results.py`: every figure comes from the commands below its table. Research use only.
Measured on {where}.

Every figure is out-of-fold or on images of groups that training did not see. Widths, feature counts, rates, kernels, C and
epochs are chosen by grouped inner folds of the training part. Intervals are conditional on the fitted models
([how they are made, and how often they hold the truth](explanation/statistics.md)). What novelty, abstention and label sets
come to on further images is on [its own page](explanation/doubt.md), what a comparison costs in `benchmarks/RESULTS.md`.

The backbone is `efficientnet-lite0`, frozen, with four views of each training image. Results with `senet`, `resnext` and
`inception` are **not measured**: their pretrained weights were not to be had on the measuring machine. Five-class results
on real images are **not measured** either: there were no usable numbers of real CLL and CML images.

The paper reports 99.84 % (binary) and 84.48 % (five-class) test accuracy, on other images and an unpublished split: not
comparable with anything here.

{sections}"""

if __name__ == "__main__":
    main()
