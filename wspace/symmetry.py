"""The group that leaves a model's function unchanged: permutations, signs and positive scales of hidden units, as data.

A `Symmetry` says which axes of which leaves belong to the units of each hidden layer. An `Element` holds, per layer, a
perm p and a factor f: unit j of the new network is unit p[j] of the old one, what it receives is multiplied by f[j] and
what it sends on is divided by f[j]. Permutations leave every layer's function unchanged, a factor of -1 those of odd
activations (tanh, identity), positive factors those of positively homogeneous ones (relu, identity).
"""

import dataclasses
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Float, Int, Shaped

from wspace.errors import SymmetryError
from wspace.tree import AnyArray, Layout, Params

Kind = Literal["perm", "sign", "scale"]

SPREAD = 0.5  # standard deviation of log |factor| of random elements
BALANCE_SWEEPS, BALANCE_TOLERANCE = 10_000, 1e-12
CHECK_EXAMPLES, NUM_PLACES, MAX_PLACES = 64, 6, 48


@dataclasses.dataclass(frozen=True)
class Axis:
    """One axis of a leaf that runs over a layer's units.

    Attributes:
        leaf: name of the leaf, as in `Layout.names`: `0.weight`.
        axis: negative, counted from the last axis, so that stacked leaves have it too.
        sends: False where the units receive (columns of their weight, their bias: multiplied by the factor), True where
            they send (rows of the next layer's weight: divided by it).
    """

    leaf: str
    axis: int
    sends: bool = False


@dataclasses.dataclass(frozen=True)
class Units:
    """The units of one hidden layer.

    Attributes:
        num: how many there are.
        axes: everywhere in the params where they occur.
        sign: whether the function stays the same when a unit's factor is -1 (odd activations).
        scale: whether it stays the same when a unit's factor is any positive number (homogeneous activations).
    """

    num: int
    axes: tuple[Axis, ...]
    sign: bool = False
    scale: bool = False


@dataclasses.dataclass(frozen=True)
class Symmetry:
    """The symmetry group of a model: one set of units per hidden layer, in the order of the model's `activations`."""

    layers: tuple[Units, ...]

    @property
    def sign(self) -> bool:
        """Whether a layer has sign symmetry."""
        return any(units.sign for units in self.layers)

    @property
    def scale(self) -> bool:
        """Whether a layer has scale symmetry."""
        return any(units.scale for units in self.layers)


class Element(NamedTuple):
    """An element of the group, or a stack of them.

    Attributes:
        perms: per layer, integers (..., unit): new unit j is old unit perm[j].
        factors: per layer, floats (..., unit), not 0: |factor| scales what unit j receives, its sign flips it.
    """

    perms: tuple[Int[AnyArray, "*batch unit"], ...]
    factors: tuple[Float[AnyArray, "*batch unit"], ...]

    def __getitem__(self, index: Any) -> "Element":  # type: ignore[override]  # along the leading axis, not of the fields
        """The elements at `index` along the leading axes of a stack."""
        return Element(tuple(p[index] for p in self.perms), tuple(f[index] for f in self.factors))


def identity(symmetry: Symmetry, batch: tuple[int, ...] = ()) -> Element:
    """The element that changes nothing, `batch` times."""
    sizes = [units.num for units in symmetry.layers]
    return Element(
        tuple(np.broadcast_to(np.arange(n), (*batch, n)).copy() for n in sizes),
        tuple(np.ones((*batch, n)) for n in sizes),
    )


def random_element(
    symmetry: Symmetry,
    rng: np.random.Generator,
    batch: tuple[int, ...] = (),
    *,
    kinds: Iterable[Kind] = ("perm", "sign", "scale"),
) -> Element:
    """Uniform perms; signs of even odds and log-normal scales, exp(SPREAD z), where a layer has these symmetries.

    Args:
        symmetry: the group.
        rng: source of the draws.
        batch: leading axes of the stack.
        kinds: what to draw; the rest is as in the identity.
    """
    kinds, plain = set(kinds), identity(symmetry, batch)
    perms, factors = [], []
    for units, perm, factor in zip(symmetry.layers, plain.perms, plain.factors, strict=True):
        perms.append(rng.permuted(perm, axis=-1) if "perm" in kinds else perm)
        if "scale" in kinds and units.scale:
            factor = factor * np.exp(SPREAD * rng.standard_normal(factor.shape))
        if "sign" in kinds and units.sign:
            factor = factor * rng.choice([-1.0, 1.0], factor.shape)
        factors.append(factor)
    return Element(tuple(perms), tuple(factors))


