import threading

import jax
import numpy as np
import pytest

from wspace import objective, store, train
from wspace import spec as specs
from wspace.errors import DataError, SpecError
from wspace.store import Store
from wspace.train import Silent


class Stopper(Silent):
    """Ends training the hard way when the n-th checkpoint is measured."""

    def __init__(self, after):
        self.left = after

    def checkpoint(self, step, train_loss):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


class Recorder(Silent):
    """Writes down what it hears."""

    def __init__(self):
        self.begun, self.net_steps, self.steps, self.failures, self.threads = (0, 0), 0, [], [], set()

    def begin(self, total, already):
        self.begun = (total, already)

    def advance(self, net_steps):
        self.net_steps += net_steps
        self.threads.add(threading.get_ident())

    def checkpoint(self, step, train_loss):
        self.steps.append((step, len(train_loss)))

    def diverged(self, seed, step):
        self.failures.append((seed, step))


def content(run):
    return {"theta": run.theta[:], "diverged_at": run.diverged_at, **dict(run.metrics)}


def assert_same(a, b):
    a, b = content(a), content(b)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def finite(run):
    return np.isfinite(run.theta[:]).all() and all(np.isfinite(v).all() for v in run.metrics.values())


@pytest.fixture
def every_checkpoint_commits(monkeypatch):
    monkeypatch.setattr(train, "COMMIT_CHECKPOINTS", 1)


@pytest.mark.parametrize("optimizer", ["adam", "momentum"])
@pytest.mark.parametrize("num_devices", [1, 2])
def test_a_resumed_run_is_bitwise_the_uninterrupted_one_at_every_boundary(
    make_spec, tmp_path, every_checkpoint_commits, num_devices, optimizer
):
    spec = make_spec(optimizer={"name": optimizer}, schedule={"kind": "cosine"})
    whole = train.train(spec, tmp_path / "whole", num_devices=num_devices)
    assert whole.complete
    assert finite(whole)
    measured = 4 * (2 if num_devices == 1 else 1)  # checkpoints x rounds of blocks
    for after in range(1, measured + 1):
        out = tmp_path / f"stopped-{after}"
        with pytest.raises(KeyboardInterrupt):
            train.train(spec, out, num_devices=num_devices, monitor=Stopper(after))
        assert not train.Run(Store(out)).complete
        recorder = Recorder()
        assert_same(train.train(spec, out, num_devices=num_devices, monitor=recorder), whole)
        total, already = recorder.begun
        assert total == 12 * 3
        assert already + recorder.net_steps == total


def test_a_run_stopped_again_and_again_still_ends_the_same(make_spec, tmp_path, every_checkpoint_commits):
    spec = make_spec()
    whole = train.train(spec, tmp_path / "whole", num_devices=2)
    for _ in range(4):
        with pytest.raises(KeyboardInterrupt):
            train.train(spec, tmp_path / "out", num_devices=1, monitor=Stopper(2))
    assert_same(train.train(spec, tmp_path / "out"), whole)


def test_one_and_two_devices_give_the_same_bits(make_spec, tmp_path):
    spec = make_spec(seeds={"num": 5})
    one, two = (train.train(spec, tmp_path / str(n), num_devices=n) for n in (1, 2))
    assert_same(one, two)
    assert len(one.provenance["sessions"][0]["devices"]) == 1
    assert len(two.provenance["sessions"][0]["devices"]) == 2


@pytest.mark.parametrize("ids", [(7,), (7, 8), (3, 7), (9, 2**32 - 1, 0, 7)])
def test_a_seed_is_bitwise_the_same_in_any_company(make_spec, tmp_path, ids):
    alone = train.train(make_spec(seeds={"num": None, "ids": [5, 7, 11]}), tmp_path / "a")
    other = train.train(make_spec(seeds={"num": None, "ids": list(ids)}), tmp_path / "b")
    place = ids.index(7)
    np.testing.assert_array_equal(alone.theta[1], other.theta[place])
    for name, values in alone.metrics.items():
        np.testing.assert_array_equal(values[1], other.metrics[name][place], err_msg=name)


