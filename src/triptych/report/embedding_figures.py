"""The figures of a page on what a model learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from triptych.data.arrays import FloatArray
from triptych.report.comparison_figures import Drawn
from triptych.report.embeddings import CorrelatedLayer, EmbeddingMap, Histogram, Picture
from triptych.report.svg import QUIET, WIDTH, color, draw_figure_svg, draw_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHARES = (0.75, 0.5, 0.25)
"""Of a group's points within its contours, from the outermost."""
_GRID = 80
"""Places at which a density is known, on each side of a map."""
_ANGLES = 181
_POSITIVE, _NEGATIVE = (213, 112, 20), (50, 125, 190)
"""Of correlations: orange and blue, told apart by all eyes, on light and on dark paper."""
_COUNTED = (24, 138, 126)
_POINT = 7


def draw_maps(picture: Picture) -> dict[str, list[Drawn]]:
    """Draw the maps of several groups each, and those of one group beside each other: title -> figures."""
    several = {one.title: _panels(one) for one in picture.maps if len(one.panels) > 1}
    single = [figure for one in picture.maps if len(one.panels) == 1 for figure in _panels(one)]
    return several | ({"Items before and after the model": single} if single else {})


def draw_content(picture: Picture) -> list[Drawn]:
    """Draw the histograms."""
    return [_histogram(one) for one in picture.histograms]


def draw_layers(picture: Picture) -> list[Drawn]:
    """Draw the correlations of first and last layers, and of the result."""
    last = max(one.layer for one in picture.layers)
    return [_correlations(one) for one in picture.layers if one.layer in (0, last)]


def density_levels(density: FloatArray, shares: Sequence[float]) -> list[float]:
    """Give the densities above which the given shares of points lie, rising.

    Args:
        density: (n,) at each point.
        shares: falling, each above 0 and below 1.
    """
    return [float(np.quantile(density, 1 - share)) for share in shares]


def angle_density(points: FloatArray, n_angles: int = _ANGLES) -> tuple[FloatArray, FloatArray]:
    """Estimate how dense points lie by direction from the origin, on the unit circle.

    A Gaussian kernel, by Scott's rule with the deviation around the mean direction, goes on past the ends:
    the estimate is the same at -pi and pi, and its integral is 1.

    Args:
        points: (n, 2), n at least 2.
        n_angles: places of the estimate, from -pi to pi.

    Returns: angles and densities, (n_angles,) each.
    """
    from scipy.stats import gaussian_kde

    angle = np.arctan2(points[:, 1], points[:, 0])
    mean = np.angle(np.exp(1j * angle).mean())
    around = np.angle(np.exp(1j * (angle - mean)))
    width = max(around.std(ddof=1) * len(angle) ** -0.2, 1e-3)  # radians
    turns = np.concatenate([angle - 2 * np.pi, angle, angle + 2 * np.pi])
    at = np.linspace(-np.pi, np.pi, n_angles)
    kernel = gaussian_kde(turns, bw_method=width / turns.std(ddof=1))
    return at, 3 * kernel(at)


def _panels(one: EmbeddingMap) -> list[Drawn]:
    """Draw each group with the same axes, and the outermost contours of the others."""
    clouds = [np.array(panel.points) for panel in one.panels]
    reach = np.abs(np.concatenate(clouds)).max() * 1.06
    tallest = max(angle_density(points)[1].max() for points in clouds) * 1.08
    return [_panel(one, place, clouds, reach, tallest) for place in range(len(clouds))]


def _panel(
    one: EmbeddingMap, place: int, clouds: Sequence[FloatArray], reach: float, tallest: float
) -> Drawn:
    """Draw one group: its points and the contours of their density, and below these the angles."""
    panel, points, of_series = one.panels[place], clouds[place], color(place)
    angles, densities = angle_density(points)

    def draw(figure: Figure) -> None:
        above, below = figure.subplots(2, 1, height_ratios=[4, 1])
        above.scatter(*points.T, s=_POINT, color=of_series, alpha=0.35, linewidths=0)
        for other in (*clouds[:place], *clouds[place + 1 :]):
            _contours(above, other, reach, QUIET, SHARES[:1])
        _contours(above, points, reach, of_series, SHARES)
        above.plot(0, 0, "+", color=QUIET, markersize=8)
        above.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
        above.set(xlabel="t-SNE, first axis", ylabel="second axis")
        above.locator_params(nbins=5)
        below.fill_between(angles, densities, color=of_series, alpha=0.25, linewidth=0)
        below.plot(angles, densities, color=of_series, linewidth=1.6)
        below.set(xlim=(-np.pi, np.pi), ylim=(0, tallest), xlabel="angle", ylabel="density")
        below.set_xticks([-np.pi, -np.pi / 2, 0, np.pi / 2, np.pi], ["−π", "−π/2", "0", "π/2", "π"])
        below.locator_params(axis="y", nbins=3)

    most = angles[densities.argmax()]
    says = (
        f"{len(points):,} {panel.name}: around ({points[:, 0].mean():.1f}, {points[:, 1].mean():.1f}), "
        f"spread {points[:, 0].std():.1f} by {points[:, 1].std():.1f}; "
        f"densest at the angle {most / np.pi:.2f} π"
    )
    title = one.title if len(clouds) == 1 else panel.name[:1].upper() + panel.name[1:]
    name = f"map-{one.kind}-{place}"
    apart = "" if panel.apart is None else f"; {panel.apart:.0%} of the nearest ten are of the same group"
    return Drawn(
        title, f"{len(points):,} points{apart}.", draw_figure_svg(name, title, says, draw, int(WIDTH * 1.32))
    )


