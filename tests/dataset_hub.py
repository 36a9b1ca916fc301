# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""A stand-in for the HTTP server of the Hugging Face Hub that serves folders as data set repositories."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

SHA = "0123456789abcdef0123456789abcdef01234567"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append((self.command, path, self.headers.get("Range")))
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        place = re.fullmatch(r"(?:/api)?/datasets/([\w.-]+/[\w.-]+)(?:/(\w[\w-]*)/([^/]+)(?:/(.*))?)?", path)
        if place is None:
            self._answer(404, {"error": "not found"})
        elif place[1].endswith("/unreachable"):
            self.close_connection = True  # without a response
        elif place[1] in self.server.gated:
            self._answer(403, {"error": "gated"}, {"X-Error-Code": "GatedRepo"})
        elif place[1] not in self.server.folders:
            self._answer(401, {"error": "no such repository"}, {"X-Error-Code": "RepoNotFound"})
        elif place[3] not in (None, "main", SHA):
            self._answer(404, {"error": "no such revision"}, {"X-Error-Code": "RevisionNotFound"})
        else:
            self._of_repository(place[1], self.server.folders[place[1]], place[2], place[4] or "", body)

    do_HEAD = do_POST = do_GET

    def _of_repository(self, id: str, folder: Path, what: str | None, path: str, body: bytes) -> None:
        files = {str(file.relative_to(folder)): file for file in sorted(folder.rglob("*")) if file.is_file()}
        if what in (None, "revision"):
            siblings = [{"rfilename": name} for name in files]
            info = {"id": id, "sha": SHA, "private": False, "gated": False, "tags": [], "siblings": siblings}
            self._answer(200, info)
        elif what == "tree":
            self._answer(200, self._entries(folder, path))
        elif what == "paths-info":
            asked = json.loads(body)["paths"]
            entries = {entry["path"]: entry for entry in self._entries(folder, "")}
            self._answer(200, [entries[name.strip("/")] for name in asked if name.strip("/") in entries])
        elif what == "resolve" and path in files:
            self._send_file(files[path])
        else:
            self._answer(404, {"error": "no such file"}, {"X-Error-Code": "EntryNotFound"})

    def _entries(self, folder: Path, path: str) -> list[dict[str, Any]]:
        return [
            {"type": "file", "path": str(file.relative_to(folder)), "size": file.stat().st_size, "oid": _oid(file)}
            if file.is_file()
            else {"type": "directory", "path": str(file.relative_to(folder)), "size": 0, "oid": SHA}
            for file in sorted((folder / path).rglob("*"))
        ]

    def _send_file(self, file: Path) -> None:
        content = file.read_bytes()
        headers = {"ETag": f'"{_oid(file)}"', "X-Repo-Commit": SHA, "Accept-Ranges": "bytes"}
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if part is None:
            self._send(200, content, headers)
            return
        start, stop = int(part[1]), min(int(part[2] or len(content)) + 1, len(content))
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
        self._send(206, content[start:stop], headers)

    def _answer(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *arguments: Any) -> None:
        pass


def _oid(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()


@contextmanager
def dataset_hub(folders: dict[str, Path], gated: tuple[str, ...] = ()) -> Iterator[Any]:
    """A server with an `address` and a list of `requests`; `folders` are those of its repositories."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.folders, server.gated, server.requests = folders, gated, []  # type: ignore[attr-defined]
        server.address = f"http://127.0.0.1:{server.server_port}"  # type: ignore[attr-defined]
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
