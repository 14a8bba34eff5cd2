"""Pictures are SVG text written here, so that a report needs no plotting library and no font of its own."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from html import escape

WIDTH_PX = 480

_FONT = "Helvetica, Arial, 'DejaVu Sans', sans-serif"
_INK, _PALE, _GRID, _PAPER = "#1a1a1a", "#5a5a5a", "#d5d9de", "#ffffff"
_LIGHTEST, _DARKEST = (247, 250, 253), (8, 64, 129)
# Where dark and white text stand out from the shade equally well, at a contrast above 4.
_INK_UNTIL = 0.67
_MARGIN_PX = 12
_NAME_SIZE_PX = 12
# Mean advance of a capital in common sans-serif faces, in shares of the font size: wide enough that names fit.
_ADVANCE = 0.68


def confusion_svg(
    classes: Sequence[str], matrix: Sequence[Sequence[int]], *, groups: int | None, title: str = "Confusion matrix"
) -> str:
    """Draw counts and shares of each row as SVG 480 px wide; a class without images has a row of dashes, not of 0 %.

    `matrix` (C, C) has the true class in rows; `groups` is None where groups are unknown. Readable for 2 to 10 classes.
    Raises ValueError where the matrix does not fit the classes or has a negative count.
    """
    count = len(classes)
    if count < 2 or len(matrix) != count or any(len(row) != count for row in matrix):
        raise ValueError(f"a matrix of {[len(row) for row in matrix]} columns does not fit {count} classes")
    if any(cell < 0 for row in matrix for cell in row):
        raise ValueError(f"a count is negative: {[list(row) for row in matrix]}")

    names = [_shortened(name, 14 if count <= 5 else 10) for name in classes]
    name_width = max(len(name) for name in names) * _NAME_SIZE_PX * _ADVANCE
    left = _MARGIN_PX + 20 + name_width + 8
    cell = (WIDTH_PX - _MARGIN_PX - left) / count
    tilted = name_width > cell - 4
    top = 58 + (name_width if tilted else _NAME_SIZE_PX) + 8
    height = top + min(cell, 110) * count + 44
    cell_height = min(cell, 110)
    digits = max(len(str(number)) for row in matrix for number in row)
    count_size = min(20, cell * 0.32, (cell - 4) / (digits * _ADVANCE))
    share_size = min(13, max(9, cell * 0.23))

    images = sum(map(sum, matrix))
    caption = f"n = {images} {'image' if images == 1 else 'images'}, " + (
        "groups unknown" if groups is None else f"{groups} {'group' if groups == 1 else 'groups'}"
    )
    middle = left + cell * count / 2
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH_PX}" height="{height:.0f}" '
        f'viewBox="0 0 {WIDTH_PX} {height:.0f}" role="img" aria-labelledby="confusion-title confusion-desc" '
        f'font-family="{_FONT}">',
        f'<title id="confusion-title">{_safe(title)}</title>',
        f'<desc id="confusion-desc">{_safe(_description(classes, matrix, caption))}</desc>',
        f'<rect width="{WIDTH_PX}" height="{height:.0f}" fill="{_PAPER}"/>',
        _label(_MARGIN_PX, 24, title, size=15, anchor="start", weight="bold"),
        _label(middle, 48, "predicted class", size=12, fill=_PALE),
        _turned(_MARGIN_PX + 10, top + cell_height * count / 2, "true class", anchor="middle", fill=_PALE),
    ]
    for column, name in enumerate(names):
        x = left + cell * (column + 0.5)
        full = classes[column]
        if tilted:
            parts.append(_turned(x + _NAME_SIZE_PX * 0.35, top - 8, name, anchor="start", full=full))
        else:
            parts.append(_label(x, top - 8, name, size=_NAME_SIZE_PX, full=full))
    for row, (name, counts) in enumerate(zip(names, matrix, strict=True)):
        y, support = top + cell_height * row, sum(counts)
        parts.append(
            _label(left - 8, y + cell_height / 2 + 4, name, size=_NAME_SIZE_PX, anchor="end", full=classes[row])
        )
        for column, number in enumerate(counts):
            x = left + cell * column
            share = number / support if support else 0.0
            ink = _INK if share < _INK_UNTIL else _PAPER
            parts += [
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{cell:.1f}" height="{cell_height:.1f}" '
                f'fill="{_shade(share)}" stroke="{_GRID}"/>',
                _label(x + cell / 2, y + cell_height / 2, str(number), size=count_size, fill=ink),
                _label(
                    x + cell / 2,
                    y + cell_height / 2 + share_size * 1.25,
                    f"{100 * share:.0f} %" if support else "–",
                    size=share_size,
                    fill=ink,
                ),
            ]
    parts += [
        _label(_MARGIN_PX, height - 24, caption, size=12, anchor="start"),
        _label(
            _MARGIN_PX, height - 9, "Percentages are shares of the true class.", size=11, anchor="start", fill=_PALE
        ),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _description(classes: Sequence[str], matrix: Sequence[Sequence[int]], caption: str) -> str:
    """Say the whole matrix in words, for those who hear it."""
    rows = [
        f"true {name}: " + ", ".join(f"{number} as {other}" for other, number in zip(classes, counts, strict=True))
        for name, counts in zip(classes, matrix, strict=True)
    ]
    return f"{caption}. Rows are true classes. {'; '.join(rows)}."


def _shortened(name: str, longest: int) -> str:
    """Keep both ends of a name, since names that begin alike are told apart by their ends."""
    tail = longest // 2
    return name if len(name) <= longest else f"{name[: longest - tail - 1]}…{name[-tail:]}"


def _safe(text: str) -> str:
    """Escape for XML, with a mark in place of characters that XML cannot hold."""
    marks = " ".join(text.split())
    return escape("".join("\ufffd" if unicodedata.category(mark) in ("Cc", "Cs", "Cn") else mark for mark in marks))


def _label(
    x: float,
    y: float,
    text: str,
    *,
    size: float,
    anchor: str = "middle",
    fill: str = _INK,
    weight: str = "normal",
    full: str | None = None,
) -> str:
    whole = f"<title>{_safe(full)}</title>" if full is not None and full != text else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:.1f}" text-anchor="{anchor}" fill="{fill}" '
        f'font-weight="{weight}">{whole}{_safe(text)}</text>'
    )


def _turned(x: float, y: float, text: str, *, anchor: str, fill: str = _INK, full: str | None = None) -> str:
    whole = f"<title>{_safe(full)}</title>" if full is not None and full != text else ""
    return (
        f'<text transform="translate({x:.1f} {y:.1f}) rotate(-90)" font-size="{_NAME_SIZE_PX}" text-anchor="{anchor}" '
        f'fill="{fill}">{whole}{_safe(text)}</text>'
    )


def _shade(share: float) -> str:
    mixed = [round(light + (dark - light) * share) for light, dark in zip(_LIGHTEST, _DARKEST, strict=True)]
    return "#" + "".join(f"{channel:02x}" for channel in mixed)
