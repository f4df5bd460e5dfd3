"""Of which metrics more is better."""

from __future__ import annotations

# Of all others less is.
RISING = frozenset(
    {"accuracy", "top5_accuracy", "letter_accuracy", "f1", "macro_f1", "micro_f1", "precision", "recall", "map"}
    | {"mean_average_precision", "auroc", "r2", "pearson", "spearman", "elbo", "psnr", "ssim", "bleu", "chrf", "rouge"}
    | {"rouge1", "rouge2", "rougeL", "exact_match", "iou", "inception_score"}
)


def rises(name: str) -> bool:
    """Return whether more of a metric is better."""
    return name in RISING
