"""How layers transform the data: examples in the plane, what a readout finds in each layer, restarts in the plane."""

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
from jaxtyping import Bool, Float, Int
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullLocator

from analysis.figures import style
from analysis.statistics import Estimate

MARKERS = ("o", "s", "^", "D", "X", "v", "P", "<", "D", "o")
SIZES = (13, 11, 14, 10, 17, 14, 17, 14, 9, 11)  # that look alike
MOST_CLASSES = len(MARKERS)  # told apart, the last ones by being hollow; the others are grey
COLUMNS = 2  # of panels: so wide that their notes can be read on a phone
CENTRAL, SLACK = (
    0.98,
    0.25,
)  # a panel shows the examples between these quantiles, and so much of their range to each side
LOWEST = -1.0  # R^2: an axis goes no lower
LONGEST = 14  # letters of a class's name

OverLayers = tuple[Float[np.ndarray, "layer seed"], Sequence[Estimate | None], str]


def by_class(
    planes: Float[np.ndarray, "layer example 2"], names: Sequence[str], notes: Sequence[str], labels: Int[np.ndarray, "_"],
    classes: Sequence[str], title: str,
) -> Figure:  # fmt: skip
    """The same examples as each layer has them, a panel a layer; a colour and a marker for every class.

    Args:
        planes: coordinates, on a scale of each panel's own; NaN for a layer that has nothing to draw. A few examples that
            are far from all others are drawn at the edge, in their direction.
        names: of the layers, above the panels.
        notes: below them.
        labels: of the examples, positions in `classes`.
        classes: their names.
        title: of the figure.
    """
    figure, panels, planes = _panels(planes, names, notes, title)
    shown: list[int] = np.unique(labels).tolist()
    handles = []
    rest = [label for label in shown if label >= MOST_CLASSES]
    for axes, plane in zip(panels, planes, strict=True):
        axes.scatter(*plane[np.isin(labels, rest)].T, s=9, color=style.FAINT, linewidths=0)
    for label in shown[: len(shown) - len(rest)]:
        color, hollow = style.CYCLE[label % len(style.CYCLE)], label >= len(style.CYCLE)
        for axes, plane in zip(panels, planes, strict=True):
            axes.scatter(
                *plane[labels == label].T, s=SIZES[label], marker=MARKERS[label], alpha=0.85,
                facecolors="none" if hollow else color, edgecolors=color if hollow else "white",
                linewidths=0.9 if hollow else 0.25,
            )  # fmt: skip
        handles.append(
            Line2D(
                [], [], linestyle="", marker=MARKERS[label], markersize=np.sqrt(SIZES[label]) + 1.4,
                markerfacecolor="none" if hollow else color, markeredgecolor=color, markeredgewidth=0.9 if hollow else 0,
                label=style.name(classes[label], LONGEST),
            )
        )  # fmt: skip
    if rest:
        handles.append(Line2D([], [], linestyle="", marker="o", markersize=4, color=style.FAINT, label="other classes"))
    widest = max(len(str(handle.get_label())) for handle in handles)
    columns = int(np.clip(46 // (widest + 5), 1, 5))
    _legend_below(figure, handles, columns)
    return figure


def by_target(
    planes: Float[np.ndarray, "layer example 2"], names: Sequence[str], notes: Sequence[str],
    targets: Float[np.ndarray, "example"], label: str, title: str,
) -> Figure:  # fmt: skip
    """The same examples as each layer has them, a panel a layer, coloured by what is asked for.

    Args:
        planes, names, notes, title: as in `by_class`.
        targets: of the examples.
        label: of the colour bar.
    """
    figure, panels, planes = _panels(planes, names, notes, title)
    scale = Normalize(float(targets.min()), float(targets.max()))
    for axes, plane in zip(panels, planes, strict=True):
        axes.scatter(*plane.T, c=targets, cmap="viridis", norm=scale, s=11, alpha=0.85, linewidths=0)
    bar = figure.colorbar(
        ScalarMappable(scale, "viridis"), ax=panels, location="bottom", fraction=0.04, pad=0.02, aspect=40
    )
    bar.set_label(label, fontsize=8.5, color=style.MUTED)
    bar.ax.tick_params(labelsize=8, colors=style.MUTED, length=2, width=0.6)
    bar.ax.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    bar.ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "−"))
    bar.outline.set(edgecolor=style.FAINT)  # type: ignore[call-arg]
    return figure


def over_layers(
    rows: Mapping[str, OverLayers], names: Sequence[str], title: str, ylabel: str, null: tuple[str, float], shares: bool
) -> Figure:
    """A quantity of each layer: a dot a restart, medians joined by a line, their intervals as bars; a null as a line.

    Args:
        rows: label -> (values, NaN where there are none; their medians with intervals, or None; colour).
        names: of the layers.
        title: of the panel.
        ylabel: quantity and unit.
        null: label and height of the line.
        shares: whether the values are shares; others are not drawn below LOWEST.
    """
    figure, axes = style.panel(title, "layer", ylabel, (4.1, 3.5))
    axes.axhline(null[1], color=style.INK, linewidth=1.1, linestyle=(0, (3, 2)), label=null[0], zorder=1)
    step = 0.5 / len(rows)
    for number, (label, (values, medians, color)) in enumerate(rows.items()):
        aside = step * (number - (len(rows) - 1) / 2)  # beside each other, lest one hides another
        spread = 0.6 * step * (np.arange(values.shape[1]) * 0.618034 % 1 - 0.5)  # always the same
        places = np.arange(len(values))[:, None] + aside + spread
        axes.scatter(places.ravel(), values.ravel(), s=8, color=color, alpha=0.4, linewidths=0, zorder=2)
        known = [(k + aside, median) for k, median in enumerate(medians) if median is not None]
        axes.plot(
            [x for x, _ in known], [median.value for _, median in known], color=color, linewidth=1.5, zorder=3,
            marker=MARKERS[number], markersize=4.5, markeredgecolor="white", markeredgewidth=0.6, label=label,
        )  # fmt: skip
        for x, median in known:
            if median.ci:
                axes.plot([x, x], median.ci, color=style.INK, linewidth=1.6, solid_capstyle="butt", zorder=4)
    each = -(-len(names) // 6)  # names that have room
    axes.set_xticks(range(len(names)), [name if k % each == 0 else "" for k, name in enumerate(names)])
    axes.set_xlim(-0.45, len(names) - 0.55)
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    if shares:
        style.percent(axes.yaxis)
        axes.set_ylim(-0.03, 1.03)
    else:
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "−"))
        low = axes.get_ylim()[0]
        axes.set_ylim(max(low, LOWEST), 1.05)
    handles = axes.get_legend_handles_labels()[0]
    _legend_below(figure, [*handles[1:], handles[0]], 2)
    return figure