def test_a_poisoned_seed_is_marked_and_leaves_the_others_bitwise_untouched(
    make_spec, tmp_path, every_checkpoint_commits
):
    spec = make_spec()
    whole = train.train(spec, tmp_path / "whole", num_devices=2)
    with pytest.raises(KeyboardInterrupt):
        train.train(spec, tmp_path / "out", num_devices=1, monitor=Stopper(3))
    path = tmp_path / "out" / "state" / "block-0.npz"
    with np.load(path, allow_pickle=False) as archive:
        state = dict(archive)
    name = next(key for key, array in state.items() if array.shape == (2, 5))  # a bias of the first layer
    state[name][1, 0] = np.nan
    np.savez(path, allow_pickle=False, **state)
    recorder = Recorder()
    run = train.train(spec, tmp_path / "out", num_devices=2, monitor=recorder)
    assert run.complete
    assert recorder.failures == [(1, 4)]  # the first step after the checkpoint at step 4
    np.testing.assert_array_equal(run.diverged_at, [-1, 4, -1])
    np.testing.assert_array_equal(run.converged(), [True, False, True])
    for row in (0, 2):
        np.testing.assert_array_equal(run.theta[row], whole.theta[row])
    np.testing.assert_array_equal(run.theta[1, :2], whole.theta[1, :2])
    assert not np.isfinite(run.theta[1, -1]).all()


def test_diverging_seeds_are_told_once_and_kept(make_spec, tmp_path):
    spec = make_spec(
        data={"name": "diabetes"}, optimizer={"name": "sgd", "learning_rate": 1e6}, train={"num_steps": 30}
    )
    recorder = Recorder()
    run = train.train(spec, tmp_path / "out", monitor=recorder)
    assert run.complete
    assert not run.converged().any()
    assert sorted(seed for seed, _ in recorder.failures) == [0, 1, 2]
    assert all(step == run.diverged_at[seed] for seed, step in recorder.failures)
    again = Recorder()
    train.train(spec, tmp_path / "out", monitor=again)
    assert again.begun == (90, 90)
    assert again.steps == []


def test_a_seed_that_diverges_between_checkpoints_is_told_before_the_next(make_spec, tmp_path, monkeypatch):
    class Clock(Recorder):
        def diverged(self, seed, step):
            self.failures.append((step, self.net_steps))

    monkeypatch.setattr(train, "SLICE_SECONDS", 0.0)  # slices of one step, once the speed is known
    spec = make_spec(
        data={"name": "diabetes"},
        optimizer={"name": "sgd", "learning_rate": 1e3},
        train={"num_steps": 200},
        checkpoints={"num": 2},
        seeds={"num": 1},
    )
    clock = Clock()
    assert not train.train(spec, tmp_path / "out", monitor=clock).converged().any()
    ((step, told),) = clock.failures
    assert step < told <= max(64, step + 1) < 200  # the first slice has 64 steps


def test_a_seed_that_the_optimizer_cannot_move_any_more_has_diverged(make_spec, tmp_path):
    """Adam's second moment overflows; loss and params stay finite, and would for ever."""
    spec = make_spec(
        data={"name": "diabetes"}, optimizer={"name": "adam", "learning_rate": 1e8}, train={"num_steps": 200}
    )
    run = train.train(spec, tmp_path / "out")
    assert np.isfinite(run.theta[:, -1]).all()
    assert np.isfinite(run.metrics["train_loss"][:, -1]).all()
    assert not run.converged().any()


@pytest.mark.parametrize(
    "ambient",
    [
        jax.enable_x64(True),
        jax.threefry_partitionable(False),
        jax.default_matmul_precision("bfloat16"),
        jax.default_prng_impl("rbg"),
    ],
    ids=["x64", "threefry", "precision", "prng"],
)
def test_what_a_caller_has_set_in_jax_changes_no_bit(make_spec, tmp_path, ambient):
    spec = make_spec()
    plain = train.train(spec, tmp_path / "plain")
    train.programs.compile_program.cache_clear()
    with ambient:
        run = train.train(spec, tmp_path / "out")
    assert_same(run, plain)


def test_a_complete_run_is_left_as_it_is(make_spec, tmp_path):
    run = train.train(make_spec(), tmp_path / "out")
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    train.train(make_spec(), tmp_path / "out")
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before
    assert len(run.provenance["sessions"]) == 1


