"""The sections on trajectories and functions: their numbers come from the run, and degenerate runs say what they are."""

import dataclasses

import numpy as np
import pytest
from report_pages import Page, toy
from scipy.stats import spearmanr
from sklearn.decomposition import PCA

from analysis.projection import compare, grams
from analysis.report import shared, write_report
from analysis.report.sections import function, trajectory, travel
from analysis.similarity import cka, representations
from wspace.train import train

SECTIONS = (travel.SECTION, trajectory.SECTION, function.SECTION)


def report(tmp_path, **sections):
    return Page(write_report(train(toy(**sections), tmp_path / "run", num_devices=1), sections=SECTIONS))


def test_shares_are_those_of_each_restarts_own_components(run, page):
    theta, found = np.asarray(run.theta[:], np.float64), page.findings["trajectory"]
    shares = np.array([PCA(3, svd_solver="full").fit(points).explained_variance_ratio_ for points in theta])
    assert found["share_1"]["value"] == pytest.approx(np.median(shares[:, 0]), rel=1e-6)
    assert found["plane_share"]["value"] == pytest.approx(np.median(shares[:, :2].sum(axis=1)), rel=1e-6)
    assert found["share_1"]["n"] == 6
    pooled = PCA(2, svd_solver="full").fit(theta.reshape(-1, theta.shape[2])).explained_variance_ratio_.sum()
    assert found["pooled_raw_share"]["value"] == pytest.approx(pooled, rel=1e-6)
    path = np.linalg.norm(np.diff(theta, axis=1), axis=2).sum(axis=1)
    away = np.linalg.norm(theta[:, -1] - theta[:, 0], axis=1)
    travelled = page.findings["travel"]
    assert travelled["straightness"]["value"] == pytest.approx(np.median(away / path), rel=1e-6)
    assert found["stored_agree"]["value"] is True
    assert travelled["apart_raw_start"]["value"] > 0
    assert travelled["layer_1_name"]["value"] == "1"


def test_losses_beside_the_plane_are_those_stored_in_training(run, page):
    found = page.findings["trajectory"]
    assert found["own_true_end"]["value"] == pytest.approx(run.metrics["train_loss"][0, -1], rel=1e-5)
    assert found["own_shadow_end"]["value"] >= 0


def test_predictions_and_layers_are_compared_pair_by_pair(run, page):
    found, params = page.findings["function"], run.params()
    logits = np.array([np.asarray(run.model.apply(run.params(int(s)), run.data.x_test)) for s in run.seeds])
    labels, upper = logits.argmax(axis=2), np.triu_indices(6, 1)
    differ = np.array([[np.mean(a != b) for b in labels] for a in labels])
    assert found["distance"]["value"] == pytest.approx(np.median(differ[upper]))
    assert found["error"]["value"] == pytest.approx(np.median(np.mean(labels != run.data.y_test, axis=1)))
    alike = cka(representations(run.model, params, run.data.x_test))
    assert found["cka_trained_1"]["value"] == pytest.approx(np.median(alike[0, 0][upper]))
    theta = np.asarray(run.theta[:, -1], np.float64)
    far = np.linalg.norm(theta[:, None] - theta[None], axis=2)
    assert found["rank_raw"]["value"] == pytest.approx(spearmanr(far[upper], differ[upper]).statistic)  # type: ignore
    assert found["represented"]["value"] == len(run.data.x_test)


def test_two_checkpoints_have_no_plane_but_functions(tmp_path):
    page = report(tmp_path, checkpoints={"num": 2}, seeds={"num": 2})
    assert "Fewer than three checkpoints are stored" in page.text
    assert "trajectory" in page.findings
    assert page.findings["trajectory"] == {}
    assert "Two restarts predict different classes" in page.text


def test_three_checkpoints_fill_their_plane(tmp_path):
    page = report(tmp_path, checkpoints={"num": 3}, seeds={"num": 2})
    found = page.findings["trajectory"]
    assert found["plane_share"]["value"] == pytest.approx(1)
    assert "always lie in one plane" in page.text
    assert "no evidence of a low-dimensional path" in page.text
    assert "One direction holds" in page.text
    assert "Two directions hold" not in page.text


def test_training_that_does_not_move_has_no_trajectory(tmp_path):
    page = report(tmp_path, optimizer={"learning_rate": 1e-30}, seeds={"num": 2})
    assert "None of 2 restarts moved away from its start" in page.text
    assert list(page.findings["trajectory"]) == ["seeds"]


