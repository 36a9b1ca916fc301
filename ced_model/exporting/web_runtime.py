# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""
What runs a model in a browser: ONNX Runtime Web, and Mediabunny, which reads audio files.

Their versions and checksums are those of `page/package-lock.json`. They come from a `node_modules` folder, or from the
npm registry, once: what was downloaded is kept in huggingface_hub's cache.
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
# The files that are taken from each package.
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
    """A package of npm as the lock file has it; `integrity` is the SHA-512 of its archive in Base64."""

    name: str
    version: str
    integrity: str

    @property
    def url(self) -> str:
        registry = os.environ.get("npm_config_registry") or os.environ.get("NPM_CONFIG_REGISTRY") or REGISTRY
        return f"{registry.rstrip('/')}/{self.name}/-/{self.name}-{self.version}.tgz"


class Runtime(NamedTuple):
    """The folders of the packages by their names."""

    folders: dict[str, Path]

    def copy(self, destination: Path) -> None:
        """Copies the files of all packages into one folder, with their licences."""
        destination.mkdir(exist_ok=True)
        for name, files in FILES.items():
            for file in files:
                target = f"LICENSE-{name}.txt" if file == "LICENSE" else Path(file).name
                shutil.copyfile(self.folders[name] / file, destination / target)


def locked_packages() -> list[Package]:
    """The packages of `FILES` with what the lock file has about them."""
    locked = json.loads((PAGE / LOCK_FILE).read_text(encoding="utf-8"))["packages"]
    entries = {name: locked[f"node_modules/{name}"] for name in FILES}
    return [Package(name, entry["version"], entry["integrity"]) for name, entry in entries.items()]


def choose_runtime(format: str, folder: str | os.PathLike[str] | None) -> Runtime | None:
    """What a page needs; None for other formats. Arguments and errors are those of `find_runtime`."""
    if format == "web":
        return find_runtime(folder)
    if folder is not None:
        raise OptionError("runtime", os.fspath(folder), "the format web")
    return None


def find_runtime(folder: str | os.PathLike[str] | None = None) -> Runtime:
    """
    Finds the packages.

    Args:
        folder: A `node_modules` folder, or one that has it. By default they are downloaded, unless they were before.

    Raises:
        OptionError: if they are not in the folder in the versions that the lock file has.
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
    """The folder of a package in the cache. It is there as a whole or not at all."""
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
    except Exception as error:  # of the network, the disk and the archive
        raise RunError(
            f"{package.name} {package.version} cannot be downloaded ({one_line_error(error)}). Without a network, give"
            f" a node_modules folder that has it with --runtime DIR"
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
