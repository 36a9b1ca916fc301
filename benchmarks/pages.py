# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Writes measured figures to documentation pages."""

import re
from pathlib import Path


def write_between(page: Path, name: str, text: str) -> None:
    """Replaces the text between `<!-- name -->` and `<!-- end -->`; raises a ValueError unless they appear once."""
    pattern = rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end -->)"
    filled, count = re.subn(
        pattern, lambda m: f"{m[1]}\n{text.strip()}\n\n{m[2]}", page.read_text(encoding="utf-8"), flags=re.DOTALL
    )
    if count != 1:
        raise ValueError(f"{page} must have <!-- {name} --> … <!-- end --> exactly once")
    page.write_text(filled, encoding="utf-8")
