# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Help with groups of options, and one-line usage errors with suggestions."""

import difflib
import glob
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from ..messages import listed, printable
from .endings import fail
from .errors import WRONG_USAGE
from .options import CLASSES, COMPUTING, EVENTS, INPUT, WINDOWS

UsageError: Any = typer.BadParameter.__base__  # a class of click, which newer versions of Typer bundle

# For each option or command, its names in other programs. The first option that the command has is suggested.
OPTIONS = {
    "--learning-rate": "lr",
    "--threshold": "min-conf min-confidence confidence conf min-score score-threshold score sensitivity",
    "--output": "output-dir outdir out-dir out output-file outfile save-dir result-dir dest destination",
    "--top-k": "top-n n topn num-tags max-tags",
    "--format": "rtype output-format output-type type fmt",
    "--threads": "jobs num-threads num-workers n-jobs cpus j",
    "--device": "gpu cuda cpu",
    "--compute-type": "fp16 half dtype precision torch-dtype int8 quantize",
    "--batch-size": "bs batch per-device-train-batch-size",
    "--hop": "overlap stride step hop-size hop-length",
    "--window": "window-size segment segment-length chunk chunk-length chunk-length-s clip-length",
    "--labels": "class classes species category categories slist candidate-labels",
    "--exclude": "ignore skip",
    "--overwrite": "force yes y replace",
    "--resume": "continue skip-existing resume-from-checkpoint",
    "--model": "checkpoint weights model-path model-name model-name-or-path model-id",
    "--epochs": "num-epochs num-train-epochs",
    "--max-steps": "steps num-steps",
    "--validation": "val validation-set eval val-dir",
    "--from": "list file-list filelist input-list manifest",
    "--min-duration": "min-length",
    "--merge-gap": "gap max-gap merge",
    "--start": "offset",
    "--json": "to-json",
    "--version": "v V",
}
ADVICE = {
    "recursive r R": "folders are always searched recursively",
    "verbose v debug progress": "progress and errors are always shown, on standard error",
    "quiet q silent": "messages are on standard error, results on standard output",
    "input i file files input-dir audio path": "give the path without an option",
    "csv parquet audacity raven dcase rttm textgrid": "use --format {}",
    "sampling-rate sample-rate sr": "audio is always converted to the sampling rate of the model",
}
COMMANDS = {
    "tag": "analyze analyse classify predict detect infer inference run process transcribe scan",
    "labels": "classes ontology list",
    "finetune": "train fit fine-tune",
    "distill teach": "teach",
    "distill train": "student",
    "learn": "enroll add",
    "demo": "serve gui web ui app",
    "listen": "mic microphone live record stream",
    "plot": "spectrogram draw show",
    "embed": "embeddings embedding features index",
    "clips": "segments cut extract split",
    "search": "find similar query",
    "evaluate": "eval test score validate benchmark",
    "convert": "import download",
    "doctor": "info env diagnose check system",
    "--version": "version",
}
FIRST_GROUPS = (INPUT, COMPUTING, CLASSES, WINDOWS, EVENTS)  # in the help of all commands
AUDIO = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aac", ".wma", ".aif", ".aiff", ".mp4", ".wv")


