"""The benchmarks measure what they say; nothing here depends on how fast the machine is."""

import importlib
import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from analysis.landscape import plane_through
from wspace import open_run, stack_params
from wspace.data import make
from wspace.models import MLP

BENCHMARKS = Path(__file__).parent.parent / "runs" / "benchmarks"
sys.path.append(str(BENCHMARKS))
alignment, curvature, engine, landscape, memory, projection, tables, teams, worker, workloads = map(
    importlib.import_module,
    ("alignment", "curvature", "engine", "landscape", "memory", "projection", "tables", "teams", "worker", "workloads"),
)
SMALL = workloads.WORKLOADS["64-32-32-10"]


def row(contender, rates, *, variant="own", mode=teams.ALL, losses=(1.0,), missing=""):
    return teams.Row(contender, mode, variant, rates=list(rates), losses=list(losses), missing=missing)


def yardstick(numpy=(1e9,), jax=(1e9,)):
    return [row(teams.PEAK, numpy, variant="numpy"), row(teams.PEAK, jax, variant="jax")]


def test_flops_of_a_step_by_hand():
    workload = workloads.Workload((3, 4, 2), batch_size=5, num_seeds=1, num_examples=10, epochs=1)
    forward, weight_gradients, input_gradients = 3 * 4 + 4 * 2, 3 * 4 + 4 * 2, 4 * 2
    assert workload.flops == 2 * 5 * (forward + weight_gradients + input_gradients)
    assert SMALL.flops == 1_040_384


