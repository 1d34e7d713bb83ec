"""Distances between restarts."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figures import style
from analysis.similarity import Distances
from analysis.statistics import pair_values

SIZE = (4.1, 3.3)
FINE_BINS, BINS, FAR = 120, 48, 30.0


def distances(result: Distances) -> Figure:
    """Histograms, one row each: how far each seed travelled, pairs at the init, pairs at the end, and two nulls."""
    figure, axes = style.panel("How far apart?", "Euclidean distance in weight space", "", SIZE)
    rows = {
        "travelled\nby a restart": (result.travelled, style.TRAVELLED),
        "between\nstarts": (pair_values(result.init), style.INIT),
        "between\nends": (pair_values(result.end), style.END),
    }
    every = np.concatenate([values for values, _ in rows.values()])
    nulls = {
        "ends in unrelated directions": np.median(pair_values(result.orthogonal_ends)),
        "moves at right angles": np.median(pair_values(result.orthogonal_moves)),
    }
    low, high = 0.0, 1.05 * max(float(every.max()), *map(float, nulls.values()))
    edges = np.linspace(low, high, FINE_BINS + 1)
    far = every.min() > 0 and high > FAR * np.median(every)  # a few seeds would squeeze all others into one bin
    if far:
        low = 0.95 * float(every.min())
        edges = np.geomspace(low, high, FINE_BINS + 1)
    for y, (values, color) in enumerate(rows.values()):
        counts, _ = np.histogram(values, edges)
        axes.bar(
            edges[:-1], -0.74 * counts / counts.max(), np.diff(edges), bottom=y + 0.3, align="edge",
            color=color, alpha=0.8, linewidth=0,
        )  # fmt: skip
        axes.plot([low, high], [y + 0.3] * 2, color=style.FAINT, linewidth=0.8, zorder=1)
        axes.plot(
            [np.median(values)], [y + 0.385], color=color, marker="^", markersize=5, linestyle="none", clip_on=False
        )
    for value, dashes in zip(nulls.values(), ("--", ":"), strict=True):
        axes.axvline(float(value), color=style.INK, linewidth=1.1, linestyle=dashes, zorder=3)
    handles = [
        axes.plot([], [], color=style.INK, linewidth=1.1, linestyle=dashes, label=label)[0]
        for label, dashes in zip(nulls, ("--", ":"), strict=True)
    ]
    legend = figure.legend(
        handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=8, labelcolor=style.INK,
        title="distance between ends under null models", title_fontsize=8, columnspacing=1.2, handlelength=1.8,
    )  # fmt: skip
    legend.get_title().set_color(style.INK)
    axes.set_xlim(low, high)
    if far:
        style.log(axes, "x")
        axes.set_xlabel(f"{axes.get_xlabel()} (log scale)")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    style.rows(axes, list(rows), [color for _, color in rows.values()])
    return figure


def cosines(result: Distances) -> Figure:
    """Histogram of the cosines between the seeds' displacements, with the range of random directions shaded."""
    figure, axes = style.panel(
        "Did they travel the same way?", "cosine between two restarts' displacements", "number of pairs", SIZE
    )
    values = pair_values(result.cosine)
    values = values[np.isfinite(values)]
    spread = 2 / np.sqrt(result.num_params)
    low = max(-1.0, min(float(values.min()), -2 * spread))
    high = min(1.0, max(float(values.max()), 2 * spread))
    edges = np.linspace(low, high, BINS + 1)
    axes.axvspan(
        max(low, -spread), min(high, spread), color=style.INIT, alpha=0.22, linewidth=0, label="random directions"
    )
    axes.hist(values, edges.tolist(), color=style.END, alpha=0.75, linewidth=0)
    axes.axvline(float(np.median(values)), color=style.INK, linewidth=1.2, label="median")
    axes.grid(False, axis="x")
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "−"))
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8, labelcolor=style.INK)
    return figure
