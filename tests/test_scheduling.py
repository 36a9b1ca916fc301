# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Splitting recordings into windows, and scoring windows of many inputs in parallel."""

import gc
import math
import threading
import time
import weakref
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ced_model.audio import AudioError
from ced_model.scheduling import (
    NUM_READERS,
    InputEnd,
    Window,
    WindowScores,
    check_peaks,
    cut_windows,
    score_windows,
    without_variables,
)

PATIENCE_S = 300.0  # timeout for other threads; not an assertion about time


def blocks_of(samples: np.ndarray, sizes: list[int]) -> Iterator[np.ndarray]:
    """`samples` in blocks of repeated `sizes`."""
    position = index = 0
    while position < len(samples):
        size = sizes[index % len(sizes)]
        yield samples[position : position + size]
        position, index = position + size, index + 1


def bounds(samples: int, window: int, hop: int, shortest: int, longest: int) -> list[tuple[int, int]]:
    """The expected bounds of the windows, by a simple loop over the grid of hops."""
    found: list[tuple[int, int]] = []
    for start in range(0, samples, hop):
        left = samples - start
        if found and found[-1][1] == samples:
            break
        if left <= window:
            found.append((start, samples))
        elif left - hop >= shortest:
            found.append((start, start + window))
        elif left <= longest:
            found.append((start, samples))
        else:
            boundary = samples - shortest
            found += [(start, max(boundary, start + shortest)), (boundary, samples)]
    return found


@st.composite
def layouts(draw: st.DrawFn) -> tuple[int, int, int, int, int]:
    """Samples, window, hop, min_samples and max_samples."""
    shortest = draw(st.integers(1, 30))
    longest = draw(st.integers(shortest, 150))
    window = draw(st.integers(shortest, longest))
    return draw(st.integers(1, 500)), window, draw(st.integers(1, window)), shortest, longest


@settings(max_examples=1000)
@given(layouts(), st.lists(st.integers(1, 200), min_size=1, max_size=5))
def test_windows_cover_the_waveform_and_follow_the_rule(layout, sizes):
    samples, window, hop, shortest, longest = layout
    waveform = np.arange(samples, dtype=np.float32)
    windows = list(cut_windows(blocks_of(waveform, sizes), window, hop, shortest, longest))

    assert [(cut.start, cut.start + len(cut.waveform)) for cut in windows] == bounds(*layout)
    assert [cut.position for cut in windows] == list(range(len(windows)))
    covered = np.zeros(samples, int)
    for cut in windows:
        # The samples are unchanged.
        np.testing.assert_array_equal(cut.waveform, waveform[cut.start : cut.start + len(cut.waveform)])
        covered[cut.start : cut.start + len(cut.waveform)] += 1
        assert shortest <= len(cut.waveform) <= longest or samples < shortest
    assert covered.min() == 1
    if hop == window and longest >= 2 * shortest:
        assert covered.max() == 1


@settings(max_examples=1000)
@given(layouts(), st.lists(st.integers(1, 20), min_size=1, max_size=5))
def test_a_window_is_yielded_with_the_first_possible_block(layout, sizes):
    samples, window, hop, shortest, longest = layout
    read = previous = 0

    def counted() -> Iterator[np.ndarray]:
        nonlocal read, previous
        for block in blocks_of(np.zeros(samples, np.float32), sizes):
            previous, read = read, read + len(block)
            yield block

    # A tail shorter than `shortest` is excluded once that many samples follow the overlap.
    look_ahead = max(0, shortest - (window - hop))
    assert look_ahead <= shortest
    expected = bounds(*layout)
    for cut in cut_windows(counted(), window, hop, shortest, longest):
        needed = cut.start + window + look_ahead
        if needed <= samples:
            assert previous < needed <= read
            assert expected[cut.position] == (cut.start, cut.start + window)
        else:
            assert read == samples


@given(layouts())
def test_no_window_could_be_yielded_earlier(layout):
    """With one sample less, the waveform could still end such that a different window would be right."""
    _, window, hop, shortest, longest = layout
    needed = window + max(0, shortest - (window - hop))
    ends = [bounds(samples, window, hop, shortest, longest)[0][1] for samples in range(needed, needed + 50)]
    assert set(ends) == {window}
    if needed > window + 1 and window > shortest:
        assert bounds(needed - 1, window, hop, shortest, longest)[0] != (0, window)


def test_cutting_keeps_no_more_than_a_window_and_a_block():
    alive = 0

    def one_gone() -> None:
        nonlocal alive
        alive -= 1

    def blocks() -> Iterator[np.ndarray]:
        nonlocal alive
        for _ in range(2000):
            block = np.zeros(100, np.float32)
            alive += 1
            weakref.finalize(block, one_gone)
            yield block

    peak = 0
    for cut in cut_windows(blocks(), 500, 250, 50, 600):
        assert cut.waveform.base is None  # a view would keep its blocks in memory
        peak = max(peak, alive)
    assert peak <= 3


