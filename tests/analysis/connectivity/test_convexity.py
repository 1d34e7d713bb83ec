import itertools
from math import comb

import jax
import numpy as np
import pytest
from problems import Bowl, Chain, Wells, corners, population, zero_targets
from scipy.stats import beta
from test_line import LOSS, PHI, classification, dataset, half_squares, numpy_outputs, random_params, regression

from analysis.connectivity import barrier_matrices, convexity, last_layer_control, segments, straight_line, triples
from analysis.connectivity.line import LOSSES
from analysis.statistics import Estimate, bootstrap_seeds, extreme_share
from wspace import MLP, stack_params
from wspace.tree import pick

WEIGHTS = np.array([w for w in itertools.product(range(1, 6), repeat=3) if sum(w) == 6]) / 6


def networks(rng, sizes, num, scale=1.0):
    return stack_params([random_params(rng, sizes, scale) for _ in range(num)])


def above_the_plane(loss, corners, weights=WEIGHTS):
    """L(sum w_k theta_k) - sum w_k L(theta_k), of a loss written out."""
    return np.array([loss(w @ corners) for w in weights]) - weights @ np.array([loss(corner) for corner in corners])


def test_the_points_in_a_triangle_are_its_corners_and_ten_inside():
    weights = convexity._lattice(6)
    np.testing.assert_array_equal(weights[:3], np.eye(3))
    assert {tuple(w) for w in weights[3:]} == {tuple(w) for w in WEIGHTS}
    assert len(weights) == 13
    assert np.any(np.all(weights == 1 / 3, axis=1))


@pytest.mark.parametrize("num", [3, 5, 9])
def test_triples_are_all_subsets_once(num):
    members = convexity._unrank(np.arange(comb(num, 3)), num, 3)
    assert {tuple(m) for m in members.tolist()} == set(itertools.combinations(range(num), 3))
    assert len(members) == comb(num, 3)


def test_a_bowl_lies_below_its_chords_and_planes_by_the_variance_of_the_corners(rng):
    """L(sum w_k t_k) = sum w_k L(t_k) - sum_(k<l) w_k w_l (t_k - t_l)^T A (t_k - t_l)."""
    root, theta = ((1.0, 2.0), (0.0, 0.5), (-1.0, 1.0)), rng.standard_normal((5, 2)).astype(np.float32)
    model, data = Bowl(root), zero_targets(3)
    gap = model.loss(theta[:, None].astype(float) - theta)
    lines = segments(barrier_matrices(model, "squared_error", population(theta), data)["train_loss"], rng=rng)
    first, second = np.array(lines.members).T
    np.testing.assert_allclose(lines.excess, -0.09 * gap[first, second], rtol=1e-10)  # the first of ten steps
    triangles = triples(model, "squared_error", population(theta), data, loss="train_loss", rng=rng)
    assert len(triangles.excess) == 10
    for excess, tolerance, (i, j, k) in zip(
        triangles.excess, triangles.tolerance, triangles.members.tolist(), strict=True
    ):
        pairs = ((0, 1, i, j), (0, 2, i, k), (1, 2, j, k))
        below = np.sum([WEIGHTS[:, a] * WEIGHTS[:, b] * gap[p, q] for a, b, p, q in pairs], axis=0)
        np.testing.assert_allclose(excess, -below.min(), rtol=1e-10)
        np.testing.assert_allclose(tolerance, 1e-10 * model.loss(theta[[i, j, k]].astype(float)).max(), rtol=1e-6)
    for found in (lines, triangles):
        assert not found.violated.any()
        assert found.share.value == 0
        assert (found.share.n, found.share.unit) == (5, "share")
        assert found.median.value == np.median(found.excess) < 0
    assert lines.share.ci == pytest.approx((0, 1 - 0.025 ** (1 / 2)), rel=1e-9)  # two pairs of five share no network
    assert triangles.share.ci is None  # five networks have no two triples apart


