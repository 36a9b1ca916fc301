# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Reads the licence of a recording from the `copyright` file of its Debian package."""

import functools
import re
from fnmatch import fnmatch
from pathlib import Path

KNOWN = {  # of other sources, and of packages without a machine-readable copyright file
    "general-midi": "rendered here; soundfonts: GPL-2 (TimGM6mb), MIT (Fluid R3)",
    "espeak-ng": "spoken here by espeak-ng (GPL-3+)",
    "synthesis": "made here",
}
HINTS = (
    "Creative Commons",
    "CC0",
    "CC-BY-SA",
    "CC-BY",
    "GPL",
    "GNU General Public",
    "public domain",
    "Artistic",
    "MIT",
)


def licence_of(sources: Path, source: str) -> str:
    """
    The licence of a recording.

    Args:
        sources: Folder with one subfolder per package.
        source: Path of the recording in this folder, starting with the package.
    """
    package, _, path = source.partition("/")
    if package in KNOWN:
        return KNOWN[package]
    stanzas = _stanzas(sources, package)
    if stanzas is None:
        return _licence_of_wheel(sources, package)
    path = re.sub(r"\.(zip|pk3|wz|rcc|cat|gresource)\.d/.*", r".\1", path)
    found = None
    for patterns, licence in stanzas:  # the last matching paragraph applies
        if any(_fits(path, pattern) for pattern in patterns):
            found = licence
    return found or "see the package's copyright file"


def _fits(path: str, pattern: str) -> bool:
    """Compares the ends of paths, because patterns refer to the source package and paths to the binary package."""
    if pattern == "*":
        return True
    if pattern.startswith("debian/"):  # the packaging
        return False
    parts = pattern.removeprefix("./").split("/")
    tails = ["/".join(path.split("/")[-count:]) for count in range(1, path.count("/") + 2)]
    return any(fnmatch(tail, "/".join(parts[start:])) for start in range(min(len(parts), 2)) for tail in tails)


@functools.cache
def _licence_of_wheel(sources: Path, package: str) -> str:
    """The licence in the metadata of a package from PyPI, which applies to the complete package."""
    for path in sorted((sources / package).rglob("*")):
        if path.name in ("METADATA", "PKG-INFO"):
            head = path.read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
            stated = re.findall(r"^License(?:-Expression)?: *(.+)$", head, re.MULTILINE)
            stated += re.findall(r"^Classifier: License ::.*:: *(.+)$", head, re.MULTILINE)
            return f"{stated[0].strip()} (of the package)" if stated else "unknown"
    return "unknown"


@functools.cache
def _stanzas(sources: Path, package: str) -> list[tuple[list[str], str]] | None:
    """(patterns, licence) of each `Files` paragraph of a package's copyright file, in their order."""
    path = next(iter(sorted((sources / package).rglob("doc/*/copyright"))), None)
    if path is None:
        return None
    text = path.read_text(encoding="utf-8", errors="replace")
    stanzas = []
    for paragraph in re.split(r"\n\s*\n", text):
        files = re.search(r"^Files:(.*?)(?=^\S|\Z)", paragraph, re.MULTILINE | re.DOTALL)
        licence = re.search(r"^License:[ \t]*(.*)$", paragraph, re.MULTILINE)
        if files and licence:
            stanzas.append((files[1].replace(",", " ").split(), licence[1].strip() or "see the copyright file"))
    if stanzas:
        return stanzas
    hints = [hint for hint in HINTS if hint.lower() in text.lower()]
    return [(["*"], ("mentions " + ", ".join(hints)) if hints else "see the package's copyright file")]
