"""zoo.load on folders as users have them, whole and damaged; and zoo.wrap."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import zoo
from zoo.errors import CheckpointError, PluginError, QuantizationError, UnknownNameError, ZooError
from zoo.plugin import hooks
from zoo.storage.atomic import digest


class Tiny(nn.Module):
    """Tied weights, persistent and other buffers, running means: (n, 8) ids → (n, 8, 10)."""

    def __init__(self, width: int = 64, tie: bool = True) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, width)
        self.conv = nn.Conv1d(width, width, 3, padding=1)
        self.bn = nn.BatchNorm1d(width)
        self.fc = nn.Linear(width, width)
        self.head = nn.Linear(width, 10, bias=False)
        if tie:
            self.head.weight = self.embed.weight
        self.register_buffer("places", torch.arange(8), persistent=False)
        self.register_buffer("shift", torch.zeros(width))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed((ids + self.places) % 10)
        x = self.bn(self.conv(x.transpose(1, 2))).transpose(1, 2) + self.shift
        return self.head(torch.tanh(self.fc(x)))


def fresh(**config: Any) -> Tiny:
    module = Tiny(**config)
    with torch.no_grad():
        for tensor in (*module.parameters(), *(b for b in module.buffers() if b.is_floating_point())):
            tensor.copy_(torch.randn_like(tensor) * 0.2)
        module.bn.running_var.abs_().add_(0.5)
    return module.eval()


@pytest.fixture(autouse=True)
def tiny_plugin() -> Iterator[None]:
    """Register an architecture "tiny" in this process."""
    plugin = ModuleType("zoo_tiny")

    @zoo.hookimpl
    def construct(entry: zoo.Entry) -> nn.Module:
        module = Tiny(**{key: value for key, value in entry.config.items() if key in ("width", "tie")})
        if entry.config.get("tie", True):
            module.head.weight = module.embed.weight
        return module

    plugin.construct = construct  # type: ignore[attr-defined]
    hooks.reset()
    hooks.register(plugin, "tiny")
    yield
    hooks.reset()


@pytest.fixture
def open_(monkeypatch: pytest.MonkeyPatch) -> Callable[..., zoo.Model]:
    """Return open_(folder, …): `zoo.load` of a folder that the tiny plugin recognises."""
    from zoo.loading import resolve

    monkeypatch.setattr(resolve, "_recognised", lambda name, config: "tiny")

    def load(folder: Path, **options: Any) -> zoo.Model:
        return zoo.load(str(folder), device=options.pop("device", "cpu"), **options)

    return load


@pytest.fixture
def module() -> Tiny:
    return fresh()


@pytest.fixture
def ids() -> Tensor:
    return torch.randint(0, 10, (3, 8))


def state(module: nn.Module) -> dict[str, Tensor]:
    """Return the content of a checkpoint: tied weights once."""
    return {name: tensor.clone() for name, tensor in module.state_dict().items() if name != "head.weight"}


def put(folder: Path, tensors: dict[str, Tensor], shards: int = 0, **config: Any) -> Path:
    """Write a folder with config.json and the tensors, in one safetensors file or several."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if not shards:
        save_file(tensors, folder / "model.safetensors")
        return folder
    names, index = sorted(tensors), {}
    for number in range(shards):
        shard = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        save_file({name: tensors[name] for name in names[number::shards]}, folder / shard)
        index |= dict.fromkeys(names[number::shards], shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return folder


@torch.no_grad()
def out(module: Any, ids: Tensor) -> Tensor:
    return module(ids)


def real(model: zoo.Model) -> bool:
    return not any(t.is_meta for t in (*model.module.parameters(), *model.module.buffers()))


@pytest.mark.parametrize("shards", [0, 3])
def test_safetensors_single_and_sharded(
    shards: int, module: Tiny, ids: Tensor, tmp_path: Path, open_: Callable[..., zoo.Model]
) -> None:
    model = open_(put(tmp_path / "m", state(module), shards))
    assert torch.equal(out(model, ids), out(module, ids))
    assert real(model)
    assert not model.module.training
    assert model.module.head.weight is model.module.embed.weight
    assert torch.equal(model.module.bn.running_mean, module.bn.running_mean)
    assert torch.equal(model.module.places, torch.arange(8))
    assert model.entry.plugin == "tiny"


def test_a_tied_weight_may_be_stored_under_either_name_or_both(
    module: Tiny, ids: Tensor, tmp_path: Path, open_: Callable[..., zoo.Model]
) -> None:
    tensors = state(module)
    prints = set()
    other = {("head.weight" if name == "embed.weight" else name): tensor for name, tensor in tensors.items()}
    for number, variant in enumerate((tensors, other, {**tensors, **other})):
        for bits in (None, 4):
            model = open_(put(tmp_path / str(number), {k: v.clone() for k, v in variant.items()}), bits=bits)
            assert model.module.head.weight is model.module.embed.weight
            prints.add(model.fingerprint)
            if bits is None:
                assert torch.equal(out(model, ids), out(module, ids))
    assert len(prints) == 1


def test_parameters_that_are_shared_in_any_way_stay_shared_on_meta() -> None:
    from zoo.loading.load import meta_parameters

    shared = nn.Parameter(torch.randn(3, 3), requires_grad=False)
    with meta_parameters():
        made = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3), nn.BatchNorm1d(3))
        made[0].weight = made[1].weight = shared  # the same object twice
        made[2].weight = made[0].weight  # of the parameter
    assert made[0].weight is made[1].weight is made[2].weight
    assert all(parameter.is_meta for parameter in made.parameters())
    assert not made[0].weight.requires_grad
    assert made[0].bias.requires_grad
    assert not any(buffer.is_meta for buffer in made.buffers())
    assert not nn.Linear(2, 2).weight.is_meta


