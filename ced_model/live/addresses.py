# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""URLs with credentials: parsing them, and hiding secrets in messages."""

import re
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import quote, quote_plus, unquote, unquote_plus, urlsplit

from ..messages import OptionError, one_line

HIDDEN = "***"
MIN_SECRET = 3  # characters; shorter ones occur in ordinary words
MIN_TOKEN = 16  # characters from which a part of a path may be a token
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>]+")


class Address(NamedTuple):
    """
    A checked URL.

    Attributes:
        url: The URL without user and password.
        scheme, host, port: Parts of the URL; the port may be None.
        user, password: Decoded, or None.
        shown: The URL for messages, without path and query, which may contain a token.
        secrets: Parts that must not appear in messages.
    """

    url: str
    scheme: str
    host: str
    port: int | None
    user: str | None
    password: str | None
    shown: str
    secrets: tuple[str, ...]

    def hide(self, text: object) -> str:
        """A text as one line, without the secrets of this address."""
        return hide(text, self.secrets)


def parse_address(option: str, text: str, schemes: Sequence[str]) -> Address:
    """
    Parses a URL.

    Raises:
        OptionError: unless it is a URL with a host and one of these schemes. The message has no credentials.
    """
    expected = f"a URL that begins with {' or '.join(f'{scheme}://' for scheme in schemes)}"
    scheme = text.partition("://")[0].lower()
    if scheme not in schemes:
        raise OptionError(option, f"{scheme}://…" if re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme) else HIDDEN, expected)
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
        user, password = parts.username, parts.password
    except ValueError:  # invalid brackets or port; the message might contain a part of a password
        host = None
    is_split_early = (
        host and "@" in text.partition(parts.netloc)[2] and "@" not in parts.netloc
    )  # a # in a password ends the host
    if not host or is_split_early or not all(each.isprintable() and each != " " for each in text):
        advice = "a host; in user, password and path write @ as %40, / as %2F, # as %23, ? as %3F, a space as %20"
        raise OptionError(option, f"{scheme}://…", f"{expected}, with {advice}")
    user, password = (None if part is None else unquote(part) for part in (user, password))
    netloc = parts.netloc.rpartition("@")[2]
    url = parts._replace(scheme=scheme, netloc=netloc).geturl()
    has_more = len(parts.path) > 1 or parts.query or parts.fragment
    shown = f"{scheme}://{netloc}{'/…' if has_more else ''}"
    fields = [field.rpartition("=")[2] for field in re.split("[&;]", parts.query)]
    tokens = [segment for segment in parts.path.split("/") if len(segment) >= MIN_TOKEN]
    secrets = [text, parts.netloc.rpartition("@")[0], user, password, parts.query, parts.fragment, *fields, *tokens]
    return Address(url, scheme, host, port, user, password, shown, spellings(secrets))


def spellings(secrets: Sequence[str | None]) -> tuple[str, ...]:
    """Secrets as they may appear in a message, percent-encoded or not, the longest first."""
    found: set[str] = set()
    for secret in filter(None, secrets):
        for plain in (secret, unquote(secret), unquote_plus(secret)):
            found |= {plain, quote(plain), quote(plain, safe=""), quote_plus(plain), repr(plain)[1:-1]}
    return tuple(sorted((each for each in found if len(each) >= MIN_SECRET), key=len, reverse=True))


def hide(text: object, secrets: Sequence[str]) -> str:
    """A text as one line, with URLs reduced to their host, and secrets replaced."""
    line = one_line(text)
    for secret in secrets:
        line = re.sub(re.escape(secret), HIDDEN, line, flags=re.IGNORECASE)
    return URL.sub(lambda match: re.sub(r"^([^/]+//)(?:[^/]*@)?([^/?#]*).*", r"\1\2", match[0]), line)
