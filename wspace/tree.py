"""Params as points of weight space: ravel to theta and back, stack, interpolate, measure.

A params pytree with leaves of shapes s_1 .. s_k is the vector theta in R^P, P = sum of the leaf sizes: the leaves in
`jax.tree` order, each in row-major order, one after another. Leading (seed, checkpoint) axes are carried along.
"""

import dataclasses
import hashlib
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

Params = PyTree
AnyArray = Array | np.ndarray


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where each leaf of a params pytree lies in theta.

    Attributes:
        names: path of each leaf, e.g. `0.weight`.
        shapes: shape of each leaf.
        treedef: structure that `unravel` rebuilds.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    treedef: Any

    @classmethod
    def of(cls, params: Params) -> "Layout":
        """Layout of unstacked params; arrays, numbers or `jax.ShapeDtypeStruct`s."""
        leaves, treedef = jax.tree_util.tree_flatten_with_path(params)
        names = tuple(jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves)
        return cls(names, tuple(np.shape(leaf) for _, leaf in leaves), treedef)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of scalars in each leaf."""
        return tuple(math.prod(shape) for shape in self.shapes)

    @property
    def offsets(self) -> tuple[int, ...]:
        """Position in theta of each leaf's first scalar."""
        return tuple(np.cumsum((0, *self.sizes[:-1])).tolist())

    @property
    def size(self) -> int:
        """Dimension P of weight space."""
        return sum(self.sizes)

    def unravel(self, theta: Float[AnyArray, "*batch param"]) -> Params:
        """Params whose leaves keep theta's leading axes: the inverse of `ravel`.

        Args:
            theta: (..., P), NumPy or JAX; the leaves are of the same kind, views where the library allows.

        Raises:
            ValueError: the last axis is not P long.
        """
        if theta.shape[-1] != self.size:
            raise ValueError(f"theta has {theta.shape[-1]} values in its last axis, this layout has {self.size}")
        batch = theta.shape[:-1]
        leaves = [
            theta[..., offset : offset + size].reshape(batch + shape)
            for offset, size, shape in zip(self.offsets, self.sizes, self.shapes, strict=True)
        ]
        return jax.tree_util.tree_unflatten(self.treedef, leaves)


def ravel(params: Params, batch_ndim: int = 0) -> Float[Array, "*batch param"]:
    """theta of params: leaves in `jax.tree` order, row-major, concatenated.

    Args:
        params: leaves of shape batch + shape.
        batch_ndim: number of leading axes that all leaves share and that are kept.
    """
    leaves = jax.tree.leaves(params)
    return jnp.concatenate([jnp.reshape(leaf, (*leaf.shape[:batch_ndim], -1)) for leaf in leaves], axis=-1)


def stack_params(population: Sequence[Params]) -> Params:
    """Stack the params of several networks along a new leading axis `seed`.

    Args:
        population: params pytrees of one structure, one per network; leaves are real arrays (NumPy, JAX) or numbers.

    Returns:
        Params whose leaves have shape (seed, *shape).

    Raises:
        ValueError: the list is empty, a leaf is not made of real numbers, or structures or shapes differ (the first
            difference is named).
    """
    if not population:
        raise ValueError("stack_params got no networks; at least one is expected")
    first = Layout.of(population[0])
    for i, params in enumerate(population):
        layout = Layout.of(params)
        if layout.treedef != first.treedef:
            raise ValueError(f"network {i} has leaves {layout.names}, network 0 has {first.names}")
        for name, leaf, expected in zip(layout.names, jax.tree.leaves(params), first.shapes, strict=True):
            if np.shape(leaf) != expected:
                raise ValueError(f"network {i} has {name} of shape {np.shape(leaf)}, network 0 of shape {expected}")
            if not jnp.issubdtype(dtype := np.asarray(leaf).dtype, jnp.floating):
                raise ValueError(
                    f"network {i} has {name} of dtype {dtype}: params are real numbers, floats are expected"
                )
    return jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *population)


def pick(params: Params, index: int) -> Params:
    """One network of a stack, as NumPy arrays."""
    return jax.tree.map(lambda leaf: np.asarray(leaf)[index], params)


def digest(params: Params) -> str:
    """SHA-256 of the leaves' names, shapes, dtypes and values: which networks a number on disk was computed from."""
    layout, leaves = Layout.of(params), [np.ascontiguousarray(leaf) for leaf in jax.tree.leaves(params)]
    found = hashlib.sha256(repr((layout.names, layout.shapes, [str(leaf.dtype) for leaf in leaves])).encode())
    for leaf in leaves:
        found.update(leaf.tobytes())
    return found.hexdigest()


def lerp(a: Params, b: Params, alpha: float | Float[Array, ""]) -> Params:
    """(1 - alpha) a + alpha b, leaf by leaf; exactly a at alpha = 0 and b at alpha = 1."""
    return jax.tree.map(lambda x, y: (1 - alpha) * x + alpha * y, a, b)


def dot(a: Params, b: Params) -> Float[Array, ""]:
    """Euclidean inner product <theta_a, theta_b>."""
    products = jax.tree.map(lambda x, y: jnp.vdot(x, y), a, b)
    return jax.tree.reduce(jnp.add, products)


def norm(params: Params) -> Float[Array, ""]:
    """Euclidean norm |theta|."""
    return jnp.sqrt(dot(params, params))
