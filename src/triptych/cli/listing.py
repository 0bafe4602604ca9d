"""Commands that say what there is: models, plug-ins, recipes, and this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from triptych.cli.base import Json, app
from triptych.cli.output import out, print_facts, print_json, print_table


@app.command(epilog="Example: `triptych models --json`")
def models(as_json: Json = False) -> None:
    """List the models, the plug-ins for them, and the recipes that come with Triptych."""
    from triptych.models.plugins.base import plugins
    from triptych.models.registry import models as known_models
    from triptych.training.recipe import shipped_recipes

    entries = [entry.as_dict() for entry in known_models()]
    extras = [{"name": plugin.name, "paper": plugin.paper, "year": plugin.year} for plugin in plugins()]
    if as_json:
        print_json({"models": entries, "plugins": extras, "recipes": shipped_recipes()})
        return
    rows = [
        (e["name"], str(e["year"]), e["needs"], ", ".join(e["modalities"]) or "–", e["paper"])
        for e in entries
    ]
    print_table(None, ["model", "year", "needs", "modalities", "paper"], rows)
    print_table(
        "\nPlug-ins, for --plugin",
        ["plug-in", "year", "paper"],
        [(extra["name"], str(extra["year"]), extra["paper"]) for extra in extras],
    )
    out.print("\nRecipes: " + ", ".join(shipped_recipes()), highlight=False, markup=False)


@app.command(epilog="Example: `triptych doctor runs/freedom-shop-seed7`")
def doctor(
    folder: Annotated[
        Path | None, typer.Argument(help="A data set or run to check.", metavar="[FOLDER]")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what this machine offers and, for a data set or a run, check every file of it."""
    from triptych.report.doctor import check_folder, machine_facts

    facts = machine_facts()
    if folder is not None:
        facts["checked"] = check_folder(folder)
    if as_json:
        print_json(facts)
        return
    print_facts(facts)
