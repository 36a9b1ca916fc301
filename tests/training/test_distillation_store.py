# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""A store has the outputs of the teachers, in files that other programs can read, and reports damage."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import load_dataset

from ced_model.training.distillation.augmentation import Augmentation, sample_seed
from ced_model.training.distillation.store import (
    CHUNKS,
    MANIFEST,
    SHARDS,
    Chunk,
    Shard,
    ShardRows,
    open_store,
    read_manifest,
    read_shard,
    restore_probabilities,
    top_probabilities,
    write_chunks,
    write_manifest,
    write_shard,
)

LABELS = [f"class {index}" for index in range(50)]
NUM_CHUNKS = 10


def said(epoch: int, chunk: int) -> np.ndarray:
    """The outputs of the teachers, of shape `(classes,)`."""
    return np.random.default_rng([epoch, chunk]).random(len(LABELS)) ** 4


def make_store(path: Path, *, num_classes: int = 50, shards: int | None = None) -> Path:
    """A store of three epochs of ten chunks in shards of four, or only the first `shards` of these."""
    (path / SHARDS).mkdir(parents=True)
    chunks = [Chunk(f"ä {number}.wav", 160_000 * number, 160_000, 2**32 - 1) for number in range(NUM_CHUNKS)]
    manifest = {
        "teachers": [{"name": "teacher"}],
        "labels": LABELS[:num_classes],
        "augmentation": Augmentation().to_dict(),
        "seed": 5,
        "top_k": 20,
        "num_epochs": 3,
        "num_chunks": NUM_CHUNKS,
        "shard_chunks": 4,
        "chunks_checksum": write_chunks(path, chunks),
        "audio": {"root": "audio"},
    }
    write_manifest(path, manifest)
    plan = [Shard(epoch, *place) for epoch in range(3) for place in ((0, 4), (4, 8), (8, 10))]
    for shard in plan[:shards]:
        chunks = range(shard.start, shard.stop)
        seeds = np.array([sample_seed(5, chunk, shard.epoch) for chunk in chunks], np.int32)
        probabilities = np.array([said(shard.epoch, chunk)[:num_classes] for chunk in chunks])
        write_shard(path, shard, ShardRows(seeds, *top_probabilities(probabilities, min(20, num_classes))), manifest)
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("stores") / "whole")


@pytest.fixture
def store(whole: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "store"))


def shard_file(store: Path, number: int) -> Path:
    return sorted((store / SHARDS).iterdir())[number]


# Stored values


def test_a_store_returns_the_stored_values(whole: Path) -> None:
    store = open_store(whole)
    assert (store.num_epochs, store.num_chunks, store.seed) == (3, 10, 5)
    assert store.labels == LABELS and store.augmentation == Augmentation() and store.audio_root == Path("audio")
    assert store.chunk(3) == Chunk("ä 3.wav", 480_000, 160_000, 2**32 - 1)
    rows = read_shard(whole, Shard(1, 4, 8), store.manifest)
    assert rows.seeds.tolist() == [sample_seed(5, chunk, 1) for chunk in range(4, 8)]
    for values, indices, chunk in zip(rows.values, rows.indices, range(4, 8), strict=True):
        best = np.argsort(-said(1, chunk))[:20]
        assert indices.tolist() == best.tolist()
        assert values.tolist() == said(1, chunk)[best].astype(np.float16).tolist()


def test_a_store_is_a_data_set_in_the_order_of_epochs_and_chunks(whole: Path) -> None:
    dataset = open_store(whole).dataset(keep_in_memory=True)
    assert [str(feature.dtype) for feature in (dataset.features[name] for name in ("chunk", "epoch", "seed"))] == [
        "int32"
    ] * 3
    assert dataset.features["values"].feature.dtype == "float16" and dataset.features["values"].length == 20
    assert dataset.features["indices"].feature.dtype == "int16" and dataset.features["indices"].length == 20
    assert dataset["epoch"][:] == [epoch for epoch in range(3) for _ in range(10)]
    assert dataset["chunk"][:] == list(range(10)) * 3
    assert dataset[17]["seed"] == sample_seed(5, 7, 1)


def test_datasets_loads_the_shards_without_this_package(whole: Path, tmp_path: Path) -> None:
    dataset = load_dataset("parquet", data_dir=str(whole / SHARDS), split="train", cache_dir=str(tmp_path))
    assert dataset.column_names == ["chunk", "epoch", "seed", "values", "indices"]
    assert len(dataset) == 30
    restored = restore_probabilities(*(torch.tensor(dataset[:2][name]) for name in ("values", "indices")), 50)
    assert restored[1].amax().item() == pytest.approx(said(0, 1).max(), abs=1e-3)


def test_fewer_classes_than_twenty_are_all_stored(tmp_path: Path) -> None:
    store = open_store(make_store(tmp_path / "store", num_classes=7))
    row = store.dataset(keep_in_memory=True)[12]
    restored = restore_probabilities(np.array([row["values"]]), np.array([row["indices"]]), 7)
    assert restored[0].numpy() == pytest.approx(said(1, 2)[:7], abs=1e-3)


