"""From a manifest and a recipe to trained members: one for a manifest of splits, one a fold for a manifest of folds.

Requirements met here:
- Choices (width, feature count, rate, kernel, C, gamma, epochs) see training groups alone: the validation part, or grouped
  folds inside the training part where the manifest has folds. The test part or the outer fold is never read.
- Temperatures and the thresholds of doubt come from the calibration part, or from out-of-fold scores of training; else
  temperatures stay 1 and there is no doubt to tell, and the run says so.
- Of a manifest of cells, how a photograph is read by its cells is fitted on out-of-fold scores of training photographs,
  whether their cells are labelled or not.
- Where groups are too few to choose, the recipe's first candidate is taken, and the run says so.
- Finished fits and finished members are not done again after an interruption.
- Of several processes the leader goes this way; the others compute features and fine-tune when it says so.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from leukemia_cli.data.marking import healthy_class
from leukemia_cli.domain import (
    HeadChoice,
    Manifest,
    Note,
    Preprocessing,
    Sample,
    SvmChoice,
    Track,
    Tune,
    silent,
    unheard,
)
from leukemia_cli.errors import MachineError, UsageError, WorkspaceError
from leukemia_cli.judging.calibration import fit_temperature, softmax
from leukemia_cli.judging.intervals import plain_values
from leukemia_cli.judging.metrics import METRICS
from leukemia_cli.judging.novelty import Novelty, fit_novelty
from leukemia_cli.judging.predictions import Predictions
from leukemia_cli.learning.arrays import Features, Labels, Scores
from leukemia_cli.learning.batches import Augmentation
from leukemia_cli.learning.checkpoints import read_checkpoint, write_checkpoint
from leukemia_cli.learning.classifier import DOUBT_FILE, Member, restore_member
from leukemia_cli.learning.distributed import ALONE, Team
from leukemia_cli.learning.doubt import Calibration, Doubt, DoubtSettings, Limits, fit_limits
from leukemia_cli.learning.features import FrozenRows, Means, Rows, Views
from leukemia_cli.learning.finetuning import Tuned, TuneSettings, fine_tune
from leukemia_cli.learning.fitting import EpochScore, FitSettings, FittingSet, fit_head
from leukemia_cli.learning.loading import doubt_arrays, restore_head
from leukemia_cli.learning.machine import Machine, Precision
from leukemia_cli.learning.network import Head, Network, prefixed, unprefixed
from leukemia_cli.learning.precision_trial import Batch, TrialPrecision, try_precisions, worth_trying
from leukemia_cli.learning.reading import Bags, Reading, fit_reading, strangeness
from leukemia_cli.learning.selection import Diary, Fit, Holdout, Selection, Trial, choose, inner_holdouts, left_out
from leukemia_cli.learning.sharing import SharedRows, Wanted
from leukemia_cli.learning.svm import Kernels, Svm
from leukemia_cli.learning.weights import LoadedBackbone
from leukemia_cli.workspace.documents import SCHEMA_VERSION, check_schema, read_json, sealed, write_json

INNER_FOLDS = 4
PRECISION_FILE = "precision.json"
LEFT_OUT = "groups of training left out in turn for what is novel alone"
FEATURE_BATCH = 16
"""Most images through a frozen backbone at once: larger batches gain nothing on a CPU and little on a GPU."""
SVM_ROWS = 12_000
"""Most rows of a kernel matrix: 1.2 GB in float64."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What is to be trained: candidates of one kind, and how far the backbone follows."""

    variant: str
    heads: tuple[HeadChoice, ...]
    svms: tuple[SvmChoice, ...]
    tune: Tune


def within(recipe: Recipe, width: int, note: Note) -> Recipe:
    """Leave out, and say so, the candidates that keep more features than a backbone of `width` gives.

    Raises UsageError where none remain.
    """
    counts = [*(h.selected for h in recipe.heads), *(s.selected for s in recipe.svms)]
    wide = sorted({count for count in counts if count is not None and count > width})
    if not wide:
        return recipe
    told = f"the backbone gives {width} features, fewer than {', '.join(map(str, wide))}"
    kept = replace(
        recipe,
        heads=tuple(h for h in recipe.heads if (h.selected or 0) <= width),
        svms=tuple(s for s in recipe.svms if (s.selected or 0) <= width),
    )
    if len(kept.heads) + len(kept.svms) == 0:
        raise UsageError(told, f"Use --select none, or a number up to {width}")
    note(f"{told}: candidates that keep so many are left out")
    return kept


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainPlan:
    """Everything training depends on beside images, recipe and backbone."""

    fit: FitSettings
    head_fit: FitSettings
    """The fit of heads on frozen features: `fit` itself with `--tune head`, its defaults before fine-tuning."""
    augmentation: Augmentation | None
    views: int
    precision: Precision
    """Of fine-tuning; `auto` is settled by a trial before the first step of it, where one can pay."""
    checkpoint_every_s: float
    max_megapixels: float
    seed: int
    doubt: DoubtSettings | None
    """The rates that thresholds of doubt are fitted to; None fits none."""

    @property
    def training_views(self) -> Views:
        """Give the views that a training image is seen in: the plain one, and with several augmented ones."""
        return Views(count=self.views, augmentation=self.augmentation, seed=self.seed) if self.views > 1 else Views()


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Positions in the manifest of one member's images; `test` is empty for a manifest of splits."""

    fold: int | None
    train: tuple[int, ...]
    val: tuple[int, ...]
    calib: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedMember:
    """A member with what was learnt on the way to it."""

    member: Member
    choice: str
    best_epoch: int | None
    hidden: list[int]
    feature_size: int
    """Width of the vector that the last layer, or the SVM, sees."""
    dropout: float | None
    selected: int | None
    validation: dict[str, float | None]
    validation_images: int
    validated_on: str | None
    trials: tuple[dict[str, Any], ...]
    history: tuple[dict[str, Any], ...]