def test_between_wells_every_line_and_triangle_is_violated_by_known_heights(rng):
    model, data, theta = Wells(), zero_targets(2), corners(2)
    barriers = barrier_matrices(model, "squared_error", population(theta), data)["train_objective"]
    lines = segments(barriers, rng=rng)
    np.testing.assert_allclose(lines.excess, np.sum(theta[lines.members[:, 0]] != theta[lines.members[:, 1]], axis=1))
    assert lines.share.value == 1
    assert lines.share.ci == pytest.approx((0.025**0.5, 1), rel=1e-9)
    triangles = triples(model, "squared_error", population(theta), data, rng=rng)
    # with its right angle at (-1, -1): 16 [a^2 (1-a)^2 + b^2 (1-b)^2], largest at a = 1/2, b = 1/3
    np.testing.assert_allclose(triangles.excess, 1 + 64 / 81, rtol=1e-12)
    assert triangles.violated.all()


@pytest.mark.parametrize("model", [Wells(), Chain(0.7)], ids=repr)
def test_excess_in_triangles_is_that_of_the_loss_written_out(rng, model):
    branch = np.array([-1.5, -1.0, -0.5, 0.5, 1.0, 1.5])
    theta = np.stack([branch, 1 / branch], axis=1).astype(np.float32)
    data = zero_targets(2 if model == Wells() else 1)
    found = triples(model, "squared_error", population(theta), data, l2=0.1, rng=rng)
    penalised = lambda t: model.loss(t) + 0.05 * np.sum(t**2)  # noqa: E731
    expected = [above_the_plane(penalised, theta[m].astype(float)).max() for m in found.members]
    np.testing.assert_allclose(found.excess, expected, rtol=1e-10, atol=1e-14)
    assert found.share.value > 0
    assert found.share.value == np.mean(np.array(expected) > 0)


