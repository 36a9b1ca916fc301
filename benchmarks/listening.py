# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""CPU time and memory of `ced listen` for a stereo MP3 stream at 44.1 kHz.

    python benchmarks/listening.py [--model ced-nano] [--seconds 60]

The stream is sent by a small HTTP server in real time. Each row is a process with different options; CPU time does not
include its start. Requires the extra `[live]`.
"""

import argparse
import http.server
import io
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import soundfile
from machine import describe_machine

RATE = 44100
ROWS = {
    "hop 1 s": [],
    "hop 2 s": ["--hop", "2"],
    "hop 0.5 s": ["--hop", "0.5"],
    "below the gate": ["--gate", "0"],
}


def mp3(seconds: float) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(0).normal(scale=0.1, size=(round(seconds * RATE), 2))
    soundfile.write(file, noise, RATE, format="MP3")
    return file.getvalue()


class Station(http.server.BaseHTTPRequestHandler):
    content = b""
    seconds = 60.0

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "audio/mpeg")
        self.end_headers()
        start, size = time.monotonic(), len(self.content) // round(self.seconds * 10)
        for number, place in enumerate(range(0, len(self.content), size)):
            time.sleep(max(0.0, start + number / 10 - time.monotonic()))
            try:
                self.wfile.write(self.content[place : place + size])
            except OSError:
                return

    def log_message(self, *_: object) -> None:
        pass


def cpu_and_memory(process: subprocess.Popen) -> tuple[float, float]:
    with open(f"/proc/{process.pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    with open(f"/proc/{process.pid}/status") as file:
        memory = next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), memory / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--seconds", type=float, default=60.0)
    arguments = parser.parse_args()
    Station.content, Station.seconds = mp3(arguments.seconds + 30), arguments.seconds + 30
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Station)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    command = [sys.executable, "-m", "ced_model", "listen", f"http://127.0.0.1:{server.server_address[1]}/"]
    model = ["--model", arguments.model] if arguments.model else []
    print(describe_machine())
    print("| options | CPU of one core | memory |\n| --- | ---: | ---: |")
    for name, options in ROWS.items():
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [*command, *model, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
        )
        time.sleep(8)
        before, _ = cpu_and_memory(process)
        time.sleep(arguments.seconds)
        after, memory = cpu_and_memory(process)
        process.send_signal(signal.SIGINT)
        process.wait()
        print(f"| {name} | {(after - before) / arguments.seconds:.1%} | {memory:.0f} MB |", flush=True)


if __name__ == "__main__":
    main()
