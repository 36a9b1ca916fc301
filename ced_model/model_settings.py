# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Checks of the fields of `config.json` and `preprocessor_config.json`, without torch."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from .audioset import AUDIOSET_LABELS
from .log_mel import FrontEnd

# The published sizes (paper, table 1): width and number of attention heads; all have 12 blocks.
CED_SIZES: dict[str, dict[str, int]] = {
    "ced-tiny": {"embed_dim": 192, "num_heads": 3},
    "ced-mini": {"embed_dim": 256, "num_heads": 4},
    "ced-small": {"embed_dim": 384, "num_heads": 6},
    "ced-base": {"embed_dim": 768, "num_heads": 12},
}

Pooling = Literal["mean", "logit", "dm", "token"]
EvalAverage = Literal["mean", "max"]
ProblemType = Literal["regression", "single_label_classification", "multi_label_classification"]
# The losses of the public port, and their problem types.
PROBLEM_TYPES: dict[str, ProblemType] = {
    "BCE": "multi_label_classification",
    "CrossEntropyLoss": "single_label_classification",
}
CHOICES: dict[str, tuple[str, ...]] = {"pooling": get_args(Pooling), "eval_avg": get_args(EvalAverage)}

ALIASES = {
    "hidden_size": "embed_dim",
    "num_hidden_layers": "depth",
    "num_attention_heads": "num_heads",
    "outputdim": "num_labels",
}
# Fields of `CedConfig` that shapes depend on.
DEFAULTS: dict[str, Any] = {
    "depth": 12,
    "mlp_ratio": 4.0,
    "qkv_bias": True,
    "patch_size": 16,
    "patch_stride": 16,
    "n_mels": 64,
    "target_length": 1012,
    "pooling": "mean",
    "eval_avg": "mean",
    "n_fft": 512,
    "win_size": 512,
    "hop_size": 160,
    "f_min": 0,
    "f_max": 8000,
    "center": True,
}
# Fields of the front end that both files may have.
FRONT_END_FIELDS = ("sampling_rate", "n_fft", "win_size", "hop_size", "f_min", "f_max", "center")
FRONT_END_DEFAULTS: dict[str, Any] = {
    "feature_size": FrontEnd.n_mels,
    **{field: getattr(FrontEnd, field) for field in FRONT_END_FIELDS},
}


class Bounds(NamedTuple):
    """The range of a number."""

    low: float
    high: float
    is_whole: bool = True
    excludes: float | None = None  # a bound that is excluded


# Far beyond any CED model, but small enough for memory and time.
BOUNDS: dict[str, Bounds] = {
    "embed_dim": Bounds(1, 8192),
    "depth": Bounds(1, 128),
    "num_heads": Bounds(1, 1024),
    "mlp_ratio": Bounds(0, 32, is_whole=False, excludes=0),
    "drop_rate": Bounds(0, 1, is_whole=False, excludes=1),
    "attn_drop_rate": Bounds(0, 1, is_whole=False, excludes=1),
    "drop_path_rate": Bounds(0, 1, is_whole=False, excludes=1),
    "patch_size": Bounds(1, 256),
    "patch_stride": Bounds(1, 256),
    "n_mels": Bounds(1, 1024),
    "feature_size": Bounds(1, 1024),
    "target_length": Bounds(1, 100_000),
    "num_labels": Bounds(1, 100_000),
    "initializer_range": Bounds(0, 10, is_whole=False),
    "sampling_rate": Bounds(1000, 384_000),
    "n_fft": Bounds(2, 65_536),
    "win_size": Bounds(1, 65_536),
    "hop_size": Bounds(1, 65_536),
    "f_min": Bounds(0, 192_000, is_whole=False),
    "f_max": Bounds(0, 192_000, is_whole=False, excludes=0),
    "padding_value": Bounds(-1e9, 1e9, is_whole=False),
}
OPTIONAL = {"embed_dim", "num_heads", "num_labels", "f_max"}
SWITCHES = ("qkv_bias", "pad_last", "center")
MAX_PARAMETERS = 10_000_000_000


def check_numbers(settings: Mapping[str, Any]) -> None:
    """Raises a ValueError for the first number or boolean with a wrong type or out of range."""
    for field, value in settings.items():
        bounds = BOUNDS.get(ALIASES.get(field, field))
        if bounds is not None and not (value is None and ALIASES.get(field, field) in OPTIONAL):
            _check_number(field, value, bounds)
        elif field in SWITCHES and not isinstance(value, bool):
            raise ValueError(f"`{field}` must be true or false, got {_shown(value)}.")


