"""The arguments of `zoo.load`: precision, dtype, device, seed, adapters and names."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import zoo
from zoo.errors import QuantizationError, UnknownNameError, ZooError
from zoo.plugin import hooks

from .tiny import Tiny, out, put, refused, state

pytestmark = pytest.mark.usefixtures("tiny_plugin")


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("bits", [None, 4, 8, 16, 32])
def test_every_precision_of_the_file_in_every_precision_of_the_model(
    stored: torch.dtype, bits: int | None, module: Tiny, ids: Tensor, tmp_path: Path, open_: Callable[..., zoo.Model]
) -> None:
    tensors = {k: v.to(stored) if v.is_floating_point() else v for k, v in state(module).items()}
    module.load_state_dict({**tensors, "head.weight": tensors["embed.weight"]})
    folder = put(tmp_path / "m", tensors)
    model = open_(folder, bits=bits)
    assert model.dtype == torch.float32
    exact = bits in (None, 32) or (bits == 16 and stored == torch.bfloat16)
    if exact:
        assert torch.equal(out(model, ids), out(module, ids))
    dense = model.state_dict()
    for name in ("embed.weight", "conv.weight", "fc.weight"):
        error = (dense[name] - module.state_dict()[name]).norm() / module.state_dict()[name].norm()
        assert error == 0 if exact else error < {4: 0.12, 8: 0.012, 16: 0.004}[bits], name
    sizes = {info.name: info.bits for info in model.weights()}
    expected = {None: 32, 4: 4.5, 8: 9, 16: 16, 32: 32}[bits]
    assert sizes["fc.weight"] <= expected
    assert {info.dtype for info in model.weights()} == {torch.float32}


@pytest.mark.parametrize("dtype", ["bfloat16", torch.float16, "float64"])
@pytest.mark.parametrize("bits", [None, 4, 16])
def test_the_type_to_compute_in(
    dtype: Any, bits: int | None, module: Tiny, ids: Tensor, tmp_path: Path, open_: Callable[..., zoo.Model]
) -> None:
    model = open_(put(tmp_path / "m", state(module)), dtype=dtype, bits=bits, lora=2)
    wanted = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    assert model.dtype == wanted
    result = out(model, ids)
    assert result.dtype == wanted
    assert (result.double() - out(module, ids)).norm() < 0.3 * out(module, ids).norm()
    assert model.module.bn.running_mean.dtype == wanted
    assert model.module.places.dtype == torch.int64


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "int8", torch.int64, "nonsense", 32, "nn", torch.complex64])
def test_types_that_nothing_computes_in(dtype: Any, tmp_path: Path, open_: Callable[..., zoo.Model]) -> None:
    refused(lambda: open_(tmp_path, dtype=dtype), "dtype .*: expected one of float32, bfloat16", ZooError)


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "xpu", "cpu:x", "", 3.5, "vulkan"])
def test_devices_that_are_not_there(device: Any, tmp_path: Path, open_: Callable[..., zoo.Model]) -> None:
    refused(lambda: open_(tmp_path, device=device), "device ", ZooError)


@pytest.mark.parametrize("bits", [0, 3, 5, 7, 64, "4", 4.0, True])
def test_bits_that_there_are_not(bits: Any, tmp_path: Path, open_: Callable[..., zoo.Model]) -> None:
    refused(lambda: open_(tmp_path, bits=bits), "bits", QuantizationError)


def test_on_meta_there_are_no_weights_and_the_footprint_is_the_same(
    module: Tiny, tmp_path: Path, open_: Callable[..., zoo.Model]
) -> None:
    folder = put(tmp_path / "m", state(module))
    for bits in (None, 4, 8, 16):
        meta, model = (open_(folder, device=device, bits=bits, lora=3) for device in ("meta", "cpu"))
        assert meta.footprint() == model.footprint()
        assert all(parameter.is_meta for parameter in meta.module.parameters())
    with pytest.raises(ZooError, match="meta"):
        meta.save(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_the_entry_keeps_stays_in_full_precision(module: Tiny, tmp_path: Path) -> None:
    from zoo.loading.empty import meta_parameters
    from zoo.loading.stream import fill_meta
    from zoo.plugin.plan import plan
    from zoo.weights.walk import index_module

    entry = zoo.Entry("kept", "tiny", keep=("fc", "head"))
    with meta_parameters():
        made = hooks.construct(entry)
    index = index_module(made)
    fill_meta(index, entry, plan(entry, index.groups, zoo.Quantization(4, mixed=False)), torch.float32)
    from zoo.weights.footprint import weights

    bits = {info.name: info.bits for info in weights(made)}
    assert bits["fc.weight"] == bits["embed.weight"] == 32  # embed.weight is head.weight
    assert bits["conv.weight"] < 5


def test_the_seed_decides_the_adapters_start(module: Tiny, tmp_path: Path, open_: Callable[..., zoo.Model]) -> None:
    folder = put(tmp_path / "m", state(module))

    def factors(seed: int | None) -> list[Tensor]:
        return [parameter.detach() for _, parameter in open_(folder, lora=2, seed=seed).trainable_parameters()]

    before = torch.random.get_rng_state()
    assert all(torch.equal(one, other) for one, other in zip(factors(7), factors(7), strict=True))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not all(torch.equal(one, other) for one, other in zip(factors(7), factors(8), strict=True))
    assert not all(torch.equal(one, other) for one, other in zip(factors(None), factors(None), strict=True))


def test_adapters_by_rank_configuration_folder_and_by_name(
    module: Tiny, ids: Tensor, tmp_path: Path, open_: Callable[..., zoo.Model]
) -> None:
    folder = put(tmp_path / "m", state(module))
    first = open_(folder, lora=zoo.LoRA(rank=3, targets=["fc"]), bits=4)
    with torch.no_grad():
        for _, parameter in first.trainable_parameters():
            parameter.add_(0.1)
    first.save_adapter(tmp_path / "a")
    several = open_(folder, bits=4, lora={"one": tmp_path / "a", "two": 2, "three": zoo.LoRA(targets=["conv"])})
    assert several.active == ("one", "two", "three")
    torch.testing.assert_close(out(several, ids), out(first, ids))  # two of them are new and have no effect yet
    assert torch.equal(out(open_(folder, bits=4, lora=str(tmp_path / "a")), ids), out(first, ids))
    refused(lambda: open_(folder, lora={"good": 2, "bad one": 2}), "adapter name", zoo.AdapterError)
    refused(lambda: open_(folder, lora=tmp_path / "none"), "expected a folder that exists", zoo.AdapterError)


def test_unknown_names_suggest_near_ones() -> None:
    refused(lambda: zoo.load("dpm"), r"no model 'dpm' in the registry\. Did you mean 'ddpm'", UnknownNameError)
    refused(lambda: zoo.load("./nowhere"), r"expected a folder that exists", UnknownNameError)


@pytest.mark.slow
def test_an_unreachable_hub_is_one_error_and_soon(tmp_path: Path) -> None:
    code = """
        import time, zoo
        for name in ("someone/some-model", "someone/other@.."):
            start = time.perf_counter()
            try:
                zoo.load(name, device="cpu")
            except zoo.ZooError as error:
                print(type(error).__name__, round(time.perf_counter() - start, 1), error)
        try:
            zoo.wrap(__import__("torch").nn.Linear(2, 2), lora="someone/adapter")
        except zoo.HubError as error:
            print(type(error).__name__, 0, error)
    """
    import os
    import textwrap

    hub = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "*"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, **hub},
        capture_output=True,
        text=True,
        timeout=60,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 3, done.stdout + done.stderr
    for line, kind in zip(lines, ("HubError", "UnknownNameError", "HubError"), strict=True):
        assert line.startswith(kind)
        assert float(line.split()[1]) < 15
    assert "could not be reached" in lines[0]
    assert "Traceback" not in done.stderr
