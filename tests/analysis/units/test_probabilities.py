import jaxtyping
import numpy as np
import pytest
from hand_built import draw
from scipy.special import softmax

from analysis.units import calibration, weight_facts
from wspace import MLP, ConvNet


def test_signs_ranges_and_sums_of_weights_written_down():
    weight = np.array([[[0.5, 0.5, 0.0], [-1.0, 2.0, 3.0]]])  # two senders, three units
    found = weight_facts(({"weight": weight, "bias": np.array([[-9.0, -9, -9]])},))
    assert found.negative.item() == pytest.approx(1 / 6)
    assert found.outside.item() == pytest.approx(3 / 6)
    assert (found.least.item(), found.most.item()) == (-1, 3)
    assert found.rows_to_one.item() == 0.5  # the first sender's weights add up to 1, the second's to 4
    assert found.columns_to_one.item() == 0


def test_probabilities_would_be_recognised(rng):
    """What the facts look for exists: a matrix of transition probabilities passes all of them."""
    rows = softmax(rng.standard_normal((3, 5, 4)), axis=-1)
    found = weight_facts(({"weight": rows},))
    np.testing.assert_array_equal((found.negative, found.outside), 0)
    np.testing.assert_array_equal(found.rows_to_one, 1)


def test_gaussian_weights_are_half_negative(rng):
    found = weight_facts(draw(ConvNet((8, 8, 1), (20, 30), (40,), 10), rng, 3))
    assert found.negative.shape == (3, 4)
    np.testing.assert_allclose(found.negative[:, 1:], 0.5, atol=5 * 0.5 / np.sqrt(400))
    np.testing.assert_allclose(found.outside[:, 1:], 1 - 0.3413, atol=5 * 0.5 / np.sqrt(400))
    assert found.rows_to_one.max() < 0.1


def drawn(rng, p):
    """One label for every row of probabilities."""
    return np.argmax(np.cumsum(p, axis=-1) > rng.random((len(p), 1)), axis=-1)


def test_a_calibrated_network_has_the_error_of_chance(rng):
    logits = 2 * rng.standard_normal((4000, 5))
    y = drawn(rng, softmax(logits, axis=-1))
    found = calibration(logits[None], y, rng=rng)
    assert found.error[0] == pytest.approx(found.chance[0], abs=0.012)
    assert abs(found.overconfidence[0]) < 4 * 0.5 / np.sqrt(4000)
    filled = found.counts[0] > 100
    np.testing.assert_allclose(found.accuracy[0][filled], found.confidence[0][filled], atol=4 * 0.5 / np.sqrt(100))
    assert found.counts.sum() == 4000


def test_sharpened_outputs_are_overconfident_by_what_was_planted(rng):
    logits = rng.standard_normal((4000, 5))
    y = drawn(rng, softmax(logits, axis=-1))
    found = calibration(np.stack([logits, 4 * logits, logits / 4]), y, rng=rng)
    sharp, flat = softmax(4 * logits, axis=-1).max(-1).mean(), softmax(logits / 4, axis=-1).max(-1).mean()
    right = np.mean(logits.argmax(-1) == y)
    np.testing.assert_allclose(found.overconfidence[1:], [sharp - right, flat - right], rtol=1e-9)
    assert found.error[1] > 10 * found.chance[1]
    assert found.error[2] > 5 * found.chance[2]
    np.testing.assert_allclose(found.error[1], sharp - right, rtol=0.05)  # too sure in every bin


def test_bins_are_those_of_plain_loops(rng):
    outputs, y = rng.standard_normal((2, 60, 3)), rng.integers(3, size=60)
    found = calibration(outputs, y, rng=rng, num_bins=4)
    for seed in range(2):
        p, error = softmax(outputs[seed], axis=-1), 0.0
        for number in range(4):
            inside = (p.max(-1) > number / 4) & (p.max(-1) <= (number + 1) / 4)
            assert found.counts[seed, number] == inside.sum()
            if inside.any():
                right, sure = np.mean(p.argmax(-1)[inside] == y[inside]), p.max(-1)[inside].mean()
                np.testing.assert_allclose(
                    (found.accuracy[seed, number], found.confidence[seed, number]), (right, sure)
                )
                error += inside.mean() * abs(right - sure)
            else:
                assert np.isnan(found.accuracy[seed, number])
        np.testing.assert_allclose(found.error[seed], error)


def test_certain_outputs_fall_into_the_last_bin(rng):
    outputs = np.zeros((1, 6, 2))
    outputs[..., 0] = 1e4
    found = calibration(outputs, np.array([0, 0, 0, 1, 1, 1]), rng=rng)
    assert found.counts[0, -1] == 6
    assert (found.error[0], found.overconfidence[0], found.chance[0]) == (0.5, 0.5, 0)


@pytest.fixture
def unchecked():
    """Signatures unchecked, as for a user: jaxtyping would refuse these arguments before the function does."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("shape", [(1, 2, 2), (3, 2), (3,)])
def test_outputs_and_labels_of_other_shapes_are_refused(rng, shape):
    with pytest.raises(ValueError, match=r"labels \(3,\): finite ones of at least one example"):
        calibration(np.zeros(shape), np.zeros(3, int), rng=rng)


def test_what_has_no_calibration_is_refused(rng):
    for outputs, y in ((np.zeros((1, 0, 2)), np.zeros(0, int)), (np.full((1, 2, 2), np.nan), np.zeros(2, int))):
        with pytest.raises(ValueError, match="finite ones of at least one example"):
            calibration(outputs, y, rng=rng)
    for y, said in (([0, 2], r"0 \.\. 2"), ([-1, 1], r"-1 \.\. 1")):
        with pytest.raises(ValueError, match=rf"labels {said} for 2 outputs: 0 \.\. 1 are expected"):
            calibration(np.zeros((1, 2, 2)), np.array(y), rng=rng)
    for given in ({"num_bins": 0}, {"num_bins": -1}, {"num_draws": 0}):
        with pytest.raises(ValueError, match=r"num_bins = .*, num_draws = .*: at least 1 of each"):
            calibration(np.zeros((1, 2, 2)), np.array([0, 1]), rng=rng, **given)
    params = draw(MLP((3, 2)), rng)
    params[0]["weight"][0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="weights of layer 0 are not finite"):
        weight_facts(params)
