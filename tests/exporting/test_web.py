# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`ced export --format web`: the folder is complete, and the runtime is downloaded once."""

import base64
import hashlib
import io
import json
import os
import re
import shutil
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from ced_model import CedForAudioClassification
from ced_model.cli.app import app
from ced_model.exporting import export_model, load_export, web_runtime
from ced_model.exporting.web_runtime import FILES, PAGE, Package, find_runtime, locked_packages
from ced_model.messages import OptionError, RunError


@pytest.fixture(scope="module")
def node_modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `npm ci` makes it, with small files."""
    folder = tmp_path_factory.mktemp("npm") / "node_modules"
    for package in locked_packages():
        for file in FILES[package.name]:
            (folder / package.name / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / package.name / file).write_text(f"// {package.name} {file}")
        (folder / package.name / "package.json").write_text(json.dumps({"version": package.version}))
    return folder


@pytest.fixture(scope="module")
def page(golden: Path, node_modules: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export of the micro model."""
    folder = tmp_path_factory.mktemp("web") / "page"
    export_model(golden / "micro_hub", folder, format="web", runtime=node_modules, num_threads=1)
    return folder


def listed(page: Path) -> dict[str, dict[str, int | str]]:
    text = (page / "page" / "files.js").read_text()
    return json.loads(text.removeprefix("self.CED_FILES = ").rstrip(";\n"))


def test_the_page_has_the_models_own_weights_and_a_small_graph(page: Path, golden: Path) -> None:
    weights = (golden / "micro_hub" / "model.safetensors").read_bytes()
    assert (page / "model.safetensors").read_bytes() == weights
    metadata = json.loads((page / "metadata.json").read_text())
    assert (metadata["format"], metadata["input"], metadata["weights"]) == ("web", "waveform", ["model.safetensors"])
    assert len((page / "model.onnx").read_bytes()) < 1_000_000
    assert load_export(page, num_threads=1).metadata == metadata


def test_each_file_is_listed_with_its_size_and_checksum(page: Path) -> None:
    files = listed(page)
    for name, entry in files.items():
        content = (page / name).read_bytes()
        assert entry == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()[:16]}
    there = {path.relative_to(page).as_posix() for path in page.rglob("*") if path.is_file()}
    assert there - set(files) == {"README.md", "labels.csv", "page/files.js", "sw.js"}


def test_files_that_the_page_refers_to_exist(page: Path) -> None:
    html = (page / "index.html").read_text()
    for name in re.findall(r'(?:src|href)="([^"]+)"', html):
        assert (page / name).is_file(), name
    for script in (page / "page").glob("*.js"):
        for name in re.findall(r'(?:from|import\(?|URL\() ?"(\.{0,2}/?[^"]+\.m?js)"', script.read_text()):
            assert (script.parent / name).is_file(), (script.name, name)
    there = {path.name for path in (page / "runtime").iterdir()}
    programs = re.findall(r'"(ort[-.][\w.-]+)"', (page / "page" / "tagger.js").read_text())
    assert len(programs) == 4
    for name in programs:
        assert name in there or {f"{name}.mjs", f"{name}.wasm"} <= there, name
    assert {"LICENSE-mediabunny.txt", "LICENSE-onnxruntime-web.txt"} <= there


def test_the_page_may_not_reach_other_servers(page: Path) -> None:
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', (page / "index.html").read_text())
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy[1].split(";"))
    assert rules["default-src"] == "'none'" and rules["connect-src"] == "'self'"
    assert rules["script-src"] == "'self' 'wasm-unsafe-eval'"
    assert not re.search(r"https?:|\*|unsafe-inline|unsafe-eval(?<!wasm-unsafe-eval)", policy[1])
    for path in [page / "index.html", page / "sw.js", *(page / "page").glob("*.[jc]s*")]:
        assert not re.search(r"https?://|style=\"|onclick=\"", path.read_text()), path.name


def test_a_space_can_serve_it_with_threads(page: Path) -> None:
    text = (page / "README.md").read_text(encoding="utf-8")
    assert text.startswith("---\ntitle: ") and "\nsdk: static\n" in text and "\napp_file: index.html\n" in text
    assert "cross-origin-embedder-policy: require-corp" in text
    assert "# micro_hub in the browser" in text and "{" not in text


