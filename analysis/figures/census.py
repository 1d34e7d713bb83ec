"""How many minima there are: discovery curves, tolerances, the minima in the order of their loss, certificates."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Num
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figures import style
from analysis.figures.strips import strip
from analysis.statistics import Estimate

FOUND, UNSEEN = style.END, style.TRAVELLED  # restarts at their end are green; what is only estimated is not
WAYS = ((style.END, "-"), (style.TRAVELLED, "--"), (style.CYCLE[4], "-."), (style.CYCLE[5], ":"))
CERTIFICATES = {
    "strict minimum": style.END,
    "degenerate minimum": style.CYCLE[4],
    "saddle": style.TRAVELLED,
    "not converged": style.INIT,
}
FAR = 4  # an estimate this many times higher than a curve would flatten it on a linear axis
MOST_ROWS = 15  # of a ladder


def discovery(
    restarts: Num[np.ndarray, "restart"], found: Float[np.ndarray, "restart"], low: Float[np.ndarray, "restart"],
    high: Float[np.ndarray, "restart"], extrapolated: Bool[np.ndarray, "restart"],
    observed_order: Int[np.ndarray, "observed"] | None = None,
    chao: tuple[float, tuple[float, float] | None] | None = None,
) -> Figure:  # fmt: skip
    """Expected number of distinct minima among so many restarts, dashed where it is extrapolated.

    Faint are the line on which every restart finds a new minimum and the numbers found in the order of the seeds. At the
    right stands the interval of an estimate of all minima, unseen ones too, cut where it leaves the axis; both axes are
    logarithmic where the estimate is more than FAR times what is found.

    Args:
        restarts: numbers of restarts, ascending.
        found: expected number of distinct minima.
        low, high: of its interval; NaN where there is none.
        extrapolated: which of them lie beyond what was observed.
        observed_order: distinct minima among the first 1, 2, .. restarts, as they came.
        chao: the estimate of all minima and its interval; left out where it is not finite.
    """
    figure, axes = style.panel("Do restarts still find new minima?", "restarts", "distinct minima", (4.1, 3.6))
    end = float(restarts[-1])
    marker = "." if len(restarts) < 3 else None
    axes.fill_between(restarts, low, high, color=FOUND, alpha=0.2, linewidth=0)
    axes.plot(
        restarts, np.where(extrapolated, np.nan, found), color=FOUND, linewidth=1.9, marker=marker, label="expected"
    )
    if extrapolated.any():
        last = max(int(np.argmax(extrapolated)) - 1, 0)  # the dashes begin where the line ends
        axes.plot(
            restarts[last:], found[last:], color=FOUND, linewidth=1.9, linestyle=(0, (3, 1.5)), label="extrapolated"
        )
    order = np.zeros(0) if observed_order is None else observed_order.astype(float)
    if len(order):
        axes.step(
            np.arange(1, len(order) + 1), order, where="post", color=style.INK, linewidth=0.7, alpha=0.7,
            label="in the order of the seeds",
        )  # fmt: skip
    top, log = float(np.nanmax(np.concatenate([found, high, order]), initial=1.0)), False
    if chao is not None and math.isfinite(chao[0]):
        value, (bottom, peak) = chao[0], chao[1] or (math.nan, math.nan)
        log = value > FAR * top and end > 1
        top = max(top, value)
        peak = min(peak, 10 * top)  # it may have no upper end
        axes.axhline(
            value, color=UNSEEN, linewidth=1.3, linestyle=":", zorder=1, label=f"all, estimated: {_short(value)}"
        )
        axes.fill_between(
            [0.955, 0.99], bottom, peak, transform=axes.get_yaxis_transform(), color=UNSEEN, alpha=0.4, linewidth=0
        )
        top = max(top, min(peak, 1.6 * top)) if math.isfinite(peak) else top
    ends = [1 if log else 0, max(end, 2)]
    axes.plot(ends, ends, color=style.INIT, linewidth=1, linestyle="-.", alpha=0.8, zorder=1, label="every restart new")
    axes.set_xlim(0, end)
    axes.set_ylim(0, 1.08 * top)
    if log:
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(1, end)
        axes.set_ylim(0.8, 2 * top)
        style.log(axes, "x")
        style.log(axes, "y")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(7, integer=True))
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8, labelcolor=style.INK)
    return figure


def tolerances(
    tolerances: Float[np.ndarray, "tolerance"], counts: Mapping[str, Int[np.ndarray, "tolerance"]], chosen: float | None
) -> Figure:
    """How many minima are distinct at a tolerance: a plateau is a number that hardly depends on it.

    Args:
        tolerances: positive, ascending.
        counts: way of telling minima apart -> number of distinct ones at each tolerance.
        chosen: the tolerance of the census.
    """
    figure, axes = style.panel(
        "Does the tolerance matter?", "tolerance (relative distance)", "number of distinct minima", (4.1, 3.3)
    )  # fmt: skip
    for (way, values), (color, dashes) in zip(counts.items(), WAYS, strict=False):
        axes.step(tolerances, values, where="post", color=color, linewidth=1.8, linestyle=dashes, label=way)
    every = np.concatenate([values.astype(float) for values in counts.values()])
    axes.set_xscale("log")
    if len(tolerances) > 1:
        axes.set_xlim(float(tolerances[0]), float(tolerances[-1]))
    if style.spans_decades(every):
        axes.set_yscale("log")
        axes.set_ylim(float(every.min()) / 1.3, float(every.max()) * 1.3)
        style.log(axes, "y")
    else:
        axes.set_ylim(0, 1.08 * max(float(every.max(initial=0)), 1.0))
        axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    if chosen is not None:
        axes.axvline(chosen, color=style.INK, linewidth=1.2, zorder=1, label=f"chosen: {_short(chosen)}")
    style.log(axes, "x")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8, labelcolor=style.INK)
    return figure


def ladder(
    losses: Float[np.ndarray, "minimum"], shares: Float[np.ndarray, "minimum"], lows: Float[np.ndarray, "minimum"],
    highs: Float[np.ndarray, "minimum"], labels: Sequence[str], unit: str, others: tuple[int, float] | None = None,
) -> Figure:  # fmt: skip
    """The minima from the lowest loss down the page: the share of restarts that end in each, with its interval.

    Args:
        losses: of the minima, in any order; written beside the rows.
        shares: of the restarts.
        lows, highs: of the shares' intervals; NaN where there is none.
        labels: of the minima.
        unit: of the loss.
        others: number of further minima and the share of restarts in them all; a last row.

    Raises:
        ValueError: there are more than MOST_ROWS minima.
    """
    if len(losses) > MOST_ROWS:
        raise ValueError(f"a ladder has at most {MOST_ROWS} rows; got {len(losses)} minima: sum up some as `others`")
    num = len(losses) + (others is not None)
    figure, axes = style.panel("Minima by loss", "share of restarts", "", (4.1, 1.05 + 0.24 * max(num, 2)))
    order = np.argsort(losses, kind="stable")
    names = [str(labels[i]) for i in order]
    axes.barh(range(len(order)), shares[order], height=0.62, color=FOUND, alpha=0.75, linewidth=0)
    axes.hlines(range(len(order)), lows[order], highs[order], color=style.INK, linewidth=1.3)
    written = [_short(float(losses[i]), zeros=True) for i in order]
    ends = [float(np.nanmax(values, initial=0)) for values in (shares, highs)]
    if others is not None:
        names.append(f"{others[0]} others")
        written.append("")
        axes.barh(len(order), others[1], height=0.62, color=style.INIT, alpha=0.6, linewidth=0)
        ends.append(others[1])
    style.rows(axes, names, [style.INK] * num)
    axes.set_xlim(0, 1.04 * max(ends) or 1)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(lambda share, _: f"{100 * share:.4g}%")
    right = axes.secondary_yaxis("right")
    right.set_yticks(range(num), written)
    right.tick_params(labelsize=8, colors=style.MUTED, length=0, pad=3)
    right.set_ylabel(f"loss ({unit})", fontsize=8.5, color=style.MUTED)
    right.spines["right"].set_visible(False)
    return figure


def certificates(counts: Mapping[str, int]) -> Figure:
    """What kind of point the restarts end in: one bar of all endpoints, divided.

    Args:
        counts: kind -> number of endpoints; the kinds are those of CERTIFICATES.

    Raises:
        ValueError: a kind is not one of them.
    """
    if unknown := set(counts) - set(CERTIFICATES):
        raise ValueError(f"endpoints are {', '.join(CERTIFICATES)}; got {', '.join(sorted(unknown))}")
    figure, axes = style.panel("What restarts end in", "number of endpoints", "", (4.1, 1.75))
    start = 0
    for kind, color in CERTIFICATES.items():
        if kind in counts:
            axes.barh(
                0, counts[kind], left=start, height=0.8, color=color, edgecolor="white", linewidth=0.6,
                label=f"{kind}: {counts[kind]:,}".replace(",", "\u202f"),
            )  # fmt: skip
            start += counts[kind]
    axes.set_xlim(0, start or 1)
    style.rows(axes, ["restarts"], [style.INK])
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8, labelcolor=style.INK)
    return figure


def stationarity(
    before: Float[np.ndarray, "restart"], after: Float[np.ndarray, "restart"], threshold: float, unit: str
) -> Figure:
    """Gradient norms of all restarts before and after polishing, on a logarithmic axis; medians as upright lines.

    Norms of exactly 0 have no place there: they are arrows at the left edge.

    Args:
        before, after: gradient norms, at least 0; NaN where there are none.
        threshold: below which an endpoint counts as stationary.
        unit: of the norms.
    """
    figure, axes = style.panel("Are the endpoints stationary?", f"gradient norm ({unit})", "", (4.1, 2.7))
    rows = {"as trained": (before, style.INIT), "polished": (after, style.END)}
    every = np.concatenate([before, after, [threshold]])
    positive = every[np.isfinite(every) & (every > 0)]
    low, high = (float(positive.min()), float(positive.max())) if positive.size else (0.1, 1.0)
    room = max((high / low) ** 0.06, math.sqrt(max(100 * low / high, 1.0)))  # at least two decades
    axes.set_xscale("log")
    axes.set_xlim(low / room, high * room)
    style.log(axes, "x")
    for y, (values, color) in enumerate(rows.values()):
        some = values[np.isfinite(values) & (values > 0)]
        if some.size:
            strip(axes, y, some, Estimate(float(np.median(some)), None, len(some)), color)
        zeros = int(np.sum(values == 0))
        if zeros:
            axes.plot(
                [0.03], [y], transform=axes.get_yaxis_transform(), color=color, marker="<", markersize=6,
                linestyle="none", label=f"{zeros} at 0, {list(rows)[y]}",
            )  # fmt: skip
    axes.axvline(threshold, color=style.INK, linewidth=1.2, linestyle="--", label=f"threshold: {_short(threshold)}")
    style.rows(axes, list(rows), [color for _, color in rows.values()])
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8, labelcolor=style.INK)
    return figure


def _short(value: float, *, zeros: bool = False) -> str:
    """Three digits, thousands grouped, powers of ten spelt out; `zeros` keeps those at the end, for columns."""
    size = abs(value)
    if size == 0 or not math.isfinite(size):
        return f"{value:g}"
    if not 1e-3 <= size < 1e6:
        digits, power = f"{value:.2e}".split("e")
        digits = digits.rstrip("0").rstrip(".").replace("-", "−")
        times = {"1": "", "−1": "−"}.get(digits, f"{digits}·")
        return f"{times}$10^{{{int(power)}}}$"
    text = f"{value:,.0f}" if size >= 1000 else f"{value:#.3g}" if zeros else f"{value:.3g}"
    return text.rstrip(".").replace(",", "\u202f").replace("-", "−")
