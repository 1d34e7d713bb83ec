import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import Bowl, Chain, Ring, Wells, corners, everywhere, zero_targets
from problems_census import dataset, inits, noisy_regression, stacked, xor

from analysis.census import certificate, certify, polish, scale_tangents
from analysis.curvature import Objective, hessians, lanczos
from wspace.models import MLP
from wspace.symmetry import act, random_element
from wspace.tree import Layout


@dataclasses.dataclass(frozen=True)
class Tilted:
    """loss = (theta_1^2 - 1)^2 + c (theta_2^2 - 1)^2: a saddle at (1, 0) with the curvatures 8 and -4 c = -8 depth."""

    depth: float

    def apply(self, params, x):
        weights = jnp.array([1.0, np.sqrt(2 * self.depth)])
        return everywhere(weights * (jnp.square(params["theta"]) - 1), x)


def certified(objective, params, rng, **options):
    return certify(objective, params, rng=rng, **options)


def test_a_bowl_is_a_strict_minimum_at_its_bottom_and_nowhere_else(rng):
    objective = Objective(Bowl(((2.0, 1.0), (0.0, 3.0))), "squared_error", zero_targets(2))
    found = certified(objective, stacked([0.0, 0.0], [1e-3, 0.0]), rng)
    assert found.labels == ("strict minimum", "not converged")
    assert found.reasons == ("", "gradient")
    values = 2 * np.linalg.eigvalsh(np.array([[2.0, 1], [0, 3]]).T @ [[2.0, 1], [0, 3]])
    np.testing.assert_allclose([found.smallest[0], found.largest[0]], values, rtol=1e-12)
    assert found.index.tolist() == [0, 0]
    assert found.num_flat.tolist() == [0, 0]
    np.testing.assert_allclose(found.steps, [0, 1e-3], rtol=1e-9)  # a Newton step leads to the bottom
    assert found.minimum.tolist() == [True, False]
    assert found.counts() == {"strict minimum": 1, "degenerate minimum": 0, "saddle": 0, "not converged": 1}
    assert "4 train examples" in found.objective


def test_a_valley_is_a_degenerate_minimum_and_its_direction_moves_no_output(rng):
    objective = Objective(Bowl(((1.0, 1.0, 0.0), (0.0, 0.0, 1.0))), "squared_error", zero_targets(2))
    found = certified(objective, stacked([0.0, 0.0, 0.0], [2.0, -2.0, 0.0]), rng)
    assert found.labels == ("degenerate minimum",) * 2
    assert found.num_flat.tolist() == found.flat_inert.tolist() == [1, 1]
    assert found.flat_other.tolist() == [0, 0]
    ring = certified(Objective(Ring(), "squared_error", zero_targets(1)), stacked([0.6, 0.8]), rng)
    assert ring.labels == ("degenerate minimum",)
    assert ring.num_flat.tolist() == [1]


def test_every_stationary_point_of_the_wells(rng):
    """(theta^2 - 1)^2 in each coordinate: minima at +-1, a maximum at 0, so that zeros count the index."""
    objective = Objective(Wells(), "squared_error", zero_targets(3))
    points = np.concatenate([corners(3), [[0.0, 1, 1], [0, 0, 1], [0, 0, 0]]])
    found = certified(objective, stacked(*points), rng)
    assert found.labels == ("strict minimum",) * 8 + ("saddle",) * 3
    assert found.index.tolist() == [0] * 8 + [1, 2, 3]
    np.testing.assert_allclose(found.smallest, [8.0] * 8 + [-4.0] * 3, rtol=1e-10)


def test_a_saddle_of_higher_order_is_found_by_probing(rng):
    """(theta_1 theta_2 theta_3 - 1)^2 at 0: gradient and Hessian vanish, and yet it falls to 0."""
    found = certified(Objective(Chain(), "squared_error", zero_targets(1)), stacked([0.0, 0.0, 0.0]), rng)
    assert found.labels == ("saddle",)
    assert found.num_flat.tolist() == [3]
    assert found.drops[0] > 0
    two = certified(Objective(Chain(), "squared_error", zero_targets(1)), stacked([0.0, 0.0]), rng)
    assert two.labels == ("saddle",)
    assert two.index.tolist() == [1]
    there = certified(Objective(Chain(), "squared_error", zero_targets(1)), stacked([2.0, 1.0, 0.5]), rng)
    assert there.labels == ("degenerate minimum",)
    assert there.num_flat.tolist() == there.flat_inert.tolist() == [2]


