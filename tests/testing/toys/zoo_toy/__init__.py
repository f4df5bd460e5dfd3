"""A healthy architecture: an autoencoder of eight numbers. Tests break one promise of it at a time."""

from __future__ import annotations

import zoo


@zoo.hookimpl
def recognises(config):
    return config.get("model_type") == "toy"


@zoo.hookimpl
def construct(entry):
    from .model import Tiny

    return Tiny(entry.config["size"], entry.config["width"]).eval()


@zoo.hookimpl
def checkpoint(entry):
    return zoo.checkpoint.tensors(entry)


@zoo.hookimpl
def sample(model, request):
    import torch

    options = request.take(spread=3.0)
    generator = torch.Generator()
    if request.seed is None:
        generator.seed()
    else:
        generator.manual_seed(request.seed)
    x = options["spread"] * torch.randn(request.n, model.entry.config["size"], generator=generator)
    x = x.to(model.device)
    return zoo.Samples(model.module(x).softmax(1), "posterior")


@zoo.hookimpl
def loss(model, batch):
    return (model.module(batch["x"]) - batch["x"]).square().mean()


@zoo.hookimpl
def batches(model, data, request):
    from zoo.data.stream import stream

    x = items(model, data, request.split)
    return stream({"x": x}, request)


@zoo.hookimpl
def evaluate(model, data):
    x = items(model, data, "test").to(model.device)
    return {"error": (model.module(x) - x).square().mean().item()}


@zoo.hookimpl
def tuning(entry):
    return {"lr": 1e-2, "warmup": 0.1}


@zoo.hookimpl
def describe(entry):
    return {"size": str(entry.config["size"])}


@zoo.hookimpl
def save(model, folder, state_dict):
    from safetensors.torch import save_file

    from zoo.storage.atomic import write_json

    write_json(folder / "config.json", model.entry.config)
    save_file(state_dict, folder / "model.safetensors")
    return True


def items(model, data, split):
    import torch

    if isinstance(data, torch.Tensor):
        return data
    if data is not None:
        raise zoo.DataError(f"expected a tensor of shape (n, {model.entry.config['size']}), got {data!r}")
    generator = torch.Generator().manual_seed(11 if split == "train" else 12)
    return torch.randn(100, model.entry.config["size"], generator=generator)
