"""The flags that commands share, how lists in flags are read, and how a config file stands in for flags."""

from __future__ import annotations

import difflib
import inspect
import os
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from leukemia_cli.catalog import BACKBONES, SELECTOR_NAMES, VARIANTS, find_backbone, find_variant, unknown
from leukemia_cli.cli.console import Console
from leukemia_cli.domain import TILINGS, DecodeSize, Remedies, StainNorm
from leukemia_cli.errors import DataError, UsageError

Parsed = typing.TypeVar("Parsed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What every command takes."""

    workspace: Path
    device: str
    seed: int
    workers: int | None
    console: Console


def _load_config(ctx: typer.Context, file: Path | None) -> Path | None:
    """Let a YAML file's keys stand for flags that are not given; raises UsageError for a key that is no flag."""
    if file is None:
        return None
    from leukemia_cli.data.plain_yaml import MOST_BYTES, read_plain

    try:
        with file.open("rb") as opened:
            stored = read_plain(opened.read(MOST_BYTES + 1))
    except OSError as error:
        raise DataError(f"cannot read config {file}: {error.strerror}", "Check the path after --config") from error
    except ValueError as error:
        raise UsageError(f"config {file} is not YAML: {error}", "Write `flag: value` lines") from error
    stored = {} if stored is None else stored
    if not isinstance(stored, dict):
        raise UsageError(f"config {file} is not a list of `flag: value` lines", "For example: backbone: senet")
    flags = {
        option.removeprefix("--"): (parameter, option in parameter.secondary_opts)
        for parameter in ctx.command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
        if option.startswith("--") and parameter.name not in ("config", "help")
    }
    defaults: dict[str, Any] = {}
    for key, value in stored.items():
        flag = str(key).replace("_", "-")
        if flag not in flags:
            near = difflib.get_close_matches(flag, flags, n=1)
            guess = f"Did you mean {near[0]!r}? " if near else ""
            raise UsageError(
                f"config {file} sets {key!r}, which is no flag of this command",
                f"{guess}Known: {', '.join(sorted(flags))}",
            )
        parameter, negated = flags[flag]
        if getattr(parameter, "is_flag", False):
            if not isinstance(value, bool):
                raise UsageError(f"config {file} sets {key!r} to {value!r}", "It takes true or false")
            defaults[parameter.name or ""] = value is not negated
        else:
            defaults[parameter.name or ""] = _text_of(value, f"config {file} sets {key!r}")
    ctx.default_map = {**(ctx.default_map or {}), **defaults}
    return file


def _text_of(value: object, where: str) -> str:
    """Write a YAML value as it would stand after a flag; raises UsageError for one that could not stand there."""
    if isinstance(value, list):
        return ",".join(_text_of(part, where) for part in value)
    if value is None or isinstance(value, (bool, dict)):
        said = {None: "nothing", True: "true (yes, on)", False: "false (no, off)"}
        shown = "a mapping" if isinstance(value, dict) else said[value]
        raise UsageError(f"{where} to {shown}, which is no value of it", "Write a value, in quotes if need be")
    return str(value)


MOST_SEED = 2**32 - 1  # scikit-learn takes no larger one

_SHARED: dict[str, tuple[Any, Any]] = {
    "workspace": (
        Annotated[
            Path,
            typer.Option("--workspace", "-w", envvar="LEUK_WORKSPACE", help="Folder of manifest, runs and reports."),
        ],
        Path("leuk-workspace"),
    ),
    "device": (Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")], "auto"),
    "seed": (Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Same seed, same result.")], 0),
    "workers": (
        Annotated[int | None, typer.Option(min=1, help="Threads that read images (default: the cores granted).")],
        None,
    ),
    "as_json": (Annotated[bool, typer.Option("--json", help="Print exactly one JSON document.")], False),
    "quiet": (Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no notes.")], False),
    "verbose": (Annotated[bool, typer.Option("--verbose", "-v", help="Warnings of libraries too.")], False),
    "debug": (Annotated[bool, typer.Option(help="Show the traceback of an error.")], False),
    "config": (
        Annotated[
            Path | None,
            typer.Option(
                "--config", is_eager=True, callback=_load_config, help="YAML file of flags; a flag given wins."
            ),
        ],
        None,
    ),
}


def with_shared(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the shared flags; it receives them as one `shared` value beside its own."""
    hints = typing.get_type_hints(command, include_extras=True)
    own = [p for name, p in inspect.signature(command).parameters.items() if name not in ("shared", "ctx")]
    takes_context = "ctx" in hints

    def called(ctx: typer.Context, **flags: Any) -> None:
        if command.__name__ != "train" and "TORCHELASTIC_RUN_ID" in os.environ:
            from leukemia_cli.learning.machine import refuse_several

            refuse_several(f"leuk {ctx.info_name}")
        taken = {name: flags.pop(name) for name in _SHARED}
        console: Console = ctx.obj if isinstance(ctx.obj, Console) else Console()
        console.as_json, console.quiet = taken["as_json"], taken["quiet"]
        console.verbose, console.debug = taken["verbose"], taken["debug"] or console.debug
        shared = Shared(
            workspace=taken["workspace"],
            device=taken["device"],
            seed=taken["seed"],
            workers=taken["workers"],
            console=console,
        )
        command(shared=shared, **({"ctx": ctx} if takes_context else {}), **flags)

    context = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=default)
        for name, (kind, default) in _SHARED.items()
    ]
    mine = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[p.name]) for p in own]
    called.__signature__ = inspect.Signature([context, *mine, *added])  # type: ignore[attr-defined]  # what inspect reads
    called.__annotations__ = {"ctx": typer.Context, **{p.name: p.annotation for p in (*mine, *added)}}
    called.__name__, called.__doc__ = command.__name__, command.__doc__
    return called


# ------------------------------------------------------------------------------------------------------- lists


def listed(text: str | None, flag: str, parse: Callable[[str], Parsed]) -> tuple[Parsed, ...] | None:
    """Read `a,b,c`; None stays None. Raises UsageError naming the part that cannot be read."""
    if text is None:
        return None
    parts = [part.strip() for part in str(text).split(",") if part.strip()]
    if not parts:
        raise UsageError(f"{flag} is empty", "Write values with commas between them")
    read = []
    for part in parts:
        try:
            read.append(parse(part))
        except ValueError as error:
            raise UsageError(f"{flag}: {part!r} cannot be read", "Write numbers with commas between them") from error
    return tuple(dict.fromkeys(read))


def positive_int(text: str) -> int:
    """Read a whole number above 0; raises ValueError."""
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def stack(text: str) -> tuple[int, ...]:
    """Read `1024-256` as hidden widths from first to last; raises ValueError."""
    return tuple(positive_int(part) for part in text.split("-"))


def count_or_none(text: str) -> int | None:
    """Read a count, or `none` for all features; raises ValueError."""
    return None if text.lower() in ("none", "all") else positive_int(text)


def kernel(text: str) -> Literal["linear", "rbf"]:
    """Read a kernel's name; raises UsageError with the known ones."""
    if text == "linear":
        return "linear"
    if text == "rbf":
        return "rbf"
    raise unknown("kernel", text, ("linear", "rbf"))


def selector(text: str) -> str:
    """Read the name of a way to select features; raises UsageError with the nearest one."""
    if text not in SELECTOR_NAMES:
        raise unknown("selector", text, SELECTOR_NAMES)
    return text


def selectors() -> str:
    """List what --select-by takes."""
    return ", ".join(SELECTOR_NAMES)


def backbones() -> str:
    """List what --backbone takes."""
    return f"{', '.join(BACKBONES)}, or timm:NAME"


def variants() -> str:
    """List what --variant takes, with what each is."""
    return "; ".join(f"{v.name}: {v.title}" for v in VARIANTS.values())


def check_names(backbone: str, variant: str | None) -> None:
    """Raise UsageError for a backbone or variant that no table holds, before anything heavy is loaded."""
    find_backbone(backbone)
    if variant is not None:
        find_variant(variant)


RowsPerPart = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Make --output a folder of parts of N rows (default with a /: 100000)."),
]
MASK_MARKS = "Paint scale bars, lettering and pointers over in the ground's colour. Our choice, not the paper's."
BACKGROUND = "mask paints all but the cell over; auto does it for a manifest of cells. Our choice."
STAIN_NORM = "Bring every image's colours to fixed numbers. Our choice, not the paper's."
RESOLUTION = "Show every image at the scale where a red cell has so many px. Our choice, not the paper's."
TILES = "See an image as 4 quadrants, or 5 with itself: the mean of their features. Our choice, not the paper's."
DECODE = "scaled reads large JPEGs at 1/2, 1/4 or 1/8: faster, in classify too. Our choice, not the paper's."
STAIN_JITTER = "Spread of stain strength in augmented views (default 0.1). Our choice."


def remedies(
    *, mask_marks: bool, stain_norm: StainNorm, resolution: float | None, tiles: int, decode: DecodeSize
) -> Remedies:
    """Gather the flags that change images; raises UsageError for a value that cannot be."""
    if tiles not in TILINGS:
        raise UsageError(f"--tiles {tiles} is none of 1, 4 and 5", "1 is the whole image, 4 its quadrants, 5 both")
    if resolution is not None and not 1 <= resolution <= 1000:
        raise UsageError(
            f"--resolution {resolution:g} is not within 1 to 1000 px", "Try 20: a red cell in the input, in px"
        )
    if decode == "scaled" and (mask_marks or resolution is not None):
        raise UsageError(
            "--decode scaled does not go with --mask-marks and --resolution",
            "Marks and red cells are found at full size",
        )
    return Remedies(mask_marks=mask_marks, stain_norm=stain_norm, red_cell_px=resolution, tiles=tiles, decode=decode)


def folds(text: str | None) -> int | Literal["all"] | None:
    """Read --fold: a number or `all`; raises UsageError."""
    if text is None or text == "all":
        return "all" if text else None
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"--fold {text!r} is neither a number nor 'all'", "Use --fold 0 or --fold all") from None


def explicit(ctx: typer.Context, but: Iterable[str]) -> list[str]:
    """List the flags that were given on the command line or in a config file, except the parameters named by `but`."""
    given = [
        parameter
        for parameter in ctx.command.params
        if parameter.name is not None
        and str(ctx.get_parameter_source(parameter.name)).rsplit(".", 1)[-1] in ("COMMANDLINE", "DEFAULT_MAP")
    ]
    return [next(o for o in (*p.opts, p.name or "") if o.startswith("--")) for p in given if p.name not in but]


def need_backbone(ctx: typer.Context, backbone: str | None) -> None:
    """Raise UsageError for flags that describe a backbone where none is named: they would be passed over in silence."""
    if backbone is None:
        about = (
            "--weights", "--fit", "--input-size", "--mask-marks", "--background", "--stain-norm", "--resolution", "--tiles",
            "--decode",
        )  # fmt: skip
        given = [flag for flag in explicit(ctx, ()) if flag in about]
        if given:
            raise UsageError(
                f"{', '.join(given)} without --backbone: a run and a set of features keep the backbone they were made with",
                "Leave it out, or name --backbone",
            )
