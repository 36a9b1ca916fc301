# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""CPU time per hour of audio, speed-up by a second Ray node, and an estimate for a million hours.

    pip install ".[openvino,ray]"
    python benchmarks/scale.py [--all-engines tiny] [--rounds 5] [--job-s 4000] [--write]

Weights are random, in the published shapes. Costs are the CPU time of a process with one core, the minimum of the
rounds. Ray nodes are pinned to one core each. `--write` puts the figures and the calculation into docs/scale.md.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from machine import describe_machine
from pages import write_between
from scale_text import describe
from tagging import save_random_model

ROOT = Path(__file__).resolve().parents[1]
SIZES = ("tiny", "mini", "small", "base")
ENGINES = ("onnx", "torch", "onnx int8", "openvino", "openvino int8")
SOURCES = {"WAV, 16 kHz mono": ("wav", 16000, 1), "FLAC, 44.1 kHz stereo": ("flac", 44100, 2)}
SOURCES |= {"MP3, 44.1 kHz stereo": ("mp3", 44100, 2), "Opus, 48 kHz stereo": ("opus", 48000, 2)}
SOURCE_S = 120
CLIPS = 16  # number of clips of 10 s
PLANNED = 200_000  # number of inputs
FILE_S = 10  # length of the job's files in seconds
SHARD = 8  # number of inputs per shard