@pytest.mark.parametrize("workload", [*workloads.WORKLOADS.values(), workloads.TOY], ids=lambda w: w.name)
def test_batches_divide_the_examples_and_all_classes_occur(workload):
    x, y = workload.examples()
    assert workload.num_examples % workload.batch_size == 0
    assert workload.num_steps == workload.epochs * (len(x) // workload.batch_size)
    assert x.shape == (workload.num_examples, workload.sizes[0])
    assert x.dtype == "float32"
    assert set(y) == set(range(workload.sizes[-1]))


def test_targets_name_workloads_and_contenders():
    assert set(engine.TARGETS) <= set(workloads.WORKLOADS)
    assert {what for targets in engine.TARGETS.values() for what in targets} <= {*teams.CONTENDERS, teams.PEAK}


def test_peers_are_judged_as_they_come_and_at_their_best():
    rows = [
        *yardstick(numpy=[4e9], jax=[2e9]),
        row("wspace", [1200.0]),
        row("wspace", [9000.0], variant="shared"),
        row("torch-vmap", [400.0]),
        row("torch-vmap", [5000.0], variant="shared"),
        row("torch-loop", [60.0], mode=teams.ALL),
        row("torch-loop", [100.0], mode=teams.EACH),
        row("sklearn", [], missing="sklearn"),
    ]
    verdicts = {verdict.what: verdict for verdict in engine.judge(SMALL, rows)}
    assert verdicts[teams.PEAK].measured == pytest.approx(1200 * SMALL.flops / 4e9)
    assert verdicts[teams.PEAK].text == "at least 20% of the matmul peak: 31% of the matmul peak, met"
    assert verdicts["torch-vmap"].text == "at least 3 x torch-vmap: 3 x, met"
    assert verdicts["torch-loop"].ceiling == pytest.approx(4e9 / (60 * SMALL.flops))
    assert verdicts["torch-loop"].text == (
        "at least 100 x torch-loop: 20 x, NOT MET (out of reach here: all of the matmul peak would be 64.1 x); "
        "12 x its fastest setting, 1 process per core"
    )
    assert verdicts["sklearn"].text == "at least 15 x sklearn: not measured"


def test_shares_and_ratios_are_taken_within_a_round():
    rows = [*yardstick(numpy=[1e9, 4e9, 1e9], jax=[2e9, 2e9, 2e9]), row("wspace", [2.0, 4.0, 1.0])]
    assert engine.peak(rows) == [2e9, 4e9, 2e9]
    assert engine.share_of_peak(rows[-1], 10**9, engine.peak(rows)) == [1.0, 1.0, 0.5]
    assert engine.ratios(rows[-1], row("sklearn", [1.0, 1.0, 2.0])) == [2.0, 4.0, 0.5]


def test_on_a_gpu_shares_are_those_of_its_own_peak_and_ratios_those_to_wspace_on_it():
    assert set(teams.ON_GPU) <= set(teams.CONTENDERS)
    rows = [
        row(teams.PEAK, [1e9], variant="jax"),
        row(teams.PEAK, [8e9], variant="jax", mode=teams.GPU),
        row("wspace", [100.0]),
        row("wspace", [800.0], mode=teams.GPU),
        row("torch-vmap", [200.0], mode=teams.GPU),
    ]
    summary = engine.summary(SMALL, rows)
    found = {(one["contender"], one["mode"]): one for one in summary["rows"]}
    assert summary["peak_flops"] == 8e9
    assert summary["verdicts"] == []
    assert found["wspace", teams.ALL]["share_of_peak"] == pytest.approx(100 * SMALL.flops / 1e9)
    assert found["torch-vmap", teams.GPU]["share_of_peak"] == pytest.approx(200 * SMALL.flops / 8e9)
    assert found["torch-vmap", teams.GPU]["wspace_is_times_as_fast"] == 4
    assert found["wspace", teams.ALL]["wspace_is_times_as_fast"] == 8


def test_a_contender_that_does_not_train_is_found():
    fine = [row("wspace", [1.0], losses=[1.0]), row("sklearn", [1.0], losses=[1.2]), row("a", [1.0], losses=[0.9])]
    assert engine.strays(SMALL, fine) == []
    for loss in (math.log(10), 0.1, math.nan, math.inf):
        (stray,) = engine.strays(SMALL, [*fine, row("jax-loop", [1.0], losses=[loss])])
        assert stray.startswith("jax-loop")
    assert engine.strays(SMALL, [row("a", [], losses=[], missing="torch")]) == []
    assert len(engine.strays(SMALL, [row("a", [1.0], losses=[math.nan])])) == 1
    assert len(engine.strays(SMALL, [row("a", [1.0], losses=[3.0]), row("b", [1.0], losses=[3.0])])) == 2


@pytest.mark.parametrize(
    ("module", "variant"),
    [
        pytest.param(contender.module, variant, marks=[pytest.mark.bench] * contender.module.startswith("torch"))
        for contender in teams.CONTENDERS.values()
        for variant in contender.variants
    ],
)
def test_contenders_take_the_steps_they_report_and_train(module, variant):
    workload = workloads.TOY
    turn = importlib.import_module(f"contenders.{module}").prepare(workload, *workload.examples(), variant)
    amount, seconds, loss = turn(3)
    networks = workload.num_seeds if module in ("wspace_engine", "torch_vmap") else 1
    assert amount == networks * workload.num_steps
    assert seconds > 0
    assert loss < 0.5 * math.log(workload.sizes[-1])


def test_numbers_that_are_not_finite_are_written_and_shown():
    rows = [row("wspace", [1.0]), row("sklearn", [1.0]), row("jax-loop", [1.0], losses=[math.nan])]
    summary = engine.summary(SMALL, [*yardstick(), *rows])
    assert json.loads(json.dumps(summary, allow_nan=False))["rows"][2]["losses"] == [None]
    assert "not finite" in engine.markdown(summary)
    assert "WRONG: jax-loop" in engine.markdown(summary)


def test_a_turn_lasts_at_least_as_long_as_asked():
    seeds = []
    answer = worker.train(lambda seed: seeds.append(seed) or (100, 0.4, float(seed)), 1.0, 7)
    assert seeds == [7, 8, 9]
    assert answer == {"amount": 300, "seconds": pytest.approx(1.2), "turns": 3, "loss": 8.0}


@pytest.mark.parametrize(("name", "told"), [("torch", True), ("something_else", False)])
def test_only_a_missing_torch_is_not_an_error(tmp_path, name, told):
    (tmp_path / "torch.py").write_text(f"raise ModuleNotFoundError('planted', name={name!r})")
    workload = workloads.TOY
    job = {"contender": "torch_loop", "variant": "own", "core": None, "workload": vars(workload)}
    command = [sys.executable, str(BENCHMARKS / "worker.py"), json.dumps(job)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True)
    if told:
        assert json.loads(done.stdout)["missing"] == "torch"
    else:
        assert done.returncode == 1
        assert "planted" in done.stderr


def test_a_table_is_aligned():
    lines = tables.table(("name", "value"), [("a", "1"), ("longer", "100")]).splitlines()
    assert lines == ["| name   | value |", "| ------ | ----: |", "| a      |     1 |", "| longer |   100 |"]


def test_results_stand_between_the_markers(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- engine: begin -->\nold\n<!-- engine: end -->\nafter\n")
    tables.show("engine", "new \\1", readme)
    tables.show("engine", "new \\1", readme)
    assert readme.read_text() == "before\n<!-- engine: begin -->\n\nnew \\1\n\n<!-- engine: end -->\nafter\n"
    with pytest.raises(ValueError, match="no place for memory"):
        tables.show("memory", "new", readme)


@pytest.mark.parametrize("section", ["alignment", "engine", "landscape", "memory"])
def test_the_readme_has_a_place_for_results(section):
    text = tables.README.read_text()
    assert text.index(f"<!-- {section}: begin -->") < text.index(f"<!-- {section}: end -->")


def test_growth_of_memory_is_judged():
    rows = [
        {"checkpoints": n, "theta_bytes": n, "peak_bytes": peaks} for n, peaks in ((5, [100, 900, 110]), (50, [90]))
    ]
    assert memory.growth(rows[1], rows) == -20
    assert memory.met(rows)
    rows.append({"checkpoints": 500, "theta_bytes": 500, "peak_bytes": [111 + memory.ALLOWED_BYTES]})
    assert not memory.met(rows)
    assert "NOT MET" in memory.markdown(rows)


def test_peak_memory_counts_what_was_freed():
    code = "import memory; a = bytearray(100_000_000); del a; print(memory.peak_bytes())"
    done = subprocess.run([sys.executable, "-c", code], cwd=BENCHMARKS, capture_output=True, text=True, check=True)
    assert 100_000_000 < int(done.stdout) < 300_000_000


def networks(num, *, sizes=(7, 12, 9, 12, 3)):
    model, keys = MLP(sizes), jax.random.split(jax.random.key(0), num)
    reference, *others = (jax.tree.map(lambda x: x + 0.1, model.init(key)) for key in keys)  # biases that are not 0
    host = lambda tree: jax.tree.map(np.asarray, tree)  # noqa: E731
    return alignment.Population(model.symmetry, host(reference), host(stack_params(others)))


def test_plain_alignment_ends_where_wspace_does_and_reports_what_it_reached():
    population = networks(6)
    match, plain = alignment.align(population), alignment.plainly(population, range(5), from_inputs=True)
    assert alignment.same_perms(match, plain)
    np.testing.assert_allclose([ascent.objective for ascent in plain], match.objective, rtol=1e-12)
    plain[3].perms[1][[0, 1]] = plain[3].perms[1][[1, 0]]
    assert not alignment.same_perms(match, plain)


def test_published_alignment_begins_at_the_identity():
    population = networks(2)
    itself = population._replace(others=jax.tree.map(lambda leaf: leaf[None], population.reference))
    (found,) = alignment.plainly(itself, [0], from_inputs=False)
    assert all(np.array_equal(perm, np.arange(len(perm))) for perm in found.perms)
    (found,) = alignment.plainly(population, [0], from_inputs=False)
    leaves = [jax.tree.leaves(tree) for tree in (population.reference, population.others)]
    assert found.objective > sum(float(np.vdot(a, b[0])) for a, b in zip(*leaves, strict=True))


def test_every_assignment_is_timed_and_then_no_more():
    population = networks(3)
    with alignment.timed_assignments() as times:
        match = alignment.align(population, num_threads=1)
    assert len(times) >= 2 * 3  # two pairs, three layers
    assert min(times) > 0
    num = len(times)
    assert np.array_equal(alignment.align(population).objective, match.objective)
    assert len(times) == num


def test_alignment_is_judged_within_a_round():
    seconds = {"wspace": [3.0, 9.0, 3.0], "assignments": [4.0, 4.0, 4.0], "plain": [9.0, 9.0, 3.0]}
    record = {"num_cores": 2, "seconds": seconds | {"products": [1.0, 1.0, 9.0]}, "peak_bytes": 5e9}
    floor, plain, peak = alignment.verdicts(record)
    assert floor == ("at most 1.5 x the assignments alone on 2 cores: 1.5 x, met", 1.5, True)
    assert plain == ("at least 2 x as fast as plain code: 1 x, NOT MET", 1.0, False)
    assert peak == ("at most 4 GB resident: 5.00 GB, NOT MET", 5e9, False)
    record["seconds"]["products"] = [3.0, 3.0, 3.0]
    assert alignment.verdicts(record)[0][0].endswith(
        "with nothing but the products of weights beside them it would be 1.75 x)"
    )


@pytest.mark.slow
def test_alignment_runs_and_finds_its_networks_again(tmp_path):
    out = tmp_path / "alignment.json"
    options = ["--quick", "--rounds", "2", "--out", str(out), "--runs", str(tmp_path / "runs")]
    command = [sys.executable, str(BENCHMARKS / "alignment.py"), *options]
    printed, records = [], []
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout)
        records.append(json.loads(out.read_text()))
    (folder,) = (tmp_path / "runs").iterdir()
    assert len(open_run(folder).provenance["sessions"]) == 1
    assert records[0]["objective"] == records[1]["objective"]
    assert records[0]["num_pairs"] == records[0]["converged"] == 4
    assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in records[0]["seconds"].values())
    assert records[0]["peak_bytes"] > 50e6
    assert all("its assignments alone" in text and "WRONG" not in text for text in printed)