@pytest.mark.parametrize("damage", ["a leaf less", "another dtype", "another shape"])
def test_a_state_of_another_program_is_not_taken(make_spec, tmp_path, every_checkpoint_commits, damage):
    spec = make_spec()
    whole = train.train(spec, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train.train(spec, tmp_path / "out", num_devices=1, monitor=Stopper(3))
    path = tmp_path / "out" / "state" / "block-0.npz"
    with np.load(path, allow_pickle=False) as archive:
        state = dict(archive)
    last = f"leaf{len(state) - 2}"
    if damage == "a leaf less":
        del state[last]
    else:
        state["leaf0"] = state["leaf0"].astype(np.float64) if damage == "another dtype" else state["leaf0"][:, :1]
    np.savez(path, allow_pickle=False, **state)
    assert_same(train.train(spec, tmp_path / "out"), whole)


def test_what_is_stored_is_what_the_params_give(make_spec, tmp_path):
    run = train.train(make_spec(objective={"l2": 0.01}), tmp_path / "out")
    for checkpoint in range(4):
        got = objective.evaluate(run.model, run.loss_kind, run.params(checkpoint=checkpoint), run.data, 0.01)
        for name, values in got.items():
            np.testing.assert_allclose(values, run.metrics[name][:, checkpoint], rtol=2e-6, atol=1e-7, err_msg=name)


def test_the_monitor_hears_of_every_step_and_checkpoint(make_spec, tmp_path):
    recorder = Recorder()
    train.train(make_spec(), tmp_path / "out", num_devices=2, monitor=recorder)
    assert recorder.begun == (36, 0)
    assert recorder.net_steps == 36
    assert sorted(recorder.steps) == [(step, num) for step in (0, 4, 8, 12) for num in (1, 2)]  # blocks of 2 and 1
    assert len(recorder.threads) == 2  # one for each device


@pytest.fixture
def commit_sizes(monkeypatch):
    """How many checkpoints each commit held so far."""
    sizes, commit = [], Store.commit
    monkeypatch.setattr(
        Store,
        "commit",
        lambda self, block, checkpoints, *args: (
            sizes.append(checkpoints.stop - checkpoints.start) or commit(self, block, checkpoints, *args)
        ),
    )
    return sizes


def test_few_checkpoints_are_pending_however_many_there_are(make_spec, tmp_path, commit_sizes):
    run = train.train(make_spec(train={"num_steps": 60}, checkpoints={"num": 61}), tmp_path / "out", num_devices=2)
    assert run.complete
    assert max(commit_sizes) <= train.COMMIT_CHECKPOINTS
    assert sum(commit_sizes) == 61 * 2  # two blocks


@pytest.mark.parametrize(("limit", "value"), [("COMMIT_BYTES", 1), ("COMMIT_SECONDS", 0.0)])
def test_much_theta_or_much_time_is_not_kept_waiting(make_spec, tmp_path, monkeypatch, commit_sizes, limit, value):
    monkeypatch.setattr(train, limit, value)
    train.train(make_spec(), tmp_path / "out")
    assert commit_sizes == [1] * 4 * 2  # checkpoints x blocks


@pytest.mark.parametrize(
    ("sections", "error", "message"),
    [
        ({"seeds": {"vary": "order"}, "train": {"batch_size": 0}}, SpecError, "nothing would differ between seeds"),
        ({"train": {"batch_size": 121}}, SpecError, "121 is larger than the train set of iris: 120"),
        ({"data": {"name": "npz", "path": "nowhere.npz"}}, DataError, "nowhere.npz"),
        ({"data": {"name": "diabetes"}, "objective": {"loss": "cross_entropy"}}, SpecError, "regression"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(make_spec, tmp_path, sections, error, message):
    with pytest.raises(error, match=message):
        train.train(make_spec(**sections), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_is_refused_with_what_to_call(make_spec, tmp_path):
    spec = make_spec(sweep={"optimizer.learning_rate": [0.1, 0.01]})
    with pytest.raises(SpecError, match="run_sweep"):
        train.train(spec, tmp_path / "out")


def test_prepare_writes_nothing(make_spec, tmp_path):
    existing, data, plan = train.prepare(make_spec(), tmp_path / "out", train.programs.choose_devices(1))
    assert existing is None
    assert data.name == "iris"
    assert plan.layout.size == 4 * 5 + 5 + 5 * 3 + 3
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_resumed_with_its_recorded_block_width(make_spec, tmp_path, monkeypatch, every_checkpoint_commits):
    spec = make_spec(engine={"block_width": 0}, seeds={"num": 5})
    with pytest.raises(KeyboardInterrupt):
        train.train(spec, tmp_path / "out", monitor=Stopper(3))
    width = store.Store(tmp_path / "out").width
    monkeypatch.setitem(train.programs.MAX_WIDTH, "cpu", 2)
    run = train.train(spec, tmp_path / "out")
    assert run.complete
    assert run.provenance["block_width"] == width != 2
    assert specs.seed_ids(run.spec) == (0, 1, 2, 3, 4)