def make_scene(rate: int) -> np.ndarray:
    """At least two minutes of the concatenated recordings in `resources/`, float32 of shape `(samples,)`."""
    from ced_model.audio import read_audio

    recordings = [read_audio(path, sampling_rate=rate) for path in sorted((ROOT / "resources").glob("*.flac"))]
    once = np.concatenate(recordings)
    return np.tile(once, -(-SOURCE_S * rate // len(once)))


def cpu_s(work: Callable[[], object], rounds: int) -> float:
    """The minimum CPU time of several calls, after a warm-up call."""
    work()
    times = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


# In separate processes, on one core


def measure_decoding(rounds: int) -> dict[str, Any]:
    """Core seconds per hour of audio for decoding, mixing down and resampling, and megabytes per hour."""
    from ced_model.audio import read_audio

    costs = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (suffix, rate, channels) in SOURCES.items():
            samples = make_scene(rate)[: SOURCE_S * rate]
            path = Path(folder, f"sound.{suffix}")
            kind = {"format": "OGG", "subtype": "OPUS"} if suffix == "opus" else {}
            soundfile.write(path, np.stack([samples] * channels, axis=1), rate, **kind)
            hours = len(samples) / rate / 3600
            seconds = cpu_s(lambda path=path: read_audio(path), rounds) / hours
            costs[name] = {"core_s": seconds, "mb": path.stat().st_size / 1e6 / hours}
    return costs


def measure_front_end(rounds: int) -> float:
    from ced_model.log_mel import log_mel

    clips = ten_seconds()
    return cpu_s(lambda: [log_mel(clip) for clip in clips], rounds) / (CLIPS * 10 / 3600)


def measure_model(folder: str, engine: str, rounds: int) -> float:
    """Core seconds per hour of audio for front end and model of a tagger."""
    from ced_model import AudioTagger

    engine, _, compute_type = engine.partition(" ")
    tagger = AudioTagger(folder, device="cpu", num_threads=1, engine=engine, compute_type=compute_type or None)
    return cpu_s(lambda: tagger(ten_seconds()), rounds) / (CLIPS * 10 / 3600)


def measure_plan() -> dict[str, float]:
    """Cost of planning in the driver, per input: seconds, bytes in memory, and bytes on disk."""
    import psutil

    from ced_model.distributed.shards import ShardedOutput
    from ced_model.input_list import Input

    process = psutil.Process()
    with tempfile.TemporaryDirectory() as folder:
        before, start = process.memory_info().rss, time.perf_counter()
        names = [f"s3://bucket/recordings/2026/{index // 1000:06d}/{index:09d}.opus" for index in range(PLANNED)]
        output = ShardedOutput(folder, {})
        output.plan(output.unplanned([Input(name, name) for name in names]), 256)
        seconds = time.perf_counter() - start
        memory = process.memory_info().rss - before
        written = sum(path.stat().st_size for path in Path(folder, "_ced").iterdir())
    return {"seconds": seconds / PLANNED, "memory": memory / PLANNED, "written": written / PLANNED}


def ten_seconds() -> list[np.ndarray]:
    scene = make_scene(16000)
    return [scene[start * 16000 :][:160_000] for start in range(CLIPS)]


def alone(*task: str) -> Any:
    """Runs a measurement in a separate process on one core."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CED_CORE": str(min(os.sched_getaffinity(0)))}
    output = subprocess.check_output([sys.executable, __file__, "--task", *task], text=True, env=environment)
    return json.loads(output.splitlines()[-1])


def run_task(name: str, *arguments: str) -> Any:
    os.sched_setaffinity(0, {int(os.environ["CED_CORE"])})
    if name == "model":
        return measure_model(arguments[0], arguments[1], int(arguments[2]))
    if name == "plan":
        return measure_plan()
    return {"decoding": measure_decoding, "front end": measure_front_end}[name](int(arguments[0]))


# On nodes


def measure_nodes(model: str, job_s: int) -> dict[str, Any]:
    """Seconds of audio per second, for one core and for one and two nodes with one core each; bytes of an output."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "audio").mkdir()
        scene = make_scene(16000)
        for index in range(job_s // FILE_S):
            start = index * 997 % (len(scene) - FILE_S * 16000)
            soundfile.write(folder / "audio" / f"{index:05d}.flac", scene[start : start + FILE_S * 16000], 16000)
        cores = sorted(os.sched_getaffinity(0))[:2]
        speeds = {"one core, without Ray": local_speed(model, folder, cores[0])}
        for count in range(1, len(cores) + 1):
            name = "one node" if count == 1 else "two nodes"
            speeds[name] = ray_speed(model, folder, cores[:count], folder / name.replace(" ", "-"))
        parts = list((folder / "one-node").glob("part-*.parquet"))
        size = sum(part.stat().st_size for part in parts) / (job_s // FILE_S)
    return {"speeds": speeds, "bytes_per_input": size}


def local_speed(model: str, folder: Path, core: int) -> float:
    """Speed from the first result to the last, without the time to start."""
    script = (
        "import sys, time; from pathlib import Path; from ced_model import AudioTagger\n"
        "tagger = AudioTagger(sys.argv[1], num_threads=1)\n"
        "results = tagger.tag(sorted(Path(sys.argv[2]).iterdir())); next(results); start = time.perf_counter()\n"
        "print(sum(result.duration_s for result in results) / (time.perf_counter() - start))"
    )
    command = [sys.executable, "-c", script, model, str(folder / "audio")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pin = lambda: os.sched_setaffinity(0, {core})  # noqa: E731
    return float(subprocess.check_output(command, env=environment, text=True, preexec_fn=pin))


def ray_speed(model: str, folder: Path, cores: list[int], output: Path) -> float:
    """Speed by the times at which shards were written, from the first one of each worker."""
    import psutil
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    try:
        for core in cores:
            node = cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20, include_dashboard=False)
            raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
            for process in [raylet, *raylet.children(recursive=True)]:
                process.cpu_affinity([core])
        command = [sys.executable, "-m", "ced_model", "tag", str(folder / "audio"), "--model", model, "--ray"]
        command += ["--ray-address", cluster.address, "--shard-size", str(SHARD), "--output", str(output)]
        subprocess.run(command, check=True, cwd=ROOT, stderr=subprocess.DEVNULL)
    finally:
        cluster.shutdown()
    written = sorted(part.stat().st_mtime for part in output.glob("part-*.parquet"))
    return (len(written) - len(cores)) * SHARD * FILE_S / (written[-1] - written[len(cores) - 1])


def measure(all_engines: list[str], rounds: int, job_s: int) -> dict[str, Any]:
    results: dict[str, Any] = {"machine": describe_machine(("torch", "onnxruntime", "openvino", "ray"))}
    results["decoding"] = alone("decoding", str(rounds))
    results["front_end"] = alone("front end", str(rounds))
    results["plan"] = alone("plan")
    results["models"] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HF_ASSETS_CACHE"] = f"{folder}/assets"  # for int8 versions
        for size in SIZES:
            save_random_model(f"ced-{size}", f"{folder}/{size}")
            for engine in ENGINES if size in all_engines else ENGINES[:1]:
                cost = alone("model", f"{folder}/{size}", engine, str(rounds))
                results["models"].setdefault(size, {})[engine] = cost
        results |= measure_nodes(f"{folder}/tiny", job_s)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--all-engines", nargs="*", default=["tiny"], choices=SIZES, help="sizes to run with all engines"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--job-s", type=int, default=4000, help="seconds of audio for the job on nodes")
    parser.add_argument("--write", action="store_true", help="put the figures into docs/scale.md")
    parser.add_argument("--task", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.task:
        print(json.dumps(run_task(*arguments.task)))
        return
    text = describe(measure(arguments.all_engines, arguments.rounds, arguments.job_s))
    print(text)
    if arguments.write:
        write_between(ROOT / "docs" / "scale.md", "measured", text)


if __name__ == "__main__":
    main()
