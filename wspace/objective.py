"""What training minimises, and what is measured at checkpoints.

objective(theta) = mean over examples of the data loss + l2/2 * |theta|^2 (all params, biases included). The optimizer's
decoupled weight decay is not part of it.
"""

import functools
import math
from collections.abc import Callable
from typing import Literal, TypeVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Shaped

from wspace import tree
from wspace.data import Dataset, Task
from wspace.models import Model
from wspace.tree import AnyArray, Params

Compiled = TypeVar("Compiled")
LossKind = Literal["cross_entropy", "squared_error"]
METRICS = {
    "classification": ("train_loss", "test_loss", "train_objective", "grad_norm", "train_accuracy", "test_accuracy"),
    "regression": ("train_loss", "test_loss", "train_objective", "grad_norm", "train_r2", "test_r2"),
}
VALUE_FLOPS = 40.0  # a ConvNet on digits takes as long as so many for each value that it moves, at an MLP's speed
CHUNK_VALUES = 4_000_000  # activations held at once while a population is measured: 16 MB of float32 a layer


def example_loss(
    kind: LossKind, outputs: Float[AnyArray, "example output"], y: Shaped[AnyArray, "example ..."]
) -> Float[Array, "example"]:
    """Data loss of each example.

    cross_entropy: -log softmax(z)_y (nats), y integer labels. squared_error: sum over outputs of (z - y)^2, y real
    targets (example, output) or integer labels, which are one-hot encoded.
    """
    if kind == "cross_entropy":
        return optax.softmax_cross_entropy_with_integer_labels(outputs, y)
    return jnp.sum(jnp.square(outputs - _targets(outputs, y)), axis=-1)


def accuracy(outputs: Float[AnyArray, "example output"], y: Shaped[AnyArray, "example"]) -> Float[Array, "example"]:
    """1 where the largest output is that of the label (the first on ties), else 0; NaN where an output is NaN."""
    right = (jnp.argmax(outputs, axis=-1) == y).astype(outputs.dtype)
    return jnp.where(jnp.any(jnp.isnan(outputs), axis=-1), jnp.nan, right)


def penalty(params: Params, l2: float | Float[Array, ""]) -> Float[Array, ""]:
    """l2/2 * |theta|^2."""
    return 0.5 * l2 * tree.dot(params, params)


def objective(
    model: Model,
    kind: LossKind,
    params: Params,
    x: Float[AnyArray, "example feature"],
    y: Shaped[AnyArray, "example ..."],
    l2: float | Float[Array, ""] = 0.0,
) -> Float[Array, ""]:
    """Mean data loss over the examples + l2/2 * |theta|^2: the function whose gradient training follows."""
    return jnp.mean(example_loss(kind, model.apply(params, x), y)) + penalty(params, l2)


def loss_and_gradient(
    model: Model,
    kind: LossKind,
    params: Params,
    x: Float[AnyArray, "example feature"],
    y: Shaped[AnyArray, "example ..."],
    l2: float | Float[Array, ""] = 0.0,
) -> tuple[Float[Array, ""], Params]:
    """Mean data loss, and the gradient of the objective: that of the mean data loss + l2 theta.

    The penalty's value is left out because training does not need it: its sum over all params took a tenth of a small
    network's step.
    """
    data_loss = lambda p: jnp.mean(example_loss(kind, model.apply(p, x), y))  # noqa: E731
    loss, grad = jax.value_and_grad(data_loss)(params)
    return loss, jax.tree.map(lambda g, p: g + l2 * p, grad, params)


def measure(
    model: Model,
    kind: LossKind,
    task: Task,
    params: Params,
    train: tuple[Float[Array, "train feature"], Shaped[Array, "train ..."]],
    test: tuple[Float[Array, "test feature"], Shaped[Array, "test ..."]],
    l2: float | Float[Array, ""],
    chunk: int,
) -> dict[str, Float[Array, ""]]:
    """All METRICS of one network, exact on the full data, `chunk` examples at a time.

    train_loss and test_loss are data terms (nats, or squared target units); train_objective adds the L2 term; grad_norm
    is |gradient of train_objective|; accuracies are shares in [0, 1]; r2 = 1 - sum (z-y)^2 / sum (y - mean y)^2.
    """

    def data_loss(params, x, y, weight):
        outputs = model.apply(params, x)
        losses = example_loss(kind, outputs, y)
        if task == "classification":
            scores = accuracy(outputs, y)
        else:
            scores = jnp.sum(jnp.square(outputs - _targets(outputs, y)), axis=-1)
        return jnp.sum(weight * losses), jnp.sum(weight * scores)

    def gradient(params, x, y, weight):
        (loss, score), grad = jax.value_and_grad(data_loss, has_aux=True)(params, x, y, weight)
        return loss, score, grad

    num_train, num_test = len(train[0]), len(test[0])
    loss, score, grad = sum_chunks(functools.partial(gradient, params), *train, chunk)
    test_loss, test_score = sum_chunks(functools.partial(data_loss, params), *test, chunk)
    grad = jax.tree.map(lambda g, p: g / num_train + l2 * p, grad, params)
    if task == "classification":
        name, train_score, test_score = "accuracy", score / num_train, test_score / num_test
    else:
        name, train_score, test_score = "r2", 1 - score / _scatter(train[1]), 1 - test_score / _scatter(test[1])
    return {
        "train_loss": loss / num_train,
        "test_loss": test_loss / num_test,
        "train_objective": loss / num_train + penalty(params, l2),
        "grad_norm": tree.norm(grad),
        f"train_{name}": train_score,
        f"test_{name}": test_score,
    }