def _check_number(field: str, value: Any, bounds: Bounds) -> None:
    is_number = isinstance(value, int if bounds.is_whole else (int, float)) and not isinstance(value, bool)
    if is_number and bounds.low <= value <= bounds.high and value != bounds.excludes:
        return
    low, high = (f"{bound:,.10g}" for bound in (bounds.low, bounds.high))
    span = f"from {low} to {high}"
    if bounds.excludes is not None:
        span = f"above {low}, at most {high}" if bounds.excludes == bounds.low else f"from {low} to below {high}"
    kind = "a whole number" if bounds.is_whole else "a number"
    raise ValueError(f"`{field}` must be {kind} {span}, got {_shown(value)}.")


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # more digits than Python prints, or nested too deeply
        text = f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:60]}…"


def fill_in_size(name: Any, embed_dim: int | None, num_heads: int | None) -> tuple[int, int]:
    """Width and number of heads, by default those of the published size `name`."""
    if embed_dim is not None:
        return embed_dim, max(1, embed_dim // 64) if num_heads is None else num_heads
    size = CED_SIZES.get(name or "ced-base") if isinstance(name, str | None) else None
    if size is None:
        raise ValueError(
            f"`name={_shown(name)}` is not a published size. Use one of {', '.join(CED_SIZES)}, or give"
            " `embed_dim`, `depth` and `num_heads`."
        )
    return size["embed_dim"], size["num_heads"] if num_heads is None else num_heads


def find_problem_type(problem_type: Any, loss: Any) -> ProblemType:
    """The problem type, by default that of the `loss`, or multi-label."""
    default = PROBLEM_TYPES.get(str(loss))
    return problem_type or default or "multi_label_classification"


def check_label_table(id2label: Any) -> dict[int, str]:
    """Returns the class names by index; raises a ValueError unless the indices are 0, 1, …"""
    try:
        names = {int(index): name for index, name in id2label.items()}
    except (AttributeError, TypeError, ValueError):
        names = {}
    if not names or names.keys() != set(range(len(id2label))):
        length = len(id2label) if isinstance(id2label, Mapping | list | tuple) else 1
        raise ValueError(
            f"`id2label` must be a table that names the classes 0 to {max(length, 1) - 1}, such as"
            f" {{0: 'Speech', 1: 'Laughter'}}; got {_shown(id2label)}."
        )
    for index, name in names.items():
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"`id2label` must give each class a name, but class {index} has {_shown(name)}.")
        if "\0" in name:
            raise ValueError(f"`id2label` has a NUL character in the name of class {index}: {_shown(name)}.")
    return names


def count_labels(settings: Mapping[str, Any]) -> int:
    """The number of classes; raises a ValueError if fields are inconsistent."""
    counts = {field: settings[field] for field in ("num_labels", "outputdim") if settings.get(field) is not None}
    for field, count in counts.items():
        _check_number(field, count, BOUNDS["num_labels"])
    if not settings.get("id2label"):
        return next(iter(counts.values()), len(AUDIOSET_LABELS))
    names = check_label_table(settings["id2label"])
    # `num_labels` is an argument and has precedence over `outputdim`, which is from a file.
    for field, count in list(counts.items())[:1]:
        if count != len(names):
            raise ValueError(f"`{field}={count}` but `id2label` names {len(names)} classes; give a name for each.")
    return len(names)


def is_cut_audioset_table(names: Mapping[int, str]) -> bool:
    """Whether `names` are those of AudioSet, with some cut at the first comma."""
    whole = dict(enumerate(AUDIOSET_LABELS))
    return (
        names != whole
        and names.keys() == whole.keys()
        and all(name in (whole[index], whole[index].split(",")[0]) for index, name in names.items())
    )


def name_labels(id2label: Any, count: int) -> dict[int, str]:
    """
    The names of `count` classes by index. 527 classes get the names of AudioSet if they have no names, or those cut at
    the first comma (as in some published `config.json` files); other classes without names are `LABEL_0`, …
    """
    names = check_label_table(id2label) if id2label else {}
    if is_cut_audioset_table(names) or (not names and count == len(AUDIOSET_LABELS)):
        return dict(enumerate(AUDIOSET_LABELS))
    return dict(sorted(names.items())) or {index: f"LABEL_{index}" for index in range(count)}


FRAME_MODEL = "CedForAudioFrameClassification"


