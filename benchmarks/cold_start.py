# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Time and peak memory of processes from start to end, compared with `import torch` in the same rounds.

    python benchmarks/cold_start.py [--rounds 9]

`ced tag` of one clip of 10 s with the bundled model, and with random weights in the shapes of the published models
(ced-tiny and ced-base in float16 as well), in the layout of the Hub's cache; `import ced_model`; and `ced --help`.
`python -c "import torch"` runs before each of them. A ratio is the median of the ratios of the rounds.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
from machine import describe_machine

TORCH = [sys.executable, "-c", "import torch"]
CED = [sys.executable, "-m", "ced_model"]
COMMIT = "0" * 40
MODELS = (
    ("ced-tiny", "float32"),
    ("ced-tiny", "float16"),
    ("ced-mini", "float32"),
    ("ced-small", "float32"),
    ("ced-base", "float32"),
    ("ced-base", "float16"),
)


def measure(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Seconds and peak memory in MB of a process."""
    start = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    message = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall_s = time.perf_counter() - start
    if status:
        raise SystemExit(f"{' '.join(command)}: {message.decode()}")
    return wall_s, usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def cache_random_model(name: str, dtype: str, cache: Path) -> str:
    """Saves a model in the layout of the Hub cache (links to blobs); returns its id."""
    model_id = f"random/{name}-{dtype}"
    folder = cache / f"models--{model_id.replace('/', '--')}"
    snapshot = folder / "snapshots" / COMMIT
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    snapshot.mkdir(parents=True)
    # In a separate process: the peak memory of a child is at least the memory of its parent at its start.
    code = f"from tagging import save_random_model; save_random_model({name!r}, {str(folder / 'blobs')!r}, {dtype!r})"
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, stderr=subprocess.DEVNULL, check=True)
    for path in (folder / "blobs").iterdir():
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    return model_id


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        clip = folder / "clip.wav"
        soundfile.write(clip, 0.1 * np.random.default_rng(0).standard_normal(160_000), 16000)
        commands = {
            "`import ced_model`": [sys.executable, "-c", "import ced_model"],
            "`ced --help`": [*CED, "--help"],
            "`ced tag`, ced-nano": [*CED, "tag", str(clip)],
        }
        for name, dtype in MODELS:
            model_id = cache_random_model(name, dtype, folder / "hub")
            commands[f"`ced tag`, {name}, {dtype}"] = [*CED, "tag", str(clip), "--model", model_id]
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(folder / "hub")}
        runs: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        torch_runs: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for number in range(rounds + 1):
            for name, command in commands.items():
                pair = measure(TORCH, environment), measure(command, environment)
                if number:  # the first round fills the caches of the file system
                    torch_runs[name].append(pair[0])
                    runs[name].append(pair[1])
    print("| process | time | × `import torch` | peak memory |")
    print("| --- | ---: | ---: | ---: |")
    references = [run for each in torch_runs.values() for run in each]
    rows = {'`python -c "import torch"`': (references, references)}
    rows |= {name: (runs[name], torch_runs[name]) for name in commands}
    for name, (own, reference) in rows.items():
        wall_s, peak_mb = (statistics.median(values) for values in zip(*own, strict=True))
        ratio = statistics.median(mine[0] / torch[0] for mine, torch in zip(own, reference, strict=True))
        print(f"| {name} | {wall_s:.2f} s | {ratio:.2f} | {peak_mb:.0f} MB |")
    print(f"\n{describe_machine()}; {rounds} rounds.")


if __name__ == "__main__":
    main()
