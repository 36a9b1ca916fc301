# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`ced serve` under load: regular clients with clips of mixed lengths, and clients that send or read slowly.

    python benchmarks/serving.py [--requests 20000] [--clients 8] [--slow 200] [--model DIR]
    python benchmarks/serving.py --batching

Prints the latency of single requests compared with the library, statuses and latencies under load, and the memory of
the server over time. `--batching` measures instead the CPU time per clip in batches of clips of the same length, with
one thread, by engine: the possible gain if requests shared batches.
"""

import argparse
import asyncio
import io
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import soundfile
from machine import describe_machine

LENGTHS_S = (0.5, 1, 2, 5, 10)
ENDPOINTS = ("audio/classification", "audio/events", "embeddings")
BATCHES = (1, 2, 4, 8)
REPEATS = 53


def make_clip(seconds: float, kind: str = "WAV") -> bytes:
    samples = 0.1 * np.random.default_rng(0).standard_normal(round(seconds * 16000))
    content = io.BytesIO()
    soundfile.write(content, samples, 16000, format=kind)
    return content.getvalue()


def make_request(path: str, body: bytes, kind: str = "audio/wav") -> bytes:
    head = f"POST /v1/{path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> int:
    """Sends one request on a persistent connection; returns the status."""
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    assert length is not None
    await reader.readexactly(int(length[1]))
    return int(head.split()[1])


async def be_good(port: int, requests: list[bytes], left: list[int], seconds: list[float], statuses: Counter) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while left[0] > 0:
        left[0] -= 1
        start = time.perf_counter()
        try:
            status = await ask(reader, writer, requests[left[0] % len(requests)])
        except (OSError, asyncio.IncompleteReadError):
            status = 0
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        statuses[status] += 1
        if status == 200:
            seconds.append(time.perf_counter() - start)
    writer.close()


async def be_slow(port: int, number: int, ends: Counter) -> None:
    """Repeatedly sends nothing, a header or a body byte by byte, or half a body, or does not read the responses."""
    request = make_request("audio/classification", make_clip(2))
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            sent = request[: (0, 20, 500, len(request) // 2, None)[number % 5]]
            writer.write(sent)
            for byte in request[len(sent) : len(sent) + 120 * (number % 5 in (1, 2))]:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(1)
            if number % 5 == 4:
                await asyncio.sleep(30)
            else:
                answer = await reader.read(200)
                ends[answer.split()[1].decode() if answer else "closed"] += 1
            writer.close()
        except OSError:
            ends["closed"] += 1
            await asyncio.sleep(0.5)


def memory_mb(process: int) -> float:
    return int(re.search(r"VmRSS:\s*(\d+)", Path(f"/proc/{process}/status").read_text())[1]) / 1024  # type: ignore[index]


def shown(seconds: list[float]) -> str:
    middle, high, highest = np.percentile(np.array(seconds) * 1000, (50, 95, 99))
    return f"median {middle:.1f} ms, 95 % {high:.1f} ms, 99 % {highest:.1f} ms"


def cpu_ms(process: int) -> float:
    """CPU time of a process so far. Unlike wall time, it hardly depends on other processes."""
    tasks = Path(f"/proc/{process}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e6


async def measure_single(port: int, process: int, model: str | None) -> None:
    from ced_model import AudioTagger

    tagger = AudioTagger(model)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    print("\n| clip | library (ms) | request (ms) | library (CPU ms) | request (CPU ms of the server) |")
    print("| --- | --- | --- | --- | --- |")
    for length_s in LENGTHS_S:
        clip = make_clip(length_s)
        request = make_request(ENDPOINTS[0], clip)
        pairs = []
        for _ in range(REPEATS):
            start, library_cpu = time.perf_counter(), time.process_time()
            tagger(clip)
            middle, library_cpu, server_cpu = time.perf_counter(), time.process_time() - library_cpu, cpu_ms(process)
            await ask(reader, writer, request)
            end = time.perf_counter()
            pairs.append((middle - start, end - middle, library_cpu, (cpu_ms(process) - server_cpu) / 1000))
        figures = " | ".join(f"{1000 * each:.1f}" for each in np.median(pairs[3:], axis=0))
        print(f"| {length_s:g} s | {figures} |", flush=True)
    writer.close()


async def measure_load(port: int, process: int, arguments: argparse.Namespace) -> None:
    requests = [
        make_request(ENDPOINTS[number % 3], make_clip(length_s, kind), f"audio/{kind.lower()}")
        for number, (length_s, kind) in enumerate([(s, kind) for s in LENGTHS_S for kind in ("WAV", "FLAC")] * 3)
    ]
    requests += [make_request(ENDPOINTS[0], body) for body in (b"", b"no audio", make_clip(1)[:1000])]
    left, seconds, statuses, ends = [arguments.requests], list[float](), Counter[int](), Counter[str]()
    slow = [asyncio.create_task(be_slow(port, number, ends)) for number in range(arguments.slow)]
    await asyncio.sleep(1)
    start = time.perf_counter()
    good = [be_good(port, requests, left, seconds, statuses) for _ in range(arguments.clients)]
    work = asyncio.ensure_future(asyncio.gather(*good))
    memory = [(0, memory_mb(process))]
    while not work.done():
        await asyncio.wait({work}, timeout=1)
        memory.append((arguments.requests - left[0], memory_mb(process)))
    wall_s = time.perf_counter() - start
    for task in slow:
        task.cancel()
    print(f"\n{arguments.requests} requests of {arguments.clients} clients and {arguments.slow} slow ones:")
    print(f"{arguments.requests / wall_s:.0f} requests/s; statuses {dict(statuses)}; status 200: {shown(seconds)}")
    print(f"slow clients ended with {dict(ends)}")
    print("\n| requests | memory of the server (MB) |\n| --- | --- |")
    for place in np.linspace(0, len(memory) - 1, 9).astype(int):
        print(f"| {memory[place][0]} | {memory[place][1]:.0f} |")


def measure_batching(model: str | None) -> None:
    from ced_model import AudioTagger

    print("| engine | clip |", " | ".join(f"{number} together" for number in BATCHES), "|")
    print("| --- " * (2 + len(BATCHES)) + "|")
    for engine in ("onnx", "openvino", "torch"):
        tagger = AudioTagger(model, engine=engine, num_threads=1)
        for length_s in LENGTHS_S:
            mel = tagger._windows.features([0.1 * np.random.default_rng(0).standard_normal(round(length_s * 16000))])
            batches = [np.repeat(mel.astype(np.float32), number, axis=0) for number in BATCHES]
            times = []
            for _ in range(15):  # in turn, so that other load affects all of them
                row = []
                for batch in batches:
                    start = time.process_time()
                    tagger._engine.run(batch, True)
                    row.append((time.process_time() - start) / len(batch))
                times.append(row)
            best = 1000 * np.percentile(np.array(times[3:]), 25, axis=0)
            row_text = " | ".join(f"{each:.2f} ms ({best[0] / each:.2f} ×)" for each in best)
            print(f"| {engine} | {length_s:g} s | {row_text} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--slow", type=int, default=200)
    parser.add_argument("--model", help="a model folder; by default ced-nano")
    parser.add_argument("--batching", action="store_true", help="measure batches")
    arguments = parser.parse_args()
    print(describe_machine(("onnxruntime", "fastapi", "uvicorn")))
    if arguments.batching:
        measure_batching(arguments.model)
        return
    command = [sys.executable, "-m", "ced_model", "serve", "--port", "0", "--body-timeout", "10"]
    command += ["--model", arguments.model] if arguments.model else []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            port = int(re.search(r":(\d+)", server.stdout.readline())[1])  # type: ignore[index]
            asyncio.run(measure_single(port, server.pid, arguments.model))
            asyncio.run(measure_load(port, server.pid, arguments))
        finally:
            server.terminate()
        print(f"\nended by SIGTERM with code {server.wait()}")


if __name__ == "__main__":
    main()
