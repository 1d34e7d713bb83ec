import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from analysis.units import recurrence, surrogates, types


def planted(rng, seeds=12, shared=3, units=8, features=200, noise=0.3):
    """The first `shared` units are those of one template each with noise, the others random in every seed."""
    found = rng.standard_normal((seeds, units, features))
    found[:, :shared] = rng.standard_normal((shared, features)) + noise * found[:, :shared]
    return found


def test_planted_units_come_back_in_every_seed_and_the_others_as_often_as_chance(rng):
    found = recurrence(planted(rng), rng.standard_normal((12, 8, 200)), rng=rng)
    np.testing.assert_array_equal(found.rates[:3], 1)
    assert found.rates[3:].mean() < 0.15
    assert found.expected == pytest.approx(0.05, abs=0.01)
    assert 3 / 8 <= found.rate.value <= 0.5
    assert found.rate.n == 12
    np.testing.assert_array_less(0.9, np.linalg.norm(found.consensus[:3], axis=1))
    np.testing.assert_allclose(np.linalg.norm(found.consensus[3:], axis=1), 1 / np.sqrt(12), rtol=0.2)


def test_units_without_anything_in_common_recur_as_often_as_the_null(rng):
    draw = lambda: rng.standard_normal((6, 20, 50))  # noqa: E731
    rates = [recurrence(draw(), draw(), rng=rng).recurs.mean() for _ in range(40)]
    assert np.mean(rates) == pytest.approx(0.05, abs=4 * np.std(rates) / np.sqrt(40) + 0.005)


def test_the_agreement_leaves_the_seed_itself_out(rng):
    units = rng.standard_normal((3, 1, 6))
    unit = units / np.linalg.norm(units, axis=-1, keepdims=True)
    found = recurrence(units, rng.standard_normal((3, 1, 6)), rng=rng)
    others = unit[1, 0] + unit[2, 0]
    assert found.agreement[0, 0] == pytest.approx(unit[0, 0] @ others / np.linalg.norm(others))


def test_lengths_of_units_do_not_matter(rng):
    units, null = planted(rng), rng.standard_normal((12, 8, 200))
    scaled = units * np.exp(rng.standard_normal((12, 8, 1)))
    a, b = (recurrence(u, null, rng=np.random.default_rng(0)) for u in (units, scaled))
    np.testing.assert_allclose(a.agreement, b.agreement, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(a.consensus, b.consensus, rtol=1e-9, atol=1e-12)


def test_a_unit_without_weights_agrees_with_nobody(rng):
    units = planted(rng)
    units[0, 0] = 0
    found = recurrence(units, rng.standard_normal(units.shape), rng=rng)
    assert found.agreement[0, 0] == 0
    assert not found.recurs[0, 0]


def test_planted_types_are_found_in_any_order_of_units(rng):
    units = planted(rng, noise=0.2)
    shuffled = np.stack([rng.permutation(seed) for seed in units])
    found = types(shuffled, rng.standard_normal(units.shape))
    np.testing.assert_array_equal(found.sizes[:3], 12)
    np.testing.assert_array_equal(found.spread[:3], 1)
    assert found.sizes[3:].max() < 4
    assert found.sizes.sum() == 96
    assert np.all(found.shared >= 3 / 8)
    assert found.null_shared.mean() < 0.5 < found.shared.mean() + 0.2
    np.testing.assert_array_equal(np.bincount(found.labels.ravel()), found.sizes)
    np.testing.assert_allclose(np.linalg.norm(found.centres, axis=1), 1)


def test_two_units_of_a_type_are_as_alike_as_the_threshold(rng):
    units = planted(rng, noise=1.0)
    found = types(units, rng.standard_normal(units.shape))
    directions = (units / np.linalg.norm(units, axis=-1, keepdims=True)).reshape(96, -1)
    cosines, labels = directions @ directions.T, found.labels.ravel()
    for label in np.unique(labels):
        members = labels == label
        assert cosines[np.ix_(members, members)].min() >= found.threshold - 1e-12


def test_what_cannot_be_compared_is_refused(rng):
    units = planted(rng)
    for null in (units[:5], np.full_like(units, np.nan)):
        for call in (lambda null: recurrence(units, null, rng=rng), lambda null: types(units, null)):
            with pytest.raises(ValueError, match=r"finite and of one shape, are expected"):
                call(null)
    with pytest.raises(ValueError, match="at least three seeds"):
        recurrence(units[:2], units[:2], rng=rng)
    many = np.zeros((3, 3000, 1))
    with pytest.raises(ValueError, match="9000 units in all"):
        types(many, many)


def test_shared_types_are_those_of_two_seeds_or_more():
    """Two seeds: one unit of theirs is the same; the first has a pair of its own, which no other seed shares."""
    units = np.eye(6)[np.array([[0, 1, 1], [0, 2, 3]])]
    found = types(units, np.random.default_rng(0).standard_normal(units.shape))
    np.testing.assert_allclose(found.shared, 1 / 3)


def test_surrogates_have_the_moments_and_nothing_else_in_common(rng):
    mix = rng.standard_normal((4, 4))
    units = rng.standard_normal((40, 50, 4)) @ mix + np.arange(4)
    drawn = surrogates(units, rng=rng)
    a, b = units.reshape(-1, 4), drawn.reshape(-1, 4)
    np.testing.assert_allclose(b.mean(axis=0), a.mean(axis=0), atol=5 * a.std() / np.sqrt(2000))
    np.testing.assert_allclose(np.cov(b.T), np.cov(a.T), atol=0.15 * np.cov(a.T).max())
    planted_units = np.repeat(rng.standard_normal((1, 8, 30)), 12, axis=0)
    copies = surrogates(planted_units, rng=rng)
    unit = copies / np.linalg.norm(copies, axis=-1, keepdims=True)
    between = np.abs(np.einsum("suf,tuf->stu", unit, unit))[~np.eye(12, dtype=bool)]
    assert between.mean() < 0.6
    with pytest.raises(ValueError, match="1 units have no covariance"):
        surrogates(np.ones((1, 1, 3)), rng=rng)


def test_units_that_share_only_their_covariance_do_not_recur_beyond_surrogates(rng):
    """Against isotropic units most of them seem to come back; against surrogates as many as by chance."""
    spectrum, rates = 1 / np.arange(1, 31), []
    for _ in range(12):
        units = rng.standard_normal((8, 10, 30)) * spectrum
        isotropic = recurrence(matched(units), matched(rng.standard_normal(units.shape)), rng=rng)
        strict = recurrence(matched(units), matched(surrogates(units, rng=rng)), rng=rng)
        rates.append((isotropic.recurs.mean(), strict.recurs.mean()))
    loose, strict = np.mean(rates, axis=0)
    assert loose > 0.5
    assert strict < 0.1


def matched(units):
    """Units of every seed in the order that is most like the first seed's."""
    unit = units / np.linalg.norm(units, axis=-1, keepdims=True)
    return np.stack(
        [seed[linear_sum_assignment(unit[0] @ one.T, maximize=True)[1]] for seed, one in zip(units, unit, strict=True)]
    )
