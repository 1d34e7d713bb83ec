"""What the page says about weights and units, against plain computations; and what it leaves out."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
import zarr
from report_pages import Page, altered, check_alone, check_numbers, toy

from analysis.report import write_report
from analysis.report.sections import gabor, influence, probabilities, templates
from analysis.units import gabor as gabor_function
from wspace import open_run
from wspace.objective import example_loss
from wspace.symmetry import act_on_theta, random_element
from wspace.train import train
from wspace.tree import pick, ravel

SECTIONS = (templates.SECTION, influence.SECTION, probabilities.SECTION)


def weights(run):
    """(seed, weight): of all layers, biases left out."""
    leaves = [np.asarray(layer["weight"]) for layer in run.params()]
    return np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1)


def test_signs_and_ranges_are_those_of_all_weights(run, page):
    found, values = page.findings["probabilities"], weights(run)
    assert found["weights"]["value"] == values.shape[1] == 4 * 3 + 3 * 3
    assert found["negative"]["value"] == pytest.approx(np.median(np.mean(values < 0, axis=1)))
    assert found["outside"]["value"] == pytest.approx(np.median(np.mean((values < 0) | (values > 1), axis=1)))
    assert (found["least"]["value"], found["most"]["value"]) == pytest.approx((values.min(), values.max()))


def test_overconfidence_is_that_of_the_softmax_on_test_examples(run, page):
    p = scipy.special.softmax([run.model.apply(pick(run.params(), i), run.data.x_test) for i in range(6)], axis=-1)
    right = np.mean(p.argmax(-1) == run.data.y_test, axis=1)
    expected = np.median(p.max(-1).mean(axis=1) - right)
    assert page.findings["probabilities"]["overconfidence"]["value"] == pytest.approx(expected, abs=1e-6)


def test_rank_correlations_are_those_of_weights_removed_by_hand(x64, run, page):
    x, y = run.data.x_train.astype(np.float64), run.data.y_train
    loss = lambda params: float(jnp.mean(example_loss(run.loss_kind, run.model.apply(params, x), y)))  # noqa: E731
    each = []
    for seed in range(6):
        params = jax.tree.map(lambda leaf: np.array(leaf, np.float64), pick(run.params(), seed))
        before, layers = loss(params), []
        for layer in params:
            changes, weight = [], layer["weight"]
            for place in np.ndindex(weight.shape):
                value, weight[place] = weight[place], 0
                changes.append(abs(loss(params) - before))
                weight[place] = value
            layers.append(scipy.stats.spearmanr(np.abs(weight).ravel(), changes)[0])
        each.append(np.mean(layers))
    found = page.findings["influence"]
    assert found["removed_raw"]["value"] == pytest.approx(np.median(each), rel=1e-9)
    assert (found["weights"]["value"], found["seeds"]["value"], found["examples"]["value"]) == (21, 6, 120)


def test_units_of_relabelled_copies_come_back_in_all_of_them(run, rng, tmp_path):
    """Six relabelled and flipped copies of one network: every unit recurs, with a cosine of one."""
    copies = altered(run, tmp_path / "copies", equal=True)
    element = random_element(run.model.symmetry, rng, (6,))
    array = zarr.open_group(copies.path / "run.zarr", mode="r+")["theta"]
    assert isinstance(array, zarr.Array)
    array[:, -1] = act_on_theta(run.model.symmetry, run.layout, element, np.asarray(run.theta[:])[[0] * 6, -1])
    found = Page(write_report(open_run(copies.path), sections=(templates.SECTION,))).findings["templates"]
    assert found["rate"]["value"] == 1
    assert found["agreement"]["value"] == pytest.approx(1, abs=1e-6)
    assert found["always"]["value"] == 3


def test_units_that_come_back_are_counted_against_untrained_ones(page):
    found = page.findings["templates"]
    assert found["units"]["value"] == 3
    assert 0 <= found["expected"]["value"] <= 0.1
    assert 0 <= found["expected_untrained"]["value"] <= 0.1
    assert found["rate"]["n"] == found["rate_untrained"]["n"] == 6
    assert "by chance" in page.text


def test_units_that_share_only_their_statistics_come_back_beyond_untrained_ones_alone(rng, tmp_path):
    """First layers drawn with one narrow spectrum: nearly all recur beyond isotropic inits, few beyond surrogates."""
    np.savez(tmp_path / "table.npz", x=rng.standard_normal((80, 20)), y=np.arange(80) % 3)
    spec = toy(
        data={"name": "npz", "path": str(tmp_path / "table.npz")}, model={"hidden": [8], "activation": "relu"},
        train={"num_steps": 2, "batch_size": 20}, seeds={"num": 8},
    )  # fmt: skip
    run = train(spec, tmp_path / "run", num_devices=1)
    shutil.copytree(run.path, tmp_path / "narrow", ignore=shutil.ignore_patterns("report"))
    params = jax.tree.map(np.array, run.params())
    params[0]["weight"][:] = rng.standard_normal((8, 20, 8)) / np.arange(1, 21)[:, None]
    array = zarr.open_group(tmp_path / "narrow" / "run.zarr", mode="r+")["theta"]
    assert isinstance(array, zarr.Array)
    array[:, -1] = np.asarray(ravel(params, 1))
    found = Page(write_report(open_run(tmp_path / "narrow"), sections=(templates.SECTION,))).findings["templates"]
    assert found["rate_untrained"]["value"] > 0.4
    assert found["rate"]["value"] <= 0.25


@pytest.mark.slow
def test_regressions_and_single_seeds_are_told_in_words(regression, run, tmp_path):
    page = Page(write_report(regression, tmp_path / "linear", sections=SECTIONS))
    assert "calibration_error" not in page.findings["probabilities"]
    assert "rate" not in page.findings["templates"]
    assert "not trained to give probabilities" in page.text
    assert "cannot be asked here" in page.text
    check_numbers(page)
    check_alone(page)
    equal = Page(write_report(altered(run, tmp_path / "equal", equal=True), sections=SECTIONS))
    assert "rate" not in equal.findings["templates"]
    single = train(toy(seeds={"num": 1}), tmp_path / "single", num_devices=1)
    page = Page(write_report(single, sections=SECTIONS))
    assert page.findings["influence"]["removed_raw"]["ci"] is None
    check_numbers(page)


@pytest.mark.slow
def test_images_and_kernels_are_drawn(rng, tmp_path):
    x, y = rng.random((60, 6, 6)), rng.integers(3, size=60)
    x[np.arange(60), y, y] += 3
    np.savez(tmp_path / "images.npz", x=x, y=y)
    for kind in ({"hidden": [4, 3], "activation": "relu"}, {"kind": "convnet", "channels": [2, 3], "hidden": []}):
        spec = toy(
            data={"name": "npz", "path": str(tmp_path / "images.npz")}, model={"activation": "relu", **kind},
            train={"num_steps": 20, "batch_size": 12}, seeds={"num": 3},
        )  # fmt: skip
        run = train(spec, tmp_path / str(len(kind)), num_devices=1)
        page = Page(write_report(run, sections=SECTIONS))
        pictures = 4 + 2 + 2  # templates, recurrence, types and strongest inputs; influence; weights and calibration
        assert len(page.get("img")) == pictures
        assert "deconvnet" in page.text
        check_numbers(page)


def test_weights_that_do_not_fit_are_tried_in_part(run, monkeypatch, tmp_path):
    monkeypatch.setattr(influence, "FLOPS", 1.0)
    page = Page(write_report(run, tmp_path / "few", sections=(influence.SECTION,)))
    found = page.findings["influence"]
    assert found["senders_share"]["value"] < 1
    assert (found["seeds"]["value"], found["examples"]["value"]) == (1, influence.FEWEST_EXAMPLES)
    assert found["weights"]["value"] == 2 * 3 + 2 * 3
    assert "Weights from" in page.text
    check_numbers(page)


@pytest.mark.slow
def test_colours_and_wide_tables_have_pictures_of_a_bounded_size(rng, tmp_path):
    """Images of three channels are drawn in colour, of two by their mean; of many features only some have bars."""
    for name, shape in (("colours", (5, 5, 3)), ("channels", (5, 5, 2)), ("table", (200,))):
        np.savez(tmp_path / f"{name}.npz", x=rng.random((60, *shape)), y=np.arange(60) % 3)
        spec = toy(
            data={"name": "npz", "path": str(tmp_path / f"{name}.npz")}, model={"hidden": [4, 3]},
            train={"num_steps": 5, "batch_size": 12}, seeds={"num": 2},
        )  # fmt: skip
        page = Page(write_report(train(spec, tmp_path / name, num_devices=1), sections=(templates.SECTION,)))
        assert ("red, green and blue" in page.text) == (name == "colours")
        assert ("white zero" in page.text) == (name == "channels")
        assert ("mean over the channels" in page.text) == (name == "channels")
        assert ("those features that have the largest weights" in page.text) == (name == "table")
        check_numbers(page)


def planted(run, gabors, out):
    """A copy of a run whose trained first layers have these templates (unit, height, width), of lengths that differ."""
    shutil.copytree(run.path, out, ignore=shutil.ignore_patterns("report"))
    array = zarr.open_group(out / "run.zarr", mode="r+")["theta"]
    assert isinstance(array, zarr.Array)
    params = jax.tree.map(np.array, run.params())
    params[0]["weight"][:] = gabors.reshape(len(gabors), -1).T * np.arange(1, 1 + len(gabors))
    array[:, -1] = np.asarray(ravel(params, 1))
    return open_run(out)


def test_planted_gabor_functions_are_found_and_untrained_filters_are_not(rng, tmp_path):
    np.savez(tmp_path / "images.npz", x=rng.standard_normal((60, 9, 9)), y=np.arange(60) % 3)
    spec = toy(
        data={"name": "npz", "path": str(tmp_path / "images.npz")}, model={"hidden": [4]},
        train={"num_steps": 2, "batch_size": 12}, seeds={"num": 3},
    )  # fmt: skip
    run = train(spec, tmp_path / "run", num_devices=1)
    waves = np.stack([
        gabor_function((9, 9), along=2, across=2.5, orientation=angle, frequency=0.22, phase=phase)
        for angle, phase in ((0.3, 0), (1.1, 1), (2, -1), (2.9, 2))
    ])  # fmt: skip
    found = planted(run, waves, tmp_path / "planted")
    page = Page(write_report(found, sections=(gabor.SECTION,)))
    findings = {name: item["value"] for name, item in page.findings["gabor"].items()}
    assert findings["r2"] == pytest.approx(1, abs=1e-4)
    assert findings["frequency"] == pytest.approx(0.22, abs=1e-3)
    assert (findings["along"], findings["across"]) == (pytest.approx(2, abs=0.01), pytest.approx(2.5, abs=0.01))
    assert (findings["above_pixels"], findings["above_noise"]) == (1, 1)
    assert max(findings["r2_noise"], findings["r2_pixels"], findings["r2_untrained"]) < 0.6
    assert findings["gained"] == pytest.approx(findings["r2"] - findings["r2_untrained"], abs=0.1)
    assert (findings["filters"], findings["seeds"], findings["constant"]) == (12, 3, 0)
    assert len(page.get("img")) == 2
    check_numbers(page)
    check_alone(page)
    constant = planted(run, np.ones((4, 9, 9)), tmp_path / "constant")
    assert gabor.has_filters(constant) == "All filters are constant: there is nothing that a fit could explain."


def test_tables_and_small_filters_have_no_gabor_functions(run, rng, tmp_path):
    assert "no images" in str(gabor.has_filters(run))
    np.savez(tmp_path / "images.npz", x=rng.standard_normal((60, 8, 8)), y=np.arange(60) % 3)
    for kernel, words in ((3, "too small"), (5, None)):
        spec = toy(
            data={"name": "npz", "path": str(tmp_path / "images.npz")},
            model={"kind": "convnet", "channels": [2], "hidden": [], "kernel": kernel, "activation": "relu"},
            train={"num_steps": 1, "batch_size": 12}, seeds={"num": 1},
        )  # fmt: skip
        reason = gabor.has_filters(train(spec, tmp_path / str(kernel), num_devices=1))
        assert reason is None if words is None else words in str(reason)
