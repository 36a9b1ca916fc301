# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Servers for live audio: a webhook that can fail and hang, and mosquitto, Icecast, FFmpeg and GStreamer of Debian."""

import hashlib
import http.server
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cli_process
import numpy as np
import soundfile

TIMEOUT_S = 300


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def wait_until(condition: Callable[[], Any]) -> Any:
    """Waits until `condition` returns a true value, and returns it."""
    until = time.monotonic() + TIMEOUT_S
    while not (value := condition()):
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.05)
    return value


def wait_for_port(port: int) -> None:
    def is_open() -> bool:
        with socket.socket() as asking:
            return asking.connect_ex(("127.0.0.1", port)) == 0

    wait_until(is_open)


class Webhook:
    """
    A server that answers with the statuses in `answers`, None to hang, and then with 204.

    Attributes:
        requests: Headers and JSON of each request.
        accepted: Events that were answered with success.
    """

    def __init__(self, *answers: int | None) -> None:
        self.answers = list(answers)
        self.requests: list[tuple[dict[str, str], dict[str, Any]]] = []
        self.accepted: list[dict[str, Any]] = []
        self.released = threading.Event()
        hook = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                event = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                hook.requests.append((dict(self.headers), event))
                answer = hook.answers.pop(0) if hook.answers else 204
                if answer is None:
                    hook.released.wait(TIMEOUT_S)
                    return
                if answer < 300:
                    hook.accepted.append(event)
                self.send_response(answer)
                if answer in (301, 302):
                    self.send_header("Location", "/elsewhere")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]

    def __enter__(self) -> "Webhook":
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.released.set()
        self.server.shutdown()
        self.server.server_close()


class Listening:
    """`ced listen ARGUMENTS…` as a process, with its output so far."""

    def __init__(self, folder: Path, *arguments: Any, **environment: str) -> None:
        self.stdout_file, self.stderr_file = folder / "stdout.txt", folder / "stderr.txt"
        for file in (self.stdout_file, self.stderr_file):
            file.write_text("")
        self.process = cli_process.start(
            ["listen", *map(str, arguments)],
            stdout=self.stdout_file,
            stderr=self.stderr_file,
            environment={"OMP_NUM_THREADS": "1"} | environment,
        )

    @property
    def lines(self) -> list[str]:
        return self.stdout_file.read_text().splitlines()

    @property
    def stderr(self) -> str:
        return self.stderr_file.read_text()

    def reports(self) -> list[str]:
        """Lines about lost events, without their times."""
        return re.findall(r"^ced: \d\S+ \S+ (.*)$", self.stderr, flags=re.MULTILINE)

    def wait_for_lines(self, count: int) -> None:
        wait_until(lambda: len(self.lines) >= count or self.process.poll() is not None)
        assert len(self.lines) >= count, self.stderr

    def end(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.process.wait(TIMEOUT_S)

    def __enter__(self) -> "Listening":
        return self

    def __exit__(self, *_: Any) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@contextmanager
def running(*command: Any, port: int) -> Iterator[subprocess.Popen]:
    """Starts a server, and waits until it accepts connections at `port`."""
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for_port(port)
        yield process
    finally:
        process.kill()
        process.wait()


def rtsp(port: int, *credentials: str) -> Any:
    return running("/usr/bin/python3", Path(__file__).parent / "rtsp_server.py", port, *credentials, port=port)


def mosquitto(folder: Path, port: int, *lines: str) -> Any:
    """A broker with retained messages that survive a restart."""
    config = folder / "mosquitto.conf"
    config.write_text(
        "\n".join(
            [
                f"listener {port} 127.0.0.1",
                "allow_anonymous true" if not lines else "",
                "persistence true",
                f"persistence_location {folder}/",
                "user root" if os.getuid() == 0 else "",
                "autosave_interval 1",
                *lines,
            ]
        )
    )
    return running("mosquitto", "-c", config, port=port)


def icecast(folder: Path, port: int, password: str) -> Any:
    config = folder / "icecast.xml"
    for name in ("log", "web", "admin"):
        (folder / name).mkdir(exist_ok=True)
    config.write_text(f"""<icecast><limits><sources>3</sources><source-timeout>3</source-timeout></limits>
<authentication><source-password>source</source-password><admin-user>admin</admin-user>
<admin-password>admin</admin-password></authentication><hostname>127.0.0.1</hostname>
<listen-socket><port>{port}</port><bind-address>127.0.0.1</bind-address></listen-socket>
<mount type="normal"><mount-name>/private</mount-name>
<authentication type="htpasswd"><option name="filename" value="{folder}/users"/></authentication></mount>
<paths><basedir>{folder}</basedir><logdir>{folder}/log</logdir><webroot>{folder}/web</webroot>
<adminroot>{folder}/admin</adminroot></paths><logging><errorlog>error.log</errorlog><accesslog>access.log</accesslog>
</logging><security><chroot>0</chroot><changeowner><user>nobody</user><group>nogroup</group></changeowner></security>
</icecast>""")
    (folder / "users").write_text(f"listener:{hashlib.md5(password.encode()).hexdigest()}\n")
    for path in [folder, *folder.parents[:3]]:
        path.chmod(path.stat().st_mode | 0o755)
    (folder / "log").chmod(0o777)
    return running("icecast2", "-c", config, port=port)


def broadcast(port: int, mount: str, *codec: str, rate: int = 44100) -> Any:
    """FFmpeg sends a tone to Icecast."""
    source = f"sine=frequency=1000:sample_rate={rate}"
    to = f"icecast://source:source@127.0.0.1:{port}/{mount}"
    command = ["ffmpeg", "-nostdin", "-loglevel", "error", "-re", "-f", "lavfi", "-i", source, *codec, to]
    return running(*command, port=port)


def scene(path: Path, tones: int = 1, silence_s: float = 3.0, tone_s: float = 3.0, rate: int = 16000) -> Path:
    """A file with tones of 1 kHz between silences."""
    time_s = np.arange(round(tone_s * rate)) / rate
    parts = [np.zeros(round(silence_s * rate))]
    for _ in range(tones):
        parts += [0.5 * np.sin(2000 * np.pi * time_s), np.zeros(round(silence_s * rate))]
    soundfile.write(path, np.concatenate(parts), rate)
    return path
