# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`ced serve` as a process: start, and shutdown under load."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cli_process
import httpx
import pytest

from ced_model.serve import metrics
from ced_model.serve.server import open_port

CLIP = Path(__file__).parents[2] / "resources" / "misc_crow.flac"


@contextmanager
def process(tmp_path: Path, *arguments: str, **how: Any) -> Iterator[tuple[cli_process.Process, str]]:
    """A running server and its address."""
    output = tmp_path / "output"
    output.write_bytes(b"")
    started = cli_process.start(["serve", "--threads", "1", *arguments], stdout=output, **how)
    try:
        while not (found := re.search(r"Serving at (\S+) ", output.read_text())):
            assert started.is_alive()
            time.sleep(0.02)
        yield started, found[1]
    finally:
        started.kill()
        started.wait()


def ask(address: str, **how: Any) -> int:
    how |= {"timeout": 300, "trust_env": False, "verify": False}  # loading certificates takes longer than a request
    return httpx.post(f"{address}/v1/audio/classification", files={"file": CLIP.read_bytes()}, **how).status_code


class Load:
    """Clients that repeat requests, and the responses they got."""

    def __init__(self, address: str, clients: int = 3) -> None:
        self.address = address
        self.got: Counter[int | str] = Counter()
        self.is_over = False
        self.threads = [threading.Thread(target=self._run) for _ in range(clients)]
        for thread in self.threads:
            thread.start()

    def _run(self) -> None:
        while not self.is_over:
            try:
                self.got[ask(self.address)] += 1
            except httpx.ConnectError:
                self.got["refused"] += 1
                time.sleep(0.02)
            except httpx.TransportError:
                self.got["broken"] += 1

    def wait_for(self, what: int | str, number: int) -> None:
        target = self.got[what] + number
        while self.got[what] < target:
            time.sleep(0.01)

    def end(self) -> None:
        self.is_over = True
        for thread in self.threads:
            thread.join()


def test_sigterm_finishes_running_requests_and_a_new_server_can_start_under_load(tmp_path: Path):
    with process(tmp_path, "--port", "0") as (first, address):
        port = address.rpartition(":")[2]
        # A request whose body is being sent when the signal arrives is also answered.
        body = CLIP.read_bytes()
        late = socket.create_connection(("127.0.0.1", int(port)))
        head = "POST /v1/audio/classification HTTP/1.1\r\nHost: x\r\nContent-Type: audio/flac\r\n"
        late.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:1000])
        load = Load(address)
        load.wait_for(200, 10)
        first.send_signal(signal.SIGTERM)
        load.wait_for("refused", 3)
        late.sendall(body[1000:])
        assert late.recv(100).startswith(b"HTTP/1.1 200 ")
        late.close()
        assert first.wait() == 0
        with process(tmp_path, "--port", port) as (second, _):
            load.wait_for(200, 10)
            second.kill()
            second.wait()
            with process(tmp_path, "--port", port):
                load.wait_for(200, 10)
                load.end()
    # "broken" are requests that the killed server had accepted, and connections that were open when a server ended.
    assert set(load.got) <= {200, "refused", "broken"}


SIGNALLED = """
import signal, sys, uvicorn
from ced_model import AudioTagger
from ced_model.serve.server import open_port, serve

number, run = int(sys.argv[1]), uvicorn.Server.run

def signalled(server, sockets):
    signal.raise_signal(number)
    assert server.should_exit
    run(server, sockets)

uvicorn.Server.run = signalled
before = signal.getsignal(number)
serve(open_port("127.0.0.1", 0), [AudioTagger()])
assert signal.getsignal(number) is before
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_just_after_the_start_ends_the_server(number: signal.Signals):
    # In another process, since libraries that earlier tests loaded may change how this one handles signals.
    environment = os.environ | {"PYTHONPATH": str(cli_process.REPOSITORY)}
    run = subprocess.run([sys.executable, "-c", SIGNALLED, str(int(number))], env=environment, capture_output=True)
    assert run.returncode == 0, run.stderr.decode()


def test_several_processes_share_the_port_and_end_with_their_parent(tmp_path: Path):
    with process(tmp_path, "--port", "0", "--workers", "2") as (parent, address):
        port = int(address.rpartition(":")[2])
        assert [ask(address) for _ in range(6)] == [200] * 6
        total = 'ced_requests_total{path="/v1/audio/classification",status="200"} 6.0'
        while total not in httpx.get(f"{address}/metrics", trust_env=False, verify=False).text:
            time.sleep(0.05)  # a request is counted after its response
        parent.kill()
        parent.wait()
        while True:  # until the workers have detected it
            with socket.socket() as trial:
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    trial.bind(("127.0.0.1", port))
                    break
                except OSError:
                    time.sleep(0.05)


def test_metrics_wait_for_a_process_that_is_creating_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "counter_1.db"
    path.touch()
    monkeypatch.setenv(metrics.FOLDER, str(tmp_path))
    monkeypatch.setattr(time, "sleep", lambda seconds: path.unlink())
    assert metrics.read() == b""


def test_serving_imports_neither_torch_nor_transformers_and_the_key_may_be_in_the_environment(tmp_path: Path):
    with process(tmp_path, "--port", "0", environment={"CED_API_KEY": "secret"}) as (started, address):
        assert ask(address) == 401 and ask(address, headers={"Authorization": "Bearer secret"}) == 200
        loaded = Path(f"/proc/{started.pid}/maps").read_text() if os.path.isdir("/proc") else ""
        assert "libtorch" not in loaded and "secret" not in (tmp_path / "output").read_text()
        line = cli_process.run("serve", "--port", address.rpartition(":")[2], code=1).stderr
        reason = r"ced: cannot listen at 127.0.0.1, port \d+: Address already in use; choose another --port\n"
        assert re.fullmatch(reason, line)


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["--max-megabytes", "0"], 2, "ced: --max-megabytes 0: expected a number above 0"),
        (["--port", "70000"], 2, "ced: --port 70000: expected a number from 0 to 65535"),
        (["--root-path", "ced"], 2, "ced: --root-path ced: expected a path such as /ced"),
        (["--body-timeout", "nan"], 2, "ced: --body-timeout nan: expected a number"),
        (["--model", "./nothing"], 2, "ced: --model ./nothing: expected a model folder or Hub id"),
        (["--host", "1.2.3.4"], 1, "ced: cannot listen at 1.2.3.4, port 8080: Cannot assign requested address"),
    ],
)
def test_a_wrong_option_of_the_command_is_one_line(arguments: list[str], code: int, line: str):
    from typer.testing import CliRunner

    from ced_model.cli.app import app

    done = CliRunner().invoke(app, ["serve", *arguments])
    assert (done.exit_code, done.stderr.count("\n")) == (code, 1) and done.stderr.startswith(line)


def test_a_missing_package_is_one_line_with_the_install_command():
    line = cli_process.run("serve", code=1, without="fastapi uvicorn").stderr
    assert line == "ced: serving requires fastapi and uvicorn: pip install fastapi uvicorn\n"


def test_responses_are_sent_without_delay() -> None:
    """asyncio disables Nagle's algorithm only for sockets with the protocol TCP. Otherwise a response waits 40 ms."""

    async def nodelay_of_a_connection() -> int:
        found: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            found.set_result(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        listening = open_port("127.0.0.1", 0)
        async with await asyncio.start_server(accept, sock=listening):
            _, writer = await asyncio.open_connection(*listening.getsockname())
            option = await found
            writer.close()
            return option

    assert asyncio.run(nodelay_of_a_connection()) != 0
