# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Checks for optional packages."""

import sys
from importlib.util import find_spec

from .messages import listed

INSTALL = {
    "onnx": "pip install onnxruntime onnx",
    "openvino": "pip install openvino",
    "torch": "pip install torch torchaudio transformers",
}
# Modules whose package has another name
PACKAGES = {
    "paho": "paho-mqtt",
    "prometheus_client": "prometheus-client",
    "python_multipart": "python-multipart",
    "sherpa_onnx": "sherpa-onnx",
    "sklearn": "scikit-learn",
}
# What pip installs for a module, if a version or an extra of its package is required
REQUIREMENTS = {"ray": '"ray[data]>=2.60,<2.64"', "sed_scores_eval": 'sed_scores_eval "pandas<3"'}


class MissingPackageError(ImportError):
    """Raised if a package is not installed. The message is one line with the command to install it."""


def require(packages: tuple[str, ...], purpose: str, install: str = "") -> None:
    """
    Raises a `MissingPackageError` of one line if one of `packages` is not installed.

    By default it has the command that installs them by name: an extra would add PyTorch to the small installation.
    """
    if modules := missing(packages):
        names = [PACKAGES.get(module, module) for module in modules]
        requirements = [REQUIREMENTS.get(module, name) for module, name in zip(modules, names, strict=True)]
        install = install or f"pip install {' '.join(requirements)}"
        raise MissingPackageError(f"{purpose} requires {listed(names)}: {install}")


def missing(packages: tuple[str, ...]) -> list[str]:
    """Those of `packages` that are not installed, without importing the others."""
    return [name for name in packages if (sys.modules[name] if name in sys.modules else find_spec(name)) is None]