def test_long_runs_are_thinned_and_say_so(tmp_path, monkeypatch):
    """More checkpoints than are compared with walks: as many evenly chosen ones, the first and the last among them."""
    run = train(toy(checkpoints={"num": 12, "schedule": "linear"}, seeds={"num": 2}), tmp_path / "run", num_devices=1)
    monkeypatch.setattr(shared, "MOST_CHECKPOINTS", 5)
    monkeypatch.setattr(trajectory, "WALK_WORK", 5**3)
    monkeypatch.setattr(function, "MOST_CHECKPOINTS", 3)
    page = Page(write_report(run, sections=SECTIONS))
    found, at = page.findings["trajectory"], np.linspace(0, len(run.checkpoint_steps) - 1, 5).round().astype(int)
    assert found["checkpoints"]["value"] == 5
    assert found["share_1"]["n"] == 1
    one = PCA(1, svd_solver="full").fit(np.asarray(run.theta[0], np.float64)[at]).explained_variance_ratio_
    assert found["share_1"]["value"] == pytest.approx(one[0], rel=1e-6)
    assert found["own_true_end"]["value"] == pytest.approx(run.metrics["train_loss"][0, -1], rel=1e-5)
    assert page.findings["travel"]["checkpoints"]["value"] == len(run.checkpoint_steps)
    assert page.findings["function"]["points"]["value"] == 2 * 3


def test_children_of_one_start_say_so(tmp_path):
    page = report(tmp_path, seeds={"num": 3, "vary": "order"})
    found = page.findings["travel"]
    assert found["apart_raw_start"]["value"] == 0
    assert found["apart_raw_end"]["value"] > 0
    assert "All of them start at one place" in page.text


def test_one_seed_is_an_example(tmp_path):
    page = report(tmp_path, seeds={"num": 1})
    found = page.findings["trajectory"]
    assert all(item["ci"] is None for item in found.values())
    assert "One restart is an example" in page.text
    assert "pooled_seeds" not in found


def test_restarts_that_predict_the_same_have_no_matrix(tmp_path):
    """A linear classifier with a penalty has one best fit, where all restarts end."""
    page = report(
        tmp_path,
        data={"name": "iris"},
        model={"hidden": []},
        train={"num_steps": 200, "batch_size": 0},
        seeds={"num": 3, "vary": "init"},
        optimizer={"name": "sgd", "learning_rate": 0.3},
        objective={"l2": 0.1},
    )
    assert page.findings["function"]["distance"]["value"] == 0
    assert "predict the same on all" in page.text
    assert "function-matrix" not in page.source


def test_regressions_have_root_mean_squares(regression):
    page = Page(write_report(regression, sections=SECTIONS))
    found = page.findings["function"]
    assert found["distance"]["unit"] == ""
    assert "divergence" not in found
    assert "root mean square" in page.text


def test_verdict_is_on_the_side_of_the_mean_that_is_tested(run, rng):
    """Most restarts hold a little more than walks; one holds far less, and with it the mean."""
    null = compare(grams(np.asarray(run.theta[:])), run.layout.size, 2, num_walks=9, rng=rng)
    walks = np.broadcast_to(np.array([0.5, 0.25]), (9, 6, 2))
    shares = np.array([[0.55, 0.25]] * 5 + [[0.1, 0.1]])
    null = dataclasses.replace(null, shares=shares, walks=walks)
    found = trajectory._spectrum_findings(null, run, 6, rng)
    assert found["plane_share"]["value"] > found["plane_walk"]["value"]
    assert found["plane_p"]["value"] < 0.5
    assert found["plane_more"]["value"] is False
    assert "less than they do of walks" in trajectory._verdict(found | {"plane_p": {"value": 0.01}})


def test_few_examples_have_no_alignment_of_layers(tmp_path):
    page = report(tmp_path, data={"name": "iris", "test_fraction": 0.02}, seeds={"num": 3})
    assert page.findings["function"]["represented"]["value"] == 3
    assert "cka_trained_1" not in page.findings["function"]
    assert "So few examples do not tell how alike representations are" in page.text


def test_samples_that_stay_as_good_give_no_verdict(tmp_path):
    """A rate that falls to almost nothing: late checkpoints hardly move, nor do samples as wide as they are spread."""
    page = report(
        tmp_path,
        train={"num_steps": 60, "batch_size": 40},
        checkpoints={"num": 11},
        schedule={"kind": "step", "boundaries": [20], "factor": 1e-4},
        optimizer={"learning_rate": 0.1},
    )
    found = page.findings["function"]
    assert found["beyond"]["value"] > 0
    assert all(found[f"as_good_{way}"]["value"] < 1 for way in function.WAYS)
    assert "do not tell how far the neighbourhood of a restart reaches" in page.text
    assert "fewer than those that restarts reach" not in page.text
