"""Denoising diffusion models of images: diffusers' `UNet2DModel` with the scheduler that its checkpoint names."""

from zoo import hookimpl


@hookimpl
def recognises(config):
    if config.get("_class_name") == "UNet2DModel":
        return True
    # A pipeline's model_index.json. Latent pipelines hold further parts (a VAE, a text encoder) and are not ours.
    parts = {name for name in config if not name.startswith("_")}
    return parts == {"unet", "scheduler"} and list(config["unet"]) == ["diffusers", "UNet2DModel"]


@hookimpl
def construct(entry):
    from .model import build

    return build(entry)


@hookimpl
def checkpoint(entry):
    from .model import tensors

    return tensors(entry)


@hookimpl
def sample(model, request):
    from .sampling import sample

    return sample(model, request)


@hookimpl
def loss(model, batch):
    from .training import loss

    return loss(model, batch)


@hookimpl
def batches(model, data, request):
    from .training import batches

    return batches(model, data, request)


@hookimpl
def evaluate(model, data):
    from .training import evaluate

    return evaluate(model, data)


@hookimpl
def describe(entry):
    from .files import describe

    return describe(entry)


@hookimpl
def save(model, folder, state_dict):
    from .model import save

    return save(model, folder, state_dict)
