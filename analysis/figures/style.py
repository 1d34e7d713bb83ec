"""One look for all figures: palette, panel, file format. No pyplot and no global settings.

Colours are those of Okabe and Ito (2008, Color Universal Design), told apart by colour-blind readers; one thing has one
colour throughout: the train set is blue, the test set vermilion.
"""

import io

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

TRAIN, TEST = "#0072B2", "#D55E00"
END, TRAVELLED, INIT = "#009E73", "#B0578D", "#7A8087"
INK, MUTED, FAINT = "#1F2933", "#5B6570", "#D9DEE3"
CYCLE = ("#0072B2", "#D55E00", "#009E73", "#B0578D", "#C98A00", "#3D8DBF", "#000000", "#7A8087")

PANEL = (4.7, 3.3)  # inches: readable on a phone, two abreast on a desk
MANY_POINTS = 20_000  # more than this and thin lines are drawn as pixels inside the SVG


def panel(title: str, xlabel: str, ylabel: str, size: tuple[float, float] = PANEL) -> tuple[Figure, Axes]:
    """An empty panel: a title above the left edge, two spines, a faint grid."""
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    figure.get_layout_engine().set(w_pad=0.06, h_pad=0.06)  # type: ignore[union-attr]
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=10.5, fontweight="bold", color=INK, pad=10)
    axes.set_xlabel(xlabel, fontsize=9, color=MUTED)
    axes.set_ylabel(ylabel, fontsize=9, color=MUTED)
    axes.tick_params(which="both", labelsize=8.5, colors=MUTED, length=3, width=0.6)
    axes.tick_params(which="minor", length=0)
    axes.grid(True, color=FAINT, linewidth=0.5, alpha=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set(color=FAINT, linewidth=0.8)
    return figure, axes


def rows(axes: Axes, labels: list[str], colors: list[str]) -> None:
    """Name horizontal rows 0, 1, .. from the top on the left edge, in the colour of what they show."""
    axes.set_yticks(range(len(labels)), labels)
    for tick, color in zip(axes.get_yticklabels(), colors, strict=True):
        tick.set(color=color, fontsize=9, fontweight="bold")
    axes.set_ylim(len(labels) - 0.5, -0.62)
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    axes.spines["left"].set_visible(False)


def legend(axes: Axes, **options) -> None:
    """A frameless legend in the figure's ink."""
    axes.legend(frameon=False, fontsize=8.5, labelcolor=INK, handlelength=1.6, borderaxespad=0.3, **options)


def spans_decades(values: np.ndarray) -> bool:
    """Whether positive values cover a factor of ten or more, so that a log axis serves them."""
    finite = values[np.isfinite(values)]
    return bool(finite.size > 0 and finite.min() > 0 and finite.max() >= 10 * finite.min())


def svg(figure: Figure) -> bytes:
    """The figure as SVG, the same bytes every time: element ids from a fixed salt, no date, text as shapes."""
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "wspace", "svg.fonttype": "path"}):  # restored on leaving
        figure.savefig(buffer, format="svg", dpi=200, metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
