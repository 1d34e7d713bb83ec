"""Gabor functions fitted to the first layer's filters, and what the same fit makes of filters that mean nothing.

A Gabor function is a plane wave under a Gaussian envelope,

    G(x, y) = amplitude exp(-u'^2 / (2 along^2) - v'^2 / (2 across^2)) cos(2 pi frequency u' + phase),

u' = (x - x0) cos o + (y - y0) sin o along the wave, v' = (y - y0) cos o - (x - x0) sin o across it. Positions and widths are
pixels from the middle of the grid, x to the right and y downwards, as rows count. The orientation o is the direction in
which the wave travels, from x towards y; its stripes lie at right angles to it.

Source: Jones & Palmer 1987, 10.1152/jn.1987.58.6.1233; of filters learned from natural images, Olshausen & Field 1996,
10.1038/381607a0.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import least_squares

from analysis.statistics import Estimate, bootstrap_seeds, extreme_share, median
from analysis.threads import in_threads

NARROWEST = 0.5  # pixels: a narrower envelope falls between them
NYQUIST = 0.5  # cycles a pixel
PERCENTILE = 95.0  # of a null's R^2 that filters have to exceed
RANDOM = 1 / 3  # of the starts are drawn, the others chosen
MOST_STEPS = 60  # of one start
TOLERANCE = 1e-6  # relative, of cost and params
PARAMS = ("amplitude", "x", "y", "along", "across", "orientation", "frequency", "phase")
CONSTANT = 1e-6  # of the largest |w|: values that differ by less are equal but for the rounding of float32
DEPENDENT = 1e-10  # singular values below this share of the largest: the sine of a wave of frequency 0


@dataclasses.dataclass(frozen=True)
class GaborFits:
    """The Gabor function nearest to each filter; all NaN for filters that do not vary (`varies`), which have no R^2.

    Attributes:
        r2: 1 - |w - G|^2 / |w - mean w|^2, at most 1. The mean is subtracted in the denominator, so that a filter of
            one sign gains nothing from a flat envelope, and not from w, as G has no constant: R^2 may be negative.
        amplitude: > 0, units of the filter. It grows as 1 / frequency where the wave turns into the slope of the envelope.
        x, y: centre, pixels from the middle of the grid.
        along, across: widths (standard deviations) along the wave and across it, pixels.
        orientation: radians in [0, pi).
        frequency: cycles a pixel in [0, 0.5].
        phase: radians in [-pi, pi); 0: a stripe of positive sign through the centre.
        images: G itself, float64.
        starts: R^2 that each start reached, in their order; the largest is r2.
        converged: whether that start met a tolerance before MOST_STEPS.
    """

    r2: Float[np.ndarray, "filter"]
    amplitude: Float[np.ndarray, "filter"]
    x: Float[np.ndarray, "filter"]
    y: Float[np.ndarray, "filter"]
    along: Float[np.ndarray, "filter"]
    across: Float[np.ndarray, "filter"]
    orientation: Float[np.ndarray, "filter"]
    frequency: Float[np.ndarray, "filter"]
    phase: Float[np.ndarray, "filter"]
    images: Float[np.ndarray, "filter height width"]
    starts: Float[np.ndarray, "filter start"]
    converged: Bool[np.ndarray, "filter"]

    @property
    def found_again(self) -> Float[np.ndarray, "filter"]:
        """Share of the starts that end within 0.01 of r2; where it is one start alone, more may find a better fit."""
        return np.where(np.isnan(self.r2), np.nan, np.mean(self.starts >= self.r2[:, None] - 0.01, axis=1))


@dataclasses.dataclass(frozen=True)
class GaborComparison:
    """Filters beside filters without a meaning, each fitted from as many starts.

    Attributes:
        fits: of the filters.
        nulls: R^2 by name: `pixels` (see `shuffled_pixels`), `phases` (`random_phases`), `noise` (`random_filters`).
        medians: over seeds of the median R^2 over a seed's filters: of `filters`, and of each null.
        thresholds: PERCENTILE of each null's R^2, all filters together.
        above: by null, the mean over seeds of the share of a seed's filters whose R^2 exceeds the threshold; 0.05 in the
            mean of filters drawn as the null's are. Intervals take the threshold as it is.
    """

    fits: GaborFits
    nulls: dict[str, Float[np.ndarray, "filter"]]
    medians: dict[str, Estimate]
    thresholds: dict[str, float]
    above: dict[str, Estimate]


def gabor(
    shape: tuple[int, int], *, amplitude: float = 1.0, x: float = 0.0, y: float = 0.0, along: float, across: float,
    orientation: float, frequency: float, phase: float = 0.0,
) -> Float[np.ndarray, "height width"]:  # fmt: skip
    """The Gabor function G on a grid of (height, width) pixels; units as those of `GaborFits`."""
    wave = _wave(*_grid(shape), np.array([x, y, along, across, orientation, frequency]))
    return (amplitude * (np.cos(phase) * wave.cosine - np.sin(phase) * wave.sine)).reshape(shape)


def fit_gabor(
    filters: Float[np.ndarray, "filter height width"], *, rng: np.random.Generator, num_starts: int = 8
) -> GaborFits:
    """The Gabor function with the least |w - G|^2, by bounded least squares from several starts, float64.

    amplitude cos(2 pi f u' + phase) = a cos(2 pi f u') + b sin(2 pi f u'): a and b are solved for at every step (variable
    projection), which leaves six parameters: the centre on the grid, widths from NARROWEST to the longer side and
    frequencies from 0 to NYQUIST. Two of three starts are the best round Gabor functions of a coarse grid, each of another
    orientation or frequency; the others are drawn. Every start descends to a local minimum, and the best of them is kept:
    it need not be the best of all, see `GaborFits.starts`.

    Args:
        filters: at least one; colours are no axis, so take one channel or their mean. Those that do not vary (`varies`)
            are not fitted.
        rng: source of the drawn starts.
        num_starts: at least 1; the first is always a chosen one.

    Raises:
        ValueError: there are no filters, they are smaller than 4 x 4 or not finite, or there are no starts.

    Source: Golub & Pereyra 1973, 10.1137/0710036; the Jacobian is Kaufman's, 1975, 10.1007/BF01932995.
    """
    _check(filters, num_starts)
    flat = filters.reshape(len(filters), -1).astype(np.float64)
    shape, fitted = filters.shape[1:], varies(filters)
    scale = np.where(fitted, np.linalg.norm(flat - flat.mean(axis=1, keepdims=True), axis=1), 1)
    unit = flat / scale[:, None]  # |unit - G|^2 is then 1 - R^2
    drawn = int(num_starts * RANDOM)
    low, high = _bounds(shape)
    low[4], high[4] = 0, np.pi  # orientations go round and have no bounds
    starts = np.concatenate(
        [_chosen(unit, shape, num_starts - drawn), rng.uniform(low, high, (len(unit), drawn, 6))], axis=1
    )
    nothing = _Fit(np.full(8, np.nan), np.full(num_starts, np.nan), False)
    fits = in_threads(lambda i: _fit(unit[i], shape, starts[i]) if fitted[i] else nothing, range(len(unit)))
    params = np.stack([fit.params for fit in fits])
    params[:, 0] *= scale
    values = dict(zip(PARAMS, params.T, strict=True))
    images = np.stack([gabor(shape, **dict(zip(PARAMS, row.tolist(), strict=True))) for row in params])
    reached = np.stack([fit.starts for fit in fits])
    converged = np.array([fit.converged for fit in fits])
    return GaborFits(r2=reached.max(axis=1), **values, images=images, starts=reached, converged=converged)


def varies(filters: Float[np.ndarray, "filter height width"]) -> Bool[np.ndarray, "filter"]:
    """Whether a filter varies over its pixels: max w - min w > CONSTANT max |w|.

    What varies less is constant but for the rounding of float32: its R^2 would be that of the rounding.
    """
    flat = filters.reshape(len(filters), -1).astype(np.float64)
    return np.ptp(flat, axis=1) > CONSTANT * np.abs(flat).max(axis=1)


def shuffled_pixels(
    filters: Float[np.ndarray, "filter height width"], rng: np.random.Generator
) -> Float[np.ndarray, "filter height width"]:
    """Each filter's own values in random places: what a fit of eight parameters makes of values without an order."""
    return rng.permuted(filters.reshape(len(filters), -1), axis=1).reshape(filters.shape)


