import dataclasses
import itertools
from typing import Any

import jax
import numpy as np
import pytest
from problems import Bowl, Chain, Wells, corners, population, zero_targets
from test_line import classification, random_params, regression

from analysis.connectivity import (
    LOSSES,
    along,
    barrier_matrices,
    barriers,
    pair_barriers,
    random_pairs,
    straight,
    straight_line,
    straight_routes,
)
from analysis.statistics import median_over_pairs
from wspace import MLP, objective, stack_params, tree
from wspace.errors import StoreError

SIZES = (3, 4, 3)


def networks(rng, num, sizes=SIZES):
    return stack_params([random_params(rng, sizes) for _ in range(num)])


def assert_same(got, expected):
    for field in dataclasses.fields(expected):
        np.testing.assert_array_equal(getattr(got, field.name), getattr(expected, field.name), err_msg=field.name)


def counted(monkeypatch, fail_at=None):
    """The lines that are computed from now on; one of them is where the process is killed."""
    calls = []

    def count(*args, **options):
        calls.append(args)
        if len(calls) == fail_at:
            raise KeyboardInterrupt
        return along(*args, **options)

    monkeypatch.setattr(barriers, "along", count)
    return calls


@pytest.mark.parametrize("kind", ["squared_error", "cross_entropy"])
def test_matrices_hold_the_barrier_of_each_pair(rng, kind):
    data = regression(rng, num_targets=3) if kind == "squared_error" else classification(rng)
    model, params = MLP(SIZES), networks(rng, 4)
    found = barrier_matrices(model, kind, params, data, l2=0.1, num_alphas=7)
    assert set(found) == set(LOSSES)
    own = objective.evaluate(model, kind, params, data, 0.1)
    for loss, matrices in found.items():
        assert matrices.measured.tolist() == (~np.eye(4, dtype=bool)).tolist()
        np.testing.assert_allclose(np.diag(matrices.ends), own[loss], rtol=1e-6)
        np.testing.assert_array_equal(np.diag(matrices.top), np.diag(matrices.ends))
        for i, j in itertools.combinations(range(4), 2):
            line = straight_line(model, kind, tree.pick(params, i), tree.pick(params, j), data, l2=0.1, num_alphas=7)
            for field, value in dataclasses.asdict(line.barriers[loss]).items():
                matrix = getattr(matrices, field)
                assert matrix[i, j] == matrix[j, i] == value, field
            values = line.values[loss]
            np.testing.assert_allclose(matrices.ends[i, j], (values[0] + values[-1]) / 2, rtol=1e-13)
            assert matrices.top[i, j] >= values.max() * (1 - 1e-12)
            np.testing.assert_array_equal(matrices.top, matrices.top.T)
        for field in barriers.FIELDS:
            np.testing.assert_array_equal(np.diag(getattr(matrices, field)), 0)


def test_between_the_wells_of_a_cube_barriers_count_the_coordinates_that_differ():
    theta = corners(3)
    found = barrier_matrices(Wells(), "squared_error", population(theta), zero_targets(3), l2=0.5)
    apart = np.sum(theta[:, None] != theta, axis=-1)
    wells = found["train_loss"]
    for matrix in (wells.chord, wells.mean, wells.excess, wells.top):
        np.testing.assert_allclose(matrix, apart, atol=1e-12)
    np.testing.assert_array_equal(wells.chord_alpha, np.where(apart > 0, 0.5, 0))
    np.testing.assert_array_equal(wells.share_above, apart > 0)
    np.testing.assert_allclose(wells.ends, 0, atol=1e-12)
    assert_same(found["test_loss"], wells)
    # with l2 = 1/2 a corner has 3/4 more, the middle of a line 1/4 less for each coordinate that differs
    penalised = found["train_objective"]
    np.testing.assert_allclose(penalised.ends, 0.75, rtol=1e-12)
    np.testing.assert_allclose(penalised.chord, 0.75 * apart, atol=1e-12)
    np.testing.assert_allclose(penalised.top, 0.75 + 0.75 * apart, rtol=1e-12)


