"""Training: one seed's step and loop, then jit(vmap) over the seeds of a block.

Written for one seed (`_Seed`), batched in one visible place (`compile_program`). A block is `width` seeds in one vmap
on one device. A seed's numbers depend on its id, the spec and the block width, never on its company: lanes do not mix,
and the param count fixes the width. Nor do they depend on the number of devices: each runs the same program on blocks
of its own. (One program partitioned over a mesh gives other last bits on two devices than on one: the compiler takes
another path as soon as there is more than one partition.)
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, Shaped, UInt32

from wspace import objective, tree
from wspace.data import Dataset
from wspace.errors import PlatformError, SpecError
from wspace.models import Network, from_spec
from wspace.objective import LossKind
from wspace.spec import ScheduleSpec, Spec
from wspace.tree import Params

Device = Any  # jax.Device: jaxlib ships no types

INIT, ORDER = 0, 1  # streams below the root key
MEMORY_BYTES = 2 * 2**30  # state of an accelerator's block
MAX_WIDTH = {"cpu": 32, "accelerator": 1024}


class Hypers(NamedTuple):
    """The numbers of a spec that are arguments of the compiled program: sweeping them does not recompile."""

    learning_rate: Any
    momentum: Any
    beta1: Any
    beta2: Any
    epsilon: Any
    weight_decay: Any
    l2: Any
    init_scale: Any


class State(NamedTuple):
    """Everything that training carries from step to step; stacked over seeds in the engine.

    Attributes:
        params: the network's params.
        opt_state: optax's state.
        diverged_at: first step whose loss was not finite, or first checkpoint at which params, a metric or the
            optimizer's state were not; -1 while there is none.
    """

    params: Params
    opt_state: Any
    diverged_at: Int[Array, "*seed"]


class Arrays(NamedTuple):
    """A dataset on a device."""

    x_train: Float[Array, "train feature"]
    y_train: Shaped[Array, "train ..."]
    x_test: Float[Array, "test feature"]
    y_test: Shaped[Array, "test ..."]

    @classmethod
    def of(cls, data: Dataset) -> "Arrays":
        """A dataset's arrays, on JAX's default device."""
        return cls(*map(jnp.asarray, (data.x_train, data.y_train, data.x_test, data.y_test)))


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The part of a spec that decides the compiled program; equal recipes share one compilation."""

    model: Network
    loss_kind: LossKind
    task: Literal["classification", "regression"]
    optimizer: str
    schedule: ScheduleSpec
    num_steps: int
    num_train: int
    batch_size: int
    shared_order: bool
    precision: str
    chunk: int


class Program(NamedTuple):
    """The jitted functions of a recipe for one block; stacked arguments have a leading axis of `width` seeds.

    They run where their arguments lie, so that every device runs one and the same program.

    Attributes:
        init: (root key, init seeds, hypers) -> State at step 0.
        advance: (State, root key, order seeds, start, stop, arrays, hypers) -> State at step `stop`; State is donated.
        measure: (State, step, arrays, hypers) -> (theta, metrics, diverged_at).
    """

    init: Callable
    advance: Callable
    measure: Callable


class Plan(NamedTuple):
    """A spec made ready for its data: what to compile and what to feed it."""

    recipe: Recipe
    hypers: Hypers
    layout: tree.Layout
    width: int


