"""What lies on the line between two networks."""

from matplotlib.figure import Figure

from analysis.connectivity import Line
from analysis.figures import style

SPLITS = {"train": style.TRAIN, "test": style.TEST}


def losses(line: Line, ylabel: str) -> Figure:
    """Train and test loss along the line, their chords, and the barrier above the train chord.

    The axis is linear: on it, a convex loss lies below its straight chord everywhere.
    """
    figure, axes = style.panel("Loss on the straight line", "position between restart a and restart b", ylabel)
    for split, color in SPLITS.items():
        name = f"{split}_loss"
        axes.plot(line.alphas, line.values[name], color=color, linewidth=1.8, label=split)
        axes.plot(line.alphas, line.chord(name), color=color, linewidth=1, linestyle="--")
    barrier = line.barriers["train_loss"]
    if barrier.violates_jensen:
        at, values = barrier.chord_alpha, line.values["train_loss"]
        foot = (1 - at) * values[0] + at * values[-1]
        arrow = {"arrowstyle": "<->", "color": style.INK, "linewidth": 1, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", (at, foot + barrier.chord), (at, foot), arrowprops=arrow)
        axes.annotate(
            "barrier (train)",
            (at, foot + barrier.chord / 2),
            (5, 0),
            textcoords="offset points",
            fontsize=8,
            color=style.INK,
            va="center",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1},
        )
    axes.plot([], [], color=style.MUTED, linewidth=1, linestyle="--", label="chord")
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["a", "¼", "½", "¾", "b"])
    style.legend(axes)
    return figure


def scores(line: Line) -> Figure:
    """Accuracy (or r2) along the line."""
    kind = "accuracy" if "train_accuracy" in line.values else "r2"
    title = "Accuracy on the same line" if kind == "accuracy" else "R² on the same line"
    figure, axes = style.panel(title, "position between restart a and restart b", kind.replace("r2", "R²"))
    for split, color in SPLITS.items():
        axes.plot(line.alphas, line.values[f"{split}_{kind}"], color=color, linewidth=1.8, label=split)
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["a", "¼", "½", "¾", "b"])
    if kind == "accuracy":
        axes.set_ylim(0, 1.02)
        axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    style.legend(axes)
    return figure