def act(symmetry: Symmetry, element: Element, params: Params) -> Params:
    """The params of the same function with relabelled, flipped and rescaled units.

    Args:
        symmetry: the group.
        element: one element, or a stack.
        params: leaves of shape batch + rest + shape, where `batch` are the element's leading axes (none for one
            element): one element acts on one network or on all of a stack, a stack of elements on a stack of networks,
            or on their trajectories (seed, checkpoint, ...). NumPy or JAX arrays; kind and dtype are kept.

    Returns:
        Params of the same structure.

    Raises:
        ValueError: the element is not of these layers, or is stacked otherwise than the params.
    """
    names = Layout.of(params).names
    leaves, treedef = jax.tree.flatten(params)
    found = dict(zip(names, leaves, strict=True))
    for units, perm, factor in zip(symmetry.layers, element.perms, element.factors, strict=True):
        if perm.shape[-1] != units.num or factor.shape != perm.shape:
            raise ValueError(
                f"a layer has {units.num} units, the element a perm of shape {perm.shape} and factors of {factor.shape}"
            )
        for axis in units.axes:
            batch, shape = perm.shape[:-1], found[axis.leaf].shape
            if shape[: len(batch)] != batch:
                raise ValueError(
                    f"elements stacked as {batch} act on {axis.leaf!r} of shape {shape}: equal leading axes are expected"
                )
            found[axis.leaf] = _act_on_axis(found[axis.leaf], perm, factor, axis)
    return jax.tree.unflatten(treedef, [found[name] for name in names])


def act_on_theta(
    symmetry: Symmetry, layout: Layout, element: Element, theta: Float[np.ndarray, "*batch param"]
) -> Float[np.ndarray, "*batch param"]:
    """`act` on raveled params: one final alignment moves a whole trajectory, theta (seed, checkpoint, param)."""
    moved = jax.tree.leaves(act(symmetry, element, layout.unravel(theta)))
    return np.concatenate([leaf.reshape(*theta.shape[:-1], -1) for leaf in moved], axis=-1)


def compose(second: Element, first: Element) -> Element:
    """The element that acts like `first` and then `second`: act(compose(g, h), x) = act(g, act(h, x)).

    Raises:
        ValueError: they are not one element each, or stacks of one shape.
    """
    shapes = [tuple(perm.shape for perm in element.perms) for element in (second, first)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"elements of one shape are expected, got perms of {shapes[0]} and {shapes[1]}: index the stack"
        )
    parts = list(zip(second.perms, second.factors, first.perms, first.factors, strict=True))
    return Element(
        tuple(_take(p_first, p_second) for p_second, _, p_first, _ in parts),
        tuple(f_second * _take(f_first, p_second) for p_second, f_second, _, f_first in parts),
    )


def invert(element: Element) -> Element:
    """The element that undoes this one: compose(invert(g), g) is the identity."""
    inverse = tuple(np.argsort(perm, axis=-1) for perm in element.perms)
    factors = tuple(1 / _take(f, p) for f, p in zip(element.factors, inverse, strict=True))
    return Element(inverse, factors)


def share_fixed(element: Element) -> Float[np.ndarray, "*batch"]:
    """Share of all hidden units that an element leaves in place with their sign; 1 for the identity and mere scales."""
    parts = zip(element.perms, element.factors, strict=True)
    kept = [(perm == np.arange(perm.shape[-1])) & (factor > 0) for perm, factor in parts]
    return np.asarray(np.mean(np.concatenate(kept, axis=-1), axis=-1)) if kept else np.ones(())


def balance(symmetry: Symmetry, params: Params, batch_ndim: int = 0) -> Element:
    """The element that makes params shortest by positive scales: act with it for the canonical representative.

    For a unit with incoming norm a and outgoing norm b, the factor s turns a^2 + b^2 into s^2 a^2 + b^2 / s^2, least at
    s = sqrt(b/a), where both norms are equal. Layers share leaves, so the sweeps over layers repeat until all factors are
    within BALANCE_TOLERANCE of 1; |theta|^2 is convex in log s, so that nothing else is a minimum. Units that receive
    nothing or send nothing have no shortest scale and keep theirs. Layers without scale symmetry are left alone. Stock et
    al. 2019 (1902.10416).

    Args:
        symmetry: the group.
        params: leaves batch + shape, finite; read in float64.
        batch_ndim: number of leading axes that all leaves share.

    Returns:
        Elements with perms of the identity and positive factors, (*batch, unit).

    Raises:
        SymmetryError: the sweeps do not converge.
        ValueError: a value is not finite.
    """
    names, leaves = Layout.of(params).names, [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(params)]
    if bad := [name for name, leaf in zip(names, leaves, strict=True) if not np.all(np.isfinite(leaf))]:
        raise ValueError(f"{', '.join(bad)} is not finite: only finite params can be balanced")
    batch = leaves[0].shape[:batch_ndim]
    result = identity(symmetry, batch)
    for index in np.ndindex(*batch):
        squares = {name: np.square(leaf[index]) for name, leaf in zip(names, leaves, strict=True)}
        for layer, factor in enumerate(_balance_one(symmetry, squares)):
            result.factors[layer][index] = factor
    return result


