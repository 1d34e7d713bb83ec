"""Centred kernel alignment: how alike the representations of layers are, whatever their width and the order of units."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

MOST_VALUES = 2**24  # float64 values of Gram rows held at once: 128 MB


def cka(
    representations: Sequence[Float[np.ndarray, "seed example *_"]], *, most_values: int = MOST_VALUES
) -> Float[np.ndarray, "layer layer seed seed"]:
    """Debiased linear CKA between every layer of every network and every layer of every other, float64.

    With K = X X^T the inner products of n examples and U(K) their U-centring, K_ij less row and column sums / (n - 2) plus
    the total / ((n - 1)(n - 2)) off the diagonal and 0 on it, <U(K), U(L)> / (n (n - 3)) is an unbiased estimate of HSIC and

        CKA = <U(K), U(L)> / sqrt(<U(K), U(K)> <U(L), U(L)>).

    It is 1 between representations equal up to a rotation, a scale and a shift, and 0 on average between independent ones,
    where the biased estimate grows with the width; so it may be negative. Exact: rows of U(K) of all layers and networks are
    made a few examples at a time, and one matrix product adds all their inner products.

    Args:
        representations: of each layer, on the same examples; what follows the example axis is flattened.
        most_values: of the rows held at once.

    Returns:
        [l, m, i, j]: layer l of network i against layer m of network j; NaN where a representation does not vary.

    Raises:
        ValueError: there are fewer than four examples, layers differ in networks or examples, or values are not finite.

    Source: Kornblith et al. 2019, 1905.00414; Song et al. 2012, JMLR 13; Székely & Rizzo 2014, 10.1214/14-AOS1255; Nguyen,
    Raghu & Kornblith 2021, 2010.15327.
    """
    shapes = [layer.shape[:2] for layer in representations]
    if len(set(shapes)) != 1:
        raise ValueError(f"layers have (networks, examples) {shapes}: equal ones are expected, of at least one layer")
    (num, n), num_layers = shapes[0], len(shapes)
    if n < 4:
        raise ValueError(f"{n} examples: a debiased CKA takes at least 4")
    features = [_centred(layer.reshape(num, n, -1)) for layer in representations]
    objects = [x for layer in features for x in layer]
    rows = [_off_diagonal_sums(x) for x in objects]
    totals = [row.sum() for row in rows]
    size = max(1, most_values // (len(objects) * n))
    inner = np.zeros((len(objects), len(objects)))
    for low in range(0, n, size):
        at = np.arange(low, min(low + size, n))
        block = np.empty((len(objects), len(at), n))
        for k, x in enumerate(objects):
            np.matmul(x[at], x.T, out=block[k])
            block[k] -= (rows[k][at, None] + rows[k]) / (n - 2) - totals[k] / ((n - 1) * (n - 2))
            block[k, np.arange(len(at)), at] = 0
        flat = block.reshape(len(objects), -1)
        inner += flat @ flat.T
    own = np.diag(inner)
    alive = np.array([bool(np.any(x != 0)) for x in objects]) & (own > 0)
    scale = np.sqrt(np.where(alive, own, np.nan))
    return (inner / np.outer(scale, scale)).reshape(num_layers, num, num_layers, num).transpose(0, 2, 1, 3)


def _centred(layer: np.ndarray) -> np.ndarray:
    """Features about their mean over examples, at one scale for each network: CKA knows neither."""
    if not np.all(np.isfinite(layer)):
        bad = np.flatnonzero(~np.isfinite(layer).all(axis=(1, 2)))
        raise ValueError(f"representations of the networks at positions {bad.tolist()} are not finite")
    wide = layer.astype(np.float64)
    constant = np.all(wide == wide[:, :1], axis=(1, 2))
    wide -= wide.mean(axis=1, keepdims=True)
    wide[constant] = 0  # not the rounding of their mean
    size = np.sqrt(np.mean(np.square(wide), axis=(1, 2), keepdims=True))
    return np.divide(wide, size, out=wide, where=size > 0)


def _off_diagonal_sums(x: np.ndarray) -> np.ndarray:
    """Row sums of X X^T without its diagonal."""
    return x @ x.sum(axis=0) - np.square(x).sum(axis=1)
