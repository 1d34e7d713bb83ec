import shutil

import numpy as np
import pytest
import zarr

from analysis.statistics import BAND_LEVELS, Estimate, median
from analysis.training import all_curves, all_finals, curves, final, metric_unit
from wspace import objective, open_run
from wspace import spec as specs
from wspace.train import train


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    tree = {
        "name": "toy",
        "data": {"name": "iris"},
        "model": {"hidden": [5]},
        "optimizer": {"learning_rate": 0.01},
        "train": {"num_steps": 12, "batch_size": 16},
        "checkpoints": {"num": 4},
        "seeds": {"num": 5},
        "engine": {"block_width": 2},
    }
    return train(specs.parse(tree), tmp_path_factory.mktemp("run") / "toy", num_devices=1)


@pytest.fixture
def change(run, tmp_path):
    """A copy of the run with one of its arrays changed, and the metrics missing there."""

    def changed(name, where, value, missing):
        shutil.copytree(run.path, tmp_path / "copy")
        group = zarr.open_group(tmp_path / "copy" / "run.zarr", mode="r+", use_consolidated=False)
        group[name][where] = value
        for metric in run.metrics:
            group[f"metrics/{metric}"][missing] = np.nan
        return open_run(tmp_path / "copy")

    return changed


def test_curves_keep_every_value_and_band_only_the_converged(rng):
    values = rng.standard_normal((6, 4)).astype(np.float32)
    values[2, 2:] = np.nan
    converged = np.array([True, True, False, True, False, True])
    steps = np.array([0, 1, 5, 10])
    got = curves("train_loss", steps, values, converged, unit="nats")
    assert (got.name, got.unit, got.levels) == ("train_loss", "nats", BAND_LEVELS)
    assert got.values.dtype == got.bands.dtype == np.float64
    np.testing.assert_array_equal(got.values, values)
    np.testing.assert_array_equal(got.steps, steps)
    np.testing.assert_array_equal(got.converged, converged)
    ordered = np.sort(values[converged].astype(np.float64), axis=0)
    np.testing.assert_allclose(got.bands[2], (ordered[1] + ordered[2]) / 2, rtol=1e-12)  # of four seeds
    for band, level in zip(got.bands, (0.05, 0.25, 0.5, 0.75, 0.95), strict=True):
        below = int(3 * level)
        share = 3 * level - below
        np.testing.assert_allclose(band, (1 - share) * ordered[below] + share * ordered[below + 1], rtol=1e-12)


def test_curves_of_no_converged_seed_have_values_and_no_bands(rng):
    values = rng.standard_normal((3, 2))
    got = curves("grad_norm", np.array([0, 9]), values, np.zeros(3, bool))
    np.testing.assert_array_equal(got.values, values)
    assert got.bands.shape == (5, 2)
    assert np.isnan(got.bands).all()


def test_final_is_the_distribution_of_its_values(rng):
    values = rng.standard_normal(7).astype(np.float32)
    got = final("test_loss", values, rng=np.random.default_rng(5), unit="nats")
    wide = values.astype(np.float64)
    assert (got.name, got.unit) == ("test_loss", "nats")
    assert got.values.dtype == np.float64
    np.testing.assert_array_equal(got.values, wide)
    assert (got.low, got.high) == (min(wide), max(wide))
    assert got.median == median(wide, rng=np.random.default_rng(5), unit="nats")
    assert got.median.value == sorted(wide)[3]
    alone = final("test_loss", wide[:1], rng=rng)
    assert alone.median == Estimate(wide[0], None, 1)
    assert alone.low == alone.high == wide[0]


@pytest.mark.parametrize("values", [[], [1.0, np.nan], [np.inf, 1.0]])
def test_final_refuses_values_that_are_missing_or_not_finite(rng, values):
    with pytest.raises(ValueError, match=f"median got {len(values)} values"):
        final("train_loss", np.array(values), rng=rng)


