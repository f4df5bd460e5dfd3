"""Whether a U-Net's noise process is the one that this plugin trains and samples by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoo import CheckpointError

if TYPE_CHECKING:
    from zoo import Entry

PREDICTIONS = ("epsilon", "sample", "v_prediction")


def check_process(entry: Entry, unet: dict[str, Any], schedule: dict[str, Any]) -> None:
    """Check that images become noise as in DDPM (arXiv 2006.11239): x_t = √ᾱ x0 + √(1-ᾱ) eps at whole timesteps t.

    What counts is what the scheduler computes, not what it is called: schedulers that differ only in how they step back
    share ᾱ.

    Args:
        entry: what errors call the model.
        unet: the U-Net's configuration.
        schedule: the scheduler's, {} for the paper's.

    Raises:
        CheckpointError: the process is another; the message names the scheduler.
    """
    name = schedule.get("_class_name")
    why = _another(str(name), schedule) if name else None
    if why is None and unet.get("time_embedding_type") == "fourier":
        name, why = "time_embedding_type 'fourier'", "its times are logarithms of noise levels, and step 0 has none"
    kind = schedule.get("prediction_type", PREDICTIONS[0])
    if why is None and kind not in PREDICTIONS:
        why = f"it predicts {kind!r}, and not {', '.join(PREDICTIONS)}"
    if why is not None:
        raise CheckpointError(
            f"{entry.name}: its U-Net was trained by another process than DDPM's, that of {name}: {why}. ddpm would "
            "train and sample it wrongly; for the network alone use zoo.wrap(diffusers.UNet2DModel.from_pretrained(…))"
        )


def _another(name: str, schedule: dict[str, Any]) -> str | None:
    """Return why a scheduler's process is another; None if it is DDPM's."""
    import diffusers
    import torch

    found = getattr(diffusers, name, None)
    if not (isinstance(found, type) and issubclass(found, diffusers.SchedulerMixin)):
        return f"diffusers {diffusers.__version__} has no such scheduler"
    try:
        theirs = found.from_config(schedule)  # type: ignore[attr-defined]
        ours = diffusers.DDPMScheduler.from_config(schedule)
    except Exception as error:  # constructors raise whatever they meet
        return f"diffusers cannot make it: {' '.join(str(error).split())}"
    kept = getattr(theirs, "alphas_cumprod", None)
    if kept is None:
        return "it has no ᾱ"
    if kept.shape != ours.alphas_cumprod.shape or not torch.allclose(kept.float(), ours.alphas_cumprod, atol=1e-6):
        return "its ᾱ are not those of its betas"
    config = theirs.config
    if config.get("use_flow_sigmas"):
        return "it matches flows (use_flow_sigmas)"
    if config.get("original_inference_steps"):
        return "its network is distilled to few steps (original_inference_steps)"
    if config.get("timestep_type") == "continuous":
        return "its times are logarithms of noise levels (timestep_type)"
    return None
