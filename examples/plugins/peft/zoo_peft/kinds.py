"""Which of PEFT's tuners are functions of single weights, and why the others are not."""

from __future__ import annotations

from typing import Any

# What a layer's `get_delta_weight` is for each peft_type, for `zoo_peft.update`.
ADDED = ("C3A", "DEFT", "DELORA", "FOURIERFT", "GRALORA", "LOHA", "LOKR", "PEANUT", "SHIRA", "WAVEFT")  # W + Δ
SCALED = ("HIRA",)  # W + W ⊙ Δ
TURNED = ("BOFT", "HRA", "OFT")  # W @ Δ, or its transpose
SUPPORTED = tuple(sorted((*ADDED, *SCALED, *TURNED, "IA3", "MISS")))

_SHARED = "its weights share tensors, and zoo keeps the update of each weight apart"
_PROMPT = "it adds tokens or states and changes no weight"
_INPUTS = "what it does depends on the inputs, so it is no change of a weight"
_OUTPUTS = "it changes the outputs of a layer, biases included, and not its weight alone"
_BASE = "it takes the base's own weights apart"
REFUSED = {
    "LORA": "zoo has it itself: use zoo.LoRA, which reads and writes PEFT's files",
    "ADALORA": "it moves rank from weight to weight while it trains, which takes a training loop of its own",
    "LN_TUNING": "it trains the norms themselves: use zoo.Full(targets=[...])",
    "BEFT": "it trains biases: use zoo.Full(targets=['bias'])",
    "TRAINABLE_TOKENS": "it trains single rows of an embedding",
    **dict.fromkeys(("FROD", "PVERA", "RANDLORA", "TINYLORA", "UNILORA", "VBLORA", "VERA"), _SHARED),
    **dict.fromkeys(("CARTRIDGE", "CPT", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING"), _PROMPT),
    **dict.fromkeys(("ADAPTION_PROMPT", "PROMPT_TUNING"), _PROMPT),
    **dict.fromkeys(("LILY", "POLY", "SHADOW", "XLORA"), _INPUTS),
    **dict.fromkeys(("ADAMSS", "GLORA", "ROAD"), _OUTPUTS),
    **dict.fromkeys(("OSF", "PSOFT", "SUPERTUNING"), _BASE),
}


def kind_of(config: Any) -> str:
    """Return the configuration's `peft_type` as a plain string."""
    return str(getattr(config.peft_type, "value", config.peft_type))


def reason_against(config: Any) -> str | None:
    """Return why zoo cannot apply one of PEFT's configurations; None if it can."""
    kind = kind_of(config)
    if kind in REFUSED:
        return REFUSED[kind]
    if kind not in SUPPORTED:
        return f"this plugin has no {kind}: expected one of {', '.join(SUPPORTED)}"
    for name, value in vars(config).items():
        if name.endswith("dropout") and value:
            return f"{name} = {value} is drawn for each input, which a change of the weight cannot be: set it to 0"
    if getattr(config, "bias", "none") not in ("none", None):
        return f"bias = {config.bias!r} is not read: train biases with an adapter zoo.Full(targets=['bias'])"
    if kind == "SHIRA" and config.random_seed is None:
        return "give it a random_seed: the entries that it trains are drawn again when the adapter is loaded"
    return None