@dataclass(frozen=True)
class ModelSettings:
    """
    The architecture of a classifier: the fields of `config.json` that tensors and outputs depend on. `has_steps` is
    True for a `CedForAudioFrameClassification`, which scores each time step of one patch.
    """

    embed_dim: int
    depth: int
    num_heads: int
    mlp_ratio: float
    qkv_bias: bool
    patch_size: int
    n_mels: int
    target_length: int
    pooling: str
    problem_type: str
    num_labels: int
    has_steps: bool = dataclasses.field(default=False, repr=False)

    @classmethod
    def of(cls, model: Mapping[str, Any]) -> "ModelSettings":
        """From the fields that [`check_model`] returns, or those of a `CedConfig`."""
        has_steps = FRAME_MODEL in (model.get("architectures") or ())
        return cls(
            **{name: model[name] for name in cls.__dataclass_fields__ if name != "has_steps"}, has_steps=has_steps
        )


def check_model(settings: Mapping[str, Any]) -> dict[str, Any]:
    """
    Checks the fields of a `config.json`.

    Returns:
        The fields with aliases resolved and defaults.

    Raises:
        ValueError: if the fields are not those of a CED model; the message is one line and names the field.
    """
    check_numbers(settings)
    model = {**DEFAULTS, **{ALIASES.get(field, field): value for field, value in settings.items()}}
    for field, choices in CHOICES.items():
        if model[field] not in choices:
            raise ValueError(f"`{field}` must be one of {', '.join(map(repr, choices))}, got {_shown(model[field])}.")
    if (problem := model.get("problem_type")) not in (None, *get_args(ProblemType)):
        kinds = ", ".join(map(repr, get_args(ProblemType)))
        raise ValueError(f"`problem_type` must be one of {kinds}, got {_shown(problem)}.")
    name, width, heads = model.get("name"), model.get("embed_dim"), model.get("num_heads")
    model["embed_dim"], model["num_heads"] = fill_in_size(name, width, heads)
    model["num_labels"] = count_labels(settings)
    model["problem_type"] = find_problem_type(problem, model.get("loss"))
    check_architecture(model)
    return model


def check_architecture(model: Mapping[str, Any]) -> None:
    """Raises a ValueError if the sizes of a model, which are all given and within range, are inconsistent."""
    width, heads, patch_size = model["embed_dim"], model["num_heads"], model["patch_size"]
    if width % heads != 0:
        raise ValueError(
            f"`embed_dim` ({width}) is not a multiple of the number of attention heads `num_heads` ({heads})."
        )
    if model["patch_stride"] != patch_size:
        raise ValueError(
            f"`patch_stride` ({model['patch_stride']}) must equal `patch_size` ({patch_size}): CED patches do not"
            " overlap."
        )
    if model["n_mels"] % patch_size != 0:
        raise ValueError(f"`n_mels` ({model['n_mels']}) is not a multiple of `patch_size` ({patch_size}).")
    if model["target_length"] < patch_size:
        raise ValueError(
            f"`target_length` ({model['target_length']} frames) is shorter than one patch ({patch_size} frames)."
        )
    if width * model["mlp_ratio"] < 1:
        raise ValueError(f"`mlp_ratio` ({model['mlp_ratio']}) leaves the MLP of `embed_dim` ({width}) no units.")
    parameters = model["depth"] * (4 + 2 * model["mlp_ratio"]) * width**2
    if parameters > MAX_PARAMETERS:
        raise ValueError(
            f"`depth` ({model['depth']}) blocks of `embed_dim` {width} have {parameters / 1e9:,.0f} billion parameters;"
            f" the limit is {MAX_PARAMETERS / 1e9:g} billion."
        )
    _check_spectrum(model, None)


def check_front_end(settings: Mapping[str, Any]) -> dict[str, Any]:
    """
    Checks the fields of a `preprocessor_config.json`.

    Returns:
        The fields, with defaults.

    Raises:
        ValueError: for an invalid front end; the message is one line and names the field.
    """
    check_numbers(settings)
    front_end = {**FRONT_END_DEFAULTS, **settings}
    if (side := front_end.get("padding_side", "right")) != "right":
        raise ValueError(
            f'`padding_side={_shown(side)}` must be "right": the time positions of CED start at the first frame of a'
            " clip."
        )
    _check_spectrum(front_end, front_end["sampling_rate"])
    bins = front_end["n_fft"] // 2 + 1
    if front_end["feature_size"] > bins:
        raise ValueError(
            f"`feature_size` ({front_end['feature_size']} mel bins) must not exceed the {bins} frequencies of `n_fft`"
            f" ({front_end['n_fft']} samples)."
        )
    return front_end


