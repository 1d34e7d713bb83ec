import sys

import jaxtyping
import numpy as np
import pytest

from analysis.units.gabor import (
    MOST_STEPS,
    compare,
    fit_gabor,
    gabor,
    median_by_seed,
    median_r2,
    random_filters,
    random_phases,
    share_above,
    shuffled_pixels,
    varies,
)

NAMES = ("amplitude", "x", "y", "along", "across", "orientation", "frequency", "phase")
PLANTED = {
    "amplitude": np.array([1.0, 0.02, 30.0, 2.0]),
    "x": np.array([0.0, 1.3, -2.0, 0.5]),
    "y": np.array([0.5, -1.0, 1.5, 2.2]),
    "along": np.array([2.0, 1.5, 2.5, 1.8]),
    "across": np.array([2.5, 3.0, 1.6, 2.6]),
    "orientation": np.array([0.3, 1.2, 2.0, 2.9]),
    "frequency": np.array([0.15, 0.25, 0.2, 0.3]),
    "phase": np.array([0.4, -2.0, 1.5, 3.0]),
}


def drawn(shape, **params):
    return np.stack([gabor(shape, **dict(zip(params, row, strict=True))) for row in zip(*params.values(), strict=True)])


@pytest.fixture(scope="module")
def planted():
    return drawn((11, 12), **{name: values.tolist() for name, values in PLANTED.items()})


@pytest.fixture(scope="module")
def fits(planted):
    return fit_gabor(planted, rng=np.random.default_rng(0))


def apart(a, b, period):
    """Distance between angles that return after a period."""
    return np.abs((a - b + period / 2) % period - period / 2)


def test_a_planted_gabor_is_found_again(fits):
    assert fits.r2.min() > 1 - 1e-6
    assert fits.converged.all()
    for name in ("amplitude", "x", "y", "along", "across", "orientation", "frequency", "phase"):
        np.testing.assert_allclose(getattr(fits, name), PLANTED[name], rtol=1e-3, atol=1e-3, err_msg=name)


def test_a_gabor_function_is_its_formula():
    got = gabor((4, 5), amplitude=2.0, x=0.5, y=-0.25, along=1.5, across=0.8, orientation=0.7, frequency=0.2, phase=1.1)
    for row in range(4):
        for column in range(5):
            x, y = column - 2 - 0.5, row - 1.5 + 0.25
            u, v = x * np.cos(0.7) + y * np.sin(0.7), -x * np.sin(0.7) + y * np.cos(0.7)
            envelope = np.exp(-(u**2) / (2 * 1.5**2) - v**2 / (2 * 0.8**2))
            assert got[row, column] == pytest.approx(2 * envelope * np.cos(2 * np.pi * 0.2 * u + 1.1), abs=1e-14)


def test_noise_leaves_frequency_and_orientation_where_they_were(planted, rng):
    noise = rng.standard_normal(planted.shape) * planted.std(axis=(1, 2), keepdims=True)
    fits = fit_gabor(planted + 0.1 * noise, rng=rng)
    assert np.all((fits.r2 > 0.97) & (fits.r2 < 0.999))
    np.testing.assert_allclose(fits.frequency, PLANTED["frequency"], atol=0.01)
    assert apart(fits.orientation, PLANTED["orientation"], np.pi).max() < 0.06


def test_the_image_is_that_of_the_params_and_gives_r2(planted, rng):
    filters = planted + 0.3 * rng.standard_normal(planted.shape)
    fits = fit_gabor(filters, rng=rng, num_starts=3)
    again = drawn(planted.shape[1:], **{name: getattr(fits, name).tolist() for name in NAMES})
    np.testing.assert_allclose(fits.images, again, rtol=1e-12)
    left = np.square(filters - fits.images).sum(axis=(1, 2))
    scatter = np.square(filters - filters.mean(axis=(1, 2), keepdims=True)).sum(axis=(1, 2))
    np.testing.assert_allclose(fits.r2, 1 - left / scatter, atol=1e-9)
    assert fits.starts.shape == (4, 3)
    np.testing.assert_array_equal(fits.r2, fits.starts.max(axis=1))
    assert np.all((fits.found_again >= 1 / 3) & (fits.found_again <= 1))
    assert np.all((fits.orientation >= 0) & (fits.orientation < np.pi))
    assert np.all((fits.phase >= -np.pi) & (fits.phase < np.pi))
    assert np.all(fits.amplitude > 0)


