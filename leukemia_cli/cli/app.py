"""The commands of `leuk`, and the one boundary where an error becomes two lines and an exit code.

A command parses, reads its small inputs, and only then imports its step: help, completion and "there is no manifest here"
load neither torch nor numpy.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import re
import shlex
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from leukemia_cli import __version__
from leukemia_cli.catalog import VARIANTS, find_variant
from leukemia_cli.cli import options
from leukemia_cli.cli.console import Console, ReaderGone
from leukemia_cli.cli.options import Shared, with_shared
from leukemia_cli.data.shards import read_shard
from leukemia_cli.domain import Manifest, counted
from leukemia_cli.errors import Interrupted, LeukError, MachineError, UsageError
from leukemia_cli.workspace.documents import read_json
from leukemia_cli.workspace.files import disk_errors
from leukemia_cli.workspace.folders import Workspace, open_workspace, workspace_for
from leukemia_cli.workspace.runs import RunFolder, check_run_name, find_run, is_export, run_at, validation_score

if TYPE_CHECKING:
    from leukemia_cli.judging.bars import Bar

app = typer.Typer(
    name="leuk",
    help="Classify leukaemia from microscope images of blood smears, and know how far to believe it. Research use only.",
    no_args_is_help=True,
    rich_markup_mode=None,  # Rich's help would double the time of `leuk --help`
    pretty_exceptions_enable=False,
)


# ------------------------------------------------------------------------------------------------------ boundary


def run(arguments: Sequence[str]) -> int:
    """Run one command; give its exit code. Nothing but this turns errors into text."""
    with _stops_as_before():
        return _run(arguments)


def _run(arguments: Sequence[str]) -> int:
    console = Console(debug="--debug" in arguments, as_json="--json" in arguments)
    _ready_streams()
    try:
        if _follows():
            _to_nowhere()  # results come from the process that leads
        with warnings.catch_warnings(), _stops_raise():
            if not console.debug and not {"-v", "--verbose"} & set(arguments):
                warnings.simplefilter("ignore")
            result = app(args=list(arguments), prog_name="leuk", standalone_mode=False, obj=console)
            if result == 130:  # what Typer makes of Ctrl-C
                raise KeyboardInterrupt
        return result if isinstance(result, int) else 0
    except ReaderGone:
        _to_nowhere()  # the reader, `head` say, has had enough
        return 0
    except SystemExit as leaving:  # completion, and help into a closed pipe
        return leaving.code if isinstance(leaving.code, int) else 1
    except LeukError as error:
        return _told(console, error)
    except _Terminated as stopped:
        if isinstance(
            stopped.__context__, LeukError
        ):  # it was ending already: torchrun stops what is left of a training
            return _told(console, stopped.__context__)
        return _told(console, Interrupted(stopped.exit_code, f"stopped by {stopped}", _AFTER_STOP))
    except (KeyboardInterrupt, typer.Abort):
        return _told(console, Interrupted(130, "stopped by Ctrl-C", _AFTER_STOP))
    except Exception as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # `leuk` alone; Typer keeps its Click to itself
            print(error.format_message(), file=sys.stderr)  # type: ignore[attr-defined]  # noqa: T201 - Typer's own Click
            return 2
        return _told(console, _known(error))


_AFTER_STOP = "What was finished before is kept"


def _ready_streams() -> None:
    """Let any text and any bytes of file names out, whatever the locale; a closed stream becomes one to nowhere."""

    def escape(error: UnicodeError) -> tuple[str | bytes, int]:
        if not isinstance(error, UnicodeEncodeError):
            raise error
        code = ord(error.object[error.start])
        if 0xDC80 <= code <= 0xDCFF:  # a byte of a name that is not UTF-8, as os.fsdecode keeps it
            return bytes([code - 0xDC00]), error.start + 1
        return rf"\u{code:04x}", error.start + 1

    codecs.register_error("leuk", escape)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115 - as long as the process
        with contextlib.suppress(AttributeError, ValueError):
            getattr(sys, name).reconfigure(errors="leuk")


def _to_nowhere() -> None:
    """Let what Python flushes at its end go nowhere: nobody is left to read it."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _told(console: Console, error: LeukError) -> int:
    if console.debug and not isinstance(error, Interrupted):
        import traceback

        traceback.print_exc(file=sys.stderr)
    try:
        console.error(error)
    except OSError:  # stdout is closed or its disk is full
        _to_nowhere()
    return error.exit_code


def _known(error: Exception) -> LeukError:
    """Say what an error from outside means: wrong usage, a full disk, lack of memory, a broken installation; or a bug."""
    parser_message = getattr(error, "format_message", None)
    if parser_message is not None and getattr(error, "exit_code", None) is not None:
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "leuk"
        text = " ".join(parser_message().split()).replace("Value error, ", "")
        return UsageError(text, f"See: {path} --help")
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return MachineError("out of memory", "Use a smaller --batch-size or fewer --workers, or close other programs")
    if isinstance(error, ImportError) and not (error.name or "").startswith("leukemia_cli"):
        return MachineError(
            f"the installation is broken: {error}", "Reinstall with: pip install --force-reinstall leukemia-cli"
        )
    if isinstance(error, OSError):
        try:
            with disk_errors(Path(os.fsdecode(error.filename or "the output"))):
                raise error
        except LeukError as known:
            return known
        except OSError:
            pass
    told = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    said = " ".join(f"{type(error).__name__}: {_without_paths(told)}".split())[:500]
    return LeukError(said, "This is a bug in leuk. Run it again with --debug for the traceback, which names files")


def _without_paths(text: str) -> str:
    """Take out whatever may be a path: what is said of a bug gets sent around, and folders may be named like patients."""
    text = re.sub(r"""(['"])[^'"]*[/\\][^'"]*\1""", r"\1…\1", text)
    return re.sub(r"(?:\b[A-Za-z]:)?[^\s'\":,()\[\]]*[/\\][^\s'\"]*", "…", text)


_STOPS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))


class _Terminated(BaseException):
    """SIGTERM or SIGUSR1 came; like KeyboardInterrupt no `except Exception` on the way may swallow it."""

    exit_code = 143