def test_a_bowl_has_no_barriers_and_is_highest_at_the_higher_end(rng):
    model, theta = Bowl(((2.0, 1.0), (0.0, 1.0))), rng.standard_normal((5, 2)).astype(np.float32)
    bowl = barrier_matrices(model, "squared_error", population(theta), zero_targets(2))["train_loss"]
    own = model.loss(theta.astype(float))
    np.testing.assert_array_equal(bowl.chord, 0)
    np.testing.assert_allclose(bowl.top, np.maximum.outer(own, own), rtol=1e-12)
    np.testing.assert_allclose(bowl.ends, np.add.outer(own, own) / 2, rtol=1e-12)
    later = np.triu(own[:, None] < own, 1)  # alpha counts from the network of the smaller index
    np.testing.assert_array_equal(bowl.mean_alpha, later | later.T)


def test_a_barrier_is_where_it_is_on_the_way_from_the_smaller_index():
    """(w^2 - 1)^2 between -1 and 3: the maximum of the well's rim is at w = 0, a quarter of the way."""
    for theta, alpha in (([[-1.0], [3.0]], 1), ([[3.0], [-1.0]], 0)):
        found = barrier_matrices(Wells(), "squared_error", population(theta), zero_targets(1), num_alphas=41)
        assert found["train_loss"].mean_alpha.tolist() == [[0, alpha], [alpha, 0]]
        assert found["train_loss"].top.tolist() == [
            [Wells().loss(np.array(theta[0])), 64],
            [64, Wells().loss(np.array(theta[1]))],
        ]
    flat = barrier_matrices(Wells(), "squared_error", population([[-1.0], [1.5]]), zero_targets(1), num_alphas=41)
    dense = np.linspace(-1, 1.5, 100_001)
    above = (dense**2 - 1) ** 2 - (dense + 1) / 2.5 * (1.5**2 - 1) ** 2
    np.testing.assert_allclose(flat["train_loss"].chord[1, 0], above.max(), rtol=1e-5)
    np.testing.assert_allclose(flat["train_loss"].chord_alpha[1, 0], (dense[above.argmax()] + 1) / 2.5, atol=1 / 640)


@pytest.mark.parametrize("num_pairs", [1, 7, 15])
def test_random_pairs_are_so_many_and_symmetric(rng, num_pairs):
    mask = random_pairs(6, num_pairs, rng=rng)
    np.testing.assert_array_equal(mask, mask.T)
    assert not mask.diagonal().any()
    assert np.triu(mask).sum() == num_pairs


def test_random_pairs_are_drawn_alike():
    drawn = np.mean([random_pairs(5, 3, rng=np.random.default_rng(key)) for key in range(2000)], axis=0)
    np.testing.assert_allclose(drawn[np.triu_indices(5, 1)], 0.3, atol=0.05)
    one, again = (random_pairs(5, 3, rng=np.random.default_rng(1)) for _ in range(2))
    np.testing.assert_array_equal(one, again)


@pytest.mark.parametrize("num_pairs", [-1, 0, 7])
def test_pairs_that_do_not_exist_are_refused(rng, num_pairs):
    with pytest.raises(ValueError, match=f"num_pairs = {num_pairs}: 4 networks have 6 pairs"):
        random_pairs(4, num_pairs, rng=rng)


def test_pairs_left_out_are_nan_and_the_others_as_ever(rng):
    data, params = classification(rng), networks(rng, 5)
    whole = barrier_matrices(MLP(SIZES), "cross_entropy", params, data, num_alphas=5)
    mask = np.zeros((5, 5), bool)
    mask[[0, 2, 1, 2], [2, 0, 2, 1]] = True  # network 2 with 0 and 1; 3 and 4 with none
    part = barrier_matrices(MLP(SIZES), "cross_entropy", params, data, num_alphas=5, pairs=mask)
    for loss in LOSSES:
        np.testing.assert_array_equal(part[loss].measured, mask)
        for field in dataclasses.fields(whole[loss]):
            got, expected = getattr(part[loss], field.name), getattr(whole[loss], field.name)
            known = mask | np.diag([True] * 3 + [field.name != "ends"] * 2)
            np.testing.assert_array_equal(got, np.where(known, expected, np.nan), err_msg=field.name)