def test_a_row_of_a_full_shard_takes_less_than_84_bytes(tmp_path: Path) -> None:
    (tmp_path / SHARDS).mkdir()
    generator = np.random.default_rng(0)
    probabilities = 1 / (1 + np.exp(6 - 2 * generator.normal(size=(1024, 527))))
    seeds = generator.integers(0, 2**31, 1024).astype(np.int32)
    write_shard(
        tmp_path, Shard(0, 0, 1024), ShardRows(seeds, *top_probabilities(probabilities, 20)), {"labels": [""] * 527}
    )
    assert shard_file(tmp_path, 0).stat().st_size < 1024 * 84


def test_equal_probabilities_are_stored_in_the_order_of_classes() -> None:
    values, indices = top_probabilities(np.array([[0.5, 0.0, 0.5, 1.0, 0.0, 0.0]]), 4)
    assert indices.tolist() == [[3, 0, 2, 1]] and indices.dtype == np.int16
    assert values.tolist() == [[1.0, 0.5, 0.5, 0.0]] and values.dtype == np.float16


# Restored probabilities

VALUES = torch.tensor([[0.5, 0.25], [0.9, 0.4]], dtype=torch.float16)
INDICES = torch.tensor([[3, 0], [1, 2]], dtype=torch.int16)


def test_probabilities_that_were_not_stored_are_zero() -> None:
    restored = restore_probabilities(VALUES, INDICES, 4)
    assert restored.dtype == torch.float32
    assert restored[0].tolist() == [0.25, 0.0, 0.0, 0.5]
    assert restored[1].tolist() == pytest.approx([0.0, 0.9, 0.4, 0.0], abs=1e-3)


# Damaged and foreign files


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 4
    file.write_bytes(content)


def rewrite(**columns: Any) -> Callable[[Path], None]:
    def change(file: Path) -> None:
        table = pq.read_table(file)
        for name, values in columns.items():
            table = table.set_column(table.column_names.index(name), name, pa.array(values, table[name].type))
        pq.write_table(table, file)

    return change


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a flipped bit": flip_a_bit,
    "cut in half": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "empty": lambda file: file.write_bytes(b""),
    "not Parquet": lambda file: file.write_text("what is this\n" * 9),
    "other columns": lambda file: pq.write_table(pa.table({"a": [1]}), file),
    "other chunks": rewrite(chunk=[4, 5, 7, 6]),
    "other epoch": rewrite(epoch=[1, 1, 0, 1]),
    "rows missing": lambda file: pq.write_table(pq.read_table(file).slice(1), file),
    "another shard": lambda file: shutil.copy(file.parent / "epoch-000001-chunk-0000000000.parquet", file),
    # Changed by a program that writes valid Parquet.
    "not a number": rewrite(values=[[float("nan")] * 20] * 4),
    "probabilities of 99": rewrite(values=[[99.0] * 20] * 4),
    "negative probabilities": rewrite(values=[[-0.5] * 20] * 4),
    "rising probabilities": rewrite(values=[[0.1 + 0.01 * index for index in range(20)]] * 4),
    "other probabilities": rewrite(values=[[0.5] * 20] * 4),
    "empty cells": rewrite(values=[[None] * 20] * 4),
    "a class that does not exist": rewrite(indices=[[32767, *range(19)]] * 4),
    "a negative class": rewrite(indices=[[-1, *range(19)]] * 4),
    "a class twice": rewrite(indices=[[3] * 20] * 4),
    "other classes": rewrite(indices=[list(range(20))] * 4),
    "other seeds": rewrite(seed=[1, 2, 3, 4]),
    "without a checksum": lambda file: pq.write_table(pq.read_table(file).replace_schema_metadata(), file),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_corrupt_shard_is_named(store: Path, damage: Callable[[Path], object]) -> None:
    file = shard_file(store, 4)
    assert file.name == "epoch-000001-chunk-0000000004.parquet"
    damage(file)
    with pytest.raises(ValueError) as caught:
        open_store(store)
    message = str(caught.value)
    assert message.startswith(f"{file}: corrupt shard: ") and "\n" not in message
    assert message.endswith("Run the same `ced distill teach` command again to rewrite this shard.")
    with pytest.raises(ValueError, match="corrupt shard"):  # also when it is read
        read_shard(store, Shard(1, 4, 8), read_manifest(store))


