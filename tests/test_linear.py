# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The linear layers by oneDNN: the same numbers as PyTorch's own, and only where nobody can notice."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ced_model import CedConfig, CedForAudioClassification, modeling_ced

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch was built without oneDNN")

LAYERS = 2


@pytest.fixture
def model() -> CedForAudioClassification:
    torch.manual_seed(0)
    config = CedConfig(embed_dim=64, depth=LAYERS, num_heads=2, num_labels=5)
    return CedForAudioClassification(config).eval()


@pytest.fixture
def log_mels() -> torch.Tensor:
    return 10 * torch.randn(4, 64, 1000, generator=torch.Generator().manual_seed(0)) - 30


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[torch.Tensor]]:
    """The weights of the layers that oneDNN computed, on any processor."""
    weights: list[torch.Tensor] = []
    original = modeling_ced.onednn_linear

    def record(values: torch.Tensor, weight: torch.Tensor, *args: Any) -> torch.Tensor:
        weights.append(weight)
        return original(values, weight, *args)

    monkeypatch.setattr(modeling_ced, "onednn_linear", record)
    monkeypatch.setattr(modeling_ced, "has_fast_linear", lambda: True)
    yield weights


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("scale", [1.0, 30.0])  # GELU's tails, too
def test_the_same_numbers(
    context: Any, scale: float, model: CedForAudioClassification, log_mels: torch.Tensor, calls: list[torch.Tensor]
) -> None:
    with torch.no_grad():
        for block in model.encoder.blocks:
            block.mlp.fc1.weight.mul_(scale)
    expected = model(log_mels).logits.detach()
    assert not calls  # not with gradients
    with context():
        found = model(log_mels).logits
    assert len(calls) == 4 * LAYERS
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_changed_weights_count_at_once(
    model: CedForAudioClassification, log_mels: torch.Tensor, calls: list[torch.Tensor]
) -> None:
    with torch.no_grad():
        before = model(log_mels).logits
        model.encoder.blocks[0].mlp.fc2.weight.normal_()
        after = model(log_mels).logits
    assert len(calls) == 8 * LAYERS and not torch.allclose(before, after)
    torch.testing.assert_close(after, model(log_mels).logits.detach(), atol=1e-5, rtol=1e-5)


def hook_a_layer(model: CedForAudioClassification) -> None:
    model.encoder.blocks[0].mlp.fc1.register_forward_hook(lambda module, inputs, output: 2 * output)


def hook_the_activation(model: CedForAudioClassification) -> None:
    model.encoder.blocks[0].mlp.act.register_forward_hook(lambda module, inputs, output: 2 * output)


def change_the_activations_input(model: CedForAudioClassification) -> None:
    model.encoder.blocks[0].mlp.act.register_forward_pre_hook(lambda module, inputs: (2 * inputs[0],))


def approximate_the_activation(model: CedForAudioClassification) -> None:
    with torch.no_grad():
        model.encoder.blocks[0].mlp.fc1.weight.mul_(30)  # so that the two kinds of GELU differ
    model.encoder.blocks[0].mlp.act = nn.GELU("tanh")


def change_a_layers_input(model: CedForAudioClassification) -> None:
    model.encoder.blocks[0].attn.qkv.register_forward_pre_hook(lambda module, inputs: (2 * inputs[0],))


def replace_a_forward(model: CedForAudioClassification) -> None:
    layer = model.encoder.blocks[0].mlp.fc2
    layer.forward = lambda values: 2 * nn.functional.linear(values, layer.weight, layer.bias)


def replace_a_layer(model: CedForAudioClassification) -> None:
    class Doubled(nn.Linear):
        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(values)

    model.encoder.blocks[0].attn.proj = Doubled(64, 64)


def replace_the_activation(model: CedForAudioClassification) -> None:
    model.encoder.blocks[0].mlp.act = nn.ReLU()


