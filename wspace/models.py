"""Networks as plain pytrees: a frozen record of the architecture with pure `init`, `apply`, `activations`.

A layer's params are a dict `{"weight": (..., sender, unit), "bias": (unit,)}`; the last axis of the weight runs over the
layer's units, the one before it over the units of the layer below. A network's params are the tuple of its layers.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from wspace.errors import SpecError
from wspace.spec import ModelSpec
from wspace.symmetry import Axis, Symmetry, Units
from wspace.tree import AnyArray, Params

Activation = Literal["relu", "tanh", "gelu", "identity"]
InitKind = Literal["he", "glorot", "lecun"]
Pooling = Literal["max", "mean"]

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "gelu": jax.nn.gelu,
    "identity": lambda x: x,
}
ODD, HOMOGENEOUS = ("tanh", "identity"), ("relu", "identity")  # phi(-z) = -phi(z); phi(s z) = s phi(z) for s > 0


@runtime_checkable
class Model(Protocol):
    """All that an analysis of losses needs of a network: bring your own by providing `apply`."""

    def apply(self, params: Params, x: Float[AnyArray, "*batch feature"]) -> Float[Array, "*batch output"]:
        """Outputs (logits or predictions) of one network for a batch of inputs."""
        ...


@runtime_checkable
class Network(Model, Protocol):
    """What training, and the analyses of layers and units, need as well."""

    def init(self, key: PRNGKeyArray, scale: float | Float[Array, ""] = 1.0) -> Params:
        """Draw params."""
        ...

    def activations(self, params: Params, x: Float[AnyArray, "*batch feature"]) -> tuple[Float[Array, "..."], ...]:
        """What every layer hands on, outputs last: (*batch, unit), or (*batch, height, width, unit)."""
        ...


@runtime_checkable
class Layered(Network, Protocol):
    """What analyses of single units need: the layers one by one.

    z_l = receive(l, h_{l-1}) = incoming(l, h_{l-1}) W_l + b_l, h_l = hand_on(l, z_l) = pool(l, phi(z_l)), beginning with x
    in the place of h_{-1}; W_l is the weight as a matrix, (fan_in, unit).
    """

    @property
    def num_layers(self) -> int:
        """Layers with params, the outputs included."""
        ...

    def incoming(self, layer: int, h: Float[AnyArray, "..."]) -> Float[Array, "..."]:
        """What the weights of each of a layer's units multiply, of what the layer below hands on: (..., fan_in)."""
        ...

    def receive(self, params: Params, layer: int, h: Float[AnyArray, "..."]) -> Float[Array, "..."]:
        """What a layer's units receive from what the layer below hands on: affine in h, and in the params."""
        ...

    def hand_on(self, layer: int, z: Float[AnyArray, "..."]) -> Float[Array, "..."]:
        """What a layer hands on of what its units receive: non-linearity and pooling; of the outputs all."""
        ...

    def phi(self, z: Float[AnyArray, "..."]) -> Float[Array, "..."]:
        """The non-linearity of hidden layers."""
        ...

    def pool(self, layer: int, h: Float[AnyArray, "..."]) -> Float[Array, "..."]:
        """The pooling of a layer alone; where there is none, h."""
        ...

    def rest(self, params: Params, z: Float[AnyArray, "..."], layer: int = 0) -> Float[Array, "*batch output"]:
        """Outputs from what a layer's units receive."""
        ...


@runtime_checkable
class Split(Model, Protocol):
    """A network whose first layer is linear in the params: apply(params, x) = rest(params, first(params, x)).

    On a plane of weight space the first layer's outputs are then linear in the coordinates as well, and need not be
    computed anew at every point.
    """

    def first(self, params: Params, x: Float[AnyArray, "*batch feature"]) -> Float[Array, "*batch unit"]:
        """What the first layer's units receive, before any non-linearity: linear in the params, all others unused."""
        ...

    def rest(self, params: Params, z: Float[AnyArray, "*batch unit"]) -> Float[Array, "*batch output"]:
        """Outputs from what the first layer's units receive; the first layer's params are unused."""
        ...


@runtime_checkable
class Symmetric(Network, Protocol):
    """What alignment needs: a network that declares which changes of its params leave its function unchanged."""

    @property
    def symmetry(self) -> Symmetry:
        """The group: one set of units for each of `activations` but the last."""
        ...


