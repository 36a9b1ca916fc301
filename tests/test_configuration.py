# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""CedConfig reads and writes the Hub's `config.json`, has the classes of AudioSet, and refuses invalid fields."""

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig

from ced_model import AUDIOSET_LABELS, CedConfig
from ced_model.configuration_ced import CED_SIZES
from ced_model.model_settings import check_model

WHOLE_TABLE = dict(enumerate(AUDIOSET_LABELS))
CUT_TABLE = {index: name.split(",")[0] for index, name in WHOLE_TABLE.items()}


def make_config(**fields: Any) -> CedConfig:
    """Without type checks: aliases and extras are further keywords for transformers."""
    return CedConfig(**fields)


def inverse(table: dict[int, str]) -> dict[str, int]:
    return {name: index for index, name in table.items()}


def write_config(folder: Path, golden: Path, **fields: Any) -> Path:
    """A folder with the `config.json` of `micro_hub`, changed in `fields` (None: left out)."""
    stored = json.loads((golden / "micro_hub" / "config.json").read_text()) | fields
    stored = {name: value for name, value in stored.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(stored))
    return folder


# Sizes and aliases


@pytest.mark.parametrize(
    ("name", "embed_dim", "num_heads"),
    [("ced-tiny", 192, 3), ("ced-mini", 256, 4), ("ced-small", 384, 6), ("ced-base", 768, 12)],
)
def test_a_size_name_gives_the_published_shape(name: str, embed_dim: int, num_heads: int) -> None:
    config = CedConfig(name=name)
    assert (config.embed_dim, config.num_heads, config.depth) == (embed_dim, num_heads, 12)
    assert (config.mlp_ratio, config.qkv_bias, config.patch_size, config.n_mels) == (4.0, True, 16, 64)
    assert config.name == name


def test_the_sizes_are_the_published_ones() -> None:
    assert list(CED_SIZES) == ["ced-tiny", "ced-mini", "ced-small", "ced-base"]


def test_the_default_is_ced_base() -> None:
    config, base = CedConfig(), CedConfig(name="ced-base")
    assert (config.embed_dim, config.num_heads, config.depth) == (base.embed_dim, base.num_heads, base.depth)
    assert (config.target_length, config.pooling, config.eval_avg, config.pad_last) == (1012, "mean", "mean", True)
    assert config.num_patches == (4, 63)
    assert config.problem_type == "multi_label_classification"


def test_a_size_name_does_not_set_other_fields() -> None:
    config = CedConfig(name="ced-tiny", depth=3, num_heads=6)
    assert (config.embed_dim, config.depth, config.num_heads) == (192, 3, 6)


def test_with_an_explicit_width_the_name_is_only_stored() -> None:
    config = CedConfig(name="my-own", embed_dim=128)
    assert (config.name, config.embed_dim, config.num_heads) == ("my-own", 128, 2)


def test_aliases_read_write_and_construct() -> None:
    config = make_config(hidden_size=48, num_hidden_layers=3, num_attention_heads=4, num_labels=5)
    assert (config.embed_dim, config.depth, config.num_heads, config.outputdim) == (48, 3, 4, 5)
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (48, 3, 4)
    config.num_hidden_layers, config.num_attention_heads, config.hidden_size = 2, 6, 96
    assert (config.depth, config.num_heads, config.embed_dim) == (2, 6, 96)
    config.outputdim = 7
    assert config.num_labels == len(config.id2label) == 7
    assert make_config(outputdim=9).num_labels == 9


# Labels


def test_the_package_has_the_527_full_names_of_audioset() -> None:
    assert len(AUDIOSET_LABELS) == len(set(AUDIOSET_LABELS)) == 527
    picked = {index: AUDIOSET_LABELS[index] for index in (0, 16, 21, 526)}
    assert picked == {0: "Speech", 16: "Laughter", 21: "Chuckle, chortle", 526: "Field recording"}


@pytest.mark.parametrize("fields", [{}, {"num_labels": 527}, {"outputdim": 527}, {"id2label": {}}, {"id2label": None}])
def test_without_a_table_the_names_are_those_of_audioset(fields: dict[str, Any]) -> None:
    config = make_config(**fields)
    assert config.id2label == WHOLE_TABLE
    assert config.label2id == inverse(WHOLE_TABLE)


@pytest.mark.parametrize("stored_label2id", [None, inverse(CUT_TABLE)], ids=["without label2id", "with label2id"])
def test_a_stored_table_cut_at_first_commas_is_replaced(
    tmp_path: Path, golden: Path, stored_label2id: dict[str, int] | None
) -> None:
    assert CUT_TABLE[21] == "Chuckle"
    write_config(tmp_path, golden, outputdim=527, id2label=CUT_TABLE, label2id=stored_label2id)
    config = AutoConfig.from_pretrained(tmp_path)
    assert config.id2label == WHOLE_TABLE
    assert config.label2id == inverse(WHOLE_TABLE)