def test_two_tied_weights_that_differ_are_refused(
    module: Tiny, tmp_path: Path, open_: Callable[..., zoo.Model]
) -> None:
    folder = put(tmp_path / "m", {**state(module), "head.weight": module.embed.weight.detach() + 1})
    with pytest.raises(CheckpointError, match=r"head\.weight and embed\.weight are one weight .* two that differ"):
        open_(folder)
    assert open_(put(tmp_path / "m", load_file(folder / "model.safetensors"), tie=False)).footprint().parameters


@pytest.mark.parametrize("legacy", [False, True])
def test_a_bin_file_is_read_without_running_it(
    legacy: bool, module: Tiny, ids: Tensor, tmp_path: Path, open_: Callable[..., zoo.Model]
) -> None:
    folder = put(tmp_path / "m", {})
    (folder / "model.safetensors").unlink()
    torch.save(state(module), folder / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
    assert torch.equal(out(open_(folder), ids), out(module, ids))


@pytest.mark.parametrize("how", ["torch", "legacy", "pickle"])
def test_a_payload_in_a_bin_file_does_not_run(
    how: str, module: Tiny, tmp_path: Path, open_: Callable[..., zoo.Model]
) -> None:
    class Payload:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "ran",)

    folder = put(tmp_path / "m", {})
    (folder / "model.safetensors").unlink()
    content = {**state(module), "more": Payload()}
    if how == "pickle":
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, folder / "pytorch_model.bin", _use_new_zipfile_serialization=how == "torch")
    with pytest.raises(
        CheckpointError, match=r"pytorch_model\.bin: asks to run \S+, and zoo executes nothing"
    ) as caught:
        open_(folder)
    assert not (tmp_path / "ran").exists()
    assert "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value)  # torch's message advises to run it


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04" + bytes(100), pickle.dumps([1, 2], protocol=2)])
def test_a_bin_file_that_is_none(content: bytes, tmp_path: Path, open_: Callable[..., zoo.Model]) -> None:
    folder = put(tmp_path / "m", {})
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin") as caught:
        open_(folder)
    assert "\n" not in str(caught.value)


def refused(load: Callable[..., Any], match: str, error: type[ZooError] = CheckpointError) -> None:
    with pytest.raises(error, match=match) as caught:
        load()
    assert "\n" not in str(caught.value)


