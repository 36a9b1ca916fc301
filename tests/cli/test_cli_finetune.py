# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`ced finetune` and `--set`. Fine-tuning itself is tested in test_finetuning.py."""

import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from cli_process import start
from typer.main import get_command
from typer.testing import CliRunner

import ced_model.training.finetuning.run
from ced_model import AudioTagger
from ced_model.cli.app import app
from ced_model.cli.errors import CliError
from ced_model.cli.training_options import parse_settings

Run = Callable[..., Any]
REPOSITORY = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "sklearn", "scipy", "datasets", "pandas", "pyarrow", "soundfile", "rich")
QUICK = ["--batch-size", "8", "--learning-rate", "0.004", "--device", "cpu", "--threads", "1"]
NO_WORKERS = ["--set", "dataloader_num_workers=0"]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Micro models are faster on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def ced() -> Run:
    """Runs the command in this process: `ced(*arguments, code=expected exit code)`."""

    def run(*arguments: Any, code: int = 0) -> Any:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
        assert result.exit_code == code, result.stderr
        return result

    return run


@pytest.fixture
def base(golden: Path) -> Path:
    return golden / "micro_hub"


@pytest.fixture(scope="session")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ten clips each of two classes."""
    folder = tmp_path_factory.mktemp("sounds")
    generator = np.random.default_rng(0)
    for index in range(10):
        samples = int(generator.integers(4000, 16000))
        tone = 0.3 * np.sin(generator.uniform(0.1, 1.0) * np.arange(samples))
        for name, sound in (("noise", generator.normal(scale=0.1, size=samples)), ("tone", tone)):
            (folder / name).mkdir(exist_ok=True)
            soundfile.write(folder / name / f"{index}.wav", sound, 16000)
    return folder


def last_line(text: str) -> str:
    """The last line, which begins with the command's name."""
    line = text.splitlines()[-1]
    assert line.startswith("ced: ") and "Traceback" not in text, text
    return line


# A complete run