def test_all_curves_are_those_of_every_stored_metric(run):
    got = all_curves(run)
    assert set(got) == set(objective.METRICS["classification"])
    for name, curve in got.items():
        stored = run.metrics[name].astype(np.float64)
        assert curve.name == name
        np.testing.assert_array_equal(curve.steps, [0, 4, 8, 12])
        np.testing.assert_array_equal(curve.values, stored)
        np.testing.assert_allclose(curve.bands, np.quantile(stored, BAND_LEVELS, axis=0), rtol=1e-12)
        assert curve.converged.all()
    units = {name: curve.unit for name, curve in got.items()}
    assert units == {
        "train_loss": "nats",
        "test_loss": "nats",
        "train_objective": "nats",
        "grad_norm": "nats per unit of weight",
        "train_accuracy": "share",
        "test_accuracy": "share",
    }


def test_all_finals_are_those_of_the_last_checkpoint(run):
    got = all_finals(run, rng=np.random.default_rng(0))
    assert set(got) == set(objective.METRICS["classification"])
    for name, values in got.items():
        stored = run.metrics[name][:, -1].astype(np.float64)
        np.testing.assert_array_equal(values.values, stored)
        assert (values.median.value, values.low, values.high) == (np.median(stored), stored.min(), stored.max())
        assert (values.median.n, values.median.unit, values.unit) == (5, values.unit, metric_unit(name, run.loss_kind))
    again = all_finals(run, rng=np.random.default_rng(0))
    assert [values.median for values in again.values()] == [values.median for values in got.values()]


def test_a_diverged_seed_is_drawn_as_far_as_it_went_and_counted_nowhere(run, change):
    changed = change("diverged_at", 1, 5, (1, slice(2, None)))
    others = [0, 2, 3, 4]
    for name, curve in all_curves(changed).items():
        stored = run.metrics[name].astype(np.float64)
        np.testing.assert_array_equal(curve.values[1], [*stored[1, :2], np.nan, np.nan])
        np.testing.assert_array_equal(np.flatnonzero(curve.converged), others)
        np.testing.assert_allclose(curve.bands, np.quantile(stored[others], BAND_LEVELS, axis=0), rtol=1e-12)
    for name, values in all_finals(changed, rng=np.random.default_rng(0)).items():
        np.testing.assert_array_equal(values.values, run.metrics[name][others, -1].astype(np.float64))
        assert values.median.n == 4


def test_an_unfinished_run_has_the_ends_of_its_finished_block_alone(run, change):
    unfinished = change("done", (slice(1, None), 3), False, (slice(2, None), 3))
    for name, curve in all_curves(unfinished).items():
        np.testing.assert_array_equal(curve.values[:, :3], run.metrics[name][:, :3].astype(np.float64))
        assert np.isnan(curve.values[2:, 3]).all()
        assert np.isfinite(curve.bands).all()
    for values in all_finals(unfinished, rng=np.random.default_rng(0)).values():
        assert len(values.values) == values.median.n == 2


def test_a_run_without_converged_seeds_has_curves_and_no_ends(change):
    nothing = change("done", (slice(None), 3), False, (slice(None), 3))
    assert all_finals(nothing, rng=np.random.default_rng(0)) == {}
    for curve in all_curves(nothing).values():
        assert np.isnan(curve.bands).all()
        assert np.isfinite(curve.values[:, :3]).all()


@pytest.mark.parametrize(
    ("loss_kind", "task", "units"),
    [
        ("cross_entropy", "classification", ["nats"] * 3 + ["nats per unit of weight"] + ["share"] * 2),
        (
            "squared_error",
            "classification",
            ["squared error"] * 3 + ["squared error per unit of weight"] + ["share"] * 2,
        ),
        ("squared_error", "regression", ["squared error"] * 3 + ["squared error per unit of weight"] + [""] * 2),
    ],
)
def test_every_metric_has_its_unit(loss_kind, task, units):
    assert [metric_unit(name, loss_kind) for name in objective.METRICS[task]] == units
