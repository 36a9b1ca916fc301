# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""
The packages of the page: ONNX Runtime Web runs the model, and Mediabunny reads audio files.

`page/package-lock.json` has their versions and checksums. They are copied from a `node_modules` folder, or downloaded
once from the npm registry and kept in huggingface_hub's cache.
"""

import base64
import hashlib
import json
import os
import shutil
import tarfile
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ..hub import assets_folder
from ..messages import OptionError, RunError, one_line_error
from ..output import new_folder, temporary_name

PAGE = Path(__file__).parent / "page"
LOCK_FILE = "package-lock.json"
REGISTRY = "https://registry.npmjs.org"
# The files to copy from each package.
FILES = {
    "onnxruntime-web": (
        "dist/ort.wasm.min.mjs",
        "dist/ort-wasm-simd-threaded.mjs",
        "dist/ort-wasm-simd-threaded.wasm",
        "dist/ort.webgpu.min.mjs",
        "dist/ort-wasm-simd-threaded.asyncify.mjs",
        "dist/ort-wasm-simd-threaded.asyncify.wasm",
    ),
    "mediabunny": ("dist/bundles/mediabunny.min.mjs", "LICENSE"),
}


class Package(NamedTuple):
    """An npm package of the lock file. `integrity` is the SHA-512 of its archive in Base64."""

    name: str
    version: str
    integrity: str

    @property
    def url(self) -> str:
        registry = os.environ.get("npm_config_registry") or os.environ.get("NPM_CONFIG_REGISTRY") or REGISTRY
        return f"{registry.rstrip('/')}/{self.name}/-/{self.name}-{self.version}.tgz"


class Runtime(NamedTuple):
    """The folders of the packages, by name."""

    folders: dict[str, Path]

    def copy(self, destination: Path) -> None:
        """Copies the files and licences of all packages into one folder."""
        destination.mkdir(exist_ok=True)
        for name, files in FILES.items():
            for file in files:
                target = f"LICENSE-{name}.txt" if file == "LICENSE" else Path(file).name
                shutil.copyfile(self.folders[name] / file, destination / target)


def locked_packages() -> list[Package]:
    """The packages of `FILES`, with versions and checksums from the lock file."""
    locked = json.loads((PAGE / LOCK_FILE).read_text(encoding="utf-8"))["packages"]
    entries = {name: locked[f"node_modules/{name}"] for name in FILES}
    return [Package(name, entry["version"], entry["integrity"]) for name, entry in entries.items()]


def choose_runtime(format: str, folder: str | os.PathLike[str] | None) -> Runtime | None:
    """The runtime for the format web, None for other formats. See `find_runtime`."""
    if format == "web":
        return find_runtime(folder)
    if folder is not None:
        raise OptionError("runtime", os.fspath(folder), "the format web")
    return None


def find_runtime(folder: str | os.PathLike[str] | None = None) -> Runtime:
    """
    Finds the packages.

    Args:
        folder: A `node_modules` folder, or its parent. By default the packages are downloaded, if not in the cache.

    Raises:
        OptionError: if the folder lacks one, or has another version than the lock file.
        RunError: if they cannot be downloaded.
    """
    packages = locked_packages()
    if folder is None:
        return Runtime({package.name: _downloaded(package) for package in packages})
    path = Path(folder).expanduser()
    path = path / "node_modules" if (path / "node_modules").is_dir() else path
    for package in packages:
        files = [path / package.name / file for file in FILES[package.name]]
        if _version(path / package.name) != package.version or not all(file.is_file() for file in files):
            wanted = " and ".join(f"{each.name} {each.version}" for each in packages)
            raise OptionError("runtime", os.fspath(folder), f"a node_modules folder with {wanted}")
    return Runtime({package.name: path / package.name for package in packages})


def _version(folder: Path) -> str | None:
    with suppress(OSError, ValueError, AttributeError):
        return json.loads((folder / "package.json").read_text(encoding="utf-8")).get("version")
    return None


def _downloaded(package: Package) -> Path:
    """The folder of a package in the cache. It is created in one step."""
    folder = assets_folder() / "web" / f"{package.name}-{package.version}"
    try:
        if not all((folder / file).is_file() for file in FILES[package.name]):
            folder.parent.mkdir(parents=True, exist_ok=True)
            archive = temporary_name(folder)
            try:
                _fetch(package, archive)
                _unpack(package, archive, folder)
            finally:
                archive.unlink(missing_ok=True)
        return folder
    except RunError:
        raise
    except Exception as error:  # network, disk or archive
        raise RunError(
            f"{package.name} {package.version} cannot be downloaded ({one_line_error(error)}). Without a network, give"
            f" a node_modules folder with --runtime DIR"
        ) from error


def _fetch(package: Package, path: Path) -> None:
    from huggingface_hub.file_download import http_get

    with open(path, "wb") as file:
        http_get(package.url, file, displayed_filename=f"{package.name} {package.version}")
    algorithm, _, expected = package.integrity.partition("-")
    with open(path, "rb") as file:
        digest = base64.b64encode(hashlib.file_digest(file, algorithm).digest()).decode()
    if digest != expected:
        raise RunError(f"{package.url} does not have the checksum of {LOCK_FILE}: try again, or use another network")


def _unpack(package: Package, archive: Path, folder: Path) -> None:
    with suppress(FileExistsError), new_folder(folder) as made, tarfile.open(archive) as tar:
        for file in FILES[package.name]:
            source = tar.extractfile(f"package/{file}")
            assert source is not None
            (made / file).parent.mkdir(parents=True, exist_ok=True)
            with open(made / file, "wb") as target:
                shutil.copyfileobj(source, target)
