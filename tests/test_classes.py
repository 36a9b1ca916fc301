# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Classes by name, index, machine id and as groups; label maps; files of thresholds."""

import pickle

import numpy as np
import pytest

from ced_model import AUDIOSET_LABELS, AudioTagger
from ced_model.audioset import AUDIOSET_CLASSES
from ced_model.class_files import read_label_map, read_thresholds
from ced_model.classes import FileText, choose_classes
from ced_model.events import event_rules
from ced_model.messages import UsageError
from ced_model.ontology import find_node, group, nodes, parents, search, search_any

DOG = AUDIOSET_LABELS.index("Dog")
DOGS = ("Dog", "Bark", "Yip", "Howl", "Bow-wow", "Growling", "Whimper (dog)")


def names(labels, wanted=None, **options):
    return [choice.label for choice in choose_classes(labels, wanted, **options)]


def members(labels, wanted):
    (choice,) = choose_classes(labels, wanted)
    return {labels[index] for index in choice.indices}


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (["dog"], ["Dog"]),
        ("DOG", ["Dog"]),
        (DOG, None),
        ([DOG], ["Dog"]),
        (str(DOG), ["Dog"]),
        ("/m/0bt9lr", ["Dog"]),
        ("Dog, /m/05tny_,0", ["Speech", "Dog", "Bark"]),
        ("dog,Male speech, man speaking , Cat", ["Male speech, man speaking", "Dog", "Cat"]),
        (["Bark,Dog", "Dog"], ["Dog", "Bark"]),
        ("Bee, wasp, etc.,Dog", ["Dog", "Bee, wasp, etc."]),
        ("Dog...", ["Dog..."]),
        ("dog…", ["Dog..."]),
        ("Musical_instrument...", ["Musical instrument..."]),
        ("/m/0bt9lr...,74...", ["Dog..."]),
        ("Dog...,Bark", ["Bark", "Dog..."]),
        ("Bee, wasp, etc....", ["Bee, wasp, etc...."]),
        ("human voice...", ["Human voice..."]),
        ("Channel, environment and background..., Dog", ["Dog", "Channel, environment and background..."]),
        ("", []),
    ],
)
def test_a_class_is_given_by_name_index_machine_id_or_as_a_group(wanted, expected):
    if expected is None:
        with pytest.raises(UsageError, match="`labels=74`: expected names of classes"):
            choose_classes(AUDIOSET_LABELS, wanted)
    else:
        assert names(AUDIOSET_LABELS, wanted) == expected


def test_every_class_is_found_by_all_of_its_names():
    for index, (mid, name) in enumerate(AUDIOSET_CLASSES):
        for wanted in (name, name.upper(), mid, str(index), [index], f"{name}, {mid}"):
            (choice,) = choose_classes(AUDIOSET_LABELS, wanted)
            assert choice == (name, (index,), index)


def test_names_with_commas_can_be_in_a_list_separated_by_commas():
    assert names(AUDIOSET_LABELS, ",".join(AUDIOSET_LABELS)) == list(AUDIOSET_LABELS)


def test_a_group_is_a_class_and_all_classes_below_it():
    assert members(AUDIOSET_LABELS, "Dog...") == set(DOGS)
    assert {"Speech", "Baby cry, infant cry", "Throat clearing"} & members(AUDIOSET_LABELS, "Human voice...") == {
        "Speech",
        "Baby cry, infant cry",
    }
    assert set(DOGS) < members(AUDIOSET_LABELS, "Animal...")
    assert members(AUDIOSET_LABELS, "Yip...") == {"Yip"}