class Command(TyperCommand):
    """A command with its options in groups (`rich_help_panel`), and examples in its epilog."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        args = [_expanded(argument) for argument in args]
        try:
            if not extra.get("resilient_parsing"):  # completing
                _check_dashes(args, self.params)
            context = super().make_context(info_name, list(args), parent, **extra)
        except UsageError as error:
            _end(error, args, f"{parent.command_path} {info_name}" if parent else str(info_name))
        if not extra.get("resilient_parsing"):
            _check_kinds(context.params, self.params)
        return context

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        arguments = [param for param in self.params if param.param_type_name == "argument"]
        return ["[OPTIONS]", *(f"{each.metavar}" if each.required else f"[{each.metavar}]" for each in arguments)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            if (record := param.get_help_record(ctx)) is not None:
                name = getattr(param, "rich_help_panel", None) or "Options"
                groups.setdefault(name, []).append((record[0], re.sub(r"\s*\[[\d<]*=?x[<>]=[^]]*\]$", "", record[1])))
        width = min(max(len(record[0]) for records in groups.values() for record in records), 23)
        for name in sorted(groups, key=_place_of_group):
            records = groups[name]
            with formatter.section(name):
                # Pads the first column to the same width in all groups.
                formatter.write_dl([(first.ljust(width), second) for first, second in records], col_max=width)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        if self.epilog:
            with formatter.section("Examples" if "\n" in self.epilog else "Example"):
                for line in self.epilog.splitlines():
                    formatter.write(f"{'':{formatter.current_indent}}{line}\n")


class Group(TyperGroup):
    """A group of commands: `ced`, and `ced distill`."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        if args[:1] == ["help"]:
            args = [*args[1:], "--help"]
        try:
            return super().make_context(info_name, list(args), parent, **extra)
        except UsageError as error:
            _end(error, args, f"{parent.command_path} {info_name}" if parent else "ced")

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if self.get_command(ctx, args[0]) is None and not ctx.resilient_parsing:
            fail(_unknown_command(ctx, self, args), WRONG_USAGE)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        width = max(map(len, self.commands))
        for name, command in self.commands.items():
            short = command.get_short_help_str(formatter.width - 6 - width)
            panel = getattr(command, "rich_help_panel", None)
            groups.setdefault(panel if isinstance(panel, str) else "Commands", []).append((name.ljust(width), short))
        for title, rows in groups.items():
            with formatter.section(title):
                formatter.write_dl(rows)


def _place_of_group(name: str) -> int:
    """The common groups of options come first, those of one command next, and `--help` last."""
    if name in FIRST_GROUPS:
        return FIRST_GROUPS.index(name)
    return len(FIRST_GROUPS) + (name == "Options")


def _expanded(argument: str) -> str:
    """Expands `~` at the start of an argument, or of the value in `--option=value`."""
    name, separator, value = argument.partition("=")
    if separator and name.startswith("--"):
        return f"{name}={os.path.expanduser(value)}"
    return os.path.expanduser(argument)


def _check_dashes(args: Sequence[str], params: Iterable[Any]) -> None:
    """Refuses `-threshold 0.3`, which would be parsed as the option -t with a value."""
    known = {name for param in params for name in param.opts}
    for argument in args:
        if argument == "--":
            return
        name = argument.partition("=")[0]
        if re.fullmatch(r"-[a-z][a-z-]+", name) and "-" + name in known:
            fail(f"{name}: did you mean -{name}?", WRONG_USAGE)


def _check_kinds(values: dict[str, Any], params: Iterable[Any]) -> None:
    """Refuses a folder for an option with the metavar FILE, and a file for one with DIR."""
    for param in params:
        value, kind = values.get(param.name or ""), (param.metavar or "").partition(".")[0]
        if isinstance(value, str | os.PathLike):
            name = f"{param.opts[0]} " if param.opts[0].startswith("-") else ""
            if kind == "FILE" and os.path.isdir(value):
                fail(f"{name}{value}: expected a file, not a folder", WRONG_USAGE)
            if kind == "DIR" and os.path.isfile(value):
                fail(f"{name}{value}: expected a folder, not a file", WRONG_USAGE)


def _end(error: Any, args: Sequence[str], command: str) -> NoReturn:
    """Ends the command with a one-line usage error."""
    name = type(error).__name__
    if name == "NoArgsIsHelpError":
        raise error
    ctx = error.ctx
    see = f"see {command} --help"
    if name == "NoSuchOption":
        fail(_unknown_option(ctx, printable(error.option_name)), WRONG_USAGE)
    if name == "MissingParameter":
        fail(f"missing {error.param.metavar}: {_usage(ctx)}; {see}", WRONG_USAGE)
    if name == "BadParameter" and error.param is not None:
        option = max(error.param.opts, key=len)
        value = _value(args, error.param.opts)
        fail(f"{option}{f' {value}' if value else ''}: expected {_expected(error)}", WRONG_USAGE)
    if name == "BadOptionUsage":
        takes_none = "not take" in error.message
        fail(f"{error.option_name} {'takes no value' if takes_none else 'requires a value'}; {see}", WRONG_USAGE)
    if "unexpected extra argument" in error.message:
        rest = error.message.partition("(")[2].removeprefix("s)").strip(" ()")
        fail(f"unexpected argument {rest}: {_usage(ctx)}; {see}", WRONG_USAGE)
    fail(f"{error.format_message()}; {see}", WRONG_USAGE)