def test_a_table_with_one_cut_name_is_replaced() -> None:
    assert CedConfig(id2label=WHOLE_TABLE | {21: "Chuckle"}).id2label == WHOLE_TABLE


def test_a_stored_config_without_a_table_gets_the_names_of_audioset(tmp_path: Path, golden: Path) -> None:
    write_config(tmp_path, golden, outputdim=527, id2label=None, label2id=None)
    assert AutoConfig.from_pretrained(tmp_path).id2label == WHOLE_TABLE


@pytest.mark.parametrize(
    "table",
    [
        {index: f"mine {index}" for index in range(527)},
        CUT_TABLE | {0: "mine"},
        WHOLE_TABLE | {21: "chuckle, chortle"},
        {index: AUDIOSET_LABELS[526 - index] for index in range(527)},
        {index: CUT_TABLE[index] for index in range(526)},
        {0: "Chuckle"},
    ],
    ids=["own names", "one own name", "lower case", "another order", "526 classes", "one class"],
)
def test_any_other_table_is_unchanged(table: dict[int, str], tmp_path: Path, golden: Path) -> None:
    config = CedConfig(id2label=dict(table))
    assert config.id2label == table and config.num_labels == len(table)
    write_config(tmp_path, golden, outputdim=len(table), id2label=table, label2id=None)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert loaded.id2label == table
    assert loaded.label2id == inverse(table)


def test_a_label2id_of_the_user_is_unchanged() -> None:
    label2id = {"dog": 0, "hound": 0, "cat": 1}
    assert make_config(id2label={0: "dog", 1: "cat"}, label2id=label2id).label2id == label2id


def test_another_number_of_classes_gets_neutral_names() -> None:
    config = make_config(num_labels=3)
    assert config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    assert config.label2id == {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}


# Overrides of from_pretrained


@pytest.mark.parametrize("alias", ["num_labels", "outputdim"])
def test_from_pretrained_with_another_number_of_classes(golden: Path, alias: str) -> None:
    config = AutoConfig.from_pretrained(golden / "micro_hub", **{alias: 10})
    assert config.num_labels == config.outputdim == len(config.id2label) == len(config.label2id) == 10
    assert config.id2label[0] == "LABEL_0"
    assert AutoConfig.from_pretrained(golden / "micro_hub", **{alias: 527}).id2label == WHOLE_TABLE


def test_from_pretrained_with_the_stored_number_of_classes_keeps_their_names(golden: Path) -> None:
    config = AutoConfig.from_pretrained(golden / "micro_hub", num_labels=13)
    assert config.id2label == {index: f"class {index}" for index in range(13)}


@pytest.mark.parametrize("key", [int, str])
@pytest.mark.parametrize("with_count", [True, False])
def test_from_pretrained_with_other_class_names(golden: Path, key: type, with_count: bool) -> None:
    fields: dict[str, Any] = {"id2label": {key(0): "dog", key(1): "cat"}}
    if with_count:
        fields["num_labels"] = 2
    config = AutoConfig.from_pretrained(golden / "micro_hub", **fields)
    assert config.id2label == {0: "dog", 1: "cat"}
    assert config.label2id == {"dog": 0, "cat": 1}
    assert config.num_labels == 2


def test_from_pretrained_replaces_a_cut_table_given_as_override(golden: Path) -> None:
    config = AutoConfig.from_pretrained(golden / "micro_hub", id2label=CUT_TABLE, num_labels=527)
    assert config.id2label == WHOLE_TABLE


def test_from_pretrained_overrides_other_fields_and_returns_the_unused(golden: Path) -> None:
    config, unused = AutoConfig.from_pretrained(
        golden / "micro_hub",
        target_length=512,
        pooling="dm",
        num_attention_heads=4,
        problem_type="single_label_classification",
        no_such_field=1,
        return_unused_kwargs=True,
    )
    assert (config.target_length, config.pooling, config.num_heads) == (512, "dm", 4)
    assert config.problem_type == "single_label_classification"
    assert unused == {"no_such_field": 1}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"num_heads": 5}, "not a multiple"),
        ({"target_length": 15}, "shorter than one patch"),
        ({"pooling": "median"}, "pooling"),
        ({"eval_avg": "median"}, "eval_avg"),
        ({"id2label": {1: "dog", 2: "cat"}}, "classes 0 to 1"),
    ],
)
def test_bad_overrides_of_from_pretrained_are_refused(golden: Path, fields: dict[str, Any], reason: str) -> None:
    with pytest.raises((StrictDataclassError, ValueError), match=reason):
        AutoConfig.from_pretrained(golden / "micro_hub", **fields)


