# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Parts of `ced_model` without the import of torch and transformers that the package itself costs."""

from functools import cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType


@cache
def load_module(name: str) -> ModuleType:
    """Loads `ced_model/{name}.py` by its location. Its classes are not those of `ced_model`, its data are."""
    package = find_spec("ced_model")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError("No module named 'ced_model'")
    path = Path(next(iter(package.submodule_search_locations)), f"{name}.py")
    spec = spec_from_file_location(f"ced_cli.light.{name}", path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
