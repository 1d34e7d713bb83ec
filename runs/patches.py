"""Do networks grow oriented filters from natural images?

Olshausen & Field 1996 (10.1038/381607a0): a code for patches of natural images whose units are rarely active grows local and
oriented filters, as Jones & Palmer 1987 (10.1152/jn.1987.58.6.1233) found them in the visual cortex. Here no code is asked
for but a task: a network of one hidden ReLU layer, with an L2 penalty, predicts the 4 x 4 pixels in the middle of a patch
from the whole patch with noise added to every pixel. The filters are the hidden units' incoming weights, as they are, which
multiply whitened pixels. Each is fitted by a Gabor function; beside R^2 of that fit stand the same networks' filters at
their init, their own pixels in random places, their own Fourier amplitudes with random phases, and noise.

The task is local and so are filters that solve it, natural images or not. So the same networks, from the same inits, are
trained on the photographs with their Fourier amplitudes and random phases, which have the same correlations and no edges:
only what filters have beyond theirs comes from natural images, and only from the two that scikit-learn brings.

The data: grey photographs, 0.299 red + 0.587 green + 0.114 blue, whitened by Olshausen & Field's filter f exp(-(f/0.4)^4),
f in cycles a pixel; patches from uniform places, half of each photograph, those for test from the right fifth, less the
patch's own mean; all divided by one number, so that train pixels have a standard deviation of 1. Noise is Gaussian and drawn
once for each patch.

    python runs/patches.py
    python runs/patches.py --num-seeds 3 --num-steps 60 --num-patches 500 --num-fitted 3 --out results/quick
"""

from wspace.cores import use_cores

use_cores()

from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_sample_images

from analysis.figures import style
from analysis.figures import units as figures
from analysis.report.findings import Finding, dumps, finding, phrase
from analysis.statistics import Estimate, median
from analysis.units.gabor import GaborComparison, compare, fit_gabor, median_r2, random_phases, share_above
from analysis.units.templates import templates
from wspace.monitor import Bar
from wspace.run import Run
from wspace.spec import (
    CheckpointSpec,
    DataSpec,
    ModelSpec,
    ObjectiveSpec,
    OptimizerSpec,
    ScheduleSpec,
    SeedSpec,
    Spec,
    TrainSpec,
)
from wspace.train import train

GREY = (0.299, 0.587, 0.114)
CUTOFF = 0.4  # cycles a pixel, as 200 cycles a picture of 512 pixels were
TEST = 0.2  # share of a photograph, and of the patches
CENTRE = 4  # pixels a side
ROWS = {
    "filters": "photographs: filters",
    "init": "  at the init",
    "pixels": "  their pixels in random places",
    "phases": "  their Fourier amplitudes, random phases",
    "noise": "  noise",
    "scrambled": "photographs with random phases: filters",
}

LINES = {
    "filters": "photographs",
    "init": "untrained",
    "scrambled": "scrambled photographs",
    "phases": "random phases",
    "pixels": "pixels shuffled",
    "noise": "noise",
}


