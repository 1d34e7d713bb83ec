"""Section: whether filters of the first layer look like Gabor functions, beside filters that mean nothing."""

from typing import NamedTuple

import numpy as np

from analysis.figures import units as figures
from analysis.report.findings import Finding, finding
from analysis.report.section import Content, Picture, Section, Tell, plural, some_converged
from analysis.report.shared import as_images, by_channels, channels
from analysis.statistics import median
from analysis.units import GaborComparison, compare, fit_gabor, templates
from analysis.units.gabor import median_by_seed, median_r2, varies
from wspace.models import ConvNet
from wspace.run import Run

FEWEST_PIXELS = 5  # a side: a Gabor function has eight params
MOST_SEEDS, MOST_FILTERS = 12, 48  # ten seconds for them and what stands beside them
NUM_STARTS = 4
SHOWN = 6
LABELS = {
    "filters": "trained",
    "untrained": "untrained",
    "phases": "trained, random phases",
    "pixels": "trained, pixels shuffled",
    "noise": "noise",
}


class Measured(NamedTuple):
    """Filters (filter, height, width), the seed of each, their fits and nulls, and R^2 of the same units before training."""

    filters: np.ndarray
    seeds: np.ndarray
    comparison: GaborComparison
    untrained: np.ndarray


def has_filters(run: Run) -> str | None:
    """Filters that are images, large enough for a fit, and not all constant."""
    if reason := some_converged(run):
        return reason
    filters = first_filters(run)[0]
    if filters is None:
        return "The inputs of this run are no images, so that its templates are no filters."
    if min(filters.shape[1:]) < FEWEST_PIXELS:
        return (
            "Filters with a side of fewer than five pixels are too small for Gabor functions, which have eight params."
        )
    if not varies(filters).any():
        return "All filters are constant: there is nothing that a fit could explain."
    return None


