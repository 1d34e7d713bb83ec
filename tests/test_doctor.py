import importlib.metadata

import jax
import jax.numpy as jnp
import pytest

from wspace import doctor
from wspace.errors import PlatformError


@pytest.fixture
def fresh():
    """Forget what earlier tests found out about this machine, before and after."""
    doctor.refuse_wrong_numbers.cache_clear()
    yield
    doctor.refuse_wrong_numbers.cache_clear()


def plant(monkeypatch, rows: int):
    """Make sums over arrays of more than `rows` values 0.8 % too large, as jaxlib 0.10.2 does."""
    right = jnp.mean
    monkeypatch.setattr(jnp, "mean", lambda a: right(a) * (1.008 if a.size > rows else 1))


@pytest.mark.parametrize("quick", [True, False])
def test_compiled_programs_compute_right_numbers_here(quick):
    checks = doctor.check_numbers(quick=quick)
    assert [check.name for check in checks if not check.passed] == []
    assert any("131073 rows" in check.name for check in checks)
    assert any("1048577 rows" in check.name for check in checks) == (not quick)
    assert all(check.tolerance < 2e-3 for check in checks), "a tolerance that would let 0.8 % pass checks nothing"


def test_products_are_asked_for_in_full_float32(monkeypatch):
    asked, compiled = [], jax.jit

    def recorded(function):
        asked.append(jax.config.jax_default_matmul_precision)  # pyright: ignore[reportAttributeAccessIssue]
        return compiled(function)

    monkeypatch.setattr(jax, "jit", recorded)
    doctor.check_numbers(quick=True)
    assert len(asked) > 5
    assert set(asked) == {"highest"}, "accelerators multiply in less by default, and would be called wrong"


def test_wrong_numbers_fail_the_checks_that_they_touch(monkeypatch):
    plant(monkeypatch, rows=16_384)
    failed = [check.name for check in doctor.check_numbers(quick=True) if not check.passed]
    assert failed == ["mean over 32769 rows", "mean over 131073 rows"]


@pytest.mark.parametrize(("error", "passed"), [(0.0, True), (1e-6, True), (1e-5, False), (float("nan"), False)])
def test_a_check_passes_within_its_tolerance_only(error, passed):
    assert doctor.Check("x", error, 1e-6).passed == passed


def test_training_is_refused_where_numbers_are_wrong(monkeypatch, fresh):
    plant(monkeypatch, rows=0)
    version = importlib.metadata.version("jaxlib")
    with pytest.raises(
        PlatformError, match=rf"jaxlib {version} computes wrong numbers.*mean over 1000 rows.*pip install"
    ):
        doctor.refuse_wrong_numbers()


def test_the_refusal_is_looked_up_once_per_process(monkeypatch, fresh):
    calls = []
    monkeypatch.setattr(doctor, "check_numbers", lambda quick: calls.append(quick) or [])
    doctor.refuse_wrong_numbers()
    doctor.refuse_wrong_numbers()
    assert calls == [True]


def test_known_bad_jaxlib_is_refused_with_what_to_install():
    installed = {"jaxlib": "0.10.2"}
    with pytest.raises(PlatformError) as caught:
        doctor.refuse_known_bad(installed.__getitem__)
    assert str(caught.value) == (
        "jaxlib 0.10.2 is known to give silently wrong numbers on CPU (jax issues 39103, 39352); "
        "install another: pip install 'jax!=0.10.2' 'jaxlib!=0.10.2'"
    )


@pytest.mark.parametrize("version", ["0.10.1", "0.12.0"])
def test_other_jaxlibs_are_not_refused(version):
    doctor.refuse_known_bad(lambda package: version)


def test_the_installed_jaxlib_is_not_known_to_be_bad():
    doctor.refuse_known_bad()


def test_matmul_peak_is_a_plausible_speed():
    assert 1e7 < doctor.matmul_peak(size=128, repeats=3) < 1e15


def test_versions_are_those_installed():
    versions = doctor.versions()
    assert versions["jax"] == importlib.metadata.version("jax")
    assert {"wspace", "jaxlib", "numpy", "optax", "zarr"} <= set(versions)
