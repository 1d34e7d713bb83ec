"""Distances between restarts."""

import numpy as np
from matplotlib.figure import Figure

from analysis.figures import style
from analysis.similarity import Distances, pair_values

FINE_BINS, BINS = 150, 48


def distances(result: Distances) -> Figure:
    """Histograms, one row each: how far each seed travelled, pairs at the init, pairs at the end, and two nulls."""
    figure, axes = style.panel("How far apart?", "Euclidean distance in weight space", "", (4.7, 3.6))
    rows = {
        "travelled\nby a restart": (result.travelled, style.TRAVELLED),
        "between\nstarts": (pair_values(result.init), style.INIT),
        "between\nends": (pair_values(result.end), style.END),
    }
    high = max(float(values.max()) for values, _ in rows.values())
    nulls = {
        "ends in unrelated directions": np.median(pair_values(result.orthogonal_ends)),
        "moves at right angles": np.median(pair_values(result.orthogonal_moves)),
    }
    high = 1.05 * max(high, *nulls.values())
    edges = np.linspace(0, high, FINE_BINS + 1)
    for y, (values, color) in enumerate(rows.values()):
        counts, _ = np.histogram(values, edges)
        axes.bar(
            edges[:-1], -0.78 * counts / counts.max(), np.diff(edges), bottom=y + 0.36, align="edge",
            color=color, alpha=0.75, linewidth=0,
        )  # fmt: skip
        axes.plot([np.median(values)] * 2, [y + 0.36, y - 0.42], color=style.INK, linewidth=1.2)
    for value, dashes in zip(nulls.values(), ("--", ":"), strict=True):
        axes.axvline(float(value), color=style.INK, linewidth=1.1, linestyle=dashes, zorder=3)
    handles = [
        axes.plot([], [], color=style.INK, linewidth=1.1, linestyle=dashes, label=label)[0]
        for label, dashes in zip(nulls, ("--", ":"), strict=True)
    ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=8.5, labelcolor=style.INK,
        title="null models for the ends (medians)", title_fontsize=8.5,
    )  # fmt: skip
    axes.set_xlim(0, high)
    style.rows(axes, list(rows), [color for _, color in rows.values()])
    return figure


def cosines(result: Distances) -> Figure:
    """Histogram of the cosines between the seeds' displacements, with the range of random directions shaded."""
    figure, axes = style.panel(
        "Did they travel the same way?", "cosine between two restarts' displacements", "pairs", (4.7, 3.6)
    )
    values = pair_values(result.cosine)
    values = values[np.isfinite(values)]
    spread = 2 / np.sqrt(result.num_params)
    low, high = min(float(values.min()), -2 * spread), max(float(values.max()), 2 * spread)
    edges = np.linspace(low, high, BINS + 1)
    axes.axvspan(-spread, spread, color=style.INIT, alpha=0.22, linewidth=0, label="random directions")
    axes.hist(values, edges.tolist(), color=style.END, alpha=0.75, linewidth=0)
    axes.axvline(float(np.median(values)), color=style.INK, linewidth=1.2, label="median")
    axes.grid(False, axis="x")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8.5, labelcolor=style.INK)
    return figure