def _check_spectrum(settings: Mapping[str, Any], sampling_rate: int | None) -> None:
    n_fft, f_min, f_max = settings["n_fft"], settings["f_min"], settings["f_max"]
    for field in ("win_size", "hop_size"):
        if settings[field] > n_fft:
            raise ValueError(f"`{field}` ({settings[field]} samples) does not fit into `n_fft` ({n_fft} samples).")
    if sampling_rate is not None:
        nyquist = sampling_rate / 2
        f_max = nyquist if f_max is None else f_max
        if f_max > nyquist:
            raise ValueError(f"`f_max` ({f_max:g} Hz) is more than half the `sampling_rate` ({sampling_rate} Hz).")
    if f_max is not None and f_min >= f_max:
        raise ValueError(f"`f_min` ({f_min:g} Hz) must be below `f_max` ({f_max:g} Hz).")


def front_end_of(fields: Mapping[str, Any]) -> FrontEnd:
    """The front end from the fields of a `preprocessor_config.json`, or of a `config.json` if there is none."""
    values = {field: fields.get(field, FRONT_END_DEFAULTS[field]) for field in FRONT_END_FIELDS}
    return FrontEnd(n_mels=fields["feature_size" if "feature_size" in fields else "n_mels"], **values)


def check_agreement(config: Mapping[str, Any], preprocessor: Mapping[str, Any]) -> None:
    """Raises a ValueError for a field that differs between `config.json` and `preprocessor_config.json`."""
    front_end = check_front_end(preprocessor)
    n_mels = config.get("n_mels", DEFAULTS["n_mels"])
    if front_end["feature_size"] != n_mels:
        raise ValueError(
            f"`feature_size` is {front_end['feature_size']} mel bins in preprocessor_config.json, but config.json has"
            f" `n_mels` {n_mels}."
        )
    defaults = {"f_max": front_end["sampling_rate"] / 2}  # the meaning of None
    for field in FRONT_END_FIELDS:
        if field in config and field in preprocessor:
            mine, other = (defaults.get(field) if file[field] is None else file[field] for file in (config, front_end))
            if mine != other:
                raise ValueError(
                    f"`{field}` is {_shown(other)} in preprocessor_config.json, but {_shown(mine)} in config.json."
                )


def expected_shapes(model: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """
    Shapes of a classifier's tensors by name, for fields that [`check_model`] returns.

    `encoder.time_pos_embed` may be longer or shorter in a file: it is resized to `target_length` on loading.
    """
    width, size, classes = model["embed_dim"], model["patch_size"], model["num_labels"]
    hidden = int(width * model["mlp_ratio"])
    encoder: dict[str, tuple[int, ...]] = {
        **{f"init_bn.{name}": (model["n_mels"],) for name in ("weight", "bias", "running_mean", "running_var")},
        "init_bn.num_batches_tracked": (),
        "patch_embed.proj.weight": (width, 1, size, size),
        "patch_embed.proj.bias": (width,),
        "time_pos_embed": (1, width, 1, model["target_length"] // size),
        "freq_pos_embed": (1, width, model["n_mels"] // size, 1),
    }
    if model["pooling"] == "token":
        encoder |= {"cls_token": (1, 1, width), "token_pos_embed": (1, width)}
    linear = {"attn.qkv": (3 * width, width), "attn.proj": (width, width), "mlp.fc1": (hidden, width)}
    linear["mlp.fc2"] = (width, hidden)
    for block in range(model["depth"]):
        for norm in ("norm1", "norm2"):
            encoder |= {f"blocks.{block}.{norm}.{name}": (width,) for name in ("weight", "bias")}
        for name, shape in linear.items():
            encoder[f"blocks.{block}.{name}.weight"] = shape
            if name != "attn.qkv" or model["qkv_bias"]:
                encoder[f"blocks.{block}.{name}.bias"] = shape[:1]
    encoder |= {f"norm.{name}": (width,) for name in ("weight", "bias")}
    return {
        **{f"encoder.{name}": shape for name, shape in encoder.items()},
        "outputlayer.0.weight": (width,),
        "outputlayer.0.bias": (width,),
        "outputlayer.1.weight": (classes, width),
        "outputlayer.1.bias": (classes,),
    }