def first_filters(run: Run, checkpoint: int = -1) -> tuple[np.ndarray | None, np.ndarray]:
    """The first units' templates of some restarts as (filter, height, width), None if no images; and the seed of each."""
    ids = run.seeds[run.converged()][:MOST_SEEDS]
    images = templates(run.params(ids.tolist(), checkpoint), run.data.input_shape)
    images = images[:, : max(1, MOST_FILTERS // len(ids))]
    seeds = np.repeat(ids, images.shape[1])
    if (shown := by_channels(images) if isinstance(run.model, ConvNet) else as_images(run, images)) is None:
        return None, seeds
    plain = shown if shown.ndim == 4 else shown.mean(axis=-1)
    return plain.reshape(-1, *plain.shape[2:]).astype(np.float64), seeds


def write(run: Run, rng: np.random.Generator, tell: Tell) -> Content:
    """Fits to filters, to the same networks' filters at their init, and to three nulls."""
    found = measure(run, rng, tell)
    findings = _findings(found, rng)
    seeds = findings["seeds"]["value"]
    return Content(
        findings=findings,
        headline="Gabor functions fit filters of the first layer with an R² of {r2}, and filters as smooth with random "
        f"phases with one of {{r2_phases:value}} ({{r2:n}} {plural(seeds, 'seed', 'seeds')}).",
        says=tuple(_says(findings)),
        shows="A Gabor function is a plane wave under a bell-shaped envelope; cells of the visual cortex, and units trained "
        "on natural images, often resemble one. One is fitted to each of {filters} filters of {seeds} "
        f"{plural(seeds, 'restart', 'restarts')} by least squares, the best of {{starts}} starts.",
        reads="R² is the share of a filter's variation over its pixels that the fit explains. A fit with so many "
        "parameters explains something of anything: what counts is how far it lies beyond the same fit of filters without "
        "a meaning. Shuffled pixels have the filter's values; random phases have its smoothness and orientation as "
        "well, and are the stricter test.",
        limits="A filter may be local and oriented without being a Gabor function, and a blob without a wave is fitted "
        "well by one. Filters become smooth and local where inputs are, whatever the task; the nulls do not tell what made "
        "them. Another start may find a better fit.",
        pictures=tuple(_pictures(run, found)),
        facts=tuple(_facts()),
    )


def measure(run: Run, rng: np.random.Generator, tell: Tell) -> Measured:
    """Fit everything, each filter with as many starts."""
    (filters, seeds), (before, _) = first_filters(run), first_filters(run, 0)
    assert filters is not None
    assert before is not None
    tell("fitting Gabor functions")
    comparison = compare(filters, seeds, rng=rng, num_starts=NUM_STARTS)
    return Measured(filters, seeds, comparison, fit_gabor(before, rng=rng, num_starts=NUM_STARTS).r2)


def _findings(found: Measured, rng: np.random.Generator) -> dict[str, Finding]:
    fits, num = found.comparison.fits, len(np.unique(found.seeds))
    findings = {
        "seeds": finding(num, n=num),
        "filters": finding(len(found.filters), n=num),
        "starts": finding(NUM_STARTS),
        "r2": finding(found.comparison.medians["filters"]),
        **{f"r2_{name}": finding(found.comparison.medians[name]) for name in found.comparison.nulls},
        **{f"above_{name}": finding(share) for name, share in found.comparison.above.items()},
        "found_again": finding(float(np.nanmedian(fits.found_again)), n=num, unit="share"),
        "constant": finding(int(np.isnan(fits.r2).sum()), n=num),
    }
    for name in ("frequency", "along", "across"):
        values = getattr(fits, name)
        findings[name] = finding(
            median(
                median_by_seed(values, found.seeds), rng=rng, unit="cycles a pixel" if name == "frequency" else "pixels"
            )
        )
    if np.any(np.isfinite(found.untrained)):
        findings["r2_untrained"] = finding(median_r2(found.untrained, found.seeds, rng=rng))
        both = np.isfinite(fits.r2) & np.isfinite(found.untrained)
        gained = fits.r2[both] - found.untrained[both]
        findings["gained"] = finding(median(median_by_seed(gained, found.seeds[both]), rng=rng))
    return findings


def _says(findings: dict[str, Finding]):
    yield (
        "The median filter has an R² of {r2}. Its own pixels in random places have {r2_pixels}, filters with its "
        "Fourier amplitudes and random phases {r2_phases}, noise {r2_noise}."
    )
    yield (
        "Above what five in a hundred of them reach lie {above_pixels} of the filters for shuffled pixels, "
        "{above_phases} for random phases and {above_noise} for noise."
    )
    if "gained" in findings:
        yield (
            "Before training the same units have {r2_untrained}: in the median restart, the median filter gains {gained}."
        )
    yield (
        "The waves of the fits have {frequency}, under envelopes {along} wide along the wave and {across} across (standard "
        "deviations). The best fit is found by {found_again} of the starts."
    )


def _facts():
    yield "Filters fitted", "{filters}"
    yield "Constant filters, left out", "{constant}"
    yield "Starts of each fit", "{starts}"


def _pictures(run: Run, found: Measured):
    comparison = found.comparison
    yield Picture(
        "gabor-fits",
        figures.gabor_fits(found.filters, comparison.fits.images, comparison.fits.r2, "Gabor functions, best to worst"),
        "Filters of the first layer and the Gabor functions nearest to them, evenly chosen from the best fit to the worst. "
        "A filter and its fit have one scale; red is positive, blue negative, white zero."
        + (" Drawn, and fitted, is the mean over the channels of the inputs." if channels(run) > 1 else ""),
        "Images of filters above images of the fitted functions.",
    )
    kinds = {"filters": comparison.fits.r2, "untrained": found.untrained, **comparison.nulls}
    yield Picture(
        "gabor",
        figures.gabor_scores({label: kinds[name] for name, label in LABELS.items()}),
        "Share of filters whose fit is at most as good as R² says, all restarts together: trained filters, the same "
        "units before training, and filters without a meaning. The farther to the right, the more like a Gabor function.",
        "Distributions of R²: median of trained filters {r2:value}, with random phases {r2_phases:value}.",
    )


SECTION = Section(
    "gabor",
    "Do filters look like Gabor functions?",
    "Are units of the first layer local and oriented, more than the same values without an order would be?",
    has_filters,
    write,
)
