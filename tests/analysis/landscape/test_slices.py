import dataclasses
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import everywhere, population, zero_targets
from test_surface import classification, dataset, random_params

from analysis.landscape import Slices, evaluate, grid, random_plane, slices
from analysis.statistics import bootstrap_seeds, extreme_share
from wspace import MLP, stack_params
from wspace.tree import pick

SIZES = (3, 4, 3)


@dataclasses.dataclass(frozen=True)
class Lifted:
    """loss = |R theta - target|^2."""

    root: tuple[tuple[float, ...], ...]
    target: tuple[float, ...]

    def apply(self, params, x):
        return everywhere(jnp.asarray(self.root) @ params["theta"] - jnp.asarray(self.target), x)


def networks(rng, num, sizes=SIZES):
    return stack_params([random_params(rng, sizes) for _ in range(num)])


def planned(params, num, root, num_directions, filters=True):
    """The lines that `slices` looks along, for each seed."""
    drawn = [(np.random.default_rng([root, seed]), pick(params, seed)) for seed in range(num)]
    return [[random_plane(p, 1, rng=own, filters=filters) for _ in range(num_directions)] for own, p in drawn]


@pytest.mark.parametrize(("dtype", "filters"), [("float32", True), ("float64", False)])
def test_slices_are_the_lines_that_evaluate_computes(rng, dtype, filters):
    data, params, model = classification(rng), networks(rng, 3), MLP(SIZES)
    found = slices(
        model, "cross_entropy", params, data, rng=np.random.default_rng(4), num_directions=2, num=5, reach=1.5,
        filters=filters, l2=0.1, dtype=dtype,
    )  # fmt: skip
    np.testing.assert_allclose(found.positions, [-1.5, -0.75, 0, 0.75, 1.5], rtol=1e-15)
    assert all(values.shape == (3, 2, 5) for values in found.values.values())
    root = int(np.random.default_rng(4).integers(2**32))
    for seed, lines in enumerate(planned(params, 3, root, 2, filters)):
        for k, line in enumerate(lines):
            assert found.lengths[seed, k] == line.lengths[0]
            one = evaluate(model, "cross_entropy", line, grid(line, 5, 1.5), data, l2=0.1, dtype=dtype)
            assert set(one.values) == set(found.values)
            for name, values in one.values.items():
                np.testing.assert_array_equal(found.values[name][seed, k], values)


def test_a_seed_has_its_slices_whichever_others_there_are(rng):
    data, params = classification(rng), networks(rng, 4)
    run = lambda params, key=1, **options: slices(  # noqa: E731
        MLP(SIZES), "cross_entropy", params, data, rng=np.random.default_rng(key), num=3, **options
    )
    every = run(params, num_directions=3)
    fewer = run(jax.tree.map(lambda leaf: leaf[:2], params), num_directions=3)
    np.testing.assert_array_equal(fewer.lengths, every.lengths[:2])
    for name, values in every.values.items():
        np.testing.assert_array_equal(fewer.values[name], values[:2])
    np.testing.assert_array_equal(run(params, num_directions=1).lengths, every.lengths[:, :1])
    other = run(params, 2, num_directions=3)
    np.testing.assert_allclose(other.lengths, every.lengths, rtol=1e-12)  # every direction is as long as the weights
    assert np.abs(other.values["train_loss"] - every.values["train_loss"])[:, :, [0, 2]].min() > 0
    twins = run(jax.tree.map(lambda leaf: leaf[np.array([0, 0])], params), num_directions=2).values["train_loss"]
    assert len(np.unique(twins[:, :, 0])) == 4  # equal networks have other directions


