"""Why a test of PEFT's does not pass: one sentence for every group, found by the test's name and the error."""

from __future__ import annotations

import re
from typing import NamedTuple


class Reason(NamedTuple):
    """One group.

    Attributes:
        outcome: "refuses" or "differs".
        test: regular expression for the test's name.
        error: regular expression for the error's text.
        text: the reason.
    """

    outcome: str
    test: str
    error: str
    text: str


REASONS = (
    Reason(
        "refuses",
        "",
        "kasa_config|velora_config|monteclora_config|use_bdlora|'mica'|lora_bias",
        "variants of LoRA that zoo does not have: KaSA, VeLoRA, MonteCLoRA, BD-LoRA, MiCA, a bias in B (`lora_bias`)",
    ),
    Reason("refuses", "pickle", "no pickles", "`safe_serialization=False`: zoo writes no pickles"),
    Reason(
        "refuses",
        "base_model_state_dict",
        "StateDictError",
        "`set_base_model_state_dict`: reading the base's weights is the same; writing dense weights below adapters is "
        "refused, they go in before `zoo.wrap` or after `unload`",
    ),
    Reason(
        "refuses",
        "idempotent",
        "merged already",
        "merging what is merged is an error and changes nothing; PEFT warns and changes nothing",
    ),
    Reason(
        "refuses",
        "low_cpu_mem_usage",
        "without values",
        "`low_cpu_mem_usage` in `inject_adapter_in_model`: no adapter without values on a base that has them; the "
        "other parts of these tests pass",
    ),
    Reason(
        "refuses",
        "",
        "unexpected key .*bias",
        'biases in a state dict whose configuration says `bias="none"`: zoo takes no key that the configuration does '
        "not announce",
    ),
    Reason(
        "refuses",
        "",
        "disabled alone|merged alone",
        "one layer is disabled or merged by itself: zoo's adapters are active or merged in a whole model",
    ),
    Reason(
        "refuses",
        "",
        "made for the base",
        "the adapter is loaded into a module with other random weights: zoo compares fingerprints of the base (without "
        "`zoo.json` beside the files, as in PEFT's own, these tests pass)",
    ),
    Reason("refuses", "", "base.s embeddings", "`save_embedding_layers`: zoo writes no copies of the base's weights"),
    Reason(
        "refuses", "mismatched", "part of an adapter", "`ignore_mismatched_sizes`: an adapter is loaded whole or not"
    ),
    Reason(
        "refuses",
        "weighted|merging",
        "not a plain low-rank update",
        "`combine_adapters` takes no adapters with whole modules",
    ),
    Reason(
        "refuses", "without_in_features", "matches no weight", "an LSTM as one target: its weights are named one by one"
    ),
    Reason(
        "differs",
        "test_save_pretrained\\[|model_card",
        "",
        "no model card beside a saved adapter: zoo writes the card when it pushes, with the repository's name and "
        "samples; what these tests compare before it is equal",
    ),
    Reason(
        "differs",
        "in_features_out_features",
        "",
        "`in_features` of convolutions, embeddings and attentions: layers stay the library's, as they are",
    ),
    Reason(
        "differs",
        "multiple_adapters_with_bias",
        "DID NOT RAISE",
        "two adapters that train biases: PEFT refuses the second, in zoo biases belong to their adapter",
    ),
    Reason(
        "differs",
        "modules_to_save_raises|token_indices_raises",
        "DID NOT RAISE",
        "two active adapters that replace one whole module: PEFT refuses, in zoo the later one applies",
    ),
    Reason(
        "differs",
        "repr|custom_lora|override_lora|saving_and_loading|mha_gradients",
        "",
        "classes and attributes of PEFT's layers (`repr`, custom layer classes, `_restore_weights`)",
    ),
    Reason(
        "differs",
        "test_mixed_adapter_batches_(lora_with_dora|training_mode|unsupported)",
        "DID NOT RAISE",
        "mixed batches that PEFT refuses and zoo computes: with DoRA, in training, with a GRU",
    ),
    Reason(
        "differs",
        "mixed_adapter_batches_mha",
        "",
        "a mixed batch of an attention's unbatched input: PEFT refuses attentions, zoo takes rows for samples",
    ),
    Reason(
        "differs",
        "default_target_modules",
        "",
        "no targets: PEFT asks for them or knows them by `model_type`, zoo adapts every weight",
    ),
    Reason(
        "differs",
        "needless_copy",
        "",
        "tied weights stay tied: what replaces the embedding replaces its head",
    ),
    Reason("differs", "ignore_mismatched", "size mismatch", "the same refusal, whose words the test compares itself"),
    Reason("differs", "embedding", "DID NOT WARN", "no warning that the base's embeddings are saved: they are not"),
    Reason(
        "differs",
        "only_params_are_updated.*Embedding . transformers Conv1D",
        "",
        "luck of the drawn start (of 150 seeds PEFT passes from 5, zoo from 7); from one start both train alike",
    ),
)


def reason_of(outcome: str, test: str, why: str) -> str:
    """Return the reason for a test's outcome; "" if none is known."""
    for one in REASONS:
        if one.outcome == outcome and re.search(one.test, test) and re.search(one.error, why):
            return one.text
    return ""
