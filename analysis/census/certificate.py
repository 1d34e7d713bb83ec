"""What a polished endpoint is, by its gradient and its Hessian: a strict or a degenerate minimum, a saddle, or unknown."""

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

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
FLAT = 1e-7  # of the largest |eigenvalue|: smaller ones count as 0
STEP = 1e-6  # of max(1, |theta|): a longer Newton step means that no stationary point has been reached
KINK, KINK_STEP, KINK_DIRECTIONS = 1e-5, 1e-6, 4
PROBES, PROBE_STEPS = 16, (1e-3, 1e-2)  # directions within the flat space, and how far along them, of max(1, |theta|)
INERT = 1e-3  # of the largest change of the outputs: flat directions below it do not change them
ROUNDING = 64 * np.finfo(float).eps


@dataclasses.dataclass(frozen=True)
class Certificates:
    """The evidence for every network, and the label that follows from it.

    Attributes:
        objective: of which function it is a stationary point, in words.
        labels: of LABELS, (network,).
        reasons: why it is not certified, or empty, (network,).
        values: the objective, (network,).
        gradients: length of its gradient, (network,).
        steps: length of the Newton step -H^+ g, without flat directions: how far the stationary point is; where only the
            ends of the spectrum are known, the bound |g| / |smallest eigenvalue|; (network,).
        smallest, largest: eigenvalues of the Hessian, (network,).
        residuals: how far off they may be: 0 for a whole spectrum, else Lanczos' residual, (network,).
        index: number of negative eigenvalues, -1 where only the ends are known, (network,).
        num_flat: number of eigenvalues that count as 0, likewise.
        flat_scale: how many of the flat directions are rescalings of units that leave the objective as it is, likewise.
        flat_shift: how many more shift all logits of an example alike, which a softmax does not see, likewise.
        flat_inert: how many more leave every output on these examples as it is, likewise.
        kinks: relative mismatch of the gradient's differences and the Hessian beyond rounding: large where there is no
            second derivative, (network,).
        drops: by how much the objective falls along flat directions beyond rounding, (network,).
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
    num_flat: Int[np.ndarray, "network"]
    flat_scale: Int[np.ndarray, "network"]
    flat_shift: Int[np.ndarray, "network"]
    flat_inert: Int[np.ndarray, "network"]
    kinks: Float[np.ndarray, "network"]
    drops: Float[np.ndarray, "network"]
    whole: Bool[np.ndarray, "network"]

    @property
    def minimum(self) -> Bool[np.ndarray, "network"]:
        """Which networks are certified minima, strict or degenerate."""
        return np.array([label in LABELS[:2] for label in self.labels], bool)

    @property
    def flat_other(self) -> Int[np.ndarray, "network"]:
        """Flat directions that none of these explains; -1 where only the ends of the spectrum are known."""
        return np.where(self.num_flat < 0, -1, self.num_flat - self.flat_scale - self.flat_shift - self.flat_inert)

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
    Degenerate minimum: stationary, no negative eigenvalue, some that count as 0, each explained (rescalings of units, shifts
    of all logits, directions that move no output), and nowhere in their space, as far as it was probed, does the objective
    fall. Where rescalings and shifts are all flat directions it is constant along them, and the minimum strict but for
    them; directions that move no output to first order are beyond what second derivatives can prove, which is why they are
    counted apart. A flat direction without such a reason, as that in which a saturated loss goes on falling for ever, leaves
    the network uncertified.

    Args:
        objective: which function; labels hold for this one only.
        params: stacked, leaves (network, ...), e.g. those of `polish`.
        symmetry: of the model, to explain flat directions; None explains none by it.
        rng: source of the probes.
        tolerance: of the gradient's length, where the objective is at most 1; of larger ones as many times as much.
        flat_tolerance: eigenvalues up to this times the largest |eigenvalue| count as 0.
        dense_params: networks with more params have only the ends of their spectrum computed, by Lanczos; one whose smallest
            eigenvalue counts as 0 is then not certified.
        tell: called with (networks done, networks).

    Raises:
        ValueError: a tolerance is not positive, or the params are not finite.
    """
    if not (tolerance > 0 and flat_tolerance > 0):
        raise ValueError(f"tolerance = {tolerance}, flat_tolerance = {flat_tolerance}: numbers above 0 are expected")
    population = Population.of(objective, params)
    num, size = population.theta.shape
    directions = rng.standard_normal((num, KINK_DIRECTIONS, size))
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    values, gradient, mismatch = population.map(population.program(_local), directions, values=8 * size)
    length = np.linalg.norm(gradient, axis=1)
    reach = np.maximum(1.0, np.linalg.norm(population.theta, axis=1))
    found = _Evidence(num)
    if size <= dense_params:
        width = max(1, min(num, 2**26 // size**2))
        for first in range(0, num, width):
            rows = np.arange(first, min(first + width, num))
            part = dataclasses.replace(population, theta=population.theta[rows])
            eigenvalues, columns = np.linalg.eigh(dense(part, np.arange(size)))
            for k, row in enumerate(rows.tolist()):
                one = dataclasses.replace(population, theta=population.theta[row : row + 1])
                found.spectrum(row, one, eigenvalues[k], columns[k], gradient[row], symmetry, flat_tolerance, rng)
            if tell is not None:
                tell(int(rows[-1]) + 1, num)
    else:
        ends = extremes(objective, params, 1, 1, rng=rng, tolerance=flat_tolerance / 4, tell=tell)
        found.ends(ends.values, ends.residuals, length)
    scale = np.maximum(np.abs(found.largest), np.abs(found.smallest))
    noise = ROUNDING * (1 + np.abs(values)) / (KINK_STEP * reach)  # of differences of gradients
    kinks = np.maximum(mismatch - noise, 0) / np.maximum(scale, np.finfo(float).tiny)
    labels, reasons = [], []
    for i in range(num):
        label, reason = _label(
            length[i] <= tolerance * max(1.0, abs(values[i])), found.steps[i] <= STEP * reach[i], kinks[i] <= KINK,
            found.residuals[i] <= flat_tolerance * scale[i], found, i, flat_tolerance * scale[i],
        )  # fmt: skip
        labels.append(label)
        reasons.append(reason)
    return Certificates(
        objective.name, tuple(labels), tuple(reasons), values, length, found.steps, found.smallest, found.largest,
        found.residuals, found.index, found.num_flat, found.flat_scale, found.flat_shift, found.flat_inert, kinks,
        found.drops, found.whole,
    )  # fmt: skip


def _label(small, near, smooth, known, found: "_Evidence", i: int, level: float) -> tuple[Label, str]:
    if not small:
        return "not converged", "no second derivative" if not smooth else "gradient"
    if not smooth:
        return "not converged", "no second derivative"
    if not known:
        return "not converged", "spectrum"
    if not near:
        return "not converged", "Newton step"
    if found.smallest[i] < -level or found.drops[i] > 0:
        return "saddle", ""
    if not found.whole[i] and found.smallest[i] <= level:
        return "not converged", "spectrum"
    if found.smallest[i] > level:
        return "strict minimum", ""
    explained = found.flat_scale[i] + found.flat_shift[i] + found.flat_inert[i] == found.num_flat[i]
    return ("degenerate minimum", "") if explained else ("not converged", "flat without reason")


class _Evidence:
    """What is known of each network's Hessian."""

    def __init__(self, num: int):
        self.smallest, self.largest, self.residuals, self.steps, self.drops = np.zeros((5, num))
        self.index, self.num_flat, self.flat_scale, self.flat_shift, self.flat_inert = np.full((5, num), -1)
        self.whole = np.zeros(num, bool)

    def ends(self, values: np.ndarray, residuals: np.ndarray, length: np.ndarray) -> None:
        """Only the largest and the smallest eigenvalue, by Lanczos."""
        self.largest, self.smallest = values[:, 0].copy(), values[:, -1].copy()
        self.residuals = residuals.max(axis=1)
        away = np.abs(self.smallest)
        self.steps = np.divide(length, away, out=np.full_like(length, np.inf), where=away > 0)

    def spectrum(self, row, one: Population, values, columns, gradient, symmetry, tolerance, rng) -> None:
        """All eigenvalues, ascending, and the eigenvectors as columns."""
        scale = np.abs(values).max()
        zero = np.abs(values) <= tolerance * scale
        along = columns.T @ gradient
        self.smallest[row], self.largest[row], self.whole[row] = values[0], values[-1], True
        self.steps[row] = np.linalg.norm(along[~zero] / values[~zero]) if not zero.all() else 0.0
        self.index[row], self.num_flat[row] = np.sum(values < -tolerance * scale), zero.sum()
        self.flat_scale[row] = self.flat_shift[row] = self.flat_inert[row] = 0
        if zero.any():
            space = columns[:, zero].T
            self.drops[row] = _drop(one, space, gradient, tolerance * scale, rng)
            if one.objective.l2 == 0 and symmetry is not None:
                self.flat_scale[row], space = _without(space, scale_tangents(symmetry, one.params(one.theta[0])))
            if len(space):
                self.flat_shift[row], self.flat_inert[row] = _explain(one, space, columns[:, -1])


def scale_tangents(symmetry: Symmetry, params: Params) -> Float[np.ndarray, "direction param"]:
    """Where one network goes as a unit's factor grows: what it receives as it is, what it sends with a minus sign.

    Along these directions, one for each unit with scale symmetry, the function stays the same to first order; along the
    orbit that they are tangent to, exactly.

    Args:
        symmetry: of the model.
        params: one network.
    """
    layout = Layout.of(params)
    theta = np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(params)])
    names = dict(zip(layout.names, range(len(layout.names)), strict=True))
    rows = []
    for units in symmetry.layers:
        for unit in range(units.num) if units.scale else ():
            weights = [np.zeros(shape) for shape in layout.shapes]
            for axis in units.axes:
                leaf = np.moveaxis(weights[names[axis.leaf]], axis.axis, 0)
                leaf[unit] += -1.0 if axis.sends else 1.0
            rows.append(theta * np.concatenate([leaf.ravel() for leaf in weights]))
    return np.array(rows).reshape(len(rows), layout.size)


