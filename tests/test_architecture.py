"""The direction of imports, and habits that a reader relies on, read off the source."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted([*(ROOT / "wspace").rglob("*.py"), *(ROOT / "analysis").rglob("*.py")])
TREES = {path.relative_to(ROOT): ast.parse(path.read_text(encoding="utf-8")) for path in FILES}
NAMES = {path: ".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in TREES}


def imports(node):
    """Dotted names that a syntax tree imports, those inside functions too."""
    for child in ast.walk(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are absolute"
            yield from (f"{child.module}.{alias.name}" for alias in child.names)


def top_level(tree):
    """The statements that run when a module is imported: not functions, nor what only type checkers see."""
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node


def belongs(name, *packages):
    return any(name == package or name.startswith(f"{package}.") for package in packages)


@pytest.mark.parametrize("path", [p for p in TREES if p.parts[0] == "wspace" and p.name != "cli.py"], ids=str)
def test_the_engine_never_imports_the_analyses(path):
    assert [name for name in imports(TREES[path]) if belongs(name, "analysis")] == []


@pytest.mark.parametrize("path", [p for p in TREES if p.parts[0] == "analysis"], ids=str)
def test_data_flows_one_way(path):
    """Computing knows no figures, figures know no report, neither knows how training is done."""
    names = set(imports(TREES[path]))
    part = path.parts[1] if path.parts[1] in ("figures", "report") else "compute"
    forbidden = {
        "compute": ("analysis.figures", "analysis.report", "matplotlib"),
        "figures": ("analysis.report", "jax", "wspace.train", "wspace.program", "wspace.store"),
        "report": ("wspace.train", "wspace.program", "wspace.cli"),
    }[part]
    assert [name for name in names if belongs(name, *forbidden)] == []


@pytest.mark.parametrize("path", TREES, ids=str)
def test_nothing_global_and_nothing_unsafe(path):
    source = (ROOT / path).read_text(encoding="utf-8")
    names = set(imports(TREES[path]))
    assert [name for name in names if belongs(name, "matplotlib.pyplot", "pickle", "joblib", "dill")] == []
    assert "allow_pickle=True" not in source
    assert "jax.config.update" not in source
    assert not [node for node in ast.walk(TREES[path]) if isinstance(node, ast.ExceptHandler) and node.type is None]


def test_no_module_imports_itself_by_a_detour():
    edges, modules = {}, set(NAMES.values())
    for path, tree in TREES.items():
        found = set()
        for statement in top_level(tree):
            for name in imports(statement):
                found.add(name if name in modules else name.rpartition(".")[0])
        edges[NAMES[path]] = found & modules
    done, active = set(), []

    def visit(module):
        assert module not in active, f"import circle: {' -> '.join([*active, module])}"
        if module not in done:
            active.append(module)
            for other in sorted(edges[module]):
                visit(other)
            done.add(active.pop())

    for module in edges:
        visit(module)


def public_definitions():
    for path, tree in TREES.items():
        yield str(path), tree
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                yield f"{path}:{node.name}", node
                for child in node.body if isinstance(node, ast.ClassDef) else []:
                    if isinstance(child, ast.FunctionDef) and not child.name.startswith("_"):
                        yield f"{path}:{node.name}.{child.name}", child


def test_everything_public_has_a_docstring():
    # What a protocol's docstring explains, its implementations need not repeat.
    explained = {
        child.name
        for tree in TREES.values()
        for node in tree.body
        if isinstance(node, ast.ClassDef) and any(isinstance(b, ast.Name) and b.id == "Protocol" for b in node.bases)
        for child in node.body
        if isinstance(child, ast.FunctionDef)
    }
    bare = [
        name
        for name, node in public_definitions()
        if not ast.get_docstring(node) and name.rpartition(".")[2] not in explained
    ]
    assert bare == []


@pytest.mark.parametrize("path", [p for p in TREES if p.name != "__init__.py" and len(p.parts) == 2], ids=str)
def test_tests_mirror_modules(path):
    folder = ROOT / "tests" if path.parts[0] == "wspace" else ROOT / "tests" / "analysis"
    exempt = {"errors.py"}  # nothing but names
    assert path.name in exempt or (folder / f"test_{path.name}").exists()


def test_the_readmes_tree_is_true():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = text.split("## What is where")[1].split("```")[1]
    folder, listed = Path(), set()
    for line in filter(str.strip, block.splitlines()):
        name = line.split()[0]
        if not line.startswith(" "):
            folder = Path(name)
            assert (ROOT / folder).is_dir(), name
        else:
            assert (ROOT / folder / name).exists(), folder / name
            listed.add(folder / name)
    modules = {path for path in TREES if len(path.parts) == 2 and path.name != "__init__.py"}
    assert modules <= listed, f"not in the README: {sorted(map(str, modules - listed))}"


def test_links_in_the_documents_lead_somewhere():
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "runs").rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_importing_changes_no_global_state():
    code = """
import os, sys
import wspace
assert "jax" not in sys.modules, "wspace imports jax before it is used"
import jax, matplotlib, sklearn
before = dict(os.environ)  # jax and scikit-learn set variables of their own
state = {name: getattr(jax.config, name) for name in ("jax_enable_x64", "jax_default_matmul_precision")}
parameters, backend = dict(matplotlib.rcParams), matplotlib.get_backend()
import importlib
for name in sys.argv[1:]:
    importlib.import_module(name)
assert dict(os.environ) == before, "environment"
assert all(getattr(jax.config, name) == value for name, value in state.items()), "jax.config"
assert dict(matplotlib.rcParams) == parameters and matplotlib.get_backend() == backend, "matplotlib"
"""
    command = [sys.executable, "-c", code, *NAMES.values()]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