class _Layers(Layered, Protocol):
    """A network told by its layers: all else follows from `num_layers`, `incoming`, `pool` and the activation."""

    activation: Activation

    def apply(self, params: Params, x: Float[AnyArray, "*batch feature"]) -> Float[Array, "*batch output"]:
        """Outputs for a batch of inputs."""
        return self.activations(params, x)[-1]

    def receive(self, params: Params, layer: int, h: Float[AnyArray, "..."]) -> Float[Array, "..."]:
        """incoming(l, h) W_l + b_l."""
        own = params[layer]
        z = self.incoming(layer, h) @ as_matrix(own["weight"])
        return z + own["bias"] if "bias" in own else z

    def hand_on(self, layer: int, z: Float[AnyArray, "..."]) -> Float[Array, "..."]:
        """pool(phi(z)); of the outputs z."""
        if layer == self.num_layers - 1:
            return jnp.asarray(z)
        return self.pool(layer, self.phi(z))

    def phi(self, z: Float[AnyArray, "..."]) -> Float[Array, "..."]:
        """The activation that the network is named for."""
        return ACTIVATIONS[self.activation](jnp.asarray(z))

    def activations(self, params: Params, x: Float[AnyArray, "*batch feature"]) -> tuple[Float[Array, "..."], ...]:
        """(h_1, .., h_{L-1}, outputs): what each layer hands on."""
        return self._from(params, 0, self.receive(params, 0, x))

    def first(self, params: Params, x: Float[AnyArray, "*batch feature"]) -> Float[Array, "..."]:
        """What the first layer's units receive."""
        return self.receive(params, 0, x)

    def rest(self, params: Params, z: Float[AnyArray, "..."], layer: int = 0) -> Float[Array, "*batch output"]:
        """Outputs from what a layer's units receive."""
        return self._from(params, layer, z)[-1]

    def _from(self, params: Params, layer: int, z: AnyArray) -> tuple[Array, ...]:
        """What each layer from this one on hands on."""
        found = [self.hand_on(layer, z)]
        for above in range(layer + 1, self.num_layers):
            found.append(self.hand_on(above, self.receive(params, above, found[-1])))
        return tuple(found)


@dataclasses.dataclass(frozen=True)
class MLP(_Layers):
    """Fully connected network: h_0 = x, h_l = phi(h_{l-1} W_l + b_l), outputs = h_{L-1} W_L + b_L.

    Attributes:
        sizes: units of every layer, inputs first and outputs last; at least two.
        activation: phi of the hidden layers: relu, tanh, gelu (tanh form) or identity (a deep linear network).
        bias: whether layers add b_l.
        init_kind: standard deviation of W_l: he sqrt(2/fan_in) (He et al. 2015, 1502.01852), glorot
            sqrt(2/(fan_in+fan_out)) (Glorot & Bengio 2010), lecun sqrt(1/fan_in) (LeCun et al. 1998).
    """

    sizes: tuple[int, ...]
    activation: Activation = "relu"
    bias: bool = True
    init_kind: InitKind = "he"

    def __post_init__(self):
        if len(self.sizes) < 2 or min(self.sizes) < 1:
            raise ValueError(f"sizes = {self.sizes}: at least inputs and outputs, each of 1 or more, are expected")
        _check_activation(self.activation)

    @property
    def num_layers(self) -> int:
        """Layers with params, the outputs included."""
        return len(self.sizes) - 1

    @property
    def outline(self) -> str:
        """Units of every layer, for people: 64 → 32 → 10."""
        return " → ".join(map(str, self.sizes))

    def init(self, key: PRNGKeyArray, scale: float | Float[Array, ""] = 1.0) -> Params:
        """Gaussian weights of standard deviation `scale` x that of `init_kind`; zero biases; JAX's default float."""
        keys = jax.random.split(key, self.num_layers)
        shapes = zip(self.sizes, self.sizes[1:], strict=False)
        return tuple(
            _init_layer(k, shape, scale, self.init_kind, self.bias) for k, shape in zip(keys, shapes, strict=True)
        )

    def incoming(self, layer: int, h: Float[AnyArray, "..."]) -> Float[Array, "..."]:
        """h."""
        return jnp.asarray(h)

    def pool(self, layer: int, h: Float[AnyArray, "..."]) -> Float[Array, "..."]:
        """h."""
        return jnp.asarray(h)

    @property
    def symmetry(self) -> Symmetry:
        """Permutations of every hidden layer's units; signs for tanh and identity, positive scales for relu and identity.

        Deep linear networks have more, any invertible matrix between two layers, which is not declared here.
        """
        sign, scale = self.activation in ODD, self.activation in HOMOGENEOUS
        return Symmetry(tuple(_units(i, num, self.bias, sign, scale) for i, num in enumerate(self.sizes[1:-1])))