def plan(spec: Spec, data: Dataset, platform: str, width: int = 0) -> Plan:
    """Check a spec against its data and choose the block width.

    Args:
        spec: the experiment.
        data: its dataset.
        platform: of the devices: cpu, gpu, ...
        width: recorded block width of a run that is resumed; 0: the spec's, or chosen.

    Raises:
        SpecError: the loss does not fit the task, a batch is larger than the train set, or nothing would vary.
    """
    num_train = len(data.x_train)
    loss_kind = spec.objective.loss
    if loss_kind == "auto":
        loss_kind = "cross_entropy" if data.task == "classification" else "squared_error"
    if loss_kind == "cross_entropy" and data.task == "regression":
        raise SpecError(
            f"objective.loss = 'cross_entropy' needs class labels, but {data.name} is a regression: use 'squared_error'"
        )
    if spec.train.batch_size > num_train:
        raise SpecError(
            f"train.batch_size = {spec.train.batch_size} is larger than the train set of {data.name}: "
            f"{num_train} examples; 0 means full batch"
        )
    if spec.seeds.vary == "order" and spec.train.batch_size in (0, num_train):
        raise SpecError(
            f"seeds.vary = 'order' with train.batch_size = {spec.train.batch_size}, all {num_train} examples: nothing "
            "would differ between seeds; smaller batches, or vary = 'init' or 'both', are expected"
        )
    model = from_spec(spec.model, data.input_shape, data.num_outputs)
    params = jax.eval_shape(model.init, jax.random.key(0))
    layout = tree.Layout.of(params)
    batch_size = spec.train.batch_size or num_train
    values = batch_size * objective.values_per_example(model, params, (data.num_features,))
    width = width or spec.engine.block_width or block_width(layout.size, platform, values)
    recipe = Recipe(
        model=model,
        loss_kind=loss_kind,
        task=data.task,
        optimizer=spec.optimizer.name,
        schedule=spec.schedule,
        num_steps=spec.train.num_steps,
        num_train=num_train,
        batch_size=batch_size,
        shared_order=spec.seeds.vary == "init",
        precision=spec.engine.precision,
        chunk=objective.chunk_examples(model, params, data.x_train.shape, width),
    )
    o = spec.optimizer
    hypers = Hypers(
        learning_rate=o.learning_rate,
        momentum=o.momentum,
        beta1=o.beta1,
        beta2=o.beta2,
        epsilon=o.epsilon,
        weight_decay=o.weight_decay,
        l2=spec.objective.l2,
        init_scale=spec.model.init_scale,
    )
    return Plan(recipe, Hypers(*(np.float32(value) for value in hypers)), layout, width)


def block_width(num_params: int, platform: str, num_values: int = 0) -> int:
    """Seeds in one vmap: the largest power of two that is at most 2000 / sqrt(P) on a CPU, and MAX_WIDTH.

    Wide blocks spread the cost of a step's many small operations, narrow ones keep the seeds' state in the cache; the
    rule holds the fastest width of the four networks of runs/benchmarks. On accelerators the width is what MEMORY_BYTES
    holds; a seed is counted as four float32 vectors of P params (params, gradient, two moments) and three of
    `num_values`, the inputs and activations of a batch (forward, backward, and what the compiler keeps between).
    """
    if platform == "cpu":
        fitting, most = int(2000 / num_params**0.5), MAX_WIDTH["cpu"]
    else:
        fitting, most = MEMORY_BYTES // (16 * num_params + 12 * num_values), MAX_WIDTH["accelerator"]
    return min(most, 1 << (max(1, fitting).bit_length() - 1))


def choose_devices(num: int | None = None) -> list[Device]:
    """The first `num` devices of JAX's default platform, or all.

    Raises:
        PlatformError: there are fewer.
    """
    devices = jax.devices()
    if num is not None and not 1 <= num <= len(devices):
        raise PlatformError(
            f"{num} devices were asked for, JAX sees {len(devices)} ({devices[0].platform}); on a CPU the command line "
            "makes one device per core unless --devices says otherwise"
        )
    return devices[:num]


def stream_seeds(spec: Spec, seeds: Sequence[int], step: int = 0) -> tuple[UInt32[np.ndarray, "seed"], np.ndarray]:
    """Which seed each replica draws its init and its order of examples from, from `step` on.

    Returns:
        (init seeds, order seeds), each (seed,) uint32; vary = init shares the order of `seeds.parent`, vary = order its
        init and, before `seeds.fork_step`, its order.
    """
    own, s = np.asarray(seeds, np.uint32), spec.seeds
    parent = np.full_like(own, s.parent)
    init = parent if s.vary == "order" else own
    order = parent if s.vary == "init" or step < s.fork_step else own
    return init, order