def test_a_model_with_other_labels_has_its_own_names_and_matching_groups():
    labels = ["bark", "YIP", "doorbell of mine", "74", "Dog..."]
    assert names(labels, "doorbell of mine,74,dog...") == ["doorbell of mine", "74", "Dog..."]  # its own ones
    assert members(labels, "Animal...") == {"bark", "YIP"}
    with pytest.raises(UsageError, match="'Vehicle...'`: expected a group of AudioSet's ontology with classes of this"):
        choose_classes(labels, "Vehicle...")
    with pytest.raises(UsageError, match="expected a class of the model"):
        choose_classes(labels, "Speech")


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("Dgo", r"`labels='Dgo'`: expected a class of the model; did you mean 'Dog'"),
        ("Male speech, man speaking, Dgo, Cat", r"`labels='Dgo'`: .*'Dog'"),
        ("Dogs...", r"`labels='Dogs...'`: expected a group .*; did you mean .*'Dog...'"),
        ("Human voices...", r"did you mean 'Human voice...'"),
        ("Human voice", r"expected a class of the model"),
        ("527", r"`labels='527'`: expected a class of the model"),
        ([527], r"`labels=527`: expected names"),
        ([-1], r"expected names"),
        ([True], r"expected names"),
        ([None], r"expected names"),
        ({"Dog": 1}, r"expected names"),
        (b"Dog", r"expected names"),
    ],
)
def test_unknown_classes_and_groups_are_refused_with_similar_names(wanted, message):
    with pytest.raises(UsageError, match=message) as refusal:
        choose_classes(AUDIOSET_LABELS, wanted)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("Human voice...", r"classes of this model$"),
        ("Dogg...", r"did you mean '[Dd]og\.\.\.'\?$"),
        ("Animal", r"did you mean 'Animal\.\.\.', all classes below it\?$"),
        ("DOG", r"a class of the model; did you mean 'Dog'"),
    ],
)
def test_only_groups_with_classes_of_the_model_are_suggested(wanted, message):
    with pytest.raises(UsageError, match=message):
        choose_classes(["Dog", "dog", "Bark", "Hund..."], wanted)


def test_excluded_classes_and_groups_are_left_out():
    left = names(AUDIOSET_LABELS, exclude="Dog...,Silence")
    assert set(AUDIOSET_LABELS) - set(left) == {*DOGS, "Silence"}
    (choice,) = choose_classes(AUDIOSET_LABELS, "Dog...", exclude=["Howl", "Growling"])
    assert len(choice.indices) == len(DOGS) - 2
    assert names(AUDIOSET_LABELS, "Bark,Dog", exclude="Bark") == ["Dog"]


def test_a_label_map_renames_removes_and_joins_classes():
    own = {"Dog...": "dog", "Bark": "our dog", "/m/07r_k2n": "our dog", "Silence": "", "Cat": None}
    found = choose_classes(AUDIOSET_LABELS, label_map=own)
    labels = [choice.label for choice in found]
    assert len(found) == 527 - 2 - (len(DOGS) - 2 - 1) - 1
    assert {"Silence", "Cat", "Bark", "Howl"}.isdisjoint(labels)
    by_name = {choice.label: choice for choice in found}
    assert {AUDIOSET_LABELS[index] for index in by_name["our dog"].indices} == {"Bark", "Yip"}
    assert {AUDIOSET_LABELS[index] for index in by_name["dog"].indices} == set(DOGS) - {"Bark", "Yip"}
    assert set(names(AUDIOSET_LABELS, "Dog...,our dog,Speech,Cat", label_map=own)) == {"Speech", "dog", "our dog"}


def test_the_ontology_has_all_classes_and_no_other_leaves():
    classes = dict(AUDIOSET_CLASSES)
    assert len(nodes()) == 557 and classes.items() <= {mid: node.name for mid, node in nodes().items()}.items()
    assert all(node.children or mid in classes for mid, node in nodes().items())
    assert len(parents()["/m/0ghcn6"]) == 4 and group("no such thing") is None
    tops = [node.name for mid, node in nodes().items() if not parents()[mid]]
    assert len(tops) == 7 and set().union(*(group(name) for name in tops)) >= set(AUDIOSET_LABELS)


def test_names_are_searched_by_words():
    assert [node.name for node in search("dog")][:2] == ["Dog", "Whimper (dog)"]
    assert search("dog bark") == search("woof") == search(".*") == search("") == search_any("a of 犬") == []
    assert {"Dog", "Bark"} <= {node.name for node in search_any("dog_bark")}
    assert find_node("throat_clearing") == find_node("THROAT  clearing") == find_node("/m/0dl9sf8")


# Tags


@pytest.fixture(scope="module")
def tagger(golden):
    return AudioTagger()


def test_a_group_is_one_tag_with_the_highest_score(tagger, resources):
    crow = resources / "misc_crow.flac"
    single = {tag.label: tag.score for tag in tagger(crow, labels="Bird,Crow,Caw,Owl")}
    bird, dog = tagger(crow, labels=["Bird...", "Dog..."])
    assert bird.label == "Bird..." and bird.index == -1 and bird.score >= max(single.values()) > dog.score
    assert tagger(crow, labels="Crow,Caw", label_map={"Crow": "corvid", "Caw": "corvid"}) == [
        ("corvid", max(single["Crow"], single["Caw"]), -1)
    ]