def _without(space: np.ndarray, tangents: np.ndarray) -> tuple[int, np.ndarray]:
    """How many dimensions of an orthonormal space the tangents fill, and an orthonormal basis of the rest."""
    if len(tangents) == 0:
        return 0, space
    _, sizes, rows = np.linalg.svd(tangents, full_matrices=False)
    basis = rows[sizes > 1e-9 * max(sizes.max(), np.finfo(float).tiny)]
    left, cosines, _ = np.linalg.svd(space @ basis.T, full_matrices=True)
    inside = int(np.sum(cosines > 0.99))
    return inside, left.T[inside:] @ space


def _explain(one: Population, space: np.ndarray, top: np.ndarray) -> tuple[int, int]:
    """Dimensions of a flat space that shift all logits of an example alike, and that change no output at all."""
    padded = np.zeros((len(top), len(top)))
    padded[: len(space)] = space
    changes = one.map(one.program(_changes), np.stack([*padded, top])[None], values=0)[0]
    size = float(np.linalg.norm(changes[-1]))
    flat_changes = changes[: len(space)].reshape(len(space), -1)
    inert = _num_below(flat_changes, INERT * size)
    if one.objective.kind != "cross_entropy":
        return 0, inert
    relative = changes[: len(space)] - changes[: len(space)].mean(axis=-1, keepdims=True)
    return _num_below(relative.reshape(len(space), -1), INERT * size) - inert, inert


