import jax
import numpy as np
import pytest

from wspace import objective, program, tree
from wspace.data import load
from wspace.errors import PlatformError, SpecError
from wspace.program import Arrays, State


def compiled(spec):
    data = load(spec.data)
    plan = program.plan(spec, data, "cpu")
    return program.compile_program(plan.recipe), plan, Arrays.of(data)


def trained(spec, seeds, num_steps, stops=()):
    """State after num_steps, advanced in stretches that end at `stops`."""
    functions, plan, arrays = compiled(spec)
    root = program.root_key(spec)
    init, _ = program.stream_seeds(spec, seeds)
    state, start = functions.init(root, init, plan.hypers), 0
    for stop in (*stops, num_steps):
        _, order = program.stream_seeds(spec, seeds, start)
        order = order[0] if plan.recipe.shared_order else order
        state = functions.advance(state, root, order, np.int32(start), np.int32(stop), arrays, plan.hypers)
        start = stop
    return state


def leaves_equal(a, b):
    return all(
        np.array_equal(x, y, equal_nan=True) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


OPTIMIZERS = {
    "sgd": {"name": "sgd", "learning_rate": 0.1, "weight_decay": 0.02},
    "momentum": {"name": "momentum", "learning_rate": 0.05, "momentum": 0.8, "weight_decay": 0.01},
    "adam": {"name": "adam", "learning_rate": 0.02, "beta1": 0.8, "beta2": 0.99, "epsilon": 1e-6},
    "adamw": {"name": "adamw", "learning_rate": 0.02, "weight_decay": 0.1},
}
SCHEDULES = {
    "constant": ({}, lambda t: 1.0),
    "cosine": ({"kind": "cosine", "final_fraction": 0.1}, lambda t: 0.1 + 0.9 * (1 + np.cos(np.pi * t / 12)) / 2),
    "warmup_cosine": (
        {"kind": "warmup_cosine", "warmup_steps": 4},
        lambda t: t / 4 if t < 4 else (1 + np.cos(np.pi * (t - 4) / 8)) / 2,
    ),
    "step": ({"kind": "step", "boundaries": [3, 7], "factor": 0.5}, lambda t: 0.5 ** ((t >= 3) + (t >= 7))),
}


def numpy_training(data, layers, optimizer, rate, l2, num_steps, batches=None):
    """Training of a tanh network by cross-entropy, written from the formulas in float64; batches(t) are example ids."""
    inputs, targets = data.x_train.astype(np.float64), np.eye(data.num_classes)[data.y_train]
    layers = [[np.asarray(layer["weight"], np.float64), np.asarray(layer["bias"], np.float64)] for layer in layers]
    first = [[np.zeros_like(p) for p in layer] for layer in layers]
    second = [[np.zeros_like(p) for p in layer] for layer in layers]
    decay = optimizer.get("weight_decay", 0)
    for t in range(num_steps):
        chosen = slice(None) if batches is None else batches(t)
        x, y = inputs[chosen], targets[chosen]
        hidden = [x]
        for i, (weight, bias) in enumerate(layers):
            z = hidden[-1] @ weight + bias
            hidden.append(np.tanh(z) if i < len(layers) - 1 else z)
        probabilities = np.exp(hidden[-1]) / np.exp(hidden[-1]).sum(axis=1, keepdims=True)
        delta = (probabilities - y) / len(x)
        for i in reversed(range(len(layers))):
            gradients = [hidden[i].T @ delta + l2 * layers[i][0], delta.sum(axis=0) + l2 * layers[i][1]]
            delta = (delta @ layers[i][0].T) * (1 - hidden[i] ** 2)
            for k, g in enumerate(gradients):
                if optimizer["name"] == "sgd":
                    update = g
                elif optimizer["name"] == "momentum":
                    update = first[i][k] = optimizer["momentum"] * first[i][k] + g
                else:
                    b1, b2 = optimizer.get("beta1", 0.9), optimizer.get("beta2", 0.999)
                    first[i][k] = b1 * first[i][k] + (1 - b1) * g
                    second[i][k] = b2 * second[i][k] + (1 - b2) * g**2
                    corrected = np.sqrt(second[i][k] / (1 - b2 ** (t + 1))) + optimizer.get("epsilon", 1e-8)
                    update = first[i][k] / (1 - b1 ** (t + 1)) / corrected
                layers[i][k] = layers[i][k] - optimizer["learning_rate"] * rate(t) * (update + decay * layers[i][k])
    return layers


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_training_equals_a_plain_numpy_implementation(make_spec, name, schedule):
    section, rate = SCHEDULES[schedule]
    spec = make_spec(
        optimizer=OPTIMIZERS[name],
        schedule=section,
        objective={"l2": 0.05},
        model={"activation": "tanh", "hidden": [6, 5], "init": "glorot"},
        train={"num_steps": 12, "batch_size": 0},
    )
    functions, plan, _ = compiled(spec)
    start = functions.init(program.root_key(spec), np.array([0, 1], np.uint32), plan.hypers).params
    got = trained(spec, [0, 1], 12).params
    for seed in range(2):
        layers = jax.tree.map(lambda leaf, seed=seed: leaf[seed], start)
        expected = numpy_training(load(spec.data), layers, OPTIMIZERS[name], rate, 0.05, 12)
        for layer, (weight, bias) in zip(got, expected, strict=True):
            np.testing.assert_allclose(layer["weight"][seed], weight, rtol=1e-4, atol=2e-5)
            np.testing.assert_allclose(layer["bias"][seed], bias, rtol=1e-4, atol=2e-5)


def test_mini_batches_are_those_of_each_epochs_own_order(make_spec):
    """120 examples in batches of 50: two steps an epoch, 20 examples dropped; the first, middle and last batch count."""
    spec = make_spec(
        optimizer={"name": "sgd", "learning_rate": 0.3},
        model={"activation": "tanh", "hidden": [6]},
        train={"num_steps": 7, "batch_size": 50},
    )
    functions, plan, _ = compiled(spec)
    root, data = program.root_key(spec), load(spec.data)
    start = functions.init(root, np.array([3, 8], np.uint32), plan.hypers).params
    got = trained(spec, [3, 8], 7).params
    for place, seed in enumerate((3, 8)):

        def batches(t, seed=seed):
            key = jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(root, 1), seed), t // 2)
            return np.asarray(program._shuffle(key, 120))[50 * (t % 2) : 50 * (t % 2) + 50]

        assert len({*batches(0), *batches(1)}) == 100
        assert not np.array_equal(batches(0), batches(2))
        layers = jax.tree.map(lambda leaf, place=place: leaf[place], start)
        expected = numpy_training(data, layers, {"name": "sgd", "learning_rate": 0.3}, lambda t: 1.0, 0, 7, batches)
        for layer, (weight, bias) in zip(got, expected, strict=True):
            np.testing.assert_allclose(layer["weight"][place], weight, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(layer["bias"][place], bias, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("num", [1, 2, 1437, 2048, 70_000])
def test_an_epoch_visits_every_example_once(num):
    order = np.asarray(program._shuffle(jax.random.key(3), num))
    assert sorted(order) == list(range(num))
    if num > 2:
        assert not np.array_equal(order, program._shuffle(jax.random.key(4), num))
        moved = np.corrcoef(order, np.arange(num))[0, 1]
        assert abs(moved) < 4 / num**0.5


def test_shuffles_are_uniform():
    orders = np.asarray(jax.vmap(lambda k: program._shuffle(k, 4))(jax.random.split(jax.random.key(0), 24_000)))
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 24
    assert np.sum((counts - 1000) ** 2 / 1000) < 49.7  # the 99.9 % quantile of chi-square with 23 degrees of freedom


@pytest.mark.parametrize("stops", [(1,), (5, 6), (7,), (3, 9, 10)])
def test_where_a_stretch_is_cut_changes_no_bit(make_spec, stops):
    spec = make_spec()
    assert leaves_equal(trained(spec, [0, 1], 12), trained(spec, [0, 1], 12, stops))


@pytest.mark.parametrize("vary", ["init", "order", "both"])
def test_what_varies_between_seeds_is_what_was_asked(make_spec, vary):
    spec = make_spec(seeds={"vary": vary, "parent": 7})
    at_init, after = trained(spec, [0, 1], 0).params[0]["weight"], trained(spec, [0, 1], 1).params[0]["weight"]
    assert np.array_equal(at_init[0], at_init[1]) == (vary == "order")
    assert not np.array_equal(after[0], after[1])
    parent = trained(make_spec(), [7, 7], 0).params[0]["weight"]
    assert np.array_equal(at_init[0], parent[0]) == (vary == "order")


def test_shared_order_is_the_parents(make_spec):
    """With one init and vary = init, seed 7 of both runs sees its own order: the same numbers up to float rounding."""
    shared = trained(make_spec(seeds={"vary": "init", "parent": 7}), [7, 1], 12)
    own = trained(make_spec(), [7, 1], 12)
    np.testing.assert_allclose(shared.params[0]["weight"][0], own.params[0]["weight"][0], rtol=1e-4, atol=1e-6)
    assert not np.allclose(shared.params[0]["weight"][1], own.params[0]["weight"][1], rtol=1e-3, atol=1e-4)


def test_forked_seeds_are_one_network_up_to_the_fork_and_differ_after(make_spec):
    spec = make_spec(seeds={"vary": "order", "parent": 4, "fork_step": 5})
    before = trained(spec, [0, 1], 5).params[0]["weight"]
    np.testing.assert_array_equal(before[0], before[1])
    after = trained(spec, [0, 1], 6, stops=(5,)).params[0]["weight"]
    assert not np.array_equal(after[0], after[1])
    parent = trained(make_spec(), [4, 4], 5).params[0]["weight"]
    np.testing.assert_array_equal(before[0], parent[0])


def test_child_whose_id_is_its_parents_goes_on_as_the_parent(make_spec):
    spec = make_spec(seeds={"vary": "order", "parent": 4, "fork_step": 5})
    np.testing.assert_array_equal(
        trained(spec, [4, 1], 12, stops=(5,)).params[0]["weight"][0],
        trained(make_spec(), [4, 1], 12).params[0]["weight"][0],
    )


def test_roots_are_independent_repetitions(make_spec):
    a, b = (trained(make_spec(seeds={"root": root}), [0, 1], 0).params[0]["weight"] for root in (0, 2**32 - 1))
    assert not np.array_equal(a, b)


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_a_poisoned_seed_leaves_the_others_bitwise_untouched(make_spec, poison):
    spec = make_spec(engine={"block_width": 4}, seeds={"num": 4})
    functions, plan, arrays = compiled(spec)
    root, seeds = program.root_key(spec), np.arange(4, dtype=np.uint32)

    def finish(state):
        return functions.advance(state, root, seeds, np.int32(0), np.int32(12), arrays, plan.hypers)

    clean = finish(functions.init(root, seeds, plan.hypers))
    state = functions.init(root, seeds, plan.hypers)
    params = jax.tree.map(lambda leaf: leaf.at[2].set(poison), state.params)
    poisoned = finish(State(params, state.opt_state, state.diverged_at))
    np.testing.assert_array_equal(poisoned.diverged_at, [-1, -1, 0, -1])
    for a, b in zip(jax.tree.leaves(clean), jax.tree.leaves(poisoned), strict=True):
        np.testing.assert_array_equal(np.delete(a, 2, axis=0), np.delete(b, 2, axis=0))


def test_divergence_is_marked_with_its_first_step(make_spec):
    spec = make_spec(
        optimizer={"name": "sgd", "learning_rate": 1e30}, objective={"loss": "squared_error"}, train={"batch_size": 0}
    )
    marked = trained(spec, [0, 1], 12).diverged_at
    for first in (int(marked[0]), int(marked[1])):
        assert 0 < first < 12
    before = trained(spec, [0, 1], int(marked.min()))
    assert np.all(np.asarray(before.diverged_at) == -1)


def test_a_seed_is_bitwise_the_same_in_any_company(make_spec):
    spec = make_spec(engine={"block_width": 4})
    a, b = trained(spec, [5, 0, 1, 2], 12), trained(spec, [9, 8, 5, 77], 12)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x[0], y[2])


def test_values_that_change_no_shape_do_not_recompile(make_spec, monkeypatch):
    traces = []
    count = objective.loss_and_gradient
    monkeypatch.setattr(objective, "loss_and_gradient", lambda *args: traces.append(1) or count(*args))
    base = {"optimizer": {"name": "adamw", "learning_rate": 0.0123}, "model": {"hidden": [3, 2]}}
    trained(make_spec(**base), [0, 1], 3)
    first = len(traces)
    assert first > 0
    for change in (
        {"optimizer": {"name": "adamw", "learning_rate": 0.5}},
        {"optimizer": {"name": "adamw", "learning_rate": 0.0123, "weight_decay": 0.3, "beta1": 0.5, "epsilon": 1e-3}},
        {"objective": {"l2": 0.1}},
        {"model": {"hidden": [3, 2], "init_scale": 0.1}},
        {"seeds": {"num": 2, "root": 3}},
        {"train": {"num_steps": 12, "batch_size": 16}, "checkpoints": {"num": 7}},
    ):
        trained(make_spec(**{**base, **change}), [0, 1], 5, stops=(2,))
    assert len(traces) == first
    trained(make_spec(**{**base, "model": {"hidden": [4]}}), [0, 1], 3)
    assert len(traces) > first


@pytest.mark.parametrize(
    ("num_params", "width"), [(1, 32), (3466, 32), (26_122, 8), (118_282, 4), (932_362, 2), (5_000_000, 1), (10**9, 1)]
)
def test_block_width_is_a_power_of_two_that_falls_with_the_number_of_params(num_params, width):
    assert program.block_width(num_params, "cpu") == width


def test_accelerators_take_wider_blocks():
    assert program.block_width(3466, "gpu") == 1024
    assert program.block_width(10**6, "gpu") == 128  # 2 GiB / 16 bytes
    assert program.block_width(3466, "gpu", 60_000 * 1050) == 2  # a full batch of images needs more than the params


def test_measured_metrics_are_those_of_the_objective_module(make_spec):
    spec = make_spec(objective={"l2": 0.1})
    functions, plan, arrays = compiled(spec)
    state = trained(spec, [0, 1], 12)
    theta, metrics, diverged = functions.measure(state, np.int32(12), arrays, plan.hypers)
    np.testing.assert_array_equal(theta, tree.ravel(state.params, batch_ndim=1))
    expected = objective.evaluate(plan.recipe.model, "cross_entropy", state.params, load(spec.data), 0.1)
    for name, values in metrics.items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-5)
    assert np.all(np.asarray(diverged) == -1)


def test_plan_refuses_batches_larger_than_the_data(make_spec):
    spec = make_spec(train={"batch_size": 121})
    with pytest.raises(SpecError, match=r"train.batch_size = 121 is larger than the train set of iris: 120 examples"):
        program.plan(spec, load(spec.data), "cpu")


def test_plan_refuses_cross_entropy_for_regression(make_spec):
    spec = make_spec(data={"name": "diabetes"}, objective={"loss": "cross_entropy"})
    with pytest.raises(SpecError, match="needs class labels, but diabetes is a regression"):
        program.plan(spec, load(spec.data), "cpu")


@pytest.mark.parametrize("num", [0, 3])
def test_devices_that_do_not_exist_are_refused(num):
    with pytest.raises(PlatformError, match=f"{num} devices were asked for, JAX sees 2"):
        program.choose_devices(num)
