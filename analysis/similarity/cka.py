"""Centred kernel alignment: how alike the representations of layers are, whatever their width and the order of units."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from analysis.threads import in_threads
from wspace.cores import num_cores

MOST_VALUES = 2**24  # float64 values of Gram rows held at once: 128 MB
ROUNDING = 1e-12  # |U(K)| below this share of the trace of K is rounding


def cka(
    representations: Sequence[Float[np.ndarray, "seed example *_"]], *, most_values: int = MOST_VALUES
) -> Float[np.ndarray, "layer layer seed seed"]:
    """Debiased linear CKA between every layer of every network and every layer of every other, float64.

    With K = X X^T the inner products of n examples and U(K) their U-centring, K_ij less row and column sums / (n - 2) plus
    the total / ((n - 1)(n - 2)) off the diagonal and 0 on it, <U(K), U(L)> / (n (n - 3)) is an unbiased estimate of HSIC and

        CKA = <U(K), U(L)> / sqrt(<U(K), U(K)> <U(L), U(L)>).

    It is 1 between representations equal up to a rotation, a scale and a shift, and 0 on average between independent ones,
    where the biased estimate grows with the width; so it may be negative. Exact: rows of U(K) of all layers and networks are
    made a few examples at a time, each pair of examples once, and one matrix product adds all their inner products; on all
    cores.

    Args:
        representations: of each layer, on the same examples; what follows the example axis is flattened.
        most_values: of the rows held at once, by all cores together.

    Returns:
        [l, m, i, j]: layer l of network i against layer m of network j; NaN where U(K) = 0: the representation does not
            vary, or on one example only.

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
    size = max(1, most_values // (num_cores() * len(objects) * n))

    def products(starts: range) -> np.ndarray:
        inner = np.zeros((len(objects), len(objects)))
        for low in starts:
            num_rows = min(size, n - low)
            at = np.arange(num_rows)
            block = np.empty((len(objects), num_rows, n - low))  # what is left of it is the transpose of earlier blocks
            for k, x in enumerate(objects):
                np.matmul(x[low : low + num_rows], x[low:].T, out=block[k])
                here = rows[k][low:]
                block[k] -= (here[:num_rows, None] + here) / (n - 2) - totals[k] / ((n - 1) * (n - 2))
                block[k, at, at] = 0
            block[:, :, num_rows:] *= np.sqrt(2)  # so is what is right of its square: these pairs count twice
            flat = block.reshape(len(objects), -1)
            inner += flat @ flat.T
        return inner

    inner = np.sum(in_threads(products, [range(k * size, n, num_cores() * size) for k in range(num_cores())]), axis=0)
    own = np.diag(inner)
    trace = np.array([x.size for x in objects])  # features have a mean square of 1
    scale = np.sqrt(np.where(own > np.square(ROUNDING * trace), own, np.nan))
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
