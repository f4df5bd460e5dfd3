"""What a CUDA graph needs of the managed modules of all architectures: no value read on the host, one whole graph."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode
from torch.nn.utils.stateless import _reparametrize_module
from torch.utils import _pytree as pytree

import zoo
from zoo.weights import kernels
from zoo.weights.triton import paths

NAMES = ["ddpm", "gpt", "bert", "vit", "stylegan", "vae", "gat"]
Call = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]


class Seen(Exception):
    """The module was called."""


def called(name: str, bits: int) -> Call:
    """Return the module, or the part of it that a loss calls first, and what it is called with."""
    model = zoo.load(name, bits=bits, lora=4, device="cpu")
    for _, factor in model.trainable_parameters():
        nn.init.normal_(factor, std=0.02)
    found: list[Call] = []

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.append((module, args, kwargs))
        raise Seen

    hooks = [
        module.register_forward_pre_hook(note, with_kwargs=True) for module in (model.module, *model.module.children())
    ]
    with pytest.raises((Seen, zoo.PluginError)):  # a hook's error has the plugin's name
        model.loss(next(iter(model.batches(batch_size=2, seed=0))))
    for hook in hooks:
        hook.remove()
    return found[0]


def tensors(tree: object) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def on_a_card(tensor: Any) -> Any:
    """Return a fake tensor on CUDA, in a mode that needs no card."""
    if not isinstance(tensor, Tensor):
        return tensor
    made = torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda")
    return made.requires_grad_(tensor.requires_grad and tensor.is_leaf)


pytestmark = pytest.mark.no_strict_device
QUICK = ("vit", "stylegan", "vae")


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        pytest.param(name, bits, marks=[] if bits == 4 and name in QUICK else [pytest.mark.slow])
        for name in NAMES
        for bits in (8, 4)
    ],
)
def test_a_forward_reads_no_value_and_stays_on_its_device(
    name: str, bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "_TABLES", {})  # what a device has cached already must not be needed
    module, args, kwargs = called(name, bits)

    def run() -> object:
        with FakeTensorMode(allow_non_fake_inputs=False):
            own = (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False))
            placed = {key: on_a_card(tensor) for key, tensor in own}
            inputs, options = pytree.tree_map(on_a_card, (args, kwargs))
            with _reparametrize_module(module, placed):
                return module(*inputs, **options)

    if name == "gat":  # torch_geometric takes loops out of the edges, a number that depends on their values
        with pytest.raises(DynamicOutputShapeException) as caught:
            run()
        files = [frame.filename for frame in traceback.extract_tb(caught.tb)]
        assert not any("/zoo/weights/" in file for file in files)
        return
    found = tensors(run())
    assert found
    assert {tensor.device.type for tensor in found} == {"cuda"}
    assert all(type(table) is Tensor for table in kernels._TABLES.values()), "no fake tensor is kept"


@pytest.mark.slow
@pytest.mark.turns(3)
@pytest.mark.parametrize("name", NAMES)
def test_a_step_is_one_graph(name: str) -> None:
    """Traced with fake tensors, forward and backward: a value read in either would be an error."""
    module, args, kwargs = called(name, 4)
    factors = [parameter for parameter in module.parameters() if parameter.requires_grad]

    def gradients(call: Callable[..., object]) -> list[Tensor]:
        outputs = [one for one in tensors(call(*args, **kwargs)) if one.requires_grad]
        total = torch.stack([one.float().square().mean() for one in outputs]).sum()
        found = torch.autograd.grad(total, factors, allow_unused=True)
        return [one for one in found if one is not None]

    torch.compiler.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the libraries' own
        expected = gradients(module)
        compiled = gradients(torch.compile(module, fullgraph=True, backend="aot_eager"))
    assert len(compiled) == len(expected) > 0
    norm = torch.stack([one.norm() for one in expected]).max()
    for mine, theirs in zip(compiled, expected, strict=True):
        assert float((mine - theirs).norm()) < 1e-4 * float(norm)


def test_tables_are_made_outside_of_what_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that comes to a new device is compiled before it ran there: the tables come from no graph's memory."""
    model = zoo.wrap(nn.Linear(64, 64), bits=4, lora=2)
    x = torch.randn(3, 64)
    expected = model.module(x)
    monkeypatch.setattr(kernels, "_TABLES", {})
    monkeypatch.setattr(paths, "_reasons", {})
    kernels._values.cache_clear()
    torch.compiler.reset()
    got = torch.compile(model.module, fullgraph=True, backend="aot_eager")(x)
    assert torch.equal(got, expected)
    kernels._TABLES.clear()
    kernels._values.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(model.module, (x,))
    assert torch.equal(program.module()(x), expected)
