"""What a unit's incoming weights say: templates as images, and how inputs match them, by dot product and by angle.

A unit receives z = s . w + b: the dot product of its template w with what it sees, s; of a convolution, with each patch of
the input. s . w = |s| |w| cos: a large dot product can be a good match, a large input or a large template.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Float, Int

from analysis.statistics import spearman
from wspace.models import Layered, as_matrix
from wspace.objective import cache_compiled
from wspace.tree import AnyArray, Params

TINY = np.finfo(float).tiny


@dataclasses.dataclass(frozen=True)
class Matches:
    """How the inputs of one network match the templates of its first layer.

    Of a convolution each patch counts as an input, numbered example by example, positions row by row.

    Attributes:
        dot: s . w, (unit, input).
        cosine: s . w / (|s| |w|), in [-1, 1]; 0 where s or w is 0.
        activation: phi(s . w + b).
        input_norm: |s|, (input,).
        template_norm: |w|, (unit,).
    """

    dot: Float[np.ndarray, "unit input"]
    cosine: Float[np.ndarray, "unit input"]
    activation: Float[np.ndarray, "unit input"]
    input_norm: Float[np.ndarray, "input"]
    template_norm: Float[np.ndarray, "unit"]

    @property
    def told_by_dot(self) -> Float[np.ndarray, "unit"]:
        """Spearman's correlation over inputs of activation and dot product: 1 where phi grows; NaN for dead units."""
        return spearman(self.activation, self.dot)

    @property
    def told_by_cosine(self) -> Float[np.ndarray, "unit"]:
        """The same of activation and cosine: less than 1 as far as lengths of inputs matter."""
        return spearman(self.activation, self.cosine)

    @property
    def share_of_norm(self) -> Float[np.ndarray, "unit"]:
        """Share of the variance over inputs of log |s . w| that comes from log |s|; the rest comes from log |cos|.

        cov(log |s . w|, log |s|) / var(log |s . w|), over inputs with s . w > 0; negative where long inputs lie at poor
        angles. NaN below three such inputs, or where nothing varies.
        """
        shares = np.full(len(self.dot), np.nan)
        norms = np.log(np.maximum(self.input_norm, TINY))
        for unit, dot in enumerate(self.dot):
            positive = dot > 0
            if positive.sum() < 3:
                continue
            covariance = np.cov(np.log(dot[positive]), norms[positive])
            if covariance[0, 0] > 0:
                shares[unit] = covariance[0, 1] / covariance[0, 0]
        return shares

    @property
    def same_top(self) -> float:
        """Share of units whose best input by dot product is their best by cosine as well; of equal inputs the first is best.

        Left out are units for which s . w = 0 for every input, so that none is best: those of zero templates, or all where
        all inputs are 0. NaN if there are no others.
        """
        told = np.any(self.dot != 0, axis=1)
        if not told.any():
            return float("nan")
        return float(np.mean(np.argmax(self.dot[told], axis=1) == np.argmax(self.cosine[told], axis=1)))

    def length_of_top(self, by: Float[np.ndarray, "unit input"]) -> Float[np.ndarray, "unit"]:
        """Rank of the length of each unit's best input, by `dot` or `cosine`: share of inputs that are shorter, ties half.

        0.5 on average if length did not matter.
        """
        best = self.input_norm[np.argmax(by, axis=1)][:, None]
        return np.mean((self.input_norm < best) + 0.5 * (self.input_norm == best), axis=1)


@dataclasses.dataclass(frozen=True)
class TopInputs:
    """The inputs that a layer's units answer to most, strongest first.

    Attributes:
        examples: their numbers, (seed, unit, rank); each example once for each unit, at its best position.
        values: what the unit hands on, (seed, unit, rank).
        positions: where, as (row, column) of what the layer hands on; empty for dense layers, (seed, unit, rank, axis).
    """

    examples: Int[np.ndarray, "seed unit rank"]
    values: Float[np.ndarray, "seed unit rank"]
    positions: Int[np.ndarray, "seed unit rank axis"]


