"""Pages of one HTML file with everything in it, to be opened, mailed or kept; and that of the demo."""

from __future__ import annotations

import base64
import io
import math
import numbers
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from triptych.encode.encoder import require
from triptych.errors import ConfigError
from triptych.files import write_atomic

if TYPE_CHECKING:
    from PIL import Image

Figures = TypeVar("Figures")

LARGEST_SIDE = 256  # pixels; pictures are shown smaller than this


@dataclass(frozen=True)
class ShownItem:
    """One item as a card.

    Args:
        item_id: raw id.
        title: its title.
        subtitle: a second, quieter line; may be empty.
        score: what the model gave it, or None where no model is asked.
        picture: of any size and mode, or None, which shows a placeholder.
        hit: the user did choose it later.
    """

    item_id: str
    title: str
    subtitle: str
    score: float | None
    picture: Image.Image | None
    hit: bool = False


def write_demo_page(
    path: Path,
    *,
    comparison: Sequence[Mapping[str, object]],
    history: Sequence[ShownItem],
    recommendations: Mapping[str, Sequence[ShownItem]],
    user_id: str,
    facts: Mapping[str, object],
) -> None:
    """Write the page, whole or not at all. It needs no network, no script and no other file.

    Args:
        path: the HTML file to make or replace.
        comparison: one row per model, its name under "model"; the best figure of each metric, which is a
            column with "@" in its name, is set in bold.
        history: what the user chose.
        recommendations: model -> what it lists for the user, best first.
        user_id: the user.
        facts: label -> what there is to say about the shop.
    """
    columns = list(dict.fromkeys(name for row in comparison for name in row))
    write_page(
        path,
        "demo.html",
        facts={name.replace("_", " "): in_words(value) for name, value in facts.items()},
        columns=columns,
        rows=[[_cell(row.get(name), name, comparison) for name in columns] for row in comparison],
        history=[_card(item) for item in history],
        recommendations={model: [_card(item) for item in items] for model, items in recommendations.items()},
        user_id=user_id,
        user_argument=shlex.quote(user_id),
        item_argument=shlex.quote(history[0].item_id) if history else "ITEM",
    )


def write_page(path: Path, template: str, **content: object) -> None:
    """Fill in a template of this package, and write the page, whole or not at all.

    Args:
        path: the HTML file to make or replace.
        template: its file name.
        content: what it names; strings are escaped. The filter `words` is `in_words`.
    """
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.loader = jinja2.PackageLoader("triptych.report")
    environment.filters["words"] = in_words
    page = environment.get_template(template).render(content)
    write_atomic(path, lambda file: file.write_text(page, encoding="utf-8"))


def draw_if_possible(draw: Callable[[], Figures]) -> tuple[Figures | None, str]:
    """Draw figures; without the 'report' extra give none, and say so in a sentence."""
    try:
        require("report", "matplotlib")
        return draw(), ""
    except ConfigError as error:
        return None, f"The figures are left out: {error.found}. {error.fix}, and call again."


def in_words(value: object) -> str:
    """Word a value for people: thousands apart, fractions with three digits, a dash for what is not known."""
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return f"{int(value):,}"
    if isinstance(value, float):
        return "–" if math.isnan(value) else f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:.3g}"
    return "–" if value is None else str(value)


def data_uri(file: bytes, media_type: str) -> str:
    """Put a file into a data: address."""
    return f"data:{media_type};base64,{base64.b64encode(file).decode()}"


def _cell(value: object, name: str, comparison: Sequence[Mapping[str, object]]) -> tuple[str, bool]:
    """Word one cell of the comparison, and say whether it is the best of its column."""
    if "@" not in name or not _is_number(value):
        return in_words(value), False
    best = max(float(str(row[name])) for row in comparison if _is_number(row.get(name)))
    figure = float(str(value))
    return f"{figure:.4f}", figure == best


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not math.isnan(value)


def _card(item: ShownItem) -> dict[str, object]:
    shown = {name: value for name, value in vars(item).items() if name != "picture"}
    return shown | {"source": None if item.picture is None else _small(item.picture)}


def _small(picture: Image.Image) -> str:
    """Put a picture, made no larger than the page shows it, into a data: address."""
    from PIL import ImageOps, features

    small = ImageOps.exif_transpose(picture).convert("RGBA")
    small.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    file_format = "WEBP" if features.check("webp") else "PNG"
    file = io.BytesIO()
    small.save(file, file_format, quality=85)
    return data_uri(file.getvalue(), f"image/{file_format.lower()}")