def test_scale_and_sign_change_amplitude_and_phase_alone(planted, fits, rng):
    scaled, negated = fit_gabor(planted * 1e-6, rng=rng), fit_gabor(-planted, rng=rng)
    np.testing.assert_allclose(scaled.amplitude, 1e-6 * fits.amplitude, rtol=1e-3)
    assert apart(negated.phase, fits.phase + np.pi, 2 * np.pi).max() < 1e-3
    for other in (scaled, negated):
        for name in ("x", "y", "along", "across", "orientation", "frequency", "r2"):
            np.testing.assert_allclose(getattr(other, name), getattr(fits, name), atol=1e-3, err_msg=name)


def test_a_quarter_turn_turns_the_orientation(planted, fits, rng):
    turned = fit_gabor(np.rot90(planted, axes=(1, 2)), rng=rng)  # (x, y) goes to (y, -x)
    assert apart(turned.orientation, fits.orientation + np.pi / 2, np.pi).max() < 1e-3
    np.testing.assert_allclose(turned.x, fits.y, atol=1e-3)
    np.testing.assert_allclose(turned.y, -fits.x, atol=1e-3)
    for name in ("along", "across", "frequency", "r2"):
        np.testing.assert_allclose(getattr(turned, name), getattr(fits, name), atol=1e-3, err_msg=name)


def test_a_mirror_image_mirrors_the_orientation(planted, fits, rng):
    mirrored = fit_gabor(planted[:, :, ::-1].copy(), rng=rng)
    assert apart(mirrored.orientation, -fits.orientation, np.pi).max() < 1e-3
    np.testing.assert_allclose(mirrored.r2, fits.r2, atol=1e-6)


def test_a_fit_is_as_good_as_the_best_of_a_fine_grid(rng):
    """Every Gabor function of a grid of 230,400 on 5 x 5 pixels, its two linear parts solved for by normal equations."""
    filters = rng.standard_normal((3, 5, 5))
    y, x = np.indices((5, 5), float).reshape(2, -1) - 2
    centres, widths = np.linspace(-2, 2, 5), np.array([0.5, 1.0, 2.0, 4.0])
    best = np.full(3, -np.inf)
    w = filters.reshape(3, -1)
    scatter = np.square(w - w.mean(axis=1, keepdims=True)).sum(axis=1)
    for angle in np.arange(24) * np.pi / 24:
        x0, y0, along, across, frequency = (
            a.reshape(-1, 1) for a in np.meshgrid(centres, centres, widths, widths, np.linspace(0.02, 0.5, 24))
        )
        u = (x - x0) * np.cos(angle) + (y - y0) * np.sin(angle)
        v = (y - y0) * np.cos(angle) - (x - x0) * np.sin(angle)
        envelope = np.exp(-0.5 * (u / along) ** 2 - 0.5 * (v / across) ** 2)
        a, b = envelope * np.cos(2 * np.pi * frequency * u), envelope * np.sin(2 * np.pi * frequency * u)
        aa, ab, bb = (a * a).sum(axis=1), (a * b).sum(axis=1), (b * b).sum(axis=1)
        for k in range(3):
            aw, bw = a @ w[k], b @ w[k]
            explained = (bb * aw**2 - 2 * ab * aw * bw + aa * bw**2) / (aa * bb - ab**2)
            best[k] = max(best[k], 1 - (w[k] @ w[k] - explained.max()) / scatter[k])
    got = fit_gabor(filters, rng=rng, num_starts=40).r2
    assert np.all(got >= best - 1e-9)
    assert np.all(got < best + 0.25)


def test_more_starts_find_no_worse_a_fit_to_a_planted_one_and_one_is_often_enough(planted, rng):
    one = fit_gabor(planted, rng=rng, num_starts=1)
    assert one.starts.shape == (4, 1)
    np.testing.assert_array_equal(one.found_again, 1)
    assert np.median(one.r2) > 0.999


def test_more_starts_than_waves_are_allowed(planted, rng):
    assert fit_gabor(planted[:1], rng=rng, num_starts=60).starts.shape == (1, 60)


