"""Every pair of a population matched by itself, and what that costs in consistency."""

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Bool, Float

from analysis.alignment.population import Alignment, Matcher, cosines, gram, population_size
from analysis.pairs import Row, pair_rows, square
from analysis.statistics import Estimate, bootstrap_seeds
from wspace.symmetry import Element, Symmetry, act, compose, identity, invert, share_fixed
from wspace.tree import Params, digest, pick

LEAST_SEEDS = 5


@dataclasses.dataclass(frozen=True)
class PairMatches:
    """A match for every pair of networks, whatever the other pairs are.

    Attributes:
        element: stacked (seed, seed, unit): [i, j] brings network j to network i; [j, i] is its inverse.
        inner: <theta_i, g_ij theta_j>; on the diagonal |theta_i|^2.
        raw: <theta_i, theta_j>.
        spread: (best - worst restart) / |best| of the matcher's objective.
        converged: whether the matcher stopped by itself.
    """

    element: Element
    inner: Float[np.ndarray, "seed seed"]
    raw: Float[np.ndarray, "seed seed"]
    spread: Float[np.ndarray, "seed seed"]
    converged: Bool[np.ndarray, "seed seed"]

    def distance(self, inner: Float[np.ndarray, "seed seed"]) -> Float[np.ndarray, "seed seed"]:
        """|theta_i - g_ij theta_j| from inner products (`inner` or `raw`)."""
        squares = np.diag(self.inner)
        return np.sqrt(np.maximum(squares[:, None] + squares - 2 * inner, 0))

    def cosine(self, inner: Float[np.ndarray, "seed seed"]) -> Float[np.ndarray, "seed seed"]:
        """Cosine between theta_i and g_ij theta_j; 0 where a network is 0."""
        return cosines(inner, np.diag(self.inner))


def match_pairs(
    symmetry: Symmetry,
    params: Params,
    *,
    matcher: Matcher,
    name: str,
    path: Path | None = None,
    progress: Callable[[int, int], None] = lambda done, num: None,
) -> PairMatches:
    """Match all pairs i < j, a row at a time.

    Args:
        symmetry: the group.
        params: stacked, leaves (seed, ...), at least two.
        matcher: (symmetry, reference, params) -> Match.
        name: of the matcher and its options; with the params' hash it tells whether rows on disk may be reused.
        path: folder for the rows, to resume from, or None.
        progress: called with (rows finished, rows).

    Raises:
        ValueError: there are fewer than two networks, or the matcher refuses them.
        StoreError: the folder cannot be written.
    """
    num = population_size(params)
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(params)]

    def compute(index: int) -> Row:
        rest = jax.tree.map(lambda leaf: np.asarray(leaf)[index + 1 :], params)
        match = matcher(symmetry, pick(params, index), rest)
        arrays: Row = {f"perm{i}": np.asarray(perm, np.int32) for i, perm in enumerate(match.element.perms)}
        arrays |= {f"factor{i}": np.asarray(factor) for i, factor in enumerate(match.element.factors)}
        moved = act(symmetry, match.element, rest)
        inner = np.zeros(num - 1 - index)
        for part, own in zip(jax.tree.leaves(moved), leaves, strict=True):
            inner += part.reshape(len(inner), -1).astype(np.float64) @ own[index].ravel().astype(np.float64)
        return arrays | {"inner": inner, "spread": match.spread, "converged": match.converged}

    group = hashlib.sha256(repr(symmetry).encode()).hexdigest()
    settings = {"matcher": name, "symmetry": group, "params": digest(params), "networks": num}
    rows = pair_rows(path, settings, num, compute, progress)
    raw = gram(params)
    inner = square(rows, "inner")
    np.fill_diagonal(inner, np.diag(raw))
    converged = square(rows, "converged", 1.0).astype(bool)
    return PairMatches(_elements(symmetry, rows), inner, raw, square(rows, "spread"), converged)


def transitivity_loss(matches: PairMatches, alignment: Alignment) -> float:
    """Share of the similarity gained pair by pair that one labelling for all gives up.

    1 - (sum of <g_i theta_i, g_j theta_j> - raw) / (sum of <theta_i, g_ij theta_j> - raw), over pairs i < j: 0 where one
    labelling serves every pair as well as its own match, 1 where it serves none.
    """
    upper = np.triu_indices(len(matches.inner), 1)
    raw, own = float(matches.raw[upper].sum()), float(matches.inner[upper].sum())
    return 1 - (alignment.objective - raw) / (own - raw) if own - raw > 1e-12 * abs(own) else 0.0


def cycle_error(element: Element, *, rng: np.random.Generator) -> Estimate:
    """Share of hidden units that do not come back to themselves around a cycle of three networks, i <- j <- k <- i.

    0 for elements that come from one labelling; for unrelated ones of n units 1 - 1/n, with signs 1 - 1/(2n).

    Args:
        element: stacked (seed, seed, unit): [i, j] brings network j to network i.
        rng: source of the bootstrap over seeds; resamples with fewer than three distinct ones are drawn again.

    Returns:
        The mean over triples; no interval below LEAST_SEEDS networks, whose few triples nearly all share seeds.

    Raises:
        ValueError: there are fewer than three networks, or no hidden units.
    """
    num = element.perms[0].shape[0] if element.perms else 0
    if num < 3:
        raise ValueError(f"a cycle takes three networks with hidden units, got {num}")
    i, j, k = (axis.ravel() for axis in np.indices((num,) * 3))
    distinct = (i != j) & (j != k) & (i != k)
    i, j, k = i[distinct], j[distinct], k[distinct]
    errors = np.concatenate([
        1 - share_fixed(compose(element[i[s], j[s]], compose(element[j[s], k[s]], element[k[s], i[s]])))
        for s in (slice(low, low + 4096) for low in range(0, len(i), 4096))
    ])  # fmt: skip

    table, weight = np.zeros((2, num, num, num))
    table[i, j, k], weight[i, j, k] = errors, 1.0

    def mean(resamples: np.ndarray) -> np.ndarray:
        """Triples weighted by how often their seeds were drawn."""
        means = []
        for row in resamples:
            while len(np.unique(row)) < 3:
                row = rng.integers(num, size=num)
            counts = np.bincount(row, minlength=num).astype(float)
            total, of = (((cube @ counts) @ counts) @ counts for cube in (table, weight))
            means.append(total / of)
        return np.array(means)

    ci = bootstrap_seeds(mean, num, rng=rng, pairs=True) if num >= LEAST_SEEDS else None
    return Estimate(float(errors.mean()), ci, num, "share")


def _elements(symmetry: Symmetry, rows: list[Row]) -> Element:
    """(seed, seed, unit): rows above the diagonal, inverses below, the identity on it."""
    num = len(rows) + 1
    element = identity(symmetry, (num, num))
    for index, row in enumerate(rows):
        layers = range(len(symmetry.layers))
        upper = Element(
            tuple(row[f"perm{i}"].astype(np.intp) for i in layers), tuple(row[f"factor{i}"] for i in layers)
        )
        lower = invert(upper)
        for layer in layers:
            for part, above, below in zip(element, upper, lower, strict=True):
                part[layer][index, index + 1 :] = above[layer]
                part[layer][index + 1 :, index] = below[layer]
    return element