def test_a_missing_shard_is_named(module: Tiny, tmp_path: Path, open_: Callable[..., zoo.Model]) -> None:
    folder = put(tmp_path / "m", state(module), 3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    refused(lambda: open_(folder), r"3 shards, of which 1 are missing: model-00002-of-00003\.safetensors")


def test_a_tensor_that_the_index_promises_and_no_shard_holds(
    module: Tiny, tmp_path: Path, open_: Callable[..., zoo.Model]
) -> None:
    tensors = state(module)
    folder = put(tmp_path / "m", tensors, 2)
    shard = next(path for path in sorted(folder.glob("*.safetensors")) if "fc.weight" in load_file(path))
    save_file({name: tensor for name, tensor in load_file(shard).items() if name != "fc.weight"}, shard)
    refused(lambda: open_(folder), r"the checkpoint lacks 1 \(fc\.weight\)")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', '{"weight_map": {"a": "../b"}}']
)
def test_an_index_that_is_none(text: str, module: Tiny, tmp_path: Path, open_: Callable[..., zoo.Model]) -> None:
    folder = put(tmp_path / "m", state(module), 2)
    (folder / "model.safetensors.index.json").write_text(text)
    refused(lambda: open_(folder), r"model\.safetensors\.index\.json")


@pytest.mark.parametrize("size", [0, 7, 100, -1, -1000])
def test_a_truncated_file(size: int, module: Tiny, tmp_path: Path, open_: Callable[..., zoo.Model]) -> None:
    path = put(tmp_path / "m", state(module)) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    refused(lambda: open_(path.parent), r"model\.safetensors: damaged or no safetensors file")


def test_a_flipped_bit_in_the_header(module: Tiny, tmp_path: Path, open_: Callable[..., zoo.Model]) -> None:
    path = put(tmp_path / "m", state(module)) / "model.safetensors"
    good = path.read_bytes()
    for place in (0, 7, 8, good.index(b"F32"), good.index(b"embed.weight"), good.index(b"data_offsets") + 16):
        data = bytearray(good)
        data[place] ^= 2
        path.write_bytes(data)
        refused(lambda: open_(path.parent), r"damaged|lacks|unexpected|shape")


def test_a_flipped_bit_in_the_body_is_seen_where_there_are_digests(
    module: Tiny, tmp_path: Path, open_: Callable[..., zoo.Model]
) -> None:
    folder = put(tmp_path / "m", state(module), 2)
    shards = sorted(folder.glob("*.safetensors"))
    (folder / "SHA256SUMS").write_text("".join(f"{digest(path)}  {path.name}\n" for path in shards))
    open_(folder)
    data = bytearray(shards[1].read_bytes())
    data[-3] ^= 1
    shards[1].write_bytes(data)
    refused(lambda: open_(folder), rf"{shards[1].name}: damaged, its sha256 is not the one in SHA256SUMS")
    (folder / "SHA256SUMS").write_text(f"{digest(shards[0])}  {shards[0].name}\n")
    refused(lambda: open_(folder), rf"does not list {shards[1].name}")
    (folder / "SHA256SUMS").write_bytes(b"\xff\xfe what\n")
    refused(lambda: open_(folder), "expected lines as sha256sum writes them")


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_cannot_be_quantized(
    bits: int, value: float, module: Tiny, tmp_path: Path, open_: Callable[..., zoo.Model]
) -> None:
    tensors = state(module)
    tensors["fc.weight"][3, 4] = value
    folder = put(tmp_path / "m", tensors)
    refused(lambda: open_(folder, bits=bits), r"fc\.weight: .*NaN or Inf", QuantizationError)
    assert open_(folder).footprint().quantized_share == 0


def test_a_wrong_shape_is_named(module: Tiny, tmp_path: Path, open_: Callable[..., zoo.Model]) -> None:
    for name, shape in (("fc.weight", (64, 63)), ("shift", (3,)), ("bn.running_mean", (1,))):
        folder = put(tmp_path / "m", {**state(module), name: torch.zeros(shape)})
        refused(lambda: open_(folder), rf"{name} has shape \({str(shape)[1:-1]}\) in the checkpoint, expected \(64")  # noqa: B023