def test_thresholds_of_tags_may_be_by_class(tagger, resources):
    bell = resources / "perc_bell.flac"
    everything = {tag.label: tag.score for tag in tagger(bell, threshold=0.0)}
    limits = {"Bell": everything["Bell"] - 1e-3, "Music...": 0.0, "Speech": 0.99}
    assert {tag.label for tag in tagger(bell, threshold=limits)} == {"Bell", "Music..."}
    others = tagger(bell, threshold={"Bell": 1.0, "*": 0.05})
    assert {tag.label for tag in others} == {
        name for name, score in everything.items() if score >= 0.05 and name != "Bell"
    }


# Files


def written(folder, text, name="file.csv"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_label_map_is_read_from_csv(tmp_path):
    text = '\ufeffclass,name\r\nBark, hund \r\n\r\n# a comment\n"Male speech, man speaking",Mann\n'
    text += "Silence,\nDog...,Hunde\n"
    found = read_label_map(written(tmp_path, text))
    assert found == {"Bark": "hund", "Male speech, man speaking": "Mann", "Silence": "", "Dog...": "Hunde"}
    assert read_label_map(written(tmp_path, "Bark\thund\n")) == {"Bark": "hund"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Bark,hund\nCat\n", r"file.csv, line 2: expected 2 cells, a class and your name for it, found 1$"),
        ("Male speech, man speaking,Mann\n", r"line 1: .*found 3; quote a name that has commas"),
        ("Bark,a\nDog,b\nBark,c\n", r"line 3: 'Bark' appears twice \(.*line 1\)"),
        (",a\n", r"line 1: the name of the class is missing"),
        ("Bark,a\x1b[31mb\n", r"line 1: the name 'a\\\\x1b\[31mb' has control characters"),
        ('Bark,"a\n', r"line 1: expected CSV"),
        (b"Bark,a\nDog,\xff\n", r"line 2: expected UTF-8"),
        ("class,name\n", r"file.csv: expected a class and your name for it in each line, found none"),
        ("Bark,a\nbark,b\n", r"line 2: 'b': expected one name for 'Bark', not 'a' as well"),
        ("75,a\n/m/05tny_,b\n", r"line 2: 'b': expected one name for 'Bark', not 'a' as well"),
    ],
)
def test_an_invalid_label_map_is_refused_with_its_line(tmp_path, text, message):
    with pytest.raises(UsageError, match=message) as refusal:
        choose_classes(AUDIOSET_LABELS, label_map=read_label_map(written(tmp_path, text)))
    assert "\n" not in str(refusal.value)


def test_an_unknown_class_in_a_file_is_reported_with_its_line(tmp_path):
    own = read_label_map(written(tmp_path, "Bark,a\nDgo,b\n"))
    with pytest.raises(UsageError, match=r"file.csv, line 2: 'Dgo': expected a class of the model; did you mean 'Dog'"):
        choose_classes(AUDIOSET_LABELS, label_map=pickle.loads(pickle.dumps(own)))
    assert pickle.loads(pickle.dumps(FileText.at("a", "b"))).place == "b"


