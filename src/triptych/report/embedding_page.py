"""The page of what a model learned."""

from __future__ import annotations

from pathlib import Path

from triptych.report.diagnosis_tables import modality_rows, pair_rows
from triptych.report.embedding_figures import draw_content, draw_layers, draw_maps, layer_name
from triptych.report.embeddings import Picture
from triptych.report.page import draw_if_possible, write_page


def write_picture_page(picture: Picture, path: Path) -> None:
    """Write the page, whole or not at all. It needs no network, no script and no other file.

    Figures need the 'report' extra; without it the page says so and has the tables.

    Args:
        picture: of a run.
        path: the HTML file to make or replace.
    """
    figures, without_figures = draw_if_possible(
        lambda: (draw_maps(picture), draw_content(picture), draw_layers(picture))
    )
    maps, content, layers = figures or ({}, [], [])
    write_page(
        path,
        "embeddings.html",
        picture=picture,
        maps=maps,
        content=content,
        layers=layers,
        without_figures=without_figures,
        map_rows=[
            (one.title, panel.name, len(panel.points), one.trust, panel.apart)
            for one in picture.maps
            for panel in one.panels
        ],
        histogram_rows=[
            (
                one.modality,
                "as given" if one.stage == "raw" else "in the model",
                one.cells,
                one.evenness,
                one.uniformity,
                one.trust,
            )
            for one in picture.histograms
        ],
        layer_rows=[(layer_name(one), one.redundancy) for one in picture.layers],
        modality_rows=modality_rows(picture.diagnosis),
        pair_rows=pair_rows(picture.diagnosis),
    )
