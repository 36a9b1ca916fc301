# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Connects to a Ray cluster, and chooses the workers of a job."""

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
THREADS = 4  # CPU threads of a worker by default, as many as read its files
CONNECT_S = 10.0
START_S = 120.0  # time limit for the first answer of each node
LOCAL_STORE_BYTES = 512 * 2**20  # object store of a local cluster, for a model and lists of paths


class ClusterError(RunError):
    """The cluster cannot be used. The message is one line."""


class Pool(NamedTuple):
    """The number of workers, and the resources of each."""

    workers: int
    cpus: int  # per worker
    gpus: int  # per worker: 0 or 1


@contextlib.contextmanager
def connected(address: str | None = None, *, num_cpus: int | None = None) -> Iterator[None]:
    """
    A context with a connection to Ray, without its output and its usage statistics.

    Args:
        address: `HOST:PORT` of a cluster's head, or `local` to start a cluster on this machine that ends with the
            context. By default the environment variable `RAY_ADDRESS`, else a cluster running on this machine, else
            `local`.
        num_cpus: CPUs of a cluster started here, by default all.

    Raises:
        ClusterError: if it cannot be reached, or has other versions.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault(
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0"
    )  # the default of later versions; without it Ray warns
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
            advice = "; install the same versions of Ray and Python on this machine and the cluster" * (
                "Version mismatch" in str(error)
            )
            raise ClusterError(f"{place}: {reason_of(error)}{advice}") from error
        try:
            check_versions()
            yield
        finally:
            with contextlib.suppress(Exception):  # it must not replace the original error
                ray.shutdown()


def _check_address(address: str) -> None:
    """Checks an address quickly. Ray itself would wait long, and print much."""
    if address == "local":
        return
    if address == "auto":
        raise ClusterError("auto: no Ray cluster is running on this machine; leave out the address to start one")
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
    """The address in Ray's file about a cluster on this machine, if that cluster still answers."""
    with contextlib.suppress(OSError, ClusterError):
        system_folder = "/tmp" if sys.platform == "darwin" else tempfile.gettempdir()  # as in Ray
        folder = os.environ.get("RAY_TMPDIR") or system_folder
        address = Path(folder, "ray", "ray_current_cluster").read_text().strip()
        _check_address(address)
        return address
    return None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """
    A context that discards Ray's output. `sys.stderr` still works.

    Ray has no working setting for this: its C++ code writes to descriptor 2, and reports of nodes go to `sys.stdout`.
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
    """Raises a `ClusterError` if packages on a node have other versions than on this machine."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    packages = PACKAGES

    def installed() -> dict[str, str]:  # a nested function is sent to nodes, which may lack this package
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
                continue  # it died, and Ray has not noticed yet
            raise ClusterError(f"node {host} does not answer: {str(error).strip().splitlines()[-1]}") from error
        for name, wanted in here.items():
            if there[name] != wanted:
                raise ClusterError(
                    f"node {host} has {name} {there[name]}, this machine {wanted}: install the same on all nodes"
                )


def alive_nodes() -> list[dict[str, Any]]:
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def choose_pool(device: str | None = None, threads: int | None = None, workers: int | None = None) -> Pool:
    """
    Chooses the workers of a job.

    Args:
        device: `cpu`, `cuda` or another device, which the workers check; by default GPUs if the cluster has any.
        threads: CPUs per worker, by default 4, or those of the smallest node.
        workers: Number of workers, by default as many as fit on the cluster.

    Raises:
        ClusterError: if no node has the resources for a worker.
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