def test_the_median_is_over_the_pairs_that_were_measured(rng):
    mask = random_pairs(8, 9, rng=rng)
    found = barrier_matrices(Wells(), "squared_error", population(corners(3)), zero_targets(3), pairs=mask)
    apart = np.sum(corners(3)[:, None] != corners(3), axis=-1)
    estimate = median_over_pairs(found["train_loss"].chord, rng=rng, unit="squared error")
    np.testing.assert_allclose(estimate.value, np.median(apart[np.triu(mask)]), rtol=1e-12)
    assert (estimate.n, estimate.unit) == (8, "squared error")
    assert estimate.ci is not None
    assert 1 - 1e-12 <= estimate.ci[0] <= estimate.value <= estimate.ci[1] <= 3 + 1e-12


@pytest.mark.parametrize(
    "pairs", [None, ~np.diag([True] * 4) & ~np.eye(4, k=3, dtype=bool) & ~np.eye(4, k=-3, dtype=bool)]
)
@pytest.mark.parametrize("fail_at", [1, 3, 5])
def test_killed_in_the_middle_it_goes_on_with_the_row_it_was_in(rng, tmp_path, monkeypatch, fail_at, pairs):
    data, params, told = classification(rng), networks(rng, 4), []
    run = lambda path, **options: barrier_matrices(  # noqa: E731
        MLP(SIZES), "cross_entropy", params, data, num_alphas=3, pairs=pairs, path=path, **options
    )
    whole = run(None)
    with monkeypatch.context() as patched:
        counted(patched, fail_at)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "barriers")
    rows = [int(file.stem[-1]) for file in (tmp_path / "barriers").glob("row-*.npz")]
    calls = counted(monkeypatch)
    resumed = run(tmp_path / "barriers", progress=told.append)
    each = [3, 2, 1] if pairs is None else [2, 2, 1]
    assert len(calls) == sum(each) - sum(each[row] for row in rows)
    again = run(tmp_path / "barriers")
    assert len(calls) == sum(each) - sum(each[row] for row in rows)
    for loss in LOSSES:
        assert_same(resumed[loss], whole[loss])
        assert_same(again[loss], whole[loss])
    upto = np.cumsum(each)
    assert [text.partition(",")[0] for text in told] == [f"barriers of {k} of {upto[-1]} pairs" for k in upto]
    assert told[-1] == f"barriers of {upto[-1]} of {upto[-1]} pairs, about 0 s left"


def test_rows_without_pairs_are_kept_as_such(tmp_path, monkeypatch):
    mask = np.zeros((4, 4), bool)
    mask[[1, 2], [2, 1]] = True
    params, data = population(corners(2)), zero_targets(2)
    first = barrier_matrices(Wells(), "squared_error", params, data, pairs=mask, path=tmp_path)
    calls = counted(monkeypatch)
    again = barrier_matrices(Wells(), "squared_error", params, data, pairs=mask, path=tmp_path)
    assert calls == []
    assert_same(again["train_loss"], first["train_loss"])
    np.testing.assert_array_equal(first["train_loss"].measured, mask)
    assert first["train_loss"].top[1, 2] == 2


def test_other_settings_are_computed_anew(rng, tmp_path, monkeypatch):
    theta, data = corners(2), zero_targets(2)
    calls, done = counted(monkeypatch), 0
    some = random_pairs(4, 6, rng=rng)
    some[0, 1] = some[1, 0] = False

    def run(path, model=Wells(), theta=theta, data=data, **options):  # noqa: B008
        return barrier_matrices(model, "squared_error", population(theta), data, path=path, **options)["train_loss"]

    cases: list[tuple[dict[str, Any], int]] = [
        ({}, 6),
        ({}, 0),
        ({"l2": 0.1}, 6),
        ({"num_alphas": 13}, 6),
        ({"theta": 1.5 * theta}, 6),
        ({"theta": theta[:3]}, 3),
        ({"data": zero_targets(2, num_examples=5)}, 6),
        ({"pairs": some}, 5),
        ({"pairs": some.copy()}, 0),
        ({"model": Chain(), "data": zero_targets(1)}, 6),
    ]
    for changed, num in cases:
        kept = run(tmp_path, **changed)
        assert len(calls) - done == num, changed
        assert_same(kept, run(None, **changed))
        done = len(calls)


