"""The linear assignment problem, many at a time: which unit goes to which."""

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment


def assign(
    similarity: Float[np.ndarray, "unit unit"], *, signed: bool = False
) -> tuple[Int[np.ndarray, "unit"], Float[np.ndarray, "unit"], float]:
    """The perm and signs that maximise sum_i s_i S[i, p(i)], exactly (Crouse 2016, 10.1109/TAES.2016.140952).

    For a given perm the best sign of each term is that of S, so with signs it is the assignment problem of |S|.

    Args:
        similarity: S, finite; rows are units of the reference, columns those of the network that is moved.
        signed: whether signs are free; otherwise they are 1.

    Returns:
        (perm, signs, the maximum).
    """
    score = np.abs(similarity) if signed else similarity
    rows, perm = linear_sum_assignment(score, maximize=True)
    signs = np.where(similarity[rows, perm] < 0, -1.0, 1.0) if signed else np.ones(len(perm))
    return perm, signs, float(score[rows, perm].sum())
