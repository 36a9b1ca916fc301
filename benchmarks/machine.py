# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Description of the machine, and the peak memory of a process."""

import os
import platform
import re
import resource
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def describe_machine(packages: tuple[str, ...] = ("torch", "onnxruntime", "openvino")) -> str:
    """Processor, CPUs that this process may use, and versions of packages."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return ", ".join([_processor(), f"{cpus} CPUs", *filter(None, map(_with_version, packages))])


def peak_memory_mb() -> float:
    """Peak memory of this process. Not from `ru_maxrss`, which on Linux is at least the memory of the parent."""
    try:
        match = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    except OSError:
        match = None
    if match:
        return int(match[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


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
