"""Restarts before and after alignment, beside null models."""

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.alignment.nulls import Recovery
from analysis.alignment.study import Embedding
from analysis.figures import style
from analysis.figures.strips import strip
from analysis.statistics import Estimate

SPLITS = {"train": style.TRAIN, "test": style.TEST}


def barriers(unit: str, rows: dict[str, dict[str, tuple[Float[np.ndarray, "pair"], Estimate]]]) -> Figure:
    """Barriers of the train and test loss above the chord, one row for each way of bringing two restarts together.

    Args:
        unit: of the loss.
        rows: label -> train and test -> (one barrier a pair, the median with its interval).
    """
    figure, axes = style.panel("The barrier on the straight line", f"barrier above the chord ({unit})", "", (4.1, 3.9))
    for y, splits in enumerate(rows.values()):
        for (name, (values, median)), shift in zip(splits.items(), (-0.19, 0.21), strict=True):
            strip(axes, y + shift, values, median, SPLITS[name], height=0.13)
    for name, color in SPLITS.items():
        axes.plot([], [], color=color, marker="o", markersize=4, linestyle="none", label=f"{name} loss")
    axes.set_xlim(left=min(0.0, axes.get_xlim()[0]))
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "−"))
    style.rows(axes, list(rows), [style.INK] * len(rows))
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8, labelcolor=style.INK)
    return figure


def units(rows: dict[str, list[Float[np.ndarray, "pair _"]]], colors: dict[str, str]) -> Figure:
    """Cosine between what matched units receive, per hidden layer: median, quartiles (thick), 5 to 95 % (thin).

    Args:
        rows: label -> per hidden layer, one value for each pair and unit.
        colors: of the labels.
    """
    figure, axes = style.panel("How alike are matched units?", "hidden layer", "cosine of what two units receive")
    num = len(next(iter(rows.values())))
    width = 0.8 / len(rows)
    for place, (label, layers) in enumerate(rows.items()):
        for layer, values in enumerate(layers):
            x = layer + 1 + (place - (len(rows) - 1) / 2) * width
            p5, p25, middle, p75, p95 = np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95])
            axes.plot([x, x], [p5, p95], color=colors[label], linewidth=1.2)
            axes.plot([x, x], [p25, p75], color=colors[label], linewidth=5, alpha=0.45, solid_capstyle="butt")
            axes.plot([x], [middle], color=colors[label], marker="o", markersize=4.5, linestyle="none")
        axes.plot([], [], color=colors[label], marker="o", markersize=4.5, linewidth=1.2, label=label)
    axes.axhline(0, color=style.MUTED, linewidth=0.6)
    axes.set_xlim(0.5, num + 0.5)
    axes.set_xticks(range(1, num + 1))
    axes.grid(False, axis="x")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8, labelcolor=style.INK)
    return figure


def embedding(result: Embedding, reference: int) -> Figure:
    """Every restart twice, as trained and aligned, joined by a thin line; the reference stays. Both axes have one scale."""
    shares = [f"principal component {i + 1} ({share:.1%} of the variance)" for i, share in enumerate(result.explained)]
    figure, axes = style.panel("The population in one plane", *shares, size=(4.1, 3.6))
    for a, b in zip(result.raw, result.aligned, strict=True):
        axes.plot([a[0], b[0]], [a[1], b[1]], color=style.FAINT, linewidth=0.5, zorder=1)
    for points, color, marker, label in (
        (result.raw, style.INIT, "o", "as trained"),
        (result.aligned, style.END, "D", "aligned"),
    ):
        axes.scatter(*points.T, s=16, color=color, marker=marker, alpha=0.8, linewidths=0, label=label, zorder=2)
    axes.scatter(
        *result.aligned[reference], s=70, facecolors="none", edgecolors=style.INK, linewidths=1.2, label="the medoid"
    )
    axes.set_aspect("equal", adjustable="datalim")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "−"))
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8, labelcolor=style.INK)
    return figure


def recovery(result: Recovery, observed: float | None) -> Figure:
    """Share of units that a planted relabelling gives back, against noise; where aligned restarts lie is marked."""
    figure, axes = style.panel(
        "Would a relabelling be found?", "noise added to a relabelled copy, |noise| / |weights|", "units found again"
    )
    order = np.argsort(result.noise)
    noise, found = result.noise[order], result.recovered[order]
    axes.plot(noise, found, color=style.END, linewidth=0.5, alpha=max(0.1, min(0.5, 6 / found.shape[1])))
    axes.plot(noise, np.median(found, axis=1), color=style.END, linewidth=1.8, marker="o", markersize=4, label="median")
    if observed is not None:
        axes.axvline(observed, color=style.INK, linewidth=1.1, linestyle="--", label="as unlike as aligned restarts")
    axes.set_xlim(0, float(noise[-1]))
    axes.set_ylim(0, 1.04)
    axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8, labelcolor=style.INK)
    return figure