@contextlib.contextmanager
def _stops_raise() -> Iterator[None]:
    """Have SIGTERM, and the SIGUSR1 of schedulers, raise _Terminated: files are closed and nothing is left half written."""

    def stop(number: int, frame: FrameType | None) -> None:
        del frame
        raise _Terminated(signal.Signals(number).name)

    try:
        for number in _STOPS:
            signal.signal(number, stop)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        for number in _STOPS:  # what is said about the end is not cut short
            signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def _stops_as_before() -> Iterator[None]:
    """Give signals their handlers back at the end."""
    before = {number: signal.getsignal(number) for number in _STOPS}
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # not in the main thread
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _follows() -> bool:
    """Tell whether torchrun started this process beside one that leads."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return False
    from leukemia_cli.learning.machine import granted_seat

    seat = granted_seat()
    return seat is not None and not seat.leads


# ------------------------------------------------------------------------------------------------- small inputs


def _opened(shared: Shared) -> tuple[Workspace, Manifest]:
    from leukemia_cli.data.manifest import read_manifest

    workspace = open_workspace(shared.workspace, create=False)
    return workspace, read_manifest(workspace)


def _found(shared: Shared, workspace: Workspace, wanted: str | None, manifest: str | None) -> RunFolder:
    """Find the run that is meant; where none is named it is the best, and that is said."""
    found = find_run(workspace, wanted, manifest=manifest)
    if wanted is None:
        score = validation_score(found)
        told = "not validated" if score is None else f"validation balanced accuracy {score:.3f}"
        among = "every manifest: there is none here" if manifest is None else "this manifest"
        shared.console.note(f"run {found.id} (best of {among}; {told})")
    return found


def _shown(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


LAYOUT_NAMES = (
    "folders, csv, voc, coco, yolo, all-idb1, all-idb2, taleqani, c-nmc, aml-lmu, marrow-mll, pbc-barcelona, raabin-wbc, "
    "lisc or chula-rbc-12"
)
"""Of data.layouts.LAYOUTS, written out: help does not load the table."""


# ----------------------------------------------------------------------------------------------------- commands


@app.command(epilog="Example: leuk prepare sample_images --task five-class --folds 3")
@with_shared
def prepare(
    shared: Shared,
    sources: Annotated[
        list[str], typer.Argument(metavar="SOURCE...", help="A folder, CLASS=FOLDER, or a dataset YAML.")
    ],
    task: Annotated[str | None, typer.Option(help="binary, five-class, or a task YAML.")] = None,
    classes: Annotated[str | None, typer.Option(help="Keep only these of the task's classes: ALL,AML,HTL.")] = None,
    positive: Annotated[str | None, typer.Option(help="The positive one of two classes.")] = None,
    layout: Annotated[str, typer.Option(help=f"auto, {LAYOUT_NAMES}.")] = "auto",
    labels: Annotated[Path | None, typer.Option(help="CSV of path,label[,group][,split][,source].")] = None,
    label_column: Annotated[str | None, typer.Option(help="Column that holds the label.")] = None,
    group_by: Annotated[
        str,
        typer.Option(
            help="auto, none, parent, column:NAME, regex:PATTERN or file:CSV[:COLUMN]: what must not be split."
        ),
    ] = "auto",
    unit: Annotated[
        Literal["image", "cell"],
        typer.Option(help="What is to be classified: images, or the white cells found in them."),
    ] = "image",
    input_unit: Annotated[
        Literal["auto", "field", "cell"],
        typer.Option(help="With --unit cell: whether an image is a field or the crop of one cell."),
    ] = "auto",
    unmarked: Annotated[
        Literal["leave-out", "healthy", "as-image"],
        typer.Option(help="With --unit cell: what unmarked cells of a leukaemia field count as."),
    ] = "leave-out",
    near_copies: Annotated[
        Literal["tie", "warn"],
        typer.Option(help="Deal groups that hold near copies of one another as one, or only warn where these part."),
    ] = "tie",
    val: Annotated[float | None, typer.Option(help="Share for choices (default 0.15).")] = None,
    calib: Annotated[float | None, typer.Option(help="Share for calibration (default 0.15).")] = None,
    test: Annotated[float | None, typer.Option(help="Share for the test (default 0.2).")] = None,
    folds: Annotated[int | None, typer.Option(help="Deal into K folds instead, for sets with few groups.")] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Go on without images that cannot be read.")] = False,
    pictures: Annotated[bool, typer.Option("--images/--no-images", help="Show images in audit.html.")] = True,
    max_megapixels: Annotated[float, typer.Option(help="Refuse larger images.")] = 200.0,
) -> None:
    """Read a dataset, open every image, group and audit it, and deal whole groups into splits or folds."""
    from leukemia_cli.learning.machine import granted_cores
    from leukemia_cli.steps.prepare import PrepareSettings
    from leukemia_cli.steps.prepare import prepare as step

    settings = PrepareSettings(
        sources=tuple(sources),
        task=task,
        classes=options.listed(classes, "--classes", str),
        positive=positive,
        layout=layout,
        labels=None if labels is None else str(labels),
        label_column=label_column,
        group_by=group_by,
        unit=unit,
        input_unit=input_unit,
        unmarked=unmarked,
        near_copies=near_copies,
        val=val,
        calib=calib,
        test=test,
        folds=folds,
        skip_bad=skip_bad,
        pictures=pictures,
        max_megapixels=max_megapixels,
        workers=shared.workers or granted_cores(),
        seed=shared.seed,
        command=tuple(sys.argv),
    )
    with workspace_for(shared.workspace) as workspace:
        done = step(workspace, settings, track=shared.console.track, note=shared.console.note)
    facts = done.as_json()
    if shared.console.as_json:
        shared.console.document(facts)
        return
    names = list(done.manifest.task.classes)
    for line in facts["warnings"]:
        shared.console.note(f"warning: {line}")
    rows = [[part, *(str(counts.get(c, 0)) for c in names)] for part, counts in facts["splits"].items()]
    what = f"{facts['images']} images"
    if facts["unit"] == "cell":
        what = f"{facts['cells']} cells, and {facts['unlabelled_cells']} without a class, of {what}"
    title = f"{done.manifest.task.title}: {what} in {facts['groups']} groups ({facts['groups_source']})"
    shared.console.table(title, ["part", *names], rows)
    from leukemia_cli.reporting.audit import audit_lines

    for line in audit_lines(done.audit):
        shared.console.out(line)
    shared.console.out(f"audit: {workspace.manifest_folder / 'audit.html'}")
    shared.console.out(f"manifest: {workspace.manifest_folder / 'manifest.csv'}")
    shared.console.note("next: leuk train --backbone senet --variant dropout" + _same_workspace(shared))


def _same_workspace(shared: Shared) -> str:
    return "" if shared.workspace == Path("leuk-workspace") else f" --workspace {shlex.quote(str(shared.workspace))}"


@app.command(epilog="Example: leuk train --backbone senet --variant dropout")
@with_shared
def train(
    ctx: typer.Context,
    shared: Shared,
    backbone: Annotated[str, typer.Option(help=f"{options.backbones()}.")] = "senet",
    variant: Annotated[str, typer.Option(help=f"{options.variants()}.")] = "dropout",
    name: Annotated[str | None, typer.Option(help="A name for the run.")] = None,
    fold: Annotated[str | None, typer.Option(help="One fold, or all (default) of a manifest of folds.")] = None,
    tune: Annotated[
        Literal["head", "last-stage", "all"], typer.Option(help="How much is trained; head uses cached features.")
    ] = "head",
    weights: Annotated[
        str, typer.Option(help="auto (pretrained), none (random), or a .safetensors or .pth file.")
    ] = "auto",
    epochs: Annotated[int | None, typer.Option(min=1, help="Most epochs (default: 40 for head, 15 otherwise).")] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images a step (default: 64 for head, 16 otherwise).")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate (default: 1e-4).")] = None,
    feature_sizes: Annotated[str | None, typer.Option(help="Hidden widths to choose from: 1024,512,1024-256.")] = None,
    dropout_rates: Annotated[str | None, typer.Option(help="Dropout rates to choose from: 0.2,0.4.")] = None,
    select: Annotated[str | None, typer.Option(help="Numbers of features to choose from: none,512.")] = None,
    select_by: Annotated[
        str | None, typer.Option(help=f"Ways to select them, to choose from: {options.selectors()}.")
    ] = None,
    kernels: Annotated[str | None, typer.Option("--kernel", help="Kernels of --variant svm: linear,rbf.")] = None,
    resume: Annotated[
        str | None, typer.Option(metavar="RUN", help="Go on with an interrupted run; latest will do.")
    ] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Default 0.01.")] = None,
    warmup_epochs: Annotated[float | None, typer.Option(help="Default: 2 for head, 1 otherwise.")] = None,
    patience: Annotated[
        int | None, typer.Option(min=1, help="Epochs without gain before stopping (default 10 or 5).")
    ] = None,
    label_smoothing: Annotated[float | None, typer.Option(help="Default 0.05.")] = None,
    class_weights: Annotated[bool, typer.Option(help="Give every class the same say.")] = True,
    accumulate: Annotated[int, typer.Option(min=1, help="Batches a step (fine-tuning).")] = 1,
    clip_norm: Annotated[float | None, typer.Option(help="Longest gradient (default 1).")] = None,
    views: Annotated[
        int, typer.Option(min=1, help="Views of each training image for --tune head, the plain one included.")
    ] = 4,
    augment: Annotated[bool, typer.Option(help="Turn, flip, scale, stain and blur training views.")] = True,
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"],
        typer.Option(help="Of fine-tuning; auto is bf16 on a GPU that has it, or where a trial here gains by it."),
    ] = "auto",
    fit: Annotated[
        Literal["squash", "crop", "pad"],
        typer.Option(help="How an image becomes a square: whole, its centre, or padded."),
    ] = "squash",
    input_size: Annotated[
        int | None, typer.Option(min=1, help="Side of the square, px (default: the backbone's).")
    ] = None,
    mask_marks: Annotated[bool, typer.Option("--mask-marks", help=options.MASK_MARKS)] = False,
    background: Annotated[Literal["auto", "keep", "mask"], typer.Option(help=options.BACKGROUND)] = "auto",
    stain_norm: Annotated[Literal["none", "macenko", "reinhard"], typer.Option(help=options.STAIN_NORM)] = "none",
    resolution: Annotated[float | None, typer.Option(metavar="PX", help=options.RESOLUTION)] = None,
    tiles: Annotated[int, typer.Option(help=options.TILES)] = 1,
    decode: Annotated[Literal["full", "scaled"], typer.Option(help=options.DECODE)] = "full",
    stain_jitter: Annotated[float | None, typer.Option(help=options.STAIN_JITTER)] = None,
    max_megapixels: Annotated[float, typer.Option(help="Refuse larger images.")] = 200.0,
    checkpoint_every: Annotated[float, typer.Option(help="Seconds between checkpoints of fine-tuning.")] = 300.0,
    false_alarm: Annotated[float, typer.Option(help="Share of familiar images that may be called novel.")] = 0.05,
    risk: Annotated[float, typer.Option(help="Share of wrong answers, among those given, that is aimed at.")] = 0.05,
    alpha: Annotated[float, typer.Option(help="Share of label sets that may lack the true class.")] = 0.1,
    least_cells: Annotated[
        int, typer.Option(min=1, help="Of a run on cells: photographs with fewer white cells get no answer.")
    ] = 3,
) -> None:
    """Train a classifier from the manifest and keep it as a run."""
    options.check_names(backbone, variant)
    remedies = options.remedies(
        mask_marks=mask_marks, stain_norm=stain_norm, resolution=resolution, tiles=tiles, decode=decode
    )
    if name is not None:
        check_run_name(name)
    options_of_variant: dict[str, Any] = {
        "feature_sizes": options.listed(feature_sizes, "--feature-sizes", options.stack),
        "dropout_rates": options.listed(dropout_rates, "--dropout-rates", float),
        "selected": options.listed(select, "--select", options.count_or_none),
        "selectors": options.listed(select_by, "--select-by", options.selector),
        "kernels": options.listed(kernels, "--kernel", options.kernel),
        "fold": options.folds(fold),
    }
    if resume is not None:
        allowed = ("resume", "workspace", "device", "workers", "as_json", "quiet", "verbose", "debug", "config")
        clash = options.explicit(ctx, allowed)
        if clash:
            raise UsageError(
                f"{', '.join(clash)} cannot be set with --resume",
                "A resumed run keeps the settings it was started with",
            )
    workspace, manifest = _opened(shared)
    if resume is not None:
        find_run(workspace, resume, manifest=None, finished=False)
    from leukemia_cli.learning.recipes import TrainSettings
    from leukemia_cli.steps import train as steps

    track, note = shared.console.track, shared.console.note
    if resume is not None:
        done = steps.resume(
            workspace, manifest, resume,
            device=None if shared.device == "auto" else shared.device, workers=shared.workers,
            track=track, note=note,
        )  # fmt: skip
    else:
        settings = TrainSettings(
            backbone=backbone, variant=variant, name=name, tune=tune, weights=weights, epochs=epochs,
            batch_size=batch_size, lr=lr, weight_decay=weight_decay, warmup_epochs=warmup_epochs, patience=patience,
            label_smoothing=label_smoothing, class_weights=class_weights, accumulate=accumulate, clip_norm=clip_norm,
            views=views, augment=augment, precision=precision, fit=fit, input_size_px=input_size,
            remedies=remedies, background=background, stain_jitter=stain_jitter,
            max_megapixels=max_megapixels, checkpoint_every_s=checkpoint_every, device=shared.device,
            workers=shared.workers, seed=shared.seed, false_alarm=false_alarm, risk=risk, alpha=alpha,
            least_cells=least_cells, **options_of_variant,
        )  # fmt: skip
        done = steps.train(workspace, manifest, settings, command=tuple(sys.argv), track=track, note=note)
    if not _follows():
        _report_run(shared, done.as_json())


def _report_run(shared: Shared, facts: dict[str, Any]) -> None:
    if shared.console.as_json:
        shared.console.document(facts)
        return
    rows = [
        [key, _shown(facts[key])] for key in ("task", "backbone", "variant", "weights", "tune", "choice", "best_epoch")
    ]
    validation = facts["validation"]
    rows += [[f"validation {key}", _shown(validation[key])] for key in ("balanced_accuracy", "macro_f1", "auroc")]
    rows += [["validated on", _shown(facts["validated_on"])], ["seconds", _shown(facts["seconds"])]]
    shared.console.table(f"run {facts['run']}", ["", ""], rows)
    shared.console.out(f"run: {facts['folder']}")
    shared.console.note(f"next: leuk evaluate {facts['run']}" + _same_workspace(shared))


@app.command(
    "extract-features", epilog="Example: leuk extract-features --backbone senet --output features.csv --format csv"
)
@with_shared
def extract_features(
    ctx: typer.Context,
    shared: Shared,
    run_wanted: Annotated[
        str | None, typer.Option("--run", metavar="RUN", help="Use the backbone of this run.")
    ] = None,
    backbone: Annotated[str | None, typer.Option(help=f"Use a pretrained backbone: {options.backbones()}.")] = None,
    weights: Annotated[str, typer.Option(help="auto, none, or a file; with --backbone.")] = "auto",
    split: Annotated[Literal["all", "train", "val", "calib", "test"], typer.Option(help="Which images.")] = "all",
    form: Annotated[
        Literal["safetensors", "npz", "csv", "parquet"], typer.Option("--format", help="Of --output.")
    ] = "safetensors",
    output: Annotated[Path | None, typer.Option(help="Write the features to this file as well.")] = None,
    fit: Annotated[Literal["squash", "crop", "pad"], typer.Option(help="With --backbone, as in train.")] = "squash",
    input_size: Annotated[int | None, typer.Option(min=1, help="With --backbone, as in train.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images through the backbone at once.")] = 16,
    mask_marks: Annotated[bool, typer.Option("--mask-marks", help="With --backbone, as in train.")] = False,
    background: Annotated[Literal["auto", "keep", "mask"], typer.Option(help="With --backbone, as in train.")] = "auto",
    stain_norm: Annotated[
        Literal["none", "macenko", "reinhard"], typer.Option(help="With --backbone, as in train.")
    ] = "none",
    resolution: Annotated[float | None, typer.Option(metavar="PX", help="With --backbone, as in train.")] = None,
    tiles: Annotated[int, typer.Option(help="With --backbone, as in train.")] = 1,
    decode: Annotated[Literal["full", "scaled"], typer.Option(help="With --backbone, as in train.")] = "full",
    max_megapixels: Annotated[float, typer.Option(help="Refuse larger images.")] = 200.0,
) -> None:
    """Keep the feature vector of every image, for your own analyses or for fit-svm."""
    if backbone is not None and run_wanted is not None:
        raise UsageError("--run and --backbone exclude each other", "Name one of them")
    options.need_backbone(ctx, backbone)
    remedies = options.remedies(
        mask_marks=mask_marks, stain_norm=stain_norm, resolution=resolution, tiles=tiles, decode=decode
    )
    if backbone is not None:
        options.check_names(backbone, None)
    if output is None and "--format" in options.explicit(ctx, ()):
        raise UsageError(f"--format {form} without --output", "Name a file for it, for example --output features.csv")
    workspace, manifest = _opened(shared)
    found = None if backbone is not None else _found(shared, workspace, run_wanted, manifest.fingerprint)
    from leukemia_cli.steps.extract_features import ExtractSettings
    from leukemia_cli.steps.extract_features import extract_features as step

    settings = ExtractSettings(
        backbone=backbone, weights=weights, split=split, format=form, output=output, fit=fit, input_size_px=input_size,
        remedies=remedies, background=background,
        batch_size=batch_size, max_megapixels=max_megapixels, device=shared.device, workers=shared.workers, seed=shared.seed,
    )  # fmt: skip
    done = step(workspace, manifest, found, settings, track=shared.console.track, note=shared.console.note)
    facts = done.as_json()
    if shared.console.as_json:
        shared.console.document(facts)
        return
    shared.console.out(f"{facts['images']} images of {facts['groups']} groups, {facts['width']} features each")
    shared.console.out(f"features: {facts['output'] or facts['folder']}")
    shared.console.note(f"next: leuk fit-svm --features {facts['features']}" + _same_workspace(shared))


@app.command("fit-svm", epilog="Example: leuk fit-svm --backbone senet --kernel linear,rbf")
@with_shared
def fit_svm(
    ctx: typer.Context,
    shared: Shared,
    features: Annotated[str | None, typer.Option(metavar="ID", help="A set made by extract-features.")] = None,
    run_wanted: Annotated[
        str | None, typer.Option("--run", metavar="RUN", help="Use the backbone of this run.")
    ] = None,
    backbone: Annotated[str | None, typer.Option(help=f"Use a pretrained backbone: {options.backbones()}.")] = None,
    weights: Annotated[str, typer.Option(help="auto, none, or a file; with --backbone.")] = "auto",
    name: Annotated[str | None, typer.Option(help="A name for the run.")] = None,
    kernels: Annotated[
        str | None, typer.Option("--kernel", help="Kernels to choose from (default linear,rbf).")
    ] = None,
    select: Annotated[str | None, typer.Option(help="Numbers of features to choose from (default none).")] = None,
    select_by: Annotated[str | None, typer.Option(help=f"Ways to select them: {options.selectors()}.")] = None,
    views: Annotated[int, typer.Option(min=1, help="Views of each training image; a kept set has one.")] = 4,
    fit: Annotated[Literal["squash", "crop", "pad"], typer.Option(help="With --backbone, as in train.")] = "squash",
    input_size: Annotated[int | None, typer.Option(min=1, help="With --backbone, as in train.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images through the backbone at once.")] = 16,
    mask_marks: Annotated[bool, typer.Option("--mask-marks", help="With --backbone, as in train.")] = False,
    background: Annotated[Literal["auto", "keep", "mask"], typer.Option(help="With --backbone, as in train.")] = "auto",
    stain_norm: Annotated[
        Literal["none", "macenko", "reinhard"], typer.Option(help="With --backbone, as in train.")
    ] = "none",
    resolution: Annotated[float | None, typer.Option(metavar="PX", help="With --backbone, as in train.")] = None,
    tiles: Annotated[int, typer.Option(help="With --backbone, as in train.")] = 1,
    decode: Annotated[Literal["full", "scaled"], typer.Option(help="With --backbone, as in train.")] = "full",
    stain_jitter: Annotated[float | None, typer.Option(help=options.STAIN_JITTER)] = None,
    max_megapixels: Annotated[float, typer.Option(help="Refuse larger images.")] = 200.0,
    false_alarm: Annotated[float, typer.Option(help="As in train.")] = 0.05,
    risk: Annotated[float, typer.Option(help="As in train.")] = 0.05,
    alpha: Annotated[float, typer.Option(help="As in train.")] = 0.1,
    least_cells: Annotated[int, typer.Option(min=1, help="As in train.")] = 3,
) -> None:
    """Fit a support vector machine on features; the result is a run like any other."""
    if sum(given is not None for given in (features, run_wanted, backbone)) > 1:
        raise UsageError("--features, --run and --backbone exclude each other", "Name one of them")
    options.need_backbone(ctx, backbone)
    remedies = options.remedies(
        mask_marks=mask_marks, stain_norm=stain_norm, resolution=resolution, tiles=tiles, decode=decode
    )
    if backbone is not None:
        options.check_names(backbone, None)
    if name is not None:
        check_run_name(name)
    chosen: dict[str, Any] = {
        "kernels": options.listed(kernels, "--kernel", options.kernel),
        "selected": options.listed(select, "--select", options.count_or_none),
        "selectors": options.listed(select_by, "--select-by", options.selector),
    }
    workspace, manifest = _opened(shared)
    found = None
    if features is None and backbone is None:
        found = _found(shared, workspace, run_wanted, manifest.fingerprint)
    from leukemia_cli.steps.fit_svm import FitSvmSettings
    from leukemia_cli.steps.fit_svm import fit_svm as step

    settings = FitSvmSettings(
        features=features, backbone=backbone, weights=weights, name=name, views=views, fit=fit, input_size_px=input_size,
        remedies=remedies, background=background, stain_jitter=stain_jitter,
        batch_size=batch_size, max_megapixels=max_megapixels, device=shared.device, workers=shared.workers,
        seed=shared.seed, false_alarm=false_alarm, risk=risk, alpha=alpha, least_cells=least_cells, **chosen,
    )  # fmt: skip
    done = step(
        workspace, manifest, found, settings,
        command=tuple(sys.argv), track=shared.console.track, note=shared.console.note,
    )  # fmt: skip
    _report_run(shared, done.as_json())


@app.command(epilog="Example: leuk evaluate best --min balanced_accuracy.low=0.9")
@with_shared
def evaluate(
    shared: Shared,
    run_wanted: Annotated[str | None, typer.Argument(metavar="[RUN]", help="A run (default: best).")] = None,
    split: Annotated[Literal["test", "val"], typer.Option(help="Which part to judge on.")] = "test",
    external: Annotated[
        str | None, typer.Option(metavar="NAME=SOURCE", help="Judge on images from elsewhere instead.")
    ] = None,
    layout: Annotated[str, typer.Option(help="Of --external, as in prepare.")] = "auto",
    labels: Annotated[Path | None, typer.Option(help="Of --external, as in prepare.")] = None,
    label_column: Annotated[str | None, typer.Option(help="Of --external, as in prepare.")] = None,
    group_by: Annotated[str, typer.Option(help="Of --external, as in prepare.")] = "auto",
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Of --external, as in prepare.")] = False,
    minima: Annotated[
        list[str] | None,
        typer.Option(
            "--min", metavar="METRIC[.low|.high]=VALUE", help="Exit with 6 where the figure is lower; repeatable."
        ),
    ] = None,
    maxima: Annotated[
        list[str] | None,
        typer.Option("--max", metavar="METRIC[.low|.high]=VALUE", help="The same for errors: ece, brier, log_loss."),
    ] = None,
    pictures: Annotated[bool, typer.Option("--images/--no-images", help="Show images in report.html.")] = True,
    heatmaps: Annotated[int, typer.Option(min=0, help="Draw so many heat-maps into the report.")] = 0,
    resamples: Annotated[int, typer.Option(min=1, help="Of the bootstrap behind the intervals.")] = 2000,
    batch_size: Annotated[int, typer.Option(min=1, help="Images through the backbone at once.")] = 16,
    max_megapixels: Annotated[float, typer.Option(help="Refuse larger images.")] = 200.0,
) -> None:
    """Judge a run on images that it has not seen, with an interval on every number."""
    bars = _bars(minima or (), maxima or ()) if minima or maxima else []
    workspace, manifest = _opened(shared) if external is None else _opened_for_external(shared)
    found = _found(shared, workspace, run_wanted, None if manifest is None else manifest.fingerprint)
    from leukemia_cli.steps import evaluate as steps

    settings = steps.EvaluateSettings(
        split=split, external=external, layout=layout, labels=None if labels is None else str(labels),
        label_column=label_column, group_by=group_by, skip_bad=skip_bad, bars=tuple(bars), pictures=pictures,
        heatmaps=heatmaps, resamples=resamples, batch_size=batch_size, max_megapixels=max_megapixels,
        device=shared.device, workers=shared.workers, seed=shared.seed,
    )  # fmt: skip
    done = steps.evaluate(workspace, manifest, found, settings, track=shared.console.track, note=shared.console.note)
    report = done.as_json()
    if shared.console.as_json:
        shared.console.document(report)
    else:
        _show_report(shared, report)
        shared.console.out(f"report: {done.folder / 'report.html'}")
    if done.missed:
        raise steps.some_missed(done.missed)


def _bars(minima: Sequence[str], maxima: Sequence[str]) -> list[Bar]:
    from leukemia_cli.judging.bars import Bar

    return [Bar.read(text, "--min") for text in minima] + [Bar.read(text, "--max") for text in maxima]


def _opened_for_external(shared: Shared) -> tuple[Workspace, Manifest | None]:
    """Open the workspace; images from elsewhere need no manifest in it."""
    workspace = open_workspace(shared.workspace, create=False)
    if not (workspace.manifest_folder / "manifest.json").exists():
        return workspace, None
    return _opened(shared)


def _show_report(shared: Shared, report: dict[str, Any]) -> None:
    for line in report["warnings"]:
        shared.console.note(f"warning: {line}")
    metrics = report["metrics"]
    methods = list(dict.fromkeys(m["method"] for m in metrics.values()))
    rows = [
        [
            name,
            _shown(m["value"]),
            _shown(m["low"]),
            _shown(m["high"]),
            str(m["n"]),
            str(m["groups"]) if report["groups_source"] != "none" else "unknown",
            f"({methods.index(m['method']) + 1})",
        ]
        for name, m in metrics.items()
    ]
    pooled = f", {report['folds']} folds pooled" if report["folds"] else ""
    where = f"external {report['external']}" if report["external"] else report["split"]
    headers = ["metric", "value", "low", "high", "images", "groups", "how"]
    shared.console.table(f"run {report['run']} on {where}{pooled}", headers, rows)
    for number, method in enumerate(methods, start=1):
        shared.console.out(f"({number}) {method}")
    drop, doubt, here = report["drop"], report["abstention"], report["groups_source"] != "none"
    if drop is not None:
        known = drop["internal_groups_source"] != "none"
        shared.console.out(
            f"{drop['metric']} over {', '.join(drop['classes'])}: {_with_ends(drop['external'], here)} here, "
            f"{_with_ends(drop['internal'], known)} on the run's own test images, "
            f"difference {_with_ends(drop['difference'], known and here)}"
        )
    if doubt["measured"]:
        shared.console.out(
            f"with abstention: {doubt['answered']} answered, {doubt['novel']} novel, {doubt['uncertain']} uncertain; "
            f"accuracy of the answers {_with_ends(doubt['accuracy_answered'], here)}"
        )


def _with_ends(figure: dict[str, Any], groups_known: bool) -> str:
    groups = figure["groups"] if groups_known else "unknown"
    ends = "no interval" if figure["low"] is None else f"{figure['low']:.3f} to {figure['high']:.3f}"
    return f"{_shown(figure['value'])} ({ends}; {figure['n']} images, {groups} groups)"


@app.command(epilog="Example: leuk report best --no-images")
@with_shared
def report(
    shared: Shared,
    run_wanted: Annotated[str | None, typer.Argument(metavar="[RUN]", help="A run (default: best).")] = None,
    name: Annotated[
        str | None, typer.Option("--of", help="test, val or external-NAME (default: every report of the run).")
    ] = None,
    pictures: Annotated[
        bool | None, typer.Option("--images/--no-images", help="Show images (default: as the evaluation did).")
    ] = None,
    max_megapixels: Annotated[float, typer.Option(help="Show no larger images.")] = 200.0,
) -> None:
    """Make the pages of a run's reports again from what is stored, with or without images; nothing is computed."""
    workspace = open_workspace(shared.workspace, create=False)
    manifest = _manifest_fingerprint(workspace)
    found = _found(shared, workspace, run_wanted, manifest)
    from leukemia_cli.steps.report import report as step

    done = step(workspace, found, name, pictures=pictures, max_megapixels=max_megapixels, note=shared.console.note)
    if shared.console.as_json:
        shared.console.document({"run": found.id, "pages": [str(page) for page in done]})
        return
    for page in done:
        shared.console.out(f"report: {page}")