def restarts(
    points: Float[np.ndarray, "network 2"], trained: Bool[np.ndarray, "network"], explained: Float[np.ndarray, "2"],
    stress: float, layer: str, joined: bool = False,
) -> Figure:  # fmt: skip
    """Networks in the plane by the distance between their representations.

    Args:
        points: coordinates, in radians.
        trained: which are trained; the others are untrained.
        explained: share of the squared distances along each axis.
        stress: of the plane.
        layer: whose representations they are.
        joined: whether each trained network is the untrained one of the same rank at its end; a line joins them.
    """
    labels = [
        f"coordinate {k + 1}, radians ({100 * share:.0f} % of squared distances" for k, share in enumerate(explained)
    ]
    figure, axes = style.panel(
        f"A map of restarts: {layer}", f"{labels[0]})", f"{labels[1]};\nstress of the plane {stress:.2f})", (4.1, 3.8)
    )
    if joined:
        starts, ends = points[~trained], points[trained]
        axes.add_collection(
            LineCollection(
                list(np.stack([starts, ends], axis=1)), colors=style.MUTED, linewidths=0.6, alpha=0.4, zorder=0.5
            )
        )
    looks = {"untrained": (~trained, style.INIT, "D", 15), "trained": (trained, style.END, "o", 24)}
    for label, (rows, color, marker, size) in looks.items():
        if rows.any():
            axes.scatter(
                *points[rows].T, s=size, color=color, marker=marker, alpha=0.75, linewidths=0.4, edgecolors="white",
                label=label,
            )  # fmt: skip
    axes.set_aspect("equal", adjustable="datalim")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "−"))
    _legend_below(figure, axes.get_legend_handles_labels()[0], 2)
    return figure


def _panels(
    planes: np.ndarray, names: Sequence[str], notes: Sequence[str], title: str
) -> tuple[Figure, list[Axes], np.ndarray]:
    """Square panels in the order of reading, each named above and with its note below; and what lies within them."""
    num_rows = -(-len(planes) // COLUMNS)
    figure = style.canvas((style.PANEL[0], 0.95 + 2.2 * num_rows))
    figure.get_layout_engine().set(hspace=0.1)  # type: ignore[union-attr]
    figure.suptitle(title, x=0.02, ha="left", fontsize=10, fontweight="bold", color=style.INK)
    grid = list(figure.subplots(num_rows, COLUMNS, squeeze=False).flat)
    for axes in grid[len(planes) :]:
        axes.remove()
    panels, within = [cast(Axes, axes) for axes in grid[: len(planes)]], np.array(planes)
    for k, (axes, plane) in enumerate(zip(panels, planes, strict=True)):
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(NullLocator())
        for spine in axes.spines.values():
            spine.set(color=style.FAINT, linewidth=0.8)
        axes.set_box_aspect(1)
        axes.set_title(names[k], fontsize=9, color=style.INK, pad=3)
        axes.set_xlabel(notes[k], fontsize=8, color=style.MUTED, labelpad=3)
        if np.all(np.isfinite(plane)):
            centre, half = window(plane)
            within[k] = np.clip(plane, centre - half, centre + half)
            axes.set_xlim(centre[0] - 1.06 * half, centre[0] + 1.06 * half)
            axes.set_ylim(centre[1] - 1.06 * half, centre[1] + 1.06 * half)
        else:
            axes.text(0.5, 0.5, "all examples\nat one place", ha="center", va="center", fontsize=8, color=style.MUTED,
                      transform=axes.transAxes)  # fmt: skip
    return figure, panels, within


def window(plane: Float[np.ndarray, "example 2"]) -> tuple[Float[np.ndarray, "2"], float]:
    """Centre and half the side of the square that a panel shows: all examples, unless a few are far from all others."""
    low, high = np.quantile(plane, [1 - CENTRAL, CENTRAL], axis=0)
    slack = SLACK * (high - low).max()
    low, high = np.maximum(plane.min(axis=0), low - slack), np.minimum(plane.max(axis=0), high + slack)
    return (low + high) / 2, float((high - low).max()) / 2 or 1.0


def _legend_below(figure: Figure, handles: Sequence, columns: int) -> None:
    by_row = [handle for column in range(columns) for handle in handles[column::columns]]  # legends go down columns
    figure.legend(
        handles=by_row, loc="outside lower center", ncols=columns, frameon=False, fontsize=8, labelcolor=style.INK,
        handletextpad=0.4, columnspacing=1.2,
    )  # fmt: skip
