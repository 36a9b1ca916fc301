# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Free recordings from Debian packages → one bank of mono 16 kHz recordings, each with its source."""

import functools
import hashlib
import json
import logging
import re
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

import instruments
import licences
from ced_model.audio import AudioError, read_audio
from ced_model.output import write_file
from named_sounds import is_reserved

logger = logging.getLogger(__name__)

PACKAGES = (
    # animals, household, instruments, and speech in many languages
    "tuxpaint-stamps-default ktuberling-data gcompris-qt-data sonic-pi-samples sound-icons sound-theme-freedesktop "
    "tuxtype-data fillets-ng-data "
    # telephone prompts
    "asterisk-core-sounds-en-wav asterisk-core-sounds-es-wav asterisk-core-sounds-fr-wav asterisk-core-sounds-it-wav "
    "asterisk-core-sounds-ru-wav "
    # ambience, weather, animals, crowds, weapons, engines
    "0ad-data boswars-data colobot-common-sounds extremetuxracer-data flightgear-data-base freedroidrpg-data "
    "frozen-bubble-data hedgewars-data lincity-ng-data lugaru-data megaglest-data minetest-data openarena-data "
    "openarena-085-data openclonk-data openttd-opensfx pingus-data planetblupi-common pokerth-data scorched3d-data "
    "searchandrescue-data supertux-data supertuxkart-data torcs-data trackballs-data ufoai-sound unknown-horizons "
    "warmux-data warzone2100-data wesnoth-1.16-data wesnoth-1.16-music widelands-data xmoto-data "
    # drums and other instruments
    "hydrogen-drumkits lmms-common"
).split()
SOUNDFONTS = {
    "timgm6mb-soundfont": "usr/share/sounds/sf2/TimGM6mb.sf2",
    "fluid-soundfont-gm": "usr/share/sounds/sf2/FluidR3_GM.sf2",
}
AUDIO = (".ogg", ".oga", ".wav", ".flac", ".mp3", ".opus")
ARCHIVES = (".zip", ".pk3", ".wz")
# Qt's and GLib's resources and OpenTTD's sound sets hold whole audio files, one after another.
RESOURCE_FILES = (".rcc", ".cat", ".gresource")

SAMPLING_RATE = 16000
MAX_RECORDING_S = 60.0
MIN_RECORDING_S = 0.1
PEAK = 0.9
HELDOUT_SHARE = 0.08  # of the groups, besides what named_sounds.py reserves


def fetch(folder: Path) -> None:
    """Downloads the packages by `apt-get download` and unpacks the audio files in them, each package once."""
    folder.mkdir(parents=True, exist_ok=True)
    for package in (*PACKAGES, *SOUNDFONTS):
        target = folder / package
        if (target / ".complete").exists():
            continue
        if not list(folder.glob(f"{package}_*.deb")):
            subprocess.run(["apt-get", "download", "-qq", package], cwd=folder, check=True)
        _unpack(next(folder.glob(f"{package}_*.deb")), target)
        (target / ".complete").touch()


def _unpack(package: Path, target: Path) -> None:
    wanted = (*AUDIO, *ARCHIVES, *RESOURCE_FILES, ".sf2", "copyright")
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as process:
        with tarfile.open(fileobj=process.stdout, mode="r|") as tar:
            for member in tar:
                if member.isfile() and member.name.lower().endswith(wanted):
                    tar.extract(member, target, filter="data")
    for path in list(target.rglob("*")):
        name = path.name.lower()
        if name.endswith(ARCHIVES) and zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                inside = [entry for entry in archive.namelist() if entry.lower().endswith(AUDIO)]
                archive.extractall(path.with_name(path.name + ".d"), inside)
            path.unlink()
        elif name.endswith(RESOURCE_FILES):
            for number, (extension, data) in enumerate(carve(path.read_bytes())):
                part = path.with_name(f"{path.name}.d") / f"{number:03d}{extension}"
                part.parent.mkdir(exist_ok=True)
                part.write_bytes(data)
            path.unlink()