def check(model: Any, symmetry: Symmetry, params: Params, x: Shaped[AnyArray, "example *feature"]) -> None:
    """Refuse a declared symmetry that does not fit the params or does not preserve the function.

    Each kind of symmetry of each layer is tried by itself, with a random element, on up to CHECK_EXAMPLES examples in
    float64: at the params, and at NUM_PLACES random places around them (zero biases hide a bias that was not declared, dead
    units hide everything).

    Args:
        model: anything with `apply(params, x)`.
        symmetry: what it, or its user, declares.
        params: of one network.
        x: inputs.

    Raises:
        SymmetryError: a leaf or an axis does not exist, is declared twice or has another size; or outputs change.
    """
    check_axes(symmetry, Layout.of(params))
    if len(x) == 0:
        raise SymmetryError("the symmetry is checked on examples, and there are none")
    rng = np.random.default_rng(0)
    given = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    with jax.enable_x64(True):
        inputs = np.asarray(x[:CHECK_EXAMPLES])
        inputs = inputs if np.issubdtype(inputs.dtype, np.integer) else inputs.astype(np.float64)
        told = 0
        for index in range(MAX_PLACES):
            place = jax.tree.map(lambda leaf: _generic(leaf, rng), given) if index else given
            outputs = model.apply(place, inputs)
            if np.all(np.isfinite(np.asarray(outputs, np.float64))):
                told += _check_place(model, symmetry, place, inputs, outputs, rng)
            elif index == 0:
                raise SymmetryError("the model's outputs are not finite, so that its symmetry cannot be checked")
            if told >= NUM_PLACES:
                break


def check_axes(symmetry: Symmetry, layout: Layout) -> None:
    """Refuse a declaration that does not fit the params' leaves.

    Raises:
        SymmetryError: a leaf or an axis does not exist, is declared twice or has another size.
    """
    shapes, seen = dict(zip(layout.names, layout.shapes, strict=True)), set()
    for layer, units in enumerate(symmetry.layers):
        for axis in units.axes:
            shape = shapes.get(axis.leaf)
            if shape is None:
                raise SymmetryError(f"layer {layer} declares the leaf {axis.leaf!r}; the params have {list(shapes)}")
            if not -len(shape) <= axis.axis < 0 or shape[axis.axis] != units.num:
                raise SymmetryError(
                    f"layer {layer} declares {units.num} units on axis {axis.axis} of {axis.leaf!r}, whose shape is "
                    f"{shape}; axes are negative, counted from the last"
                )
            if (axis.leaf, axis.axis) in seen:
                raise SymmetryError(
                    f"axis {axis.axis} of {axis.leaf!r} is declared twice, the second time by layer {layer}"
                )
            seen.add((axis.leaf, axis.axis))


def _act_on_axis(leaf: AnyArray, perm: AnyArray, factor: AnyArray, axis: Axis) -> AnyArray:
    """Take units along one axis and multiply them; the perm's leading axes are the leaf's first ones."""
    if isinstance(leaf, np.ndarray):
        if isinstance(perm, Tracer) or isinstance(factor, Tracer):
            leaf = jnp.asarray(leaf)
        else:
            perm, factor = np.asarray(perm), np.asarray(factor)
    xp, batch = leaf.__array_namespace__(), perm.ndim - 1
    moved = _take(xp.moveaxis(leaf, axis.axis, batch), perm)
    power = (1 / factor if axis.sends else factor).astype(leaf.dtype)
    moved = moved * power.reshape(power.shape + (1,) * (moved.ndim - power.ndim))
    return xp.moveaxis(moved, batch, axis.axis)


def _take(values: AnyArray, perm: AnyArray) -> AnyArray:
    """values[..., perm, (rest)], row by row of the perm's leading axes."""
    grid = np.indices((*perm.shape[:-1], 1), sparse=True)[:-1]
    return values[(*grid, perm)]