def linear_problem(rng):
    """Inputs with unit covariance; the best linear map has the singular values 3, 2, 1."""
    x = rng.standard_normal((40, 3))
    x = np.linalg.qr(x)[0] * np.sqrt(40)
    u, v = np.linalg.qr(rng.standard_normal((3, 3)))[0], np.linalg.qr(rng.standard_normal((3, 3)))[0]
    return dataset(x, x @ (u * [3.0, 2.0, 1.0]) @ v.T + 0.1 * rng.standard_normal((40, 3)))


def test_deep_linear_networks_have_global_minima_and_known_saddles(rng):
    """Baldi & Hornik 1989 (10.1016/0893-6080(89)90014-2): with two hidden units the minima are the best map of rank 2, all
    of one value; its other projections on singular directions, and 0, are saddles."""
    data = linear_problem(rng)
    x, y = np.float64(data.x_train), np.float64(data.y_train)
    model = MLP((3, 2, 3), "identity", bias=False)
    objective = Objective(model, "squared_error", data)
    polished = polish(objective, inits(model, 12))
    found = certified(objective, polished.params, rng, symmetry=model.symmetry)
    best = np.linalg.lstsq(x, y, rcond=None)[0]
    q, r = np.linalg.qr(x)
    u, s, vt = np.linalg.svd(r @ best, full_matrices=False)
    value = lambda keep: np.mean(np.sum(np.square(y - q @ (u[:, keep] * s[keep]) @ vt[keep]), axis=1))  # noqa: E731
    assert set(found.labels) == {"degenerate minimum"}
    np.testing.assert_allclose(found.values, value([0, 1]), rtol=1e-10)
    assert found.num_flat.tolist() == [4] * 12  # any invertible 2 x 2 matrix between the layers
    assert found.flat_scale.tolist() == [2] * 12
    assert found.flat_inert.tolist() == [2] * 12
    networks = []
    for keep in ([0, 2], [1, 2], [0], []):
        first = np.linalg.solve(r, u[:, keep] * np.sqrt(s[keep])) if keep else np.zeros((3, 0))
        second = np.sqrt(s[keep])[:, None] * vt[keep] if keep else np.zeros((0, 3))
        pad = 2 - len(keep)
        weights = (np.pad(first, ((0, 0), (0, pad))), np.pad(second, ((0, pad), (0, 0))))
        networks.append(tuple({"weight": w} for w in weights))
    saddles = jax.tree.map(lambda *leaves: np.stack(leaves), *networks)
    found = certified(objective, saddles, rng, symmetry=model.symmetry)
    assert found.labels == ("saddle",) * 4, found.reasons
    np.testing.assert_allclose(found.values, [value(keep) for keep in ([0, 2], [1, 2], [0], [])], rtol=1e-10)
    assert np.all(found.index > 0)
    assert found.index[0] < found.index[1]


def test_a_teacher_is_a_minimum_of_its_student(rng):
    """Noiseless answers of a tanh network: its own weights, and every relabelling of them, have objective 0."""
    model = MLP((3, 4, 1), "tanh")
    teacher = jax.tree.map(lambda leaf: np.float64(leaf[0]) * 1.5, inits(model, 1, seed=3))
    x = rng.standard_normal((200, 3)).astype(np.float32)
    with jax.enable_x64(True):
        y = np.asarray(model.apply(teacher, x.astype(np.float64)))
    objective = Objective(model, "squared_error", dataset(x, y))
    copies = act(
        model.symmetry, random_element(model.symmetry, rng, (6,)),
        jax.tree.map(lambda leaf: np.repeat(leaf[None], 6, axis=0) + 1e-3 * rng.standard_normal((6, *leaf.shape)), teacher),
    )  # fmt: skip
    polished = polish(objective, copies, tolerance=1e-11)
    found = certified(objective, polished.params, rng, symmetry=model.symmetry)
    assert found.labels == ("strict minimum",) * 6, found.reasons
    assert np.all(found.values < 1e-12)  # targets are stored in float32
    assert found.smallest.min() > 0


