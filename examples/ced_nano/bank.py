# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Writes all recordings to a bank of Opus files, in pieces of at most 16 MB that can be copied one by one.

    python examples/ced_nano/bank.py WORK BANK

After an interruption, the same command continues. BANK/manifest.json lists the pieces with their checksums.
BANK/recordings.jsonl lists the recordings with source, licence, split and the teacher's classes. A piece is a ZIP
archive of Ogg Opus files. Missing or damaged pieces are left out when the bank is read.
"""

import argparse
import functools
import hashlib
import io
import json
import logging
import shutil
import subprocess
import zipfile
from collections.abc import Container, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from ced_model.audioset import AUDIOSET_LABELS
from ced_model.output import write_file
from fingerprints import Fingerprints
from sources import AUDIO, SAMPLING_RATE, Bank

logger = logging.getLogger(__name__)

VERSION = 1
PIECE_BYTES = 16_000_000
BITRATE_KBPS = 24  # mono, at 16 kHz
COMPLEXITY = 4  # of the encoder; 10 takes twice as long
BALANCE = 0.6  # of classes in mixes, see `weights_of`
MIN_PROBABILITY = 0.05  # classes below it are not stored in recordings.jsonl

Recording = tuple[dict[str, Any], bytes]  # row of recordings.jsonl, and Ogg Opus file


def encode(waveform: np.ndarray) -> bytes:
    """Encodes 16 kHz samples (int16, or float32 in [-1, 1]) as Ogg Opus with `opusenc` or else libsndfile (slower)."""
    wav = io.BytesIO()
    if not shutil.which("opusenc"):
        level = 1 - (BITRATE_KBPS - 6) / 250  # libsndfile's scale from 6 to 256 kbit/s
        soundfile.write(wav, waveform, SAMPLING_RATE, format="OGG", subtype="OPUS", compression_level=level)
        return wav.getvalue()
    soundfile.write(wav, waveform, SAMPLING_RATE, format="WAV", subtype="PCM_16")
    options = ("--quiet", "--comp", str(COMPLEXITY), "--bitrate", str(BITRATE_KBPS), "--discard-comments")
    return subprocess.run(["opusenc", *options, "-", "-"], input=wav.getvalue(), capture_output=True, check=True).stdout


def decode(data: bytes) -> np.ndarray:
    """The int16 samples of an Ogg Opus file at 16 kHz."""
    samples, sampling_rate = soundfile.read(io.BytesIO(data), dtype="int16")
    if sampling_rate != SAMPLING_RATE:  # the original rate is in the file's header
        raise ValueError(f"An Opus file of the bank has {sampling_rate} Hz instead of {SAMPLING_RATE}.")
    return samples


def write_bank(recordings: Iterable[Recording], folder: Path, *, piece_bytes: int = PIECE_BYTES) -> None:
    """
    Adds recordings to a bank, piece by piece. The bank is valid after each piece. Rows get `piece` and `file`.

    The recordings must not include any that the bank already has (`sources_in`).
    """
    folder.mkdir(parents=True, exist_ok=True)
    pieces, rows, members, size = [], [], [], 0
    if (folder / "manifest.json").exists():
        bank = OpusBank(folder)
        pieces, rows = bank.manifest["pieces"], bank.all_rows

    def close() -> None:
        name, buffer = f"piece_{len(pieces):03d}.zip", io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
            for member, data in members:
                archive.writestr(zipfile.ZipInfo(member), data)
        content = buffer.getvalue()
        write_file(folder / name, content)
        digest = hashlib.sha256(content).hexdigest()
        pieces.append({"name": name, "bytes": len(content), "sha256": digest, "recordings": len(members)})
        members.clear()
        table = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        manifest = {"version": VERSION, "sampling_rate": SAMPLING_RATE, "pieces": pieces}
        manifest["recordings_sha256"] = hashlib.sha256(table).hexdigest()
        write_file(folder / "recordings.jsonl", table)
        write_file(folder / "manifest.json", json.dumps(manifest, indent=1).encode())

    for row, data in recordings:
        cost = len(data) + 150  # with its entry in the archive
        if members and size + cost > piece_bytes:
            close()
            size = 0
        member = f"{len(rows):06d}.opus"
        rows.append({**row, "piece": len(pieces), "file": member})
        members.append((member, data))
        size += cost
    if members:
        close()


def sources_in(folder: Path) -> set[str]:
    """The sources of the recordings in a bank; empty if there is no bank."""
    return {row["source"] for row in OpusBank(folder).all_rows} if (folder / "manifest.json").exists() else set()


class OpusBank:
    """
    The recordings in the complete pieces of a bank.

    `rows` has a dict for each of them. `all_rows` also has those in missing or damaged pieces.

    Args:
        folder: Folder with manifest.json, recordings.jsonl and some or all of the pieces.

    Raises:
        ValueError: if the manifest or the table of recordings is missing or damaged, or no piece is complete.
    """

    def __init__(self, folder: Path):
        try:
            manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
            table = (folder / "recordings.jsonl").read_bytes()
            version, pieces, digest = (manifest[name] for name in ("version", "pieces", "recordings_sha256"))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{folder} is not a bank: {error}. Copy manifest.json and recordings.jsonl again."
            ) from error
        if version != VERSION:
            raise ValueError(f"The bank in {folder} has version {version}, this program reads version {VERSION}.")
        if hashlib.sha256(table).hexdigest() != digest:
            raise ValueError(f"{folder / 'recordings.jsonl'} is damaged: its checksum differs. Copy it again.")
        self.folder, self.manifest = folder, manifest
        self.pieces = [piece["name"] for piece in pieces]
        whole = {number for number, piece in enumerate(pieces) if _is_whole(folder / piece["name"], piece)}
        if not whole:
            raise ValueError(f"The bank in {folder} has no complete piece of {len(pieces)}. Copy its pieces again.")
        self.all_rows = [json.loads(line) for line in table.decode().split("\n")[:-1]]
        self.rows = [row for row in self.all_rows if row["piece"] in whole]
        self.checksum = hashlib.sha256(json.dumps([pieces[i]["sha256"] for i in sorted(whole)]).encode()).hexdigest()

    def decode(self, *, processes: int = 1) -> Iterator[np.ndarray]:
        """Yields the int16 samples of each row, in the order of `rows`."""
        by_piece: dict[int, list[str]] = {}
        for row in self.rows:
            by_piece.setdefault(row["piece"], []).append(row["file"])
        work = [(self.folder / self.pieces[piece], files) for piece, files in by_piece.items()]
        if processes == 1:
            for item in work:
                yield from _decode_piece(item)
            return
        with ProcessPoolExecutor(processes) as pool:
            for waveforms in pool.map(_decode_piece, work):
                yield from waveforms

    def taught(self) -> np.ndarray:
        """The teacher's mean probabilities (recordings, 527); those below `MIN_PROBABILITY` are 0."""
        scores = np.zeros((len(self.rows), len(AUDIOSET_LABELS)), np.float32)
        for row, values in zip(self.rows, scores, strict=True):
            for label, score in row["taught"].items():
                values[_index_of()[label]] = score
        return scores


