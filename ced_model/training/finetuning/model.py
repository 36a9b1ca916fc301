# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Prepares a model for training: a head for the classes, frozen blocks, LoRA adapters."""

import warnings
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from typing import Any, NamedTuple

import torch
from torch import nn

from ...labelled.class_names import Vocabulary
from ...messages import OptionError, one_line
from ...modeling_ced import CedForAudioClassification
from .options import FinetuningOptions


class Head(NamedTuple):
    """A linear layer: `weight` of shape `(classes, width)`, `bias`, and the names of its classes."""

    weight: torch.Tensor
    bias: torch.Tensor
    labels: list[str]


def head_of(model: CedForAudioClassification) -> Head:
    """A copy of the head's linear layer."""
    linear: Any = model.outputlayer[1]
    config: Any = model.config
    labels = [config.id2label[index] for index in range(config.num_labels)]
    return Head(linear.weight.detach().clone(), linear.bias.detach().clone(), labels)


def set_head(model: CedForAudioClassification, head: Head) -> None:
    config: Any = model.config
    config.id2label = dict(enumerate(head.labels))
    config.label2id = {label: index for index, label in enumerate(head.labels)}
    model.num_labels = len(head.labels)
    linear = nn.Linear(config.hidden_size, len(head.labels))
    linear.weight, linear.bias = nn.Parameter(head.weight), nn.Parameter(head.bias)
    model.outputlayer[1] = linear


def set_classes(
    model: CedForAudioClassification, labels: Sequence[str], problem_type: str, seed: int, has_head: bool = True
) -> int:
    """
    Gives a model a head for `labels`. Classes that it already has keep their rows; the others get random ones.

    Args:
        has_head: Whether the model's head is trained; otherwise all rows are new.

    Returns:
        Number of classes that keep their rows.
    """
    config: Any = model.config
    config.problem_type = problem_type
    own = head_of(model)
    known = [Vocabulary(own.labels).find(label) if has_head else None for label in labels]
    if own.labels == list(labels):
        return len(labels)
    weight = torch.empty(len(labels), config.hidden_size)
    generator = torch.Generator().manual_seed(seed)
    nn.init.trunc_normal_(weight, std=config.initializer_range, generator=generator)
    bias = torch.zeros(len(labels))
    for index, row in enumerate(known):
        if row is not None:
            weight[index], bias[index] = own.weight[row], own.bias[row]
    set_head(model, Head(weight, bias, list(labels)))
    return sum(row is not None for row in known)


def all_labels(before: Head, labels: Sequence[str]) -> list[str]:
    """The classes of a model and those that were trained."""
    vocabulary = Vocabulary(before.labels)
    return [*before.labels, *(label for label in labels if vocabulary.find(label) is None)]


def keep_other_classes(model: CedForAudioClassification, before: Head) -> None:
    """Adds the rows of the classes that the model had before training to the trained ones."""
    trained = head_of(model)
    weight, bias, labels = before.weight.clone(), before.bias.clone(), list(before.labels)
    vocabulary = Vocabulary(labels)
    for index, label in enumerate(trained.labels):
        row = vocabulary.find(label)
        if row is None:
            labels.append(label)
            weight = torch.cat([weight, trained.weight[index : index + 1]])
            bias = torch.cat([bias, trained.bias[index : index + 1]])
        else:
            weight[row], bias[row] = trained.weight[index], trained.bias[index]
    set_head(model, Head(weight, bias, labels))


def choose_trained(model: CedForAudioClassification, options: FinetuningOptions) -> Any:
    """
    Freezes the rest of the model, and adds LoRA adapters if requested.

    Returns:
        The model, or a `peft.PeftModel` around it.

    Raises:
        ValueError: if the model has fewer blocks than requested.
        ImportError: if LoRA is requested and peft is not installed.
    """
    depth = len(model.encoder.blocks)
    k = depth if options.num_blocks is None else options.num_blocks
    if k > depth:
        raise OptionError("train", options.train, f"at most last:{depth}, the blocks that the encoder has")
    if options.lora is not None:
        return _add_lora(model, options.lora, range(depth - k, depth), options.seed)
    if options.train == "all":
        # Batches of few clips would change its statistics too much for the trained weights.
        model.encoder.init_bn.requires_grad_(False)
        return model
    model.freeze_base_model()
    if options.keep_classes:
        model.outputlayer[0].requires_grad_(False)  # this LayerNorm is shared by all classes
    if options.train != "head":
        model.encoder.blocks[depth - k :].requires_grad_(True)
        model.encoder.norm.requires_grad_(True)
    return model


def _add_lora(model: CedForAudioClassification, rank: int, blocks: Iterable[int], seed: int) -> Any:
    numbers = "|".join(map(str, blocks))
    try:
        import peft

        config = peft.LoraConfig(
            r=rank,
            lora_alpha=2 * rank,
            target_modules=rf"encoder\.blocks\.({numbers})\.(attn\.(qkv|proj)|mlp\.fc[12])",
            modules_to_save=["outputlayer"],
        )
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # names that transformers has changed
            torch.manual_seed(seed)
            # Not transformers' `add_adapter`, which rejects some versions of PEFT that work.
            return peft.get_peft_model(model, config)
    except (ImportError, AttributeError, TypeError, ValueError) as error:  # incompatible versions
        raise ImportError(
            f"LoRA: peft {version('peft')} does not work with transformers {version('transformers')}"
            f" ({one_line(error)}): pip install --upgrade peft transformers"
        ) from error


def count_trained(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def describe_trained(options: FinetuningOptions) -> str:
    where = "all blocks" if options.num_blocks is None else f"the last {options.num_blocks} blocks"
    if options.lora is not None:
        return f"the head and LoRA adapters of rank {options.lora} in {where}"
    if options.train == "head":
        return "the head"
    return "all but the input statistics" if options.num_blocks is None else f"the head and {where}"
