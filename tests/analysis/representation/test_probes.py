import jax
import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import logsumexp

from analysis.representation import features, probe_layers, probes, score_error, separability
from wspace.data import Dataset, Task
from wspace.models import MLP

XOR = MLP((2, 2, 1))


def xor(num, rng):
    """Four groups around the corners of a square; opposite ones are of one class."""
    corners = rng.integers(2, size=(num, 2))
    return (corners + 0.05 * rng.standard_normal((num, 2))).astype(np.float32), corners[:, 0] ^ corners[:, 1]


def xor_params():
    """h = relu(x1 + x2), relu(x1 + x2 - 1): the classes are at h1 - 2 h2 = 1 and 0."""
    hidden = {"weight": np.ones((1, 2, 2), np.float32), "bias": np.array([[0, -1]], np.float32)}
    return hidden, {"weight": np.array([[[1], [-2]]], np.float32), "bias": np.zeros((1, 1), np.float32)}


def blobs(rng, num=300, width=4, classes=3, distance=6.0):
    y = rng.integers(classes, size=num)
    return (distance * np.eye(classes, width)[y] + rng.standard_normal((num, width))).astype(np.float32), y


def one(x):
    return [x[None]]


def test_classes_far_apart_are_separable_in_every_sense(rng):
    (x, y), (x_test, y_test) = blobs(rng, distance=20), blobs(rng, distance=20)
    got = separability(one(x), y, one(x_test), y_test, "classification")
    assert got.score == got.train_score == 1
    assert got.converged.all()
    assert (got.num_train, got.num_test) == (300, 300)


def test_the_inputs_of_xor_are_at_chance_and_its_hidden_layer_is_separable(rng):
    """One draw's line may happen to cut off one of the four groups, for better or worse: chance is the mean of many."""
    inputs = []
    for _ in range(40):
        (x, y), (x_test, y_test) = xor(200, rng), xor(200, rng)
        seen, new = (features(XOR, xor_params(), some) for some in (x, x_test))
        got = separability(seen, y, new, y_test, "classification")
        np.testing.assert_array_equal(got.score[1:], 1)
        np.testing.assert_array_equal(got.train_score[1:], 1)
        inputs.append(got.score[0, 0])
    assert abs(np.mean(inputs) - 0.5) < 4 * np.std(inputs) / np.sqrt(40)
    assert max(inputs) < 0.9


def test_an_invertible_linear_network_keeps_what_a_line_can_tell(rng):
    """Its layers are other coordinates of the inputs, so that only the regularisation can tell them apart."""
    model, num = MLP((4, 4, 4, 3), "identity"), 3
    rotations = np.linalg.qr(rng.standard_normal((2, num, 4, 4)))[0].astype(np.float32)
    zero = np.zeros((num, 4), np.float32)
    last = {"weight": np.zeros((num, 4, 3), np.float32), "bias": np.zeros((num, 3), np.float32)}
    params = (*({"weight": w * 3, "bias": zero} for w in rotations), last)
    (x, y), (x_test, y_test) = blobs(rng, distance=2.5), blobs(rng, num=1000, distance=2.5)
    got = separability(
        features(model, params, x), y, features(model, params, x_test), y_test, "classification", l2=1e-6
    )
    np.testing.assert_allclose(got.score[1:3], got.score[0, 0], atol=0.003)
    assert 0.8 < got.score[0, 0] < 0.99
    np.testing.assert_array_equal(got.score[3], got.chance)  # its outputs are all 0


@pytest.mark.parametrize("classes", [2, 3])
def test_the_probe_is_the_minimum_of_the_stated_objective(classes, rng):
    (x, y), (x_test, y_test) = (blobs(rng, classes=classes, distance=2.0) for _ in range(2))
    l2 = 0.02
    got = separability(one(x), y, one(x_test), y_test, "classification", l2=l2)
    x, x_test = x.astype(float), x_test.astype(float)
    z, z_test = ((some - x.mean(axis=0)) / x.std(axis=0) for some in (x, x_test))
    rows = 1 if classes == 2 else classes

    def logits(theta: np.ndarray, z: np.ndarray) -> np.ndarray:
        found = z @ theta.reshape(rows, 5)[:, :4].T + theta.reshape(rows, 5)[:, 4]
        return np.concatenate([np.zeros((len(z), 1)), found], axis=1) if rows == 1 else found

    def loss(theta):
        found = logits(theta, z)
        weights = theta.reshape(rows, 5)[:, :4]
        return np.mean(logsumexp(found, axis=1) - found[np.arange(len(y)), y]) + l2 / 2 * np.sum(weights**2)

    best = np.asarray(minimize(loss, np.zeros(rows * 5), tol=1e-8).x)
    same = np.mean(logits(best, z_test).argmax(axis=1) == y_test)
    assert got.score[0, 0] == pytest.approx(same, abs=0.004)
    assert got.score[0, 0] < 0.99
    assert got.converged.all()


