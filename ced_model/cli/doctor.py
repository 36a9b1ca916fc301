# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`ced doctor`: the installation, for bug reports: without tokens, and with the home folder as `~`."""

import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import packages
from . import options
from .endings import one_line_errors
from .errors import FAILED
from .options import OUTPUT, option
from .terminal import one_line, put, put_json

CORE = ("numpy", "soundfile", "soxr", "onnx", "onnxruntime", "huggingface_hub", "typer", "rich", "lazy_loader", "wrapt")
TORCH = ("torch", "torchaudio", "transformers", "safetensors", "filelock")
ENGINES = {"onnx": ("onnx", "onnxruntime"), "openvino": ("openvino",), "torch": ("torch", "transformers")}
EXTRAS = {
    "av": ("av",),
    "datasets": ("pyarrow", "datasets"),
    "demo": ("av", "matplotlib", "gradio"),
    "learn": ("scikit-learn",),
    "live": ("av", "paho-mqtt"),
    "lora": ("accelerate", "datasets", "scikit-learn", "tensorboard", "peft"),
    "mic": ("sounddevice",),
    "openvino": ("openvino",),
    "parquet": ("pyarrow",),
    "plot": ("matplotlib",),
    "ray": ("pyarrow", "ray"),
    "serve": ("fastapi", "prometheus-client", "python-multipart", "uvicorn", "websockets"),
    "sherpa-onnx": ("sherpa-onnx",),
    "train": ("accelerate", "datasets", "scikit-learn", "tensorboard"),
    "watch": ("watchfiles",),
}
PATH = r"(?<![\w~.])[A-Za-z]:(\\+[\w.\-+]+){2,}" if os.name == "nt" else r"(?<![\w~.])(/[\w.\-+]+){2,}"
MODULES = {package: module for module, package in packages.PACKAGES.items()}
VARIABLES = ("CUDA_VISIBLE_DEVICES", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "OMP_NUM_THREADS")
HIDDEN_VARIABLES = ("HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT", "HF_TOKEN", "HTTPS_PROXY", "RAY_ADDRESS")
TIME_LIMIT_S = 60
# Each runs in its own process, since a broken package can crash it.
SCRIPTS = {
    "self_test": """
import json, numpy, ced_model
tagger = ced_model.AudioTagger()
tagger({"array": numpy.zeros(16000, numpy.float32), "sampling_rate": 16000})
names = ("name", "engine", "compute_type", "device")
print(json.dumps({name: getattr(tagger, name) for name in names}))
""",
    "decoders": """
import json, soundfile
print(json.dumps({"libsndfile": soundfile.__libsndfile_version__, "formats": sorted(soundfile.available_formats())}))
""",
    "hub": """
import json, os
from huggingface_hub import constants
cache = constants.HF_HUB_CACHE
models = [size for size in ("tiny", "mini", "small", "base") if os.path.isdir(f"{cache}/models--mispeech--ced-{size}")]
has_token = bool(os.environ.get("HF_TOKEN")) or os.path.isfile(constants.HF_TOKEN_PATH)
print(json.dumps({"cache": cache, "published_models": models, "has_token": has_token}))
""",
}


