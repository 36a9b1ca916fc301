# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Metrics for Prometheus."""

import os
import struct
import time
from pathlib import Path

from prometheus_client import CONTENT_TYPE_LATEST as CONTENT_TYPE_LATEST
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # folder for the metrics of several processes
ATTEMPTS = 20
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

REQUESTS = Counter("ced_requests", "Requests", ("path", "status"))
DURATION = Histogram(
    "ced_request_seconds", "Seconds from the headers of a request to its response", ("path",), buckets=SECONDS
)
AUDIO = Counter("ced_audio_seconds", "Seconds of audio processed")
RUNNING = Gauge("ced_requests_running", "Requests in progress", multiprocess_mode="livesum")
WAITING = Gauge("ced_requests_waiting", "Requests waiting", multiprocess_mode="livesum")
STREAMS = Gauge("ced_streams", "Live streams", multiprocess_mode="livesum")


def read() -> bytes:
    """The metrics of all processes as text."""
    registry = REGISTRY
    if FOLDER in os.environ:
        for path in Path(os.environ[FOLDER]).glob("gauge_live*_*.db"):
            if not _is_alive(int(path.stem.rpartition("_")[2])):
                path.unlink(missing_ok=True)
        registry = CollectorRegistry()
        MultiProcessCollector(registry)
    for _ in range(ATTEMPTS):
        try:
            return generate_latest(registry)
        except struct.error:  # another process is just creating a file
            time.sleep(0.01)
    return generate_latest(registry)


def _is_alive(process: int) -> bool:
    if os.name == "nt":  # os.kill would send Ctrl-C
        return True
    try:
        os.kill(process, 0)
    except OSError:
        return False
    return True
