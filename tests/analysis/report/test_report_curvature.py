"""What the page says about curvature and minima, against plain computations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from report_pages import Page, check_alone, check_numbers, toy

from analysis.report import write_report
from analysis.report.sections import census, curvature
from wspace import objective
from wspace.train import train


def spectra(run):
    """Eigenvalues of jax.hessian of the training objective at the ends, ascending."""
    data, layout, l2 = run.data, run.layout, run.spec.objective.l2

    def whole(theta):
        x, y = jnp.asarray(data.x_train, float), jnp.asarray(data.y_train)
        return objective.objective(run.model, run.loss_kind, layout.unravel(theta), x, y, l2)

    with jax.enable_x64(True):
        return np.linalg.eigvalsh(jax.vmap(jax.hessian(whole))(np.asarray(run.theta[:, -1], np.float64)))


def test_eigenvalues_on_the_page_are_those_of_the_hessian(run, page):
    values, found = spectra(run), page.findings["curvature"]
    np.testing.assert_allclose(found["largest"]["value"], np.median(values[:, -1]), rtol=1e-6)
    np.testing.assert_allclose(found["smallest"]["value"], np.median(values[:, 0]), rtol=1e-6)
    np.testing.assert_allclose(found["trace"]["value"], np.median(values.sum(axis=1)), rtol=1e-6)
    np.testing.assert_allclose(found["share_negative"]["value"], np.median(np.mean(values < 0, axis=1)), rtol=1e-9)
    assert found["negative"]["value"] == np.mean(values[:, 0] < 0)
    assert "120 train examples + 0.001/2" in found["objective"]["value"]


def test_the_table_of_minima_adds_up(page):
    found = page.findings["census"]
    num = found["minima"]["value"]
    table = [[found[f"minimum_{k}_{what}"]["value"] for k in range(1, num + 1)] for what in ("objective", "share")]
    assert found["certified"]["value"] == 1
    assert table[0] == sorted(table[0])
    np.testing.assert_allclose(sum(table[1]), 1)
    assert table[0][0] == found["lowest"]["value"] <= found["after"]["value"] < found["before"]["value"]
    assert f"minimum_{num + 1}_rank" not in found
    assert all(48 % found[f"minimum_{k}_copies"]["value"] == 0 for k in range(1, num + 1))  # 3! relabellings, 2^3 signs
    assert all(found[f"minimum_{k}_smallest"]["value"] > 0 for k in range(1, num + 1))


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"activation": "relu"}, {"hidden": []}], ids=["kinks", "convex"])
def test_what_is_not_certified_is_not_counted(changes, tmp_path):
    """Without a penalty nothing here has a minimum but at infinity, or on a kink; with it, a convex objective has one."""
    convex = changes == {"hidden": []}
    run = train(
        toy(model=changes, objective={"l2": 1e-3 if convex else 0.0}, seeds={"num": 4}), tmp_path / "run", num_devices=1
    )
    page = Page(write_report(run, sections=(curvature.SECTION, census.SECTION)))
    found = page.findings["census"]
    if convex:
        assert found["minima"]["value"] == 1
        assert found["strict_minimum"]["value"] == 4
        assert "curves down in no direction there" in page.text
    else:
        assert found["strict_minimum"]["value"] == 0
        assert ("minima" in found) == (found["certified"]["value"] > 0)
    check_numbers(page)
    check_alone(page)
