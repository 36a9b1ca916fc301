# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Imports follow the order of the modules, without circles; the core imports neither torch nor transformers."""

import ast
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "ced_model"

PORT = ("configuration_ced", "feature_extraction_ced", "modeling_ced", "pipeline_ced", "pipeline_inputs")
SHARED = ("log_mel", "audioset", "model_settings", "custom_code")  # of port and core; they travel with the custom code
PORT_PACKAGES = {"torch", "numpy", "transformers", "huggingface_hub"}
# Components above the core, each with the components that it may import.
COMPONENTS: dict[str, tuple[str, ...]] = {
    "model_card": (),
    "zenodo": (),
    "endpoint_handler": (),
    "pretrained": (),
    "conversion": ("model_card", "pretrained", "zenodo"),
    "labelled": (),
    "dataset_rows": ("labelled",),
    "dataset_clips": ("dataset_rows", "labelled"),
    "confidence": ("labelled",),
    "confusion": (),
    "evaluation": ("confidence", "confusion", "labelled"),
    "strong_labels": ("labelled", "writers"),
    "event_evaluation": ("labelled", "strong_labels"),
    "training": (
        "conversion",
        "evaluation",
        "event_evaluation",
        "labelled",
        "model_card",
        "pretrained",
        "strong_labels",
    ),
    "exporting": (),
    "writers": (),
    "unfinished": ("writers",),
    "journal": ("unfinished", "writers"),
    "distributed": ("journal", "writers"),
    "live": (),
    "serve": ("writers",),
    "demo": (),
}
HEAVY = {"torch", "torchaudio", "transformers"}
MAY_LOAD_TORCH = ("engines.torch", "evaluation_mode")


def modules() -> dict[str, Path]:
    """The modules of the package by their names without `ced_model.`, "" for the package itself."""
    found = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT / PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


class Import:
    def __init__(self, target: str, is_late: bool, is_typing: bool) -> None:
        self.target, self.is_late, self.is_typing = target, is_late, is_typing


def imports(module: str) -> list[Import]:
    """Imports of a module: modules of this package begin with a dot; for others, only the top-level package."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    package = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]

    def walk(node: ast.AST, is_late: bool, is_typing: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for name in child.names:
                    yield Import(absolute(name.name), is_late, is_typing)
            elif isinstance(child, ast.ImportFrom):
                for name in child.names:
                    yield Import(resolved(child, name.name), is_late, is_typing)
            else:
                is_checking = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
                is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                yield from walk(child, is_late or is_function, is_typing or is_checking)

    def absolute(name: str) -> str:
        first, _, rest = name.partition(".")
        return f".{rest}" if first == PACKAGE else first

    def resolved(node: ast.ImportFrom, name: str) -> str:
        if not node.level:
            if not (node.module or "").startswith(PACKAGE):
                return (node.module or "").partition(".")[0]
            base = (node.module or "").partition(".")[2]
        else:
            parts = package.split(".") if package else []
            base = ".".join([*parts[: len(parts) - node.level + 1], *(node.module or "").split(".")]).strip(".")
        whole = f"{base}.{name}".strip(".")
        return f".{whole if whole in MODULES else base}"

    return list(walk(tree, False, False))


IMPORTS = {module: imports(module) for module in MODULES}


def component_of(module: str) -> str:
    """`port`, `shared`, `cli`, one of `COMPONENTS`, or `core`."""
    first = module.partition(".")[0]
    if first in PORT:
        return "port"
    if first in SHARED:
        return "shared"
    if first in ("cli", "__main__"):
        return "cli"
    return first if first in COMPONENTS else "core"


CORE = [module for module in MODULES if component_of(module) == "core" and module]


def uses(module: str, *, late: bool = True, typing: bool = False) -> Iterator[str]:
    """Modules of the package that a module imports."""
    for each in IMPORTS[module]:
        if each.target.startswith(".") and (late or not each.is_late) and (typing or not each.is_typing):
            yield each.target[1:]


def packages(module: str, *, late: bool) -> set[str]:
    """Third-party packages that a module imports."""
    found = {each.target for each in IMPORTS[module] if (late or not each.is_late) and not each.is_typing}
    return {name for name in found if not name.startswith(".")} - sys.stdlib_module_names


@pytest.mark.parametrize("module", [module for module in MODULES if module in (*PORT, *SHARED) and module])
def test_the_port_imports_only_the_port(module):
    """These files are sufficient for readers who only want the transformers model."""
    if module.startswith("pipeline"):
        # It also uses the core's audio, window, result and event files, which are part of the custom code.
        assert not set(uses(module)) & set(COMPONENTS) and all(component_of(other) != "cli" for other in uses(module))
        return
    assert set(uses(module)) <= {*PORT, *SHARED}
    assert packages(module, late=True) <= PORT_PACKAGES
    if module in SHARED and module != "custom_code":
        assert not packages(module, late=True) & HEAVY


@pytest.mark.parametrize("module", CORE)
def test_the_core_imports_neither_torch_nor_transformers(module):
    if module not in MAY_LOAD_TORCH:
        assert not packages(module, late=False) & HEAVY
        assert not [other for other in uses(module, late=False) if other in (*PORT, *MAY_LOAD_TORCH)]


@pytest.mark.parametrize("module", CORE)
def test_the_core_imports_no_component_above_it(module):
    assert [other for other in uses(module) if component_of(other) not in ("core", "port", "shared")] == []


def test_only_the_torch_engine_and_the_tagger_import_the_port():
    meeting = {module for module in CORE if any(component_of(other) == "port" for other in uses(module))}
    assert meeting == {"engines.torch", "tagger"}


@pytest.mark.parametrize("component", COMPONENTS)
def test_components_import_only_the_core_and_components_below_them(component):
    allowed = {"core", "port", "shared", component, *COMPONENTS[component]}
    mine = [module for module in MODULES if component_of(module) == component]
    assert [(module, other) for module in mine for other in uses(module) if component_of(other) not in allowed] == []


def test_only_the_command_imports_the_command():
    users = {module for module in MODULES for other in uses(module) if component_of(other) == "cli"}
    assert {module for module in users if component_of(module) != "cli"} == set()


def test_there_are_no_circular_imports():
    """Includes imports inside functions. A package and its own modules may import each other."""
    graph = {
        module: {other for other in uses(module) if other != module and not _is_own_package(module, other)}
        for module in MODULES
        if module
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


def _is_own_package(module: str, other: str) -> bool:
    """`engines` imports `engines.onnx` lazily, which imports types from `engines`."""
    return not other or module.startswith(f"{other}.") or other.startswith(f"{module}.")