@app.command(
    epilog="Example: leuk compare --backbones senet,resnext,inception --variants base,svm,hidden,dropout --repeats 3"
)
@with_shared
def compare(
    shared: Shared,
    backbones: Annotated[
        str, typer.Option(help=f"With commas between them: {options.backbones()}.")
    ] = "inception,resnext,senet",
    variants: Annotated[str, typer.Option(help=f"With commas between them. {options.variants()}.")] = ",".join(
        VARIANTS
    ),
    protocol: Annotated[
        Literal["grouped", "paper"],
        typer.Option(help="paper: also split augmented copies at random, and show how much that flatters."),
    ] = "grouped",
    copies: Annotated[int, typer.Option(min=1, help="Augmented copies of each image (--protocol paper).")] = 5,
    repeats: Annotated[int, typer.Option(min=1, help="Partitions into folds, the manifest's own first.")] = 3,
    grid: Annotated[
        Literal["quick", "full"], typer.Option(help="Which candidates to choose from; full is what train takes.")
    ] = "quick",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would run and about how long; do nothing.")
    ] = False,
    tune: Annotated[
        Literal["head", "last-stage", "all"], typer.Option(help="How much is trained; head uses cached features.")
    ] = "head",
    weights: Annotated[
        str, typer.Option(help="auto (pretrained), none (random), or a file; for every backbone.")
    ] = "auto",
    epochs: Annotated[int | None, typer.Option(min=1, help="Most epochs, as in train.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images a step, as in train.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate, as in train.")] = None,
    feature_sizes: Annotated[str | None, typer.Option(help="Hidden widths to choose from: 1024,512,1024-256.")] = None,
    dropout_rates: Annotated[str | None, typer.Option(help="Dropout rates to choose from: 0.2,0.4.")] = None,
    select: Annotated[str | None, typer.Option(help="Numbers of features to choose from: none,512.")] = None,
    select_by: Annotated[str | None, typer.Option(help=f"Ways to select features: {options.selectors()}.")] = None,
    kernels: Annotated[str | None, typer.Option("--kernel", help="Kernels of the SVM: linear,rbf.")] = None,
    views: Annotated[int, typer.Option(min=1, help="Views of each training image, the plain one included.")] = 4,
    fit: Annotated[Literal["squash", "crop", "pad"], typer.Option(help="As in train.")] = "squash",
    input_size: Annotated[int | None, typer.Option(min=1, help="As in train.")] = None,
    resamples: Annotated[int, typer.Option(min=1, help="Of the bootstrap behind the intervals.")] = 2000,
    mask_marks: Annotated[bool, typer.Option("--mask-marks", help="As in train.")] = False,
    background: Annotated[Literal["auto", "keep", "mask"], typer.Option(help="As in train.")] = "auto",
    stain_norm: Annotated[Literal["none", "macenko", "reinhard"], typer.Option(help="As in train.")] = "none",
    resolution: Annotated[float | None, typer.Option(metavar="PX", help="As in train.")] = None,
    tiles: Annotated[int, typer.Option(help="As in train.")] = 1,
    decode: Annotated[Literal["full", "scaled"], typer.Option(help="As in train.")] = "full",
    stain_jitter: Annotated[float | None, typer.Option(help=options.STAIN_JITTER)] = None,
    max_megapixels: Annotated[float, typer.Option(help="Refuse larger images.")] = 200.0,
) -> None:
    """Run the paper's table: backbones × variants over the manifest's grouped folds, every choice inside training."""
    remedies = options.remedies(
        mask_marks=mask_marks, stain_norm=stain_norm, resolution=resolution, tiles=tiles, decode=decode
    )
    listed = options.listed(backbones, "--backbones", str) or ()
    wanted = options.listed(variants, "--variants", str) or ()
    for backbone in listed:
        options.check_names(backbone, None)
    for variant in wanted:
        find_variant(variant)
    chosen: dict[str, Any] = {
        "feature_sizes": options.listed(feature_sizes, "--feature-sizes", options.stack),
        "dropout_rates": options.listed(dropout_rates, "--dropout-rates", float),
        "selected": options.listed(select, "--select", options.count_or_none),
        "selectors": options.listed(select_by, "--select-by", options.selector),
        "kernels": options.listed(kernels, "--kernel", options.kernel),
    }
    workspace, manifest = _opened(shared)
    from leukemia_cli.learning.recipes import TrainSettings
    from leukemia_cli.steps import compare as steps

    settings = steps.CompareSettings(
        backbones=listed, variants=wanted, protocol=protocol, copies=copies, repeats=repeats, resamples=resamples,
        training=TrainSettings(
            grid=grid, tune=tune, weights=weights, epochs=epochs, batch_size=batch_size, lr=lr, views=views, fit=fit,
            input_size_px=input_size, remedies=remedies, background=background, stain_jitter=stain_jitter,
            max_megapixels=max_megapixels, device=shared.device, workers=shared.workers,
            seed=shared.seed, **chosen,
        ),
    )  # fmt: skip
    if dry_run:
        _show_plan(shared, steps.plan_comparison(workspace, manifest, settings, note=shared.console.note).as_json())
        return
    done = steps.compare(
        workspace, manifest, settings, command=tuple(sys.argv), track=shared.console.track, note=shared.console.note
    )
    document = done.as_json()
    if shared.console.as_json:
        shared.console.document(document)
        return
    from leukemia_cli.reporting.comparison_text import comparison_notes, comparison_rows
    from leukemia_cli.reporting.comparison_words import comparison_finding, comparison_warnings

    for line in comparison_warnings(done.document):
        shared.console.note(f"warning: {line}")

    headers, rows = comparison_rows(done.document)
    shared.console.table(done.document["protocol_title"], headers, rows)
    for line in (*comparison_notes(done.document), comparison_finding(done.document)):
        shared.console.out(line)
    shared.console.out(f"comparison: {done.folder / 'compare.html'}")


