"""What a polished endpoint is, by its gradient and its Hessian: a strict or a degenerate minimum, a saddle, or unknown."""

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from analysis.census.flatness import ROUNDING, Flatness, flatness
from analysis.curvature.hessian import dense
from analysis.curvature.lanczos import extremes
from analysis.curvature.objective import Objective, Population, Tell, flat
from wspace.models import Model
from wspace.objective import LossKind, cache_compiled
from wspace.symmetry import Symmetry
from wspace.tree import Layout, Params

Label = Literal["strict minimum", "degenerate minimum", "saddle", "not converged"]
LABELS: tuple[Label, ...] = ("strict minimum", "degenerate minimum", "saddle", "not converged")

DENSE = 1024  # params up to which all eigenvalues are computed, one network at a time
LANCZOS = 256  # steps, of larger networks, whose ends of the spectrum are not looked for any further
TOLD = 1e-2  # of the smallest |eigenvalue|: a residual up to which its sign is known
FLAT = 1e-7  # of the largest |eigenvalue|: smaller ones are looked at one by one
STEP = 1e-6  # of max(1, |theta|): a longer Newton step means that no stationary point has been reached
KINK, KINK_STEP, KINK_DIRECTIONS = 1e-5, 1e-6, 4


@dataclasses.dataclass(frozen=True)
class Certificates:
    """The evidence for every network, and the label that follows from it.

    Attributes:
        objective: of which function it is a stationary point, in words.
        labels: of LABELS, (network,).
        reasons: why it is not certified, or empty, (network,).
        values: the objective, (network,).
        gradients: length of its gradient, (network,).
        steps: length of the Newton step -H^+ g, flat directions left out: how far the stationary point is; where only the
            ends of the spectrum are known, the bound |g| / |smallest eigenvalue|; (network,).
        smallest, largest: eigenvalues of the Hessian, (network,); NaN where nothing but the ends could be known and the
            gradient is not zero yet.
        residuals: how far off they may be: 0 for a whole spectrum, else Lanczos' residual, (network,).
        index: number of negative eigenvalues, -1 where only the ends are known, (network,).
        flat_scale: how many flat directions are rescalings of units, likewise.
        flat_shift: how many shift all logits of an example alike, which a softmax does not see, likewise.
        flat_inert: how many leave every output on these examples as it is, likewise.
        flat_other: how many have no such reason, or a curvature whose sign cannot be told, likewise.
        kinks: mismatch of the gradient's differences and the Hessian beyond rounding, relative to the largest |eigenvalue|
            or, where that is NaN, to H v: large where there is no second derivative, (network,).
        drops: by how much the objective falls along flat directions beyond rounding, (network,); NaN where only the ends are
            known.
        whole: whether the whole spectrum is known, (network,).
    """

    objective: str
    labels: tuple[Label, ...]
    reasons: tuple[str, ...]
    values: Float[np.ndarray, "network"]
    gradients: Float[np.ndarray, "network"]
    steps: Float[np.ndarray, "network"]
    smallest: Float[np.ndarray, "network"]
    largest: Float[np.ndarray, "network"]
    residuals: Float[np.ndarray, "network"]
    index: Int[np.ndarray, "network"]
    flat_scale: Int[np.ndarray, "network"]
    flat_shift: Int[np.ndarray, "network"]
    flat_inert: Int[np.ndarray, "network"]
    flat_other: Int[np.ndarray, "network"]
    kinks: Float[np.ndarray, "network"]
    drops: Float[np.ndarray, "network"]
    whole: Bool[np.ndarray, "network"]

    @property
    def minimum(self) -> Bool[np.ndarray, "network"]:
        """Which networks are certified minima, strict or degenerate."""
        return np.array([label in LABELS[:2] for label in self.labels], bool)

    @property
    def num_flat(self) -> Int[np.ndarray, "network"]:
        """Flat directions in all; -1 where only the ends of the spectrum are known."""
        return np.where(self.whole, self.flat_scale + self.flat_shift + self.flat_inert + self.flat_other, -1)

    def counts(self) -> dict[str, int]:
        """Label -> number of networks, in the order of LABELS."""
        return {label: self.labels.count(label) for label in LABELS}