def _balance_one(symmetry: Symmetry, squares: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Factors of one network from its squared leaves, which are rescaled in place."""
    factors = [np.ones(units.num) for units in symmetry.layers]
    largest = 0.0
    for _ in range(BALANCE_SWEEPS):
        largest = 0.0
        for units, factor in zip(symmetry.layers, factors, strict=True):
            if not units.scale:
                continue
            leaves = [axis.leaf for axis in units.axes]
            # Units that feed each other are balanced one after another: all at once, they would chase each other.
            groups = [slice(None)] if len(set(leaves)) == len(leaves) else [slice(k, k + 1) for k in range(units.num)]
            for group in groups:
                step2 = _step(units, squares, group)
                factor[group] *= np.sqrt(step2)
                for axis in units.axes:
                    turned = np.moveaxis(squares[axis.leaf], axis.axis, -1)[..., group]  # a view
                    turned *= 1 / step2 if axis.sends else step2
                largest = max(largest, float(np.abs(step2 - 1).max()))
        if largest <= BALANCE_TOLERANCE:
            return factors
    raise SymmetryError(f"balancing did not converge in {BALANCE_SWEEPS} sweeps: factors still change by {largest:.1g}")


def _step(units: Units, squares: dict[str, np.ndarray], group: slice) -> np.ndarray:
    """Square of the factors that give these units equal incoming and outgoing norms, 1 where one of them is 0.

    What a unit sends to itself does not change with its scale, and does not count.
    """
    norms = np.zeros((2, units.num))
    for axis in units.axes:
        leaf = squares[axis.leaf]
        norms[int(axis.sends)] += np.moveaxis(leaf, axis.axis, -1).reshape(-1, units.num).sum(0)
        for other in units.axes:
            if other.leaf == axis.leaf and other.axis != axis.axis:
                own = np.diagonal(leaf, axis1=axis.axis, axis2=other.axis)
                norms[int(axis.sends)] -= own.reshape(-1, units.num).sum(0)
    received, sent = np.maximum(norms[:, group], 0)
    alive = (received > 0) & (sent > 0)
    return np.sqrt(np.divide(sent, received, out=np.ones(len(sent)), where=alive))


def _generic(leaf: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random leaf of this size; one whose values are all positive stays so (variances, scales)."""
    noise = rng.standard_normal(leaf.shape)
    if leaf.size and np.all(leaf > 0):
        return leaf * np.exp(SPREAD * noise)
    return leaf + (np.sqrt(np.mean(np.square(leaf))) or 1.0) * noise


def _check_place(
    model: Any, symmetry: Symmetry, place: Params, inputs: np.ndarray, outputs: Any, rng: np.random.Generator
) -> bool:
    """Try every kind of symmetry of every layer; whether outputs vary, without which (dead units) nothing is told.

    A change counts against the smaller of the sizes of its example and of its output, so that neither one large example
    nor one large output hides it.
    """
    eps, outputs = float(jnp.finfo(outputs.dtype).eps), np.asarray(outputs, np.float64)
    flat = outputs.reshape(len(outputs), -1)
    size = np.minimum(np.abs(flat).max(axis=1, keepdims=True), np.abs(flat).max(axis=0))
    tolerance = np.sqrt(eps) * size + 1e3 * eps * np.abs(flat) + np.finfo(float).tiny
    for layer, units in enumerate(symmetry.layers):
        kinds: list[Kind] = ["perm", *(["sign"] if units.sign else []), *(["scale"] if units.scale else [])]
        for kind in kinds:
            moved = model.apply(act(symmetry, _trial(symmetry, layer, kind, rng), place), inputs)
            change = np.abs(np.asarray(moved, np.float64).reshape(flat.shape) - flat)
            if not np.all(change <= tolerance):
                worst = np.unravel_index(np.argmax(np.nan_to_num(change / tolerance, nan=np.inf)), flat.shape)
                raise SymmetryError(
                    f"the declared {kind} symmetry of layer {layer} ({units.num} units) changes the model's outputs by up "
                    f"to {change[worst]:.3g} (rounding explains {tolerance[worst]:.1g}): does a leaf or an axis miss in "
                    "its declaration, or is the activation not of this kind?"
                )
    return bool(np.ptp(flat, axis=0).any())


def _trial(symmetry: Symmetry, layer: int, kind: Kind, rng: np.random.Generator) -> Element:
    """An element of one kind on one layer that leaves no unit in place, or flips at least one, or scales all."""
    element, num = identity(symmetry), symmetry.layers[layer].num
    if kind == "perm":
        cycle = rng.permutation(num)
        element.perms[layer][cycle] = np.roll(cycle, 1)
    elif kind == "sign":
        element.factors[layer][:] = rng.choice([-1.0, 1.0], num)
        element.factors[layer][rng.integers(num)] = -1
    else:
        element.factors[layer][:] = np.exp(SPREAD * rng.standard_normal(num))
    return element