@dataclasses.dataclass(frozen=True)
class ConvNet(_Layers):
    """Convolutional network: blocks of convolution, phi and pooling, then dense layers; the outputs are linear.

    A block maps (height, width, sender) to (height // pool_size, width // pool_size, unit): convolution (in truth
    correlation, as everywhere) with kernels of kernel x kernel, stride 1, zeros around the edges so that height and width
    stay, phi, and the maximum or mean of windows of pool_size x pool_size; rows and columns that do not fill a window are
    left out. Its weight is (kernel, kernel, sender, unit). The first dense layer sees every channel at every position that
    is left: its weight is (position, channel, unit), positions row by row. LeCun et al. 1998 (10.1109/5.726791).

    Attributes:
        shape: height, width and channels of an input, which is given flat, in this order.
        channels: units of each block; at least one.
        hidden: units of the dense layers before the outputs.
        num_outputs: outputs.
        kernel: height and width of the kernels.
        pool_size: height and width of a window; 1: no pooling.
        pooling: max or mean.
        activation, bias, init_kind: as in `MLP`; a convolution has fan_in = kernel^2 senders, fan_out = kernel^2 units.
    """

    shape: tuple[int, int, int]
    channels: tuple[int, ...]
    hidden: tuple[int, ...]
    num_outputs: int
    kernel: int = 3
    pool_size: int = 2
    pooling: Pooling = "max"
    activation: Activation = "relu"
    bias: bool = True
    init_kind: InitKind = "he"

    def __post_init__(self):
        sizes = (*self.shape, *self.channels, *self.hidden, self.num_outputs, self.kernel, self.pool_size)
        if len(self.shape) != 3 or not self.channels or min(sizes) < 1:
            raise ValueError(
                f"{self}: an input of (height, width, channels), a block, and sizes of 1 or more are expected"
            )
        if 0 in self._sides(len(self.channels)):
            raise ValueError(
                f"{len(self.channels)} times pooling of {self.pool_size} x {self.pool_size} leaves nothing of inputs of "
                f"{self.shape[0]} x {self.shape[1]}: fewer blocks, or smaller windows, are expected"
            )
        _check_activation(self.activation)

    @property
    def num_layers(self) -> int:
        """Layers with params, the outputs included."""
        return len(self.channels) + len(self.hidden) + 1

    @property
    def outline(self) -> str:
        """Sizes of every layer, for people: 8 × 8 × 1 → 8 of 3 × 3, max of 2 × 2 → 10."""
        size = lambda *sides: " × ".join(map(str, sides))  # noqa: E731
        pooled = f", {self.pooling} of {size(self.pool_size, self.pool_size)}" if self.pool_size > 1 else ""
        blocks = [f"{num} of {size(self.kernel, self.kernel)}{pooled}" for num in self.channels]
        return " → ".join([size(*self.shape), *blocks, *map(str, (*self.hidden, self.num_outputs))])

    def init(self, key: PRNGKeyArray, scale: float | Float[Array, ""] = 1.0) -> Params:
        """Gaussian weights of standard deviation `scale` x that of `init_kind`; zero biases; JAX's default float."""
        keys = jax.random.split(key, self.num_layers)
        senders, shapes = self.shape[-1], []
        for units in self.channels:
            shapes.append((self.kernel, self.kernel, senders, units))
            senders = units
        lead = (math.prod(self._sides(len(self.channels))),)
        for units in (*self.hidden, self.num_outputs):
            shapes.append((*lead, senders, units))
            lead, senders = (), units
        return tuple(
            _init_layer(k, shape, scale, self.init_kind, self.bias) for k, shape in zip(keys, shapes, strict=True)
        )

    def incoming(self, layer: int, h: Float[AnyArray, "..."]) -> Float[Array, "..."]:
        """Of a block the patches of h that its kernels see, of the first dense layer all of h in one row."""
        h, blocks = jnp.asarray(h), len(self.channels)
        if layer == 0:
            h = h.reshape(*h.shape[:-1], *self.shape)
        if layer < blocks:
            # Products of patches with kernels, because kernels are batched over seeds: XLA's own convolution takes five to
            # thirteen times as long then on a CPU.
            return patches(h, self.kernel)
        return h.reshape(*h.shape[:-3], -1) if layer == blocks else h

    def pool(self, layer: int, h: Float[AnyArray, "..."]) -> Float[Array, "..."]:
        """Maximum or mean of every window of a block; elsewhere h."""
        h = jnp.asarray(h)
        if layer >= len(self.channels) or self.pool_size == 1:
            return h
        reduce = jnp.max if self.pooling == "max" else jnp.mean
        return reduce(windows(h, self.pool_size), axis=-2)

    @property
    def num_values(self) -> int:
        """Floats that are held for one example: the input, what every layer receives and hands on, and a block's patches."""
        total, senders = math.prod(self.shape), self.shape[-1]
        for block, units in enumerate(self.channels):
            positions, left = math.prod(self._sides(block)), math.prod(self._sides(block + 1))
            total += positions * (self.kernel**2 * senders + units) + left * units
            senders = units
        return total + sum(self.hidden) + self.num_outputs

    @property
    def symmetry(self) -> Symmetry:
        """Permutations of every block's channels and every dense layer's units; signs and scales as those of `MLP`.

        A maximum keeps positive scales and not signs.
        """
        scale = self.activation in HOMOGENEOUS
        layers = []
        for i, num in enumerate((*self.channels, *self.hidden)):
            maximum = i < len(self.channels) and self.pool_size > 1 and self.pooling == "max"
            layers.append(_units(i, num, self.bias, self.activation in ODD and not maximum, scale))
        return Symmetry(tuple(layers))

    def _sides(self, blocks: int) -> tuple[int, int]:
        """Height and width of what this many blocks hand on."""
        height, width = self.shape[:2]
        return height // self.pool_size**blocks, width // self.pool_size**blocks


