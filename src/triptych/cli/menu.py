"""The order in which `triptych --help` names the commands: by what they are for, as they are used."""

from __future__ import annotations

from typer.core import TyperGroup

PANELS = {
    "Begin here": ("demo", "doctor"),
    "Data": ("data", "pull", "prepare", "encode", "filter", "split", "describe", "export"),
    "Models": ("models", "train", "evaluate", "diagnose", "picture", "fuse"),
    "Recommendations": ("recommend", "similar", "serve"),
    "Questions over many trainings": ("compare", "search", "ablate", "sweep", "knockout", "reproduce"),
}
"""What stands under which heading; a command that is named nowhere comes first, under none."""

_PLACES = {name: place for place, name in enumerate(name for names in PANELS.values() for name in names)}


class Menu(TyperGroup):
    """A group of commands that are listed in the order of `PANELS`."""

    def list_commands(self, ctx: object) -> list[str]:
        """Name the commands in their order, each with its heading."""
        for heading, names in PANELS.items():
            for name in names:
                if name in self.commands:
                    self.commands[name].rich_help_panel = heading  # type: ignore[attr-defined]
        return sorted(self.commands, key=lambda name: _PLACES.get(name, -1))