def carve(data: bytes) -> Iterator[tuple[str, bytes]]:
    """The WAV and Ogg files that lie whole within `data`, as (extension, bytes)."""
    position = 0
    while match := re.compile(rb"RIFF(?=....WAVE)|OggS\x00\x02", re.DOTALL).search(data, position):
        start = match.start()
        if match[0] == b"RIFF":
            position = start + 8 + int.from_bytes(data[start + 4 : start + 8], "little")
            yield ".wav", data[start:position]
        else:
            position = _end_of_ogg(data, start)
            yield ".ogg", data[start:position]


def _end_of_ogg(data: bytes, position: int) -> int:
    is_first = True
    while data[position : position + 4] == b"OggS" and (is_first or not data[position + 5] & 2):
        segments = data[position + 26]
        position += 27 + segments + sum(data[position + 27 : position + 27 + segments])
        is_first = False
    return position


def group_of(source: str) -> str:
    """Recordings of one series (bark1.ogg, bark2.ogg; one word in many languages) share a group and a split."""
    package, *folders, name = source.split("/")
    if package == "general-midi":  # the phrases of one instrument
        return source.rsplit("_", 1)[0]
    stem = re.sub(r"(_desc)?(_[a-z]{2,3}(_[A-Z]{2})?)?$", "", name.rsplit(".", 1)[0])
    stem = re.sub(r"[\W\d_]+", " ", stem).strip().lower() or name
    return f"{package}/{folders[-1] if folders else ''}/{stem}"


def is_heldout(group: str) -> bool:
    digest = hashlib.blake2b(group.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < HELDOUT_SHARE * 2**64


def build_bank(sources: Path, bank: Path) -> None:
    """Writes bank/audio.i16 (all recordings, one after another) and bank/recordings.jsonl.

    A recording is mono 16 kHz, without the silence at its ends, cut at a minute, scaled to a peak of 0.9.
    """
    if (bank / "recordings.jsonl").exists():
        return
    bank.mkdir(parents=True, exist_ok=True)
    instruments.render(sources, {name: sources / name / path for name, path in SOUNDFONTS.items()})
    paths = sorted(path for path in sources.rglob("*") if path.name.lower().endswith(AUDIO) and path.is_file())
    rows, seen, start = [], set(), 0
    with open(bank / "audio.i16", "wb") as file, ProcessPoolExecutor() as pool:
        for path, samples in zip(paths, pool.map(_decode, paths, chunksize=32), strict=True):
            if samples is None or (digest := hashlib.blake2b(samples.tobytes()).digest()) in seen:
                continue
            seen.add(digest)
            source = str(path.relative_to(sources))
            licence = licences.licence_of(sources, source)
            rows.append({"source": source, "licence": licence, "start": start, "samples": len(samples)})
            file.write(samples.tobytes())
            start += len(samples)
    write_file(bank / "recordings.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())


def _decode(path: Path) -> np.ndarray | None:
    try:
        waveform = read_audio(path)[: int(MAX_RECORDING_S * SAMPLING_RATE)]
    except AudioError as error:
        logger.warning("%s", error)
        return None
    peak = np.abs(waveform).max(initial=0)
    loud = np.flatnonzero(np.abs(waveform) > 0.003 * peak)
    if peak < 1e-3 or len(loud) == 0:
        return None
    waveform = waveform[loud[0] : loud[-1] + 1]
    if len(waveform) < MIN_RECORDING_S * SAMPLING_RATE:
        return None
    return np.round(waveform / peak * PEAK * 32767).astype(np.int16)


class Bank:
    """The recordings, memory-mapped. `rows` has a dict a recording; `waveform(i)` is float32 in [-1, 1]."""

    def __init__(self, folder: Path):
        self.rows = [json.loads(line) for line in open(folder / "recordings.jsonl", encoding="utf-8")]
        for row in self.rows:
            row["group"] = group_of(row["source"])
        heldout = {row["group"] for row in self.rows if is_reserved(row["source"]) or is_heldout(row["group"])}
        for row in self.rows:
            row["split"] = "heldout" if row["group"] in heldout else "train"
        self.folder = folder

    @functools.cached_property
    def samples(self) -> np.ndarray:
        return np.memmap(self.folder / "audio.i16", np.int16, "r")

    def waveform(self, index: int) -> np.ndarray:
        row = self.rows[index]
        return self.samples[row["start"] : row["start"] + row["samples"]].astype(np.float32) / 32767
