"""Points of a plane for things of which only distances are known, such as predictions of many networks over training."""

import dataclasses
import itertools

import numpy as np
from jaxtyping import Float
from scipy.spatial.distance import pdist
from scipy.stats import spearmanr
from sklearn.manifold import TSNE, trustworthiness
from threadpoolctl import threadpool_limits

from analysis.projection.components import fix_signs

NEIGHBOURS = 5  # whose keeping is measured


@dataclasses.dataclass(frozen=True)
class Scaling:
    """Classical multidimensional scaling.

    Attributes:
        coordinates: of the points, about their mean, the largest spread first; signs as `fix_signs` has them.
        explained: share of the sum of squared distances along each axis; of positive eigenvalues only.
        negative: sum of |negative eigenvalues| / sum of all |eigenvalues|: 0 where the distances are Euclidean.
    """

    coordinates: Float[np.ndarray, "point axis"]
    explained: Float[np.ndarray, "axis"]
    negative: float


@dataclasses.dataclass(frozen=True)
class Neighbourhoods:
    """t-SNE from several random starts.

    Attributes:
        coordinates: of every start; positions, distances between groups and orientation mean nothing.
        perplexity: how many neighbours, about, each point keeps.
        divergence: what t-SNE minimises, of each start.
        trust: share, penalised by rank, of the neighbours in the plane that are neighbours in truth; 1 is perfect.
        agreement: Spearman's correlation of the distances between points, mean over pairs of starts; None for one start.
    """

    coordinates: Float[np.ndarray, "start point 2"]
    perplexity: float
    divergence: Float[np.ndarray, "start"]
    trust: Float[np.ndarray, "start"]
    agreement: float | None

    @property
    def best(self) -> Float[np.ndarray, "point 2"]:
        """Of the start with the smallest divergence."""
        return self.coordinates[np.argmin(self.divergence)]


def scaling(distances: Float[np.ndarray, "point point"], num: int = 2) -> Scaling:
    """Classical scaling: eigenvectors of -J D^2 J / 2 with J the centring matrix, times the roots of their eigenvalues.

    Exact for Euclidean distances, for which it is PCA.

    Args:
        distances: symmetric, 0 on the diagonal.
        num: axes; those without a positive eigenvalue are 0.

    Raises:
        ValueError: there are no more points than axes, a distance is missing or negative, or all are 0.

    Source: Torgerson 1952, 10.1007/BF02288916; Gower 1966, 10.1093/biomet/53.3-4.325.
    """
    _check(distances, num + 1)
    centring = np.eye(len(distances)) - 1 / len(distances)
    values, vectors = np.linalg.eigh(-centring @ np.square(distances) @ centring / 2)
    order = np.argsort(values)[::-1][:num]
    top = values[order].clip(0)
    coordinates = (fix_signs(vectors[:, order].T) * np.sqrt(top)[:, None]).T
    return Scaling(coordinates, top / values.clip(0).sum(), float(-values.clip(max=0).sum() / np.abs(values).sum()))


def neighbourhoods(
    distances: Float[np.ndarray, "point point"], *, perplexity: float, num_starts: int = 3, rng: np.random.Generator
) -> Neighbourhoods:
    """t-SNE of given distances, by scikit-learn, from several random starts, with how far they agree.

    Args:
        distances: symmetric, 0 on the diagonal.
        perplexity: less than the number of points.
        num_starts: random starts.
        rng: source of their seeds.

    Raises:
        ValueError: there are fewer than four points, the perplexity does not fit, a distance is missing or negative, or all
            are 0.

    Source: van der Maaten & Hinton 2008, JMLR 9; trustworthiness: Venna & Kaski 2001, 10.1007/3-540-44668-0_68.
    """
    _check(distances, 4)
    num = len(distances)
    if not 1 <= perplexity < num:
        raise ValueError(f"perplexity = {perplexity}: a number from 1 to less than the {num} points is expected")
    found, divergence, trust = [], [], []
    for seed in rng.integers(2**31, size=num_starts):
        tsne = TSNE(
            2, perplexity=perplexity, metric="precomputed", init="random", learning_rate="auto", random_state=int(seed)
        )
        with threadpool_limits(1):  # threads that wait for each other make it twenty times slower
            found.append(tsne.fit_transform(distances).astype(np.float64))
        divergence.append(float(tsne.kl_divergence_))
        neighbours = max(1, min(NEIGHBOURS, (num - 1) // 2))
        trust.append(trustworthiness(distances, found[-1], n_neighbors=neighbours, metric="precomputed"))
    pairs = [spearmanr(pdist(a), pdist(b)).statistic for a, b in itertools.combinations(found, 2)]
    return Neighbourhoods(
        np.array(found),
        float(perplexity),
        np.array(divergence),
        np.array(trust),
        float(np.mean(pairs)) if pairs else None,
    )


def _check(distances: np.ndarray, fewest: int) -> None:
    if len(distances) < fewest:
        raise ValueError(f"{len(distances)} points: at least {fewest} are expected")
    if not np.all(np.isfinite(distances)) or np.any(distances < 0):
        raise ValueError("distances are missing or negative")
    if not np.any(distances > 0):
        raise ValueError("all points are at one place: there is nothing to draw")
