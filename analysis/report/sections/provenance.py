"""Section: where the numbers come from."""

import importlib.metadata
import platform

import numpy as np

from analysis.report.findings import finding
from analysis.report.section import Content, Section, Tell, anything, varied
from wspace import spec as specs
from wspace.run import Run

REPORT_PACKAGES = ("wspace", "jax", "jaxlib", "numpy", "scipy", "matplotlib")


def write(run: Run, rng: np.random.Generator, tell: Tell) -> Content:
    """Versions, devices, data hash, sessions and the complete spec."""
    p = run.provenance
    data, sessions = p.get("data", {}), p.get("sessions", [])
    findings = {
        "created": finding(str(p.get("created", "not recorded"))),
        "wspace": finding(str(p.get("wspace", "not recorded"))),
        "run_format": finding(str(p.get("schema", "not recorded"))),
        "dtype": finding(str(p.get("dtype", "not recorded"))),
        "block_width": finding(int(p["block_width"])),
        "num_params": finding(int(run.layout.size)),
        "layers": finding(run.model.outline),
        "data": finding(str(data.get("name", run.spec.data.name))),
        "data_hash": finding(str(p["data_hash"])),
        "spec": finding(specs.to_toml(run.spec)),
        "report_made_with": finding([f"python {platform.python_version()}", *_versions(REPORT_PACKAGES)]),
    }
    facts = [
        ("Run begun", "{created}"),
        ("Data", "{data}"),
        ("Hash of the data", "{data_hash}"),
        ("Network", "{layers}; {num_params} weights and biases, {dtype}"),
        ("Seeds trained side by side", "{block_width}"),
        ("What differs between seeds", varied(run)),
        ("Version of wspace", "{wspace}; run format {run_format}"),
    ]
    if "num_train" in data:
        findings["num_train"], findings["num_test"] = finding(data["num_train"]), finding(data["num_test"])
        facts[1] = ("Data", "{data}: {num_train} train and {num_test} test examples")
    if p.get("precision"):
        findings["precision"] = finding(str(p["precision"]))
        facts.append(("Matmul precision on accelerators", "{precision}"))
    if p.get("commit"):
        findings["commit"] = finding(str(p["commit"]))
        facts.append(("Commit of the code", "{commit}"))
    if sessions:
        findings["sessions"] = finding(len(sessions))
    if len(sessions) > 1:
        facts.append(("Training sessions", "{sessions}"))
    names = "abcdefghijklmnopqrstuvwxyz"
    for i, session in enumerate(sessions):
        key = f"session_{i + 1}"
        findings[f"{key}_started"] = finding(str(session.get("started", "not recorded")))
        findings[f"{key}_command"] = finding(str(session.get("command", "not recorded")))
        findings[f"{key}_devices"] = finding(_count(session.get("devices", [])))
        findings[f"{key}_machine"] = finding(str(session.get("machine", "not recorded")))
        findings[f"{key}_versions"] = finding([f"{k} {v}" for k, v in session.get("versions", {}).items()])
        findings[f"{key}_flags"] = finding([f"{k}={v}" for k, v in session.get("flags", {}).items()] or "none")
        label = "Training" if len(sessions) == 1 else f"Session {names[i]}" if i < len(names) else "Later session"
        facts.append((label, f"{{{key}_started}}, on {{{key}_devices}}; {{{key}_machine}}; flags: {{{key}_flags}}"))
        facts.append((f"{label}: versions", f"{{{key}_versions}}"))
        facts.append((f"{label}: command", f"{{{key}_command}}"))
    facts.append(("This report", "{report_made_with}"))
    says = []
    if len({str(session.get("versions")) + str(session.get("devices")) for session in sessions}) > 1:
        says.append(
            "The sessions differ in versions or devices: seeds finished in different sessions agree only up to "
            "rounding."
        )
    return Content(
        findings=findings,
        says=tuple(says),
        shows="What was asked, on which data, with which versions, on which machine.",
        reads="The same spec with the same versions, on devices of the same kind, gives the same numbers, bit by bit.",
        limits="On other versions or devices the last bits differ, and training can amplify them: expect the same "
        "distributions there, not the same networks.",
        facts=tuple(facts),
        listing="spec",
    )


def _versions(packages: tuple[str, ...]) -> list[str]:
    return [f"{package} {importlib.metadata.version(package)}" for package in packages]


def _count(devices: list) -> str:
    kinds = list(dict.fromkeys(str(device) for device in devices))
    return ", ".join(f"{devices.count(kind)} × {kind}" for kind in kinds) or "not recorded"


SECTION = Section("provenance", "Provenance", "Where do these numbers come from?", anything, write)
