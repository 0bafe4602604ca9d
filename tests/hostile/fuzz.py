"""Damage files and read them: `python tests/hostile/fuzz.py READER... [--runs N | --seconds N]`.

With `--runs`, each reader meets its found cases, then so many files damaged by our own mutator, drawn from
`--seed`. With `--seconds`, atheris (the extra `fuzz`) looks for inputs that reach new code, one reader at a
time; what it found is kept in `--corpus` and where it begins next time.

Reading must end in a value or in a `TriptychError`, within the limits on time and memory. The first input for
which it does not is written to `--found` and the exit status is 1; move it to `corpus/READER/` once mended.
One line of JSON for each reader says how often it was tried, and how much was refused.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import random
import resource
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path

ADDRESS_SPACE = 12 << 30
"""Bytes; libraries reserve a few GiB that they never touch."""
RESIDENT = 1 << 30
"""Bytes that a process that reads files of at most 128 KiB may ever hold."""
SECONDS_EACH = 20
"""Of processor time, so that a busy machine is not taken for a slow reader."""


class TooSlowError(BaseException):
    """An input took too long; no reader may take this for damage, so it is no `Exception`."""


def limit(seconds: int) -> None:
    """Bound what this process may take from the machine."""
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))

    def stop(*_: object) -> None:
        raise TooSlowError(f"more than {SECONDS_EACH} s for one file")

    signal.signal(signal.SIGPROF, stop)


def peak() -> int:
    """Give the most memory the process held, in bytes."""
    from triptych.memory import peak_bytes  # which, unlike getrusage, knows nothing of the parent's peak

    return peak_bytes()


def by_runs(name: str, runs: int | None, seed: int, found: Path) -> bool:
    """Try a reader on found cases and on damaged files; say whether it stood."""
    from targets import found_cases, targets

    target = targets()[name]()
    rng = random.Random(f"{name} {seed}")
    known = [*target.seeds, *found_cases(name)]
    wanted = target.runs if runs is None else runs
    refused = 0
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "shop"
        folder.mkdir()
        target.lay_out(folder)
        for seed_file in target.seeds:
            answer = target.attempt(folder, seed_file)
            if answer is not None:
                raise AssertionError(f"{name} refuses an honest file: {answer}")
        for number in range(len(known) + wanted):
            content = known[number] if number < len(known) else target.mutate(known, rng)
            found.write_bytes(content)  # before it is read, since reading may end the process
            signal.setitimer(signal.ITIMER_PROF, SECONDS_EACH)
            try:
                refused += target.attempt(folder, content) is not None
            except BaseException:
                print(f"{name}: input {number} is kept as {found}", file=sys.stderr)
                raise
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
    found.unlink()
    facts = {"reader": name, "executions": len(known) + wanted, "refused": refused, "peak_mib": peak() >> 20}
    print(json.dumps({**facts, "seconds": round(time.perf_counter() - started, 2)}), flush=True)
    if peak() > RESIDENT:
        print(f"{name} held {peak():,} bytes", file=sys.stderr)
    return peak() <= RESIDENT


def by_coverage(name: str, seconds: int, corpus: Path, found: Path) -> None:
    """Let atheris search; it ends the process itself."""
    import atheris

    with atheris.instrument_imports(include=["triptych"]):
        from targets import found_cases, targets

        target = targets()[name]()
        place = tempfile.mkdtemp()
        folder = Path(place) / "shop"
        folder.mkdir()
        target.lay_out(folder)
        for seed_file in target.seeds:
            target.attempt(folder, seed_file)  # so that what is imported late is watched as well
    corpus.mkdir(parents=True, exist_ok=True)
    for number, content in enumerate([*target.seeds, *found_cases(name)]):
        (corpus / f"seed-{number}").write_bytes(content)

    def once(content: bytes) -> None:
        target.attempt(folder, content)

    options = [f"-max_total_time={seconds}", f"-timeout={SECONDS_EACH}", f"-rss_limit_mb={RESIDENT >> 19}",
               "-max_len=131072", "-print_final_stats=1", f"-artifact_prefix={found}-"]  # fmt: skip
    atheris.Setup([sys.argv[0], *options, str(corpus)], once)
    atheris.Fuzz()


def main() -> int:
    """Parse, try, and give the exit status."""
    sys.path.insert(0, str(Path(__file__).parent))
    kept = Path(tempfile.gettempdir()) / "triptych-fuzz"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("readers", nargs="*", metavar="READER", help="which; none for a list of their names")
    parser.add_argument("--runs", type=int, help="damaged files for each reader; by default some hundreds")
    parser.add_argument("--seed", type=int, default=0, help="of the damage")
    parser.add_argument("--seconds", type=int, help="search with atheris for so long instead")
    parser.add_argument("--corpus", type=Path, default=kept / "corpus", help="where atheris keeps its finds")
    parser.add_argument("--found", type=Path, default=kept / "found", help="where a defect's input is put")
    options = parser.parse_args()
    kept.mkdir(exist_ok=True)
    warnings.simplefilter("error")
    if not options.readers:
        from targets import targets

        print("\n".join(targets()))
        return 0
    if options.seconds is not None:
        if len(options.readers) > 1:
            parser.error(f"--seconds with {len(options.readers)} readers: atheris ends its process after one")
        (name,) = options.readers
        by_coverage(name, options.seconds, options.corpus / name, options.found)
        return 0
    limit(3600)
    stood = [by_runs(name, options.runs, options.seed, options.found) for name in options.readers]
    return 0 if all(stood) else 1


if __name__ == "__main__":
    sys.exit(main())