@functools.cache
def _index_of() -> dict[str, int]:
    return {label: index for index, label in enumerate(AUDIOSET_LABELS)}


def _is_whole(path: Path, piece: dict[str, Any]) -> bool:
    if not path.exists():
        logger.warning("%s is missing: its %d recordings are left out.", path, piece["recordings"])
        return False
    content = path.read_bytes()
    if len(content) != piece["bytes"] or hashlib.sha256(content).hexdigest() != piece["sha256"]:
        logger.warning("%s is damaged: its %d recordings are left out.", path, piece["recordings"])
        return False
    return True


def _decode_piece(item: tuple[Path, list[str]]) -> list[np.ndarray]:
    path, files = item
    with zipfile.ZipFile(path) as archive:
        return [decode(archive.read(name)) for name in files]


def recordings_of(
    work: Path, *, processes: int, excluded: Path | None = None, done: Container[str] = ()
) -> Iterator[Recording]:
    """
    Encodes the recordings of WORK/bank and adds the teacher's probabilities.

    Recordings that are `done`, or that are also in the folder `excluded`, are left out. The order is by the rarity of
    the classes relative to the length, with held-out recordings last, so that the first pieces are the most useful.
    """
    bank = Bank(work / "bank")
    paths = sorted(path for path in excluded.rglob("*") if path.name.lower().endswith(AUDIO)) if excluded else ()
    fingerprints = Fingerprints(paths)
    means = np.load(work / "bank" / "heard.npz")["mean"].astype(np.float32)
    groups, lengths = [row["group"] for row in bank.rows], np.array([row["samples"] for row in bank.rows])
    value = weights_of(np.where(means >= MIN_PROBABILITY, means, 0), groups, BALANCE) / (lengths + SAMPLING_RATE)
    order = np.argsort(np.where([row["split"] == "train" for row in bank.rows], -value, 1), kind="stable").tolist()
    order = [index for index in order if bank.rows[index]["source"] not in done]
    # The test recordings are everyday sounds, so the slow comparison is only made for recordings of other sounds than
    # speech and music.
    others = means[:, [AUDIOSET_LABELS.index(name) for name in ("Speech", "Music")]].max(1) < 0.5
    with ProcessPoolExecutor(processes, initializer=_open, initargs=(bank, fingerprints, others)) as pool:
        for index, (data, match) in zip(order, pool.map(_encode, order, chunksize=16), strict=True):
            row = bank.rows[index]
            if match:
                logger.warning("%s is left out: it is the same recording as %s.", row["source"], match)
                continue
            first = np.argsort(-means[index])[:20]
            taught = {AUDIOSET_LABELS[i]: round(float(means[index, i]), 3) for i in first}
            kept = {name: row.get(name, "") for name in ("source", "licence", "split", "group", "samples")}
            yield {**kept, "taught": {k: v for k, v in taught.items() if v >= MIN_PROBABILITY}}, data