def test_missing_and_unexpected_tensors_are_named(
    module: Tiny, tmp_path: Path, open_: Callable[..., zoo.Model]
) -> None:
    tensors = state(module)
    del tensors["conv.bias"], tensors["bn.running_var"]
    refused(lambda: open_(put(tmp_path / "m", tensors)), r"lacks 2 \(bn\.running_var, conv\.bias\)")
    tensors = {**state(module), "extra.weight": torch.zeros(3)}
    refused(lambda: open_(put(tmp_path / "m", tensors)), r"has unexpected 1 \(extra\.weight\)")
    many = {f"layers.{n}.weight": torch.zeros(1) for n in range(9)}
    refused(lambda: open_(put(tmp_path / "m", many)), r"lacks \d+ \(\S+, \S+, \S+, …\) and has unexpected 9 \(")


def test_a_folder_without_weights_or_with_too_many(
    module: Tiny, tmp_path: Path, open_: Callable[..., zoo.Model]
) -> None:
    folder = put(tmp_path / "m", state(module))
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    assert open_(folder).fingerprint
    save_file(state(module), folder / "b.safetensors")
    refused(lambda: open_(folder), r"expected one safetensors file .* found a\.safetensors, b\.safetensors")
    for path in folder.glob("*.safetensors"):
        path.unlink()
    refused(lambda: open_(folder), "no weights, expected model.safetensors")


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
    from zoo.loading.stream import fill_meta, meta_parameters
    from zoo.weights.walk import index_module

    entry = zoo.Entry("kept", "tiny", keep=("fc", "head"))
    with meta_parameters():
        made = hooks.construct(entry)
    fill_meta(index_module(made), entry, zoo.Quantization(4), torch.float32)
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


# Mistakes of plugins


def plugin(**functions: Any) -> zoo.Entry:
    made = ModuleType("zoo_other")
    for name, hook in functions.items():
        setattr(made, name, zoo.hookimpl(hook))
    hooks.reset()
    hooks.register(made, "tiny")
    return zoo.Entry("other", "tiny")


def test_a_buffer_that_a_plugin_leaves_on_meta_is_named(
    module: Tiny, tmp_path: Path, open_: Callable[..., zoo.Model]
) -> None:
    def construct(entry: zoo.Entry) -> nn.Module:
        made = Tiny()
        made.places = torch.arange(8, device="meta")
        return made

    plugin(construct=construct)
    with pytest.raises(CheckpointError, match=r"places was never filled"):
        open_(put(tmp_path / "m", {**state(module), "head.weight": module.head.weight.detach()}))


def test_a_quantizer_of_another_shape_and_a_tensor_that_is_to_stay(
    module: Tiny, tmp_path: Path, open_: Callable[..., zoo.Model]
) -> None:
    from zoo.weights.codecs import pack

    def quantize(name: str, weight: Tensor, scheme: zoo.Quantization) -> Any:
        if name == "conv.weight":
            return weight
        return pack(weight[1:], scheme) if name == "fc.weight" else None

    folder = put(tmp_path / "m", state(module))
    plugin(construct=lambda entry: Tiny(tie=False), quantize=quantize)
    save_file({**state(module), "head.weight": module.head.weight.detach().clone()}, folder / "model.safetensors")
    with pytest.raises(
        QuantizationError, match=r"fc\.weight: its quantizer returned shape \(63, 64\), expected \(64, 64\)"
    ):
        open_(folder, bits=4)


def test_a_checkpoint_hook_that_gives_nonsense(module: Tiny, tmp_path: Path, open_: Callable[..., zoo.Model]) -> None:
    folder = put(tmp_path / "m", state(module))
    plugin(construct=lambda entry: Tiny(), checkpoint=lambda entry: [("a", 3)])
    with pytest.raises(PluginError, match="checkpoint"):
        open_(folder)


# zoo.wrap


def test_wrap_leaves_the_module_as_it_was_when_it_refuses(module: Tiny, ids: Tensor) -> None:
    before, names = out(module, ids), [(n, id(p), p.requires_grad) for n, p in module.named_parameters()]
    for options in (
        {"bits": 3},
        {"lora": zoo.LoRA(targets=["nothing"])},
        {"bits": 4, "lora": {"a": 2, "b": 0}},
        {"bits": 4, "lora": "/nowhere/at/all"},
        {"bits": 4, "lora": {"a": 2, "b.c": 2}},
    ):
        with pytest.raises(ZooError):
            zoo.wrap(module, **options)
        assert [(n, id(p), p.requires_grad) for n, p in module.named_parameters()] == names
        assert torch.equal(out(module, ids), before)
        assert "get_parameter" not in vars(module)


