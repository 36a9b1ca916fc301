# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`ced tag --ray` with local paths and with URIs of an S3 store."""

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import boto3
import pyarrow
import pytest
import ray
from moto.server import ThreadedMotoServer
from pyarrow import parquet
from typer.testing import CliRunner

from ced_model.audio import read_audio
from ced_model.cli.app import app
from ced_model.distributed.shards import ShardedOutput, planned_inputs, write_shard
from ced_model.input_list import Input, read_list
from ced_model.messages import UsageError
from ced_model.records import Record
from ced_model.storage import Folder, RemoteFile, join, locate, walk_uri
from ced_model.writers import Format, read_records

MADE_BY = {"model": "a", "weights": "b", "engine": "onnx", "compute_type": "float32"}


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """An empty bucket, as a URI without the query part (see `query`)."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1").create_bucket(Bucket="sounds")
        patch.setenv("CED_TEST_STORE", f"?region=us-east-1&scheme=http&endpoint_override={host}:{port}")
        yield "s3://sounds"
        server.stop()


@pytest.fixture
def query(bucket: str) -> str:
    return os.environ["CED_TEST_STORE"]


def upload(uri: str, content: bytes) -> None:
    file_system, path = locate(uri)
    with file_system.open_output_stream(path) as stream:
        stream.write(content)


# Paths


def test_names_in_a_uri_are_not_decoded(query: str) -> None:
    assert locate(f"s3://bucket/a b/100%25#1.wav{query}")[1] == "bucket/a b/100%25#1.wav"
    assert locate(f"s3://bucket/a/{query}")[1] == locate(f"s3://bucket/a{query}")[1] == "bucket/a"
    assert locate("file:///tmp/a b.wav")[1] == "/tmp/a b.wav"
    assert locate("relative#?.wav")[1] == os.path.abspath("relative#?.wav")
    assert join(f"s3://bucket/a/{query}", "b c.wav") == f"s3://bucket/a/b c.wav{query}"
    assert join("folder", "b.wav") == "folder/b.wav"


def test_audio_is_found_in_a_store(bucket: str, query: str, clip: Path) -> None:
    for name in ("b.wav", "a/ü #1.WAV", "a/.hidden.wav", ".trash/c.wav", "notes.txt"):
        upload(f"{bucket}/found/{name}{query}", clip.read_bytes())
    found = list(walk_uri(f"{bucket}/found{query}"))
    assert found == [f"{bucket}/found/a/ü #1.WAV{query}", f"{bucket}/found/b.wav{query}"]
    assert list(walk_uri(found[0])) == found[:1]
    assert (read_audio(RemoteFile(found[0])) == read_audio(clip)).all()
    missing = RemoteFile(f"{bucket}/found/nothing.wav{query}")
    with pytest.raises(ValueError, match=r"^s3://sounds/found/nothing\.wav: cannot be opened: "):
        read_audio(missing)


def test_without_ray_a_store_is_one_line(random_model: Path) -> None:
    result = CliRunner().invoke(app, ["tag", "s3://bucket/a.wav", "--model", str(random_model)])
    assert result.exit_code == 2 and not result.stdout
    assert result.stderr == (
        "ced: s3://bucket/a.wav: to read from a store add --ray --output DIR, or download the files first\n"
    )


# Folders


@pytest.mark.parametrize("where", ["local", "file", "s3"])
def test_files_in_a_folder_can_be_read_back(where: str, bucket: str, query: str, tmp_path: Path) -> None:
    folder = Folder({"local": str(tmp_path), "file": f"file://{tmp_path}", "s3": f"{bucket}/folder{query}"}[where])
    assert folder.list() == folder.list("inner") == {}
    folder.write("a", b"12")
    folder.write("inner/b", b"3")
    folder.write("a", b"123")
    assert folder.list() == {"a": 3} and folder.list("inner") == {"b": 1}
    assert folder.read("a") == b"123"
    with pytest.raises(FileNotFoundError):
        folder.read("c")
    folder.remove("a")
    assert folder.list() == {}


def test_a_file_that_cannot_be_written_keeps_the_previous_one(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    folder.write("a", b"whole")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            folder.write("a", bytes(2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.filename == str(tmp_path / "a")
    assert folder.read("a") == b"whole" and os.listdir(tmp_path) == ["a"]


# Shards


def test_a_run_of_many_shards_is_resumed_by_listing_its_folder_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = [Input(f"{number}.wav", f"/sounds/{number}.wav") for number in range(103)]
    begun = ShardedOutput(str(tmp_path), {})
    begun.begin(MADE_BY)
    begun.plan(inputs[:50], 4)
    begun.plan(inputs[50:], 7)
    for number in (0, 3, 12):
        records: list[Record] = [{"file": item.name, "error": "none"} for item in planned_inputs(begun.shards[number])]
        write_shard(Folder(str(tmp_path)), number, records, "tags", {}, False)
    listed: list[str] = []
    original = Folder.list
    monkeypatch.setattr(Folder, "list", lambda folder, inner="": listed.append(inner) or original(folder, inner))
    resumed = ShardedOutput(str(tmp_path), {})
    resumed.load()
    assert listed.count("") <= 1
    assert resumed.done == {0: 4, 3: 4, 12: 2}
    assert list(resumed.shards) == list(begun.shards) == list(range(21))
    assert all(resumed.shards[number].equals(table) for number, table in begun.shards.items())
    assert resumed.unplanned([*inputs, Input("new", "new")]) == [Input("new", "new")]


# Lists


def test_a_list_may_be_a_column_of_a_local_or_remote_parquet_file(bucket: str, query: str, tmp_path: Path) -> None:
    table = pyarrow.table({"id": ["x", "y"], "path": ["s3://b/a.wav", None], "uri": ["b.wav", "c [1].wav"]})
    parquet.write_table(table, tmp_path / "list.parquet")
    upload(f"{bucket}/list.parquet{query}", (tmp_path / "list.parquet").read_bytes())
    for place in (str(tmp_path / "list.parquet"), f"{bucket}/list.parquet{query}"):
        assert read_list(place) == ["b.wav", "c [1].wav"]
    parquet.write_table(table.select(["id"]), tmp_path / "single.parquet")
    assert read_list(str(tmp_path / "single.parquet")) == ["x", "y"]
    parquet.write_table(pyarrow.table({"a": ["x"], "b": ["y"]}), tmp_path / "which.parquet")
    with pytest.raises(UsageError, match="no column of paths: name it uri or path"):
        read_list(str(tmp_path / "which.parquet"))
    (tmp_path / "broken.parquet").write_text("a.wav")
    with pytest.raises(UsageError, match=r"broken\.parquet: not a Parquet file$"):
        read_list(str(tmp_path / "broken.parquet"))
    with pytest.raises(UsageError, match=r"nothing\.parquet: "):
        read_list(str(tmp_path / "nothing.parquet"))


# The command


@pytest.mark.cluster
def test_tagging_from_a_store_to_a_store_on_a_new_cluster(
    bucket: str, query: str, clip: Path, long_clip: Path, random_model: Path, tmp_path: Path
) -> None:
    for name, path in (("a b.wav", clip), ("long.flac", long_clip)):
        upload(f"{bucket}/in/{name}{query}", path.read_bytes())
    upload(f"{bucket}/in/broken.wav{query}", b"RIFF")
    listed = [f"{bucket}/in/long.flac{query}", f"{bucket}/in/missing.wav{query}", str(clip)]
    parquet.write_table(pyarrow.table({"uri": listed}), tmp_path / "list.parquet")
    options = ["--model", str(random_model), "--events", "--threshold", "0.6"]
    arguments = ["tag", "--ray", "--ray-address", "local", *options, "-o", f"{bucket}/out{query}"]
    for more in ([], ["--resume"]):
        run = CliRunner().invoke(
            app, [*arguments, *more, f"{bucket}/in{query}", "--from", str(tmp_path / "list.parquet"), "--workers", "1"]
        )
        assert run.exit_code == 1 and not ray.is_initialized(), run.stderr
    assert "3 results in s3://sounds/out" in run.stderr and "2 of 2 inputs" in run.stderr
    folder = Folder(f"{bucket}/out{query}")
    assert folder.list().keys() == {"part-000000.parquet"}
    with folder.open("part-000000.parquet") as file:
        records = {record["file"]: record for record in read_records(file, Format.PARQUET, kind="events")}
    names = ["a b.wav", "broken.wav", "long.flac", "missing.wav"]
    assert list(records) == [*(f"{bucket}/in/{name}" for name in names), str(clip)]
    output = tmp_path / "local.jsonl"
    run = CliRunner().invoke(app, ["tag", *options, "-o", str(output), str(clip), str(long_clip)])
    assert run.exit_code == 0, run.stderr
    expected: dict[str, Record] = {each["file"]: each for each in read_records(output, Format.JSONL, kind="events")}
    for name, path in (("in/a b.wav", clip), ("in/long.flac", long_clip)):
        assert_same_events(records[f"{bucket}/{name}"], expected[str(path)])
    assert expected[str(long_clip)]["events"]
    assert_same_events(records[str(clip)], expected[str(clip)])
    assert "error" in records[f"{bucket}/in/broken.wav"]
    assert records[f"{bucket}/in/missing.wav"]["error"].startswith("cannot be opened: ")


def assert_same_events(record: Record, expected: Record) -> None:
    assert record["duration_s"] == expected["duration_s"] and len(record["events"]) == len(expected["events"])
    for event, other in zip(record["events"], expected["events"], strict=True):
        for key in ("label", "onset_s", "offset_s"):
            assert event[key] == other[key]
        assert event["peak"] == pytest.approx(other["peak"], abs=1e-5)


def test_a_run_is_continued_only_with_the_same_options(tmp_path: Path, random_model: Path, clip: Path) -> None:
    """Reported before connecting to a cluster."""
    lasting = {"events": False, "channel": "mix", "threshold": 0.5}
    ShardedOutput(str(tmp_path), lasting).begin(MADE_BY)
    arguments = ["tag", str(clip), "--ray", "--model", str(random_model), "-o", str(tmp_path), "--resume"]
    run = CliRunner().invoke(app, [*arguments, "--threshold", "0.7"])
    assert run.exit_code == 2 and "--threshold 0.7: expected 0.5, as when " in run.stderr
    run = CliRunner().invoke(app, [*arguments, "--threshold", "0.5", "--ray-address", "127.0.0.1:1"])
    assert run.exit_code == 1 and "no Ray cluster answers" in run.stderr