def test_thresholds_are_read_from_csv_and_json(tmp_path):
    evaluated = (
        "label,mid,positives,AP,AUC,d_prime,best_F1,best_threshold\nDog,/m/0bt9lr,3,0.5,0.9,1.2,0.7,0.31\n"
        '"Bee, wasp, etc.",/m/01h3n,0,,,,,\n'
    )
    assert read_thresholds(written(tmp_path, evaluated)) == {"Dog": {"threshold": 0.31}}
    full = "label;threshold;off_threshold;min_duration_s;smoothing\nDog...;0.4;0.2;;mean\n*;0.5;;1;\n"
    expected = {
        "Dog...": {"threshold": 0.4, "off_threshold": 0.2, "smoothing": "mean"},
        "*": {"threshold": 0.5, "min_duration_s": 1.0},
    }
    assert read_thresholds(written(tmp_path, full)) == expected
    text = '{"Dog": 0.4,\n "Cat": {"threshold": 0.3, "max_duration_s": 2}}'
    assert read_thresholds(written(tmp_path, text)) == {
        "Dog": {"threshold": 0.4},
        "Cat": {"threshold": 0.3, "max_duration_s": 2.0},
    }
    report = '{"mAP": 0.5, "per_class": [{"label": "Dog", "AP": 0.1, "best_threshold": 0.2}, {"label": "Cat"}]}'
    assert read_thresholds(written(tmp_path, report)) == {"Dog": {"threshold": 0.2}}
    by_mid = '[{"mid": "/m/0bt9lr", "threshold": 0.3}, {"class": "Cat", "threshold": 0.4}]'
    assert read_thresholds(written(tmp_path, by_mid)) == {"/m/0bt9lr": {"threshold": 0.3}, "Cat": {"threshold": 0.4}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label,threshold\nDog,high\n", r"file.csv, line 2, threshold: expected a number, found 'high'"),
        ("label,threshold\nDog,nan\n", r"line 2, threshold: expected a number"),
        ("label,threshold,min_duration_s\nDog,0.5,-1\n", r"line 2, min_duration_s: expected a number from 0"),
        ("label,threshold\nDog,0.5\nDog,0.6\n", r"line 3: 'Dog' appears twice"),
        ("label,threshold\nDog\n", r"line 2: expected 2 cells as in the header, found 1"),
        ("Dog,0.5\n", r"line 1: expected columns label, threshold and any of off_threshold, .*, found 'Dog,0.5'"),
        ("label,threshold,min_duration\nDog,0.5,1\n", r"line 1: expected columns .* found 'min_duration'"),
        ("label,threshold,smoothing\nDog,0.5,max\n", r"line 2, smoothing: expected median or mean"),
        ("", r"line 1: expected columns"),
        ("label,threshold\n", r"expected thresholds of classes, found none"),
        ('{"Dog": 0.5,\n "Cat": "x"}', r"line 2, threshold: expected a number, found 'x'"),
        ('{"Dog": 0.5,\n "Cat": }', r"line 2: expected JSON"),
        ('{"Dog": {"on": 0.5}}', r"line 1: expected any of threshold, .*, found 'on'"),
        ('{"Dog": true}', r"line 1, threshold: expected a number"),
        ("[1]", r"line 1: the name of the class is missing"),
        ('[{"threshold": 0.5}]', r"line 1: the name of the class is missing"),
        ('[{"label": "Dog", "threshold": 0.5},\n {"label": "Dog", "threshold": 0.6}]', r"'Dog' appears twice"),
        ('{"Dog": 1' + "0" * 400 + "}", r"line 1, threshold: expected a number"),
        ("label,threshold\nDog,0_5\n", r"line 2, threshold: expected a number, found '0_5'"),
        ("label;threshold\nDog;0,5\n", r"line 2, threshold: .* found '0,5': write a point, not a comma"),
        ("label,threshold,threshold\nDog,0.5,0.6\n", r"line 1: expected one of the columns threshold and threshold"),
        ("label,threshold,best_threshold\nDog,0.5,0.6\n", r"line 1: .* columns threshold and best_threshold"),
        ('{"Dog": 0.5, "Dog": 0.6}', r"'Dog' appears twice"),
        ("label,threshold\nDog,0.5\ndog,0.6\n", r"line 3: 'dog' appears twice \(.*line 2\)"),
        ("label,threshold\nDog,0.5\n74,0.6\n", r"line 3: '74' appears twice \(.*line 2\)"),
        ("label,threshold,off_threshold\nDog,0.5,0.6\n", r"line 2, off_threshold: expected at most the threshold"),
    ],
)
def test_invalid_thresholds_are_refused_with_their_line(tmp_path, text, message):
    with pytest.raises(UsageError, match=message) as refusal:
        event_rules(AUDIOSET_LABELS, read_thresholds(written(tmp_path, text)))
    assert "\n" not in str(refusal.value)


def test_scores_of_choices_are_the_highest_of_their_classes():
    from ced_model.classes import choice_scores

    scores = np.random.default_rng(0).random((5, 527), dtype=np.float32)
    choices = choose_classes(AUDIOSET_LABELS, "Dog...,Speech")
    found = choice_scores(scores, choices)
    assert found.shape == (5, 2) and (found[:, 0] == scores[:, 0]).all()
    assert (found[:, 1] == scores[:, [AUDIOSET_LABELS.index(name) for name in DOGS]].max(axis=1)).all()
    assert (choice_scores(scores[0], choices) == found[0]).all()