def random_phases(
    filters: Float[np.ndarray, "filter height width"], rng: np.random.Generator
) -> Float[np.ndarray, "filter height width"]:
    """Each filter's own Fourier amplitudes and mean, with random phases: as smooth and as oriented, but not local.

    The stricter null: smooth noise resembles a Gabor function where its pixels in random places do not. Amplitudes are
    those of the filter repeated in all directions.
    """
    spectrum = np.fft.fft2(filters)
    phases = np.angle(np.fft.fft2(rng.standard_normal(filters.shape)))  # of a real image, so that the result is real
    phases[:, 0, 0] = np.angle(spectrum[:, 0, 0])
    return np.fft.ifft2(np.abs(spectrum) * np.exp(1j * phases)).real


def random_filters(
    shape: tuple[int, int], num: int, rng: np.random.Generator
) -> Float[np.ndarray, "filter height width"]:
    """Gaussian noise, independent between pixels; R^2 does not know its scale."""
    return rng.standard_normal((num, *shape))


def compare(
    filters: Float[np.ndarray, "filter height width"],
    seeds: Int[np.ndarray, "filter"],
    *,
    rng: np.random.Generator,
    num_starts: int = 8,
) -> GaborComparison:
    """Fit filters and the three nulls, one null filter for each, and summarise over seeds.

    Args:
        filters: of all restarts.
        seeds: which restart each is from; restarts, and never filters, are resampled for intervals.
        rng: source of nulls, starts and resamples.
        num_starts: of every fit.

    Raises:
        ValueError: `fit_gabor` refuses the filters, all are constant, or there are not as many seeds as filters.
    """
    _check(filters, num_starts)
    _check_seeds(filters, seeds)
    if not np.any(varies(filters)):
        raise ValueError(f"all {len(filters)} filters are constant: filters that vary over their pixels are expected")
    made = {
        "pixels": shuffled_pixels(filters, rng),
        "phases": random_phases(filters, rng),
        "noise": random_filters(filters.shape[1:], len(filters), rng),
    }
    fits = fit_gabor(filters, rng=rng, num_starts=num_starts)
    nulls = {name: fit_gabor(null, rng=rng, num_starts=num_starts).r2 for name, null in made.items()}
    medians = {name: median_r2(r2, seeds, rng=rng) for name, r2 in {"filters": fits.r2, **nulls}.items()}
    thresholds = {name: float(np.nanpercentile(r2, PERCENTILE)) for name, r2 in nulls.items()}
    above = {name: share_above(fits.r2, seeds, threshold, rng=rng) for name, threshold in thresholds.items()}
    return GaborComparison(fits, nulls, medians, thresholds, above)


