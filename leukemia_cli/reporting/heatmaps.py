"""Heat-maps of a few images that were judged, drawn beside a report and tested."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from leukemia_cli.domain import Note, counted
from leukemia_cli.learning.batches import plain_view, read_sample
from leukemia_cli.learning.classifier import Classifier
from leukemia_cli.learning.heatmaps import faithfulness, heatmap
from leukemia_cli.learning.parts import ScoredPart
from leukemia_cli.reporting.thumbnails import HEATMAPS
from leukemia_cli.vision.overlays import heatmap_name, overlay, png_bytes
from leukemia_cli.workspace.files import write_bytes


def check_heatmaps(classifier: Classifier) -> None:
    """Raise UsageError for a run whose backbone has no heat-maps."""
    side = classifier.preprocessing.input_size_px
    heatmap(classifier, [np.zeros((side, side, 3), dtype=np.uint8)], [0])


def draw_heatmaps(
    folder: Path, judged: ScoredPart, count: int, *, max_megapixels: float, seed: int, note: Note
) -> dict[str, Any]:
    """Draw `count` heat-maps into a report's folder, test them, and give what report.json says of them."""
    chosen = _chosen(judged, count)
    note(f"heat-maps of {counted(len(chosen), 'image')}")
    classifier, predictions = judged.classifier, judged.predictions
    rows, areas = [], []
    for place, i in enumerate(chosen):
        sample, judges = judged.part.judged[i]
        image = read_sample(sample, max_megapixels, classifier.preprocessing.enough_px)
        view = plain_view(image, classifier.preprocessing)
        own = replace(classifier, members=judges)
        called = int(predictions.predicted[i])
        heat = heatmap(own, [view], [called])
        areas.append(faithfulness(own, [view], heat, seed=seed + place))
        label = classifier.task.classes[called]
        name = f"{HEATMAPS}/{heatmap_name(place, sample.path)}"
        shown = overlay(
            image.pixels[..., :3], heat[0], classifier.preprocessing.fit, legend=f"for {label}", beside=False
        )
        write_bytes(folder / name, png_bytes(shown))
        rows.append({"path": sample.path, "label": sample.label, "predicted": label, "file": name})
    means = {
        key: float(np.mean([getattr(area, key) for area in areas]))
        for key in ("deletion", "insertion", "random_deletion", "random_insertion")
    }
    groups = len({judged.part.samples[i].group for i in chosen})
    return {"images": rows, "faithfulness": {**means, "images": len(chosen), "groups": groups}}


def _chosen(judged: ScoredPart, count: int) -> list[int]:
    """Choose the mistakes that were made most surely, then other images spread from the surest to the least sure."""
    samples, predictions = judged.part.samples, judged.predictions
    confidence = predictions.probabilities.max(axis=1)
    wrong = predictions.predicted != predictions.labels
    order = sorted(range(len(samples)), key=lambda i: (-confidence[i], samples[i].path))
    mistakes = [i for i in order if wrong[i]][:count]
    right = [i for i in order if not wrong[i]]
    wanted = count - len(mistakes)
    spread = [right[round(k * (len(right) - 1) / max(1, wanted - 1))] for k in range(wanted)] if right else []
    return list(dict.fromkeys([*mistakes, *spread]))