# The Hub's config.json


def test_the_hubs_config_survives_reading_and_writing(tmp_path: Path, golden: Path) -> None:
    stored = json.loads((golden / "micro_hub" / "config.json").read_text())
    config = AutoConfig.from_pretrained(golden / "micro_hub")
    assert type(config) is CedConfig
    assert (config.embed_dim, config.depth, config.num_heads, config.num_labels) == (48, 3, 3, 13)
    config.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["outputdim"] == 13
    del stored["transformers_version"]  # changes with the version that writes the file
    assert {name: written.get(name) for name in stored} == stored


def test_unknown_extras_are_kept(tmp_path: Path, golden: Path) -> None:
    extras = {"my_note": "recorded in the rain", "nested": {"a": [1, None]}}
    write_config(tmp_path, golden, **extras)
    config = CedConfig.from_pretrained(tmp_path)
    assert config.my_note == "recorded in the rain"
    config.save_pretrained(tmp_path / "saved")
    written = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert {name: written[name] for name in extras} == extras


def test_a_configuration_survives_saving_and_loading(tmp_path: Path) -> None:
    config = make_config(
        name="ced-tiny", depth=2, num_labels=4, pooling="token", eval_avg="max", pad_last=False, target_length=320
    )
    config.save_pretrained(tmp_path)
    loaded = CedConfig.from_pretrained(tmp_path)
    fields = set(config.to_dict()) - {"transformers_version"}
    assert {field: loaded.to_dict()[field] for field in fields} == {field: config.to_dict()[field] for field in fields}
    assert json.loads((tmp_path / "config.json").read_text())["outputdim"] == 4


def test_reading_does_not_change_the_callers_dictionary(golden: Path) -> None:
    stored = json.loads((golden / "micro_hub" / "config.json").read_text())
    given = json.loads(json.dumps(stored))
    CedConfig.from_dict(given, num_heads=4, id2label={0: "dog"})
    assert given == stored


def test_a_stored_null_problem_type_means_multi_label(tmp_path: Path, golden: Path) -> None:
    stored = json.loads((golden / "micro_hub" / "config.json").read_text()) | {"problem_type": None}
    assert CedConfig.from_dict(stored).problem_type == "multi_label_classification"
    assert CedConfig(problem_type="regression").problem_type == "regression"