def _contours(axes: Axes, points: FloatArray, reach: float, of_series: str, shares: Sequence[float]) -> None:
    """Draw lines of equal density that hold shares of the points; points on one line have none."""
    from scipy.stats import gaussian_kde

    if np.linalg.matrix_rank(np.cov(points.T)) < 2:
        return
    kernel = gaussian_kde(points.T)
    side = np.linspace(-reach, reach, _GRID)
    x, y = np.meshgrid(side, side)
    density = kernel(np.stack([x.ravel(), y.ravel()])).reshape(x.shape)
    levels = sorted(set(density_levels(kernel(points.T), shares)))
    axes.contour(x, y, density, levels=levels, colors=of_series, linewidths=1.4)


def _histogram(one: Histogram) -> Drawn:
    """Draw the cells, in more colour the more items they hold."""
    counts = np.array(one.counts)

    def draw(axes: Axes) -> None:
        axes.imshow(_tinted(counts / counts.max(), _COUNTED), origin="lower", interpolation="none")
        axes.set(xlabel="t-SNE, first axis", ylabel="second axis", xticks=[], yticks=[])
        for side in axes.spines.values():
            side.set(visible=True, color=QUIET)

    stage = "features as given" if one.stage == "raw" else "vectors in the model"
    title = f"{one.modality}: {stage}"
    says = (
        f"{counts.sum():,} items in {one.cells} of {counts.size} cells, {counts.max()} in the fullest; "
        f"evenness {one.evenness:.3f}"
    )
    name = f"histogram-{one.modality}-{one.stage}"
    return Drawn(title, f"{says}.", draw_svg(name, title, says, draw, int(WIDTH * 0.95)))


def _correlations(one: CorrelatedLayer) -> Drawn:
    """Draw the correlations of all pairs of columns."""
    matrix = np.array(one.matrix)

    def draw(axes: Axes) -> None:
        image = np.where(
            matrix[:, :, None] > 0, _tinted(matrix, _POSITIVE), _tinted(-matrix, _NEGATIVE)
        ).astype(np.uint8)
        axes.imshow(image, interpolation="none", extent=(0.5, len(matrix) + 0.5, len(matrix) + 0.5, 0.5))
        axes.set(xlabel="column", ylabel="column")
        axes.locator_params(nbins=5, integer=True)
        for side in axes.spines.values():
            side.set(visible=True, color=QUIET)

    title = layer_name(one)
    off = np.abs(matrix[~np.eye(len(matrix), dtype=bool)])
    says = f"p = {one.redundancy:.2f}" + (
        f", the mean size of a correlation is {off.mean():.3f}, the largest {off.max():.3f}"
        if len(off)
        else ", a single column"
    )
    name = f"layer-{one.of}-{one.layer}"
    return Drawn(title, f"{says}.", draw_svg(name, title, says, draw, int(WIDTH * 0.95)))


def layer_name(one: CorrelatedLayer) -> str:
    """Say in words what a layer is of."""
    if one.of == "result":
        return "result: what ranks"
    passed = "not passed along" if one.layer == 0 else f"passed along {one.layer} times"
    return f"{one.of}, {passed}"


def _tinted(
    strength: FloatArray, tint: tuple[int, int, int]
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Put a colour in as much as the strengths say, from 0, the page's own colour, to 1: (..., 4) bytes."""
    image = np.empty((*strength.shape, 4), dtype=np.uint8)
    image[..., :3] = tint
    image[..., 3] = (np.clip(strength, 0, 1) * 255).round()
    return image
