"""What a unit of any layer answers to, projected into the inputs: gradients, deconvolutions, inputs of greatest response.

All take one network, in float64. A unit of a convolution is looked at where it hands on most: of equal places, as blank
backgrounds make them, at the first, row by row.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from analysis.units.templates import check_features
from wspace.models import Layered
from wspace.objective import cache_compiled
from wspace.tree import AnyArray, Params

MOST_STEPS, FIRST_STEP = 500, 0.5


@dataclasses.dataclass(frozen=True)
class Greatest:
    """Inputs of a given length at which units receive most.

    Attributes:
        inputs: (unit, start, feature), each of length `radius`.
        values: what the unit receives there, z, (unit, start).
        cosines: of the input with the gradient of z, (unit, start): 1 where no turn of the input raises z any more, a
            stationary point on the sphere, which need not be its highest. Networks of relu and maxima are often highest on
            a kink, where the gradient jumps and the cosine is less. NaN where the gradient is 0.
        radius: length of the inputs.
    """

    inputs: Float[np.ndarray, "unit start feature"]
    values: Float[np.ndarray, "unit start"]
    cosines: Float[np.ndarray, "unit start"]
    radius: float

    @property
    def best(self) -> Float[np.ndarray, "unit feature"]:
        """The start of the largest value, for each unit."""
        return self.inputs[np.arange(len(self.inputs)), np.argmax(self.values, axis=1)]


def gradient_images(
    model: Layered, params: Params, x: Float[AnyArray, "unit example feature"], *, layer: int
) -> Float[np.ndarray, "unit example feature"]:
    """Gradient of what each unit hands on, at inputs of its own: d h_j / d x, 0 where the unit is silent.

    Simonyan et al. 2014 (1312.6034). In a linear network it is the product of all weights below the unit, for every input.
    Where values tie within a window of a maximum, it is the mean over them, as in training.

    Args:
        model: a network of layers.
        params: of one network.
        x: inputs for each unit of the layer, e.g. those of `top_inputs`.
        layer: 0 .. num_layers - 1.

    Raises:
        ValueError: there is no such layer, there are not as many sets of inputs as units, or inputs do not fit the network.
    """
    return _project(_gradients(model, layer), model, params, x, layer)


def deconvolutions(
    model: Layered, params: Params, x: Float[AnyArray, "unit example feature"], *, layer: int
) -> Float[np.ndarray, "unit example feature"]:
    """What each unit hands on, sent back to the inputs by a deconvnet: unpool, rectify, transposed weights, layer by layer.

    A maximum is unpooled to the one place where it was found on this input (its switch), of equal values in a window the
    first, row by row; a mean evenly. Unlike a gradient, what is sent back is rectified, whether or not the units on its way
    were active. The unit sends 1, so that images of a linear network, where nothing is rectified, are its gradients. Zeiler
    & Fergus 2014 (1311.2901).

    Args:
        model: a network of layers, relu or identity, that pools by maxima or linearly.
        params, x, layer: as in `gradient_images`.

    Raises:
        ValueError: as `gradient_images`; or the activation is another.
    """
    activation = getattr(model, "activation", "unknown")
    if activation not in ("relu", "identity"):
        raise ValueError(f"a deconvnet rectifies as relu does; the activation {activation} asks for gradient_images")
    return _project(_deconvolutions(model, layer), model, params, x, layer)


def greatest_inputs(
    model: Layered, params: Params, num_features: int, *, layer: int, radius: float, rng: np.random.Generator,
    num_starts: int = 16,
) -> Greatest:  # fmt: skip
    """Inputs on the sphere |x| = radius that raise what each unit receives, by gradient ascent from random directions.

    A step goes along the gradient and back to the sphere; it is halved until it raises z. For a linear unit the answer is
    its template at this length: radius w / |w|. Erhan et al. 2009 (Visualizing higher-layer features of a deep network).

    Args:
        model: a network of layers; units of a convolution are asked at the middle of what they receive.
        params: of one network.
        num_features: of an input.
        layer: 0 .. num_layers - 1.
        radius: e.g. the root mean square length of the train inputs, so that the answer is as large as they are.
        rng: source of the starts.
        num_starts: for each unit. All climb at once and end on hills of their own; of units above the first layer the best
            of few can be far below the best of many.

    Raises:
        ValueError: there is no such layer, inputs of so many features do not fit the network, the radius is not a positive
            number, or there are no starts.
    """
    _check(model, params, num_features, layer)
    if not 0 < radius < np.inf or num_starts < 1:
        raise ValueError(
            f"radius = {radius}, num_starts = {num_starts}: a positive length and at least one are expected"
        )
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    starts = rng.standard_normal((wide[layer]["weight"].shape[-1], num_starts, num_features))
    with jax.enable_x64(True):
        found = _ascent(model, layer)(wide, starts, float(radius))
    inputs, values, cosines = map(np.asarray, found)
    return Greatest(inputs, values, cosines, float(radius))


def _project(program: Callable, model: Layered, params: Params, x: AnyArray, layer: int) -> np.ndarray:
    if len(shape := np.shape(x)) != 3:
        raise ValueError(f"inputs have shape {shape}: (unit, example, feature) is expected")
    _check(model, params, shape[-1], layer)
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    if len(x) != (units := wide[layer]["weight"].shape[-1]):
        raise ValueError(f"{len(x)} sets of inputs for {units} units: one for each is expected")
    with jax.enable_x64(True):
        return np.asarray(program(wide, np.asarray(x, np.float64)))


def _check(model: Layered, params: Params, num_features: int, layer: int) -> None:
    if not 0 <= layer < model.num_layers:
        raise ValueError(f"layer = {layer}: one of 0 .. {model.num_layers - 1} is expected")
    check_features(model, params, num_features)


def _most(h, unit):
    """The position, row by row, at which a unit hands on most, the first of equal ones; and what it hands on there."""
    own = h.reshape(-1, h.shape[-1])[:, unit]
    place = jnp.argmax(own)
    return place, own[place]


def _unpool(model: Layered, layer: int, z, signal):
    """A signal through a pooling backwards: a maximum to one switch of each window, what is linear by its transpose.

    A derivative of the maximum shares the signal among equal values, so it is taken at ranks in the place of the values:
    where the largest is depends on their order alone, and of equal ones the first, row by row, ranks highest.
    """
    order = jnp.argsort(-z.reshape(-1, z.shape[-1]), axis=0, stable=True)
    ranks = -jnp.argsort(order, axis=0).astype(z.dtype).reshape(z.shape)
    return jax.vjp(lambda h: model.pool(layer, h), ranks)[1](signal)[0]


def _each(one: Callable) -> Callable:
    """one(params, x, unit) for every unit and each of its inputs, compiled."""
    over = jax.vmap(jax.vmap(one, in_axes=(None, 0, None)), in_axes=(None, 0, 0))
    return jax.jit(lambda params, x: over(params, x, jnp.arange(len(x))))


@cache_compiled
def _gradients(model: Layered, layer: int) -> Callable:
    return _each(jax.grad(lambda params, x, unit: _most(model.activations(params, x)[layer], unit)[1], argnums=1))


@cache_compiled
def _deconvolutions(model: Layered, layer: int) -> Callable:
    rectify = jax.nn.relu if getattr(model, "activation", "") == "relu" else lambda signal: signal

    def one(params, x, unit):
        below = (x, *model.activations(params, x))
        h = below[layer + 1]
        place, _ = _most(h, unit)
        signal = jnp.zeros((h.size // h.shape[-1], h.shape[-1])).at[place, unit].set(1.0).reshape(h.shape)
        for at in range(layer, -1, -1):
            received, weights = jax.vjp(lambda h, at=at: model.receive(params, at, h), below[at])
            if at < model.num_layers - 1:
                # switches are read off what is received, because relu makes silent places equal
                signal = rectify(_unpool(model, at, received, signal))
            signal = weights(signal)[0]
        return signal

    return _each(one)


@cache_compiled
def _ascent(model: Layered, layer: int) -> Callable:
    def received(params, x, unit):
        h = x if layer == 0 else model.activations(params, x)[layer - 1]
        z = model.receive(params, layer, h)
        middle = tuple(size // 2 for size in z.shape[:-1])
        return z[(*middle, unit)]

    def one(params, start, unit, radius):
        value_and_slope = jax.value_and_grad(lambda x: received(params, x, unit))
        onto = lambda x: radius * x / jnp.linalg.norm(x)  # noqa: E731

        def step(_, state):
            x, value, slope, length = state
            steepness = jnp.linalg.norm(slope)
            trial = onto(x + length * radius * slope / jnp.where(steepness > 0, steepness, 1))
            higher, steeper = value_and_slope(trial)
            better = higher > value
            keep = lambda new, old: jnp.where(better, new, old)  # noqa: E731
            return keep(trial, x), keep(higher, value), keep(steeper, slope), jnp.where(better, 2 * length, length / 2)

        x = onto(start)
        x, value, slope, _ = jax.lax.fori_loop(0, MOST_STEPS, step, (x, *value_and_slope(x), FIRST_STEP))
        steepness = jnp.linalg.norm(slope)
        cosine = jnp.vdot(x, slope) / (radius * jnp.where(steepness > 0, steepness, jnp.nan))
        return x, value, cosine

    over = jax.vmap(jax.vmap(one, in_axes=(None, 0, None, None)), in_axes=(None, 0, 0, None))
    return jax.jit(lambda params, starts, radius: over(params, starts, jnp.arange(len(starts)), radius))
