"""What the page says about layers, against direct calls of the analyses; and what it leaves out, and why."""

import numpy as np
import pytest
import zarr
from report_pages import Page, altered, check_alone, check_numbers, toy

from analysis.report import write_report
from analysis.report.sections import representation
from analysis.report.sections.representation import findings, measured, words
from analysis.representation import class_distances, features, probe_layers, restart_map, separability, shape_distances
from analysis.statistics import pair_values
from wspace.run import open_run
from wspace.train import train

SECTIONS = (representation.SECTION,)


def report(run, out) -> tuple[Page, dict]:
    page = Page(write_report(run, out, sections=SECTIONS))
    check_numbers(page)
    check_alone(page)
    return page, page.findings["representation"]


@pytest.fixture(scope="module")
def own(run, tmp_path_factory) -> tuple[Page, dict]:
    return report(run, tmp_path_factory.mktemp("representation"))


def alts(page) -> list[str]:
    return [str(image["alt"]) for image in page.get("img")]


def test_readouts_on_the_page_are_those_of_the_probes(run, own, rng):
    """All examples fit, so the trained and the untrained probes know no chance."""
    _, found = own
    probed = probe_layers(run.model, run.params(), run.data, untrained=run.params(None, 0), rng=rng)
    assert probed.untrained is not None
    for kind, one in (("trained", probed.trained), ("untrained", probed.untrained)):
        for layer, scores in enumerate(one.score):
            assert found[f"{kind}_{layer}"]["value"] == pytest.approx(np.median(scores))
    trained, untrained = probed.trained.score, probed.untrained.score
    assert found["gain"]["value"] == pytest.approx(np.median(trained[1] - trained[0]))
    assert found["learnt"]["value"] == pytest.approx(np.median(trained[1] - untrained[1]))
    assert found["chance"]["value"] == probed.trained.chance
    counts = [found[name]["value"] for name in ("seeds", "num_train", "num_test", "probes", "unsettled")]
    assert counts == [6, 120, 30, 6 * 3 * 3, 0]


def test_classes_and_the_map_are_those_of_the_test_examples(run, own):
    _, found = own
    trained, untrained = (features(run.model, run.params(None, k), run.data.x_test) for k in (-1, 0))
    for kind, layers in (("trained", trained), ("untrained", untrained)):
        distances = class_distances(layers, run.data.y_test)
        for layer, shares in enumerate(distances.share):
            assert found[f"share_{kind}_{layer}"]["value"] == pytest.approx(np.median(shares))
        assert found["null"]["value"] == distances.null
        apart = shape_distances(layers[1])
        assert found[f"distance_{kind}"]["value"] == pytest.approx(np.median(pair_values(apart)))
    apart = np.median(class_distances(trained, run.data.y_test).apart[1], axis=0)
    nearest = apart[np.triu_indices(3, 1)].min()
    assert found["nearest"]["value"] == "“versicolor” and “virginica”"
    assert apart[1, 2] == nearest
    assert found["nearest_apart"]["value"] == pytest.approx(nearest)
    assert found["restarts"]["value"] == found["map_seeds"]["value"] == 6


def test_drawings_state_their_perplexity_and_what_they_keep(run, own):
    found, x = own[1], run.data.x_test.astype(np.float64)
    assert (found["drawn_seed"]["value"], found["drawn_examples"]["value"], found["perplexity"]["value"]) == (0, 30, 9)
    variances = np.linalg.eigvalsh(np.cov(x.T))[::-1]
    assert found["explained_0"]["value"] == pytest.approx(variances[:2].sum() / variances.sum())
    assert 0.5 < found["trust_0"]["value"] <= 1
    assert found["layers"]["value"] == ["inputs", "layer 1", "outputs"]


def test_a_regression_is_read_out_and_drawn_without_classes(regression, tmp_path, rng):
    page, found = report(regression, tmp_path)
    probed = probe_layers(regression.model, regression.params(), regression.data, rng=rng)
    assert found["trained_1"]["value"] == pytest.approx(np.median(probed.trained.score[1]))
    assert found["chance"]["value"] == 0
    assert not {"classes", "nearest", "share_trained_0"} & found.keys()
    assert "Colour: the target, standardised. Every panel" in page.text
    assert "So few restarts do not decide whether a linear readout finds more in the outputs" in page.text
    assert "classes" not in page.text.split("What it says here")[1].split("All findings")[0]
    assert len(alts(page)) == 4
    assert "last hidden layer" not in page.text