def parts_of(manifest: Manifest, fold: int | None) -> Part:
    """Give the positions of training, validation and calibration: by split, or all that is not in `fold`."""
    places = range(len(manifest.samples))
    if fold is not None:
        return Part(fold=fold, train=tuple(i for i in places if manifest.samples[i].fold != fold), val=(), calib=())
    by_split = {
        name: tuple(i for i in places if manifest.samples[i].split == name) for name in ("train", "val", "calib")
    }
    return Part(fold=None, **by_split)


class Trainer:
    """Trains members over one manifest and backbone; what it computes once serves every member and candidate."""

    def __init__(
        self,
        manifest: Manifest,
        loaded: LoadedBackbone,
        recipe: Recipe,
        plan: TrainPlan,
        *,
        machine: Machine,
        cache_root: Path,
        checkpoints: Path | None,
        rows: Rows | None = None,
        resume_hint: str = "",
        track: Track = silent,
        note: Note = unheard,
        team: Team = ALONE,
    ) -> None:
        self.manifest, self.loaded, self.recipe, self.plan = manifest, loaded, recipe, plan
        self.team = team
        self.precision_trial: dict[str, Any] | None = None
        """What settled the precision of fine-tuning, where a trial did."""
        self._moved: torch.nn.Module | None = None
        """The backbone that was fine-tuned last, the same on every process."""
        self.machine, self.track, self.note = machine, track, note
        self.checkpoints, self.cache_root, self.resume_hint = checkpoints, cache_root, resume_hint
        self.spec: Preprocessing = loaded.preprocessing
        order = {name: i for i, name in enumerate(manifest.task.classes)}
        self.labels: Labels = np.array([order[s.label] for s in manifest.samples], dtype=np.int64)
        self.field_labels: dict[str, int] = {s.path: order[s.label] for s in manifest.fields if s.label}
        self.class_count = len(order)
        self.frozen: Rows = rows or self._rows_by(loaded.module, self.spec)
        self.as_photographed: Rows = self.frozen
        if self.spec.remedies.hide_origin:
            self.as_photographed = self._rows_by(loaded.module, self.spec.as_photographed)
        if plan.precision == "auto" and checkpoints is not None and (checkpoints / PRECISION_FILE).exists():
            settled = read_json(checkpoints / PRECISION_FILE, "precision")  # before the interruption
            check_schema(settled, checkpoints / PRECISION_FILE, SCHEMA_VERSION)
            if settled.get("taken") not in ("fp32", "bf16") or "trial" not in settled:
                raise WorkspaceError(f"{checkpoints / PRECISION_FILE} is damaged", "Train anew without --resume")
            self._take_precision(settled)

    # ------------------------------------------------------------------------------------------------- members

    def member(self, fold: int | None) -> TrainedMember:
        """Train one member, or take it from the checkpoint of an interrupted run."""
        part = parts_of(self.manifest, fold)
        name = "whole" if fold is None else f"fold-{fold}"
        kept = None if self.checkpoints is None else self.checkpoints / f"{name}.member.safetensors"
        if kept is not None and kept.exists():
            self.note(f"{name}: finished before the interruption")
            return self._read_member(kept)
        diary = Diary(None if self.checkpoints is None else self.checkpoints / f"{name}.selection.jsonl")
        if self.recipe.tune == "head":
            trained = self._frozen(part, diary)
        else:
            state = None if self.checkpoints is None else self.checkpoints / f"{name}.state.safetensors"
            trained = self._tuned(part, diary, state)
        if kept is not None:
            self._write_member(kept, trained)
        return trained

    def _frozen(self, part: Part, diary: Diary) -> TrainedMember:
        plain = self._features([*part.train, *part.val, *part.calib], Views())
        views = self._training_views(part)
        if self.recipe.svms:
            return self._svm(part, views, plain, diary, inner=True, backbone=None, epochs=())
        holdouts = self._holdouts(part)
        selection = self._choose_head(holdouts, views, plain, diary) if holdouts else None
        choice = selection.kept.choice if selection else self.recipe.heads[0]
        validation = (_rows(plain, part.val)[:, 0], self.labels[list(part.val)]) if part.val else None
        epochs = None
        if validation is None and selection is not None and selection.kept.epochs is not None:
            epochs = max(1, round(selection.kept.epochs))
        fitted = fit_head(
            _rows(views, part.train),
            self.labels[list(part.train)],
            choice,
            self.plan.head_fit,
            class_count=self.class_count,
            seed=self.plan.seed,
            validation=validation,
            epochs=epochs,
        )
        if selection is None:
            self.note(
                f"{_where(part)}: too few groups to choose by; taking {choice.title}, {self.plan.head_fit.epochs} epochs"
            )
        member = Member(fold=part.fold, head=fitted.head, temperature=1.0, calibrated_on=None, backbone=None)
        passed = epochs or fitted.best_epoch or self.plan.head_fit.epochs

        def again(places: Sequence[int]) -> Head:
            labels = self.labels[list(places)]
            return fit_head(
                _rows(views, places), labels, choice, self.plan.head_fit,
                class_count=self.class_count, seed=self.plan.seed, validation=None, epochs=passed,
            ).head  # fmt: skip

        return self._finish(part, member, choice, plain, selection, fitted.best_epoch, fitted.epochs, again=again)

    def _tuned(self, part: Part, diary: Diary, state: Path | None) -> TrainedMember:
        part = self._with_parts(part)
        plain = self._features([*part.train, *part.val], Views())
        holdouts = self._holdouts(part)
        heads = self.recipe.heads or (HeadChoice(),)
        candidates = len(heads) > 1 and bool(holdouts)
        views = self._training_views(part)
        selection = self._choose_head(holdouts, views, plain, diary) if candidates and self.recipe.heads else None
        choice = selection.kept.choice if selection else heads[0]
        validation = (_rows(plain, part.val)[:, 0], self.labels[list(part.val)]) if part.val else None
        first = fit_head(
            _rows(views, part.train),
            self.labels[list(part.train)],
            choice,
            self.plan.head_fit,
            class_count=self.class_count,
            seed=self.plan.seed,
            validation=validation,
        )
        # The head is fitted on the frozen features first, then both move: Kumar et al. 2022, arXiv 2202.10054.
        self._settle_precision(first.head, part)
        order = {
            "do": "tune",
            "train": part.train,
            "val": part.val,
            "choice": asdict(choice),
            "precision": self.plan.precision,
        }
        self.team.order(order, prefixed("", first.head.state_dict()))
        network, tuned = self._fine_tuned(first.head, part, state)
        moved = self._features([*part.train, *part.val, *part.calib], Views(), network.backbone)
        if self.recipe.svms:
            moved_views = self._training_views(part, network.backbone)
            return self._svm(
                part, moved_views, moved, diary, inner=False, backbone=network.backbone, epochs=tuned.epochs
            )
        member = Member(
            fold=part.fold, head=network.head, temperature=1.0, calibrated_on=None, backbone=network.backbone
        )
        return self._finish(part, member, choice, moved, selection, tuned.best_epoch, tuned.epochs, tuned=True)

    def _fine_tuned(self, head: Head, part: Part, state: Path | None) -> tuple[Network, Tuned]:
        """Fine-tune the given backbone with a head; every process of a team comes here with the same."""
        samples, val = self._samples(part.train), self._samples(part.val)
        network, tuned = self._fine_tune(
            head,
            (samples, self.labels[list(part.train)]),
            (val, self.labels[list(part.val)]) if val else None,
            self.plan.fit,
            self.plan.precision,
            checkpoint=state,
            track=self.track,
            note=self.note,
            team=self.team,
        )
        self._moved = network.backbone
        return network, tuned

    def _fine_tune(
        self,
        head: Head,
        train: tuple[Sequence[Sample], Labels],
        validation: tuple[Sequence[Sample], Labels] | None,
        fit: FitSettings,
        precision: Precision,
        *,
        checkpoint: Path | None = None,
        track: Track,
        note: Note = unheard,
        team: Team = ALONE,
    ) -> tuple[Network, Tuned]:
        """Fine-tune a copy of the given backbone with `head`, which moves too."""
        network = Network(copy.deepcopy(self.loaded.module), head)
        tuned = fine_tune(
            network,
            train,
            validation,
            self.spec,
            fit,
            TuneSettings(
                tune=self.recipe.tune,
                precision=precision,
                augmentation=self.plan.augmentation,
                hold_normalisation=not self.loaded.spec.is_random,
                checkpoint_every_s=self.plan.checkpoint_every_s,
                max_megapixels=self.plan.max_megapixels,
            ),
            last_stage=self.loaded.last_stage,
            class_count=self.class_count,
            seed=self.plan.seed,
            machine=self.machine,
            checkpoint=checkpoint,
            resume_hint=self.resume_hint,
            track=track,
            note=note,
            team=team,
        )
        return network, tuned

    def _settle_precision(self, head: Head, part: Part) -> None:
        """Put a precision in the place of `auto`: what a trial on this member finds, fp32 where none can pay."""
        if self.plan.precision != "auto":
            return
        trial = None
        if worth_trying(len(part.train), self.plan.fit):

            def tune(precision: TrialPrecision, batch: Batch, fit: FitSettings, track: Track) -> Tuned:
                return self._fine_tune(copy.deepcopy(head), batch, None, fit, precision, track=track)[1]

            train = self._samples(part.train), self.labels[list(part.train)]
            trial = try_precisions(tune, train, self.plan.fit)
            self.note(str(trial))
        settled = {"taken": trial.taken if trial else "fp32", "trial": trial.as_json() if trial else None}
        if self.checkpoints is not None:
            write_json(self.checkpoints / PRECISION_FILE, sealed({"schema_version": SCHEMA_VERSION, **settled}))
        self._take_precision(settled)

    def _take_precision(self, settled: dict[str, Any]) -> None:
        self.plan = replace(self.plan, precision=settled["taken"])
        self.precision_trial = settled["trial"]

    def follow(self) -> dict[str, Any]:
        """Carry out the leader's orders until the one to leave, and give that one."""
        while True:
            order, tensors = self.team.next_order()
            if order["do"] == "leave":
                return order
            if order["do"] == "tune":
                choice = HeadChoice(**{**order["choice"], "hidden": tuple(order["choice"]["hidden"])})
                head = Head(choice, self.loaded.spec.feature_width, self.class_count)
                head.load_state_dict(tensors)
                self.plan = replace(self.plan, precision=order["precision"])
                self._fine_tuned(head, Part(fold=None, train=order["train"], val=order["val"], calib=()), None)
                continue
            try:
                self._share_features(Wanted.from_json(order))
            except Exception as error:
                self.team.dismissed_by(error)
            self.team.done()

    def _share_features(self, wanted: Wanted) -> None:
        backbone = self.loaded.module if wanted.whose == "given" else self._moved
        if backbone is None:
            raise ValueError("features of a fine-tuned backbone were asked for before there was one")
        rows = self._rows_by(backbone, self.spec.as_photographed if wanted.as_photographed else self.spec)
        if isinstance(rows, SharedRows):
            rows.check_digest(wanted.digest)
            rows.compute_share(wanted.places, Views() if wanted.plain else self.plan.training_views)

    def judge(self, trained: TrainedMember, places: Sequence[int]) -> Scores:
        """Give the calibrated probabilities (n, C) of the plain views of the images at `places`."""
        rows = self._features(places, Views(), trained.member.backbone).rows
        return trained.member.probabilities(rows[:, 0])

    def svm_on(self, fold: int | None, backbone: torch.nn.Module | None, *, inner: bool) -> TrainedMember:
        """Fit only a support vector machine, on the features of `backbone` (None: the pretrained one)."""
        part = parts_of(self.manifest, fold)
        if not inner:
            part = self._with_parts(part)
        plain = self._features([*part.train, *part.val, *part.calib], Views(), backbone)
        views = self._training_views(part, backbone)
        return self._svm(part, views, plain, Diary(None), inner=inner, backbone=backbone, epochs=())

    def _svm(
        self,
        part: Part,
        views: _Kept,
        plain: _Kept,
        diary: Diary,
        *,
        inner: bool,
        backbone: torch.nn.Module | None,
        epochs: Sequence[EpochScore],
    ) -> TrainedMember:
        """Choose and fit on every view of the training images, each a row of its own; score on plain views."""
        holdouts: tuple[Holdout, ...] = ()
        if inner:
            holdouts = self._inner(part)
        if not holdouts and part.val:
            holdouts = (Holdout(fit=part.train, score=part.val),)
        view_count = self._svm_views(len(part.train), views.rows.shape[1])

        def kernels(places: Sequence[int]) -> Kernels:
            return Kernels(_rows(views, places)[:, :view_count], self.labels[list(places)])

        def prepare(holdout: Holdout) -> Fit[SvmChoice]:
            shared, held = kernels(holdout.fit), _rows(plain, holdout.score)[:, 0]
            return lambda choice, pulse: (shared.fit(choice, self.class_count, pulse).scores(held), None)

        selection: Selection[SvmChoice] | None = None
        if holdouts:
            stage = "choosing the SVM" if part.fold is None else f"fold {part.fold}: choosing the SVM"
            selection = choose(
                self.recipe.svms,
                holdouts,
                self.labels,
                prepare,
                diary=diary,
                stage=stage,
                track=self.track,
                workers=self.machine.workers,
            )
        choice = selection.kept.choice if selection else self.recipe.svms[0]
        if selection is None:
            self.note(f"{_where(part)}: too few groups to choose by; taking {choice.title}")
        final = kernels(part.train)
        member = Member(
            fold=part.fold,
            head=final.fit(choice, self.class_count),
            temperature=1.0,
            calibrated_on=None,
            backbone=backbone,
        )

        def again(places: Sequence[int]) -> Svm:
            return kernels(places).fit(choice, self.class_count)

        return self._finish(
            part, member, choice, plain, selection, None, epochs,
            tuned=backbone is not None, again=None if backbone is not None else again,
        )  # fmt: skip

    def _svm_views(self, images: int, views: int) -> int:
        """Give how many views of each image a kernel matrix has room for; raises MachineError where not even one."""
        if images > SVM_ROWS:
            raise MachineError(
                f"a support vector machine on {images} images needs a kernel matrix of {images**2 * 8 / 1e9:.0f} GB",
                f"Use at most {SVM_ROWS} training images, or --variant base, hidden or dropout",
            )
        room = min(views, SVM_ROWS // images)
        if room < views:
            self.note(f"warning: the kernel matrix has room for {room} of {views} views of each training image")
        return room

    # ------------------------------------------------------------------------------------------------ choosing

    def _holdouts(self, part: Part) -> tuple[Holdout, ...]:
        if part.val:
            return (Holdout(fit=part.train, score=part.val),)
        return self._inner(part)

    def _with_parts(self, part: Part) -> Part:
        """Take validation and calibration for fine-tuning out of a fold's training part, whole groups."""
        if part.fold is None or part.val:
            return part
        inner = self._inner(part)
        if not inner:
            return part
        val = inner[0].score
        calib = inner[1].score if len(inner) >= 3 else ()
        taken = {*val, *calib}
        return Part(fold=part.fold, train=tuple(i for i in part.train if i not in taken), val=val, calib=calib)

    def _choose_head(
        self, holdouts: Sequence[Holdout], views: _Kept, plain: _Kept, diary: Diary
    ) -> Selection[HeadChoice]:
        def prepare(holdout: Holdout) -> Fit[HeadChoice]:
            held = (_rows(plain, holdout.score)[:, 0], self.labels[list(holdout.score)])
            shared = FittingSet(
                _rows(views, holdout.fit),
                self.labels[list(holdout.fit)],
                held,
                balanced=self.plan.head_fit.class_weights,
            )

            def fit(choice: HeadChoice, pulse: Callable[[], None]) -> tuple[Scores, int | None]:
                fitted = shared.fit(
                    choice, self.plan.head_fit, class_count=self.class_count, seed=self.plan.seed, pulse=pulse
                )
                if fitted.val_scores is None:
                    raise ValueError("a fit with validation gave no validation scores")
                return fitted.val_scores, fitted.best_epoch

            return fit

        return choose(
            self.recipe.heads,
            holdouts,
            self.labels,
            prepare,
            diary=diary,
            stage="choosing the head",
            track=self.track,
            workers=self.machine.workers,
        )

    # ------------------------------------------------------------------------------------------------ finishing

    def _finish(
        self,
        part: Part,
        member: Member,
        choice: HeadChoice | SvmChoice,
        features: _Kept,
        selection: Selection[HeadChoice] | Selection[SvmChoice] | None,
        best_epoch: int | None,
        epochs: Sequence[EpochScore],
        *,
        tuned: bool = False,
        again: Callable[[Sequence[int]], Head | Svm] | None = None,
    ) -> TrainedMember:
        """Fit the temperature on data that chose nothing where there are such, and score the validation part."""
        temperature, calibrated_on = 1.0, None
        if part.calib:
            scores = member.scores(_rows(features, part.calib)[:, 0])
            temperature = fit_temperature(scores, self.labels[list(part.calib)])
            calibrated_on = f"calibration part, {self._counted(part.calib)}"
        elif selection is not None and part.fold is not None and not tuned:
            temperature = fit_temperature(selection.scores, self.labels[list(selection.positions)])
            calibrated_on = f"out-of-fold scores of training, {self._counted(selection.positions)}"
        member = replace(member, temperature=temperature, calibrated_on=calibrated_on)
        out_of_fold = selection if selection is not None and part.fold is not None and not tuned else None
        if self.plan.doubt is not None:
            plain = self._plain([*part.train, *part.calib], member.backbone)
            doubt = self._doubt(part, member, features, plain, out_of_fold, self.plan.doubt)
            member = replace(member, doubt=doubt)
            if self.manifest.unit == "cell" and self.field_labels:
                member = replace(member, reading=self._reading(part, member, plain, again, self.plan.doubt))
        validation: dict[str, float | None] = {name: None for name in METRICS}
        validated_on, count = None, 0
        if part.val:
            judged, places = member.probabilities(_rows(features, part.val)[:, 0]), part.val
            validated_on = f"validation part, {self._counted(places)}"
        elif selection is not None:
            judged, places = softmax(selection.scores, temperature), selection.positions
            validated_on = f"inner folds of training, {self._counted(places)}"
        else:
            judged, places = None, ()
        if judged is not None:
            count = len(places)
            validation = self._metrics(judged, places)
        hidden = choice.hidden if isinstance(choice, HeadChoice) else ()
        width = choice.selected or self.loaded.spec.feature_width
        return TrainedMember(
            member=member,
            choice=choice.title,
            best_epoch=best_epoch,
            hidden=list(hidden),
            feature_size=hidden[-1] if hidden else width,
            dropout=choice.rate if isinstance(choice, HeadChoice) else None,
            selected=choice.selected,
            validation=validation,
            validation_images=count,
            validated_on=validated_on,
            trials=() if selection is None else tuple(_trial(t) for t in selection.trials),
            history=tuple({"fold": part.fold, "stage": "fine-tune" if tuned else "head", **asdict(e)} for e in epochs),
        )

    def _doubt(
        self,
        part: Part,
        member: Member,
        features: _Kept,
        plain: _Kept,
        selection: Selection[HeadChoice] | Selection[SvmChoice] | None,
        settings: DoubtSettings,
    ) -> Doubt | None:
        """Fit when to abstain on the calibration part, or on `selection`, the out-of-fold scores of training.

        What is novel is told by `plain`, the features of images as they were photographed. Where there is neither, it can
        still be told: groups of training are left out in turn, whatever their class. Not by a backbone tuned on them.
        """
        try:
            described = fit_novelty(_rows(plain, part.train)[:, 0])
        except ValueError as error:
            self.note(f"warning: {_where(part)}: what is novel cannot be told: {error}")
            return None
        probabilities, named = None, member.calibrated_on
        if part.calib:
            places: Sequence[int] = part.calib
            probabilities = member.probabilities(_rows(features, places)[:, 0])
            strange = described.scores(_rows(plain, places)[:, 0])
        elif selection is not None:
            places = selection.positions
            probabilities = softmax(selection.scores, member.temperature)
            strange = self._strange(plain, places, self._inner(part))
        else:
            holdouts = left_out(self.manifest.samples, part.train, most=INNER_FOLDS)
            if member.backbone is not None or not holdouts:
                return None
            places = part.train
            try:
                strange = self._strange(plain, places, holdouts)
            except ValueError:  # without one group there is too little left to describe
                return None
            named = f"{LEFT_OUT}, {self._counted(places)}"
        calibration = Calibration(
            probabilities=probabilities,
            labels=self.labels[list(places)],
            groups=self._groups(places),
            novelty=strange,
            named=named or "",
        )
        return Doubt(novelty=described, limits=fit_limits(calibration, settings))

    def _strange(self, plain: _Kept, places: Sequence[int], holdouts: Sequence[Holdout]) -> Scores:
        """Give the novelty of each image (n,) against the images of the holdout that lacks its group."""
        told: dict[int, float] = {}
        for holdout in holdouts:
            known = fit_novelty(_rows(plain, holdout.fit)[:, 0])
            told.update(zip(holdout.score, known.scores(_rows(plain, holdout.score)[:, 0]), strict=True))
        return np.array([told[place] for place in places])

    def _inner(self, part: Part) -> tuple[Holdout, ...]:
        return inner_holdouts(self.manifest.samples, part.train, most=INNER_FOLDS, seed=self.plan.seed)

    # ------------------------------------------------------------------------------------------------- photographs

    def _reading(
        self,
        part: Part,
        member: Member,
        plain: _Kept,
        again: Callable[[Sequence[int]], Head | Svm] | None,
        settings: DoubtSettings,
    ) -> Reading:
        """Fit how photographs are read: the rule on folds of training, the thresholds on the calibration part or the same.

        `again` fits the chosen head on other cells; without it (a tuned backbone) the validation part stands for folds. Where
        groups are too few for either, the rule is the default: fitted on groups that the head has seen it would lean on them.
        """
        inside = {name: self._fields(name, part) for name in ("val", "calib")}
        taken = {field.path for fields in inside.values() for field in fields}
        training = [field for field in self._training_fields(part) if field.path not in taken]
        holdouts = self._inner(part) if again is not None else ()
        rule_from = None
        if again is not None and holdouts:
            fold_of = {self.manifest.samples[i].inseparable: k for k, each in enumerate(holdouts) for i in each.score}
            bags = []
            for k, holdout in enumerate(holdouts):
                other = replace(member, head=again(holdout.fit))
                held = [field for field in training if fold_of.get(field.inseparable, 0) == k]
                described = self._described(plain, holdout.fit)
                bags.append(self._bags(held, other, described, np.full(len(held), k), "inner folds of training"))
            rule_from = _joined(bags, "inner folds of training")
        elif inside["val"]:
            order = {group: i for i, group in enumerate(sorted({field.inseparable for field in inside["val"]}))}
            folds = np.array([order[field.inseparable] % INNER_FOLDS for field in inside["val"]], dtype=np.int64)
            known = None if member.doubt is None else member.doubt.novelty
            rule_from = self._bags(inside["val"], member, known, folds, "validation part")
        else:
            self.note(
                f"{_where(part)}: too few groups to choose how photographs are read; taking the first rule as it is"
            )
        limits_from = rule_from if holdouts else None
        if inside["calib"] and member.doubt is not None:
            nowhere = np.zeros(len(inside["calib"]), dtype=np.int64)
            limits_from = self._bags(inside["calib"], member, member.doubt.novelty, nowhere, "calibration part")
        healthy = healthy_class(self.manifest.task)
        reading = fit_reading(
            rule_from,
            limits_from,
            counts=self._cell_counts(training),
            labels=np.array([self.field_labels[field.path] for field in training], dtype=np.int64),
            class_count=self.class_count,
            healthy=None if healthy is None else self.manifest.task.classes.index(healthy),
            settings=settings,
        )
        if limits_from is None:
            return replace(reading, limits=self._novelty_limits(part, member, plain, settings))
        return reading

    def _cell_counts(self, fields: Sequence[Sample]) -> Labels:
        """Count the cells, labelled or not, of photographs (N,)."""
        counts = Counter(sample.field for sample in self.manifest.everything)
        return np.array([counts[field.path] for field in fields], dtype=np.int64)

    def _novelty_limits(self, part: Part, member: Member, plain: _Kept, settings: DoubtSettings) -> Limits | None:
        """Fit which photographs are novel, and no more, on groups of training left out in turn; None by a tuned backbone."""
        if member.backbone is not None or member.doubt is None:
            return None
        held, strange = [], []
        for holdout in left_out(self.manifest.samples, part.train, most=INNER_FOLDS):
            groups = {self.manifest.samples[i].inseparable for i in holdout.score}
            fields = [field for field in self._training_fields(part) if field.inseparable in groups]
            known = self._described(plain, holdout.fit)
            if known is None:  # without this group there is too little left to describe
                continue
            bags = self._bags(fields, member, known, np.zeros(len(fields), dtype=np.int64), LEFT_OUT)
            for field, novelty in zip(fields, bags.novelty, strict=True):
                if len(novelty) >= settings.least_cells:
                    held.append(field)
                    strange.append(strangeness(novelty))
        if not held:
            return None
        groups_known = self.manifest.groups_source != "none"
        calibration = Calibration(
            probabilities=None,
            labels=np.array([self.field_labels[field.path] for field in held], dtype=np.int64),
            groups=tuple(field.group for field in held) if groups_known else None,
            novelty=np.array(strange),
            named=f"{LEFT_OUT}, {len(held)} photographs of {len({field.group for field in held})} groups",
        )
        return fit_limits(calibration, settings)

    def _described(self, plain: _Kept, places: Sequence[int]) -> Novelty | None:
        """Describe cells so that others can be told novel; None where they are too few for that."""
        try:
            return fit_novelty(_rows(plain, places)[:, 0])
        except ValueError:
            return None

    def _fields(self, name: str, part: Part) -> list[Sample]:
        """Give the photographs with a class of a split; with folds, those whose group has cells in that part."""
        if part.fold is None:
            return [field for field in self.manifest.fields if field.label and field.split == name]
        groups = {self.manifest.samples[i].inseparable for i in (part.val if name == "val" else part.calib)}
        return [field for field in self.manifest.fields if field.label and field.inseparable in groups]

    def _training_fields(self, part: Part) -> list[Sample]:
        wanted = [field for field in self.manifest.fields if field.label]
        if part.fold is not None:
            return [field for field in wanted if field.fold != part.fold]
        return [field for field in wanted if field.split == "train"]

    def _bags(self, fields: Sequence[Sample], member: Member, known: Novelty | None, folds: Labels, named: str) -> Bags:
        """Score every cell of some photographs, labelled or not."""
        of_field: dict[str, list[int]] = {field.path: [] for field in fields}
        for place, sample in enumerate(self.manifest.everything):
            if sample.field in of_field:
                of_field[sample.field].append(place)
        every = [place for places in of_field.values() for place in places]
        kept, plain = self._features(every, Views(), member.backbone), self._plain(every, member.backbone)
        cells, novelty = [], []
        for field in fields:
            rows, looks = (_rows(each, of_field[field.path])[:, 0] for each in (kept, plain))
            cells.append(member.probabilities(rows) if len(rows) else np.zeros((0, self.class_count)))
            novelty.append(known.scores(looks) if known is not None and len(rows) else np.zeros(len(rows)))
        groups = None if self.manifest.groups_source == "none" else tuple(field.group for field in fields)
        count = len({field.group for field in fields})
        return Bags(
            cells=cells,
            novelty=novelty,
            labels=np.array([self.field_labels[field.path] for field in fields], dtype=np.int64),
            groups=groups,
            folds=folds.astype(np.int64),
            named=f"{named}, {len(fields)} photographs of {count} groups",
        )

    def _groups(self, places: Sequence[int]) -> tuple[str, ...] | None:
        """Give the groups of images, None where they are unknown."""
        if self.manifest.groups_source == "none":
            return None
        return tuple(self.manifest.samples[i].group for i in places)

    def _metrics(self, probabilities: Scores, places: Sequence[int]) -> dict[str, float | None]:
        return plain_values(
            Predictions(
                classes=self.manifest.task.classes,
                positive=self.manifest.task.positive,
                labels=self.labels[list(places)],
                probabilities=probabilities,
                groups=tuple(self.manifest.samples[i].group for i in places),
                groups_source=self.manifest.groups_source,
            ),
            METRICS,
        )

    def _counted(self, places: Sequence[int]) -> str:
        return f"{len(places)} images of {len({self.manifest.samples[i].group for i in places})} groups"

    # ------------------------------------------------------------------------------------------------- features

    def _samples(self, places: Sequence[int]) -> list[Sample]:
        return [self.manifest.samples[i] for i in places]

    def _training_views(self, part: Part, backbone: torch.nn.Module | None = None) -> _Kept:
        return self._features(part.train, self.plan.training_views, backbone)

    def _features(self, places: Sequence[int], views: Views, backbone: torch.nn.Module | None = None) -> _Kept:
        """Give features by `backbone`; None means the pretrained one."""
        rows = self.frozen if backbone is None else self._rows_by(backbone, self.spec)
        return _Kept(rows=rows(places, views), row_of={place: row for row, place in enumerate(places)})

    def _plain(self, places: Sequence[int], backbone: torch.nn.Module | None = None) -> _Kept:
        """Give features of images as they were photographed, which tell what is novel."""
        rows = self.as_photographed if backbone is None else self._rows_by(backbone, self.spec.as_photographed)
        return _Kept(rows=rows(places, Views()), row_of={place: row for row, place in enumerate(places)})

    def _rows_by(self, backbone: torch.nn.Module, spec: Preprocessing) -> FrozenRows:
        given = backbone is self.loaded.module
        means = Means(
            machine=self.machine,
            cache_root=self.cache_root,
            batch_size=min(FEATURE_BATCH, self.plan.fit.batch_size),
            max_megapixels=self.plan.max_megapixels,
            track=self.track,
            note=self.note,
        )
        if self.team.size == 1 or not (given or backbone is self._moved):
            return FrozenRows(self.manifest.everything, backbone, spec, means)

        def ask(places: tuple[int, ...], views: Views, digest: str) -> None:
            wanted = Wanted(
                whose="given" if given else "moved",
                as_photographed=spec != self.spec,
                places=places,
                plain=views == Views(),
                digest=digest,
            )
            self.team.order(wanted.as_json())

        return SharedRows(self.manifest.everything, backbone, spec, means, team=self.team, ask=ask)

    # ---------------------------------------------------------------------------------------------- checkpoints

    def _write_member(self, path: Path, trained: TrainedMember) -> None:
        tensors = prefixed("head.", trained.member.tensors())
        if trained.member.backbone is not None:
            tensors |= prefixed("backbone.", trained.member.backbone.state_dict())
        if trained.member.doubt is not None:
            tensors |= prefixed("doubt.0.", trained.member.doubt.tensors())
        facts = {
            "member": trained.member.as_json(),
            **{k: getattr(trained, k) for k in trained.__slots__ if k != "member"},
        }
        write_checkpoint(path, tensors, facts)

    def _read_member(self, path: Path) -> TrainedMember:
        facts, tensors = read_checkpoint(path, "Delete it to train this part of the run again")
        stored = facts.pop("member")
        head = restore_head(
            stored,
            unprefixed("head.", tensors),
            feature_width=self.loaded.spec.feature_width,
            class_count=self.class_count,
        )
        backbone = None
        if stored["own_backbone"]:
            backbone = copy.deepcopy(self.loaded.module)
            backbone.load_state_dict(unprefixed("backbone.", tensors))
        doubt = doubt_arrays(stored, {DOUBT_FILE: unprefixed("doubt.", tensors)}, 0)
        member = restore_member(stored, head=head, doubt=doubt, backbone=backbone)
        for name in ("trials", "history"):
            facts[name] = tuple(facts[name])
        return TrainedMember(member=member, **facts)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """Feature rows (n, V, D) of some places of the manifest."""

    rows: Features
    row_of: dict[int, int]


def _rows(kept: _Kept, places: Sequence[int]) -> Features:
    return kept.rows[[kept.row_of[place] for place in places]]


def _joined(bags: Sequence[Bags], named: str) -> Bags:
    """Put the photographs of several folds together."""
    groups = [bag.groups for bag in bags]
    together = None if None in groups else tuple(group for each in groups for group in each or ())
    counted = f"{sum(len(bag.labels) for bag in bags)} photographs"
    return Bags(
        cells=[cells for bag in bags for cells in bag.cells],
        novelty=[scores for bag in bags for scores in bag.novelty],
        labels=np.concatenate([bag.labels for bag in bags]),
        groups=together,
        folds=np.concatenate([bag.folds for bag in bags]),
        named=f"{named}, {counted}" + ("" if together is None else f" of {len(set(together))} groups"),
    )


def _where(part: Part) -> str:
    return "this manifest" if part.fold is None else f"fold {part.fold}"


def _trial(trial: Trial[Any]) -> dict[str, Any]:
    return {
        "choice": asdict(trial.choice),
        "balanced_accuracy": trial.balanced_accuracy,
        "log_loss": trial.log_loss,
        "epochs": trial.epochs,
    }