@one_line_errors
def doctor(
    imports: Annotated[
        bool, option(OUTPUT, "--imports", help="Also import each installed package; takes about a minute.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Show versions, engines, devices and caches, for bug reports.

    Tags a short sound with the bundled model as a test. Your home folder is shown as ~; your other folders and your
    tokens are hidden. Exit code: 0, or 1 if the test fails or a package is broken.
    """
    found = examine(imports)
    if as_json:
        put_json(json.dumps(found, indent=2))
    else:
        put(*_lines(found))
    if any("error" in part for part in (*(found[name] for name in SCRIPTS), *found["packages"].values())):
        raise typer.Exit(FAILED)


def examine(imports: bool = False) -> dict[str, Any]:
    """The content of `--json`. A part that cannot be determined is `{"error": …}`."""
    children = {name: _start(script) for name, script in SCRIPTS.items()}
    installed = {name: _package(name) for name in dict.fromkeys([*CORE, *TORCH, *sum(EXTRAS.values(), ())])}
    for name, package in installed.items() if imports else ():
        if "version" in package:
            package |= _result(_start(f"import {MODULES.get(name, name)}\nprint({{}})"))
    found = {name: _result(child) for name, child in children.items()}
    if "cache" in found["hub"]:
        found["hub"]["cache"] = shown_path(found["hub"]["cache"])
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "ced_model": _package("ced_model") | {"folder": shown_path(Path(__file__).parents[1])},
        "python": {"version": platform.python_version(), "executable": shown_path(sys.executable)},
        "system": {"name": platform.platform(), "cpu_cores": cores, "gpus": _gpus()},
        "engines": {name: {"missing": packages.missing(needed)} for name, needed in ENGINES.items()},
        **found,
        "extras": {name: {"missing": [p for p in ps if "version" not in installed[p]]} for name, ps in EXTRAS.items()},
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ}
        | {name: "set" for name in HIDDEN_VARIABLES if os.environ.get(name)},
        "packages": installed,
    }


def shown_path(path: str | os.PathLike[str]) -> str:
    """A path with the home folder as `~`. Outside it, only folders of the system and of Python are shown."""
    text, home = os.path.abspath(path), os.path.expanduser("~").rstrip(os.sep)
    if f"{text}{os.sep}".startswith(home + os.sep):
        return "~" + text.removeprefix(home)
    public = (sys.base_prefix, "/usr", "/opt", "C:\\Program Files")
    return text if text.startswith(public) else f"…{os.sep}{os.path.basename(text)}"


def _package(name: str) -> dict[str, str]:
    try:
        return {"version": str(version(name))}
    except ImportError:
        return {}
    except Exception as error:  # damaged metadata
        return {"error": _reason(f"{type(error).__name__}: {error}")}


def _start(script: str) -> "subprocess.Popen[str]":
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    pipes: dict[str, Any] = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
    command = [sys.executable, "-c", script]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, text=True, errors="replace", env=environment, **pipes)


def _result(child: "subprocess.Popen[str]") -> dict[str, Any]:
    """The JSON in the last line that a process printed, or its error."""
    try:
        output, errors = child.communicate(timeout=TIME_LIMIT_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        return {"error": f"not finished after {TIME_LIMIT_S} s"}
    try:
        return json.loads(output.splitlines()[-1])
    except (IndexError, ValueError):
        lines = [line for line in errors.splitlines() if line and not line.startswith(" ")]
        return {"error": _reason(lines[-1] if lines else f"ended with exit code {child.returncode}")}


def _reason(text: str) -> str:
    """An error in which absolute paths are replaced by `shown_path`."""
    text = one_line(text).replace(os.path.expanduser("~"), "~")
    return re.sub(PATH, lambda match: shown_path(match[0]), text)[:300]


def _gpus() -> list[str]:
    """Names, memory and driver of NVIDIA GPUs."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=10, errors="replace", check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [one_line(line) for line in done.stdout.splitlines()]


def _lines(found: dict[str, Any]) -> Iterator[str]:
    system, test, hub, decoders = (found[name] for name in ("system", "self_test", "hub", "decoders"))
    rows = {
        "ced_model": f"{found['ced_model'].get('version', 'not installed')}, in {found['ced_model']['folder']}",
        "Python": f"{found['python']['version']}, {found['python']['executable']}",
        "System": f"{system['name']}, {system['cpu_cores']} CPU cores",
        "GPU": "; ".join(system["gpus"]) or "no NVIDIA GPU",
        "Self-test": _error(test) or "{name}, {engine} {compute_type} on {device}: ok".format(**test),
        "Engines": _present(found["engines"]),
        "Extras": _present(found["extras"]),
        "Decoders": (_error(decoders) or f"libsndfile {decoders['libsndfile']}")
        + f", PyAV {found['packages']['av'].get('version', 'not installed')}",
        "Hub": _error(hub)
        or f"cache {hub['cache']}; ced-{', ced-'.join(hub['published_models'] or ['nano only'])};"
        f" {'a' if hub['has_token'] else 'no'} token",
        "Environment": ", ".join(f"{name}={value}" for name, value in found["environment"].items()) or "–",
    }
    yield from (f"{name:12} {value}" for name, value in rows.items())
    yield from ("", "Packages")
    for name, package in found["packages"].items():
        yield f"  {name:15} {_error(package) or package.get('version', 'not installed')}"


def _present(parts: dict[str, dict[str, list[str]]]) -> str:
    missing = {name: " ".join(part["missing"]) for name, part in parts.items()}
    return ", ".join(f"{name} (missing: {names})" if names else name for name, names in missing.items())


def _error(part: dict[str, Any]) -> str:
    return f"error: {part['error']}" if "error" in part else ""
