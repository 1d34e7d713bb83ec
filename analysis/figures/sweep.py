"""What a swept value changes."""

import itertools

from matplotlib.figure import Figure

from analysis.figures import style
from analysis.statistics import Estimate


def summary(title: str, xlabel: str, groups: dict[str, list[tuple[float, Estimate]]]) -> Figure:
    """Estimates with their intervals against a swept number, one line for each combination of the other values.

    Args:
        title: of the panel; the unit of the estimates is added to the axis.
        xlabel: the swept field.
        groups: label (empty when nothing else is swept) -> (x, estimate) pairs.
    """
    unit = next(iter(groups.values()))[0][1].unit
    figure, axes = style.panel(title, xlabel, f"median ({unit})" if unit not in ("", "share") else "median")
    places = sorted({x for group in groups.values() for x, _ in group})
    colors = itertools.cycle(style.CYCLE)
    for (label, group), color in zip(groups.items(), colors, strict=False):
        points = sorted(group, key=lambda point: point[0])
        xs, ys = [x for x, _ in points], [estimate.value for _, estimate in points]
        axes.plot(xs, ys, color=color, linewidth=1.2, marker="o", markersize=4.5, label=label)
        with_ci = [(x, estimate.ci) for x, estimate in points if estimate.ci]
        axes.vlines(
            [x for x, _ in with_ci], *zip(*(ci for _, ci in with_ci), strict=True), color=color, linewidth=2.2
        ) if with_ci else None
    if places[0] > 0 and places[-1] >= 8 * places[0]:
        axes.set_xscale("log")
    axes.set_xticks(places, [f"{x:g}" for x in places])
    axes.set_xticks([], minor=True)
    values = [estimate.value for group in groups.values() for _, estimate in group]
    if unit == "share":
        axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.4g} %")
    elif min(values) > 0 and max(values) >= 10 * min(values):
        axes.set_yscale("log")
    if any(groups) and len(groups) <= len(style.CYCLE):
        figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8, labelcolor=style.INK)
    return figure