# Bad configurations


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"name": "tiny"}, r"`name='tiny'` is not a published size.*ced-tiny, ced-mini, ced-small, ced-base"),
        ({"name": 3}, "name"),
        ({"pooling": "max"}, r"pooling.*\n.*'mean', 'logit', 'dm', 'token'.*max"),
        ({"pooling": None}, "pooling"),
        ({"eval_avg": "median"}, r"eval_avg.*\n.*'mean', 'max'.*median"),
        ({"num_heads": 7}, r"`embed_dim` \(768\) is not a multiple.*\(7\)"),
        ({"num_attention_heads": 7}, r"`embed_dim` \(768\) is not a multiple.*\(7\)"),
        ({"name": "ced-tiny", "num_heads": 5}, r"`embed_dim` \(192\) is not a multiple.*\(5\)"),
        ({"num_heads": 0}, "`num_heads` must be a whole number from 1 to 1,024, got 0"),
        ({"num_heads": -3}, "`num_heads` must be a whole number .*, got -3"),
        ({"embed_dim": "48"}, "embed_dim.*\n.*'48'"),
        ({"embed_dim": 48.0}, "embed_dim"),
        ({"embed_dim": 0}, "`embed_dim` must be a whole number from 1 to"),
        ({"depth": 0}, "`depth` must be a whole number from 1 to"),
        ({"mlp_ratio": 0}, "`mlp_ratio` must be a number above 0, at most 32"),
        ({"mlp_ratio": float("nan")}, "`mlp_ratio` must be a number above 0, at most 32"),
        ({"drop_rate": 1.0}, "`drop_rate` must be a number from 0 to below 1, got 1.0"),
        ({"attn_drop_rate": -0.1}, "`attn_drop_rate` must be a number from 0 to below 1"),
        ({"drop_path_rate": float("nan")}, "`drop_path_rate` must be a number from 0 to below 1"),
        ({"patch_stride": 10}, r"`patch_stride` \(10\) must equal `patch_size` \(16\)"),
        ({"patch_size": 0}, "`patch_size` must be a whole number from 1 to"),
        ({"n_mels": 63}, r"`n_mels` \(63\) is not a multiple"),
        ({"target_length": 15}, r"`target_length` \(15 frames\) is shorter than one patch"),
        ({"target_length": 1012.0}, "target_length"),
        ({"pad_last": "yes"}, "pad_last"),
        ({"hop_size": 0}, "`hop_size` must be a whole number from 1 to"),
        ({"problem_type": "ranking"}, "problem_type"),
        ({"num_labels": 0}, "`num_labels` must be a whole number from 1 to 100,000, got 0"),
        ({"num_labels": -1}, "`num_labels` .*, got -1"),
        ({"num_labels": "10"}, "`num_labels` .*, got '10'"),
        ({"num_labels": 2.5}, "`num_labels` .*, got 2.5"),
        ({"outputdim": 3, "id2label": {0: "dog"}}, "`outputdim=3` but `id2label` names 1 classes"),
        ({"id2label": {0: "dog", 2: "cat"}}, "classes 0 to 1"),
        ({"id2label": {"dog": "0"}}, "classes 0 to 0"),
        ({"id2label": ["dog", "cat"]}, "classes 0 to 1"),
    ],
    ids=str,
)
def test_invalid_fields_are_refused_at_construction(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises((StrictDataclassError, ValueError), match=reason):
        make_config(**fields)


def test_a_configuration_made_invalid_afterwards_is_not_saved(tmp_path: Path) -> None:
    config = CedConfig()
    config.num_heads = 7
    with pytest.raises(StrictDataclassError, match="not a multiple"):
        config.save_pretrained(tmp_path)
    with pytest.raises(StrictDataclassError, match="pooling"):
        config.pooling = "median"


def test_inconsistent_names_and_numbers_of_classes_are_refused(golden: Path) -> None:
    with pytest.raises(ValueError, match=r"`num_labels=3` but `id2label` names 2 classes"):
        CedConfig(num_labels=3, id2label={0: "a", 1: "b"})
    with pytest.raises(ValueError, match=r"`num_labels=2` but `id2label` names 3 classes"):
        CedConfig.from_pretrained(golden / "micro_hub", num_labels=2, id2label={0: "a", 1: "b", 2: "c"})
    assert CedConfig.from_pretrained(golden / "micro_hub", num_labels=2).id2label == {0: "LABEL_0", 1: "LABEL_1"}


@pytest.mark.parametrize("fields", [{"f_min": 9000}, {"win_size": 1024}])
def test_an_impossible_front_end_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(StrictDataclassError, match=next(iter(fields))):
        CedConfig(**fields)


# The loss of the public port


def test_the_loss_of_the_public_port_gives_the_problem_type(tmp_path: Path, golden: Path) -> None:
    single, multi = "single_label_classification", "multi_label_classification"
    assert CedConfig(loss="CrossEntropyLoss").problem_type == single
    assert CedConfig(loss="BCE").problem_type == CedConfig(loss=None).problem_type == multi
    assert CedConfig(loss="AnotherLoss").problem_type == multi
    assert CedConfig(loss="CrossEntropyLoss", problem_type="regression").problem_type == "regression"
    config = AutoConfig.from_pretrained(golden / "micro_hub", loss="CrossEntropyLoss", num_labels=3)
    assert (config.problem_type, config.loss, config.num_labels) == (single, "CrossEntropyLoss", 3)
    # Set afterwards, and a stored problem type with a loss that overrides it.
    config = CedConfig()
    config.loss = "CrossEntropyLoss"
    assert config.problem_type == single
    config.loss = "AnotherLoss"
    assert config.problem_type == single
    config.loss = "BCE"
    assert config.problem_type == multi
    CedConfig().save_pretrained(tmp_path)
    assert CedConfig.from_pretrained(tmp_path).problem_type == multi
    assert CedConfig.from_pretrained(tmp_path, loss="CrossEntropyLoss").problem_type == single
    assert CedConfig.from_pretrained(tmp_path, loss="CrossEntropyLoss", problem_type=multi).problem_type == multi


def test_a_stored_loss_counts_only_without_a_problem_type(tmp_path: Path, golden: Path) -> None:
    write_config(tmp_path, golden, loss="CrossEntropyLoss")
    assert AutoConfig.from_pretrained(tmp_path).problem_type == "single_label_classification"
    assert check_model(json.loads((tmp_path / "config.json").read_text()))["problem_type"].startswith("single")
    CedConfig(problem_type="single_label_classification").save_pretrained(tmp_path)  # its loss is the default, "BCE"
    assert AutoConfig.from_pretrained(tmp_path).problem_type == "single_label_classification"
