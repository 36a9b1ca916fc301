# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""AudioTagger in other processes and threads: each engine works or raises a one-line error, and none hangs."""

import itertools
import multiprocessing
import pickle
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from ced_model import AudioTagger

RATE = 16000
MICRO = Path(__file__).parent / "golden" / "micro_hub"
PATIENCE_S = 300  # timeout for processes that hang; not an assertion about time


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    def fail(*_: Any) -> None:
        raise TimeoutError("a forked process hangs")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(PATIENCE_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def noise(seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(3 * RATE) * 0.1).astype(np.float32)


@pytest.fixture(scope="module", params=["onnx", "torch"])
def tagger(request: pytest.FixtureRequest) -> AudioTagger:
    """A tagger that was used with two threads, on any machine."""
    tagger = AudioTagger(MICRO, engine=request.param, num_threads=2)
    tagger(noise(0))
    tagger([noise(0)] * 3)
    return tagger


def scores_of(tagger: AudioTagger, seed: int) -> list[float]:
    """Scores of a clip alone, and together with others."""
    tags = [tagger(noise(seed), top_k=13), *tagger([noise(seed)] * 3, top_k=13)]
    return [tag.score for found in tags for tag in sorted(found, key=lambda tag: tag.index)]


def expected_of(tagger: AudioTagger, count: int) -> Any:
    return pytest.approx(np.array([scores_of(tagger, seed) for seed in range(count)]), abs=1e-5)


def _set_tagger(tagger: AudioTagger | None, threads: int | None) -> None:
    global _tagger
    if threads is not None:
        torch.set_num_threads(threads)
    _tagger = tagger or AudioTagger(MICRO, num_threads=2)


def _scores(seed: int) -> list[float]:
    return scores_of(_tagger, seed)


@pytest.mark.parametrize(("threads", "is_new"), [(None, False), (1, False), (None, True)])
def test_a_pool_of_forked_processes_tags(tagger: AudioTagger, threads: int | None, is_new: bool) -> None:
    """With the tagger of the parent, or with a new one."""
    expected = expected_of(tagger, 4)
    arguments = (None if is_new else tagger, threads)
    with multiprocessing.get_context("fork").Pool(2, initializer=_set_tagger, initargs=arguments) as pool:
        assert np.array(pool.map(_scores, range(4))) == expected
    assert np.array([scores_of(tagger, seed) for seed in range(4)]) == expected  # the parent is not affected


class Scored(torch.utils.data.Dataset):
    """Scores of noise by a tagger."""

    def __init__(self, tagger: AudioTagger) -> None:
        self.tagger = tagger

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor(scores_of(self.tagger, index))


def test_workers_of_a_data_loader_tag(tagger: AudioTagger) -> None:
    batches = DataLoader(Scored(tagger), batch_size=2, num_workers=2, multiprocessing_context="fork")
    assert torch.cat(list(batches)).numpy() == expected_of(tagger, 4)


def test_processes_of_a_mapped_dataset_tag(tagger: AudioTagger) -> None:
    rows = datasets.Dataset.from_dict({"seed": range(4)})
    found = rows.map(lambda row: {"scores": scores_of(tagger, row["seed"])}, num_proc=2)
    assert np.array(found["scores"]) == expected_of(tagger, 4)


def test_a_fork_during_iteration_can_start_a_new_one_but_not_continue_that_of_its_parent(tagger: AudioTagger) -> None:
    results = tagger.tag(itertools.repeat(noise(0)))
    next(results)

    def tag(answers: Any) -> None:
        try:
            list(results)
        except RuntimeError as error:
            answers.put(str(error))
        results.close()
        answers.put(scores_of(tagger, 1))

    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    process = context.Process(target=tag, args=(answers,))
    process.start()
    assert answers.get() == "iteration over these results began before the process was forked: start a new one"
    assert answers.get() == pytest.approx(scores_of(tagger, 1), abs=1e-5)
    process.join()
    assert [next(results).error for _ in range(50)] == [None] * 50
    results.close()


def _refusal(is_new: bool) -> str:
    try:
        scores_of(AudioTagger(MICRO, engine="openvino") if is_new else _tagger, 0)
    except RuntimeError as error:
        return str(error)
    return "no refusal"


@pytest.mark.parametrize("is_new", [False, True])
def test_openvino_is_refused_in_one_line_in_a_process_forked_after_its_use(is_new: bool) -> None:
    tagger = AudioTagger(MICRO, engine="openvino", num_threads=2)
    expected = scores_of(tagger, 0)
    with multiprocessing.get_context("fork").Pool(1, initializer=_set_tagger, initargs=(tagger, None)) as pool:
        (refusal,) = pool.map(_refusal, [is_new])
    assert "\n" not in refusal and "forked after it was used: use the engine onnx, or start processes by" in refusal
    assert scores_of(tagger, 0) == pytest.approx(expected, abs=1e-6)


@pytest.fixture(scope="module")
def taggers() -> dict[str, AudioTagger]:
    return {engine: AudioTagger(MICRO, engine=engine, num_threads=2) for engine in ("onnx", "openvino", "torch")}


def test_spawned_processes_compute_with_every_engine(taggers: dict[str, AudioTagger]) -> None:
    expected = [tagger.embed(noise(0)) for tagger in taggers.values()]
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        answers = [pool.submit(tagger.embed, noise(0)) for tagger in taggers.values()]
        found = [answer.result() for answer in answers]
    assert np.array(found) == pytest.approx(np.array(expected), abs=1e-4)


@pytest.mark.parametrize("engine", ["onnx", "openvino", "torch"])
def test_pickled_taggers_and_threads_give_the_same_scores(taggers: dict[str, AudioTagger], engine: str) -> None:
    tagger = taggers[engine]
    copy = pickle.loads(pickle.dumps(tagger))
    assert (copy.engine, copy.compute_type, copy.labels) == (engine, "float32", tagger.labels)
    expected = expected_of(tagger, 4)
    with ThreadPoolExecutor(4) as pool:
        for each in (tagger, copy):
            assert np.array(list(pool.map(lambda seed, each=each: scores_of(each, seed), range(4)))) == expected
