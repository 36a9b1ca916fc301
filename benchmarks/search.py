# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Time of `EmbeddingIndex.search`, which compares a query with each of many embeddings.

    python benchmarks/search.py [--rows 500000] [--width 192]

If usearch is installed (pip install usearch), also its exact search, and building its approximate index.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from machine import describe_machine

from ced_model.embedding_index import EmbeddingIndex


def timed(name: str, function: Callable[[], Any]) -> Any:
    begin = time.perf_counter()
    result = function()
    print(f"{name}: {time.perf_counter() - begin:.2f} s", flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--width", type=int, default=192)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((arguments.rows, arguments.width), dtype=np.float32)
    query = vectors[:1] + 0.1
    seconds = np.arange(arguments.rows) * 1.0
    index = EmbeddingIndex(["x"], np.zeros(arguments.rows, np.int32), seconds, seconds + 2, vectors, {})
    print(describe_machine(), f"; {arguments.rows} embeddings of width {arguments.width}")
    timed("EmbeddingIndex.search", lambda: index.search(query, 20))
    try:
        from usearch.index import Index, MetricKind, search
    except ImportError:
        return
    timed("usearch, exact", lambda: search(vectors, query, 20, MetricKind.Cos, exact=True))
    approximate = Index(ndim=arguments.width, metric="cos")
    few = min(20_000, arguments.rows)
    timed(f"usearch, an approximate index of {few}", lambda: approximate.add(np.arange(few), vectors[:few]))
    timed("usearch, approximate", lambda: approximate.search(query, 20))


if __name__ == "__main__":
    main()