def main(
    num_seeds: int = 16,
    num_steps: int = 3000,
    num_patches: int = 20_000,
    size: int = 12,
    noise: float = 1.0,
    num_units: int = 64,
    l2: float = 0.2,
    num_fitted: int = 12,
    num_starts: int = 6,
    out: Path = Path("results/patches"),
) -> int:
    """Train on photographs and on scrambled ones, fit filters and nulls, print and store what fits.

    Args:
        num_seeds: restarts on each kind of picture.
        num_steps: of training, in batches of 128 patches at most.
        num_patches: of train and test together.
        size: height and width of a patch, pixels; even.
        noise: standard deviation, in those of the patches' pixels.
        num_units: hidden units.
        l2: coefficient of the penalty.
        num_fitted: units of each network whose filters are fitted: the first, as units have no order.
        num_starts: of each fit.
        out: folder of the data, the runs, comparison.json, filters.npz, filters.svg and scores.svg.
    """
    console, rng = Console(), np.random.default_rng(0)
    if size % 2 or size <= CENTRE or not 1 <= num_fitted <= num_units or num_patches < 20:
        console.print(
            f"patches of {size} pixels, {num_fitted} of {num_units} units, {num_patches} patches: an even size above "
            f"{CENTRE}, one unit at least and 20 patches are expected"
        )
        return 2
    grey = np.stack(load_sample_images().images) @ np.array(GREY) / 255
    runs: dict[str, Run] = {}
    pictures = {"photographs": grey, "scrambled": random_phases(grey, np.random.default_rng(1))}
    for name, shown in pictures.items():
        path = write_patches(out / "data" / f"{name}.npz", shown, size, num_patches, noise)
        spec = make_spec(name, path, num_units, l2, num_seeds, num_steps)
        with Bar(console, name) as bar:
            runs[name] = train(spec, out / name, monitor=bar)
        if not runs[name].converged().any():
            console.print(f"{name}: no restart was trained to the end")
            return 1
    filters, seeds = first_filters(runs["photographs"], size, num_fitted)
    with console.status("fitting filters and nulls"):
        comparison = compare(filters, seeds, rng=rng, num_starts=num_starts)
    others = {
        "init": first_filters(runs["photographs"], size, num_fitted, checkpoint=0),
        "scrambled": first_filters(runs["scrambled"], size, num_fitted),
    }
    with console.status("fitting the other filters"):
        fits = {name: fit_gabor(given, rng=rng, num_starts=num_starts).r2 for name, (given, _) in others.items()}
    gained = difference((comparison.fits.r2, seeds), (fits["scrambled"], others["scrambled"][1]), rng)
    rows = describe(comparison, seeds, {name: (fits[name], others[name][1]) for name in others}, rng)
    scores = {
        name: median(run.metrics["test_r2"][run.converged(), -1].astype(float), rng=rng) for name, run in runs.items()
    }
    _print(console, rows, gained, scores, comparison, num_fitted)
    found = rows | {
        "photographs_less_scrambled": {} if gained is None else {"r2": finding(gained)},
        "test_r2": {name: finding(score) for name, score in scores.items()},
        "thresholds": {name: finding(value, n=len(np.unique(seeds))) for name, value in comparison.thresholds.items()},
    }
    numbers_file, filters_file = out / "comparison.json", out / "filters.npz"
    numbers_file.write_text(dumps(found), encoding="utf-8")
    r2 = {"filters": comparison.fits.r2, **fits, **comparison.nulls}
    drawn = {
        "filters": figures.gabor_fits(filters, comparison.fits.images, r2["filters"], "Gabor functions, best to worst"),
        "scores": figures.gabor_scores({label: r2[name] for name, label in LINES.items()}),
    }
    for name, figure in drawn.items():
        (out / f"{name}.svg").write_bytes(style.svg(figure))
    arrays: dict[str, Any] = {f"r2_{name}": values for name, values in r2.items()}
    arrays |= {"filters": filters, "seeds": seeds, "fitted": comparison.fits.images}
    np.savez(filters_file, **arrays)
    console.print(
        f"numbers: {numbers_file}; filters and fits: {filters_file}; figures: {out / 'filters.svg'}, {out / 'scores.svg'}",
        soft_wrap=True,
    )
    return 0


def write_patches(path: Path, pictures: np.ndarray, size: int, num: int, noise: float) -> Path:
    """Noisy patches and the clean middles of them, in an npz file with a test set of its own."""
    rng, sets = np.random.default_rng(0), {}
    whitened = [whiten(picture) for picture in pictures]
    num_test = max(len(pictures), round(TEST * num))
    for name, count in (("train", num - num_test), ("test", num_test)):
        cut = []
        for k, picture in enumerate(whitened):
            height, width = picture.shape
            border = round((1 - TEST) * width)
            low, high = (0, border - size) if name == "train" else (border, width - size)
            share = count // len(pictures) + (k < count % len(pictures))
            corners = np.stack([rng.integers(0, height - size + 1, share), rng.integers(low, high + 1, share)], axis=1)
            cut += [picture[row : row + size, column : column + size] for row, column in corners]
        sets[name] = np.stack(cut) - np.mean(cut, axis=(1, 2), keepdims=True)
    scale, edge = sets["train"].std(), (size - CENTRE) // 2
    arrays: dict[str, Any] = {}
    for name, patches in sets.items():
        clean = patches / scale
        arrays[f"x_{name}"] = (clean + noise * rng.standard_normal(clean.shape)).astype(np.float32)
        arrays[f"y_{name}"] = clean[:, edge:-edge, edge:-edge].reshape(len(clean), -1).astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)
    return path


