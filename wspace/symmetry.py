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
import numpy as np
from jaxtyping import Float, Int

from wspace.errors import SymmetryError
from wspace.tree import AnyArray, Layout, Params

Kind = Literal["perm", "sign", "scale"]

SPREAD = 0.5  # standard deviation of log |factor| of random elements
BALANCE_SWEEPS, BALANCE_TOLERANCE = 10_000, 1e-12
CHECK_EXAMPLES = 64


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
    """
    names = Layout.of(params).names
    leaves, treedef = jax.tree.flatten(params)
    found = dict(zip(names, leaves, strict=True))
    for units, perm, factor in zip(symmetry.layers, element.perms, element.factors, strict=True):
        for axis in units.axes:
            found[axis.leaf] = _act_on_axis(found[axis.leaf], perm, factor, axis)
    return jax.tree.unflatten(treedef, [found[name] for name in names])


def act_on_theta(
    symmetry: Symmetry, layout: Layout, element: Element, theta: Float[np.ndarray, "*batch param"]
) -> Float[np.ndarray, "*batch param"]:
    """`act` on raveled params: one final alignment moves a whole trajectory, theta (seed, checkpoint, param)."""
    moved = jax.tree.leaves(act(symmetry, element, layout.unravel(theta)))
    return np.concatenate([leaf.reshape(*theta.shape[:-1], -1) for leaf in moved], axis=-1)


def compose(second: Element, first: Element) -> Element:
    """The element that acts like `first` and then `second`: act(compose(g, h), x) = act(g, act(h, x))."""
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
    if not kept:
        return np.ones(())
    return np.mean(np.concatenate(kept, axis=-1), axis=-1)


def balance(symmetry: Symmetry, params: Params, batch_ndim: int = 0) -> Element:
    """The element that makes params shortest by positive scales: act with it for the canonical representative.

    For a unit with incoming norm a and outgoing norm b, the factor s turns a^2 + b^2 into s^2 a^2 + b^2 / s^2, least at
    s = sqrt(b/a), where both norms are equal. Layers share leaves, so the sweeps over layers repeat until all factors are
    within BALANCE_TOLERANCE of 1; |theta|^2 is convex in log s, so that nothing else is a minimum. Units that receive
    nothing or send nothing have no shortest scale and keep theirs. Layers without scale symmetry are left alone. Stock et
    al. 2019 (1902.10416).

    Args:
        symmetry: the group.
        params: leaves batch + shape; read in float64.
        batch_ndim: number of leading axes that all leaves share.

    Returns:
        Elements with perms of the identity and positive factors, (*batch, unit).

    Raises:
        SymmetryError: the sweeps do not converge.
    """
    names, leaves = Layout.of(params).names, [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(params)]
    batch = leaves[0].shape[:batch_ndim]
    result = identity(symmetry, batch)
    for index in np.ndindex(*batch):
        squares = {name: np.square(leaf[index]) for name, leaf in zip(names, leaves, strict=True)}
        for layer, factor in enumerate(_balance_one(symmetry, squares)):
            result.factors[layer][index] = factor
    return result


def check(model: Any, symmetry: Symmetry, params: Params, x: Float[AnyArray, "example *feature"]) -> None:
    """Refuse a declared symmetry that does not fit the params or does not preserve the function.

    Each kind of symmetry of each layer is tried by itself, with a random element, on up to CHECK_EXAMPLES examples in
    float64: at the params, and at params moved off any special place (zero biases hide a bias that was not declared).

    Args:
        model: anything with `apply(params, x)`.
        symmetry: what it, or its user, declares.
        params: of one network.
        x: inputs.

    Raises:
        SymmetryError: a leaf or an axis does not exist, is declared twice or has another size; or outputs change.
    """
    check_axes(symmetry, Layout.of(params))
    rng = np.random.default_rng(0)
    given = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    spread = lambda leaf: np.sqrt(np.mean(np.square(leaf))) or 1.0  # noqa: E731
    generic = jax.tree.map(lambda leaf: leaf + spread(leaf) * rng.standard_normal(leaf.shape), given)
    with jax.enable_x64(True):
        inputs = np.asarray(x[:CHECK_EXAMPLES], np.float64)
        for place in (given, generic):
            outputs = np.asarray(model.apply(place, inputs))
            if not np.all(np.isfinite(outputs)):
                raise SymmetryError("the model's outputs are not finite, so that its symmetry cannot be checked")
            tolerance = np.sqrt(np.finfo(outputs.dtype).eps) * max(float(np.abs(outputs).max()), 1e-300)
            for layer, units in enumerate(symmetry.layers):
                kinds: list[Kind] = ["perm", *(["sign"] if units.sign else []), *(["scale"] if units.scale else [])]
                for kind in kinds:
                    element = _only(symmetry, random_element(symmetry, rng, kinds=(kind,)), layer)
                    moved = np.asarray(model.apply(act(symmetry, element, place), inputs))
                    if not (change := float(np.abs(moved - outputs).max())) <= tolerance:
                        raise SymmetryError(
                            f"the declared {kind} symmetry of layer {layer} ({units.num} units) changes the model's "
                            f"outputs by up to {change:.3g} (rounding explains {tolerance:.1g}): does a leaf or an axis "
                            "miss in its declaration, or is the activation not of this kind?"
                        )


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
            norms = np.zeros((2, units.num))
            for axis in units.axes:
                norms[int(axis.sends)] += np.moveaxis(squares[axis.leaf], axis.axis, -1).reshape(-1, units.num).sum(0)
            alive = np.all(norms > 0, axis=0)
            step2 = np.sqrt(np.divide(norms[1], norms[0], out=np.ones(units.num), where=alive))  # the factor's square
            factor *= np.sqrt(step2)
            for axis in units.axes:
                turned = np.moveaxis(squares[axis.leaf], axis.axis, -1)  # a view
                turned *= 1 / step2 if axis.sends else step2
            largest = max(largest, float(np.abs(step2 - 1).max()))
        if largest <= BALANCE_TOLERANCE:
            return factors
    raise SymmetryError(f"balancing did not converge in {BALANCE_SWEEPS} sweeps: factors still change by {largest:.1g}")


def _only(symmetry: Symmetry, element: Element, layer: int) -> Element:
    """The element on one layer, the identity on all others."""
    plain = identity(symmetry)
    pick = lambda ours, theirs: tuple(o if i == layer else t for i, (o, t) in enumerate(zip(ours, theirs, strict=True)))  # noqa: E731
    return Element(pick(element.perms, plain.perms), pick(element.factors, plain.factors))