def patches(h: Float[Array, "*batch height width sender"], kernel: int) -> Float[Array, "*batch height width patch"]:
    """What a kernel sees at every position, row by row, senders innermost; zeros beyond the edges.

    The centre of an even kernel is its upper left one of four.
    """
    height, width = h.shape[-3:-1]
    before = (kernel - 1) // 2
    around = (before, kernel - 1 - before)
    h = jnp.pad(h, [(0, 0)] * (h.ndim - 3) + [around, around, (0, 0)])
    shifted = [h[..., i : i + height, j : j + width, :] for i in range(kernel) for j in range(kernel)]
    return jnp.concatenate(shifted, axis=-1)


def windows(h: Float[Array, "*batch height width unit"], pool: int) -> Float[Array, "*batch rows columns window unit"]:
    """Windows of pool x pool without overlap, row by row; what does not fill one is left out."""
    *batch, height, width, num = h.shape
    rows, columns = height // pool, width // pool
    cut = h[..., : rows * pool, : columns * pool, :].reshape(*batch, rows, pool, columns, pool, num)
    return jnp.moveaxis(cut, -4, -3).reshape(*batch, rows, columns, pool * pool, num)


def as_matrix(weight: Float[AnyArray, "*rest sender unit"]) -> Float[AnyArray, "fan_in unit"]:
    """A layer's weight as a matrix, one column a unit."""
    return weight.reshape(math.prod(weight.shape[:-1]), weight.shape[-1])


def from_spec(spec: ModelSpec, input_shape: tuple[int, ...], num_outputs: int) -> MLP | ConvNet:
    """The model that a spec describes, for inputs of this shape and this many outputs.

    Raises:
        SpecError: the inputs are no images, or too small for so much pooling.
    """
    if spec.kind == "mlp":
        return MLP((math.prod(input_shape), *spec.hidden, num_outputs), spec.activation, spec.bias, spec.init)
    if len(input_shape) not in (2, 3):
        raise SpecError(
            f"model.kind = 'convnet' needs inputs of (height, width) or (height, width, channels), those of the data have "
            f"the shape {tuple(input_shape)}: use model.kind = 'mlp'"
        )
    height, width, senders = (*input_shape, 1)[:3]
    try:
        return ConvNet(
            (height, width, senders), spec.channels, spec.hidden, num_outputs, spec.kernel, spec.pool_size, spec.pooling,
            spec.activation, spec.bias, spec.init,
        )  # fmt: skip
    except ValueError as error:
        raise SpecError(f"model: {error}") from error


def _check_activation(activation: str) -> None:
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation = {activation!r} is not one of {list(ACTIVATIONS)}")


def _init_layer(
    key: PRNGKeyArray, shape: tuple[int, ...], scale: float | Array, kind: InitKind, bias: bool
) -> dict[str, Array]:
    *lead, senders, units = shape
    kernel = math.prod(lead) if len(lead) == 2 else 1  # positions of a dense layer are senders of their own
    fan_in, fan_out = math.prod(lead) * senders, kernel * units
    variance = {"he": 2 / fan_in, "glorot": 2 / (fan_in + fan_out), "lecun": 1 / fan_in}[kind]
    weight = scale * variance**0.5 * jax.random.normal(key, shape)
    return {"weight": weight, "bias": jnp.zeros(units, weight.dtype)} if bias else {"weight": weight}


def _units(layer: int, num: int, bias: bool, sign: bool, scale: bool) -> Units:
    """A hidden layer's units: they receive on the last axis of their weight, and send on the last but one of the next."""
    receives = [Axis(f"{layer}.weight", -1), *([Axis(f"{layer}.bias", -1)] if bias else [])]
    return Units(num, (*receives, Axis(f"{layer + 1}.weight", -2, sends=True)), sign, scale)
