# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Sends alerts by HTTP (webhook) and to a command."""

import base64
import http.client
import json
import os
import shlex
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from ..messages import OptionError, UsageError, printable
from .addresses import parse_address
from .outbox import GiveUpError, Outbox, Payload, TryAgainError

TIMEOUT_S = 10.0  # of a request
COMMAND_TIMEOUT_S = 60.0
PRIVATE = ("CED_SOURCE_URL", "CED_WEBHOOK", "CED_MQTT", "CED_MQTT_USER", "CED_MQTT_PASSWORD")  # not passed to commands
TRY_AGAIN = (408, 425, 429)  # HTTP statuses, besides those from 500

Report = Callable[[str], object]


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None  # otherwise a GET request would send the credentials to another server


def webhook(url: str, report: Report) -> Outbox:
    """
    Sends each alert as JSON by POST. Repeated attempts have the same `Idempotency-Key: ID-TYPE`. User and password in
    the URL are sent as `Authorization` header.
    """
    address = parse_address("webhook", url, ("http", "https"))
    headers = {"Content-Type": "application/json", "User-Agent": "ced"}
    if address.user is not None:
        credentials = f"{address.user}:{address.password or ''}".encode()
        headers["Authorization"] = "Basic " + base64.b64encode(credentials).decode()
    opener = urllib.request.build_opener(_NoRedirect)

    def deliver(payload: Payload) -> None:
        key = {"Idempotency-Key": f"{payload['id']}-{payload['type']}"}
        request = urllib.request.Request(address.url, json.dumps(payload).encode(), headers | key, method="POST")
        try:
            opener.open(request, timeout=TIMEOUT_S).close()
        except urllib.error.HTTPError as error:
            error.close()
            kind = TryAgainError if error.code >= 500 or error.code in TRY_AGAIN else GiveUpError
            raise kind(f"HTTP {error.code} {address.hide(error.reason)}".strip()) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            if isinstance(reason, TimeoutError):
                raise TryAgainError(f"no answer within {TIMEOUT_S:g} s") from error
            text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
            raise TryAgainError(address.hide(text)) from error

    return Outbox(f"webhook {address.shown}", deliver, report)


def command(text: str, report: Report) -> Outbox:
    """
    Runs a command for each alert, without a shell. The text is split into arguments like in a POSIX shell; on Windows,
    at spaces outside double quotes. The alert is JSON on standard input, and its fields are environment variables such
    as `CED_LABEL`.
    """
    try:
        arguments = split_command(text)
    except ValueError as error:
        raise OptionError("exec", printable(text), f"a command; {error}") from error
    if not arguments or shutil.which(arguments[0]) is None:
        raise OptionError("exec", printable(text), "an existing program, and its arguments")
    environment = {name: value for name, value in os.environ.items() if name not in PRIVATE}

    def deliver(payload: Payload) -> None:
        fields = {f"CED_{name.upper()}": str(value) for name, value in payload.items() if value is not None}
        try:
            done = subprocess.run(
                arguments,
                input=json.dumps(payload).encode(),
                stdout=subprocess.DEVNULL,
                env=environment | {name: value.replace("\0", "") for name, value in fields.items()},
                timeout=COMMAND_TIMEOUT_S,
            )
        except subprocess.TimeoutExpired as error:
            raise GiveUpError(f"ended after {COMMAND_TIMEOUT_S:g} s") from error
        except OSError as error:
            raise GiveUpError(f"cannot be run: {error.strerror or error}") from error
        if done.returncode:
            raise GiveUpError(f"exit code {done.returncode}")

    return Outbox(f"command {printable(arguments[0])}", deliver, report, retries=False)


def split_command(text: str) -> list[str]:
    """The arguments of a command line. Raises a `ValueError` for a missing quotation mark."""
    if os.name == "nt":  # a backslash separates folders
        return [argument.strip('"') for argument in shlex.split(text, posix=False)]
    return shlex.split(text)


def check_folder(option: str, path: str) -> None:
    """Creates a folder if its parent exists. Raises a `UsageError` if the folder is not writable."""
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise OptionError(option, printable(path), f"a folder; {error.strerror}") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise UsageError(f"{printable(path)}: the folder is not writable")