def test_a_run_ends_with_figures_and_commands_that_use_the_model(
    ced: Run, sounds: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = shutil.copytree(sounds, tmp_path / "data")
    (data / "tone" / "broken.wav").write_text("not audio")
    # In a separate process with decoding workers, as in normal use.
    arguments = ["finetune", "data", "--model", base, "--output", "my model", "--epochs", "5", *QUICK]
    process = start(arguments, stdout=tmp_path / "out", stderr=tmp_path / "err")
    process.join()
    shown, told = (tmp_path / "out").read_text(), (tmp_path / "err").read_text()
    assert process.exitcode == 0, told

    assert re.search(r"^left out: data/tone/broken\.wav: \S", told, re.MULTILINE)
    assert "18 clips of 2 classes, one per clip; 2 held out for validation\n" in told
    assert "training all but the input statistics, 100,658 parameters, with a new head\n" in told
    epochs = re.findall(r"^epoch (\d) of 5  loss \d\.\d{3}  validation loss \d\.\d{3}  top_1 (\S+)", told, re.MULTILINE)
    assert [epoch for epoch, _ in epochs] == ["1", "2", "3", "4", "5"] and epochs[-1][1] == "1.000"
    lines = [line for line in (shown + told).splitlines() if "broken.wav" not in line and "my model" not in line]
    assert max(map(len, lines)) <= 80
    assert "Warning" not in told and "mtime" not in told

    assert re.search(r"^top_1 +1\.000 ", shown, re.MULTILINE)
    evaluation, tagging = (line.partition(":")[2].strip() for line in shown.splitlines()[-2:])
    assert tagging == "ced tag FILES --model 'my model'"
    again = ced(*shlex.split(evaluation)[1:])
    figures = r"^(?:mAP|top_1|ECE|Brier) +(\S+)"
    assert re.findall(figures, again.stdout, re.MULTILINE) == re.findall(figures, shown, re.MULTILINE)
    tagged = ced(*shlex.split(tagging.replace("FILES", "data/noise/1.wav"))[1:], "--json")
    assert '"noise"' in tagged.stdout
    assert sorted(path.name for path in tmp_path.iterdir() if "model" in path.name) == ["my model", "my model.training"]


def test_all_options_reach_the_run(ced: Run, sounds: Path, base: Path, tmp_path: Path) -> None:
    table = tmp_path / "clips.tsv"
    rows = [f"{path.relative_to(sounds)}\t{path.parent.name}|x\n" for path in sorted(sounds.glob("*/*.wav"))]
    table.write_text("audio_file\tkinds\n" + "".join(rows))
    reading = ["--audio-root", sounds, "--path-column", "audio_file", "--label-column", "kinds", "--separator", "|"]
    training = "--train last:2 --lora 3 --epochs 1 --patience 0 --encoder-learning-rate 0.002 --mixup 0.3 --masks"
    others = "--class-weights balanced --crop 0.5 --seed 4 --validation-share 0.25 --set weight_decay=0.5"
    output = tmp_path / "out"
    result = ced(
        "finetune",
        table,
        *reading,
        "--model",
        base,
        "-o",
        output,
        *training.split(),
        *others.split(),
        *QUICK,
        *NO_WORKERS,
    )
    assert "training the head and LoRA adapters of rank 3 in the last 2 blocks" in result.stderr
    assert "16 clips of 3 classes, any number of them per clip; 4 held out" in result.stderr
    card = (output / "README.md").read_text()
    for fact in ("0.004 for the head and 0.002 for the rest", "in batches of 8, with seed 4", "mixup (α = 0.3)"):
        assert fact in card
    assert "balanced" in card and "masks" in card and (output / "adapter" / "adapter_config.json").is_file()
    arguments = torch.load(next((tmp_path / "out.training").glob("*/training_args.bin")), weights_only=False)
    assert arguments.weight_decay == 0.5 and arguments.learning_rate == 0.004 and arguments.seed == 4


def test_clips_with_one_class_can_have_independent_scores(ced: Run, sounds: Path, base: Path, tmp_path: Path) -> None:
    ced(
        "finetune", sounds, "--model", base, "-o", tmp_path / "out", "--multi-label", "--epochs", 1, *QUICK, *NO_WORKERS
    )
    assert AudioTagger(tmp_path / "out").problem_type == "multi_label_classification"


def test_without_validation_the_loss_is_shown(ced: Run, sounds: Path, base: Path, tmp_path: Path) -> None:
    arguments = ["finetune", sounds, "--model", base, "-o", tmp_path / "out", "--validation-share", 0, "--epochs", 2]
    result = ced(*arguments, *QUICK, *NO_WORKERS)
    assert len(re.findall(r"^epoch [12] of 2  loss \d\.\d+$", result.stderr, re.MULTILINE)) == 2
    assert "top_1" not in result.stdout and "evaluate it again" not in result.stdout
    assert "ced tag FILES" in result.stdout


def test_a_progress_bar_is_shown_on_a_terminal(
    sounds: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    arguments = [sounds, "--model", base, "--output", tmp_path / "out", "--epochs", 2, *QUICK, *NO_WORKERS]
    get_command(app).main(["finetune", *map(str, arguments)], standalone_mode=False)
    shown = terminal.getvalue()
    assert re.search(r"100%\|\S+\| 6/6 \[", shown)
    assert re.findall(r"^epoch (\d) of 2  loss", shown.replace("\r", "\n"), re.MULTILINE) == ["1", "2"]


def test_an_interrupted_run_prints_how_to_continue_and_can_be_continued(
    ced: Run, sounds: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["finetune", sounds, "--model", base, "-o", tmp_path / "out", "--epochs", 2, *QUICK, *NO_WORKERS]
    write_model = ced_model.training.finetuning.run._write_model

    def interrupt(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ced_model.training.finetuning.run, "_write_model", interrupt)
    assert "with --resume" in last_line(ced(*arguments, code=130).stderr)
    monkeypatch.setattr(ced_model.training.finetuning.run, "_write_model", write_model)
    refused = last_line(ced(*arguments, code=1).stderr)
    assert "out.training contains the checkpoints of a run: use --resume or --overwrite" in refused
    assert "continuing from checkpoint-6" in ced(*arguments, "--resume").stderr
    assert "out is not empty: use --overwrite, or choose another output" in last_line(ced(*arguments, code=1).stderr)


# Wrong usage


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["finetune", "--help"], 0),
        (["finetune", "no-such-data", "--model", "MODEL", "-o", "x"], 2),
        (["finetune", "DATA", "--model", "MODEL", "-o", "x", "--set", "bf16"], 2),
    ],
)
def test_help_and_wrong_usage_import_nothing_heavy(arguments: list[str], code: int, base: Path, sounds: Path) -> None:
    arguments = [{"MODEL": str(base), "DATA": str(sounds)}.get(argument, argument) for argument in arguments]
    script = f"""
import sys
import ced_model.cli
sys.argv = ["ced", *{arguments!r}]
try:
    ced_model.cli.main()
finally:
    print("\\nimported:", *({{name.split(".")[0] for name in sys.modules}} & set({HEAVY!r})))
"""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert done.stdout.splitlines()[-1] == "imported:"
    assert "Traceback" not in done.stderr


