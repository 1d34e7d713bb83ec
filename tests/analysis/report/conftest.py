"""Runs that are trained once, and the report of the first."""

import pytest
from report_pages import RATES, Page, toy

from analysis.report import write_report
from wspace.run import Run
from wspace.sweep import open_sweep, run_sweep
from wspace.train import train


@pytest.fixture(scope="session", autouse=True)
def smaller(small_reports):
    """These tests read pages, not numbers."""


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> Run:
    """Six seeds of a classifier, all trained to the end."""
    return train(toy(), tmp_path_factory.mktemp("runs") / "toy", num_devices=1)


@pytest.fixture(scope="session")
def page(run) -> Page:
    """Its report."""
    return Page(write_report(run))


@pytest.fixture(scope="session")
def regression(tmp_path_factory) -> Run:
    """Three seeds of a linear regression."""
    spec = toy(
        data={"name": "diabetes"}, model={"hidden": []}, train={"num_steps": 9, "batch_size": 0}, seeds={"num": 3}
    )
    return train(spec, tmp_path_factory.mktemp("runs") / "linear", num_devices=1)


@pytest.fixture(scope="session")
def sweep(tmp_path_factory):
    """The folder and the points of a sweep: the toy classifier at two learning rates."""
    out = tmp_path_factory.mktemp("sweep") / "toy"
    run_sweep(toy(sweep={"optimizer.learning_rate": list(RATES)}), out, num_devices=1)
    return out, open_sweep(out)
