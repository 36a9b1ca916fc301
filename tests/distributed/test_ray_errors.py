# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`ced tag --ray`: errors are one line, and wrong usage is reported before the run starts."""

import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster
from ray_nodes import NODE
from typer.testing import CliRunner

from ced_model.cli.app import app
from ced_model.distributed.cluster import running_here

pytestmark = pytest.mark.cluster

DENIED = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


@pytest.fixture
def refuse(random_model: Path, clip: Path) -> Callable[..., str]:
    """The error line of `ced tag --ray CLIP …`. It may follow lines about the model and the workers."""

    def run(
        *more: Any, code: int = 2, paths: tuple[Any, ...] = (clip,), ray_option: tuple[str, ...] = ("--ray",)
    ) -> str:
        arguments = ["tag", *paths, *ray_option, "--model", random_model, *more]
        result = CliRunner().invoke(app, [*map(str, arguments)])
        assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
        lines = [line for line in result.stderr.splitlines() if not line.startswith(("model: ", "Ray: "))]
        assert result.exit_code == code and len(lines) == 1 and not result.stdout, result.stderr
        assert not ray.is_initialized()
        return lines[0].removeprefix("ced: ")

    return run


# Wrong usage


def test_wrong_usage_is_one_line(refuse: Callable[..., str], tmp_path: Path) -> None:
    needs_folder = "--ray writes a folder of Parquet files: give --output DIR, without --format"
    assert refuse() == needs_folder
    assert refuse("--json", "-o", tmp_path / "out") == needs_folder
    assert refuse("-o", tmp_path / "out", paths=("-",)) == (
        "workers cannot read standard input: give files, folders or URIs"
    )
    for option in ("--ray-address=host:1", "--workers=2", "--shard-size=9"):
        name = option.partition("=")[0]
        assert refuse(option, ray_option=()) == f"{name} needs --ray"
    assert refuse("-o", tmp_path / "out", "--device", "cuda:1") == (
        "--device cuda:1: expected cuda: each worker has a GPU of its own"
    )
    assert refuse("-o", "foo://bucket/out") == "foo://bucket/: Unrecognized filesystem type in URI: foo://bucket/"
    secret = refuse("-o", "s3://KEY:SECRET@bucket/out")
    assert "credentials do not belong in a URI" in secret and "SECRET" not in secret
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_files_or_other_results_is_not_changed(refuse: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for more in ([], ["--resume"]):
        assert refuse("-o", tmp_path, *more) == (
            f"--output {tmp_path}: expected a new folder; this one has other files, such as notes.txt"
        )
    (tmp_path / "notes.txt").rename(tmp_path / "_ced")
    (tmp_path / "_ced").unlink()
    (tmp_path / "_ced").mkdir()
    (tmp_path / "_ced" / "run.json").write_text(
        '{"ced_shards": 1, "run": "x", "made_by": {"weights": "y"},'
        ' "options": {"events": false, "channel": "mix", "top_k": 3}}'
    )
    assert refuse("-o", tmp_path) == f"{tmp_path} contains results: use --resume or --overwrite"
    assert "--top-k is not given: expected 3, as when " in refuse("-o", tmp_path, "--resume")
    (tmp_path / "_ced" / "run.json").write_text("{")
    assert refuse("-o", tmp_path, "--resume") == (
        f"{tmp_path}/_ced/run.json is from another version of ced: use --overwrite"
    )


def test_missing_packages_are_named_together(
    refuse: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ced_model.packages.missing", list)
    said = refuse("-o", tmp_path / "out", code=1)
    assert said == 'tagging on Ray requires pyarrow and ray: pip install pyarrow "ray[data]>=2.60,<2.64"'


# Clusters


def test_no_cluster_is_one_line(refuse: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    expected = f"no Ray cluster answers at 127.0.0.1:{port}: Connection refused"
    output = ("-o", tmp_path / "out")
    assert refuse(*output, "--ray-address", f"127.0.0.1:{port}", code=1) == expected
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    assert refuse(*output, code=1) == expected
    for address in ("nowhere", "nowhere:", ":6379", "nowhere:x"):
        said = refuse(*output, "--ray-address", address, code=1)
        assert said == f"{address}: expected HOST:PORT of the cluster's head, such as 10.0.0.1:6379"
    assert "expected HOST:PORT of the head" in refuse(*output, "--ray-address", "ray://head:10001", code=1)
    assert not (tmp_path / "out").exists()


def test_another_version_of_ray_is_one_line(
    refuse: Callable[..., str], cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "__version__", "2.59.0")
    said = refuse("-o", tmp_path / "out", "--ray-address", cluster.address, code=1)
    assert said.startswith(f"Ray cluster {cluster.address}: Version mismatch: The cluster was started with: Ray: ")
    assert "Ray: 2.59.0" in said and said.endswith(
        "install the same versions of Ray and Python on this machine and the cluster"
    )
    assert not (tmp_path / "out").exists()


def test_a_node_with_another_version_of_the_package_is_one_line(
    refuse: Callable[..., str], cluster: Cluster, tmp_path: Path
) -> None:
    (tmp_path / "site" / "torch-0.4.dist-info").mkdir(parents=True)
    (tmp_path / "site" / "torch-0.4.dist-info" / "METADATA").write_text("Name: torch\nVersion: 0.4\n")
    node = cluster.add_node(**NODE, env_vars={"PYTHONPATH": str(tmp_path / "site")})
    try:
        said = refuse("-o", tmp_path / "out", "--ray-address", cluster.address, code=1)
    finally:
        cluster.remove_node(node)
    assert " has torch 0.4, this machine " in said and said.endswith("install the same on all nodes")
    assert said.startswith("node ") and not (tmp_path / "out").exists()


def test_requesting_more_than_a_node_has_is_one_line(
    refuse: Callable[..., str], cluster: Cluster, tmp_path: Path
) -> None:
    more = ("-o", tmp_path / "out", "--ray-address", cluster.address)
    assert refuse(*more, "--threads", "3", code=1) == "no node of the cluster has 3 CPUs"
    assert refuse(*more, "--threads", "3", "--workers", "1", code=1) == "no node of the cluster has 3 CPUs"
    assert refuse(*more, "--device", "cuda", code=1) == "no node of the cluster has 1 CPU and a GPU"


# Storage


@pytest.fixture
def closed_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A store that refuses access, as the end of a URI."""

    class Closed(BaseHTTPRequestHandler):
        def refuse(self) -> None:
            self.send_response(403)
            self.send_header("Content-Length", str(len(DENIED)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(DENIED)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = refuse

        def log_message(self, format: str, *args: Any) -> None:
            pass

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    server = HTTPServer(("127.0.0.1", 0), Closed)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"?region=eu-west-1&scheme=http&endpoint_override=127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_missing_credentials_are_one_line(refuse: Callable[..., str], closed_store: str, tmp_path: Path) -> None:
    hint = "; does it exist, and does this machine have the credentials for it?"
    uri = f"s3://bucket/sounds{closed_store}"
    said = refuse("-o", tmp_path / "out", paths=(uri,), code=1)
    assert said.startswith("s3://bucket/sounds") and "ACCESS_DENIED" in said and said.endswith(hint)
    assert refuse("-o", f"s3://bucket/out{closed_store}", code=1).endswith(hint)
    assert refuse("-o", tmp_path / "out", "--from", f"s3://bucket/list.parquet{closed_store}", paths=()).startswith(
        "the list s3://bucket/list.parquet"
    )
    assert not (tmp_path / "out").exists()


def test_a_node_without_credentials_is_one_line(
    refuse: Callable[..., str], closed_store: str, cluster: Cluster, tmp_path: Path
) -> None:
    uris = tmp_path / "uris.txt"
    uris.write_text("".join(f"s3://bucket/{name}.wav{closed_store}\n" for name in "abc"))
    said = refuse("-o", tmp_path / "out", "--ray-address", cluster.address, "--from", uris, paths=(), code=1)
    assert "ACCESS_DENIED" in said and "does this node have the credentials for it?; 0 of 1 shards are in" in said
    assert not list((tmp_path / "out").glob("part-*"))


def test_patterns_are_for_local_paths(refuse: Callable[..., str], clip: Path, tmp_path: Path) -> None:
    pattern = f"file://{clip.parent}/*.wav"
    said = refuse("-o", tmp_path / "out", paths=(pattern,))
    assert said == f"{pattern}: patterns are for local paths; give the folder, or a list of paths"


def test_the_stored_address_of_an_ended_cluster_is_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "ray").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        (tmp_path / "ray" / "ray_current_cluster").write_text(address)
        monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
        assert running_here() == address
    assert running_here() is None