def whiten(picture: np.ndarray) -> np.ndarray:
    """A picture filtered by f exp(-(f/CUTOFF)^4), as if it went on periodically, with a standard deviation of 1."""
    rows, columns = (np.fft.fftfreq(side) for side in picture.shape)
    frequency = np.hypot(rows[:, None], columns)
    flat = np.fft.ifft2(np.fft.fft2(picture) * frequency * np.exp(-((frequency / CUTOFF) ** 4))).real
    return flat / flat.std()


def make_spec(name: str, path: Path, num_units: int, l2: float, num_seeds: int, num_steps: int) -> Spec:
    """Restarts of one hidden ReLU layer on patches that come in the units that training is to see."""
    with np.load(path) as arrays:
        num_train = len(arrays["x_train"])
    return Spec(
        name=name,
        question="Do networks grow oriented filters from natural images?",
        data=DataSpec(name="npz", path=str(path), standardize=False),
        model=ModelSpec(hidden=(num_units,)),
        objective=ObjectiveSpec(l2=l2),
        optimizer=OptimizerSpec(name="adam", learning_rate=3e-3),
        schedule=ScheduleSpec(kind="cosine"),
        train=TrainSpec(num_steps=num_steps, batch_size=min(128, num_train)),
        checkpoints=CheckpointSpec(num=3),
        seeds=SeedSpec(num=num_seeds),
    )


def first_filters(run: Run, size: int, num: int, checkpoint: int = -1) -> tuple[np.ndarray, np.ndarray]:
    """The first filters of every restart trained to its end, (filter, size, size), and the seed of each."""
    kept = templates(run.params(checkpoint=checkpoint), (size, size))[:, :num]
    return kept.reshape(-1, size, size), np.repeat(run.seeds[run.converged()], num)


def describe(
    comparison: GaborComparison,
    seeds: np.ndarray,
    others: dict[str, tuple[np.ndarray, np.ndarray]],
    rng: np.random.Generator,
) -> dict[str, dict[str, Finding]]:
    """By kind of filter: the median R^2, and the shares above the nulls of the trained filters."""
    r2 = {"filters": (comparison.fits.r2, seeds), **others}
    r2 |= {name: (null, seeds) for name, null in comparison.nulls.items()}
    rows: dict[str, dict[str, Finding]] = {}
    for name, (values, labels) in r2.items():
        known: dict[str, Estimate] = {"r2": median_r2(values, labels, rng=rng)}
        for null, threshold in comparison.thresholds.items():
            known[f"above_{null}"] = share_above(values, labels, threshold, rng=rng)
        rows[name] = {key: finding(value) for key, value in known.items()}
    return rows


def difference(
    first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray], rng: np.random.Generator
) -> Estimate | None:
    """Median over restarts of what the median R^2 of one kind of filter exceeds that of another by, from the same init.

    None where no restart has both.
    """
    each = [
        {seed: np.nanmedian(r2[seeds == seed]) for seed in np.unique(seeds[~np.isnan(r2)])}
        for r2, seeds in (first, second)
    ]
    both = np.array([each[0][seed] - each[1][seed] for seed in each[0] if seed in each[1]])
    return median(both, rng=rng) if len(both) else None


def _print(
    console: Console, rows: dict[str, dict[str, Finding]], gained: Estimate | None, scores: dict[str, Estimate],
    comparison: GaborComparison, num_fitted: int,
) -> None:  # fmt: skip
    table = Table("filters", "R² of the Gabor fit", "above pixels", "above phases")
    for name, words in ROWS.items():
        row = rows[name]
        table.add_row(words, *(phrase(row[key]) for key in ("r2", "above_pixels", "above_phases")))
    console.print(table)
    thresholds = " and ".join(f"{comparison.thresholds[name]:.3f} ({name})" for name in ("pixels", "phases"))
    console.print(
        f"median over restarts of the median over {num_fitted} filters of each; shares of filters above the nulls' 95th "
        f"percentiles, {thresholds}: means over restarts; 95 % intervals resample restarts"
    )
    if gained is not None:
        console.print(f"R² on photographs less that on scrambled ones, same init: {phrase(finding(gained))}")
    fits, middle = comparison.fits, lambda values: float(np.nanmedian(values))
    console.print(
        f"fits to the filters: {middle(fits.frequency):.3f} cycles a pixel, {middle(fits.along):.2f} pixels wide along the "
        f"wave and {middle(fits.across):.2f} across (medians); {np.mean(fits.converged):.0%} converged; test R² of the task "
        + ", ".join(f"{score.value:.3f} on {name}" for name, score in scores.items())
    )


if __name__ == "__main__":
    raise SystemExit(tyro.cli(main))
