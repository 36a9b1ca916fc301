# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Parts of `ced_model` without the import of torch and transformers that the package itself costs."""

import sys
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType


@cache
def load_module(name: str) -> ModuleType:
    """Loads `ced_model/{name}.py` by its location. Its classes are not those of `ced_model`, its data are."""
    package = find_spec("ced_model")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError("No module named 'ced_model'")
    light = ModuleType("ced_light")  # the package without its __init__.py
    light.__path__ = list(package.submodule_search_locations)
    return import_module(f"{sys.modules.setdefault('ced_light', light).__name__}.{name.replace('/', '.')}")
