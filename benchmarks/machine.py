# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""What figures were measured on."""

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def describe_machine(packages: tuple[str, ...] = ("torch", "onnxruntime", "openvino")) -> str:
    """Processor, CPUs that this process may use, and versions of packages."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return ", ".join([_processor(), f"{cpus} CPUs", *filter(None, map(_with_version, packages))])


def _processor() -> str:
    try:
        match = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        match = None
    return match[1].strip() if match else platform.processor() or platform.machine()


def _with_version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return ""