@pytest.mark.parametrize(
    "change",
    [
        hook_a_layer,
        hook_the_activation,
        change_the_activations_input,
        approximate_the_activation,
        change_a_layers_input,
        replace_a_forward,
        replace_a_layer,
        replace_the_activation,
    ],
)
def test_hooks_and_other_layers_keep_their_say(
    change: Callable[[CedForAudioClassification], None],
    model: CedForAudioClassification,
    log_mels: torch.Tensor,
    calls: list[torch.Tensor],
) -> None:
    with torch.no_grad():
        before = model(log_mels).logits
        change(model)
        calls.clear()
        found = model(log_mels).logits
    assert len(calls) == 4 * LAYERS - 1
    torch.testing.assert_close(found, model(log_mels).logits.detach(), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found, before)


def test_short_inputs_other_types_and_autocast_are_pytorchs_own(
    model: CedForAudioClassification, log_mels: torch.Tensor, calls: list[torch.Tensor]
) -> None:
    with torch.no_grad():
        model(log_mels[:1, :, :100])
        with torch.autocast("cpu", torch.bfloat16):
            model(log_mels)
        model.to(torch.bfloat16)(log_mels)
    assert not calls


@torch.no_grad()
def test_graphs_hold_none_of_it(
    model: CedForAudioClassification, log_mels: torch.Tensor, calls: list[torch.Tensor]
) -> None:
    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return self.model(values).logits

    expected = model(log_mels).logits
    calls.clear()
    for make in (
        lambda: torch.export.export(Logits(), (log_mels,)).module(),
        lambda: torch.jit.trace(Logits(), log_mels, check_trace=False),
        lambda: torch.compile(Logits(), backend="eager", fullgraph=True),
    ):
        torch.testing.assert_close(make()(log_mels), expected, atol=1e-5, rtol=1e-5)
        assert not calls


def test_hooks_of_all_modules_see_every_layer(
    model: CedForAudioClassification, log_mels: torch.Tensor, calls: list[torch.Tensor]
) -> None:
    seen: list[nn.Module] = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, inputs, output: seen.append(module))
    try:
        with torch.no_grad():
            model(log_mels)
    finally:
        handle.remove()
    assert not calls and sum(type(module) is nn.Linear for module in seen) == 4 * LAYERS + 1


def test_pytorchs_own_switch_is_heard(
    model: CedForAudioClassification, log_mels: torch.Tensor, calls: list[torch.Tensor]
) -> None:
    with torch.no_grad(), torch.backends.mkldnn.flags(enabled=False):
        model(log_mels)
    assert not calls


def test_forward_mode_differentiation_is_right(
    model: CedForAudioClassification, log_mels: torch.Tensor, calls: list[torch.Tensor]
) -> None:
    model.set_attn_implementation("eager")
    direction = torch.randn(log_mels.shape, generator=torch.Generator().manual_seed(1))
    logits = lambda values: model(values).logits  # noqa: E731
    _, expected = torch.func.jvp(logits, (log_mels,), (direction,))
    with torch.no_grad():
        _, found = torch.func.jvp(logits, (log_mels,), (direction,))
        vectorised = torch.func.vmap(lambda values: model(values[None]).logits[0])(log_mels)
    assert not calls
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(vectorised, model(log_mels).logits.detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16])
def test_defaults_of_the_first_call_do_not_matter(default: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    modeling_ced.has_fast_linear.cache_clear()
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        with torch.device("meta"):
            assert modeling_ced.has_fast_linear()
    finally:
        torch.set_default_dtype(before)
        modeling_ced.has_fast_linear.cache_clear()


def test_operations_are_counted(model: CedForAudioClassification, log_mels: torch.Tensor) -> None:
    counts = []
    for context in (torch.enable_grad, torch.no_grad):
        with context(), FlopCounterMode(display=False) as counter:
            model(log_mels)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize("error", [AttributeError, RuntimeError, TypeError])
def test_another_pytorch_without_the_operator(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> torch.Tensor:
        raise error("no such operator")

    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(modeling_ced, "onednn_linear", fail)
    modeling_ced.has_fast_linear.cache_clear()
    assert not modeling_ced.has_fast_linear()
    monkeypatch.setattr(modeling_ced, "onednn_linear", lambda *args: nn.functional.linear(*args[:3]))
    modeling_ced.has_fast_linear.cache_clear()
    assert not modeling_ced.has_fast_linear()  # it gives something else
    monkeypatch.undo()
    modeling_ced.has_fast_linear.cache_clear()
