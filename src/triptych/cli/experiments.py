"""Commands that compare many trainings: systems, one with its variants, with and without its content."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from triptych.cli.base import (
    Device,
    GraphCache,
    Json,
    Lengths,
    MaskedOption,
    MemoryLimit,
    SplitKind,
    SplitSeed,
    app,
    each_once,
    needs,
    read_choice,
)
from triptych.cli.bench import (
    Bench,
    Beyond,
    DataOption,
    OutFolder,
    Protocol,
    Seeds,
    Settings,
    System,
    Systems,
    Threads,
    Workers,
    file_name,
    read_compared,
    read_legacy,
    read_seeds,
    read_systems,
)
from triptych.errors import ConfigError, nearest


@app.command(epilog="Example: `triptych compare lightgcn freedom freedom+ksi --data data/shop --seeds 5`")
def compare(
    context: typer.Context,
    systems: Annotated[
        list[str],
        typer.Argument(
            help="Models or recipes, perhaps with plug-ins: MODEL+PLUGIN; folders of runs, for instance of "
            "`triptych fuse`, or NAME=RUN,RUN for one of several seeds.",
            metavar="SYSTEM...",
        ),
    ],
    data: DataOption,
    seeds: Seeds = "3",
    settings: Settings = None,
    split: SplitKind = None,
    splits: Annotated[
        str | None,
        typer.Option(
            help="Under each of these splits, with commas between them: ratio,leave-one-out,time. "
            "Shows whether the order of systems depends on it."
        ),
    ] = None,
    split_seed: SplitSeed = 999,
    k: Lengths = "10,20",
    masked: MaskedOption = "train",
    reference: Annotated[
        str | None,
        typer.Option(
            help="The system that the others are tested against; by default the best on validation."
        ),
    ] = None,
    protocol: Protocol = "clean",
    beyond: Beyond = False,
    device: Device = "auto",
    workers: Workers = 1,
    threads: Threads = None,
    graph_cache: GraphCache = None,
    memory_limit: MemoryLimit = None,
    out_folder: OutFolder = None,
    as_json: Json = False,
) -> None:
    """Train systems with several seeds each, then measure all on test and say which differences hold.

    What is trained already is not trained again, and what was stopped goes on: call it again after a kill,
    or with more systems or seeds. Runs that lie in folders are measured as they are.
    """
    from triptych.experiments.saved import SavedRuns

    named = read_compared(systems, settings)
    trained = {name: of for name, of in named.items() if not isinstance(of, SavedRuns)}
    needs(context, ["--set", "--seeds"], "a system that is trained", met=bool(trained))
    if splits is not None and len(trained) < len(named):
        raise ConfigError(
            "saved runs, which are of one split each, under several",
            wanted="systems that can be trained under each of them",
            fix="Leave out --splits, or the runs",
        )
    bench = Bench(
        data, split=split, split_seed=split_seed, device=device, workers=workers, threads=threads,
        graph_cache=graph_cache, memory_limit=memory_limit, out_folder=out_folder, k=k,
    )  # fmt: skip
    legacy, numbers = read_legacy(protocol), read_seeds(seeds)
    if splits is None:
        bench.compare(
            named, numbers, masked, "comparison", as_json,
            reference=reference, legacy=legacy, beyond=beyond,
        )  # fmt: skip
    else:
        bench.compare_splits(
            trained, splits, numbers, masked, as_json, reference=reference, legacy=legacy, beyond=beyond
        )


@app.command(epilog="Example: `triptych knockout freedom vbpr --data data/shop --seeds 3`")
def knockout(
    systems: Systems,
    data: DataOption,
    kinds: Annotated[
        list[str] | None,
        typer.Option(
            "--kind",
            help="absent, zeros, constant (the mean row), noise (of the same mean and variance) or shuffled "
            "(content of other items); repeat. By default all, or with --missing or --noise none.",
        ),
    ] = None,
    missing: Annotated[
        str | None,
        typer.Option(help="Per cent of items that lack content, with commas between them: 0,30,60,90."),
    ] = None,
    noise: Annotated[
        str | None,
        typer.Option(help="Strengths of noise added to it, in standard deviations of a column: 0,0.5,1,2."),
    ] = None,
    modalities: Annotated[
        list[str] | None,
        typer.Option("--modality", help="Only this one; repeat. By default each alone and all together."),
    ] = None,
    seeds: Seeds = "3",
    settings: Settings = None,
    split: SplitKind = None,
    split_seed: SplitSeed = 999,
    k: Lengths = "10,20",
    masked: MaskedOption = "train",
    beyond: Beyond = False,
    device: Device = "auto",
    workers: Workers = 1,
    threads: Threads = None,
    graph_cache: GraphCache = None,
    memory_limit: MemoryLimit = None,
    out_folder: OutFolder = None,
    as_json: Json = False,
) -> None:
    """Does a model use content at all? Train it anew with modalities gone, emptied, or mixed up, and compare.

    Each is tested against the same system on the data as they are, user by user. With --missing and --noise
    content wears thin by degrees, and the page draws curves. Seeds draw their own noise. Nothing that
    is trained already is trained again.
    """
    from triptych.experiments.knockout import KNOCKOUTS, KnockoutPlan, knockout_systems

    named = read_systems(systems, settings)
    chosen = [read_choice("--kind", kind, KNOCKOUTS) for kind in kinds or ()]
    if not chosen and missing is None and noise is None:
        chosen = list(KNOCKOUTS)
    plan = KnockoutPlan(
        chosen, _read_numbers("--missing", missing), _read_numbers("--noise", noise), modalities
    )
    bench = Bench(
        data, split=split, split_seed=split_seed, device=device, workers=workers, threads=threads,
        graph_cache=graph_cache, memory_limit=memory_limit, out_folder=out_folder, k=k,
    )  # fmt: skip
    found, left_out = knockout_systems(named, bench.dataset, plan)
    curves = missing and f"missing={missing}", noise and f"noise={noise}"
    name = file_name(
        "knockout", *named, *(kinds or ()), *curves, *(modalities or ()), *(settings or ()), split
    )
    bench.compare(found, read_seeds(seeds), masked, name, as_json, beyond=beyond, left_out=left_out)


@app.command(epilog="Example: `triptych ablate sand --data data/shop --seeds 3`")
def ablate(
    system: System,
    data: DataOption,
    variants: Annotated[
        list[str] | None, typer.Option("--variant", help="Only this one, by name; repeat.")
    ] = None,
    seeds: Seeds = "3",
    settings: Settings = None,
    split: SplitKind = None,
    split_seed: SplitSeed = 999,
    k: Lengths = "10,20",
    masked: MaskedOption = "train",
    beyond: Beyond = False,
    device: Device = "auto",
    workers: Workers = 1,
    threads: Threads = None,
    graph_cache: GraphCache = None,
    memory_limit: MemoryLimit = None,
    out_folder: OutFolder = None,
    as_json: Json = False,
) -> None:
    """Compare a model with its documented variants: what each of its parts is worth on these data."""
    from triptych.experiments.plans import shipped_ablation
    from triptych.experiments.result import LeftOut

    ((called, base),) = read_systems([system], settings).items()
    bench = Bench(
        data, split=split, split_seed=split_seed, device=device, workers=workers, threads=threads,
        graph_cache=graph_cache, memory_limit=memory_limit, out_folder=out_folder, k=k,
    )  # fmt: skip
    plan = shipped_ablation(base.model, base.settings.get("modalities") or list(bench.dataset.features))
    if not plan.variants:
        raise ConfigError(
            f"no variants of {base.model} come with Triptych",
            wanted="a model whose variants are documented",
            fix="Vary a setting with 'triptych sweep', or compare recipes with 'triptych compare'",
        )
    for variant in variants or ():
        if variant not in plan.variants:
            raise ConfigError(
                f"{base.model} has no variant '{variant}'",
                wanted="one of: " + ", ".join(plan.variants),
                fix=nearest(variant, plan.variants),
            )
    wanted = variants or list(plan.variants)
    named = {name: recipe for name, recipe in plan.systems(base).items() if name in (base.name, *wanted)}
    same = [
        LeftOut(name=name, reason=f"with these settings it is {base.name} itself")
        for name in plan.no_variants(base)
        if name in wanted
    ]
    bench.compare(
        dict(named), read_seeds(seeds), masked,
        file_name("ablation", called, *(variants or ()), *(settings or ()), split), as_json,
        reference=base.name, beyond=beyond, left_out=same,
    )  # fmt: skip


@app.command(epilog="Example: `triptych sweep lightgcn n_layers=1,2,3,4 --data data/shop --seeds 3`")
def sweep(
    system: System,
    fields: Annotated[
        list[str],
        typer.Argument(
            help="FIELD=VALUE,VALUE,..., of which all combinations are tried, or one NAME of a sweep that "
            "comes with Triptych.",
            metavar="FIELD=VALUES...",
        ),
    ],
    data: DataOption,
    seeds: Seeds = "1",
    settings: Settings = None,
    split: SplitKind = None,
    split_seed: SplitSeed = 999,
    k: Lengths = "10,20",
    masked: MaskedOption = "train",
    protocol: Protocol = "clean",
    beyond: Beyond = False,
    device: Device = "auto",
    workers: Workers = 1,
    threads: Threads = None,
    graph_cache: GraphCache = None,
    memory_limit: MemoryLimit = None,
    out_folder: OutFolder = None,
    as_json: Json = False,
) -> None:
    """Train a model with each of some values of its settings, and compare: the papers' sensitivity curves.

    To choose a setting, look at the validation column; the test column says what choosing by it would hide.
    """
    from triptych.experiments.plans import shipped_ablation, sweep_systems
    from triptych.training.recipe import parse_settings

    ((called, base),) = read_systems([system], settings).items()
    if len(fields) == 1 and "=" not in fields[0]:
        named = shipped_ablation(base.model).sweep(fields[0], base)
    else:
        values = _read_values(fields)
        if both := sorted(values.keys() & parse_settings(settings or [])):
            raise ConfigError(
                f"{both[0]} both set and swept", wanted="one of them", fix=f"Leave out --set {both[0]}=..."
            )
        named = sweep_systems(base, values)
    bench = Bench(
        data, split=split, split_seed=split_seed, device=device, workers=workers, threads=threads,
        graph_cache=graph_cache, memory_limit=memory_limit, out_folder=out_folder, k=k,
    )  # fmt: skip
    bench.compare(
        dict(named), read_seeds(seeds), masked,
        file_name("sweep", called, *fields, *(settings or ()), split), as_json,
        legacy=read_legacy(protocol), beyond=beyond,
    )  # fmt: skip


def _read_values(texts: list[str]) -> dict[str, list[Any]]:
    """Read "n_layers=1,2,3" pieces; values are TOML, and anything else is a string."""
    from triptych.training.recipe import parse_settings

    found = {}
    each_once("values of", [text.partition("=")[0].strip() for text in texts])
    for text in texts:
        name, _, values = text.partition("=")
        if not values.strip():
            raise ConfigError(
                f"'{text}', which gives no values", wanted="FIELD=VALUE,VALUE", fix="Write n_layers=1,2,3"
            )
        whole = parse_settings([f"{name}=[{values}]" if "=" in text else text])
        (listed,) = whole.values()
        pieces = [f"{name}={piece}" for piece in values.split(",")]
        found[name] = (
            listed if isinstance(listed, list) else [parse_settings([piece])[name] for piece in pieces]
        )
    return found


def _read_numbers(option: str, text: str | None) -> list[float]:
    """Read "0,0.5,1" as numbers."""
    try:
        return [] if text is None else [float(piece) for piece in text.split(",")]
    except ValueError:
        raise ConfigError(
            f"{option} {text}",
            wanted="numbers with commas between them",
            fix=f"Write for example {option} 0,1,2",
        ) from None
