"""Rows of dots: every value, the median and its interval."""

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figures import style
from analysis.statistics import Estimate

Strip = tuple[Float[np.ndarray, "_"], Estimate, str]


def strips(title: str, xlabel: str, rows: dict[str, Strip], size: tuple[float, float] = (4.1, 3.3)) -> Figure:
    """One row of dots each: every value, the median as an upright line and the median's interval as a bar below.

    Args:
        title: of the panel.
        xlabel: quantity and unit.
        rows: label -> (the values, e.g. one a pair; their median with its interval over seeds; colour).
        size: of the figure, inches.
    """
    figure, axes = style.panel(title, xlabel, "", size)
    for y, (values, median, color) in enumerate(rows.values()):
        strip(axes, y, values, median, color)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "−"))
    low, high = axes.get_xlim()
    if low < 0 < high:
        axes.axvline(0, color=style.MUTED, linewidth=0.8)
    axes.set_xlim(min(low, 0) if low > 0 and low < 0.3 * high else low, high)
    style.rows(axes, list(rows), [color for _, _, color in rows.values()])
    return figure


def strip(axes: Axes, y: float, values: np.ndarray, median: Estimate, color: str, height: float = 0.24) -> None:
    """Dots at their values, at heights that only spread them; the median and its interval."""
    spread = np.argsort(np.argsort(values, kind="stable")) * 0.618034 % 1 - 0.5  # low discrepancy, always the same
    axes.scatter(values, y + 2 * height * spread, s=9, color=color, alpha=0.45, linewidths=0, zorder=2)
    axes.plot([median.value] * 2, [y - 1.25 * height, y + 1.25 * height], color=style.INK, linewidth=1.4, zorder=4)
    if median.ci:
        axes.plot(median.ci, [y + 1.25 * height] * 2, color=style.INK, linewidth=2.6, solid_capstyle="butt", zorder=4)