def _usage(ctx: Any) -> str:
    return " ".join(ctx.get_usage().split()[1:])


def _value(args: Sequence[str], names: Sequence[str]) -> str:
    for index, argument in enumerate(args):
        name, separator, value = argument.partition("=")
        if name in names:
            return value if separator else "".join(args[index + 1 : index + 2])
    return ""


def _expected(error: Any) -> str:
    """The expected value, worded as in the library's errors."""
    message = error.message
    if "one of" in message:
        return message.partition("one of")[2].replace("'", "").strip(" .")
    param = error.param
    bounds = [
        getattr(param, name, None) or getattr(getattr(param, "type", None), name, None) for name in ("min", "max")
    ]
    low, high = (None if bound is None else f"{bound:g}" for bound in bounds)
    kind = "a whole number" if "integer" in message or low is not None else "a number"
    reach = f" from {low}" if low is not None else " from 0" if "greater than or equal to 0" in message else ""
    if "number" in message or "integer" in message or "than" in message or "range" in message:
        return kind + reach + (f" to {high}" if high is not None else "")
    return message.strip(" .")


def _options(command: Any) -> list[str]:
    return [name for param in command.params for name in (*param.opts, *param.secondary_opts) if name.startswith("-")]


def _unknown_option(ctx: Any, name: str) -> str:
    command, path = ctx.command, ctx.command_path
    known = [*_options(command), "--help"]
    plain = name.lstrip("-").replace("_", "-")
    message = f"unknown option {name}{f' of {path}' if path != 'ced' else ''}"
    meant = [f"--{plain}", *(ours for ours, theirs in OPTIONS.items() if plain in theirs.split())]
    for ours in meant:
        if ours in known:
            return f"{message}: did you mean {ours}?"
    for theirs, advice in ADVICE.items():
        if plain in theirs.split():
            return f"{message}: {advice.format(plain)}"
    others = [each for each, other in _commands(ctx.find_root().command, "ced") if set(meant) & {*_options(other)}]
    if isinstance(command, TyperGroup) and others:
        return f"{message}: put options after the command, as in {others[0]} {meant[-1]}"
    close = difflib.get_close_matches(f"--{plain}", known, n=2, cutoff=0.75)
    if close:
        return f"{message}: did you mean {' or '.join(close)}?"
    if others:
        return f"{message}; it is an option of {listed(others if len(others) < 5 else [*others[:3], 'other commands'])}"
    return f"{message}; see {path} --help"


def _commands(group: Any, path: str) -> Iterable[tuple[str, Any]]:
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from _commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def _unknown_command(ctx: Any, group: Any, args: Sequence[str]) -> str:
    name, path = args[0], ctx.command_path
    shown = printable(name)
    if path == "ced" and (
        os.path.exists(name) or os.sep in name or glob.has_magic(name) or name.lower().endswith(AUDIO) or name == "-"
    ):
        return f"{shown} is not a command: to tag it, run ced tag {' '.join(map(printable, args))}"
    message = f"unknown command {shown}"
    for ours, theirs in COMMANDS.items() if path == "ced" else ():
        if name.lower() in (ours, *theirs.split()):
            return f"{message}: did you mean ced {ours}?"
    close = difflib.get_close_matches(name.lower(), group.commands, n=2, cutoff=0.6)
    if close:
        return f"{message}: did you mean {' or '.join(f'{path} {each}' for each in close)}?"
    return f"{message}; see {path} --help"