def scene(num=5):
    model, rng = MLP((6, 9, 7, 3)), np.random.default_rng(0)
    a, b, c = (jax.tree.map(np.asarray, model.init(jax.random.key(seed))) for seed in range(3))
    data = make(rng.standard_normal((40, 6)), np.arange(40) % 3, task="classification")
    return landscape.Scene(model, data, plane_through(a, b, c), num)


def test_plain_surfaces_are_those_of_wspace():
    small = scene()
    ours, points = landscape.surface(small), small.points
    one, many = (landscape.plain_program(small, vmapped=vmapped) for vmapped in (False, True))
    reference = landscape.looped(one, points)
    assert landscape.difference(ours, reference)[0] < landscape.TOLERANCE
    assert landscape.difference(landscape.vmapped(many, points, 5), reference)[0] < landscape.TOLERANCE
    np.testing.assert_array_equal(landscape.surface(small, rows=1), ours[:5])
    assert landscape.difference(np.array([[1.0, 0.5]]), np.array([[2.0, 0.25]])) == [0.5, 0.25]
    assert landscape.difference(np.array([[3.0]]), np.array([[2.0, 0.25]])) == [0.5]


def test_points_of_planar_interpolation():
    plane = scene().plane
    a, b, c = (anchor.coordinates for anchor in plane.anchors)
    found = landscape.their_points(plane, 2)
    expected = [a + (c - a) / 2, c, a + (b - a) / 2, a + (b - a) / 2 + (c - a) / 2]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_flops_of_a_point_by_hand():
    small = scene(num=5)
    num, first, others = len(small.data.x_train), 6 * 9, 9 * 7 + 7 * 3
    assert landscape.flops(small, executed=False) == 2 * num * (first + others)
    assert landscape.flops(small, executed=True) == pytest.approx(2 * num * (others + 3 * first / 25))


