"""What a swept value changes."""

import itertools
from collections.abc import Mapping

from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

from analysis.figures import style
from analysis.statistics import Estimate

SHIFT = 4.0  # points between lines at one place


def summary(
    title: str,
    xlabel: str,
    ylabel: str,
    groups: dict[str, list[tuple[float, Estimate]]],
    colors: Mapping[str, str] | None = None,
) -> Figure:
    """Estimates with their intervals against a swept number, one line for each combination of the other values.

    Lines that share a place are drawn a few points beside each other, so that none hides another's interval.

    Args:
        title: of the panel.
        xlabel: the swept field.
        ylabel: what the estimates are; their unit is added.
        groups: label (empty when nothing else is swept) -> (x, estimate) pairs.
        colors: of labels that have one of their own.
    """
    unit = next(iter(groups.values()))[0][1].unit
    figure, axes = style.panel(title, xlabel, f"{ylabel} ({unit})" if unit not in ("", "share") else ylabel)
    places = sorted({x for group in groups.values() for x, _ in group})
    cycle = zip(groups.items(), itertools.cycle(style.CYCLE), itertools.cycle("osD^"), strict=False)
    for i, ((label, group), color, marker) in enumerate(cycle):
        color = (colors or {}).get(label, color)
        aside = ScaledTranslation((i - (len(groups) - 1) / 2) * SHIFT / 72, 0, figure.dpi_scale_trans)
        place = axes.transData + aside
        points = sorted(group, key=lambda point: point[0])
        xs, ys = [x for x, _ in points], [estimate.value for _, estimate in points]
        lines = axes.plot(xs, ys, color=color, linewidth=1, marker=marker, markersize=4.5, label=label)
        for x, estimate in points:
            if estimate.ci:
                lines += axes.plot([x, x], estimate.ci, color=color, linewidth=2, solid_capstyle="butt")
        for line in lines:  # after the data have set the limits
            line.set_transform(place)
    if places[0] > 0 and places[-1] >= 8 * places[0]:
        axes.set_xscale("log")
    axes.set_xticks(places, [f"{x:g}" for x in places])
    axes.set_xticks([], minor=True)
    values = [estimate.value for group in groups.values() for _, estimate in group]
    if unit == "share":
        axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.4g}%")
    elif min(values) > 0 and max(values) >= 10 * min(values):
        style.log(axes, "y")
    if any(groups) and len(groups) <= len(style.CYCLE):
        figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8, labelcolor=style.INK)
    return figure