def test_around_the_bottom_of_a_bowl_every_slice_rises_by_its_quadratic(rng):
    root = rng.standard_normal((4, 3)).round(2)
    bottom = rng.standard_normal(3)
    model = Lifted(tuple(map(tuple, root)), tuple(root @ bottom))
    params = {"theta": np.stack([bottom] * 3)}
    found = slices(
        model, "squared_error", params, zero_targets(4), rng=np.random.default_rng(0), num_directions=4, num=7,
        filters=False, dtype="float64", metrics=["train_loss"],
    )  # fmt: skip
    lines = planned(params, 3, int(np.random.default_rng(0).integers(2**32)), 4, filters=False)
    for seed in range(3):
        for k in range(4):
            (direction,) = lines[seed][k].directions["theta"]
            expected = np.square(found.positions) * np.sum(np.square(root @ direction))
            np.testing.assert_allclose(found.rise("train_loss")[seed, k], expected, rtol=1e-11, atol=1e-13)
    assert np.all(found.rise("train_loss")[:, :, [0, 1, 2, 4, 5, 6]] > 0)
    np.testing.assert_array_equal(found.rise("train_loss")[:, :, 3], 0)
    share = found.share_lower("train_loss", tolerance=1e-12, rng=rng)
    assert (share.value, share.ci, share.n, share.unit) == (0, extreme_share(False, 3), 3, "share")
    above = slices(
        model, "squared_error", {"theta": params["theta"] + 1}, zero_targets(4), rng=rng, num_directions=4, num=51,
        filters=False, dtype="float64", metrics=["train_loss"],
    )  # fmt: skip
    assert above.share_lower("train_loss", tolerance=1e-12, rng=rng).value == 1  # a slope on every line


def test_no_filter_normalised_slice_of_a_solved_regression_is_lower(rng):
    x, solution = rng.standard_normal((30, 3)), random_params(rng, (3, 2), bias=False)
    x = x.astype(np.float32)
    y = x @ solution[0]["weight"]
    found = slices(
        MLP((3, 2), bias=False), "squared_error", stack_params([solution]), dataset((x, y), (x, y)),
        rng=np.random.default_rng(3), num_directions=5, num=5, dtype="float64",
    )  # fmt: skip
    ((*lines,),) = planned(stack_params([solution]), 1, int(np.random.default_rng(3).integers(2**32)), 5)
    for k, line in enumerate(lines):
        moved = np.mean(np.sum(np.square(x @ line.directions[0]["weight"][0]), axis=1))
        np.testing.assert_allclose(found.values["train_loss"][0, k], found.positions**2 * moved, rtol=1e-5, atol=1e-12)
    assert found.share_lower("train_loss", tolerance=1e-9, rng=rng).value == 0


def by_hand():
    """Two seeds of two slices, at -2, -1, 0, 1, 2."""
    values = np.array([[[4, 1, 0, 1, 4], [9, 2, 1, 3, 9]], [[1, 0, 2, 5, 9], [4, 3, 2, 3, 4]]], float)
    return Slices(np.array([-1.0, -0.5, 0.0, 0.5, 1.0]), np.ones((2, 2)), {"train_loss": values})


def test_summaries_by_hand(rng):
    found = by_hand()
    np.testing.assert_array_equal(found.rise("train_loss")[1, 0], [-1, -2, 0, 3, 7])
    estimate = found.median_at("train_loss", 0.5, rng=np.random.default_rng(1), unit="nats")
    assert (estimate.value, estimate.n, estimate.unit) == (np.median([1, 1, 1, 2, -2, 3, 1, 1]), 2, "nats")
    rises = np.array([[1, 1, 1, 2], [-2, 3, 1, 1]])
    resampled = lambda seeds: np.array([np.median(rises[row]) for row in seeds])  # noqa: E731
    assert estimate.ci == bootstrap_seeds(resampled, 2, rng=np.random.default_rng(1))
    assert found.median_at("train_loss", 1.0, rng=rng).value == np.median([4, 4, 8, 8, -1, 7, 2, 2])
    assert found.median_at("train_loss", 0.0, rng=rng).value == 0
    for tolerance, share in ((0.0, 1 / 4), (1.9, 1 / 4), (2.0, 0)):
        assert found.share_lower("train_loss", tolerance=tolerance, rng=rng).value == share
    lower = found.share_lower("train_loss", tolerance=0.5, rng=rng)
    assert lower.ci == (0.0, 0.5)  # of both seeds alike, or of one of each
    for position in (0.3, -0.5, 1.5):
        with pytest.raises(ValueError, match=f"position = {position} is not on the grid"):
            found.median_at("train_loss", position, rng=rng)


def test_positions_are_told_apart_on_short_slices(rng):
    found = by_hand()
    short = dataclasses.replace(found, positions=found.positions * 1e-9)
    assert short.median_at("train_loss", 0.5e-9, rng=rng).value == 1
    with pytest.raises(ValueError, match="is not on the grid"):
        short.median_at("train_loss", 0.3e-9, rng=rng)