def templates(params: Params, input_shape: Sequence[int]) -> Float[np.ndarray, "seed unit *shape"]:
    """Incoming weights of the first layer in the shape of what they multiply.

    Args:
        params: stacked, leaves (seed, ...), first layer first.
        input_shape: of one input, as the dataset knows it; (feature,) for tables. Of a convolution (height, width) or
            (height, width, channel); its kernels may be larger than the input, around which there are zeros.

    Returns:
        float64; of a dense layer (seed, unit, *input_shape), of a convolution (seed, unit, height, width, channel).

    Raises:
        ValueError: the weights are not for inputs of this shape.
    """
    weight = np.asarray(params[0]["weight"], np.float64)
    if weight.ndim == 3:
        if weight.shape[1] != np.prod(input_shape):
            raise ValueError(
                f"units have {weight.shape[1]} weights each: inputs of as many values are expected, not {tuple(input_shape)}"
            )
        weight = weight.reshape(len(weight), *input_shape, weight.shape[-1])
    elif weight.ndim == 5 and (len(input_shape) not in (2, 3) or (*input_shape, 1)[2] != weight.shape[3]):
        raise ValueError(
            f"kernels are for inputs of (height, width, {weight.shape[3]}), not {tuple(input_shape)}: the last is the "
            "number of channels, and may be left out if it is 1"
        )
    return np.moveaxis(weight, -1, 1)


def matches(model: Layered, params: Params, x: Float[AnyArray, "example feature"]) -> Matches:
    """Dot products, cosines and activations of all units of the first layer on all inputs, float64.

    Args:
        model: a network of layers.
        params: of one network.
        x: inputs; of a convolution all patches at all positions count.

    Raises:
        ValueError: there are no inputs, or they do not fit the network.
    """
    if len(shape := np.shape(x)) != 2 or len(x) == 0:
        raise ValueError(f"inputs have shape {shape}: (example, feature), one example or more, is expected")
    check_features(model, params, shape[1])
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
        seen, weight, activation = map(np.asarray, _first(model)(wide, np.asarray(x, np.float64)))
    seen = seen.reshape(-1, seen.shape[-1])
    dot = (seen @ weight).T
    norms, lengths = np.linalg.norm(seen, axis=1), np.linalg.norm(weight, axis=0)
    size = np.outer(lengths, norms)
    cosine = np.divide(dot, size, out=np.zeros_like(dot), where=size > 0).clip(-1, 1)
    return Matches(dot, cosine, activation.reshape(len(seen), -1).T, norms, lengths)


def top_inputs(handed_on: Float[np.ndarray, "seed example *position unit"], num: int) -> TopInputs:
    """The examples on which each unit hands on most, for units of any layer.

    Args:
        handed_on: by a layer, e.g. one of `analysis.similarity.representations`.
        num: examples for each unit; equal ones in the order of the examples.

    Raises:
        ValueError: more are asked for than there are, or none; or what is handed on is not finite.
    """
    seeds, examples, *shape, units = handed_on.shape
    if not 1 <= num <= examples:
        raise ValueError(f"num = {num}: 1 .. {examples} examples are expected")
    if not np.all(finite := np.isfinite(handed_on).reshape(seeds, -1).all(axis=1)):
        raise ValueError(
            f"what networks at positions {np.flatnonzero(~finite).tolist()} hand on is not finite, and has no order: leave "
            "out networks that diverged"
        )
    flat = np.moveaxis(handed_on.reshape(seeds, examples, -1, units), -1, 1)  # seed, unit, example, position
    place = np.argmax(flat, axis=-1)
    best = np.take_along_axis(flat, place[..., None], axis=-1)[..., 0]
    order = np.argsort(-best, axis=-1, kind="stable")[..., :num]
    places = np.unravel_index(np.take_along_axis(place, order, axis=-1), shape) if shape else ()
    positions = np.stack(places, axis=-1) if shape else np.zeros((*order.shape, 0), int)
    return TopInputs(order, np.take_along_axis(best, order, axis=-1).astype(np.float64), positions)


def check_features(model: Layered, params: Params, num_features: int) -> None:
    """Refuse inputs that the first layer of a network cannot take, without computing anything.

    Args:
        model: a network of layers.
        params: of one network.
        num_features: of an input.

    Raises:
        ValueError: the layer does not see as many values of such an input as its units have weights.
    """
    fan_in = math.prod(params[0]["weight"].shape[:-1])
    try:
        seen = jax.eval_shape(lambda h: model.incoming(0, h), jax.ShapeDtypeStruct((1, num_features), np.float32))
    except (TypeError, ValueError):  # it has no shape that the model could give it
        seen = None
    if seen is None or seen.shape[-1] != fan_in:
        raise ValueError(
            f"inputs have {num_features} features, which the network {getattr(model, 'outline', model)} with {fan_in} "
            "weights for each unit of its first layer cannot take: give the inputs that it was trained on"
        )


@cache_compiled
def _first(model: Layered):
    def program(params, x):
        received = model.receive(params, 0, x)
        activation = received if model.num_layers == 1 else model.phi(received)
        return model.incoming(0, x), as_matrix(params[0]["weight"]), activation

    return jax.jit(program)
