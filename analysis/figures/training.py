"""Training curves and where they end."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figures import style
from analysis.training import Curves, Final

SPLITS = {"train": style.TRAIN, "test": style.TEST}


def curves(title: str, ylabel: str, lines: dict[str, Curves]) -> Figure:
    """All seeds as faint lines, with the bands and the median of the converged ones.

    Args:
        title: of the panel.
        ylabel: quantity and unit.
        lines: label (`train`, `test` or another) -> one metric.

    Where the first checkpoints are dense, steps are drawn on a scale that is logarithmic from the second one on.
    """
    steps = next(iter(lines.values())).steps
    figure, axes = style.panel(title, "", ylabel)
    for label, curve in lines.items():
        _draw(axes, label, SPLITS.get(label, style.INK), curve)
    style.steps(axes, steps)
    shown = np.concatenate([curve.values.ravel() for curve in lines.values()])
    if next(iter(lines.values())).unit == "share":
        axes.set_ylim(0, 1.02)
        axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    elif style.spans_decades(shown):
        style.log(axes, "y")
    if len(lines) > 1:
        style.legend(axes)
    return figure


def finals(title: str, xlabel: str, rows: dict[str, Final]) -> Figure:
    """Every seed as a dot, stacked where they are close; an upright line at the median, its interval below.

    Dots sit exactly at their values: only their height is arranged. Every row has an x axis of its own, so that a wide
    spread in one does not squeeze the other.

    Args:
        title: of the panel.
        xlabel: quantity and unit.
        rows: label (`train` or `test`) -> one metric.
    """
    figure = style.canvas()
    every = figure.subplots(len(rows), 1, squeeze=False)[:, 0]
    for axes, (label, final) in zip(every, rows.items(), strict=True):
        style.frame(axes)
        _dots(axes, final)
        style.rows(axes, [f"{label}\nn = {len(final.values)}"], [SPLITS.get(label, style.INK)])
    every[0].set_title(title, loc="left", fontsize=10, fontweight="bold", color=style.INK, pad=6)
    every[-1].set_xlabel(xlabel, fontsize=8.5, color=style.MUTED)
    return figure


def _dots(axes: Axes, final: Final) -> None:
    """One row: dots, median, interval, on an axis of its own."""
    values, median = final.values, final.median
    logarithmic = final.unit != "share" and style.spans_decades(values)
    heights = _stack(np.log(values) if logarithmic else values)
    color = SPLITS.get(final.name.split("_")[0], style.INK)
    axes.scatter(values, 0.26 - 0.74 * heights, s=15, color=color, alpha=0.6, linewidths=0, zorder=3)
    if len(values) > 1:
        axes.plot([median.value] * 2, [0.38, -0.6], color=style.INK, linewidth=1.2, zorder=2)
    if median.ci:
        axes.plot(median.ci, [0.38] * 2, color=style.INK, linewidth=3.5, solid_capstyle="butt", zorder=4)
    if final.low == final.high:
        axes.set_xticks([final.low])
    elif not logarithmic:
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    if logarithmic:
        style.log(axes, "x")
    elif final.unit == "share":
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g}%")
    elif final.low == final.high:
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.4g}")


def _draw(axes: Axes, label: str, color: str, curve: Curves) -> None:
    alpha = max(0.06, min(0.5, 6 / len(curve.values)))
    dense = curve.values.size > style.MANY_POINTS
    axes.plot(curve.steps, curve.values.T, color=color, linewidth=0.5, alpha=alpha, rasterized=dense)
    if curve.converged.sum() > 1:
        p5, p25, _, p75, p95 = curve.bands
        axes.fill_between(curve.steps, p5, p95, color=color, alpha=0.13, linewidth=0)
        axes.fill_between(curve.steps, p25, p75, color=color, alpha=0.25, linewidth=0)
    axes.plot(curve.steps, curve.bands[2], color=color, linewidth=1.8, label=label)


def _stack(values: np.ndarray) -> np.ndarray:
    """Height of each dot in [0, 1]: its place among the dots that fall into the same one of 50 columns."""
    low, high = values.min(), values.max()
    column = np.floor(50 * (values - low) / (high - low if high > low else 1)).astype(int)
    heights = np.zeros(len(values))
    for c in np.unique(column):
        members = np.flatnonzero(column == c)
        heights[members] = np.arange(len(members))
    return heights / max(8.0, heights.max())