def _show_plan(shared: Shared, plan: dict[str, Any]) -> None:
    if shared.console.as_json:
        shared.console.document(plan)
        return
    keys = ["backbone", "variant", "protocol", "candidates", "cells", "finished"]
    headers = [key.replace("cells", "models") for key in keys]
    shared.console.table(
        f"{plan['cells']} models to train, {plan['finished']} finished; nothing was run",
        headers,
        [[str(row[key]) for key in keys] for row in plan["rows"]],
    )
    parts = ["backbone", "views", "features_s", "fits_s", "tuning_s"]
    rows = [[f"{e[key]:.0f}" if key.endswith("_s") else str(e[key]) for key in parts] for e in plan["estimates"]]
    shared.console.table("still to do, estimated from a short measurement", parts, rows)
    shared.console.out(f"about {plan['seconds']:.0f} s")


@app.command(epilog="Example: leuk classify slide.png   or: find smears -name '*.png' | leuk classify - --format csv")
@with_shared
def classify(
    shared: Shared,
    inputs: Annotated[
        list[str], typer.Argument(metavar="INPUT...", help="Files, folders, globs, @FILE with a list, or - for stdin.")
    ],
    run_wanted: Annotated[
        str | None, typer.Option("--run", metavar="RUN", help="A run (default: best), or an exported FILE.leuk.")
    ] = None,
    form: Annotated[
        Literal["table", "csv", "jsonl", "json", "parquet"] | None,
        typer.Option("--format", help="Default: table on a terminal, csv elsewhere. Parquet needs --output."),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|FOLDER/", help="Write to this instead of stdout; with a / at its end, Parquet in parts."
        ),
    ] = None,
    rows_per_part: options.RowsPerPart = None,
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N|slurm", help="Only every N-th input from the I-th; slurm: of this array's task."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted --output of csv, jsonl or parquet.")
    ] = False,
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="ray[://ADDRESS]", help="Classify on a Ray cluster; --workers is then the cores of each process."
        ),
    ] = None,
    abstain: Annotated[
        bool, typer.Option(help="Say novel or uncertain rather than a label; the best guess is always given.")
    ] = True,
    heatmaps: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Draw where each image speaks for its label into this folder.")
    ] = None,
    details: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Of a run on cells: overview, gallery, CSV and GeoJSON of each image's cells."
        ),
    ] = None,
    input_unit: Annotated[
        Literal["auto", "field", "cell"] | None,
        typer.Option(help="Of a run on cells: what an image shows (default: as its data were prepared); auto tells."),
    ] = None,
    engine: Annotated[
        Literal["torch", "openvino", "onnx", "auto"] | None,
        typer.Option(
            help="What computes (default: torch, or an exported file's own). auto: the fastest that verified."
        ),
    ] = None,
    precision: Annotated[
        Literal["fp32", "bf16", "fp16", "auto"] | None,
        typer.Option(help="Of the network (default: fp32). Others only where leuk export verified them for the run."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images through the network at once.")] = 16,
    max_megapixels: Annotated[
        float, typer.Option(help="Larger images become error rows; a run on cells reads them in tiles.")
    ] = 200.0,
) -> None:
    """Classify images: one row for each, in order; a broken one is an error row and the rest go on."""
    console = shared.console
    if console.as_json and form not in (None, "json") and output is None:
        raise UsageError(f"--json and --format {form} exclude each other", "Name one of them, or add --output FILE")
    from leukemia_cli.reporting.outputs import read_output

    place, rows_per_part = (None, rows_per_part) if output is None else read_output(output, rows_per_part)
    if form is None and rows_per_part is not None:
        form = "parquet"
    if form is None:
        form = "json" if console.as_json else "table" if sys.stdout.isatty() and output is None else "csv"
    part = None if shard is None else read_shard(shard, os.environ)
    found = _classifying_run(shared, run_wanted)
    from leukemia_cli.learning.cluster import Spread
    from leukemia_cli.steps import classify as steps

    def out(text: str, end: str) -> None:
        console.documents += form == "json"  # begun: an error on the way is not to become a second document
        console.out(text, end)

    settings = steps.ClassifySettings(
        abstain=abstain, heatmaps=heatmaps, details=details, input_unit=input_unit, batch_size=batch_size,
        max_megapixels=max_megapixels, device=shared.device, workers=shared.workers, engine=engine, precision=precision,
    )  # fmt: skip
    failed, total = steps.write_findings(
        found,
        inputs,
        settings,
        steps.Delivery(
            form=form,
            output=place,
            rows_per_part=rows_per_part,
            shard=part,
            resume=resume,
            cluster=None
            if cluster is None
            else Spread(address=cluster, cores_each=shared.workers or 1, gpu=shared.device.startswith("cuda")),
        ),
        stdin=getattr(sys.stdin, "buffer", ()),
        out=out,
        table=console.table,
        track=console.track,
        note=console.note,
    )
    if place is not None and console.as_json:
        console.document({"output": str(place), "inputs": total, "errors": failed})
    if failed:
        raise steps.some_failed(failed, total)


def _classifying_run(shared: Shared, wanted: str | None) -> RunFolder:
    """Find the run; a path needs no workspace, and `best` prefers the manifest that lies in it."""
    if wanted is not None and is_export(Path(wanted)):
        from leukemia_cli.learning.exported import read_exported_run

        return read_exported_run(Path(wanted))
    at_path = None if wanted is None else run_at(wanted)
    if at_path is not None:
        return at_path
    workspace = open_workspace(shared.workspace, create=False)
    manifest = _manifest_fingerprint(workspace) if wanted in (None, "best") else None
    return _found(shared, workspace, wanted, manifest)


def _manifest_fingerprint(workspace: Workspace) -> str | None:
    """Read the fingerprint of the manifest, None where there is none."""
    facts = workspace.manifest_folder / "manifest.json"
    return read_json(facts, "manifest").get("fingerprint") if facts.exists() else None


@app.command(epilog="Example: leuk merge findings-*.csv --output findings.csv")
@with_shared
def merge(
    shared: Shared,
    parts: Annotated[
        list[str], typer.Argument(metavar="PART...", help="Outputs of classify --shard, folders of them, or globs.")
    ],
    output: Annotated[
        str, typer.Option(metavar="FILE|FOLDER/", help="Write to this; with a / at its end, Parquet in parts.")
    ],
    form: Annotated[
        Literal["csv", "jsonl", "parquet"] | None,
        typer.Option("--format", help="Default: by the ending of the output, or as the parts are."),
    ] = None,
    rows_per_part: options.RowsPerPart = None,
) -> None:
    """Put the outputs of all shards together, in the order of the inputs, after checking that they belong together."""
    from leukemia_cli.reporting.outputs import read_output
    from leukemia_cli.steps.merge import merge as step

    place, rows_per_part = read_output(output, rows_per_part)
    done = step(parts, place, form, rows_per_part, track=shared.console.track, note=shared.console.note)
    facts = done.as_json()
    if shared.console.as_json:
        shared.console.document(facts)
        return
    of = f"{counted(facts['rows'], 'row')} of {counted(facts['parts'], 'part')}"
    shared.console.out(f"{facts['output']}: {of}, {counted(facts['errors'], 'error row')}")


@app.command(epilog="Example: leuk export best --format openvino   then: leuk classify smears --engine auto")
@with_shared
def export(
    shared: Shared,
    run_wanted: Annotated[str | None, typer.Argument(metavar="[RUN]", help="A run (default: best).")] = None,
    form: Annotated[
        Literal["openvino", "onnx"], typer.Option("--format", help="The engine that will run it.")
    ] = "openvino",
    output: Annotated[
        Path | None, typer.Option(help="Write to this FILE.leuk (default: exports/ in the run's folder).")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images through the network at once.")] = 16,
    max_megapixels: Annotated[float, typer.Option(help="Refuse larger images.")] = 200.0,
) -> None:
    """Write a run as one file for a faster engine, and compare that with torch on the run's own images."""
    console = shared.console
    found = _classifying_run(shared, run_wanted)
    from leukemia_cli.steps import export as steps

    settings = steps.ExportSettings(
        format=form, output=output, batch_size=batch_size, max_megapixels=max_megapixels, device=shared.device,
        workers=shared.workers,
    )  # fmt: skip
    done = steps.export(found, settings, track=console.track, note=console.note)
    if console.as_json:
        console.document(done.as_json())
        return
    headers = ["engine", "precision", "labels", "decisions", "largest score difference", "images/s", "verified"]
    rows = [
        [
            r.engine, r.precision, f"{r.labels_equal} of {r.views + r.photographs}",
            f"{r.decisions_equal} of {r.views + r.photographs}", f"{r.score_difference:.1e}", f"{r.images_per_s:.1f}",
            "yes" if r.refused is None else f"no: {r.refused}",
        ]
        for r in done.verified
    ]  # fmt: skip
    first = done.verified[0]
    console.table(f"compared with torch fp32 on {first.views} views of {first.images} images", headers, rows)
    console.out(f"exported: {done.file}")
    console.note(f"next: leuk classify IMAGES --run {shlex.quote(str(done.file))}")


@app.command(epilog="Example: leuk cells smears --output cells.csv --overlays overlays")
@with_shared
def cells(
    shared: Shared,
    inputs: Annotated[
        list[str], typer.Argument(metavar="INPUT...", help="Files, folders, globs, @FILE with a list, or - for stdin.")
    ],
    form: Annotated[
        Literal["csv", "jsonl", "geojson"] | None,
        typer.Option("--format", help="Default: csv. GeoJSON, which QuPath opens, takes one image."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write to this file instead of stdout.")] = None,
    crops: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Cut each cell, all at one scale, into this folder.")
    ] = None,
    overlays: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Draw the outlines and numbers of cells into this folder.")
    ] = None,
    input_unit: Annotated[
        Literal["auto", "field", "cell"], typer.Option(help="Whether an image is a field or the crop of one cell.")
    ] = "auto",
    max_megapixels: Annotated[float, typer.Option(help="Larger images are read in tiles.")] = 200.0,
) -> None:
    """Find the white cells of images: one row for each, in order. It needs no run, and calls no cell anything."""
    console = shared.console
    if console.as_json and form is not None and output is None:
        raise UsageError(f"--json and --format {form} exclude each other", "Name one of them, or add --output FILE")
    from leukemia_cli.learning.machine import granted_cores
    from leukemia_cli.steps import cells as steps

    in_document = console.as_json and output is None

    def out(text: str, end: str) -> None:
        console.documents += in_document  # begun: an error on the way is not to become a second document
        console.out(text, end)

    written = steps.write_cells(
        inputs,
        steps.CellSettings(
            input_unit=input_unit, crops=crops, overlays=overlays, max_megapixels=max_megapixels,
            workers=shared.workers or granted_cores(),
        ),
        form="json" if in_document else form or "csv",
        output=output,
        keep_errors=console.as_json,
        stdin=getattr(sys.stdin, "buffer", ()),
        out=out,
        track=console.track,
        note=console.note,
    )  # fmt: skip
    if output is not None and console.as_json:
        console.document(
            {"output": str(output), "images": written.images, "cells": written.cells, "errors": list(written.errors)}
        )
    if written.failed:
        raise steps.some_failed(written)


@app.command(epilog="Example: leuk runs --workspace leuk-workspace")
@with_shared
def runs(shared: Shared) -> None:
    """List the runs of the workspace."""
    workspace = open_workspace(shared.workspace, create=False)
    from leukemia_cli.steps.runs import runs as step

    listed = step(workspace)
    if shared.console.as_json:
        shared.console.document(listed.as_json())
        return
    headers = ["run", "state", "backbone", "variant", "tune", "validation", "reports"]
    rows = [
        [
            row["run"] + ("" if row["from_current_manifest"] else " (other manifest)"),
            row["state"],
            _shown(row["backbone"]),
            _shown(row["variant"]),
            _shown(row["tune"]),
            _shown(row["validation_balanced_accuracy"]),
            ", ".join(row["reports"]) or "–",
        ]
        for row in listed.runs
    ]
    shared.console.table(f"runs in {workspace.root} (validation: balanced accuracy)", headers, rows)
    for damaged in listed.damaged:
        shared.console.note(f"warning: {damaged['path']}: {damaged['reason']}")


@app.command(epilog="Example: leuk weights fetch senet   or: leuk weights check senet --weights model.safetensors")
@with_shared
def weights(
    shared: Shared,
    action: Annotated[Literal["list", "fetch", "check"], typer.Argument(help="Look, fetch, or load and hash.")],
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[BACKBONE]...", help="Backbones (default: all; fetch needs names).")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--weights", metavar="FILE", help="check: this file, for the one backbone named.")
    ] = None,
) -> None:
    """List, fetch or check pretrained weights. Only fetch speaks to the network."""
    from leukemia_cli.steps import weights as steps

    console = shared.console
    if file is not None and action != "check":
        raise UsageError(f"leuk weights {action} takes no --weights", "leuk weights check BACKBONE --weights FILE")
    if action == "check":
        checked = steps.check(names or (), file, console.note)
        if console.as_json:
            console.document([each.as_json() for each in checked])
        else:
            rows = [
                [each.backbone, each.source or (each.error.problem if each.error else ""), each.sha256 or "–"]
                for each in checked
            ]
            console.table("weights that load", ["backbone", "source", "SHA-256"], rows)
        failed = [each.error for each in checked if each.error is not None]
        if failed:
            raise failed[0]
        return
    places = steps.fetch(names or (), console.note) if action == "fetch" else steps.list_weights(names or ())
    if console.as_json:
        console.document([place.as_json() for place in places])
        return
    rows = [[p.backbone.name, p.backbone.timm_name, p.backbone.licence, p.says] for p in places]
    console.table("pretrained weights", ["backbone", "timm name", "licence", "where"], rows)


