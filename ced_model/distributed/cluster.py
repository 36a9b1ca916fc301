# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Connecting to a Ray cluster, and choosing the workers of a job."""

import contextlib
import io
import logging
import os
import socket
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..messages import RunError
from ..storage import reason_of

PACKAGES = ("ced_model", "numpy", "onnxruntime", "openvino", "torch", "transformers")  # scores depend on these
THREADS = 4  # of a worker, by default: as many as read its files
CONNECT_S = 10.0
START_S = 120.0  # in which each node must have answered
LOCAL_STORE_BYTES = 512 * 2**20  # of objects in memory, on a cluster of our own: a model and lists of paths


class ClusterError(RunError):
    """The cluster cannot be used. The message is one line."""


class Pool(NamedTuple):
    """Workers that are all alike."""

    workers: int
    cpus: int  # of each
    gpus: int  # of each: 0 or 1


@contextlib.contextmanager
def connected(address: str | None = None, *, num_cpus: int | None = None) -> Iterator[None]:
    """
    A context in which Ray is connected, without output and without usage statistics.

    Args:
        address: `HOST:PORT` of a cluster's head; `local` starts one here, which ends with the context. By default the
            environment variable `RAY_ADDRESS`, a cluster that was started on this machine, or else `local`.
        num_cpus: of a cluster that is started here, by default all.

    Raises:
        ClusterError: if it cannot be reached, or is not of the same versions.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # the default of later versions, else a warning
    with _quiet():
        import ray

        address = address or os.environ.get("RAY_ADDRESS") or running_here() or "local"
        if address == "auto":
            address = running_here() or address
        _check_address(address)
        is_ours = address == "local"
        local: dict[str, Any] = {"num_cpus": num_cpus, "object_store_memory": LOCAL_STORE_BYTES} if is_ours else {}
        try:
            ray.init(address, include_dashboard=False, log_to_driver=False, logging_level=logging.CRITICAL, **local)
        except Exception as error:
            place = "Ray on this machine" if address == "local" else f"Ray cluster {address}"
            advice = "; install the same versions of Ray and Python here and there" * ("Version mismatch" in str(error))
            raise ClusterError(f"{place}: {reason_of(error)}{advice}") from error
        try:
            check_versions()
            yield
        finally:
            with contextlib.suppress(Exception):  # it must not take the place of what ended the work
                ray.shutdown()


def _check_address(address: str) -> None:
    """Ray itself waits long, and then prints much."""
    if address == "local":
        return
    if address == "auto":
        raise ClusterError("auto: no Ray cluster is running on this machine; leave the address out to start one")
    host, _, port = address.rpartition(":")
    if "://" in address:
        raise ClusterError(
            f"{address}: expected HOST:PORT of the head; run this on a machine of the cluster, or with `ray job submit`"
        )
    if not host or not port.isdigit():
        raise ClusterError(f"{address}: expected HOST:PORT of the cluster's head, such as 10.0.0.1:6379")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(f"no Ray cluster answers at {address}: {reason_of(error)}") from error


def running_here() -> str | None:
    """The address of a cluster that was begun on this machine, as Ray notes it; the note outlives a killed one."""
    with contextlib.suppress(OSError, ClusterError):
        folder = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
        address = Path(folder, "ray", "ray_current_cluster").read_text().strip()
        _check_address(address)
        return address
    return None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """
    Ray ignores its own settings: C++ code writes to descriptor 2, and reports of nodes go to `sys.stdout`.

    Both are discarded in this context; `sys.stderr` still works.
    """
    with contextlib.ExitStack() as stack, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"ray\.|ced_model\.distributed")
        stack.enter_context(contextlib.redirect_stdout(_Nowhere()))
        descriptor = os.dup(2)
        stack.callback(os.close, descriptor)
        with contextlib.suppress(OSError, AttributeError):
            if sys.stderr.fileno() == 2:
                same = open(
                    os.dup(descriptor), "w", buffering=1, encoding=sys.stderr.encoding, errors="backslashreplace"
                )
                stack.enter_context(same)
                stack.enter_context(contextlib.redirect_stderr(same))
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)
        stack.callback(os.dup2, descriptor, 2)
        yield


class _Nowhere(io.TextIOBase):
    def write(self, text: str) -> int:
        return len(text)


# Nodes


def check_versions() -> None:
    """Raises `ClusterError` if a node does not have what this machine has."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    packages = PACKAGES

    def installed() -> dict[str, str]:  # in here, Ray sends the code: a node need not have it
        from importlib.metadata import PackageNotFoundError, version

        versions = {}
        for name in packages:
            try:
                versions[name] = version(name)
            except PackageNotFoundError:
                versions[name] = "not installed"
        return versions

    ask = ray.remote(num_cpus=0)(installed)
    asked = []
    for node in alive_nodes():
        strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        asked.append((node, ask.options(scheduling_strategy=strategy).remote()))
    here = installed()
    for node, answer in asked:
        host = node["NodeManagerAddress"]
        try:
            there = ray.get(answer, timeout=START_S)
        except ray.exceptions.RayError as error:
            if node["NodeID"] not in {each["NodeID"] for each in alive_nodes()}:
                continue  # it died, and Ray had not noticed yet
            raise ClusterError(f"node {host} does not answer: {str(error).strip().splitlines()[-1]}") from error
        for name, wanted in here.items():
            if there[name] != wanted:
                raise ClusterError(
                    f"node {host}: {name} {there[name]}, on this machine {wanted}: install the same on all nodes"
                )


def alive_nodes() -> list[dict[str, Any]]:
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def choose_pool(device: str | None = None, threads: int | None = None, workers: int | None = None) -> Pool:
    """
    Workers that fill the cluster.

    Args:
        device: `cpu`, `cuda`, or anything else, which is left to the workers; by default GPUs if there are any.
        threads: CPUs of a worker, by default 4, or what the smallest node has.
        workers: how many, by default as many as there is room for.

    Raises:
        ClusterError: if no node has what a worker needs.
    """
    resources = [node["Resources"] for node in alive_nodes()]
    gpus = [int(each.get("GPU", 0)) for each in resources]
    cpus = [int(each.get("CPU", 0)) for each in resources]
    on_gpu = device == "cuda" or (device is None and any(gpus))
    useful = [count for count, gpu in zip(cpus, gpus, strict=True) if count and (gpu or not on_gpu)]
    each = threads or min(THREADS, min(useful, default=1))
    if on_gpu:
        room = sum(min(gpu, count // each) for count, gpu in zip(cpus, gpus, strict=True))
    else:
        room = sum(count // each for count in cpus)
    if not room:
        wanted = f"{each} CPU{'s' * (each > 1)}" + (" and a GPU" if on_gpu else "")
        raise ClusterError(f"no node of the cluster has {wanted}")
    return Pool(workers or room, each, int(on_gpu))