@pytest.mark.parametrize("bad", [1.5, -1.5, 3e38, math.nan, -math.inf])
def test_samples_that_are_too_large_are_an_error_with_their_position(bad):
    blocks = [np.ones(5, np.float32), np.zeros(0, np.float32), -np.ones(6, np.float32)]
    assert list(check_peaks(blocks, 1.0, 10, "a.wav")) == blocks
    blocks[2][3] = bad
    checked = check_peaks(blocks, 1.0, 10, "a.wav")
    assert next(checked) is blocks[0] and next(checked) is blocks[1]
    with pytest.raises(AudioError, match=r"^a\.wav: the sample \S+ at 0\.800 s is too large"):
        next(checked)


# Scoring


def cut_list(waveform: np.ndarray) -> Iterator[Window]:
    return cut_windows([waveform], 10, 10, 2, 12)


def whole(samples: int) -> int:
    return samples


def mean_and_size(waveforms: list[np.ndarray]) -> np.ndarray:
    assert len({len(waveform) for waveform in waveforms}) == 1  # without padding
    return np.array([[waveform.mean(), len(waveform)] for waveform in waveforms], np.float32)


def collected(messages: Iterator[WindowScores | InputEnd]) -> tuple[dict[int, list[WindowScores]], dict[int, InputEnd]]:
    windows: dict[int, list[WindowScores]] = {}
    ends: dict[int, InputEnd] = {}
    for message in messages:
        if isinstance(message, InputEnd):
            assert message.input_index not in ends
            ends[message.input_index] = message
        else:
            windows.setdefault(message.input_index, []).append(message)
    return windows, ends


def wait_until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up, "waited in vain"
        time.sleep(0.005)


def our_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("ced-")]


@pytest.mark.parametrize("batch_size", [1, 3, 8])
@pytest.mark.parametrize("num_workers", [1, 3])
def test_every_window_of_every_input_is_scored_once_in_a_batch_of_its_size(batch_size, num_workers):
    generator = np.random.default_rng(0)
    inputs = [generator.standard_normal(size).astype(np.float32) for size in generator.integers(1, 200, 60)]
    windows, ends = collected(
        score_windows(inputs, cut_list, mean_and_size, whole, batch_size=batch_size, num_workers=num_workers)
    )
    assert ends.keys() == set(range(60))
    for index, waveform in enumerate(inputs):
        expected = list(cut_list(waveform))
        found = sorted(windows[index], key=lambda window: window.position)
        assert ends[index] == InputEnd(index, len(expected), None)
        assert [(window.position, window.start, window.samples) for window in found] == [
            (cut.position, cut.start, len(cut.waveform)) for cut in expected
        ]
        for window, cut in zip(found, expected, strict=True):
            np.testing.assert_allclose(window.scores, [cut.waveform.mean(), len(cut.waveform)], rtol=1e-6)


def test_batches_are_full_while_there_are_enough_windows():
    sizes: list[int] = []
    readers_done = threading.Event()

    def compute(waveforms: list[np.ndarray]) -> np.ndarray:
        assert readers_done.wait(PATIENCE_S)
        sizes.append(len(waveforms))
        return mean_and_size(waveforms)

    def inputs() -> Iterator[np.ndarray]:
        yield np.zeros(320, np.float32)
        readers_done.set()

    collected(score_windows(inputs(), cut_list, compute, whole, batch_size=8, num_workers=1))
    # The first batch has the windows that were ready when the worker was idle.
    assert sum(sizes) == 32
    assert sizes[1:-1] == [8] * len(sizes[1:-1])


def test_a_slow_model_bounds_the_windows_in_memory():
    batch_size, num_workers = 4, 2
    alive = peak = 0
    lock = threading.Lock()

    def one_gone() -> None:
        nonlocal alive
        with lock:
            alive -= 1

    def read(length: int) -> Iterator[Window]:
        nonlocal alive, peak
        for position in range(length):
            waveform = np.zeros(1000, np.float32)
            with lock:
                alive += 1
                peak = max(peak, alive)
            weakref.finalize(waveform, one_gone)
            yield Window(position, position * 1000, waveform)

    def slow(waveforms: list[np.ndarray]) -> np.ndarray:
        time.sleep(0.002)
        return mean_and_size(waveforms)

    windows, ends = collected(
        score_windows(
            [300, 1, 500, 2, 200] * 2,
            read,
            slow,
            whole,
            batch_size=batch_size,
            num_workers=num_workers,
        )
    )
    assert sum(map(len, windows.values())) == 2006 and len(ends) == 10
    room = (2 * num_workers + 2) * batch_size
    # Also, each reader has one window that waits (and one in its frame), and each worker its last batch.
    assert room // 2 < peak <= room + 2 * NUM_READERS + num_workers * batch_size
    gc.collect()
    assert alive == 0