@pytest.mark.parametrize(
    ("values", "indices", "message"),
    [
        ([float("nan"), 0.1], [0, 1], "probabilities from nan to nan, not 0 to 1"),
        ([float("inf"), 0.1], [0, 1], "probabilities from 0.0999756 to inf, not 0 to 1"),
        ([99, 0.1], [0, 1], "probabilities from 0.0999756 to 99, not 0 to 1"),
        ([0.2, -0.1], [0, 1], "not 0 to 1"),
        ([0.2, 0.1], [0, 50], "classes from 0 to 50, not 0 to 49"),
    ],
)
def test_invalid_outputs_of_teachers_are_not_stored(store: Path, values: Any, indices: Any, message: str) -> None:
    rows = ShardRows(np.zeros(1, np.int32), np.array([values], np.float16), np.array([indices], np.int16))
    with pytest.raises(ValueError, match=message):
        write_shard(store, Shard(0, 0, 1), rows, read_manifest(store))


def test_shards_and_manifests_of_another_store_are_detected(store: Path, tmp_path: Path) -> None:
    change_manifest(teachers=[{"name": "another"}])(store)
    with pytest.raises(ValueError, match="corrupt shard: its checksum does not match its rows in this store"):
        open_store(store)
    change_manifest(teachers=[{"name": "teacher"}], labels=LABELS[::-1])(store)
    with pytest.raises(ValueError, match="corrupt shard: its checksum does not match its rows in this store"):
        open_store(store)
    change_manifest(labels=LABELS)(store)
    assert open_store(store).labels == LABELS


def test_the_error_for_an_unfinished_store_has_its_progress_and_how_to_continue(tmp_path: Path) -> None:
    path = make_store(tmp_path / "store", shards=5)
    with pytest.raises(ValueError) as caught:
        open_store(path)
    assert str(caught.value) == (
        f"{path}: unfinished: 5 of 9 shards exist. Run the same `ced distill teach` command again to complete it."
    )


def change_manifest(**entries: Any) -> Callable[[Path], None]:
    def change(store: Path) -> None:
        file = store / MANIFEST
        file.write_text(json.dumps(json.loads(file.read_text()) | entries))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda store: (store / MANIFEST).unlink(), "store: not a store: it has no manifest.json"),
        (lambda store: shutil.rmtree(store), "store: not a store: it has no manifest.json"),
        (lambda store: (store / MANIFEST).write_text('{"a": '), "manifest.json: corrupt: "),
        (lambda store: (store / MANIFEST).write_bytes(b"\xff\xfe"), "manifest.json: corrupt: "),
        (lambda store: (store / MANIFEST).write_text("[]"), "manifest.json: not the manifest of a distillation store"),
        (change_manifest(format="other"), "manifest.json: not the manifest of a distillation store"),
        (change_manifest(format_version=2), "store of format version 2; this version of ced_model reads 3"),
        (change_manifest(format_version="\x1b[31m\n"), r"store of format version \x1b[31m; this version"),
        (change_manifest(labels=None), "manifest.json: corrupt: `labels` is missing or invalid"),
        (change_manifest(labels=[3] * 50), "manifest.json: corrupt: `labels`"),
        (change_manifest(shard_chunks=0), "manifest.json: corrupt: `shard_chunks`"),
        (change_manifest(num_epochs=10**9), "manifest.json: corrupt: `num_epochs`"),
        (change_manifest(top_k=True), "manifest.json: corrupt: `top_k`"),
        (change_manifest(seed="5"), "manifest.json: corrupt: `seed`"),
        (change_manifest(augmentation={}), "manifest.json: corrupt: `augmentation`"),
        (change_manifest(audio="here"), "manifest.json: corrupt: `audio`"),
        (change_manifest(chunks_checksum=None), "manifest.json: corrupt: `chunks_checksum`"),
        (lambda store: (store / MANIFEST).write_text("[" * 100_000), "manifest.json: corrupt: "),
        (lambda store: rewrite(path=["a.wav"] * 10)(store / CHUNKS), "chunks.parquet: corrupt: its checksum differs"),
        (lambda store: rewrite(num_samples=[1] * 10)(store / CHUNKS), "chunks.parquet: corrupt: its checksum differs"),
        (change_manifest(num_chunks=11), "chunks.parquet: corrupt: 10 chunks, the manifest has 11"),
        (lambda store: (store / CHUNKS).unlink(), "chunks.parquet: corrupt: "),
        (lambda store: flip_a_bit(store / CHUNKS), "chunks.parquet: corrupt: "),
        (lambda store: shutil.copy(shard_file(store, 0), store / CHUNKS), "chunks.parquet: corrupt: its checksum"),
    ],
)
def test_a_folder_that_is_not_a_store_is_refused(store: Path, change: Callable[[Path], object], message: str) -> None:
    change(store)
    with pytest.raises(ValueError) as caught:
        open_store(store)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_shard_that_cannot_be_written_leaves_no_file(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {file.name: file.read_bytes() for file in (store / SHARDS).iterdir()}
    manifest = read_manifest(store)
    rows = read_shard(store, Shard(0, 0, 4), manifest)

    def no_space(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_space)
    with pytest.raises(OSError, match="No space left"):
        write_shard(store, Shard(0, 4, 8), rows, manifest)
    assert {file.name: file.read_bytes() for file in (store / SHARDS).iterdir()} == before
