# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Memory of the demo's server over many uploads (on Linux).

    python benchmarks/demo_memory.py [--uploads 500] [--model ced-tiny|FOLDER]

Each upload is a different recording of 1 to 12 s, sent with the requests of a browser. There is a new visitor every 5
uploads, and every 25th file is broken. The server is `ced demo` in a separate process. By default, the model has random
weights in the shape of ced-tiny.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import soundfile
from tagging import RESOURCES, save_random_model

ROWS = 10
UPLOADS_PER_VISITOR = 5
BROKEN_EVERY = 25


class Visitor:
    """Sends the requests of a browser after a file is selected: the file, then the two events of the page."""

    def __init__(self, url: str, name: str) -> None:
        self.http = httpx.Client(base_url=url, timeout=600)
        self.name = name
        config = self.http.get("config").json()
        events = config["dependencies"]
        self.chosen = next(event for event in events if any(kind == "upload" for _, kind in event["targets"]))
        self.shown = next(event for event in events if event["trigger_after"] == self.chosen["id"])
        values = {part["id"]: part["props"].get("value") for part in config["components"]}
        self.settings = [values[number] for number in self.shown["inputs"][1:]]

    def upload(self, path: Path) -> list[Any]:
        """Returns the updated parts of the page."""
        with path.open("rb") as file:
            (stored,) = self.http.post("gradio_api/upload", files={"files": (path.name, file)}).json()
        content = {"path": stored, "orig_name": path.name, "meta": {"_type": "gradio.FileData"}}
        self._run(self.chosen["id"], [content])
        return self._run(self.shown["id"], [None, *self.settings])

    def _run(self, event: int, data: list[Any]) -> list[Any]:
        body = {"fn_index": event, "data": data, "session_hash": self.name}
        self.http.post("gradio_api/queue/join", json=body).raise_for_status()
        with self.http.stream("GET", "gradio_api/queue/data", params={"session_hash": self.name}) as answer:
            for line in answer.iter_lines():
                message = json.loads(line.removeprefix("data: ") or "{}")
                if message.get("msg") == "process_completed":
                    assert message["success"], message
                    return message["output"]["data"]
        raise ConnectionError("the server closed the stream before the result")


def make_upload(folder: Path, number: int) -> Path:
    """A part of a recording with different noise for each upload, or a broken file."""
    rng = np.random.default_rng(number)
    path = folder / f"{number:04d}.wav"
    if is_broken(number):
        path.write_bytes(b"RIFF" + rng.bytes(10_000))
        return path
    samples, rate = soundfile.read(RESOURCES / "loop_tabla.flac", dtype="float32", always_2d=True)
    count = int(rate * rng.uniform(1, 12))
    soundfile.write(path, np.resize(samples.mean(axis=1), count) + 0.01 * rng.standard_normal(count), rate)
    return path


def is_broken(number: int) -> bool:
    return number % BROKEN_EVERY == BROKEN_EVERY - 1


def resident_mb(pid: int) -> float:
    """Memory of a process in MB (10⁶ bytes)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) * 1024 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--uploads", type=int, default=500)
    parser.add_argument("--model", default="ced-tiny", help="a size, for random weights, or a model folder")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as temporary:
        model = arguments.model
        if not Path(model).is_dir():
            save_random_model(model, Path(temporary) / "model")
            model = f"{temporary}/model"
        command = [sys.executable, "-m", "ced_model", "demo", "--model", model]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            url = re.findall(r"http://\S+/", server.stdout.readline())[0]
            run(url, server.pid, Path(temporary), arguments.uploads)
        finally:
            server.terminate()
            server.wait()


def run(url: str, pid: int, folder: Path, uploads: int) -> None:
    print("| uploads | memory of the server |\n| ---: | ---: |")
    for number in range(uploads):
        if number % UPLOADS_PER_VISITOR == 0:
            visitor = Visitor(url, f"visitor{number}")
        path = make_upload(folder, number)
        parts = visitor.upload(path)
        path.unlink()
        assert ("could not be read" in parts[0]) == is_broken(number), parts[0]
        if (number + 1) % max(1, uploads // ROWS) == 0:
            print(f"| {number + 1} | {resident_mb(pid):.0f} MB |", flush=True)


if __name__ == "__main__":
    main()
