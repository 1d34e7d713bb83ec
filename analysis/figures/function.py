"""How alike the functions of restarts are: layers against layers, weights against predictions, samples around a restart."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figures import style

MARKERS = ("o", "D", "s", "^", "v", "P")
MOST_WRITTEN = 8  # more layers than this and values are not written into the cells


def layers(values: Float[np.ndarray, "layer layer"], names: Sequence[str], title: str, label: str) -> Figure:
    """A matrix over pairs of layers, one of each of two networks, from 0 to 1, with its values written out.

    Args:
        values: rows are layers of one network, columns those of the other; NaN stays blank.
        names: of the layers.
        title: of the panel.
        label: of the colour bar.
    """
    figure, axes = style.panel(title, "layer of the other restart", "layer of a restart", (4.1, 3.5))
    image = axes.imshow(np.ma.masked_invalid(values), cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
    bar = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.03, aspect=26)
    bar.set_label(label, fontsize=8.5, color=style.MUTED)
    bar.ax.tick_params(labelsize=8, colors=style.MUTED, length=2, width=0.6)
    bar.outline.set(edgecolor=style.FAINT)  # type: ignore[call-arg]
    if len(names) <= MOST_WRITTEN:
        for row, column in np.argwhere(np.isfinite(values)):
            value = values[row, column]
            color = style.INK if value > 0.6 else "white"
            axes.text(column, row, f"{value:.2f}".replace("-", "−"), ha="center", va="center", fontsize=8, color=color)
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names, rotation=90, va="center")
    axes.grid(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0)
    return figure


def against(
    rows: Mapping[str, tuple[Float[np.ndarray, "pair"], Float[np.ndarray, "pair"]]], xlabel: str, ylabel: str,
    colors: Sequence[str],
) -> Figure:  # fmt: skip
    """One distance against another, a mark for each pair of restarts.

    Args:
        rows: label -> (distance in weight space, distance in function) of the pairs.
        xlabel, ylabel: quantities and units.
        colors: of the rows.
    """
    figure, axes = style.panel("Weights against functions", xlabel, ylabel, (4.1, 3.4))
    for (label, (x, y)), color, marker in zip(rows.items(), colors, MARKERS, strict=False):
        dense = len(x) > style.MANY_POINTS
        axes.scatter(x, y, s=11, color=color, marker=marker, alpha=0.55, linewidths=0, label=label, rasterized=dense)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.set_ylim(bottom=0)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8, labelcolor=style.INK)
    return figure


def samples(
    restarts: tuple[Float[np.ndarray, "seed"], Float[np.ndarray, "seed"]],
    ways: Mapping[str, tuple[Float[np.ndarray, "seed _"], Float[np.ndarray, "seed _"]]],
    xlabel: str,
    ylabel: str,
    shares: bool,
) -> Figure:
    """Distance in function against score: other restarts, and samples around a restart at growing distance from it.

    Args:
        restarts: score of each, and its mean distance from the others.
        ways: label -> score and distance of samples, means over the samples around each restart, at each scale.
        xlabel, ylabel: quantities.
        shares: whether they are shares.
    """
    figure, axes = style.panel("Another restart, or a step aside?", xlabel, ylabel, (4.1, 3.8))
    for number, (label, (score, distance)) in enumerate(ways.items()):
        color = (style.TRAIN, style.TEST, style.TRAVELLED, style.CYCLE[4])[number % 4]
        axes.plot(score.T, distance.T, color=color, linewidth=0.5, alpha=0.3)
        axes.plot(
            np.median(score, axis=0), np.median(distance, axis=0), color=color, linewidth=1.7,
            marker=MARKERS[number % len(MARKERS)], markersize=3.5, label=label,
        )  # fmt: skip
    axes.scatter(*restarts, s=40, color=style.END, marker="*", linewidths=0, zorder=4, label="other restarts")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axis.set_major_formatter(
            (lambda v, _: f"{100 * v:.4g}%") if shares else (lambda v, _: f"{v:g}".replace("-", "−"))
        )
    low, high = float(restarts[0].min()), float(restarts[0].max())
    axes.set_xlim(left=max(axes.get_xlim()[0], low - max(0.05, 3 * (high - low))))  # far samples are of no use
    seen = [d[s >= axes.get_xlim()[0]].max(initial=0) for s, d in ways.values()]
    axes.set_ylim(0, 1.15 * max(float(restarts[1].max()), *seen))
    figure.legend(loc="outside lower center", ncols=1, frameon=False, fontsize=8, labelcolor=style.INK)
    return figure