def test_a_single_restart_has_no_interval_and_no_map(tmp_path):
    run = train(toy(seeds={"num": 1}), tmp_path / "run", num_devices=1)
    page, found = report(run, tmp_path / "report")
    assert found["trained_1"]["ci"] is None
    assert "stress" not in found
    assert "There is no map of restarts: it takes at least two restarts." in page.text
    assert "(1 seed)" in page.text
    assert len(alts(page)) == 4


def moved(run, out, theta):
    """A copy of a run with other params at all checkpoints, (seed, param)."""
    copy = altered(run, out)
    group = zarr.open_group(out / "run.zarr", mode="r+")
    array = group["theta"]
    assert isinstance(array, zarr.Array)
    array[:] = np.repeat(theta[:, None], len(copy.checkpoint_steps), axis=1)
    return open_run(out)


def test_restarts_that_did_not_move_have_no_untrained_networks_beside_them(run, tmp_path):
    page, found = report(moved(run, tmp_path / "run", run.theta[:, -1]), tmp_path / "report")
    assert not {"learnt", "untrained_1", "share_untrained_1", "distance_untrained"} & found.keys()
    assert "there are no untrained networks to compare them with" in page.text
    assert found["distance_trained"]["value"] > 0


def test_layers_that_hand_on_the_same_for_all_examples_are_named(run, tmp_path):
    page, found = report(moved(run, tmp_path / "run", np.zeros_like(run.theta[:, 0])), tmp_path / "report")
    assert found["trained_1"]["value"] == pytest.approx(found["chance"]["value"])
    assert not {"share_trained_1", "explained_1", "nearest", "stress"} & found.keys()
    assert "hands on the same for all examples" in page.text
    equal, found = report(moved(run, tmp_path / "equal", np.repeat(run.theta[:1, -1], 6, axis=0)), tmp_path / "same")
    assert "stress" not in found
    assert "in the same way there" in equal.text


@pytest.mark.slow
def test_deep_networks_are_told_by_a_few_layers(tmp_path):
    run = train(toy(model={"hidden": [3] * 8}, seeds={"num": 2}), tmp_path / "run", num_devices=1)
    _, found = report(run, tmp_path / "report")
    assert found["layers"]["value"] == ["inputs", "layer 2", "layer 4", "layer 8", "outputs"]
    assert {f"trained_{k}" for k in range(10)} <= found.keys()


@pytest.mark.slow
def test_what_does_not_fit_is_left_out_or_made_smaller(rng, monkeypatch, tmp_path):
    monkeypatch.setattr(measured, "PROBE_WORK", 1.0)
    monkeypatch.setattr(measured, "FEWEST_TRAIN", 60)
    x = rng.standard_normal((90, 4))
    np.savez(tmp_path / "few.npz", x=x, y=np.repeat([0, 1, 2], 30))
    data = {"name": "npz", "path": str(tmp_path / "few.npz"), "test_fraction": 0.034}
    run = train(toy(data=data), tmp_path / "run", num_devices=1)
    assert len(run.data.x_test) == 3
    page, found = report(run, tmp_path / "report")
    assert (found["seeds"]["value"], found["num_train"]["value"]) == (6, 60)
    assert "No layer is drawn: there are too few examples to draw." in page.text
    assert "fewer than two classes have two or more of these examples" in page.text
    assert not {"perplexity", "null", "share_trained_0"} & found.keys()