def test_points_are_vmapped_as_memory_allows(monkeypatch):
    small = scene(num=5)
    point = 4 * (9 + 7) * len(small.data.x_train)
    for allowed, num in ((25 * point, 25), (24 * point, 5), (5 * point, 5)):
        monkeypatch.setattr(landscape, "VMAP_BYTES", allowed)
        assert landscape.points_at_once(small) == num
    monkeypatch.setattr(landscape, "VMAP_BYTES", 4 * point)
    with pytest.raises(SystemExit, match="vmap over 5 points"):
        landscape.points_at_once(small)


def test_surfaces_are_judged_within_a_round():
    record = {
        "seconds": {"wspace": [1.0, 3.0, 1.0], "loop": [2.0, 3.0, 3.0], "loss-landscapes": [9.0, 9.0, 9.0]},
        "peak_flops": [4.0, 4.0, 8.0], "executed_flops": 2.0, "num_examples": 100,
        "targets": {"loop": 2.0, "loss-landscapes": 20.0, "vmap": 1.0},
        "differs": {"wspace": [1e-6, 0.02], "vmap": [1e-6, 0.03], "loss-landscapes": [math.nan]},
    }  # fmt: skip
    loop, theirs, vmap = landscape.verdicts(record)
    assert loop == "at least 2 x as fast as per-point loop, jitted JAX: 2 x, met"
    assert theirs.endswith("PyTorch: 9 x, NOT MET (out of reach here: all of the matmul peak would be 18 x)")
    assert vmap.endswith("not measured")
    assert landscape.shares(record, "wspace", 2.0) == 0.25
    accuracy, losses = landscape.wrong(record)
    assert accuracy.startswith("vmap: accuracies differ by 0.03")
    assert losses.startswith("loss-landscapes: losses differ")


