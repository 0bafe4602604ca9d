"""The rows of what a diagnosis found, as the command prints them and the page shows them."""

from __future__ import annotations

from triptych.runs import Diagnosis

Row = tuple[str | int | float | None, ...]


def modality_rows(found: Diagnosis) -> list[Row]:
    """Give modality, items, uniformity, and what is kept of raw variance: in the model, by content alone."""
    return [
        (row.modality, row.n_items, row.uniformity, row.variance_kept, row.variance_kept_by_content)
        for row in found.modalities
    ]


def pair_rows(found: Diagnosis) -> list[Row]:
    """Give modalities, items, distance, and what they share: in the model, of content alone, in features."""
    return [
        (
            " + ".join(row.modalities),
            row.n_items,
            row.alignment,
            row.information,
            row.information_of_content,
            row.information_raw,
        )
        for row in found.pairs
    ]
