"""Comparisons drawn from a seed, for the tests of their files and pages: no real image or name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from leukemia_cli.judging.metrics import METRICS
from leukemia_cli.reporting.comparison import ComparisonDocument

WAY = "group bootstrap (95 % t interval on the log-odds scale, 2000 resamples)"
TOO_FEW = "no interval: class AML has 4 groups, fewer than 5"
HOSTILE = "timm:x_y&z%$#{}~^\\<script>alert(1)</script>|*[a](b)`--\"'é\u202eЖ×\x1b\n\\end{table}"


def figure(value: float | None, *, n: int = 260, groups: int = 31, method: str = WAY) -> dict[str, Any]:
    known = value is not None and not method.startswith(("no interval", "undefined"))
    low, high = (max(0.0, value - 0.04), min(1.0, value + 0.04)) if known and value is not None else (None, None)
    return {"value": value, "low": low, "high": high, "n": n, "groups": groups, "method": method}


def candidates(variant: str, random: np.random.Generator) -> list[dict[str, Any]]:
    everything: dict[str, Any] = {"selected": None, "by": None}
    choices: dict[str, list[dict[str, Any]]] = {
        "base": [{**everything, "hidden": [], "rate": 0.0}],
        "svm": [{**everything, "kernel": k, "c": c, "gamma": 1.0} for k in ("linear", "rbf") for c in (0.01, 1.0)],
        "hidden": [{**everything, "hidden": h, "rate": 0.0} for h in ([512], [1024, 256])],
        "dropout": [
            {"selected": s, "by": "anova" if s else None, "hidden": [512], "rate": r}
            for s in (None, 512)
            for r in (0.2, 0.5)
        ],
    }
    return [
        {
            "choice": c,
            "balanced_accuracy": random.uniform(0.6, 0.9),
            "log_loss": random.uniform(0.2, 0.5),
            "epochs": None,
        }
        for c in choices.get(variant, choices["base"])
    ]


def drawn(
    backbones: Sequence[str] = ("senet", "resnext", "inception"),
    variants: Sequence[str] = ("base", "svm", "hidden", "dropout"),
    *,
    optimistic: bool = False,
    methods: Sequence[str] = (),
    p_holm: float | None = 0.4,
    repeats: int = 3,
    **changed: Any,
) -> ComparisonDocument:
    """Draw a document from a seed; `methods` are those of the first rows, `p_holm` is that of every difference."""
    random = np.random.default_rng(7)
    n, groups = (312, 312) if optimistic else (260, 31)
    rows: list[dict[str, Any]] = []
    for backbone in backbones:
        for variant in variants:
            method = methods[len(rows)] if len(rows) < len(methods) else WAY
            metrics = {
                name: figure(float(random.uniform(0.5, 0.95)), n=n, groups=groups, method=method) for name in METRICS
            }
            rows.append(
                {
                    "backbone": backbone,
                    "variant": variant,
                    "weights": "timm",
                    "random_weights": False,
                    "metrics": metrics,
                    "repeats": {
                        name: [f["value"], *random.uniform(0.5, 0.95, size=repeats - 1).tolist()]
                        for name, f in metrics.items()
                    },
                    "choices": [
                        {"repeat": r, "fold": f, "choice": "", "trials": candidates(variant, random)}
                        for r in range(repeats)
                        for f in range(5)
                    ],
                    "seconds": 12.5,
                }
            )
    differences = [
        {
            "a": {key: a[key] for key in ("backbone", "variant")},
            "b": {key: b[key] for key in ("backbone", "variant")},
            "metric": metric,
            "value": a["metrics"][metric]["value"] - b["metrics"][metric]["value"],
            "low": None if methods else -0.1,
            "high": None if methods else 0.1,
            "n": n,
            "groups": groups,
            "method": TOO_FEW if methods else f"paired {WAY}",
            "p": None if p_holm is None else p_holm / 4,
            "p_holm": p_holm,
            "test": "sign-flip over 31 groups, 10000 random exchanges",
        }
        for metric in ("balanced_accuracy", "macro_f1")
        for i, a in enumerate(rows)
        for b in rows[i + 1 :]
    ]
    optimism = [
        {
            "backbone": row["backbone"],
            "variant": row["variant"],
            "metric": "accuracy",
            "optimistic": row["metrics"]["accuracy"],
            "grouped": figure(0.5),
            "difference": row["metrics"]["accuracy"]["value"] - 0.5,
        }
        for row in rows
    ]
    document: Any = {
        "schema_version": 1,
        "id": "grouped-1a2b3c4d",
        "protocol": "paper" if optimistic else "grouped",
        "protocol_title": "5 augmented copies of each image, then a random 80/20 split"
        if optimistic
        else "whole groups",
        "optimistic": optimistic,
        "task": "binary",
        "subset": None,
        "classes": ["ALL", "HTL"],
        "positive": "ALL",
        "images": 260,
        "groups": 31,
        "groups_source": "given",
        "groups_per_class": {"ALL": 16, "HTL": 15},
        "folds": 5,
        "repeats": repeats,
        "repeats_asked": repeats,
        "repeats_note": None,
        "grid": "quick",
        "tune": "head",
        "views": 4,
        "copies": 1560 if optimistic else None,
        "copies_per_image": 5 if optimistic else None,
        "seed": 0,
        "manifest": "0123456789abcdef",
        "created": "2026-01-01T00:00:00+00:00",
        "leuk_version": "0.1.0",
        "command": ["leuk", "compare"],
        "looks": 2,
        "resamples": 2000,
        "versions": {"leuk": "0.1.0", "torch": "2.15.0"},
        "headline_metric": "balanced_accuracy",
        "rows": rows,
        "differences": differences,
        "paper": [
            {"task": "binary", "model": "SENet-D", "metric": "accuracy", "value": 0.9984},
            {"task": "five-class", "model": "SENet-D", "metric": "accuracy", "value": 0.8448},
        ],
        "protocol_differences": ["other images", "their split is not published"],
        "optimism": optimism if optimistic else [],
        "warnings": [],
    }
    document.update(changed)
    result: ComparisonDocument = document
    return result


def with_values(document: ComparisonDocument, values: Sequence[float | None]) -> ComparisonDocument:
    for row, value in zip(document["rows"], values, strict=True):
        row["metrics"]["balanced_accuracy"]["value"] = value
    return document


def with_p(document: ComparisonDocument, a: str, b: str, p: float | None) -> ComparisonDocument:
    for d in document["differences"]:
        if {f"{m['backbone']} {m['variant']}" for m in (d["a"], d["b"])} == {a, b}:
            d["p_holm"] = p
    return document


def four(p_holm: float | None = 0.4, values: Sequence[float | None] = (0.8, 0.9, 0.7, 0.6)) -> ComparisonDocument:
    return with_values(drawn(("senet", "resnext"), ("base", "svm"), p_holm=p_holm), values)