@pytest.mark.slow
def test_landscape_runs(tmp_path):
    out = tmp_path / "landscape.json"
    command = [sys.executable, str(BENCHMARKS / "landscape.py"), "--quick", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    record = json.loads(out.read_text())["jobs"]["toy"]
    installed = all(importlib.util.find_spec(name) for name in ("torch", "loss_landscapes"))
    assert set(record["seconds"]) == {"wspace", "loop", "vmap", *(["loss-landscapes"] if installed else [])}
    assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in record["seconds"].values())
    assert record["peak_bytes"] > 50e6
    assert ("not installed" in done.stdout) != installed


def measured(contender, peak_bytes=1e9, num_points=100, **more):
    return {"contender": contender, "num_points": num_points, "stored_bytes": 4e8, "peak_bytes": peak_bytes} | more


def test_stored_trajectories_have_few_directions_and_a_runs_chunks(tmp_path):
    theta = projection.store(tmp_path / "theta.zarr", 5, 6, 300, 2)
    assert theta.shape == (5, 6, 300)
    assert theta.chunks == (2, 1, 300)
    _, sizes, _ = np.linalg.svd(np.asarray(theta[:]).reshape(30, 300).astype(float))
    assert 0 < np.sum(sizes[projection.PLANTED :] ** 2) < 1e-3 * np.sum(sizes**2)
    assert np.linalg.norm(theta[0, 0] - theta[1, 0]) > 0


def test_planes_and_memory_of_principal_components_are_judged():
    a = np.eye(3)[:2]
    assert projection.angle(a, np.array([[0.6, 0.8, 0.0], [0.8, -0.6, 0.0]])) == pytest.approx(0)
    assert projection.angle(a, np.array([[1, 0, 0], [0, 0.8, 0.6]])) == pytest.approx(0.6)
    rows = [
        *(measured("stream", 1e9 + more, passes=9, off=off) for more, off in ((0, 1e-9), (1e8, 1e-9), (2e8, 1e-3))),
        measured("gram", 1e9), measured("gram", 3e9, num_points=10_000), measured("incremental", off=0.3),
    ]  # fmt: skip
    stream, gram, plane = projection.verdicts({"rows": rows})
    assert stream == (
        "wspace, stream: grows by at most 134 MB from the fewest points to the most: +200 MB, NOT MET",
        False,
    )
    assert gram[0].endswith(
        "4134 MB from the fewest points to the most, 4000 MB of it for the Gram matrix: +2000 MB, met"
    )
    assert plane == ("WRONG: wspace, stream, 100 points: off by 1.0e-03", False)


def test_flops_and_extrapolation_of_principal_components_by_hand():
    width, num = projection.NUM + projection.GUARDS, projection.NUM
    row = measured("stream", seconds=8.0, passes=5)
    iterations = 3 * 2 * 100 * 1000 * 2 * width
    assert projection.flops(row, 1000) == iterations + 2 * 100 * 1000 * (width + 3 * num)
    assert projection.flops(measured("gram"), 1000) == 100**2 * 1000 + 2 * 100 * 1000 * 3 * num
    text = projection.extrapolated({"rows": [row], "num_params": 1000})
    assert text.startswith("EXTRAPOLATED, not measured")
    assert "400 GB in float32, 800 GB in float64, and their Gram matrix 80 GB" in text
    assert "at the 0.25 GB/s of 100 points takes 27 minutes a pass, 2.2 h for the 5 passes" in text


