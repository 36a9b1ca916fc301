# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`ced doctor`: the installation, in a form for bug reports: no tokens, and the home folder as `~`."""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from .completion import SIZES
from .endings import one_line_errors
from .errors import FAILED
from .terminal import one_line, put, put_json

CORE = ("numpy", "soundfile", "soxr", "onnx", "onnxruntime", "huggingface_hub", "typer", "rich", "lazy_loader", "wrapt")
TORCH = ("torch", "torchaudio", "transformers", "safetensors", "filelock")
EXTRAS = {
    "av": ("av",),
    "datasets": ("pyarrow", "datasets"),
    "demo": ("av", "matplotlib", "gradio"),
    "learn": ("scikit-learn",),
    "lora": ("accelerate", "datasets", "scikit-learn", "tensorboard", "peft"),
    "mic": ("sounddevice",),
    "openvino": ("openvino",),
    "parquet": ("pyarrow",),
    "plot": ("matplotlib",),
    "ray": ("pyarrow", "ray"),
    "sherpa-onnx": ("sherpa-onnx",),
    "train": ("accelerate", "datasets", "scikit-learn", "tensorboard"),
}
MODULES = {"scikit-learn": "sklearn", "sherpa-onnx": "sherpa_onnx"}
VARIABLES = ("CUDA_VISIBLE_DEVICES", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "OMP_NUM_THREADS")
HIDDEN_VARIABLES = ("HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT", "HF_TOKEN", "HTTPS_PROXY", "RAY_ADDRESS")
TIME_LIMIT_S = 60
# Run as processes of their own: a broken package may end its process.
DECODERS = """
import json, soundfile
print(json.dumps({"libsndfile": soundfile.__libsndfile_version__, "formats": sorted(soundfile.available_formats())}))
"""
SELF_TEST = """
import json, numpy, ced_model
tagger = ced_model.AudioTagger()
tagger({"array": numpy.zeros(16000, numpy.float32), "sampling_rate": 16000})
print(json.dumps([tagger.name, tagger.engine, tagger.compute_type, tagger.device]))
"""