def test_flat_directions_of_scale_symmetry_are_told_apart(rng):
    data = noisy_regression(rng, num=200)
    model = MLP((2, 3, 1), "relu")
    objective = Objective(model, "squared_error", data)
    polished = polish(objective, inits(model, 12))
    found = certified(objective, polished.params, rng, symmetry=model.symmetry)
    smooth = [i for i in range(12) if found.labels[i] == "degenerate minimum" and found.flat_inert[i] == 0]
    assert len(smooth) >= 2, (found.labels, found.reasons)
    assert np.all(found.num_flat[smooth] == 3)
    assert np.all(found.flat_scale[smooth] == 3)
    assert np.all(found.flat_other[smooth] == 0)
    unexplained = certified(objective, polished.params, rng)  # without the symmetry they move no output
    assert np.all(unexplained.flat_scale[smooth] == 0)
    assert np.all(unexplained.flat_inert[smooth] == 3)
    penalised = Objective(model, "squared_error", data, l2=1e-2)
    again = certified(penalised, polish(penalised, polished.params).params, rng, symmetry=model.symmetry)
    assert again.flat_scale.max() <= 0  # a penalty sees scales


def test_tangents_of_the_scale_orbit_are_null_vectors_at_a_stationary_point(rng):
    data, model = noisy_regression(rng, num=200), MLP((2, 3, 1), "relu")
    objective = Objective(model, "squared_error", data)
    params = jax.tree.map(lambda leaf: leaf[0], inits(model, 1))
    tangents = scale_tangents(model.symmetry, params)
    assert tangents.shape == (3, Layout.of(params).size)
    theta = np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(params)])
    step, moved = 1e-6, []
    for unit in range(3):
        element = random_element(model.symmetry, rng, kinds=())
        element.factors[0][unit] = np.exp(step)
        moved.append(np.concatenate([x.ravel() for x in jax.tree.leaves(act(model.symmetry, element, params))]))
    np.testing.assert_allclose((np.array(moved) - theta) / step, tangents, atol=1e-5)
    stationary = polish(objective, inits(model, 12)).params
    first = next(
        i for i, label in enumerate(certified(objective, stationary, rng).labels) if label == "degenerate minimum"
    )
    one = jax.tree.map(lambda leaf: leaf[first], stationary)
    matrix = hessians(objective, one, batch_ndim=0)
    images = scale_tangents(model.symmetry, one) @ matrix
    assert np.abs(images).max() < 1e-6 * np.abs(np.linalg.eigvalsh(matrix)).max()


def test_a_softmax_does_not_see_a_shift_of_its_logits(rng):
    """Logistic regression on noisy labels: one minimum, but for any affine function that is added to all three logits."""
    x = rng.standard_normal((150, 2))
    y = np.argmax(x @ rng.standard_normal((2, 3)) + 1.5 * rng.standard_normal((150, 3)), axis=1)
    model = MLP((2, 3))
    objective = Objective(model, "cross_entropy", dataset(x, y, 3))
    found = certified(objective, polish(objective, inits(model, 4)).params, rng, symmetry=model.symmetry)
    assert found.labels == ("degenerate minimum",) * 4, found.reasons
    assert found.num_flat.tolist() == found.flat_shift.tolist() == [3] * 4  # two inputs and the bias
    np.testing.assert_allclose(found.values, found.values[0], rtol=1e-12)


def test_a_minimum_at_infinity_is_never_certified(rng):
    """Separable labels without a penalty: the loss falls for ever, and so does its gradient."""
    model = MLP((2, 3, 2), "tanh")
    objective = Objective(model, "cross_entropy", xor())
    polished = polish(objective, inits(model, 30))
    assert polished.gradient_after.max() < 1e-9
    found = certified(objective, polished.params, rng, symmetry=model.symmetry)
    assert set(found.labels) == {"not converged"}
    assert set(found.reasons) <= {"Newton step", "flat without reason", "no second derivative"}


def test_a_kink_has_no_second_derivative(rng):
    """A dead ReLU unit of weights 0: automatic differentiation sees the penalty alone, but the loss falls along a ray."""
    data = dataset([[1.0, 1.0], [2.0, 0.5]], [[1.0], [2.0]])
    model = MLP((2, 1, 1), "relu", bias=False)
    objective = Objective(model, "squared_error", data, l2=1e-3)
    dead = ({"weight": np.zeros((1, 2, 1))}, {"weight": np.zeros((1, 1, 1))})
    assert np.linalg.eigvalsh(hessians(objective, dead))[0, 0] > 0
    found = certified(objective, dead, rng, symmetry=model.symmetry)
    assert found.labels == ("not converged",)
    assert found.reasons == ("no second derivative",)