def test_wrap_takes_modules_once(module: Tiny) -> None:
    for wrong in (3, Tiny, {"a": module}, module.fc.weight):
        with pytest.raises(ZooError, match=r"expected a torch\.nn\.Module"):
            zoo.wrap(wrong)  # type: ignore[arg-type]
    zoo.wrap(module, lora=2)
    for options in ({}, {"bits": 4}, {"lora": 2}):
        with pytest.raises(ZooError, match="managed already"):
            zoo.wrap(module, **options)  # type: ignore[arg-type]


def test_wrap_says_what_needs_a_plugin(module: Tiny) -> None:
    model = zoo.wrap(module, lora=2)
    for verb in (lambda: model.sample(), lambda: model.loss(None), lambda: model.evaluate()):
        with pytest.raises(PluginError, match="has no plugin"):
            verb()


def test_wrap_of_a_module_without_weights() -> None:
    model = zoo.wrap(nn.ReLU(), bits=4)
    assert model.footprint().parameters == 0
    with pytest.raises(zoo.AdapterError, match="matches no weight"):
        model.add_adapter("a", 2)


def test_frozen_parameters_stay_frozen_and_others_train_again(module: Tiny) -> None:
    module.fc.requires_grad_(False)
    trains = {name: parameter.requires_grad for name, parameter in module.named_parameters()}
    for bits in (None, 4, 16):
        model = zoo.wrap(copy.deepcopy(module), bits=bits, lora=2)
        assert all("updates" in name for name, _ in model.trainable_parameters())
        plain = model.unload()
        assert {name: parameter.requires_grad for name, parameter in plain.named_parameters()} == trains


# The plugins that come with zoo


def test_gpt_loads_as_transformers_does(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    hooks.reset()
    sizes = {"n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 16, "vocab_size": 90, "bos_token_id": 0}
    made = GPT2LMHeadModel(GPT2Config(**sizes, eos_token_id=0)).eval()
    ids = torch.randint(0, 90, (2, 9))
    for number, size in enumerate(("1GB", "60KB")):
        made.save_pretrained(tmp_path / str(number), max_shard_size=size)
        theirs = GPT2LMHeadModel.from_pretrained(tmp_path / str(number)).eval()
        ours = zoo.load(str(tmp_path / str(number)), device="cpu")
        with torch.no_grad():
            assert torch.equal(ours(ids).logits, theirs(ids).logits)
            assert torch.equal(ours(ids).logits, made(ids).logits)
    assert len(list((tmp_path / "1").glob("*.safetensors"))) > 2
    assert zoo.load(str(tmp_path / "1"), device="cpu", bits=4).footprint().quantized_share > 0.95


def test_ddpm_loads_as_diffusers_does(tmp_path: Path) -> None:
    from diffusers import UNet2DModel

    hooks.reset()
    made = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    ).eval()
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([3, 900])
    for number, options in enumerate(({}, {"max_shard_size": "200KB"}, {"safe_serialization": False})):
        folder = tmp_path / str(number)
        made.save_pretrained(folder, **options)
        theirs = UNet2DModel.from_pretrained(folder).eval()
        ours = zoo.load(str(folder), device="cpu")
        with torch.no_grad():
            assert torch.equal(ours(x, t).sample, theirs(x, t).sample)
            assert torch.equal(ours(x, t).sample, made(x, t).sample)
    assert len(list((tmp_path / "1").glob("*.safetensors"))) > 2


def test_loading_does_not_hold_on_to_the_file(
    module: Tiny, ids: Tensor, tmp_path: Path, open_: Callable[..., zoo.Model]
) -> None:
    folder = put(tmp_path / "m", state(module))
    model = open_(folder)
    path = folder / "model.safetensors"
    path.write_bytes(bytes(path.stat().st_size))
    start = time.perf_counter()
    assert torch.equal(out(model, ids), out(module, ids))
    assert time.perf_counter() - start < 5
