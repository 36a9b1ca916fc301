# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Writes random events and the metrics of sed_eval for them to a JSON file.

    python -m venv sed && sed/bin/pip install "setuptools<80" wheel numpy scipy
    sed/bin/pip install --no-build-isolation sed_eval==0.2.1
    sed/bin/python tests/golden/make_event_scores.py [NUMBER FILE]

Without arguments it writes `event_scores.json` to the same folder, which the tests read.
"""

import json
import math
import sys
import warnings
from pathlib import Path

import numpy as np
import sed_eval

CLASSES = ["Bird", "Dog", "Speech"]


def random_events(random: np.random.Generator, grid: float, most: int) -> list[tuple[float, float, str]]:
    events = []
    for _ in range(int(random.integers(0, most + 1))):
        onset = int(random.integers(0, round(10 / grid)))
        length = int(random.integers(1, max(2, round(3 / grid))))
        events.append((round(onset * grid, 6), round((onset + length) * grid, 6), str(random.choice(CLASSES))))
    return events


def random_case(seed: int) -> dict:
    """Events on a grid, so that many differences are exactly the collar; some predictions are moved references."""
    random = np.random.default_rng(seed)
    grid = float(random.choice([0.05, 0.1, 0.2, 0.02, 0.001]))
    references, predictions = {}, {}
    for number in range(int(random.integers(1, 5))):
        references[f"{number}.wav"] = random_events(random, grid, 8)
        moved = [
            (max(0.0, round(onset + float(random.integers(-3, 4)) * grid, 6)), offset, label)
            for onset, offset, label in references[f"{number}.wav"]
            if random.random() < 0.7
        ]
        moved = [event for event in moved if event[0] < event[1]]
        predictions[f"{number}.wav"] = moved + random_events(random, grid, 4)
    options = {
        "t_collar": float(random.choice([0.1, 0.2, 0.25, 1.0])),
        "percentage_of_length": float(random.choice([0.0, 0.2, 0.5, 1.0])),
        "evaluate_onset": bool(random.random() < 0.8),
        "evaluate_offset": True,
        "time_resolution": float(random.choice([0.1, 0.5, 1.0, 0.02])),
        "empty_system_output_handling": "zero_score" if random.random() < 0.3 else None,
    }
    if options["evaluate_onset"] and random.random() < 0.3:
        options["evaluate_offset"] = False
    return {"references": references, "predictions": predictions, "options": options}


def sed_eval_figures(case: dict) -> dict:
    options = dict(case["options"])
    resolution, empty = options.pop("time_resolution"), options.pop("empty_system_output_handling")
    found = {}
    for kind in ("event_based", "segment_based"):
        if kind == "event_based":
            metrics = sed_eval.sound_event.EventBasedMetrics(list(CLASSES), **options)
        else:
            metrics = sed_eval.sound_event.SegmentBasedMetrics(list(CLASSES), time_resolution=resolution)
        metrics.empty_system_output_handling = empty
        for file in case["references"]:
            lists = [
                [
                    {"filename": file, "event_onset": onset, "event_offset": offset, "event_label": label}
                    for onset, offset, label in case[name][file]
                ]
                for name in ("references", "predictions")
            ]
            metrics.evaluate(*lists)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found[kind] = {
                "micro": figures(metrics.overall_f_measure()),
                "macro": figures(metrics.results_class_wise_average_metrics()["f_measure"]),
                "per_class": {label: figures(metrics.class_wise_f_measure(label)) for label in CLASSES},
            }
    return found


def figures(values: dict) -> list[float | None]:
    numbers = (values[name] for name in ("f_measure", "precision", "recall"))
    return [None if math.isnan(number) else float(number) for number in numbers]


def main() -> None:
    number, file = sys.argv[1:] or (12, Path(__file__).with_name("event_scores.json"))
    cases = [random_case(seed) for seed in range(int(number))]
    lines = [json.dumps(case | {"sed_eval": sed_eval_figures(case)}) for case in cases]
    Path(file).write_text("[\n" + ",\n".join(lines) + "\n]\n")


if __name__ == "__main__":
    main()
