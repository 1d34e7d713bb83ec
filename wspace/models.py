"""Networks as plain pytrees: a frozen record of the architecture with pure `init`, `apply`, `activations`.

A layer's params are a dict `{"weight": (fan_in, fan_out), "bias": (fan_out,)}`; column j of the weight holds what
unit j of the layer receives. A network's params are the tuple of its layers.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from wspace.spec import ModelSpec
from wspace.symmetry import Axis, Symmetry, Units
from wspace.tree import AnyArray, Params

Activation = Literal["relu", "tanh", "gelu", "identity"]
InitKind = Literal["he", "glorot", "lecun"]

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "gelu": jax.nn.gelu,
    "identity": lambda x: x,
}


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

    def activations(self, params: Params, x: Float[AnyArray, "*batch feature"]) -> tuple[Float[Array, "*batch _"], ...]:
        """What every layer hands on, outputs last."""
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


@dataclasses.dataclass(frozen=True)
class MLP:
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
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation = {self.activation!r} is not one of {list(ACTIVATIONS)}")

    def init(self, key: PRNGKeyArray, scale: float | Float[Array, ""] = 1.0) -> Params:
        """Gaussian weights of standard deviation `scale` x that of `init_kind`; zero biases; JAX's default float."""
        keys = jax.random.split(key, len(self.sizes) - 1)
        return tuple(
            self._init_layer(k, fan_in, fan_out, scale)
            for k, fan_in, fan_out in zip(keys, self.sizes, self.sizes[1:], strict=False)
        )

    def apply(self, params: Params, x: Float[AnyArray, "*batch feature"]) -> Float[Array, "*batch output"]:
        """Outputs for a batch of inputs."""
        return self.activations(params, x)[-1]

    def activations(self, params: Params, x: Float[AnyArray, "*batch feature"]) -> tuple[Float[Array, "*batch _"], ...]:
        """(h_1, .., h_{L-1}, outputs): one array per layer, the hidden ones after the non-linearity."""
        phi, h, layers = ACTIVATIONS[self.activation], jnp.asarray(x), []
        for i, layer in enumerate(params):
            h = self._affine(layer, h)
            if i < len(params) - 1:
                h = phi(h)
            layers.append(h)
        return tuple(layers)

    def first(self, params: Params, x: Float[AnyArray, "*batch feature"]) -> Float[Array, "*batch unit"]:
        """x W_1 + b_1."""
        return self._affine(params[0], jnp.asarray(x))

    def rest(self, params: Params, z: Float[AnyArray, "*batch unit"]) -> Float[Array, "*batch output"]:
        """Outputs from the first layer's pre-activations."""
        for layer in params[1:]:
            z = self._affine(layer, ACTIVATIONS[self.activation](jnp.asarray(z)))
        return jnp.asarray(z)

    @property
    def symmetry(self) -> Symmetry:
        """Permutations of every hidden layer's units; signs for tanh and identity, positive scales for relu and identity.

        Deep linear networks have more, any invertible matrix between two layers, which is not declared here.
        """
        sign, scale = self.activation in ("tanh", "identity"), self.activation in ("relu", "identity")
        layers = []
        for i, num in enumerate(self.sizes[1:-1]):
            receives = [Axis(f"{i}.weight", -1), *([Axis(f"{i}.bias", -1)] if self.bias else [])]
            layers.append(Units(num, (*receives, Axis(f"{i + 1}.weight", -2, sends=True)), sign, scale))
        return Symmetry(tuple(layers))

    def _affine(self, layer: dict[str, AnyArray], h: AnyArray) -> Array:
        z = jnp.asarray(h) @ layer["weight"]
        return z + layer["bias"] if self.bias else z

    def _init_layer(self, key: PRNGKeyArray, fan_in: int, fan_out: int, scale: float | Array) -> dict[str, Array]:
        variance = {"he": 2 / fan_in, "glorot": 2 / (fan_in + fan_out), "lecun": 1 / fan_in}[self.init_kind]
        weight = scale * variance**0.5 * jax.random.normal(key, (fan_in, fan_out))
        return {"weight": weight, "bias": jnp.zeros(fan_out, weight.dtype)} if self.bias else {"weight": weight}


def from_spec(spec: ModelSpec, num_features: int, num_outputs: int) -> MLP:
    """The model that a spec describes, for data of this many features and outputs."""
    return MLP((num_features, *spec.hidden, num_outputs), spec.activation, spec.bias, spec.init)