def root_key(spec: Spec) -> PRNGKeyArray:
    """The key that all of an experiment's randomness is folded from (threefry, whatever JAX's default is)."""
    return jax.random.key(np.uint32(spec.seeds.root), impl="threefry2x32")


def make_optimizer(name: str, schedule: ScheduleSpec, num_steps: int, hypers: Hypers) -> optax.GradientTransformation:
    """The update rule; `hypers` may be traced.

    With g the gradient of the objective, eta(t) = learning_rate * schedule(t) and lambda the decoupled decay:
    sgd: theta -= eta (g + lambda theta); momentum: v = mu v + g, theta -= eta (v + lambda theta); adam: Kingma & Ba
    2015 (1412.6980); adamw: Loshchilov & Hutter 2019 (1711.05101).
    """
    factor = make_schedule(schedule, num_steps)
    rate = optax.scale_by_learning_rate(lambda step: hypers.learning_rate * factor(step))
    adam = optax.scale_by_adam(b1=hypers.beta1, b2=hypers.beta2, eps=hypers.epsilon)
    decay = optax.add_decayed_weights(hypers.weight_decay)
    parts = {
        "sgd": (decay, rate),
        "momentum": (optax.trace(decay=hypers.momentum), decay, rate),
        "adam": (adam, rate),
        "adamw": (adam, decay, rate),
    }
    return optax.chain(*parts[name])


def make_schedule(schedule: ScheduleSpec, num_steps: int) -> optax.Schedule:
    """The learning rate's factor as a function of the step t, T = num_steps, f = final_fraction, w = warmup_steps.

    constant: 1. cosine: f + (1-f)(1 + cos(pi t/T))/2. warmup_cosine: t/w up to w, then the cosine over the T-w steps
    left. step: factor^(number of boundaries <= t).
    """
    if schedule.kind == "constant":
        return optax.constant_schedule(1.0)
    if schedule.kind == "step":
        return optax.piecewise_constant_schedule(1.0, dict.fromkeys(schedule.boundaries, schedule.factor))
    cosine = optax.cosine_decay_schedule(1.0, num_steps - schedule.warmup_steps, schedule.final_fraction)
    if schedule.warmup_steps == 0:
        return cosine
    warmup = optax.linear_schedule(0.0, 1.0, schedule.warmup_steps)
    return optax.join_schedules([warmup, cosine], [schedule.warmup_steps])