def median_r2(
    r2: Float[np.ndarray, "filter"], seeds: Int[np.ndarray, "filter"], *, rng: np.random.Generator
) -> Estimate:
    """Median over seeds of the median R^2 over the filters of each, with its interval from resampling seeds.

    Constant filters (NaN) are left out, and so are seeds that have no others.

    Raises:
        ValueError: every filter is constant, or there are not as many seeds as filters.
    """
    return median(median_by_seed(r2, seeds), rng=rng)


def median_by_seed(values: Float[np.ndarray, "filter"], seeds: Int[np.ndarray, "filter"]) -> Float[np.ndarray, "seed"]:
    """Median over the filters of each seed, in the order of seeds; as `median_r2` in what is left out and raised."""
    return np.array([np.median(known) for known in _by_seed(values, seeds)])


def share_above(
    r2: Float[np.ndarray, "filter"], seeds: Int[np.ndarray, "filter"], threshold: float, *, rng: np.random.Generator
) -> Estimate:
    """Mean over seeds of the share of each one's filters with an R^2 above a threshold; constant filters are left out.

    The interval resamples seeds; where all shares are 0, or all are 1, it is that of the share of seeds with any.

    Raises:
        ValueError: every filter is constant, or there are not as many seeds as filters.
    """
    shares = np.array([np.mean(values > threshold) for values in _by_seed(r2, seeds)])
    if np.all(shares == 0) or np.all(shares == 1):  # resamples do not differ; P(share > 0) bounds the mean
        ci = extreme_share(bool(shares[0]), len(shares))
    else:
        ci = bootstrap_seeds(lambda rows: shares[rows].mean(axis=1), len(shares), rng=rng)
    return Estimate(float(shares.mean()), ci, len(shares), "share")


