import json
import re

import numpy as np
import pytest
from zarr.storage import LocalStore

from wspace import objective, open_run, stack_params
from wspace import train as training
from wspace.errors import StoreError
from wspace.models import MLP
from wspace.train import train


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    from wspace import spec as specs

    tree = {
        "name": "toy",
        "data": {"name": "iris"},
        "model": {"hidden": [5]},
        "optimizer": {"learning_rate": 0.01},
        "train": {"num_steps": 12, "batch_size": 16},
        "checkpoints": {"num": 4},
        "seeds": {"ids": [4, 2, 9]},
        "engine": {"block_width": 2},
    }
    return train(specs.parse(tree), tmp_path_factory.mktemp("run") / "toy")


def test_a_run_shows_what_was_trained(run):
    assert repr(run).endswith("seeds=3, checkpoints=4, params=43)")
    np.testing.assert_array_equal(run.seeds, [4, 2, 9])
    np.testing.assert_array_equal(run.checkpoint_steps, [0, 4, 8, 12])
    assert run.model == MLP((4, 5, 3))
    assert run.layout.size == run.theta.shape[-1] == 43
    assert (run.task, run.loss_kind) == ("classification", "cross_entropy")
    assert run.done.shape == (3, 4)
    assert run.complete
    assert run.converged().all()
    assert set(run.metrics) == set(objective.METRICS["classification"])
    assert len(run.metrics) == 6


def test_params_of_one_seed_and_of_all(run):
    theta = run.theta[:]
    one = run.params(2, checkpoint=1)
    np.testing.assert_array_equal(one[0]["weight"], run.layout.unravel(theta[1, 1])[0]["weight"])
    assert one[1]["bias"].shape == (3,)
    every = run.params()
    assert every[0]["weight"].shape == (3, 4, 5)
    some = run.params([9, 4], checkpoint=-2)
    np.testing.assert_array_equal(some[0]["weight"][0], run.layout.unravel(theta[2, 2])[0]["weight"])
    np.testing.assert_array_equal(some[0]["weight"][1], run.layout.unravel(theta[0, 2])[0]["weight"])


def test_params_of_what_is_not_there(run):
    with pytest.raises(KeyError, match=r"\[5\] are not in this run, whose 3 seeds are \[4, 2, 9\]"):
        run.params([4, 5])
    with pytest.raises(IndexError, match="checkpoint 4 is out of range: this run has 4"):
        run.params(checkpoint=4)
    with pytest.raises(KeyError, match="no metric 'loss'"):
        run.metrics["loss"]


def test_params_reproduce_the_stored_metrics_in_plain_numpy(run):
    params, data = run.params(9), run.data
    hidden = np.maximum(data.x_test @ params[0]["weight"] + params[0]["bias"], 0)
    logits = (hidden @ params[1]["weight"] + params[1]["bias"]).astype(float)
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    loss = -logs[np.arange(len(logits)), data.y_test].mean()
    np.testing.assert_allclose(run.metrics["test_loss"][2, -1], loss, rtol=1e-5)
    assert run.metrics["test_accuracy"][2, -1] == pytest.approx((logits.argmax(1) == data.y_test).mean())


def test_opening_reads_no_values_and_one_checkpoint_reads_one(run, monkeypatch):
    keys, get = [], LocalStore.get

    async def recorded(self, key, *args, **kwargs):
        keys.append(key)
        return await get(self, key, *args, **kwargs)

    monkeypatch.setattr(LocalStore, "get", recorded)
    opened = open_run(run.path)
    assert not [key for key in keys if re.search(r"/c/", key)]
    values = np.asarray(opened.theta[:, 2])
    assert values.shape == (3, 43)
    assert sorted(key for key in keys if "/c/" in key) == ["theta/c/0/2/0", "theta/c/1/2/0"]


def test_networks_of_ones_own_are_evaluated_like_a_run(run):
    own = stack_params([run.params(4), run.params(9)])
    got = objective.evaluate(run.model, run.loss_kind, own, run.data)
    np.testing.assert_allclose(got["test_loss"], run.metrics["test_loss"][[0, 2], -1], rtol=2e-6)


def test_an_unfinished_run_says_what_it_has(make_spec, tmp_path, monkeypatch):
    class Stop(training.Silent):
        def checkpoint(self, step, train_loss):
            if step == 8:
                raise KeyboardInterrupt

    monkeypatch.setattr(training, "COMMIT_CHECKPOINTS", 1)
    with pytest.raises(KeyboardInterrupt):
        train(make_spec(engine={"block_width": 4}), tmp_path / "out", monitor=Stop())
    run = open_run(tmp_path / "out")
    assert not run.complete
    np.testing.assert_array_equal(run.done, np.array([[True, True, False, False]] * 3))
    assert not run.converged().any()
    assert np.isnan(run.metrics["train_loss"][:, 2:]).all()
    assert np.isfinite(run.metrics["train_loss"][:, :2]).all()
    assert run.params(0, checkpoint=1)[0]["weight"].shape == (4, 5)
    with pytest.raises(KeyError, match=r"\[0\] have not stored checkpoint 3 yet"):
        run.params(0)
    with pytest.raises(KeyError, match="no seed of this run was trained to its end"):
        run.params(checkpoint=1)


def test_leaves_in_another_order_are_not_misread(run, tmp_path):
    import shutil

    copy = shutil.copytree(run.path, tmp_path / "copy")
    path = copy / "run.zarr" / "theta" / "zarr.json"
    path.write_text(path.read_text().replace('"0.bias"', '"0.gain"'))
    with pytest.raises(StoreError, match=r"has the leaves \['0.gain'"):
        open_run(copy).params()


def test_data_that_changed_is_refused(run, tmp_path):
    import shutil

    copy = shutil.copytree(run.path, tmp_path / "copy")
    provenance = json.loads((copy / "provenance.json").read_text())
    provenance["data_hash"] = "0" * 64
    (copy / "provenance.json").write_text(json.dumps(provenance))
    with pytest.raises(StoreError, match="was trained on data of hash 000000000000"):
        _ = open_run(copy).data


def test_xarray_shows_the_same_numbers_with_their_names(run):
    tree = run.to_xarray()
    assert tree["theta"].dims == ("seed", "checkpoint", "param")
    np.testing.assert_array_equal(tree["theta"].sel(seed=2).values, run.theta[1])
    np.testing.assert_array_equal(tree["checkpoint_step"], [0, 4, 8, 12])
    loss = tree["metrics/test_loss"]
    assert loss.dims == ("seed", "checkpoint")
    np.testing.assert_array_equal(loss.sel(seed=9).values, run.metrics["test_loss"][2])
    assert "iris" in tree.attrs["spec"]


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(StoreError, match="there is no run folder"):
        open_run(tmp_path / "nowhere")
    with pytest.raises(StoreError, match="is not a run folder"):
        open_run(tmp_path)