def test_lanczos_labels_as_the_whole_spectrum_does(rng):
    model = MLP((2, 3, 2), "tanh")
    objective = Objective(model, "cross_entropy", xor(), l2=1e-2)
    params = polish(objective, inits(model, 8)).params
    whole, ends = (certified(objective, params, rng, dense_params=size) for size in (1024, 0))
    assert whole.labels == ends.labels == ("strict minimum",) * 8
    np.testing.assert_allclose(ends.smallest, whole.smallest, rtol=1e-6)
    np.testing.assert_allclose(ends.largest, whole.largest, rtol=1e-6)
    assert np.all(ends.steps >= whole.steps * (1 - 1e-6))  # a bound
    assert ends.index.tolist() == [-1] * 8
    assert not ends.whole.any()
    valley = Objective(Bowl(((1.0, 1.0, 0.0), (0.0, 0.0, 1.0))), "squared_error", zero_targets(2))
    unknown = certified(valley, stacked([0.0, 0.0, 0.0]), rng, dense_params=0)
    assert unknown.labels == ("not converged",)
    assert unknown.reasons in (("spectrum",), ("Newton step",))
    top = certified(Objective(Wells(), "squared_error", zero_targets(2)), stacked([0.0, 0.0]), rng, dense_params=0)
    assert top.labels == ("saddle",)


def test_large_networks_are_not_looked_at_before_they_are_stationary(rng):
    """A spectrum costs most of all and would say nothing; what was not computed is no number."""
    model = MLP((2, 3, 2), "tanh")
    objective = Objective(model, "cross_entropy", xor(), l2=1e-2)
    params = jax.tree.map(
        lambda *leaves: np.concatenate(leaves), inits(model, 2), polish(objective, inits(model, 1)).params
    )
    found = certified(objective, params, rng, dense_params=0)
    assert found.labels == ("not converged", "not converged", "strict minimum")
    assert found.reasons == ("gradient", "gradient", "")
    for value in (found.smallest, found.largest, found.residuals, found.steps):
        assert np.isnan(value).tolist() == [True, True, False]
    assert np.all(found.kinks < 1e-5)
    sharp = MLP((2, 3, 2), "relu")
    kinked = dataclasses.replace(objective, model=sharp)
    params = polish(kinked, inits(sharp, 8)).params
    whole, ends = (certified(kinked, params, rng, dense_params=size) for size in (1024, 0))
    assert whole.reasons.count("no second derivative") > 0
    assert [r == "no second derivative" for r in ends.reasons] == [r == "no second derivative" for r in whole.reasons]


def test_a_smallest_eigenvalue_need_not_have_converged_for_its_sign_to_be_known(rng, monkeypatch):
    """Where it is that of the penalty, many eigenvalues lie close by, and Lanczos is slow to part them."""
    monkeypatch.setattr(certificate, "LANCZOS", 40)
    monkeypatch.setattr(lanczos, "DENSE", 0)
    model = MLP((40, 3), "tanh")
    x, y = rng.standard_normal((200, 40)) * np.geomspace(1, 1e-2, 40), rng.integers(0, 3, 200)
    objective = Objective(model, "cross_entropy", dataset(x, y, 3), l2=1e-2)
    found = certified(objective, polish(objective, inits(model, 3)).params, rng, dense_params=0)
    assert np.all(found.residuals > certificate.FLAT * found.largest)
    assert found.labels == ("strict minimum",) * 3
    np.testing.assert_allclose(found.smallest, 1e-2, rtol=1e-2)


def test_labels_know_nothing_of_labels(rng):
    """A relabelled network is what it was before."""
    model = MLP((2, 3, 2), "tanh")
    objective = Objective(model, "cross_entropy", xor(), l2=1e-3)
    params = polish(objective, inits(model, 6)).params
    moved = act(model.symmetry, random_element(model.symmetry, rng, (6,)), params)
    one, other = (certified(objective, p, rng, symmetry=model.symmetry) for p in (params, moved))
    assert one.labels == other.labels
    np.testing.assert_allclose(one.smallest, other.smallest, rtol=1e-8)


def test_wrong_arguments_are_refused(rng):
    objective = Objective(Wells(), "squared_error", zero_targets(2))
    with pytest.raises(ValueError, match="tolerance = -1"):
        certified(objective, stacked([0.0, 0.0]), rng, tolerance=-1)
    with pytest.raises(ValueError, match="not finite"):
        certified(objective, stacked([0.0, np.inf]), rng)