def _num_below(rows: np.ndarray, level: float) -> int:
    """Dimensions of the combinations of the rows that are no longer than the level."""
    sizes = np.linalg.svd(rows, compute_uv=False)
    return len(rows) - int(np.sum(sizes > level))


def _drop(one: Population, space: np.ndarray, gradient: np.ndarray, level: float, rng: np.random.Generator) -> float:
    """By how much the objective falls along flat directions, beyond what rounding and the tolerances allow."""
    mixed = rng.standard_normal((PROBES, len(space))) @ space
    directions = np.concatenate([space, mixed / np.linalg.norm(mixed, axis=1, keepdims=True)])
    directions = np.concatenate([directions, -directions])
    theta = one.theta[0]
    steps = np.array([0.0, *PROBE_STEPS]) * max(1.0, float(np.linalg.norm(theta)))
    places = (theta + steps[:, None, None] * directions).reshape(-1, len(theta))
    around = dataclasses.replace(one, theta=places)
    values = around.map(around.program(_values)).reshape(len(steps), -1)
    allowed = ROUNDING * abs(values[0, 0]) + steps * np.linalg.norm(gradient) + 0.5 * level * steps**2
    return max(0.0, float((values[0, 0] - values - allowed[:, None]).max()))


@cache_compiled
def _local(model: Model, kind: LossKind, layout: Layout, chunk: int) -> Callable:
    functions = flat(model, kind, layout, chunk)

    def one(theta, directions, data):
        step = KINK_STEP * jnp.maximum(1.0, jnp.linalg.norm(theta))

        def mismatch(v):
            ahead, behind = (functions.gradient(theta + sign * step * v, data) for sign in (1, -1))
            return jnp.linalg.norm((ahead - behind) / (2 * step) - functions.product(theta, v, data))

        gradient = functions.gradient(theta, data)
        return functions.value(theta, data), gradient, jnp.max(jax.lax.map(mismatch, directions))

    return jax.jit(jax.vmap(one, (0, 0, None)))


@cache_compiled
def _values(model: Model, kind: LossKind, layout: Layout, chunk: int) -> Callable:
    return jax.jit(jax.vmap(flat(model, kind, layout, chunk).value, (0, None)))


@cache_compiled
def _changes(model: Model, kind: LossKind, layout: Layout, chunk: int) -> Callable:
    outputs = flat(model, kind, layout, chunk).outputs

    def one(theta, directions, data):
        change = lambda v: jax.jvp(lambda t: outputs(t, data), (theta,), (v,))[1]  # noqa: E731
        changes = jax.lax.map(change, directions)
        return changes.reshape(len(directions), -1, changes.shape[-1])

    return jax.jit(jax.vmap(one, (0, 0, None)))
