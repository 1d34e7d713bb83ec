"""The function whose curvature is measured, as a function of theta, for whole populations, in float64."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from analysis.threads import in_threads
from wspace import objective as objectives
from wspace.cores import num_cores
from wspace.data import Dataset
from wspace.models import Model
from wspace.objective import LossKind
from wspace.tree import Layout, Params

Tell = Callable[[int, int], None]

BLOCK_VALUES = {"cpu": 2**19, "accelerator": 2**28}  # float64 values of a block of networks: 4 MB, 2 GB
LEAST_WIDTH, MAX_WIDTH = 8, 256  # of blocks of small networks


@dataclasses.dataclass(frozen=True, eq=False)
class Objective:
    """f(theta) = mean data loss over the train or the test examples + l2/2 |theta|^2.

    Attributes:
        model: hashable, with `apply(params, x)`.
        kind: the data loss.
        data: the examples, all of which count.
        split: which of them.
        l2: coefficient of the L2 term; 0 for the loss alone.

    Raises:
        ValueError: there are no such examples, or `l2` is negative or not finite.
    """

    model: Model
    kind: LossKind
    data: Dataset
    split: Literal["train", "test"] = "train"
    l2: float = 0.0

    def __post_init__(self):
        if self.split not in ("train", "test"):
            raise ValueError(f"split = {self.split!r}: 'train' or 'test' is expected")
        if len(self.examples[0]) == 0:
            raise ValueError(f"there are no {self.split} examples: the other split is expected")
        if not 0 <= self.l2 < math.inf:
            raise ValueError(f"l2 = {self.l2}: a finite number of at least 0 is expected")

    @property
    def examples(self) -> tuple[np.ndarray, np.ndarray]:
        """(x, y) of the split."""
        return getattr(self.data, f"x_{self.split}"), getattr(self.data, f"y_{self.split}")

    @property
    def name(self) -> str:
        """Which function it is, in words: every result carries them."""
        penalty = f" + {self.l2:g}/2 |theta|^2" if self.l2 else ", without L2 term"
        return f"mean {self.kind.replace('_', ' ')} over {len(self.examples[0])} {self.split} examples{penalty}"

    @property
    def scale(self) -> float:
        """The data loss of the best constant prediction, the natural unit of the objective; 1 where that is 0.

        Squared error: the scatter of the targets; cross entropy: the entropy of the classes' shares.
        """
        y = self.examples[1]
        if np.issubdtype(y.dtype, np.integer):
            shares = np.bincount(y) / len(y)
            kept = shares[shares > 0]
            entropy = self.kind == "cross_entropy"
            found = -np.sum(kept * np.log(kept)) if entropy else 1 - np.sum(np.square(shares))
        else:
            found = np.sum(np.var(np.asarray(y, np.float64), axis=0))
        return float(found) if found > 0 else 1.0

    def chunk(self, params: Params) -> int:
        """Examples at a time, so that activations and their derivatives fit into memory."""
        return objectives.chunk_examples(self.model, params, self.examples[0].shape, 4)


class Flat(NamedTuple):
    """f of one network's theta, its gradient and its Hessian times a vector: pure functions for a compiled program.

    Attributes:
        value: (theta, data) -> f.
        gradient: (theta, data) -> gradient f.
        hessian: (theta, data) -> (v -> H v), forward over reverse mode (Pearlmutter 1994, 10.1162/neco.1994.6.1.147).
        outputs: (theta, data) -> outputs of the model, all examples at once.
    """

    value: Callable
    gradient: Callable
    hessian: Callable
    outputs: Callable


class Placed(NamedTuple):
    """The examples on a device, and the coefficient of the L2 term."""

    x: Array
    y: Array
    l2: Array


def flat(model: Model, kind: LossKind, layout: Layout, chunk: int) -> Flat:
    """The objective of raveled params, exact on all examples, `chunk` of them at a time."""

    def total(theta, x, y, weight):
        return jnp.sum(weight * objectives.example_loss(kind, model.apply(layout.unravel(theta), x), y))

    def value(theta, data):
        summed = objectives.sum_chunks(lambda *part: total(theta, *part), data.x, data.y, chunk)
        return summed / len(data.x) + data.l2 / 2 * jnp.vdot(theta, theta)

    def gradient(theta, data):
        summed = objectives.sum_chunks(lambda *part: jax.grad(total)(theta, *part), data.x, data.y, chunk)
        return summed / len(data.x) + data.l2 * theta

    def hessian(theta, data):
        def product(v):
            part = lambda *part: jax.jvp(lambda t: jax.grad(total)(t, *part), (theta,), (v,))[1]  # noqa: E731
            return objectives.sum_chunks(part, data.x, data.y, chunk) / len(data.x) + data.l2 * v

        return product

    def outputs(theta, data):
        return model.apply(layout.unravel(theta), data.x)

    return Flat(value, gradient, hessian, outputs)


@dataclasses.dataclass(frozen=True, eq=False)
class Population:
    """Networks as rows of theta, and how to run a program on all of them.

    Attributes:
        objective: what is differentiated.
        theta: (network, param), float64.
        layout: of one network.
        batch: leading axes of the params, e.g. (seed,) or (seed, checkpoint); results have them in front.
    """

    objective: Objective
    theta: Float[np.ndarray, "network param"]
    layout: Layout
    batch: tuple[int, ...]

    @classmethod
    def of(cls, objective: Objective, params: Params, batch_ndim: int = 1) -> "Population":
        """Stacked params as a population.

        Args:
            objective: what is differentiated.
            params: leaves batch + shape.
            batch_ndim: number of leading axes; 0 for one network.

        Raises:
            ValueError: there are no networks, a leaf lacks the axes or is not made of real numbers, or a value is not
                finite.
        """
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(params)]
        if not leaves or any(leaf.ndim < batch_ndim for leaf in leaves):
            raise ValueError(f"leaves of shapes {[leaf.shape for leaf in leaves]} lack {batch_ndim} leading axes")
        batch = leaves[0].shape[:batch_ndim]
        if any(leaf.shape[:batch_ndim] != batch for leaf in leaves) or 0 in batch:
            raise ValueError(
                f"leaves of shapes {[leaf.shape for leaf in leaves]}: the same {batch_ndim} leading axes, at least one "
                "network long, are expected"
            )
        if bad := [str(leaf.dtype) for leaf in leaves if not np.issubdtype(leaf.dtype, np.floating)]:
            raise ValueError(f"params of dtype {', '.join(sorted(set(bad)))}: floats are expected")
        theta = np.concatenate([leaf.reshape(*batch, -1) for leaf in leaves], axis=-1, dtype=np.float64)
        if not np.all(np.isfinite(theta)):
            raise ValueError("params are not finite: a diverged network has no curvature, leave it out")
        one = jax.tree.map(lambda leaf: np.asarray(leaf)[(0,) * batch_ndim], params)
        return cls(objective, theta.reshape(-1, theta.shape[-1]), Layout.of(one), batch)

    def params(self, rows: Float[np.ndarray, "... param"]) -> Params:
        """Params from raveled ones."""
        return self.layout.unravel(rows)

    def program(self, make: Callable[..., Callable], *static: Any) -> Callable:
        """make(model, kind, layout, chunk, *static), compiled once for equal arguments where the model is hashable."""
        chunk = self.objective.chunk(self.layout.unravel(self.theta[0]))
        return make(self.objective.model, self.objective.kind, self.layout, chunk, *static)

    def map(
        self, program: Callable, *inputs: Float[np.ndarray, "network ..."], values: int = 0, alone: bool = False,
        finish: Callable[[Any], Any] = lambda found: found, tell: Tell | None = None,
    ) -> Any:  # fmt: skip
        """program(theta, *inputs, data) of all networks, a pytree of NumPy arrays (network, ...).

        Blocks of networks pass through the compiled program, one thread a core; the last block is padded.

        Args:
            program: jitted and vmapped, the data shared.
            inputs: more arguments, one row a network.
            values: float64 values that the program keeps for each network besides activations; decides the width.
            alone: for programs that hold batches of LAPACK calls: on CPUs these share one pool of threads, in which two
                programs at once wait for each other for ever (seen with jaxlib 0.10.1).
            finish: NumPy's share of the work on what a block gave.
            tell: called with (networks done, networks).
        """
        num, width = len(self.theta), self._width(values, alone)
        rows = np.minimum(np.arange(-(-num // width) * width), num - 1).reshape(-1, width)
        done = 0

        def work(block):
            nonlocal done
            with jax.enable_x64(True):
                found = program(*(np.asarray(a)[block] for a in (self.theta, *inputs)), placed)
            found = finish(jax.tree.map(np.asarray, found))
            if tell is not None:
                done = min(num, done + width)
                tell(done, num)
            return found

        with jax.enable_x64(True):
            x, y = (
                jnp.asarray(a, float if np.issubdtype(a.dtype, np.floating) else None) for a in self.objective.examples
            )
            placed = Placed(x, y, jnp.asarray(self.objective.l2, float))
        together = jax.default_backend() == "cpu" and not alone
        parts = in_threads(work, rows, min(len(rows), num_cores()) if together else 1)
        return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:num], *parts)

    def shaped(self, values: np.ndarray) -> np.ndarray:
        """(network, ...) -> batch + (...)."""
        return values.reshape((*self.batch, *values.shape[1:]))

    def _width(self, values: int, alone: bool) -> int:
        cpu = jax.default_backend() == "cpu"
        params = self.layout.unravel(self.theta[0])
        features = self.objective.examples[0].shape[1:]
        held = objectives.values_per_example(self.objective.model, params, features)
        each = self.objective.chunk(params) * held + values + self.layout.size
        fitting = BLOCK_VALUES["cpu" if cpu else "accelerator"] // each
        even = -(-len(self.theta) // num_cores()) if cpu and not alone else len(self.theta)
        wanted = max(LEAST_WIDTH, 1 << (even - 1).bit_length())  # few widths: each is a compilation
        most = min(wanted, MAX_WIDTH) if cpu else wanted
        return int(max(1, min(most, 1 << (max(1, fitting).bit_length() - 1))))
