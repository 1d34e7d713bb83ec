"""Training curves and where they end."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures import style
from analysis.training import Curves, Final

SPLITS = {"train": style.TRAIN, "test": style.TEST}


def curves(title: str, ylabel: str, lines: dict[str, Curves]) -> Figure:
    """All seeds as faint lines, with the bands and the median of the converged ones.

    Args:
        title: of the panel.
        ylabel: quantity and unit.
        lines: label (`train`, `test` or another) -> one metric.
    """
    figure, axes = style.panel(title, "training step", ylabel)
    for label, curve in lines.items():
        _draw(axes, label, SPLITS.get(label, style.INK), curve)
    steps = next(iter(lines.values())).steps
    if len(steps) > 3 and steps[-1] > 20 * steps[1]:
        axes.set_xscale("symlog", linthresh=float(steps[1]), linscale=0.4)
        axes.set_xticks([0, *(10**k for k in range(10) if steps[1] <= 10**k < steps[-1] / 3), int(steps[-1])])
        axes.set_xticks([], minor=True)
    axes.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")
    axes.set_xlim(0, float(steps[-1]))
    shown = np.concatenate([curve.values.ravel() for curve in lines.values()])
    if next(iter(lines.values())).unit == "share":
        axes.set_ylim(0, 1.02)
        axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    elif style.spans_decades(shown):
        axes.set_yscale("log")
    if len(lines) > 1:
        style.legend(axes)
    return figure


def finals(title: str, xlabel: str, rows: dict[str, Final]) -> Figure:
    """Every seed as a dot, stacked where they are close; above, the median with its interval.

    Dots sit exactly at their values: only their height is arranged.

    Args:
        title: of the panel.
        xlabel: quantity and unit.
        rows: label (`train` or `test`) -> one metric.
    """
    figure, axes = style.panel(title, xlabel, "")
    every = np.concatenate([final.values for final in rows.values()])
    share = next(iter(rows.values())).unit == "share"
    log = style.spans_decades(every) and not share
    if log:
        axes.set_xscale("log")
    elif share:
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g} %")
        axes.locator_params(axis="x", nbins=6)
    for y, (label, final) in enumerate(rows.items()):
        color = SPLITS.get(label, style.INK)
        heights = _stack(final.values, np.log(every) if log else every, np.log if log else np.asarray)
        axes.scatter(final.values, y + 0.28 - 0.5 * heights, s=13, color=color, alpha=0.55, linewidths=0, zorder=2)
        axes.plot([final.median.value] * 2, [y + 0.34, y - 0.3], color=style.INK, linewidth=1.4, zorder=3)
        if final.median.ci:
            axes.plot(final.median.ci, [y + 0.34] * 2, color=style.INK, linewidth=3.5, solid_capstyle="butt", zorder=3)
    colors = [SPLITS.get(label, style.INK) for label in rows]
    style.rows(axes, [f"{label}\nn = {len(final.values)}" for label, final in rows.items()], colors)
    return figure


def _draw(axes: Axes, label: str, color: str, curve: Curves) -> None:
    alpha = max(0.06, min(0.5, 6 / len(curve.values)))
    dense = curve.values.size > style.MANY_POINTS
    axes.plot(curve.steps, curve.values.T, color=color, linewidth=0.5, alpha=alpha, rasterized=dense)
    if curve.converged.sum() > 1:
        p5, p25, _, p75, p95 = curve.bands
        axes.fill_between(curve.steps, p5, p95, color=color, alpha=0.13, linewidth=0)
        axes.fill_between(curve.steps, p25, p75, color=color, alpha=0.25, linewidth=0)
    axes.plot(curve.steps, curve.bands[2], color=color, linewidth=1.8, label=label)


def _stack(values: np.ndarray, every: np.ndarray, scale) -> np.ndarray:
    """Height of each dot in [0, 1]: its place among the dots that fall into the same one of 60 columns."""
    low, high = every.min(), every.max()
    column = np.floor(60 * (scale(values) - low) / (high - low if high > low else 1)).astype(int)
    heights = np.zeros(len(values))
    for c in np.unique(column):
        members = np.flatnonzero(column == c)
        heights[members] = np.arange(len(members))
    return heights / max(12.0, heights.max())
