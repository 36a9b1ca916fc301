# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Formats the results of `benchmarks/scale.py` for docs/scale.md: tables, then the estimate for a million hours."""

from typing import Any

HOURS = 1_000_000
CLIP_S = 10
CORES = 1000
CODEC = "Opus, 48 kHz stereo"


def describe(results: dict[str, Any]) -> str:
    return "\n\n".join([costs(results), nodes(results), million_hours(results), f"Measured on {results['machine']}."])


def costs(results: dict[str, Any]) -> str:
    lines = ["Core seconds and megabytes for one hour of audio:", "", "| Step | Core s | MB |", "| --- | ---: | ---: |"]
    lines += [
        f"| decode {name} | {each['core_s']:.1f} | {each['mb']:.0f} |" for name, each in results["decoding"].items()
    ]
    lines.append(f"| log-mel | {results['front_end']:.1f} | |")
    engines = list(max(results["models"].values(), key=len))
    lines += ["", "| Log-mel and model, core s | " + " | ".join(engines) + " |", "| --- |" + " ---: |" * len(engines)]
    for size, by_engine in results["models"].items():
        cells = [f"{by_engine[engine]:.0f}" if engine in by_engine else "" for engine in engines]
        lines.append(f"| ced-{size} | {' | '.join(cells)} |")
    return "\n".join(lines)


def nodes(results: dict[str, Any]) -> str:
    speeds = results["speeds"]
    lines = ["Speed of ced-tiny on files of 10 s, without the time to start:", ""]
    lines += ["| | Seconds of audio per second |", "| --- | ---: |"]
    lines += [f"| {name} | {speed:.0f} |" for name, speed in speeds.items()]
    if "two nodes" in speeds:
        share = speeds["two nodes"] / (2 * speeds["one node"])
        ray = speeds["one node"] / speeds["one core, without Ray"]
        lines += [
            "",
            f"Two nodes are {2 * share:.2f} times as fast as one, an efficiency of {share:.0%}. In this measurement,"
            " the driver and Ray's own processes share the two cores with the workers. One node with Ray is"
            f" {ray:.0%} as fast as one core without Ray.",
        ]
    return "\n".join(lines)


def million_hours(results: dict[str, Any]) -> str:
    decode, mb = results["decoding"][CODEC]["core_s"], results["decoding"][CODEC]["mb"]
    codec = CODEC.split(",")[0]
    lines = [f"Estimate for a million hours of {codec} files on {CORES:,} cores, from the steps above:", ""]
    lines += ["| Model and engine | Core s per hour of audio | Core hours | Hours | Audio read in MB/s |"]
    lines += ["| --- | --- | ---: | ---: | ---: |"]
    for size, by_engine in results["models"].items():
        for engine in {"onnx": 0, min(by_engine, key=by_engine.__getitem__): 0}:
            cost = decode + by_engine[engine]
            core_hours = HOURS * cost / 3600
            rate = HOURS * mb / (core_hours / CORES * 3600)
            lines.append(
                f"| ced-{size}, {engine} | {decode:.1f} + {by_engine[engine]:.1f} = {cost:.1f} | {core_hours:,.0f} |"
                f" {core_hours / CORES:.1f} | {rate:,.0f} |"
            )
    if "two nodes" in results["speeds"]:
        speeds = results["speeds"]
        share = speeds["two nodes"] / (2 * speeds["one core, without Ray"])
        hours = HOURS * (decode + results["models"]["tiny"]["torch"]) / 3600 / CORES
        lines += [
            "",
            f"This estimate is without the overhead of Ray. If Ray took {1 - share:.0%} of each node, as on the two"
            f" nodes above, ced-tiny would need {hours:.1f} / {share:.2f} = {hours / share:.1f} hours, and the other"
            " models would need more time in the same proportion.",
        ]
    clips, plan, size = HOURS * 3600 // CLIP_S, results["plan"], results["bytes_per_input"]
    audio = f"{mb * HOURS / 1e6:,.0f} TB"
    lines += [
        "",
        "Core hours = 1,000,000 × core s / 3600. Hours = core hours / 1,000. MB/s = 1,000,000 × MB / (hours × 3600).",
        "",
        f"| | Per input or hour | 1,000,000 recordings of one hour | {clips:,} clips of {CLIP_S} s |",
        "| --- | --- | ---: | ---: |",
        f"| Audio ({CODEC}) | {mb:.0f} MB per hour | {audio} | {audio} |",
        f"| Output with five tags per input | {size:.0f} bytes | {size * HOURS / 1e9:,.2f} GB |"
        f" {size * clips / 1e9:,.0f} GB in {clips / 256:,.0f} files |",
        f"| Memory of the driver | {plan['memory']:.0f} bytes | {plan['memory'] * HOURS / 1e9:.1f} GB |"
        f" {plan['memory'] * clips / 1e9:,.0f} GB |",
        f"| Time to plan the shards | {1e6 * plan['seconds']:.0f} µs | {plan['seconds'] * HOURS:.0f} s |"
        f" {plan['seconds'] * clips / 3600:,.1f} h |",
    ]
    return "\n".join(lines)