def _check(filters: np.ndarray, num_starts: int) -> None:
    if filters.ndim != 3 or len(filters) == 0 or min(filters.shape[1:]) < 4:
        raise ValueError(
            f"filters have shape {filters.shape}: (filter, height, width) is expected, one filter or more of at least 4 x 4"
        )
    if not np.all(np.isfinite(filters)):
        bad = np.flatnonzero(~np.isfinite(filters).all(axis=(1, 2)))
        raise ValueError(f"filters at positions {bad.tolist()} are not finite")
    if num_starts < 1:
        raise ValueError(f"num_starts = {num_starts}: at least 1 is expected")


def _check_seeds(values: np.ndarray, seeds: np.ndarray) -> None:
    if np.shape(seeds) != (len(values),):
        raise ValueError(f"seeds have shape {np.shape(seeds)} for {len(values)} filters: one for each is expected")


def _by_seed(r2: np.ndarray, seeds: np.ndarray) -> list[np.ndarray]:
    _check_seeds(r2, seeds)
    known = np.isfinite(r2)
    if not known.any():
        raise ValueError(f"none of {len(r2)} filters has an R^2: filters that are not constant are expected")
    return [r2[known & (seeds == seed)] for seed in np.unique(seeds[known])]


class _Wave(NamedTuple):
    """A Gabor function's two linear parts at every pixel, and the coordinates u', v' along and across."""

    cosine: np.ndarray
    sine: np.ndarray
    u: np.ndarray
    v: np.ndarray


class _Fit(NamedTuple):
    params: np.ndarray  # in the order of PARAMS
    starts: np.ndarray
    converged: bool