@pytest.mark.slow
def test_projection_runs(tmp_path):
    out = tmp_path / "projection.json"
    command = [
        sys.executable,
        str(BENCHMARKS / "projection.py"),
        "--quick",
        "--contenders",
        "stream",
        "gram",
        "incremental",
    ]
    done = subprocess.run([*command, "--folder", str(tmp_path), "--out", str(out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    record = json.loads(out.read_text())
    rows = {(row["contender"], row["num_points"]): row for row in record["rows"]}
    assert {name for name, _ in rows} == {"read", "stream", "gram", "incremental"}
    assert {num for _, num in rows} == {128, 256, 512}
    assert all(row["seconds"] > 0 and row["peak_bytes"] > 50e6 for row in rows.values())
    assert all(rows["stream", num]["off"] < 1e-6 < rows["incremental", num]["off"] for num in (128, 256, 512))
    assert os.listdir(tmp_path) == ["projection.json"]


def test_arpack_and_plain_lanczos_find_known_spectra():
    values = np.array([5.0, 3.0, 2.0, *np.linspace(0.9, -0.4, 56), -1.0])
    columns = np.linalg.qr(np.random.default_rng(0).standard_normal((60, 60)))[0]
    matrix, start = columns * values @ columns.T, np.random.default_rng(1).standard_normal(60)
    ends = [("LA", 2, 20, 1e-10), ("SA", 1, 20, 1e-10)]
    found, vectors, products = curvature.eigenpairs(lambda v: matrix @ v, start, ends)
    np.testing.assert_allclose(found, [5, 3, -1], rtol=1e-8)
    np.testing.assert_allclose(np.abs(np.sum(vectors * columns.T[[0, 1, 59]], axis=1)), 1, rtol=1e-8)
    assert products >= 40
    nodes, weights = curvature.quadrature(lambda v: matrix @ v, start, 10)
    for power in range(20):  # Gauss
        exact = start @ np.linalg.matrix_power(matrix, power) @ start / (start @ start)
        assert np.sum(weights * nodes**power) == pytest.approx(exact, rel=1e-8)


def test_arpack_is_told_what_is_just_accurate_enough():
    values = np.sort([-1.0, *np.linspace(-0.5, 0.9, 90), 2.0, 3.0, 10.0])
    sizes, start = (
        curvature.QUICK._replace(largest=3, smallest=1),
        np.random.default_rng(1).standard_normal(len(values)),
    )
    found, ends = curvature.calibrate(np.diag(values), start, sizes)
    np.testing.assert_allclose(found, values, rtol=1e-12, atol=1e-12)
    got, vectors, products = curvature.eigenpairs(lambda v: values * v, start, ends)
    np.testing.assert_allclose(got, [10, 3, 2, -1], atol=10 * curvature.TOLERANCE)
    assert np.linalg.norm(values * vectors - got[:, None] * vectors, axis=1).max() <= 10 * curvature.TOLERANCE
    strict = [(which, num, 20, curvature.TOLERANCE) for which, num, _, _ in ends]
    assert products <= curvature.eigenpairs(lambda v: values * v, start, strict)[2]


def test_densities_are_compared_with_the_exact_one():
    exact = np.linspace(-1, 10, 300)
    same = curvature.check_density([exact, exact], np.tile(exact, (2, 3, 1)), np.full((2, 3, 300), 1 / 300))
    apart = curvature.check_density([exact], np.full((1, 1, 1), 1e6), np.ones((1, 1, 1)))
    assert max(same.values()) < 1e-12
    assert apart["distance"] == pytest.approx(2, abs=1e-3)
    assert apart["wide"] == pytest.approx(2, abs=1e-3)


def test_products_and_params_of_hessians_by_hand():
    model = MLP((3, 4, 2))
    layout = curvature.Layout.of(model.init(jax.random.key(0)))
    data = make(np.random.default_rng(0).standard_normal((50, 3)), np.arange(50) % 2, task="classification")
    scene = curvature.Scene(curvature.Objective(model, "cross_entropy", data), None)
    outputs, moved, weights = 3 * 4 + 4 * 2, 3 * 4 + 2 * (4 * 2), 3 * 4 + 2 * (4 * 2)
    assert curvature.flops(scene) == 2 * len(data.x_train) * (outputs + 4 * 2 + moved + 2 * (4 * 2) + weights)
    theta = np.arange(layout.size, dtype=float)
    first, second = layout.unravel(theta)
    theirs = theta[curvature.torch_order(layout)]
    np.testing.assert_array_equal(theirs[:12].reshape(4, 3), first["weight"].T)
    np.testing.assert_array_equal(theirs[-2:], second["bias"])


def test_curvatures_are_judged_within_a_round_and_by_their_accuracy():
    def timed(kind, contender, mode, seconds, **more):
        return {"kind": kind, "contender": contender, "mode": mode, "seconds": seconds, "missing": "", **more}

    rows = [
        timed("extremes", "wspace", teams.ALL, [1.0, 2.0, 1.0], products=10.0, residual=1e-5, off=1e-9),
        timed("extremes", "jax-loop", teams.ALL, [6.0, 6.0, 6.0], products=9.0, residual=2e-4, off=1e-9),
        timed("extremes", "jax-loop", teams.EACH, [3.0, 6.0, 3.0], products=9.0, residual=math.nan, off=1e-9),
        timed("density", "jax-loop", teams.ALL, [1.0, 1.0, 1.0], wide=0.4),
        timed("density", "curvlinops", teams.ONE, [1.0, 1.0, 1.0], wide=0.7),
    ]
    record = {"rows": rows, "peak_flops": [100.0, 100.0, 100.0], "flops": 12.0}
    loop, theirs, *density = curvature.verdicts(record)
    assert loop == (
        "extremes: at least 5 x as fast as network by network, jitted JAX (all cores): 6 x, met; "
        "3 x its fastest setting, 1 process per core"
    )
    assert all(line.endswith("not measured") for line in (theirs, *density))
    assert curvature.share(record, rows[0], 10.0) == pytest.approx(1.2)
    residual, unknown, far = curvature.wrong(record)
    assert residual.startswith("network by network, jitted JAX, all cores: a residual is 0.0002")
    assert unknown.startswith("network by network, jitted JAX, 1 process per core: a residual is nan")
    assert far.startswith("curvlinops, PyTorch, 1 thread: its density is 0.7")
    assert curvature.wrong(None) == []


@pytest.mark.slow
def test_curvature_runs(tmp_path):
    out = tmp_path / "curvature.json"
    command = [sys.executable, str(BENCHMARKS / "curvature.py"), "--quick", "--peer-networks", "2", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    record = json.loads(out.read_text())
    rows = record["curvature"]["rows"]
    installed = all(importlib.util.find_spec(name) for name in ("torch", "curvlinops"))
    assert len(rows) == 2 * 6
    for row in rows:
        measured = row["contender"] != "curvlinops" or installed
        assert len(row["seconds"]) == (2 if measured else 0)
        assert (row["missing"] == "") == measured
        if measured and row["kind"] == "extremes":
            assert row["residual"] <= curvature.TOLERANCE
            assert row["off"] <= curvature.TOLERANCE
        elif measured:
            assert 0 < row["wide"] < row["distance"] < 2
    assert ("not installed" in done.stdout) != installed
    (census,) = record["census"]
    assert census["first"]["num_restarts"] == sum(census["first"]["labels"].values()) == curvature.QUICK.restarts
    assert census["first"]["seconds"].keys() == set(curvature.STAGES)


@pytest.mark.slow
def test_engine_runs(tmp_path):
    out = tmp_path / "engine.json"
    options = ["--quick", "--contenders", "wspace", "torch-loop", "--out", str(out)]
    done = subprocess.run([sys.executable, str(BENCHMARKS / "engine.py"), *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (workload,) = json.loads(out.read_text())["workloads"]
    assert workload["name"] == workloads.TOY.name
    assert workload["peak_flops"] > 0
    assert workload["strays"] == []
    names = [(row["contender"], row["variant"], row["mode"]) for row in workload["rows"]]
    assert names == [
        ("wspace", "own", teams.ALL),
        ("wspace", "shared", teams.ALL),
        *(("torch-loop", "own", mode) for mode in (teams.ALL, teams.ONE, teams.EACH)),
    ]
    installed = importlib.util.find_spec("torch") is not None
    for row in workload["rows"]:
        measured = row["contender"] == "wspace" or installed
        assert len(row["rates"]) == (2 if measured else 0)
        assert (row["missing"] == "") == measured
    assert ("torch: not installed" in done.stdout) != installed


@pytest.mark.slow
def test_memory_runs(tmp_path):
    out = tmp_path / "memory.json"
    options = ["--quick", "--checkpoints", "3", "30", "--repeats", "1", "--out", str(out)]
    done = subprocess.run([sys.executable, str(BENCHMARKS / "memory.py"), *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    record = json.loads(out.read_text())
    few, many = record["rows"]
    assert record["met"]
    assert few["theta_bytes"] * 10 == many["theta_bytes"]
    assert min(*few["peak_bytes"], *many["peak_bytes"]) > 50e6