def test_scale_shift_and_order_of_units_change_nothing(rng):
    (x, y), (x_test, y_test) = blobs(rng, distance=2.0), blobs(rng, distance=2.0)
    change = lambda x: (x * [1, 5, 0.1, 2] + [3, 0, -1, 8])[:, [2, 0, 3, 1]]  # noqa: E731
    layers = [[np.stack([some, change(some)])] for some in (x.astype(float), x_test.astype(float))]
    got = separability(layers[0], y, layers[1], y_test, "classification")
    assert got.score[0, 0] == got.score[0, 1]


def test_shuffled_labels_are_at_chance(rng):
    (x, y), (x_test, y_test) = blobs(rng, num=1000), blobs(rng, num=1000)
    seen, new = ([np.broadcast_to(some, (20, *some.shape))] for some in (x, x_test))
    got = separability(seen, y, new, y_test, "classification", shuffle=rng)
    assert np.std(got.score) > 0  # another shuffle for each network
    assert abs(got.score.mean() - 1 / 3) < 4 * got.score.std() / np.sqrt(20) + 0.02
    assert separability(seen, y, new, y_test, "classification").score.min() > 0.99


def test_chance_is_the_best_constant_answer(rng):
    x = rng.standard_normal((1, 10, 2))
    y, y_test = np.array([2, 2, 2, 2, 2, 2, 5, 5, 5, 5]), np.array([5, 5, 5, 2, 2, 2, 2, 7, 7, 7])
    assert separability([x], y, [x], y_test, "classification").chance == pytest.approx(0.4)


def test_a_probe_that_was_stopped_early_says_so(rng, monkeypatch):
    (x, y), (x_test, y_test) = blobs(rng), blobs(rng)
    monkeypatch.setattr(probes, "MOST_STEPS", 2)
    assert not separability(one(x), y, one(x_test), y_test, "classification").converged.any()


def test_units_that_do_not_vary_say_nothing(rng):
    (x, y), (x_test, y_test) = blobs(rng, distance=2.0), blobs(rng, distance=2.0)
    dead = lambda x: np.concatenate([x, np.full((len(x), 2), 0.1, np.float32)], axis=1)  # noqa: E731
    both = [separability(one(f(x)), y, one(f(x_test)), y_test, "classification") for f in (dead, lambda x: x)]
    assert both[0].score == both[1].score
    flat = np.zeros((1, 300, 3), np.float32)
    got = separability([flat], y, [flat], y_test, "classification")
    np.testing.assert_allclose(got.score, got.chance)
    assert got.converged.all()


@pytest.mark.parametrize("num_outputs", [1, 2])
def test_regressions_have_the_share_of_variance_that_is_linear(num_outputs, rng):
    x, x_test = rng.standard_normal((2, 4000, 3))
    weights = rng.standard_normal((3, num_outputs))
    target = lambda x: x @ weights  # noqa: E731
    noisy = [target(x) + np.sqrt(target(x).var(axis=0)) * rng.standard_normal((4000, num_outputs)) for x in (x, x_test)]
    exact = separability(one(x), target(x), one(x_test), target(x_test), "regression", l2=1e-9)
    assert exact.score[0, 0] == pytest.approx(1, abs=1e-8)
    half = separability(one(x), noisy[0], one(x_test), noisy[1], "regression")
    assert half.score[0, 0] == pytest.approx(0.5, abs=0.05)
    assert half.chance == 0
    squared = separability(one(x), x[:, :1] ** 2, one(x_test), x_test[:, :1] ** 2, "regression")
    assert abs(squared.score[0, 0]) < 0.05