@app.command(epilog="Example: leuk doctor")
@with_shared
def doctor(shared: Shared) -> None:
    """Look at versions, device, cores, weights and the workspace."""
    from leukemia_cli.steps.doctor import doctor as step

    found = step(shared.workspace)
    if shared.console.as_json:
        shared.console.document(found.as_json())
    else:
        shared.console.table("", ["", "what", "found"], [[c.state, c.name, c.says] for c in found.checks])
    if not found.healthy:
        raise typer.Exit(code=found.exit_code)


@app.command("sample-images", epilog="Example: leuk sample-images smears --patients 3")
@with_shared
def sample_images(
    shared: Shared,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to draw into.")],
    patients: Annotated[int, typer.Option(min=1, help="Drawn patients a class.")] = 6,
) -> None:
    """Draw small smears to try leuk on. They are drawings: good for no medical conclusion."""
    from leukemia_cli.steps.sample_images import sample_images as step

    done = step(out, patients=patients, seed=shared.seed, track=shared.console.track)
    facts = done.as_json()
    if shared.console.as_json:
        shared.console.document(facts)
        return
    shared.console.out(f"{facts['images']} drawn fields in {out}, and one larger one: {facts['slide']}")


def _print_version(asked: bool) -> None:
    if asked:
        sys.stdout.write(f"leuk {__version__}\n")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Show the version.")
    ] = False,
) -> None:
    """Classify leukaemia from microscope images of blood smears, and know how far to believe it. Research use only."""
    del version
