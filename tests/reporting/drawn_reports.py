"""Reports of drawn predictions for the tests of pages: every key of the schema, from a seed; no real image or name."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from leukemia_cli.judging.evaluation import judge
from leukemia_cli.judging.predictions import Predictions
from leukemia_cli.reporting.evaluation import ReportContext, as_report

FloatArray = NDArray[np.float64]
HOSTILE = (
    "<script>alert(1)</script>",
    "\"quoted\" & 'single' <b>",
    "🔬 microscope 👩🏽‍🔬",
    "bytes \udcff\udc80 that are no UTF-8",
    "n" * 200,
    "ابيضاض الدم\u202e turned",
)


def drawn_report(
    *,
    classes: tuple[str, ...] = ("ALL", "HTL"),
    whole_class_count: int | None = None,
    n: int = 800,
    groups: int = 60,
    groups_source: str = "given",
    folds: int | None = None,
    external: str | None = None,
    svm: bool = False,
    keys: Literal["all", "bare", "first"] = "all",
    noise: float = 1.0,
    run: str = "senet-dropout-1",
    paths: tuple[str, ...] = (),
    seed: int = 0,
) -> dict[str, Any]:
    """Draw predictions and give the report of them.

    `keys` "bare" leaves empty what may be, "first" gives those of the first schema alone.
    """
    random = np.random.default_rng(seed)
    count = len(classes)
    group_of = random.integers(groups, size=n)
    labels = (group_of % count).astype(np.int64)
    logits = (
        np.eye(count)[labels] * 2.6
        + random.normal(size=(n, count)) * noise
        + random.normal(size=(groups, count))[group_of] * 0.6
    )
    sharp, soft = _softmax(logits * 2.5), _softmax(logits * 1.3)
    predictions = Predictions(
        classes=classes,
        positive=classes[0] if count == 2 else None,
        labels=labels,
        probabilities=soft,
        groups=tuple(f"patient {g}" for g in group_of),
        groups_source=groups_source,
    )
    context = ReportContext(
        run=run,
        task="binary" if count == 2 else "five-class",
        classes=classes,
        whole_class_count=whole_class_count or count,
        split="all" if folds else "test",
        external=external,
        backbone="senet",
        variant="svm" if svm else "dropout",
        weights="senet154.gluon_in1k",
        tune="head",
        folds=folds,
        temperatures=tuple(1.3 + 0.05 * i for i in range(folds or 1)),
        fitted_on="calib, 40 images of 12 groups",
        seed=7,
        leuk_version="0.1.0",
        manifest="0123456789abcdef",
        created="2026-01-01T00:00:00+00:00",
    )
    evaluation = judge(predictions, resamples=100)
    report: dict[str, Any] = dict(as_report(evaluation, context))
    if keys == "bare":
        return report
    if keys == "first":
        report["abstention"] = {"measured": False, "reason": "this version does not measure abstention"}
        report["calibration"] = {
            key: report["calibration"][key] for key in report["calibration"] if key not in ("before", "after")
        }
        later = ("label_sets", "curves", "choices", "history", "mistakes", "drop", "model", "heatmaps")
        return {key: value for key, value in report.items() if key not in later}
    right = soft.argmax(1) == labels
    confidence = soft.max(1)
    order = np.argsort(-confidence, kind="stable")
    figures = report["metrics"]
    has_bands = figures["accuracy"]["low"] is not None
    before = judge(
        Predictions(
            classes=classes, positive=predictions.positive, labels=labels, probabilities=sharp,
            groups=predictions.groups, groups_source=groups_source,
        ),
        resamples=20,
    )  # fmt: skip
    report["calibration"] |= {
        "before": {
            name: {
                **figures[name],
                "value": before.metrics[name].value,
                "low": None,
                "high": None,
                "method": "no interval: drawn",
            }
            for name in ("ece", "brier", "log_loss")
        },
        "after": {name: figures[name] for name in ("ece", "brier", "log_loss")},
    }
    risk = np.cumsum(~right[order]) / np.arange(1, n + 1)
    steps = np.unique(np.linspace(0, n - 1, min(n, 101)).astype(int))
    report["curves"] = {
        "roc": {name: _roc(labels == c, soft[:, c], has_bands) for c, name in enumerate(classes)},
        "precision_recall": {
            name: _precision_recall(labels == c, soft[:, c], has_bands) for c, name in enumerate(classes)
        },
        "reliability": {"before": _bins(sharp, labels), "after": _bins(soft, labels)},
        "risk_coverage": _curve((steps + 1) / n, risk[steps], has_bands),
    }
    novel, uncertain = n // 40, n // 9
    share = {
        **figures["accuracy"],
        "value": (n - novel - uncertain) / n,
        "low": None,
        "high": None,
        "method": "no interval: drawn",
    }
    report["abstention"] = {
        "measured": True, "reason": None, "answered": n - novel - uncertain, "novel": novel, "uncertain": uncertain,
        "coverage": share,
        "accuracy_answered": {**figures["accuracy"], "n": n - novel - uncertain},
        "accuracy_at_80": {**figures["accuracy"], "n": round(0.8 * n)},
        "least_confidence": [0.61] * (folds or 1), "novelty_threshold": [12.3456] * (folds or 1), "risk": 0.05,
        "false_alarm": 0.05, "fitted_on": "calib, 40 images of 12 groups",
    }  # fmt: skip
    report["label_sets"] = {
        "measured": True, "reason": None, "alpha": 0.1, "per": "group", "coverage": share, "mean_size": 1.2,
        "sizes": {"0": 3, "1": n - 80 if n > 90 else n - 3, "2": 77 if n > 90 else 0},
        "says": "A label set holds every class that cannot be ruled out.",
    }  # fmt: skip
    report["choices"] = _choices(random, folds, svm)
    report["history"] = [
        {
            "fold": fold, "stage": "head", "epoch": epoch, "train_loss": 0.7 / epoch**0.6 + 0.02 * random.random(),
            "balanced_accuracy": 0.93 - 0.3 / epoch + 0.02 * random.random(), "log_loss": 0.6 / epoch**0.4 + 0.1, "lr": 0.001,
        }
        for fold in (range(folds) if folds else [None])
        for epoch in range(1, 15)
    ] if not svm else []  # fmt: skip
    wrong = [i for i in order if not right[i]][:12]
    report["mistakes"] = [
        {
            "path": paths[i % len(paths)] + str(i) if paths else f"patient {group_of[i]}/cell_{i:04}.png",
            "group": f"patient {group_of[i]}", "label": classes[labels[i]], "predicted": classes[int(soft[i].argmax())],
            "confidence": float(confidence[i]),
        }
        for i in wrong
    ]  # fmt: skip
    report["drop"] = None
    if external:
        accuracy = figures["balanced_accuracy"]
        report["drop"] = {
            "metric": "balanced_accuracy",
            "internal": {**accuracy, "value": 0.941, "low": 0.921, "high": 0.962, "n": 800, "groups": 60},
            "external": accuracy,
            "difference": {
                **accuracy, "value": accuracy["value"] - 0.941, "low": accuracy["value"] - 0.941 - 0.05,
                "high": accuracy["value"] - 0.941 + 0.05, "method": "percentile bootstrap of each, 100 resamples",
            },
        }  # fmt: skip
    report["model"] = {
        "timm_name": "senet154.gluon_in1k", "licence": "Apache-2.0", "source": "Hu et al. 2018; weights from timm",
        "weights": "senet154.gluon_in1k", "feature_width": 2048, "input_size_px": 224, "interpolation": "bicubic",
        "fit": "pad", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "training_images": 2400,
        "training_groups": 180, "classes": list(classes), "task_title": "healthy or leukaemia", "seed": 7,
        "command": ["leuk", "train", "data/some folder", "--backbone", "senet", "--variant", "dropout"],
        "versions": {"leuk": "0.1.0", "python": "3.11.9", "torch": "2.14.1", "timm": "1.0.31"},
        "created": "2026-01-01T00:00:00+00:00",
    }  # fmt: skip
    return report


def _softmax(logits: FloatArray) -> FloatArray:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def _curve(x: FloatArray, y: FloatArray, banded: bool) -> dict[str, Any]:
    low, high = np.clip(y - 0.04, 0, 1), np.clip(y + 0.03, 0, 1)
    return {
        "x": x.tolist(),
        "y": y.tolist(),
        "low": low.tolist() if banded else None,
        "high": high.tolist() if banded else None,
    }


def _roc(ours: NDArray[np.bool_], scores: FloatArray, banded: bool) -> dict[str, Any]:
    order = np.argsort(-scores, kind="stable")
    true = np.concatenate([[0], np.cumsum(ours[order]) / max(ours.sum(), 1)])
    false = np.concatenate([[0], np.cumsum(~ours[order]) / max((~ours).sum(), 1)])
    grid = np.linspace(0, 1, 101)
    return _curve(grid, np.interp(grid, false, true), banded)


def _precision_recall(ours: NDArray[np.bool_], scores: FloatArray, banded: bool) -> dict[str, Any]:
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(ours[order])
    grid = np.linspace(0, 1, 101)
    return _curve(grid, np.interp(grid, hits / max(hits[-1], 1), hits / np.arange(1, len(hits) + 1)), banded)


def _bins(probabilities: FloatArray, labels: NDArray[np.int64]) -> list[dict[str, float]]:
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    place = np.clip(np.ceil(confidence * 15).astype(int) - 1, 0, 14)
    return [
        {
            "low": b / 15, "high": (b + 1) / 15, "images": int((place == b).sum()),
            "confidence": float(confidence[place == b].mean()), "accuracy": float(right[place == b].mean()),
        }
        for b in range(15)
        if (place == b).any()
    ]  # fmt: skip


def _choices(random: np.random.Generator, folds: int | None, svm: bool) -> list[dict[str, Any]]:
    if svm:
        choices = [
            {"selected": k, "by": None, "kernel": kernel, "c": c, "gamma": gamma}
            for k in (None, 512)
            for kernel, gammas in (("linear", (1.0,)), ("rbf", (1.0, 0.1)))
            for c in (0.001, 0.01, 1.0)
            for gamma in gammas
        ]
    else:
        choices = [
            {"selected": k, "by": None if k is None else "anova", "hidden": [width], "rate": rate}
            for k in (None, 512)
            for width in (256, 512, 1024)
            for rate in (0.2, 0.5)
        ]
    made = []
    for fold in range(folds) if folds else [None]:
        trials = [
            {
                "choice": choice,
                "balanced_accuracy": 0.82 + 0.1 * random.random(),
                "log_loss": 0.3 + 0.2 * random.random(),
                "epochs": None if svm else 9.5,
            }
            for choice in choices
        ]
        best = max(trials, key=lambda t: t["balanced_accuracy"])["choice"]
        made.append(
            {
                "fold": fold,
                "choice": f"the drawn candidate {choices.index(best)}",
                "best_epoch": None if svm else 10,
                "validated_on": "val, 90 images of 20 groups",
                "trials": trials,
            }
        )
    return made


def drawn_picture(seed: int, size: int = 48) -> str:
    """Give a drawn blob as a PNG data URI."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size - 0.5
    blob = (x - random.normal() * 0.1) ** 2 + (y - random.normal() * 0.1) ** 2 < 0.06 + 0.04 * random.random()
    pixels = np.where(blob[..., None], [120, 70, 160], [236, 214, 220]) + random.integers(-9, 9, (size, size, 3))
    rows = b"".join(b"\0" + row.astype(np.uint8).tobytes() for row in pixels.clip(0, 255))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(data).decode()