class _Seed:
    """One seed's program, as pure functions of a recipe."""

    def __init__(self, recipe: Recipe):
        self.recipe = recipe

    def init(self, root: PRNGKeyArray, seed: UInt32[Array, ""], hypers: Hypers) -> State:
        key = jax.random.fold_in(jax.random.fold_in(root, INIT), seed)
        params = self.recipe.model.init(key, hypers.init_scale)
        return State(params, self._optimizer(hypers).init(params), jnp.int32(-1))

    def advance(
        self,
        state: State,
        root: PRNGKeyArray,
        seed: UInt32[Array, ""],
        start: Int[Array, ""],
        stop: Int[Array, ""],
        arrays: Arrays,
        hypers: Hypers,
    ) -> State:
        """Steps start .. stop-1. The bounds are traced: one compilation serves every checkpoint schedule."""
        recipe, optimizer = self.recipe, self._optimizer(hypers)
        batches = recipe.num_train // recipe.batch_size
        key = jax.random.fold_in(jax.random.fold_in(root, ORDER), seed)

        def step(index, carry: State, order):
            if order is None:
                x, y = arrays.x_train, arrays.y_train
            else:
                first = (index % batches) * recipe.batch_size
                batch = jax.lax.dynamic_slice_in_dim(order, first, recipe.batch_size)
                x, y = arrays.x_train[batch], arrays.y_train[batch]
            loss, grad = objective.loss_and_gradient(recipe.model, recipe.loss_kind, carry.params, x, y, hypers.l2)
            updates, opt_state = optimizer.update(grad, carry.opt_state, carry.params)
            params = optax.apply_updates(carry.params, updates)
            return State(params, opt_state, _first_failure(carry.diverged_at, jnp.isfinite(loss), index))

        def epoch(number, carry: State):
            order = None
            if recipe.batch_size < recipe.num_train:
                order = _shuffle(jax.random.fold_in(key, number), recipe.num_train)
            first = jnp.maximum(start, number * batches)
            last = number * batches + jnp.minimum(stop - number * batches, batches)  # in this order it cannot overflow
            return jax.lax.fori_loop(first, last, lambda i, c: step(i, c, order), carry)

        return jax.lax.fori_loop(start // batches, -(-stop // batches), epoch, state)

    def measure(self, state: State, step: Int[Array, ""], arrays: Arrays, hypers: Hypers):
        recipe = self.recipe
        train, test = (arrays.x_train, arrays.y_train), (arrays.x_test, arrays.y_test)
        args = (recipe.model, recipe.loss_kind, recipe.task, state.params, train, test, hypers.l2, recipe.chunk)
        metrics = objective.measure(*args)
        theta = tree.ravel(state.params)
        # An optimizer whose moments overflowed moves no more, at params and losses that are finite, and looks trained.
        floats = [leaf for leaf in jax.tree.leaves(state.opt_state) if jnp.issubdtype(leaf.dtype, jnp.floating)]
        every = jnp.stack([jnp.all(jnp.isfinite(a)) for a in (theta, *metrics.values(), *floats)])
        return theta, metrics, _first_failure(state.diverged_at, jnp.all(every), step)

    def _optimizer(self, hypers: Hypers) -> optax.GradientTransformation:
        return make_optimizer(self.recipe.optimizer, self.recipe.schedule, self.recipe.num_steps, hypers)


@functools.lru_cache(maxsize=16)
def compile_program(recipe: Recipe) -> Program:
    """jit(vmap) over the seeds of a block: the only place where seeds are batched."""
    one = _Seed(recipe)
    order = None if recipe.shared_order else 0

    def batch(function: Callable, axes: tuple[int | None, ...], donate: tuple[int, ...] = ()) -> Callable:
        compiled = jax.jit(jax.vmap(function, in_axes=axes), donate_argnums=donate)

        @functools.wraps(function)
        def scoped(*args):
            with numerics(recipe.precision):
                return compiled(*args)

        return scoped

    return Program(
        init=batch(one.init, (None, 0, None)),
        advance=batch(one.advance, (0, None, order, None, None, None, None), donate=(0,)),
        measure=batch(one.measure, (0, None, None, None)),
    )


@contextlib.contextmanager
def numerics(precision: str) -> Iterator[None]:
    """The settings of JAX that decide numbers, whatever a caller has set: float32, partitionable threefry, precision."""
    with jax.enable_x64(False), jax.threefry_partitionable(True), jax.default_matmul_precision(precision):
        yield


def _shuffle(key: PRNGKeyArray, num: int) -> Int[Array, "example"]:
    """A random permutation of 0 .. num-1, by sorting words of random high bits over the position in the low bits.

    A sort of single words is five times as fast as one of (draw, position) pairs, which took a third of a small
    network's step. Where a word has too few random bits, sorting again (stably, by construction) adds more: at most one
    pair of examples is expected to draw equal bits in all rounds, and to keep its order.
    """
    low = max(1, (num - 1).bit_length())
    mask, positions = jnp.uint32(2**low - 1), jnp.arange(num, dtype=jnp.uint32)
    order = positions
    for round_key in jax.random.split(key, -(-(2 * low - 1) // (32 - low))):
        draws = jax.random.bits(round_key, (num,), jnp.uint32) & ~mask
        order = order[jnp.sort(draws | positions) & mask]
    return order.astype(jnp.int32)


def _first_failure(known: Array, finite: Array, step: Array) -> Array:
    return jnp.where((known < 0) & ~finite, step, known).astype(jnp.int32)