def test_bands_are_quantiles_over_all_slices_of_all_seeds():
    found = by_hand()
    flat = found.values["train_loss"].reshape(4, 5)
    np.testing.assert_array_equal(
        found.bands("train_loss", (0.0, 0.3, 1.0)), np.quantile(flat, [0.0, 0.3, 1.0], axis=0)
    )
    assert found.bands("train_loss").shape == (5, 5)
    np.testing.assert_array_equal(found.bands("train_loss")[2], np.median(flat, axis=0))


def test_slices_that_overflow_have_infinite_medians(rng):
    values = by_hand().values["train_loss"].copy()
    values[0, :, [0, 4]] = np.inf
    found = dataclasses.replace(by_hand(), values={"train_loss": values})
    assert found.median_at("train_loss", 1.0, rng=rng).value == np.inf
    assert np.isfinite(found.median_at("train_loss", 0.5, rng=rng).value)
    assert found.share_lower("train_loss", tolerance=0.5, rng=rng).value == 1 / 4
    bands = found.bands("train_loss", (0.25, 0.5, 0.75))
    np.testing.assert_array_equal(bands[:, [0, 4]], [[3.25, 7.75], [np.inf, np.inf], [np.inf, np.inf]])
    np.testing.assert_array_equal(bands[:, 1:4], by_hand().bands("train_loss", (0.25, 0.5, 0.75))[:, 1:4])
    ci = found.median_at("train_loss", 1.0, rng=rng).ci
    assert ci is not None
    assert ci == (2.0, np.inf)
    values[0, 0, 2] = np.inf  # nor does an infinite centre warn
    assert np.isnan(found.rise("train_loss")[0, 0, 0])


def test_interrupted_slices_go_on_with_the_seed_where_they_stopped(rng, tmp_path, monkeypatch):
    data, params, computed = classification(rng), networks(rng, 4), []
    module = sys.modules[slices.__module__]  # the package's name `slices` is the function
    original = module.random_plane
    asked: dict[str, Any] = {"num_directions": 2, "num": 3, "metrics": ["train_objective"], "path": tmp_path}
    run = lambda key=1, **options: module.slices(  # noqa: E731
        MLP(SIZES), "cross_entropy", params, data, rng=np.random.default_rng(key), **asked | options
    )
    whole, told = run(path=None), []

    def counted(centre, *args, **options):
        computed.append(centre)
        return original(centre, *args, **options)

    def stop(text):
        told.append(text)
        if len(told) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "random_plane", counted)
    with pytest.raises(KeyboardInterrupt):
        run(progress=stop)
    assert [text.split(",")[0] for text in told] == ["slices of 1 of 4 networks", "slices of 2 of 4 networks"]
    assert len(computed) == 1 + 2 * 2  # one for the grid
    computed.clear()
    resumed = run()
    assert len(computed) == 1 + 2 * 2
    computed.clear()
    again = run()
    assert len(computed) == 1
    for other in (resumed, again):
        np.testing.assert_array_equal(other.lengths, whole.lengths)
        np.testing.assert_array_equal(other.positions, whole.positions)
        for name, values in whole.values.items():
            np.testing.assert_array_equal(other.values[name], values)
    changes: list[dict[str, Any]] = [{"key": 2}, {"l2": 0.5}, {"reach": 0.5}, {"filters": False}, {"dtype": "float64"}]
    for changed in changes:
        kept, fresh = (run(**changed, path=path).values["train_objective"] for path in (tmp_path, None))
        np.testing.assert_array_equal(kept, fresh)
        assert np.abs(kept - whole.values["train_objective"]).max() > 0


def test_impossible_slices_are_refused(rng):
    data, params = classification(rng), networks(rng, 2)
    run = lambda params=params, **options: slices(MLP(SIZES), "cross_entropy", params, data, rng=rng, **options)  # noqa: E731
    with pytest.raises(ValueError, match=r"metrics \['loss'\] are unknown; for classification there are train_loss"):
        run(metrics=["loss"])
    with pytest.raises(ValueError, match="2 networks and 0 directions: at least one of each"):
        run(num_directions=0)
    with pytest.raises(ValueError, match="0 networks and 8 directions"):
        run(jax.tree.map(lambda leaf: leaf[:0], params))
    with pytest.raises(ValueError, match="num = 20: an odd number"):
        run(num=20)
    with pytest.raises(ValueError, match="positive numbers are expected"):
        run(reach=0.0)
    with pytest.raises(ValueError, match="direction 0 is zero"):
        slices(Lifted(((1.0,),), (0.0,)), "squared_error", population([[1.0]]), zero_targets(1), rng=rng)