def test_a_slow_consumer_bounds_the_windows_in_memory():
    produced = 0

    def read(length: int) -> Iterator[Window]:
        nonlocal produced
        for position in range(length):
            produced += 1
            yield Window(position, position, np.zeros(5, np.float32))

    run = score_windows([10_000], read, mean_and_size, whole, batch_size=2, num_workers=1)
    for _ in range(5):
        next(run)
    previous = -1
    while produced != previous:  # until the readers wait
        previous = produced
        time.sleep(0.05)
    assert produced < 50
    run.close()


def test_an_input_that_fails_keeps_its_scores_and_does_not_stop_others():
    def read(length: int) -> Iterator[Window]:
        yield from (Window(position, 0, np.zeros(5, np.float32)) for position in range(abs(length)))
        if length < 0:
            raise OSError(f"no more after {-length}")

    windows, ends = collected(score_windows([3, -2, 4, -5, 1], read, mean_and_size, whole, batch_size=8, num_workers=2))
    assert [ends[index].windows for index in range(5)] == [3, 2, 4, 5, 1]
    assert [len(windows[index]) for index in range(5)] == [3, 2, 4, 5, 1]
    assert [str(ends[index].error) for index in range(5)] == [
        "None",
        "no more after 2",
        "None",
        "no more after 5",
        "None",
    ]


def test_a_hanging_input_does_not_block_the_others():
    others_done = threading.Event()

    def read(name: str) -> Iterator[Window]:
        if name == "hangs":
            assert others_done.wait(PATIENCE_S), "the others wait for the slow one"
        yield Window(0, 0, np.zeros(5, np.float32))

    ends = []
    names = ["hangs"] + ["fine"] * 100
    for message in score_windows(names, read, mean_and_size, whole, batch_size=8, num_workers=1):
        if isinstance(message, InputEnd):
            assert message.error is None
            ends.append(message.input_index)
            if len(ends) == 100:
                others_done.set()
    assert sorted(ends[:-1]) == list(range(1, 101)) and ends[-1] == 0


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt(), SystemExit(3)])
def test_errors_of_the_model_reach_the_caller_and_end_the_threads(error):
    def compute(waveforms: list[np.ndarray]) -> np.ndarray:
        raise error

    before = our_threads()
    run = score_windows([np.zeros(100, np.float32)] * 50, cut_list, compute, whole, batch_size=2, num_workers=2)
    with pytest.raises(type(error)) as caught:
        collected(run)
    assert caught.value is error
    wait_until(lambda: our_threads() == before)


def test_a_wrong_number_of_scores_is_an_error_and_does_not_hang():
    run = score_windows(
        [np.zeros(100, np.float32)], cut_list, lambda _: np.zeros((1, 2)), whole, batch_size=4, num_workers=1
    )
    with pytest.raises(ValueError, match="zip"):
        collected(run)


def test_errors_of_the_inputs_iterator_reach_the_caller():
    def inputs() -> Iterator[np.ndarray]:
        yield np.zeros(30, np.float32)
        raise LookupError("the list of files is gone")

    before = our_threads()
    with pytest.raises(LookupError, match="the list of files is gone"):
        collected(score_windows(inputs(), cut_list, mean_and_size, whole, batch_size=2, num_workers=2))
    wait_until(lambda: our_threads() == before)


def test_an_abandoned_run_ends_its_threads_and_closes_its_inputs():
    open_inputs = 0

    def read(length: int) -> Iterator[Window]:
        nonlocal open_inputs
        open_inputs += 1
        try:
            for position in range(length):
                yield Window(position, 0, np.zeros(5, np.float32))
        finally:
            open_inputs -= 1

    before = our_threads()
    run = score_windows([100_000] * 10, read, mean_and_size, whole, batch_size=2, num_workers=2)
    next(run)
    assert len(our_threads()) == len(before) + NUM_READERS + 2
    assert open_inputs == NUM_READERS
    run.close()
    wait_until(lambda: our_threads() == before)
    assert open_inputs == 0


def test_an_error_keeps_its_traceback_but_not_the_audio():
    class Audio:
        pass

    references = []

    def decode() -> None:
        inner = Audio()
        references.append(weakref.ref(inner))
        raise OSError("damaged")

    def read() -> None:
        outer = Audio()
        references.append(weakref.ref(outer))
        try:
            decode()
        except OSError as error:
            raise ValueError("cannot be read") from error

    try:
        read()
    except ValueError as error:
        kept = without_variables(error)
    gc.collect()
    assert [reference() for reference in references] == [None, None]
    assert kept.__traceback__ is not None and kept.__traceback__.tb_frame.f_code.co_name == "read"
    assert isinstance(kept.__cause__, OSError)
