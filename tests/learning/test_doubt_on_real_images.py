"""What is no smear of the training laboratory is called novel, on real images and a frozen pretrained backbone."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from leukemia_cli.judging.novelty import fit_novelty, novelty_threshold
from leukemia_cli.learning.batches import plain_view
from leukemia_cli.learning.features import Features, run_backbone
from leukemia_cli.learning.machine import choose_machine, place
from leukemia_cli.learning.weights import load_backbone
from leukemia_cli.vision.decode import decode


def test_other_laboratories_and_other_things_are_stranger_than_held_out_groups(
    real_images: Callable[[str], Path],
) -> None:
    smears = real_images("Taleqani")
    with (smears / "appearance_groups.csv").open(newline="") as file:
        rows = [(smears / row["path"], row["group"]) for row in csv.DictReader(file)]
    groups = sorted({group for _, group in rows})
    held_out = set(groups[::4])
    few: dict[str, int] = {}
    training, calibration = [], []
    for path, group in rows:
        few[group] = few.get(group, 0) + 1
        if few[group] <= 6:
            (calibration if group in held_out else training).append((path, group))
    machine = choose_machine("cpu", 1)
    loaded = load_backbone("efficientnet-lite0", "auto", seed=0, fit="squash", input_size_px=None)
    place(loaded.module, machine)

    def features(paths: list[Path]) -> Features:
        views = [plain_view(decode(str(p), max_megapixels=50).pixels, loaded.preprocessing) for p in paths]
        return np.concatenate(
            [
                run_backbone(loaded.module, views[i : i + 16], loaded.preprocessing, machine)
                for i in range(0, len(views), 16)
            ]
        )

    described = fit_novelty(features([path for path, _ in training]))
    familiar = described.scores(features([path for path, _ in calibration]))
    threshold = novelty_threshold(familiar, tuple(group for _, group in calibration), 0.05)
    assert np.mean(familiar > threshold) <= 0.05
    for folder in ("odd_inputs/tecom_bmp", "odd_inputs/rgba_png", "BCCD/JPEGImages"):
        strange = described.scores(features(sorted(real_images(folder).iterdir())[:12]))
        scores = np.concatenate([familiar, strange])
        assert roc_auc_score(np.arange(len(scores)) >= len(familiar), scores) > 0.98, folder
        assert np.mean(strange > threshold) > 0.8, folder