def said(rng, *, num=8, num_test=100, target=None, classes=0, shape=None) -> tuple[str, dict]:
    """What is said, and found, of random layers: of readouts for what `target` asks of inputs, and of a map."""
    x, x_test = rng.standard_normal((120, 3)), rng.standard_normal((num_test, 3))
    weights = rng.standard_normal((num, 3, 6))
    seen, new = ([np.broadcast_to(some, (num, *some.shape)), np.maximum(some @ weights, 0)] for some in (x, x_test))
    target = target or (lambda some: rng.standard_normal(len(some)))
    y, y_test = target(x)[:, None], target(x_test)[:, None]
    if classes:
        y, y_test = (np.digitize(some[:, 0], np.quantile(y, np.arange(1, classes) / classes)) for some in (y, y_test))
    one = separability(seen, y, new, y_test, "classification" if classes else "regression")
    found = measured.Measured(
        ids=list(range(num)), names=["inputs", "layer 1", "outputs"], shown=[0, 1], last=1, moved=shape is not None,
        split="test", labels=y_test.ravel(), target="target", class_names=tuple("abcde"[:classes]),
        probes=dict.fromkeys(measured.KINDS if shape else ("trained", "shuffled"), one), classes={}, drawn=None, map=shape,
        map_units=6, missing=dict.fromkeys(("classes", "drawings", "map"), "nothing"),
    )  # fmt: skip
    every = findings.find(found, rng)
    return " ".join([words.headline(found), *words.says(every, found), words.shows(found)]), every


@pytest.mark.parametrize("classes", [0, 3])
def test_where_there_is_nothing_to_find_readouts_are_hardly_ever_told_apart(classes, rng):
    """One set of targets serves all seeds, so that their interval alone would tell noise apart in two of five cases."""
    every = [said(rng, classes=classes) for _ in range(40)]
    assert sum(": a linear readout finds" in text for text, _ in every) <= 40 / 20
    alone = [found["gain"]["ci"][0] * found["gain"]["ci"][1] > 0 for _, found in every]
    assert sum(alone) > 40 / 5
    assert sum("Neither is clearly better than always naming the same." in text for text, _ in every) > 40 * 0.8


@pytest.mark.parametrize("classes", [0, 2])
def test_what_a_layer_unfolds_or_loses_is_told_from_six_seeds_on(classes, rng):
    unfolded = lambda x: np.abs(x[:, 0]) + 0.1 * rng.standard_normal(len(x))  # noqa: E731
    text, found = said(rng, target=unfolded, classes=classes, num_test=400)
    assert "choice of examples: a linear readout finds more in the last hidden layer than in the inputs." in text
    assert found["gain"]["value"] > 2 * found["gain_error"]["value"] > 0
    few, found = said(rng, target=unfolded, classes=classes, num_test=400, num=5)
    assert found["gain"]["ci"][0] > 2 * found["gain_error"]["value"]
    assert "a linear readout finds more in the last hidden layer than" not in few
    assert "So few restarts do not decide whether a linear readout finds more" in few


@pytest.mark.parametrize("num", [2, 5, 6])
def test_restarts_are_called_more_alike_from_six_seeds_on(num, rng):
    trained = rng.standard_normal((1, 30, 4)) + 0.1 * rng.standard_normal((num, 30, 4))
    text, found = said(rng, num=num, shape=restart_map(trained, rng.standard_normal((num, 30, 4))))
    assert found["map_ratio"]["value"] < 0.5
    assert ("So training makes restarts more alike than they started" in text) == (num >= 6)
    assert ("So few restarts do not decide whether training makes them more alike" in text) == (num < 6)
    assert "networks that have not learnt" not in text or num >= 6


def test_one_test_example_decides_nothing_and_is_one(rng):
    text, found = said(rng, target=lambda x: x[:, 0], classes=2, num_test=1)
    assert (found["num_test"]["value"], ": a linear readout finds" in text) == (1, False)
    assert "{num_test} test example " in text
    assert "{num_test} test example;" not in text
    assert "test examples" not in text


def test_the_first_of_several_targets_is_called_that(rng, tmp_path):
    x = rng.standard_normal((40, 3))
    np.savez(tmp_path / "two.npz", x=x, y=x @ rng.standard_normal((3, 2)))
    data = {"name": "npz", "path": str(tmp_path / "two.npz"), "standardize": False}
    settings = {"data": data, "model": {"hidden": []}, "train": {"batch_size": 0}, "seeds": {"num": 2}}
    run = train(toy(**settings), tmp_path / "run", num_devices=1)
    page, found = report(run, tmp_path / "report")
    assert "Colour: the first target. Every panel" in page.text
    assert "a line from the start of each restart to its end" in page.text
    assert found["map_seeds"]["value"] == 2