@pytest.mark.parametrize("scale", [1e4, 1e-5])
def test_minima_do_not_hang_on_the_units_of_the_targets(rng, scale):
    """A linear regression has as strict a minimum whatever its targets are measured in."""
    x = rng.standard_normal((50, 3))
    model = MLP((3, 1))
    objective = Objective(
        model, "squared_error", dataset(x, scale * (x @ np.ones((3, 1)) + rng.standard_normal((50, 1))))
    )
    polished = polish(objective, inits(model, 3))
    assert polished.stationary.all()
    found = certified(objective, polished.params, rng)
    assert found.labels == ("strict minimum",) * 3, (found.reasons, found.gradients)


def test_small_targets_certify_nothing_that_polishing_could_lower(rng):
    """With targets of 1e-5 all gradients are tiny: they count relative to the scatter of the targets."""
    x = rng.standard_normal((40, 2))
    y = 1e-5 * (x[:, :1] * x[:, 1:] + 0.3 * rng.standard_normal((40, 1)))
    model = MLP((2, 2, 1), "tanh")
    objective = Objective(model, "squared_error", dataset(x, y))
    start = inits(model, 4)
    few = polish(objective, (start[0], jax.tree.map(lambda leaf: 1e-5 * leaf, start[1])), max_steps=20, newton_steps=0)
    found = certified(objective, few.params, rng, symmetry=model.symmetry)
    assert found.gradients.max() < 1e-6
    assert set(found.labels) == {"not converged"}


@pytest.mark.parametrize("feature", [1e4, 1e-4])
def test_slight_curvature_is_not_flat(rng, feature):
    """A feature that is not standardised: the smallest eigenvalue is a billionth of the largest, and yet positive."""
    x = rng.standard_normal((30, 2))
    model = MLP((2, 1), "identity")
    objective = Objective(model, "squared_error", dataset(x * [feature, 1.0], x.sum(axis=1, keepdims=True)))
    polished = polish(objective, inits(model, 3))
    found = certified(objective, polished.params, rng, symmetry=model.symmetry)
    assert found.labels == ("strict minimum",) * 3, found.reasons
    assert np.all(found.smallest < 1e-7 * found.largest)
    np.testing.assert_allclose(polished.params[0]["weight"][:, :, 0] * [feature, 1.0], 1, rtol=1e-4)


def test_a_slight_penalty_makes_minima_strict(rng):
    """Collinear features, and XOR: flat without a penalty, and of curvature 1e-8 with one."""
    x = np.repeat(rng.standard_normal((30, 1)), 2, axis=1)
    collinear = Objective(MLP((2, 1)), "squared_error", dataset(x, x[:, :1] + rng.standard_normal((30, 1))), l2=1e-8)
    network = Objective(MLP((2, 2, 2), "tanh"), "cross_entropy", xor(), l2=1e-8)
    for objective in (collinear, network):
        found = certified(objective, polish(objective, inits(objective.model, 4)).params, rng)
        assert found.labels == ("strict minimum",) * 4, found.reasons
        np.testing.assert_allclose(found.smallest, 1e-8, rtol=1e-3)


@pytest.mark.parametrize("depth", [5e-8, 1e-9])
def test_a_slight_saddle_is_a_saddle(rng, depth):
    """(theta_1^2 - 1)^2 + (theta_2^2 - 1)^2, the second shrunk so that its maximum is hardly curved."""
    tilted = Objective(Tilted(depth), "squared_error", zero_targets(2))
    found = certified(tilted, stacked([1.0, 0.0]), rng)
    assert found.labels == ("saddle",), (found.reasons, found.smallest)
    assert found.index.tolist() == [1]


@pytest.mark.parametrize("weight", [10.0, 20.0, 45.0, 60.0])
def test_a_saturated_unit_is_no_minimum(rng, weight):
    """tanh(w x) towards the sign of x: the loss falls for ever with w, and so do gradient and curvature."""
    x = np.linspace(-1, 1, 8)[:, None]
    model = MLP((1, 1, 1), "tanh")
    objective = Objective(model, "squared_error", dataset(x, np.sign(x)))
    start = (
        {"bias": np.zeros((1, 1)), "weight": np.array([[[weight]]])},
        {"bias": np.zeros((1, 1)), "weight": np.ones((1, 1, 1))},
    )
    found = certified(objective, polish(objective, start).params, rng, symmetry=model.symmetry)
    assert found.labels == ("not converged",), (weight, found.values)