def test_a_deep_linear_network_is_violated_between_its_mirror_images(rng):
    """w_1 w_2 = target at (1, target) and at its negative; halfway the network is 0 and its loss target^2."""
    a, b = ({"theta": np.array([sign, sign / 2], np.float32)} for sign in (1, -1))
    line = straight_line(Chain(0.5), "squared_error", a, b, zero_targets(1))
    np.testing.assert_allclose(line.barriers["train_loss"].excess, 0.25, rtol=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("kind", ["squared_error", "cross_entropy"])
def test_excess_in_triangles_equals_plain_numpy(rng, kind, loss):
    sizes, data = (3, 4, 3), classification(rng)
    params = networks(rng, sizes, 4)
    found = triples(MLP(sizes, "tanh"), kind, params, data, loss=loss, l2=0.2, rng=rng)
    x, y = (data.x_test, data.y_test) if loss == "test_loss" else (data.x_train, data.y_train)

    def value(mixed):
        penalty = 0.2 * half_squares(mixed) if loss == "train_objective" else 0
        return LOSS[kind](numpy_outputs(mixed, x, PHI["tanh"]), y) + penalty

    for excess, tolerance, members in zip(found.excess, found.tolerance, found.members.tolist(), strict=True):
        ends = [jax.tree.map(np.float64, pick(params, i)) for i in members]
        losses = np.array([value(end) for end in ends])
        mixed = [jax.tree.map(lambda *leaves, w=w: sum(map(np.multiply, w, leaves)), *ends) for w in WEIGHTS]
        inside = np.array([value(m) for m in mixed])
        np.testing.assert_allclose(excess, (inside - WEIGHTS @ losses).max(), rtol=1e-11, atol=1e-14)
        np.testing.assert_allclose(tolerance, 1e-10 * max(losses.max(), inside.max()), rtol=1e-11)
    assert found.median.unit == ("nats" if kind == "cross_entropy" else "squared error")


@pytest.mark.parametrize("scale", [5.0, 1e-3], ids=str)
@pytest.mark.parametrize("kind", ["squared_error", "cross_entropy"])
def test_linear_models_violate_nothing(rng, kind, scale):
    data = classification(rng, num_classes=2)
    model, params = MLP((3, 2)), networks(rng, (3, 2), 6, scale)
    barriers = barrier_matrices(model, kind, params, data, l2=0.01)["test_loss"]
    options = {"loss": "test_loss", "l2": 0.01, "rng": rng}
    for found, num in (
        (segments(barriers, rng=rng), 3),
        (triples(model, kind, params, data, **options), 2),
        (last_layer_control(model, kind, params, data, **options), 3),
    ):
        assert not found.violated.any()
        assert found.share == Estimate(0.0, found.share.ci, 6, "share")
        assert found.share.ci == pytest.approx((0, 1 - 0.025 ** (1 / num)), rel=1e-9)


def test_lines_between_copies_of_one_network_violate_nothing(rng):
    sizes, data = (3, 4, 3), classification(rng)
    params = stack_params([random_params(rng, sizes)] * 4)
    for measured in (triples, last_layer_control):
        found = measured(MLP(sizes), "cross_entropy", params, data, rng=rng)
        assert not found.violated.any()
        assert np.all(np.abs(found.excess) <= found.tolerance)


@pytest.mark.parametrize("kind", ["squared_error", "cross_entropy"])
@pytest.mark.parametrize("bias", [True, False])
def test_the_last_layers_violate_nothing_where_whole_networks_do(rng, kind, bias):
    """One network relabelled: the same function at every corner, others between; all targets are its own."""
    sizes, x = (3, 6, 3), rng.standard_normal((30, 3))
    first, last = random_params(rng, sizes, 3.0)
    if not bias:
        first["bias"][:] = last["bias"][:] = 0
    perms = [rng.permutation(6) for _ in range(6)]
    params = stack_params(
        [
            ({"weight": first["weight"][:, p], "bias": first["bias"][p]}, last | {"weight": last["weight"][p]})
            for p in perms
        ]
    )
    y = numpy_outputs((first, last), x.astype(np.float32), PHI["relu"])
    data = dataset(x, y) if kind == "squared_error" else dataset(x, y.argmax(axis=1), num_classes=3)
    if not bias:
        params = tuple({"weight": layer["weight"]} for layer in params)
    model = MLP(sizes, bias=bias)
    control = last_layer_control(model, kind, params, data, rng=rng)
    assert control.members.tolist() == [list(pair) for pair in itertools.permutations(range(6), 2)]
    assert not control.violated.any()
    assert control.excess.max() < -1e-4
    assert control.share.ci == pytest.approx((0, 1 - 0.025 ** (1 / 3)), rel=1e-9)
    lines = segments(barrier_matrices(model, kind, params, data)["train_objective"], rng=rng)
    assert lines.violated.any()
    assert lines.excess.max() > 0.1


def test_the_control_is_the_line_to_the_last_layer_of_another(rng):
    data, params = regression(rng), networks(rng, (3, 4, 2), 3)
    model = MLP((3, 4, 2))
    control = last_layer_control(model, "squared_error", params, data, loss="test_loss", l2=0.1, num_pairs=4, rng=rng)
    assert len({tuple(pair) for pair in control.members.tolist()}) == 4
    for excess, tolerance, (i, j) in zip(control.excess, control.tolerance, control.members.tolist(), strict=True):
        a, b = pick(params, i), pick(params, j)
        line = straight_line(model, "squared_error", a, (a[0], b[1]), data, l2=0.1, num_alphas=11)
        barrier = line.barriers["test_loss"]
        assert (barrier.excess, barrier.tolerance) == (excess, tolerance)


def test_segments_are_the_measured_pairs(rng):
    mask = np.zeros((4, 4), bool)
    mask[[0, 3, 1, 2], [3, 0, 2, 1]] = True
    barriers = barrier_matrices(Wells(), "squared_error", population(corners(2)), zero_targets(2), pairs=mask)
    found = segments(barriers["train_loss"], rng=rng, unit="squared error")
    assert found.members.tolist() == [[0, 3], [1, 2]]
    np.testing.assert_allclose(found.excess, [2, 2], rtol=1e-12)
    np.testing.assert_array_equal(found.tolerance, barriers["train_loss"].tolerance[[0, 1], [3, 2]])
    assert found.median.unit == "squared error"


def test_a_resample_weighs_a_triple_by_the_product_of_its_seeds_counts():
    excess, members = np.array([1.0, -1.0, 3.0, 0.5]), np.array([[0, 1, 2], [0, 1, 3], [0, 2, 3], [1, 2, 3]])
    drawn = np.array([[0, 0, 1, 2], [0, 1, 2, 3], [3, 3, 3, 0], [0, 2, 3, 3]])
    for level, expected in (  # two of the first; one of each; none; two of the third
        (0.0, [1, -1, np.nan, 3]),
        (0.5, [1, 0.75, np.nan, 3]),
        (0.9, [1, 1 + 0.7 * 2, np.nan, 3]),
        (1.0, [1, 3, np.nan, 3]),
    ):
        np.testing.assert_allclose(convexity._quantile(excess, members, level)(drawn), expected, rtol=1e-14)


@pytest.mark.parametrize("level", [0.05, 0.5, 0.95])
def test_resampled_quantiles_are_those_of_the_samples_written_out(rng, level):
    members = np.array(list(itertools.combinations(range(6), 2)))
    excess = np.round(rng.standard_normal(len(members)), 1)
    resamples = rng.integers(6, size=(50, 6))
    resamples = resamples[np.ptp(resamples, axis=1) > 0]
    at = {tuple(pair): value for pair, value in zip(members.tolist(), excess, strict=True)}
    written = [
        [at[i, j] for i, j in itertools.combinations(sorted(seeds), 2) if i != j] for seeds in resamples.tolist()
    ]
    got = convexity._quantile(excess, members, level)(resamples)
    np.testing.assert_allclose(got, [np.quantile(values, level) for values in written], rtol=1e-12, atol=1e-14)


def test_share_and_quantiles_have_the_intervals_of_resampled_seeds():
    """Pairs with seed 0 are violated; networks that occur in no sample do not count."""
    names = np.array([2, 3, 5, 7, 11])
    places = np.array(list(itertools.combinations(range(5), 2)))
    excess = np.where(places[:, 0] == 0, 1.0, -1.0) * np.arange(1, 11)
    found = convexity.violations(excess, np.full(10, 0.5), names[places], rng=np.random.default_rng(3), unit="nats")
    rng = np.random.default_rng(3)

    def share(resamples):
        pairs = [[sorted(p) for p in itertools.combinations(row, 2) if p[0] != p[1]] for row in resamples.tolist()]
        return np.array([np.mean([i == 0 for i, _ in row]) for row in pairs])

    assert found.share.value == 0.4
    assert (found.share.n, found.share.unit) == (5, "share")
    assert found.share.ci == pytest.approx(bootstrap_seeds(share, 5, rng=rng, pairs=True), rel=1e-12)
    assert set(found.quantiles) == {0.05, 0.5, 0.95}
    for level, estimate in found.quantiles.items():
        assert estimate.value == np.quantile(excess, level)
        assert (estimate.n, estimate.unit) == (5, "nats")
        assert estimate.ci is not None
        assert excess.min() <= estimate.ci[0] < estimate.value < estimate.ci[1] <= excess.max()
    assert found.median is found.quantiles[0.5]
    assert found.violated.tolist() == [True] * 4 + [False] * 6


@pytest.mark.parametrize("num", [4, 5, 10, 15])
@pytest.mark.parametrize("size", [2, 3])
def test_all_or_none_has_the_exact_interval_of_samples_that_share_no_network(rng, num, size):
    members = np.array(list(itertools.combinations(range(num), size)))
    apart = num // size
    for excess, expected in ((1.0, (0.025 ** (1 / apart), 1)), (-1.0, (0, 1 - 0.025 ** (1 / apart)))):
        shuffled = rng.permutation(members)
        share = convexity.violations(np.full(len(members), excess), np.zeros(len(members)), shuffled, rng=rng).share
        assert share.value == (excess > 0)
        assert share.ci == (pytest.approx(expected, rel=1e-9) if apart >= 2 else None)


def test_exact_intervals_are_quantiles_of_beta_distributions():
    assert extreme_share(True, 10) == pytest.approx((beta.ppf(0.025, 10, 1), 1), rel=1e-9)
    assert extreme_share(False, 10) == pytest.approx((0, beta.ppf(0.975, 1, 10)), rel=1e-9)
    assert extreme_share(True, 10) == pytest.approx((0.69150, 1), abs=5e-6)
    assert extreme_share(True, 2) == pytest.approx((0.15811, 1), abs=5e-6)
    assert extreme_share(True, 1) is extreme_share(False, 0) is None


def test_samples_that_share_a_network_count_once(rng):
    star = np.array([[0, k] for k in range(1, 9)])
    assert convexity.violations(np.ones(8), np.zeros(8), star, rng=rng).share.ci is None
    ordered = np.array(list(itertools.permutations(range(6), 2)))
    assert convexity._disjoint(rng.permutation(ordered)) == 3


def test_some_triples_are_drawn_once_each_and_measured_as_all_are(rng):
    theta, data = rng.uniform(-1.5, 1.5, size=(7, 2)), zero_targets(2)
    every = triples(Wells(), "squared_error", population(theta), data, rng=rng)
    some = triples(Wells(), "squared_error", population(theta), data, num_triples=12, rng=rng)
    assert len({tuple(m) for m in some.members.tolist()}) == 12
    at = {tuple(m): value for m, value in zip(every.members.tolist(), every.excess, strict=True)}
    np.testing.assert_array_equal(some.excess, [at[tuple(m)] for m in some.members.tolist()])
    drawn = [
        triples(Wells(), "squared_error", population(theta), data, num_triples=12, rng=np.random.default_rng(key))
        for key in (1, 1, 2)
    ]
    np.testing.assert_array_equal(drawn[0].members, drawn[1].members)
    assert (drawn[0].share, drawn[0].quantiles) == (drawn[1].share, drawn[1].quantiles)
    assert np.any(drawn[0].members != drawn[2].members)


@pytest.mark.parametrize("measured", [triples, last_layer_control])
def test_a_killed_measurement_goes_on_where_it_stopped(rng, tmp_path, monkeypatch, measured):
    sizes, data, params = (3, 4, 3), classification(rng), networks(rng, (3, 4, 3), 6)
    run = lambda path, **options: measured(  # noqa: E731
        MLP(sizes), "cross_entropy", params, data, rng=np.random.default_rng(0), path=path, **options
    )
    whole, told, calls = run(None), [], []
    monkeypatch.setattr(convexity, "BLOCK", 2)
    name = "evaluator" if measured is triples else "along"
    original = getattr(convexity, name)

    def failing(*args, **options):
        calls.append(None)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return original(*args, **options)

    monkeypatch.setattr(convexity, name, failing)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    kept = len(list(tmp_path.glob("row-*.npz")))
    assert 0 < kept < len(whole.excess) // 2
    calls[:] = [None] * 7
    resumed = run(tmp_path, progress=told.append)
    assert len(calls) - 7 == len(whole.excess) - 2 * kept
    for field in ("excess", "tolerance", "members"):
        np.testing.assert_array_equal(getattr(resumed, field), getattr(whole, field))
    assert (resumed.share, resumed.quantiles) == (whole.share, whole.quantiles)
    num, what = len(whole.excess), "triangles" if measured is triples else "last layers"
    assert told[0].startswith(f"convexity on 2 of {num} {what}, about 0 s left")
    assert told[-1] == f"convexity on {num} of {num} {what}, about 0 s left"
    before = len(calls)
    run(tmp_path)
    assert len(calls) == before
    other = run(tmp_path, loss="test_loss")
    assert len(calls) == before + num
    assert np.all(other.excess != whole.excess)


def test_what_has_no_samples_is_refused(rng):
    data, wells = zero_targets(2), lambda num: population(corners(2)[:num])
    with pytest.raises(ValueError, match="at least 3 networks are expected, got 2"):
        triples(Wells(), "squared_error", wells(2), data, rng=rng)
    with pytest.raises(ValueError, match="loss = 'loss' is not one of"):
        triples(Wells(), "squared_error", wells(3), data, loss="loss", rng=rng)
    for num in (0, 5):
        with pytest.raises(ValueError, match=f"num_triples = {num}: there are 4 to choose from"):
            triples(Wells(), "squared_error", wells(4), data, num_triples=num, rng=rng)
    with pytest.raises(ValueError, match="params are a dict: a tuple or list of layers"):
        last_layer_control(Wells(), "squared_error", wells(3), data, rng=rng)
    with pytest.raises(ValueError, match="at least 2 networks are expected, got 1"):
        last_layer_control(MLP((1, 2)), "squared_error", networks(rng, (1, 2), 1), data, rng=rng)
    with pytest.raises(ValueError, match="num_pairs = 7: there are 6"):
        last_layer_control(MLP((1, 2)), "squared_error", networks(rng, (1, 2), 3), data, num_pairs=7, rng=rng)
    with pytest.raises(ValueError, match="got no samples"):
        convexity.violations(np.zeros(0), np.zeros(0), np.zeros((0, 2), int), rng=rng)
