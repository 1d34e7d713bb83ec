"""One look for all figures: palette, panel, file format. No pyplot and no global settings.

Colours are those of Okabe and Ito (2008, Color Universal Design), told apart by colour-blind readers; one thing has one
colour throughout: the train set is blue, the test set vermilion.
"""

import io
import math
from typing import Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

TRAIN, TEST = "#0072B2", "#D55E00"
END, TRAVELLED, INIT = "#009E73", "#B0578D", "#7A8087"
INK, MUTED, FAINT = "#1F2933", "#5B6570", "#D9DEE3"
CYCLE = ("#0072B2", "#D55E00", "#009E73", "#B0578D", "#C98A00", "#3D8DBF", "#000000", "#7A8087")

PANEL = (4.1, 3.0)  # inches: letters of 10 pixels on a phone, two panels abreast on a desk
MANY_POINTS = 20_000  # more than this and thin lines are drawn as pixels inside the SVG


def panel(title: str, xlabel: str, ylabel: str, size: tuple[float, float] = PANEL) -> tuple[Figure, Axes]:
    """An empty panel: a title above the left edge, two spines, a faint grid."""
    figure = canvas(size)
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold", color=INK, pad=10)
    frame(axes)
    axes.set_xlabel(xlabel, fontsize=8.5, color=MUTED)
    axes.set_ylabel(ylabel, fontsize=8.5, color=MUTED)
    return figure, axes


def canvas(size: tuple[float, float] = PANEL) -> Figure:
    """An empty figure on white, its parts laid out so that nothing is cut off."""
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    figure.get_layout_engine().set(w_pad=0.06, h_pad=0.06)  # type: ignore[union-attr]
    return figure


def frame(axes: Axes) -> None:
    """Two spines, small ticks and a faint grid."""
    axes.tick_params(which="both", labelsize=8, colors=MUTED, length=3, width=0.6)
    axes.tick_params(which="minor", length=0)
    axes.grid(True, color=FAINT, linewidth=0.5, alpha=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set(color=FAINT, linewidth=0.8)


def rows(axes: Axes, labels: list[str], colors: list[str]) -> None:
    """Name horizontal rows 0, 1, .. from the top on the left edge, in the colour of what they show."""
    axes.set_yticks(range(len(labels)), labels)
    for tick, color in zip(axes.get_yticklabels(), colors, strict=True):
        tick.set(color=color, fontsize=8.5, fontweight="bold")
    axes.set_ylim(len(labels) - 0.5, -0.62)
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    axes.spines["left"].set_visible(False)


def legend(axes: Axes, **options) -> None:
    """A frameless legend in the figure's ink."""
    axes.legend(frameon=False, fontsize=8, labelcolor=INK, handlelength=1.6, borderaxespad=0.3, **options)


def log(axes: Axes, which: Literal["x", "y"]) -> None:
    """A logarithmic axis with plain numbers where they are short, and with ticks between the decades where few are shown."""
    axes.set(**{f"{which}scale": "log"})
    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = sorted(axis.get_view_interval())
    decades = math.log10(high / low)
    plain = low > 1e-4 and high < 1e5

    def label(value: float, _) -> str:
        power = math.log10(value)
        return f"{value:g}" if plain else f"$10^{{{power:.0f}}}$" if abs(power - round(power)) < 1e-9 else ""

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 2.2 else (1.0,), numticks=9))
    axis.set_major_formatter(label)
    axis.set_minor_locator(NullLocator())


def steps(axes: Axes, values: np.ndarray) -> None:
    """An x axis of training steps: logarithmic from the second one on where the first are dense."""
    stretched = len(values) > 3 and values[-1] > 20 * values[1]
    axes.set_xlabel("training step (log scale)" if stretched else "training step", fontsize=8.5, color=MUTED)
    if stretched:
        axes.set_xscale("symlog", linthresh=float(values[1]), linscale=0.4)
        axes.set_xticks([0, *(10**k for k in range(10) if values[1] <= 10**k < values[-1] / 3), int(values[-1])])
        axes.set_xticks([], minor=True)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
    axes.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}".replace(",", "\u202f"))
    axes.set_xlim(0, float(values[-1]))


def percent(axis: Axis) -> None:
    """Ticks of shares as per cent, with the digits that they need."""
    axis.set_major_formatter(lambda share, _: f"{100 * share:.3g} %".replace("-", "−"))


def name(text: str, longest: int) -> str:
    """A name from the data as it can be drawn: shortened, its dollars no formula."""
    short = text if len(text) <= longest else text[: longest - 1] + "…"
    return short.replace("$", r"\$")


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
