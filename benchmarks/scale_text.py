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
    lines = ["Core seconds per hour of audio:", "", "| step | core s | MB |", "| --- | ---: | ---: |"]
    lines += [
        f"| decode {name} | {each['core_s']:.1f} | {each['mb']:.0f} |" for name, each in results["decoding"].items()
    ]
    lines.append(f"| front end | {results['front_end']:.1f} | |")
    engines = list(max(results["models"].values(), key=len))
    lines += ["", "| front end and model | " + " | ".join(engines) + " |", "| --- |" + " ---: |" * len(engines)]
    for size, by_engine in results["models"].items():
        cells = [f"{by_engine[engine]:.0f}" if engine in by_engine else "" for engine in engines]
        lines.append(f"| ced-{size} | {' | '.join(cells)} |")
    return "\n".join(lines)


def nodes(results: dict[str, Any]) -> str:
    speeds = results["speeds"]
    lines = ["ced-tiny on files of 10 s, after the start:", "", "| | audio s / s |", "| --- | ---: |"]
    lines += [f"| {name} | {speed:.0f} |" for name, speed in speeds.items()]
    if "two nodes" in speeds:
        share = speeds["two nodes"] / (2 * speeds["one node"])
        ray = speeds["one node"] / speeds["one core, without Ray"]
        lines += ["", f"Two nodes do {2 * share:.2f} times what one does: an efficiency of {share:.0%}."]
        lines += ["The driver and Ray's own processes have no core of their own here and take their part of both."]
        lines += [f"One node of Ray does {ray:.0%} of what a core does without Ray."]
    return "\n".join(lines)


def million_hours(results: dict[str, Any]) -> str:
    decode, mb = results["decoding"][CODEC]["core_s"], results["decoding"][CODEC]["mb"]
    lines = [f"A million hours, {CODEC.split(',')[0]} files, {CORES:,} cores, at the speed of the steps above:", ""]
    lines += ["| | core s per hour | core hours | hours | audio in MB/s |", "| --- | --- | ---: | ---: | ---: |"]
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
            f"That is without Ray. If it took as much of every node as it did of the two above, {1 - share:.0%},"
            f" ced-tiny would need {hours:.1f} / {share:.2f} = {hours / share:.1f} hours, and the others as much more.",
        ]
    clips, plan, size = HOURS * 3600 // CLIP_S, results["plan"], results["bytes_per_input"]
    lines += [
        "",
        "Core hours are 1,000,000 × core s / 3600; hours are these / 1,000; MB/s are 1,000,000 × MB / (hours × 3600).",
        "",
        f"- **Audio**: {mb:.0f} MB × 1,000,000 = {mb * HOURS / 1e6:,.0f} TB as {CODEC}.",
        f"- **Tags**, five of each input: {size:.0f} bytes × 1,000,000 recordings of an hour ="
        f" {size * HOURS / 1e9:,.2f} GB; × {clips:,} clips of 10 s = {size * clips / 1e9:,.0f} GB in"
        f" {clips / 256:,.0f} files.",
        f"- **The driver** has each input in memory and in the plan: {plan['memory']:.0f} bytes and"
        f" {1e6 * plan['seconds']:.0f} µs × 1,000,000 = {plan['memory'] * HOURS / 1e9:.1f} GB and"
        f" {plan['seconds'] * HOURS:.0f} s; × {clips:,} = {plan['memory'] * clips / 1e9:,.0f} GB and"
        f" {plan['seconds'] * clips / 3600:,.1f} h.",
    ]
    return "\n".join(lines)