def evaluate(
    model: Model, kind: LossKind, params: Params, data: Dataset, l2: float = 0.0, *, precision: str = "highest"
) -> dict[str, Float[Array, "seed"]]:
    """All METRICS of a population, exact on the full data: what a run stores at its checkpoints.

    Args:
        model: any object with `apply(params, x)`; compiled once for equal models where it is hashable.
        kind: the data loss.
        params: stacked params, leaves (seed, ...).
        data: examples of train and test.
        l2: coefficient of the L2 term in train_objective and grad_norm.
        precision: of matmuls on accelerators, as in `EngineSpec.precision`.
    """
    width = jax.tree.leaves(params)[0].shape[0]
    train = (jnp.asarray(data.x_train), jnp.asarray(data.y_train))
    test = (jnp.asarray(data.x_test), jnp.asarray(data.y_test))
    chunk = chunk_examples(model, jax.tree.map(lambda leaf: leaf[0], params), train[0].shape, width)
    with jax.default_matmul_precision(precision):
        return _measure_population(model, kind, data.task, chunk)(params, train, test, l2)


def chunk_examples(model: Model, params: Params, shape: tuple[int, ...], width: int) -> int:
    """Examples at a time, of shape (examples, *features), that keep `width` networks' activations in CHUNK_VALUES."""
    return min(shape[0], max(1, CHUNK_VALUES // (width * values_per_example(model, params, shape[1:]))))


def values_per_example(model: Model, params: Params, features: tuple[int, ...]) -> int:
    """Floats that a network holds for one example of shape `features`: inputs and activations.

    A model whose layers hold more than they hand on says so itself, by `num_values`.
    """
    if (known := getattr(model, "num_values", None)) is not None:
        return known
    layers = getattr(model, "activations", model.apply)  # a foreign model may not show its layers
    outputs = jax.tree.leaves(jax.eval_shape(layers, params, jax.ShapeDtypeStruct((1, *features), jnp.float32)))
    return math.prod(features) + sum(output.size for output in outputs)


def work_per_example(model: Model, params: Params, features: tuple[int, ...]) -> float:
    """What a forward pass takes for one example of shape `features`, in floating-point operations: max(F, VALUE_FLOPS V).

    F operations as XLA counts them, twice the weights for a fully connected network; V values that are held for the example,
    each of which takes as long as VALUE_FLOPS operations where more is moved than multiplied.
    """
    example = jax.ShapeDtypeStruct((1, *features), jnp.float32)
    cost = jax.jit(model.apply).lower(params, example).cost_analysis() or {}
    return max(cost.get("flops", 0.0), VALUE_FLOPS * values_per_example(model, params, features))


def cache_compiled(make: Callable[..., Compiled]) -> Callable[..., Compiled]:
    """Keep what `make(model, ...)` compiles for equal arguments; a model that cannot be hashed is compiled each time."""
    cached = functools.lru_cache(maxsize=32)(make)

    @functools.wraps(make)
    def get(*args) -> Compiled:
        try:
            hash(args)
        except TypeError:
            return make(*args)
        return cached(*args)

    return get


@cache_compiled
def _measure_population(model: Model, kind: LossKind, task: Task, chunk: int) -> Callable:
    one = lambda params, train, test, l2: measure(model, kind, task, params, train, test, l2, chunk)  # noqa: E731
    return jax.jit(jax.vmap(one, in_axes=(0, None, None, None)))


def _targets(outputs: AnyArray, y: AnyArray) -> Array:
    return (
        jax.nn.one_hot(y, outputs.shape[-1], dtype=outputs.dtype)
        if jnp.issubdtype(y.dtype, jnp.integer)
        else jnp.asarray(y)
    )


def _scatter(y: Float[Array, "example target"]) -> Float[Array, ""]:
    return jnp.sum(jnp.square(y - jnp.mean(y, axis=0)))


def sum_chunks(function: Callable, x: Array, y: Array, chunk: int):
    """Sum of function(x, y, weight), a pytree, over chunks; the last is padded with examples of weight 0."""
    num = len(x)
    if num <= chunk:
        return function(x, y, jnp.ones(num, x.dtype))
    pad = -num % chunk
    weight = jnp.concatenate([jnp.ones(num, x.dtype), jnp.zeros(pad, x.dtype)])
    folded = [
        jnp.reshape(jnp.concatenate([a, a[:1].repeat(pad, axis=0)]) if pad else a, (-1, chunk, *a.shape[1:]))
        for a in (x, y)
    ]
    parts = (folded[0], folded[1], weight.reshape(-1, chunk))
    first = function(*(part[0] for part in parts))
    add = lambda total, part: (jax.tree.map(jnp.add, total, function(*part)), None)  # noqa: E731
    return jax.lax.scan(add, first, tuple(part[1:] for part in parts))[0]