def weights_of(taught: np.ndarray, groups: Sequence[str], balance: float) -> np.ndarray:
    """
    Relative frequency with which each recording is drawn.

    The weight of a recording is the sum of the teacher's probabilities, each divided by a power of the total of its
    class, so that rare classes are drawn more often. Weights are also reduced for recordings of large series.

    Args:
        taught: The teacher's probabilities (recordings, classes).
        groups: The series of each recording.
        balance: 0 to draw all recordings equally often, 1 to draw all classes equally often.
    """
    amount = taught.sum(0)
    weights = (taught * np.where(amount > 0, amount, 1) ** -balance).sum(1)
    if (weights > 0).any():  # minimum weight, also for recordings without a class
        weights = np.maximum(weights, np.quantile(weights[weights > 0], 0.1))
    else:
        weights = np.ones(len(taught))
    _, group_of, group_counts = np.unique(list(groups), return_inverse=True, return_counts=True)
    return weights * group_counts[group_of] ** -0.5


def _open(bank: Bank, fingerprints: Fingerprints, compared: np.ndarray) -> None:
    global _bank, _fingerprints, _compared
    _bank, _fingerprints, _compared = bank, fingerprints, compared


def _encode(index: int) -> tuple[bytes, str | None]:
    row = _bank.rows[index]
    match = _fingerprints.match(_bank.waveform(index)) if _compared[index] else None
    return encode(np.asarray(_bank.samples[row["start"] : row["start"] + row["samples"]])), match


def hours_by(rows: list[dict[str, Any]], key: str) -> dict[str, float]:
    """Hours of recordings per package, licence or split; for `taught`, per class among the five most probable ones."""
    hours: dict[str, float] = {}
    for row in rows:
        names = list(row["taught"])[:5] if key == "taught" else [row[key].split("/")[0]]
        for name in names:
            hours[name] = hours.get(name, 0.0) + row["samples"] / SAMPLING_RATE / 3600
    return dict(sorted(hours.items(), key=lambda item: -item[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("bank", type=Path)
    parser.add_argument("--exclude", type=Path, help="folder of test recordings to exclude, such as ESC-10")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    done = sources_in(options.bank)
    recordings = recordings_of(options.work, processes=options.processes, excluded=options.exclude, done=done)
    write_bank(recordings, options.bank)
    bank = OpusBank(options.bank)
    print(f"{len(bank.rows)} recordings, {len(bank.pieces)} pieces")
    for key in ("source", "licence", "taught"):
        print(f"\n{key}")
        for name, hours in hours_by(bank.rows, key).items():
            print(f"{hours:7.2f} h  {name}")


if __name__ == "__main__":
    main()