@functools.cache
def _grid(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.indices(shape, float)
    return x.ravel() - (shape[1] - 1) / 2, y.ravel() - (shape[0] - 1) / 2


def _bounds(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Of x, y, along, across, orientation, frequency."""
    y, x = (np.array(shape) - 1) / 2
    side = max(shape)
    return np.array([-x, -y, NARROWEST, NARROWEST, -np.inf, 0]), np.array([x, y, side, side, np.inf, NYQUIST])


def _wave(x: np.ndarray, y: np.ndarray, params: np.ndarray) -> _Wave:
    """Of one set of six parameters, or of many along the axes before the last, which is the pixel's then."""
    x0, y0, along, across, orientation, frequency = np.moveaxis(params, -1, 0)[..., None]
    u = (x - x0) * np.cos(orientation) + (y - y0) * np.sin(orientation)
    v = (y - y0) * np.cos(orientation) - (x - x0) * np.sin(orientation)
    envelope = np.exp(-0.5 * (np.square(u / along) + np.square(v / across)))
    angle = 2 * np.pi * frequency * u
    return _Wave(envelope * np.cos(angle), envelope * np.sin(angle), u, v)


@functools.lru_cache(maxsize=4)
def _atoms(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Coarse round Gabor functions: params (wave, place, 6), and an orthonormal basis of their span (wave, place, 2, pixel).

    Waves: 6 frequencies in 6 orientations. Places: 8 x 8 centres and 3 widths.
    """
    (height, width), (x_max, y_max) = shape, _bounds(shape)[1][:2]
    side = min(height, width)
    waves = np.stack(np.meshgrid(np.arange(6) * np.pi / 6, np.linspace(1 / (2 * side), 0.4, 6), indexing="ij"), axis=-1)
    centres = np.linspace(-0.9, 0.9, 8)
    places = np.stack(np.meshgrid(centres * x_max, centres * y_max, side * np.array([0.1, 0.18, 0.32])), axis=-1)
    waves, places = waves.reshape(-1, 1, 2), places.reshape(1, -1, 3)
    ones = np.ones((len(waves), places.shape[1], 1))
    params = np.concatenate([places * ones, places[..., 2:] * ones, waves * ones], axis=-1)
    wave = _wave(*_grid(shape), params)
    first = wave.cosine / np.linalg.norm(wave.cosine, axis=-1, keepdims=True)
    second = wave.sine - np.sum(first * wave.sine, axis=-1, keepdims=True) * first
    second /= np.linalg.norm(second, axis=-1, keepdims=True)
    return params, np.stack([first, second], axis=2)


def _chosen(filters: np.ndarray, shape: tuple[int, int], num: int) -> np.ndarray:
    """For each filter the waves that explain most of it, each in its best place: (filter, num, 6)."""
    params, basis = _atoms(shape)
    explained = np.square(np.einsum("fp,wkcp->fwkc", filters, basis, optimize=True)).sum(axis=-1)
    place = explained.argmax(axis=2)
    order = np.argsort(-explained.max(axis=2), axis=1, kind="stable")
    best = np.resize(order, (len(order), num)) if num > order.shape[1] else order[:, :num]
    return params[best, np.take_along_axis(place, best, axis=1)]


def _fit(w: np.ndarray, shape: tuple[int, int], starts: np.ndarray) -> _Fit:
    """The best of all starts for one filter with |w - mean w| = 1."""
    problem, bounds = _Projected(w, shape), _bounds(shape)
    jacobian: Any = problem.jacobian  # SciPy's annotations know its names of finite differences alone
    ends = [
        least_squares(
            problem.residual, np.clip(start, *bounds), jacobian, bounds, x_scale=problem.scale,
            ftol=TOLERANCE, xtol=TOLERANCE, gtol=TOLERANCE, max_nfev=MOST_STEPS,
        )
        for start in starts
    ]  # fmt: skip
    best = min(ends, key=lambda end: end.cost)
    x, y, along, across, orientation, frequency = best.x
    a, b = problem.solve(best.x)[1]
    phase = np.arctan2(-b, a)
    if np.floor(orientation / np.pi) % 2:  # half a turn sends u' to -u'
        phase = -phase
    phase = (phase + np.pi) % (2 * np.pi) - np.pi
    params = np.array([np.hypot(a, b), x, y, along, across, orientation % np.pi, frequency, phase])
    return _Fit(params, 1 - 2 * np.array([end.cost for end in ends]), best.status > 0)


class _Projected:
    """w less its best combination of the two linear parts, as a function of the other six parameters."""

    def __init__(self, w: np.ndarray, shape: tuple[int, int]):
        self.w, self.grid = w, _grid(shape)
        side = max(shape)
        self.scale = np.array([side / 4, side / 4, side / 4, side / 4, 0.5, 1 / side])
        self.known: tuple[bytes, tuple[np.ndarray, np.ndarray, _Wave]] | None = None

    def solve(self, params: np.ndarray) -> tuple[np.ndarray, np.ndarray, _Wave]:
        """An orthonormal basis (pixel, rank) of the linear parts, their coefficients, and they themselves."""
        if self.known is None or self.known[0] != params.tobytes():
            wave = _wave(*self.grid, params)
            left, size, right = np.linalg.svd(np.stack(wave[:2], axis=1), full_matrices=False)
            kept = size > DEPENDENT * size[0]
            basis = left[:, kept]
            solved = basis, (right[kept].T / size[kept]) @ (basis.T @ self.w), wave
            self.known = params.tobytes(), solved
        return self.known[1]

    def residual(self, params: np.ndarray) -> np.ndarray:
        basis = self.solve(params)[0]
        return self.w - basis @ (basis.T @ self.w)

    def jacobian(self, params: np.ndarray) -> np.ndarray:
        """Of the linear parts at fixed coefficients, projected: what their own change adds is of second order."""
        basis, (a, b), (cosine, sine, u, v) = self.solve(params)
        _, _, along, across, orientation, frequency = params
        value, turned = a * cosine + b * sine, b * cosine - a * sine  # G, and its derivative by the wave's angle
        by_u, by_v = 2 * np.pi * frequency * turned - value * u / along**2, -value * v / across**2
        cos, sin = np.cos(orientation), np.sin(orientation)
        slopes = np.stack(
            [
                by_v * sin - by_u * cos, -by_u * sin - by_v * cos, value * u**2 / along**3, value * v**2 / across**3,
                by_u * v - by_v * u, 2 * np.pi * u * turned,
            ],
            axis=1,
        )  # fmt: skip
        return basis @ (basis.T @ slopes) - slopes
