"""Activation matching: units that answer alike on the same examples are the same unit."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from analysis.alignment.ascent import Climb, Labels
from analysis.alignment.assignment import assign
from analysis.alignment.matching import Match, Pairs, collect
from analysis.threads import in_threads
from wspace import objective
from wspace.symmetry import Symmetry, check
from wspace.tree import AnyArray, Layout, Params

DEAD = 1e-12  # a unit is dead when its variance is below this share of its mean square: it does not vary


def match_activations(
    symmetry: Symmetry,
    reference: Params,
    params: Params,
    *,
    model: Any,
    x: Float[AnyArray, "example *feature"],
    kind: Literal["correlation", "inner_product"] = "correlation",
    num_threads: int | None = None,
) -> Match:
    """Assign the units of each layer by what they do on the same examples; layers do not depend on each other.

    Maximises sum_i s_i S[i, p(i)] in every layer, with S[i, j] = corr(h_i, h'_j) or mean(h_i h'_j) over examples, h the
    reference's activations. Correlation does not see a unit's scale, the inner product does. A dead unit (relu that is
    silent on all examples, or any constant) has correlation 0 with all, so the dead are matched among what is left. Li
    et al. 2016 (1511.07543); Tatro et al. 2020 (2009.02439).

    Args:
        symmetry: layers in the order of the model's activations.
        reference: one network, or stacked ones, pair by pair.
        params: stacked, leaves (pair, ...).
        model: with `apply` and `activations(params, x)`, units along the last axis of each hidden layer's; axes between
            examples and units (positions of a convolution) are averaged.
        x: inputs, all of them used.
        kind: of similarity.
        num_threads: for the assignments; default: all cores.

    Raises:
        ValueError: the architectures differ, a value is not finite, or layers and activations do not fit.
        SymmetryError: the symmetry changes the model's function on x.
    """
    pairs = Pairs(symmetry, reference, params)
    check(model, symmetry, jax.tree.map(lambda leaf: np.asarray(leaf)[0], params), x)
    similarity = activation_similarity(symmetry, reference, params, model=model, x=x, kind=kind)

    def one(index: int) -> list[Climb]:
        found = [assign(s[index], signed=u.sign) for s, u in zip(similarity, symmetry.layers, strict=True)]
        total = float(sum(value for _, _, value in found))
        return [Climb([Labels(perm, signs) for perm, signs, _ in found], total, np.array([total]), True)]

    return collect(in_threads(one, range(len(pairs)), num_threads))


def activation_similarity(
    symmetry: Symmetry,
    reference: Params,
    params: Params,
    *,
    model: Any,
    x: Float[AnyArray, "example *feature"],
    kind: Literal["correlation", "inner_product"] = "correlation",
) -> list[Float[np.ndarray, "pair unit unit"]]:
    """S of `match_activations` for every hidden layer, summed in float64 over chunks of examples."""
    single = len(Layout.of(reference).shapes[0]) < len(Layout.of(params).shapes[0])
    first = jax.tree.map(lambda leaf: np.asarray(leaf)[0], params)
    shapes = [h.shape for h in jax.eval_shape(model.activations, first, jax.ShapeDtypeStruct(x.shape, jnp.float32))]
    sizes = [units.num for units in symmetry.layers]
    if [shape[-1] for shape in shapes[: len(sizes)]] != sizes:
        raise ValueError(f"the symmetry has layers of {sizes} units, the model's activations have the shapes {shapes}")
    sums = jax.jit(jax.vmap(lambda a, b, xs: _sums(model, len(sizes), a, b, xs), (None if single else 0, 0, None)))
    num = jax.tree.leaves(params)[0].shape[0]
    chunk = objective.chunk_examples(model, first, x.shape, 2 * num)
    wide = lambda tree: jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)  # noqa: E731
    with jax.enable_x64(True):
        a, b, total = wide(reference), wide(params), None
        for low in range(0, len(x), chunk):
            part = sums(a, b, np.asarray(x[low : low + chunk], np.float64))
            total = part if total is None else jax.tree.map(jnp.add, total, part)
    means = [[np.asarray(value) / len(x) for value in layer] for layer in total or ()]
    return [cross if kind == "inner_product" else _correlation(cross, *moments) for cross, *moments in means]


def _sums(model: Any, num_layers: int, a: Params, b: Params, x) -> list[tuple]:
    """Per layer: sum h_i h'_j, and the sums of h, h', h^2, h'^2, over examples and any axes between them and units."""
    result = []
    for h, other in zip(*(model.activations(p, x)[:num_layers] for p in (a, b)), strict=True):
        h, other = (v.astype(jnp.float64) for v in (h, other))  # the model may compute in less
        h, other = (v.reshape(len(x), -1, v.shape[-1]).mean(axis=1) if v.ndim > 2 else v for v in (h, other))
        result.append((h.T @ other, h.sum(0), other.sum(0), jnp.square(h).sum(0), jnp.square(other).sum(0)))
    return result


def _correlation(cross, mean_a, mean_b, square_a, square_b) -> np.ndarray:
    if mean_a.ndim < mean_b.ndim:
        mean_a, square_a = mean_a[None], square_a[None]
    deviations = []
    for mean, square in ((mean_a, square_a), (mean_b, square_b)):
        variance = square - mean**2
        alive = variance > DEAD * square
        deviations.append(np.divide(1.0, np.sqrt(variance, where=alive, out=np.ones_like(variance)), where=alive,
                                    out=np.zeros_like(variance)))  # fmt: skip
    centred = cross - mean_a[..., :, None] * mean_b[..., None, :]
    return centred * deviations[0][..., :, None] * deviations[1][..., None, :]