@one_line_errors
def doctor(
    imports: Annotated[
        bool, typer.Option("--imports", help="Import each installed package as well, which takes seconds.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show versions, engines, devices and caches, for bug reports.

    A small sound is tagged with the bundled model. Paths in your home folder begin with ~, other folders of yours and
    tokens are not shown. Exit code: 0, or 1 if a required package or the tagging fails.
    """
    found = examine(imports)
    if as_json:
        put_json(json.dumps(found, indent=2))
    else:
        put(*_lines(found))
    if "error" in found["self_test"] or any("error" in found["packages"][name] for name in CORE):
        raise typer.Exit(FAILED)


def examine(imports: bool = False) -> dict[str, Any]:
    """All that is shown. What cannot be found out has an `error`."""
    children = {"self_test": _start(SELF_TEST), "decoders": _start(DECODERS)}
    packages = {name: _package(name) for name in dict.fromkeys([*CORE, *TORCH, *sum(EXTRAS.values(), ())])}
    if imports:
        importing = {
            name: _start(f"import {MODULES.get(name, name)}\nprint(0)")
            for name, package in packages.items()
            if "version" in package
        }
        for name, child in importing.items():
            if isinstance(result := _result(child), dict):
                packages[name] |= result
    self_test, decoders = _result(children["self_test"]), _result(children["decoders"])
    if isinstance(self_test, list):
        self_test = dict(zip(("model", "engine", "compute_type", "device"), self_test, strict=True))
    return {
        "ced_model": _package("ced_model") | {"folder": shown_path(Path(__file__).parents[1])},
        "python": {"version": platform.python_version(), "executable": shown_path(sys.executable)},
        "system": {"name": platform.platform(), "machine": platform.machine(), "cpu_cores": _cores(), "gpus": _gpus()},
        "engines": _engines(),
        "self_test": self_test,
        "decoders": decoders | {"pyav": packages["av"].get("version"), "ffmpeg_program": bool(shutil.which("ffmpeg"))},
        "packages": packages,
        "extras": {
            name: [package for package in needed if "version" not in packages[package]]
            for name, needed in EXTRAS.items()
        },
        "caches": _caches(),
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ}
        | {name: "set" for name in HIDDEN_VARIABLES if os.environ.get(name)},
    }


def shown_path(path: str | os.PathLike[str]) -> str:
    """A path with the home folder as `~`; a folder elsewhere is only shown if it is the system's or Python's."""
    text = os.path.abspath(path)
    home = os.path.expanduser("~")
    if text == home or text.startswith(home.rstrip(os.sep) + os.sep):
        return "~" + text.removeprefix(home.rstrip(os.sep))
    public = (sys.base_prefix, "/usr", "/opt", "C:\\Program Files")
    return text if text.startswith(public) else f"…{os.sep}{os.path.basename(text)}"


def _package(name: str) -> dict[str, str]:
    try:
        return {"version": str(version(name))}
    except ImportError:
        return {}
    except Exception as error:  # damaged metadata
        return {"error": _reason(f"{type(error).__name__}: {error}")}


def _start(script: str) -> "subprocess.Popen[str] | None":
    try:
        return subprocess.Popen(
            [sys.executable, "-c", script],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
    except OSError:
        return None


def _result(child: "subprocess.Popen[str] | None") -> Any:
    """What a process printed as JSON at its end, or its error."""
    if child is None:
        return {"error": "no process could be started"}
    try:
        output, errors = child.communicate(timeout=TIME_LIMIT_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        return {"error": f"not done after {TIME_LIMIT_S} s"}
    try:
        return json.loads(output.splitlines()[-1])
    except (IndexError, ValueError):
        lines = [line for line in errors.splitlines() if line and not line.startswith(" ")]
        return {"error": _reason(lines[-1] if lines else f"ended with exit code {child.returncode}")}


def _reason(text: str) -> str:
    """An error with the home folder as `~`, and without other absolute paths."""
    text = one_line(text).replace(os.path.expanduser("~"), "~")
    return re.sub(r"(?<![\w~.])(/[\w.\-+]+){2,}", lambda match: shown_path(match[0]), text)[:300]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _gpus() -> list[str] | dict[str, str]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        query = [program, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
        done = subprocess.run(query, capture_output=True, text=True, timeout=10, errors="replace")
    except (OSError, subprocess.SubprocessError) as error:
        return {"error": _reason(str(error))}
    return (
        [one_line(line) for line in done.stdout.splitlines()] if done.returncode == 0 else {"error": "nvidia-smi fails"}
    )


def _engines() -> dict[str, Any]:
    """Packages that an engine lacks, and which devices torch has; by their files, without importing them."""
    try:
        from ..engines import PACKAGES, has_cuda_gpu, missing

        engines: dict[str, Any] = {name: {"missing": missing(packages)} for name, packages in PACKAGES.items()}
        return engines | {"cuda_driver_has_gpu": has_cuda_gpu()}
    except Exception as error:
        return {"error": _reason(f"{type(error).__name__}: {error}")}


def _caches() -> dict[str, Any]:
    try:
        from huggingface_hub.constants import HF_ASSETS_CACHE, HF_HUB_CACHE, HF_TOKEN_PATH
    except Exception as error:
        return {"error": _reason(f"{type(error).__name__}: {error}")}
    published = [f"ced-{size}" for size in SIZES]
    return {
        "hub": shown_path(HF_HUB_CACHE),
        "published_models": [
            name for name in published if os.path.isdir(os.path.join(HF_HUB_CACHE, f"models--mispeech--{name}"))
        ],
        "original_checkpoints": os.path.isdir(os.path.join(HF_ASSETS_CACHE, "ced_model", "zenodo")),
        "logged_in": os.path.isfile(HF_TOKEN_PATH) or bool(os.environ.get("HF_TOKEN")),
        "free_gb": _free_gb(HF_HUB_CACHE),
    }


def _free_gb(folder: str) -> float | None:
    while folder and not os.path.isdir(folder) and folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
    try:
        return round(shutil.disk_usage(folder).free / 1e9, 1)
    except OSError:
        return None


def _lines(found: dict[str, Any]) -> list[str]:
    packages, test, decoders, caches = (found[name] for name in ("packages", "self_test", "decoders", "caches"))
    engines, system, extras = found["engines"], found["system"], found["extras"]
    gpus = system["gpus"]
    rows = {
        "ced_model": f"{_state(found['ced_model'], 'not installed')}, in {found['ced_model']['folder']}",
        "Python": f"{found['python']['version']}, {found['python']['executable']}",
        "System": f"{system['name']}, {system['cpu_cores']} CPU cores",
        "GPU": gpus.get("error") if isinstance(gpus, dict) else "; ".join(gpus) or "no NVIDIA GPU found",
        "Engines": engines.get("error")
        or ", ".join(
            name + (f" (missing: {' '.join(each['missing'])})" if each["missing"] else "")
            for name, each in engines.items()
            if isinstance(each, dict)
        ),
        "Self-test": _state(
            test, f"{test.get('model')}, {test.get('engine')} {test.get('compute_type')} on {test.get('device')}: ok"
        ),
        "Decoders": _state(decoders, f"libsndfile {decoders.get('libsndfile')}")
        + f", PyAV {decoders['pyav'] or 'not installed (ced_model[av])'}",
        "Caches": caches.get("error")
        or f"{caches['hub']}, {caches['free_gb']} GB free: {', '.join(caches['published_models']) or 'no models'}",
        "Hub": caches.get("error") or ("token present" if caches["logged_in"] else "no token"),
        "Environment": ", ".join(f"{name}={value}" for name, value in found["environment"].items()) or "–",
        "Extras": ", ".join(name for name, lacking in extras.items() if not lacking) or "none",
        "Not installed": ", ".join(f"{name} ({' '.join(lacking)})" for name, lacking in extras.items() if lacking)
        or "–",
    }
    lines = [f"{name:14}{value}" for name, value in rows.items()]
    return [*lines, "", "Packages", *(f"  {name:16}{_state(each, 'not installed')}" for name, each in packages.items())]


def _state(package: dict[str, Any], otherwise: str) -> str:
    parts = [package.get("version"), f"error: {package['error']}" if "error" in package else None]
    return ", ".join(filter(None, parts)) or otherwise