def test_other_routes_or_more_networks_are_computed_anew(tmp_path, monkeypatch):
    calls, params = counted(monkeypatch), population(corners(2))
    for num, settings, computed in ((3, {"way": 1}, 3), (4, {"way": 1}, 6), (4, {"way": 2}, 6), (4, {"way": 2}, 0)):
        before = len(calls)
        found = pair_barriers(
            Wells(), "squared_error", num, straight_routes(params), zero_targets(2), path=tmp_path, settings=settings
        )
        assert len(calls) - before == computed
        assert found["raw"]["train_loss"].chord.shape == (num, num)


def test_several_routes_are_measured_at_once(rng):
    """The way around through the origin, beside the straight one; every network is asked for once, as the first."""
    theta, asked = corners(2), []
    params = population(theta)
    origin = {"theta": np.zeros(2, np.float32)}

    def routes(i):
        asked.append(i)
        ends = lambda j: (tree.pick(params, i), tree.pick(params, j))  # noqa: E731
        return {
            "raw": lambda j: (ends(j), straight),
            "bent": lambda j: ((ends(j)[0], origin, ends(j)[1]), bent),
        }

    found = pair_barriers(Wells(), "squared_error", 4, routes, zero_targets(2))
    assert asked == [0, 1, 2]
    assert list(found) == ["raw", "bent"]
    direct = barrier_matrices(Wells(), "squared_error", params, zero_targets(2))
    for loss in LOSSES:
        assert_same(found["raw"][loss], direct[loss])
    np.testing.assert_allclose(found["bent"]["train_loss"].chord, 2 - 2 * np.eye(4), atol=1e-12)


def bent(points, alpha, x):
    """Straight to the second point, straight on to the third."""
    first, second, third = points
    there, back = straight((first, second), 2 * alpha, x), straight((second, third), 2 * alpha - 1, x)
    return jax.tree.map(lambda u, v: jax.numpy.where(alpha < 0.5, u, v), there, back)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (np.zeros((3, 3), bool), r"pairs of shape \(3, 3\): a symmetric \(3, 3\) matrix with a pair"),
        (np.eye(3, dtype=bool), "with a pair is expected"),
        (np.eye(3, k=1, dtype=bool), "a symmetric"),
        (~np.eye(4, dtype=bool), r"pairs of shape \(4, 4\): a symmetric \(3, 3\)"),
    ],
)
def test_masks_that_are_none_are_refused(pairs, message):
    params = population(corners(2)[:3])
    with pytest.raises(ValueError, match=message):
        barrier_matrices(Wells(), "squared_error", params, zero_targets(2), pairs=pairs)


def test_what_has_no_pairs_or_no_settings_is_refused(tmp_path):
    params, data = population(corners(2)), zero_targets(2)
    for num in (0, 1):
        with pytest.raises(ValueError, match=f"at least two networks, got {num}"):
            pair_barriers(Wells(), "squared_error", num, straight_routes(params), data)
    with pytest.raises(ValueError, match="a path takes settings"):
        pair_barriers(Wells(), "squared_error", 4, straight_routes(params), data, path=tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "theses").mkdir()
    with pytest.raises(StoreError, match="theses"):
        barrier_matrices(Wells(), "squared_error", params, data, path=tmp_path)


def test_a_loss_that_is_not_finite_is_refused():
    theta = corners(2)
    theta[3, 0] = np.inf
    with pytest.raises(ValueError, match="is not finite"):
        barrier_matrices(Wells(), "squared_error", population(theta), zero_targets(2))