def certify(
    objective: Objective, params: Params, *, symmetry: Symmetry | None = None, rng: np.random.Generator,
    tolerance: float = 1e-8, flat_tolerance: float = FLAT, dense_params: int = DENSE, tell: Tell | None = None,
) -> Certificates:  # fmt: skip
    """Label every network by what its gradient and its Hessian prove in float64.

    Not converged: the gradient is longer than the tolerance; or the Newton step is long, as where the minimum lies at
    infinity; or the gradient has no derivative here, as on a kink of a ReLU. Saddle: stationary, and an eigenvalue is
    negative, or the objective falls along a flat direction. Strict minimum: stationary, and all eigenvalues are positive.
    Degenerate minimum: stationary, no negative eigenvalue, some directions flat, each for a reason (rescalings of units,
    shifts of all logits, directions that move no output, see `flatness`), and the objective does not fall in their space, as
    far as it was probed. Where rescalings and shifts are all flat directions it is constant along them, and the minimum
    strict but for them; directions that move no output to first order are beyond what second derivatives can prove, which is
    why they are counted apart. A flat direction without a reason, as that in which a saturated loss goes on falling for
    ever, leaves the network uncertified. Units saturated to ten digits cannot be told from such that move no output.

    Args:
        objective: which function; labels hold for this one only.
        params: stacked, leaves (network, ...), e.g. those of `polish`.
        symmetry: of the model, to explain flat directions; None explains none by it.
        rng: source of the probes.
        tolerance: of the gradient's length, relative to the objective or to `Objective.scale`, whichever is larger.
        flat_tolerance: eigenvalues up to this times the largest |eigenvalue| are looked at one by one.
        dense_params: networks with more params have only the ends of their spectrum computed, by at most LANCZOS steps; one
            whose smallest eigenvalue counts as 0, or has a residual that leaves its sign open, is then not certified.
        tell: called with (networks done, networks).

    Raises:
        ValueError: a tolerance is not positive, or the params are not finite.
    """
    if not (tolerance > 0 and flat_tolerance > 0):
        raise ValueError(f"tolerance = {tolerance}, flat_tolerance = {flat_tolerance}: numbers above 0 are expected")
    population = Population.of(objective, params)
    num, size = population.theta.shape
    directions = rng.standard_normal((num, KINK_DIRECTIONS, size)) * _sizes(population)[:, None]
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    values, gradient, mismatch, bend = population.map(population.program(_local), directions, values=8 * size)
    length = np.linalg.norm(gradient, axis=1)
    reach = np.maximum(1.0, np.linalg.norm(population.theta, axis=1))
    unit = np.maximum(objective.scale, np.abs(values))
    small = length <= tolerance * unit
    found = _Evidence(num)
    if size <= dense_params:
        width = max(1, min(num, 2**26 // size**2))
        for first in range(0, num, width):
            rows = np.arange(first, min(first + width, num))
            part = dataclasses.replace(population, theta=population.theta[rows])
            eigenvalues, columns = np.linalg.eigh(dense(part, np.arange(size)))
            for k, row in enumerate(rows.tolist()):
                one = dataclasses.replace(population, theta=population.theta[row : row + 1])
                known = flatness(one, eigenvalues[k], columns[k], gradient[row], symmetry, flat_tolerance, rng)
                found.spectrum(row, eigenvalues[k], known)
            if tell is not None:
                tell(int(rows[-1]) + 1, num)
    elif small.any():
        some = population.params(population.theta[small])
        ends = extremes(objective, some, 1, 1, rng=rng, tolerance=flat_tolerance / 4, max_steps=LANCZOS, tell=tell)
        found.ends(np.flatnonzero(small), ends.values, ends.residuals, length)
    scale = np.maximum(np.abs(found.largest), np.abs(found.smallest))
    scale = np.where(np.isnan(scale), bend, scale)
    noise = ROUNDING * unit / (KINK_STEP * reach)  # of differences of gradients
    kinks = np.maximum(mismatch - noise, 0) / np.maximum(scale, np.finfo(float).tiny)
    level = flat_tolerance * scale
    labels, reasons = [], []
    for i in range(num):
        label, reason = _label(
            small[i], found.steps[i] <= STEP * reach[i], kinks[i] <= KINK,
            found.residuals[i] <= max(level[i], TOLD * abs(found.smallest[i])), found, i, level[i],
        )  # fmt: skip
        labels.append(label)
        reasons.append(reason)
    return Certificates(
        objective.name, tuple(labels), tuple(reasons), values, length, found.steps, found.smallest, found.largest,
        found.residuals, found.index, found.flat_scale, found.flat_shift, found.flat_inert, found.flat_other, kinks,
        found.drops, found.whole,
    )  # fmt: skip


def _sizes(population: Population) -> np.ndarray:
    """Root mean square of each param's leaf, so that a step is as small for small leaves; 1 where all are 0."""
    parts = np.split(population.theta, population.layout.offsets[1:], axis=1)
    sizes = [np.broadcast_to(np.sqrt(np.mean(np.square(part), axis=1, keepdims=True)), part.shape) for part in parts]
    found = np.concatenate(sizes, axis=1)
    return np.where(
        found > 0, found, np.max(found, axis=1, keepdims=True, initial=0.0) + (found.max(axis=1) == 0)[:, None]
    )


def _label(small, near, smooth, known, found: "_Evidence", i: int, level: float) -> tuple[Label, str]:
    if not small:
        return "not converged", "no second derivative" if not smooth else "gradient"
    if not smooth:
        return "not converged", "no second derivative"
    if not known:
        return "not converged", "spectrum"
    if not near:
        return "not converged", "Newton step"
    if not found.whole[i]:
        if abs(found.smallest[i]) <= level:
            return "not converged", "spectrum"
        return ("strict minimum" if found.smallest[i] > 0 else "saddle"), ""
    if found.index[i] > 0 or found.drops[i] > 0:
        return "saddle", ""
    if found.flat_other[i] > 0:
        return "not converged", "flat without reason"
    flat_directions = found.flat_scale[i] + found.flat_shift[i] + found.flat_inert[i]
    return ("degenerate minimum" if flat_directions else "strict minimum"), ""


class _Evidence:
    """What is known of each network's Hessian."""

    def __init__(self, num: int):
        self.smallest, self.largest, self.residuals, self.steps, self.drops = np.full((5, num), np.nan)
        self.index, self.flat_scale, self.flat_shift, self.flat_inert, self.flat_other = np.full((5, num), -1)
        self.whole = np.zeros(num, bool)

    def ends(self, rows: np.ndarray, values: np.ndarray, residuals: np.ndarray, length: np.ndarray) -> None:
        """Only the largest and the smallest eigenvalue of some networks, by Lanczos."""
        self.largest[rows], self.smallest[rows] = values[:, 0], values[:, -1]
        self.residuals[rows] = residuals.max(axis=1)
        away = np.abs(self.smallest[rows])
        self.steps[rows] = np.divide(length[rows], away, out=np.full_like(away, np.inf), where=away > 0)

    def spectrum(self, row: int, values: np.ndarray, found: Flatness) -> None:
        """All eigenvalues, ascending, and what became of those near zero."""
        self.smallest[row], self.largest[row], self.whole[row] = values[0], values[-1], True
        self.residuals[row] = 0
        self.steps[row], self.drops[row] = found.step, found.drop
        self.index[row], self.flat_other[row] = found.index, found.other
        self.flat_scale[row], self.flat_shift[row], self.flat_inert[row] = found.scale, found.shift, found.inert


@cache_compiled
def _local(model: Model, kind: LossKind, layout: Layout, chunk: int) -> Callable:
    functions = flat(model, kind, layout, chunk)

    def one(theta, directions, data):
        step = KINK_STEP * jnp.maximum(1.0, jnp.linalg.norm(theta))
        product = functions.hessian(theta, data)

        def mismatch(v):
            ahead, behind = (functions.gradient(theta + sign * step * v, data) for sign in (1, -1))
            bent = product(v)
            return jnp.linalg.norm((ahead - behind) / (2 * step) - bent), jnp.linalg.norm(bent)

        off, bend = jax.lax.map(mismatch, directions)
        return functions.value(theta, data), functions.gradient(theta, data), jnp.max(off), jnp.max(bend)

    return jax.jit(jax.vmap(one, (0, 0, None)))