def test_help_is_complete_and_fits_the_terminal(ced: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = ced("finetune", "-h").stdout
    assert max(map(len, shown.splitlines())) <= 80
    assert not re.search(r"[<>]\w|\w<|\w\.\.\.$", shown.replace("[x>=1]", "").replace("[x>=0]", ""), re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["--train", "tail"], 2, "--train tail: expected head, all, or last:K"),
        (["--train", "last:0"], 2, "--train last:0"),
        (["--train", "last:9"], 2, "--train last:9: expected at most last:3"),
        (["--train", "head", "--lora", "4"], 2, "--lora 4: expected a rank of at least 1, and blocks to train"),
        (["--class-weights", "yes"], 2, "--class-weights yes: expected balanced or none"),
        (["--epochs", "0"], 2, "--epochs 0: expected a number above 0"),
        (["--learning-rate", "nan"], 2, "--learning-rate nan"),
        (["--validation-share", "1.5"], 2, "--validation-share 1.5"),
        (["--validation", "no-such"], 2, "--validation 'no-such': there is no such file"),
        (
            ["--validation", "DATA", "--validation-share", "0.2"],
            2,
            "give either --validation or --validation-share, not both",
        ),
        (["--validation", "DATA"], 1, "20 of 20 validation clips are also training clips"),
        (["--crop", "20"], 2, "--crop 20: expected 0.15 to 10.12 seconds"),
        (["--device", "gpu"], 2, "--device gpu: expected cpu, cuda or mps"),
        (["--split", "dev"], 1, "there is no split 'dev'"),
        (["--set", "bf16"], 2, "--set bf16: expected NAME=VALUE"),
        (["--set", "bf=1"], 2, "--set bf=1: TrainingArguments has no such field: did you mean bf16?"),
        (["--set", "output_dir=x"], 2, "--output-dir x: expected no such training argument"),
        (["--set", "warmup_steps=-1"], 1, "warmup_steps"),
        (["--output", "DATA"], 1, "has other files than those of a model (noise, tone)"),
        (["--model", "no-such-folder/"], 1, "no-such-folder"),
    ],
)
def test_wrong_usage_is_one_line(
    ced: Run, arguments: list[str], code: int, expected: str, sounds: Path, base: Path, tmp_path: Path
) -> None:
    arguments = [argument.replace("DATA", str(sounds)) for argument in arguments]
    output = [] if "--output" in arguments else ["--output", tmp_path / "out"]
    model = [] if "--model" in arguments else ["--model", base]
    result = ced("finetune", sounds, *model, *output, *arguments, code=code)
    assert expected in last_line(result.stderr) and result.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_an_output_must_be_chosen(ced: Run, sounds: Path, base: Path) -> None:
    assert "missing --output DIR" in last_line(ced("finetune", sounds, "--model", base, code=2).stderr)


def test_missing_packages_are_named(
    ced: Run, sounds: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["finetune", sounds, "--model", base, "-o", tmp_path / "out"]
    monkeypatch.delitem(sys.modules, "ced_model.training.finetuning")
    monkeypatch.setattr("ced_model.packages.missing", lambda names: [name for name in names if name == "sklearn"])
    assert "scikit-learn: pip install scikit-learn" in last_line(ced(*arguments, code=1).stderr)
    monkeypatch.undo()
    monkeypatch.setattr("ced_model.packages.missing", lambda names: [name for name in names if name == "peft"])
    assert "LoRA requires peft: pip install peft" in last_line(ced(*arguments, "--lora", 4, code=1).stderr)


# --set


def test_settings_have_the_types_of_training_arguments() -> None:
    given = ["bf16=yes", "warmup-steps=0.2", "max_steps=30", "optim=adafactor", 'lr_scheduler_kwargs={"a": 1}']
    expected = {"bf16": True, "warmup_steps": 0.2, "max_steps": 30, "optim": "adafactor"}
    assert parse_settings(given) == expected | {"lr_scheduler_kwargs": '{"a": 1}'}
    assert parse_settings(None) == {}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["bf16=perhaps"], "--set bf16=perhaps: "),
        (["max_steps=many"], "--set max_steps=many: invalid int value: 'many'"),
        (["lr_scheduler_type=cosin"], "--set lr_scheduler_type=cosin: invalid choice: 'cosin' .*cosine"),
        (["learning_rat=1"], "no such field: did you mean learning_rate"),
        (["=1"], "expected NAME=VALUE"),
        (["seed=1", "seed=2"], "--set seed is given twice, as 1 and 2"),
    ],
)
def test_invalid_settings_are_refused_in_one_line(settings: list[str], message: str) -> None:
    with pytest.raises(CliError, match=message) as caught:
        parse_settings(settings)
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)