def test_the_same_generator_gives_the_same_fits(planted, fits):
    again = fit_gabor(planted, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(again.starts, fits.starts)


def test_a_blob_is_a_wave_of_no_frequency(rng):
    blob = gabor((9, 9), along=1.5, across=1.5, orientation=0.0, frequency=0.0)
    fits = fit_gabor(blob[None], rng=rng)
    assert fits.r2[0] > 0.9999
    assert np.isfinite(fits.amplitude).all()


def test_what_is_the_same_everywhere_explains_nothing(rng):
    """A large constant is no gain: R^2 is that of what varies, and G has no constant to take it up."""
    noise = rng.standard_normal((2, 8, 8))
    assert np.all(fit_gabor(noise + 50, rng=rng).r2 < fit_gabor(noise, rng=rng).r2)
    dead = np.stack([np.zeros((8, 8)), np.full((8, 8), 0.1), noise[0]])
    fits = fit_gabor(dead, rng=rng)
    np.testing.assert_array_equal(np.isnan(fits.r2), [True, True, False])
    np.testing.assert_array_equal(np.isnan(fits.found_again), [True, True, False])
    np.testing.assert_array_equal(fits.converged[:2], False)
    assert np.isnan(fits.images[:2]).all()
    assert np.isnan(fits.frequency[:2]).all()
    assert median_r2(fits.r2, np.array([0, 1, 2]), rng=rng).n == 1


@pytest.mark.parametrize("level", [0.1, -3e-20, 5e8])
def test_what_is_constant_but_for_rounding_is_constant(rng, level):
    """Rounding of float32, whatever the scale; a filter that varies by ten times the limit is fitted."""
    rounded = level * (1 + rng.integers(-2, 3, (8, 8)) * np.finfo(np.float32).eps).astype(np.float32)
    faint = level * (1 + 1e-5 * gabor((8, 8), along=1.5, across=2, orientation=0.4, frequency=0.2))
    filters = np.stack([rounded, faint, rng.standard_normal((8, 8))])
    assert np.ptp(rounded) > 0
    np.testing.assert_array_equal(varies(filters), [False, True, True])
    np.testing.assert_array_equal(varies(filters.astype(np.float32)[[0, 2]]), [False, True])
    r2 = fit_gabor(filters, rng=rng, num_starts=1).r2
    np.testing.assert_array_equal(np.isfinite(r2), [False, True, True])


def test_nulls_keep_what_they_say(planted, rng):
    before = planted.copy()
    shuffled, scrambled = shuffled_pixels(planted, rng), random_phases(planted + 0.3, rng)
    np.testing.assert_array_equal(np.sort(shuffled.reshape(4, -1)), np.sort(planted.reshape(4, -1)))
    assert not np.array_equal(shuffled[0].ravel().argsort(), shuffled[1].ravel().argsort())
    np.testing.assert_allclose(np.abs(np.fft.fft2(scrambled)), np.abs(np.fft.fft2(planted + 0.3)), atol=1e-10)
    np.testing.assert_allclose(scrambled.mean(axis=(1, 2)), (planted + 0.3).mean(axis=(1, 2)))
    assert np.abs(np.corrcoef(scrambled[0].ravel(), planted[0].ravel())[0, 1]) < 0.7
    assert random_filters((4, 6), 3, rng).shape == (3, 4, 6)
    np.testing.assert_array_equal(planted, before)


def test_planted_filters_stand_out_from_all_nulls(rng):
    num = 16
    params = {
        "x": rng.uniform(-2, 2, num), "y": rng.uniform(-2, 2, num), "along": rng.uniform(1, 2, num),
        "across": rng.uniform(1, 2, num), "orientation": rng.uniform(0, np.pi, num), "frequency": rng.uniform(0.1, 0.3, num),
    }  # fmt: skip
    filters = drawn((10, 10), **{name: values.tolist() for name, values in params.items()})
    filters += 0.2 * filters.std(axis=(1, 2), keepdims=True) * rng.standard_normal(filters.shape)
    found = compare(filters, np.repeat(np.arange(4), 4), rng=rng, num_starts=4)
    assert list(found.nulls) == ["pixels", "phases", "noise"]
    assert found.medians["filters"].value > 0.9
    assert found.medians["filters"].n == 4
    trained, *nulls = (found.medians[name].ci for name in ("filters", *found.nulls))
    assert trained is not None
    assert all(null is not None and null[1] < trained[0] for null in nulls)
    assert found.medians["pixels"].value < 0.5
    assert found.medians["noise"].value < 0.3
    assert found.above["pixels"].value == found.above["noise"].value == 1
    assert found.thresholds["pixels"] == pytest.approx(np.percentile(found.nulls["pixels"], 95))


def test_noise_does_not_stand_out_from_noise(rng):
    found = compare(random_filters((8, 8), 40, rng), np.repeat(np.arange(8), 5), rng=rng, num_starts=3)
    values = [found.medians[name].value for name in ("filters", *found.nulls)]
    assert np.ptp(values) < 0.1
    assert all(share.value < 0.3 for share in found.above.values())


def test_seeds_and_not_filters_are_counted(rng):
    r2 = np.array([0.1, 0.2, 0.9, 0.5, 0.5, 0.7, np.nan])
    seeds = np.array([3, 3, 3, 5, 5, 8, 9])
    found = median_r2(r2, seeds, rng=rng)
    assert (found.value, found.n) == (0.5, 3)  # of 0.2, 0.5 and 0.7; seed 9 has nothing to fit
    share = share_above(r2, seeds, 0.4, rng=rng)
    assert share.value == pytest.approx((1 / 3 + 1 + 1) / 3)
    assert (share.n, share.unit) == (3, "share")
    many = np.repeat(r2[:6], 100)
    assert median_r2(many, np.repeat(seeds[:6], 100), rng=rng).n == 3
    none = share_above(r2, seeds, 0.95, rng=rng)
    assert none.value == 0
    assert none.ci == (0, pytest.approx(1 - 0.025 ** (1 / 3)))


def test_what_cannot_be_fitted_is_refused(rng):
    with pytest.raises(ValueError, match=r"shape \(2, 3, 9\).*at least 4 x 4"):
        fit_gabor(np.ones((2, 3, 9)), rng=rng)
    with pytest.raises(ValueError, match=r"shape \(0, 8, 8\)"):
        fit_gabor(np.ones((0, 8, 8)), rng=rng)
    filters = rng.standard_normal((3, 6, 6))
    with pytest.raises(ValueError, match="num_starts = 0: at least 1"):
        fit_gabor(filters, rng=rng, num_starts=0)
    filters[1, 2, 3] = np.inf
    with pytest.raises(ValueError, match=r"positions \[1\] are not finite"):
        fit_gabor(filters, rng=rng)
    with pytest.raises(ValueError, match="none of 2 filters has an R"):
        median_r2(np.full(2, np.nan), np.array([0, 1]), rng=rng)


@pytest.fixture
def unchecked():
    """Signatures unchecked, as for a user: jaxtyping would refuse these arguments before the function does."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_compared_is_refused_before_it_is_fitted(rng, monkeypatch):
    def never(*_):
        raise AssertionError("fitted")

    monkeypatch.setattr(sys.modules["analysis.units.gabor"], "_fit", never)
    filters = rng.standard_normal((3, 6, 6))
    for seeds in (np.zeros(2, int), np.zeros(4, int), np.zeros(1, int)):
        message = rf"seeds have shape \({len(seeds)},\) for 3 filters: one for each"
        with pytest.raises(ValueError, match=message):
            compare(filters, seeds, rng=rng)
        with pytest.raises(ValueError, match=message):
            median_by_seed(np.ones(3), seeds)
        with pytest.raises(ValueError, match=message):
            share_above(np.ones(3), seeds, 0.5, rng=rng)
    with pytest.raises(ValueError, match="all 3 filters are constant"):
        compare(np.ones((3, 6, 6)), np.arange(3), rng=rng)
    filters[2, 0, 0] = np.nan
    with pytest.raises(ValueError, match=r"positions \[2\] are not finite"):
        compare(filters, np.arange(3), rng=rng)


def test_few_steps_are_told(planted, rng, monkeypatch):
    monkeypatch.setattr(sys.modules["analysis.units.gabor"], "MOST_STEPS", 1)
    assert MOST_STEPS > 1
    assert not fit_gabor(planted, rng=rng, num_starts=1).converged.any()
