"""The command that answers by HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from triptych.cli.base import Json, MemoryLimit, app, limited
from triptych.cli.output import err, out, print_json


@app.command(epilog="Example: `triptych serve demo/runs/freedom --data demo/data`, then open the address")
def serve(
    run_folders: Annotated[
        list[Path],
        typer.Argument(help="Run folders; the first answers where none is named.", metavar="RUN..."),
    ],
    data_folder: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="DATA",
            help="The data set they were trained on: likeness by content, new items, explanations, pictures.",
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    key_file: Annotated[
        Path | None,
        typer.Option(
            "--api-key-file",
            metavar="FILE",
            help="Holds the key that requests must carry as X-API-Key; or set TRIPTYCH_API_KEY.",
        ),
    ] = None,
    memory_limit: MemoryLimit = None,
    as_json: Json = False,
) -> None:
    """Answer by HTTP: recommendations, items alike, new items and users, explanations, and a page.

    Run folders are watched: one that is replaced is loaded aside and takes over between two answers. A log
    of JSON lines goes to standard error. SIGTERM and Ctrl-C let it finish what it has begun, for 30 seconds
    at most.
    """
    from triptych.serving.service import bind, check_installed, own_names, read_key, serve

    check_installed()
    from triptych.serving.app import create_app
    from triptych.serving.catalogue import Catalogue

    key = read_key(key_file)
    with limited(memory_limit), bind(host, port) as bound:
        with err.status("Loading") as status:
            catalogue = Catalogue(run_folders, data_folder, lambda name: status.update(f"Loading {name}"))
        bound_host, bound_port = bound.getsockname()[:2]
        address = f"http://{f'[{bound_host}]' if ':' in bound_host else bound_host}:{bound_port}"

        hosts = own_names(bound_host) if key is None else None

        def announce() -> None:
            runs = [{"name": run.name, "version": run.version} for run in catalogue.runs.values()]
            if as_json:
                print_json({"address": address, "key": key is not None, "runs": runs})
            else:
                names = ", ".join(f"{run['name']} ({run['version']})" for run in runs)
                out.print(f"{address} answers by {names}", highlight=False, markup=False, soft_wrap=True)
                if key is None and hosts is None:
                    out.print("Without a key: whoever reaches this address may ask.", style="bold yellow")
                out.print("Ctrl-C stops it.", style="dim")
            out.file.flush()

        serve(create_app(catalogue, key=key, hosts=hosts), bound, announce)