def test_ridge_is_the_stated_one(rng):
    x, y = rng.standard_normal((50, 3)), rng.standard_normal((50, 1))
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    w = np.linalg.solve(z.T @ z / 50 + 0.3 * np.eye(3), z.T @ (y - y.mean()) / 50)
    left = np.sum((z @ w + y.mean() - y) ** 2) / np.sum((y - y.mean()) ** 2)
    got = separability(one(x), y, one(x), y, "regression", l2=0.3)
    assert got.score[0, 0] == pytest.approx(1 - left)
    assert got.converged.all()


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_examples_add_up_to_the_score_and_their_spread_is_that_of_other_examples(task: Task, rng):
    """Against draws of as many test examples from ten times as many, for the same probes of two networks."""
    x, y = blobs(rng, num=100, distance=2.0)
    x_test, y_test = blobs(rng, num=6000, distance=2.0)
    if task == "regression":
        y, y_test = (np.stack([some == 1, some + rng.standard_normal(len(some))], axis=1) for some in (y, y_test))
    seen, new = (np.stack([some, some + rng.standard_normal(some.shape)]) for some in (x, x_test))
    probe = lambda rows: separability([seen], y, [new[:, rows]], y_test[rows], task)  # noqa: E731
    every = [probe(rng.choice(6000, 600, replace=False)) for _ in range(100)]
    for one in every[:3]:
        np.testing.assert_allclose(one.by_example.mean(axis=-1), one.score, atol=1e-12)
        assert one.by_example.shape == (1, 2, 600)
    single, both = (
        every[0].by_example[0, 0] - every[0].score[0, 0],
        every[0].by_example[0, 0] - every[0].by_example[0, 1],
    )
    alone = np.std([one.score[0, 0] for one in every])
    difference = np.std([one.score[0, 0] - one.score[0, 1] for one in every])
    assert score_error(single) == pytest.approx(alone, rel=0.25)
    assert score_error(both - both.mean()) == pytest.approx(difference, rel=0.25)


def test_differences_of_accuracy_are_large_where_mcnemars_statistic_is():
    for more in range(12):
        for less in range(12):
            each = np.concatenate([np.ones(more), -np.ones(less), np.zeros(20)])
            statistic = (more - less) ** 2 / max(more + less, 1)
            assert (abs(each.mean()) > 2 * score_error(each) + 1e-12) == (statistic > 4)
    assert np.all(2 * score_error(np.ones((3, 4))) >= 1)


def population(rng, num=150, num_test=100):
    (x, y), (x_test, y_test) = blobs(rng, num), blobs(rng, num_test)
    data = Dataset("blobs", "classification", x, y, x_test, y_test, 3, (4,), (), ())
    model = MLP((4, 6, 3))
    trained, untrained = (jax.vmap(model.init)(jax.random.split(jax.random.key(k), 3)) for k in (0, 1))
    return model, trained, untrained, data


def test_a_population_is_probed_with_both_controls(rng):
    model, trained, untrained, data = population(rng)
    got = probe_layers(model, trained, data, untrained=untrained, rng=rng)
    for params, found in ((trained, got.trained), (untrained, got.untrained)):
        assert found is not None
        seen, new = (features(model, params, x) for x in (data.x_train, data.x_test))
        alone = separability(seen, data.y_train, new, data.y_test, "classification")
        np.testing.assert_array_equal(found.score, alone.score)
        assert np.all(found.score[0] == found.score[0, 0])
    assert np.all(got.shuffled.score.mean(axis=1) < 0.6)
    assert got.trained.score[0, 0] > 0.95
    assert probe_layers(model, trained, data, rng=rng).untrained is None


def test_no_more_examples_are_used_than_asked_for(rng):
    model, trained, _, data = population(rng)
    got = probe_layers(model, trained, data, most_train=60, most_test=40, rng=rng)
    assert {(s.num_train, s.num_test) for s in (got.trained, got.shuffled)} == {(60, 40)}
    assert got.trained.score[0, 0] > 0.9  # labels went with their examples


def test_what_does_not_fit_is_refused(rng):
    (x, y), (x_test, y_test) = blobs(rng), blobs(rng, num=200)

    def probe(a=x, b=y, c=x_test, d=y_test, task: Task = "classification", **more):
        return separability(one(a), b, one(c), d, task, **more)

    with pytest.raises(ValueError, match=r"shapes \[\(1, 300, 4\)\], those of test examples \[\(1, 200, 3\)\]"):
        probe(c=x_test[:, :3])
    with pytest.raises(ValueError, match="of at least one layer"):
        separability([], y, [], y_test, "classification")
    with pytest.raises(ValueError, match=r"y_train has shape \(299,\), y_test \(200,\): those of 300 and 200"):
        probe(b=y[1:])
    with pytest.raises(ValueError, match="one label for each example"):
        probe(b=y[:, None], d=y_test[:, None])
    with pytest.raises(ValueError, match=r"l2 = 0.0: a positive number"):
        probe(l2=0.0)
    with pytest.raises(ValueError, match="the 300 training examples ask all for the same"):
        probe(b=np.zeros(300, int))
    with pytest.raises(ValueError, match="the 200 test examples ask all for the same"):
        probe(b=rng.standard_normal((300, 1)), d=np.zeros((200, 1)), task="regression")
    bad = x_test.copy()
    bad[3, 1] = np.inf
    with pytest.raises(ValueError, match=r"features of the layers \[0\] are not finite"):
        probe(c=bad)


def test_labels_of_the_test_examples_may_all_be_the_same(rng):
    x, y = blobs(rng)
    got = separability(one(x), y, one(x[y == 0]), y[y == 0], "classification")
    assert got.score[0, 0] > 0.95