def test_an_export_can_be_replaced_and_half_precision_is_one_file(
    golden: Path, node_modules: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "page"
    for compute_type in ("float16", "int8"):
        options = {"format": "web", "compute_type": compute_type, "runtime": node_modules, "num_threads": 1}
        report = export_model(golden / "micro_hub", folder, overwrite=True, **options)
        assert json.loads((folder / "metadata.json").read_text())["weights"] == []
        assert report.num_bytes == (folder / "model.onnx").stat().st_size
        assert not list(folder.glob("*.safetensors"))


def test_weights_behind_links_in_shards_or_in_bfloat16_are_supported(
    golden: Path, node_modules: Path, tmp_path: Path, micro_model: CedForAudioClassification
) -> None:
    source = golden / "micro_hub"
    links = tmp_path / "links"
    links.mkdir()
    for path in source.iterdir():  # as in the Hub's cache, where the files have the names of their checksums
        shutil.copy(path, tmp_path / f"blob-{path.name}")
        (links / path.name).symlink_to(tmp_path / f"blob-{path.name}")
    shards, half = tmp_path / "shards", tmp_path / "half"
    for folder in (shards, half):
        shutil.copytree(source, folder)
        (folder / "model.safetensors").unlink()
    micro_model.save_pretrained(shards, max_shard_size="100KB")
    micro_model.to(torch.bfloat16).save_pretrained(half)
    for folder, expected in ((links, 1), (shards, 2), (half, 0)):
        options = {"format": "web", "runtime": node_modules, "num_threads": 1}
        report = export_model(folder, tmp_path / f"{folder.name}-page", **options)
        names = json.loads((report.folder / "metadata.json").read_text())["weights"]
        assert len(names) == expected or (expected == 2 and len(names) > 2)
        assert all(name.startswith("model") and name in listed(report.folder) for name in names)


def test_the_versions_are_locked_with_checksums_and_no_address() -> None:
    wanted = json.loads((PAGE / "package.json").read_text())["dependencies"]
    assert {package.name: package.version for package in locked_packages()} == wanted
    assert '"resolved"' not in (PAGE / "package-lock.json").read_text()
    assert all(package.integrity.startswith("sha512-") for package in locked_packages())


# The runtime


@pytest.fixture
def registry(tmp_path: Path, node_modules: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A registry with archives of the packages in `node_modules`, whose checksums are the locked ones."""
    folder = tmp_path / "registry"
    packages = []
    for package in locked_packages():
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w:gz") as tar:
            tar.add(node_modules / package.name, "package")
        place = folder / package.name / "-" / f"{package.name}-{package.version}.tgz"
        place.parent.mkdir(parents=True)
        place.write_bytes(content.getvalue())
        digest = base64.b64encode(hashlib.sha512(content.getvalue()).digest()).decode()
        packages.append(Package(package.name, package.version, f"sha512-{digest}"))
    handler = partial(QuietHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("npm_config_registry", f"http://127.0.0.1:{server.server_port}/")
        monkeypatch.setenv("HF_ASSETS_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(web_runtime, "locked_packages", lambda: packages)
        yield folder
        server.shutdown()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def test_the_runtime_is_downloaded_once(registry: Path, node_modules: Path, tmp_path: Path) -> None:
    find_runtime().copy(tmp_path / "first")
    shutil.rmtree(registry)
    find_runtime().copy(tmp_path / "second")
    find_runtime(node_modules.parent).copy(tmp_path / "given")
    first, second, given = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("first", "second", "given")
    )
    assert first == second == given and len(first) == sum(map(len, FILES.values()))
    assert not list((tmp_path / "cache").rglob("*.tmp"))


def test_a_damaged_or_missing_download_is_one_line_and_leaves_nothing(registry: Path, tmp_path: Path) -> None:
    archive = next(registry.rglob("onnxruntime*.tgz"))
    archive.write_bytes(archive.read_bytes()[:-1] + b"?")
    with pytest.raises(RunError, match=r"does not have the checksum of package-lock.json") as caught:
        find_runtime()
    assert "\n" not in str(caught.value)
    archive.unlink()
    with pytest.raises(RunError, match=r"onnxruntime-web 1\S+ cannot be downloaded .*--runtime DIR") as caught:
        find_runtime()
    assert "\n" not in str(caught.value)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


@pytest.mark.parametrize("damage", ["no folder", "other version", "no version", "missing file"])
def test_a_folder_without_the_locked_versions_is_refused(damage: str, node_modules: Path, tmp_path: Path) -> None:
    folder = tmp_path / "node_modules"
    shutil.copytree(node_modules, folder)
    if damage == "no folder":
        shutil.rmtree(folder)
    elif damage == "missing file":
        (folder / "mediabunny" / "LICENSE").unlink()
    else:
        text = '{"version": "0.1.0"}' if damage == "other version" else "[]"
        (folder / "onnxruntime-web" / "package.json").write_text(text)
    with pytest.raises(OptionError, match=r"`runtime=.*node_modules folder with onnxruntime-web [\d.]+ and mediabunny"):
        find_runtime(folder)


def test_the_command_makes_the_page(
    golden: Path, node_modules: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    output = tmp_path / "page"
    arguments = ["export", "-m", str(golden / "micro_hub"), "-f", "web", "-o", str(output)]
    result = CliRunner().invoke(app, [*arguments, "--runtime", str(node_modules)], catch_exceptions=False)
    assert (result.exit_code, result.stdout) == (0, f"{output}\n")
    last = result.stderr.splitlines()[-1]
    assert last.startswith("model.onnx: ") and last.endswith("README.md explains how to serve the page")
    assert (output / "index.html").is_file() and not os.path.exists(output / "package.json")

    for given, message in (
        (["--runtime", str(tmp_path)], f"ced: --runtime {tmp_path}: expected a node_modules folder with"),
        (["--runtime", str(node_modules), "-f", "onnx"], f"ced: --runtime {node_modules}: expected the format web"),
        (["--input", "mel"], "ced: --input mel: expected waveform for the format web"),
    ):
        new = ["export", "-m", str(golden / "micro_hub"), "-f", "web", "-o", str(tmp_path / "new"), *given]
        result = CliRunner().invoke(app, new, catch_exceptions=False)
        assert (result.exit_code, result.stdout) == (2, "") and result.stderr.startswith(message), result.stderr
        assert result.stderr.count("\n") == 1 and not (tmp_path / "new").exists()
