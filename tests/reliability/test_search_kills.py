"""R11: whoever is killed in a search, and whenever, no trial is lost or doubled, and the same is found."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from orders import Laboratory, leftovers

from triptych.experiments.jobs import Workshop, job_lock
from triptych.experiments.search import SearchResult, search
from triptych.experiments.study import SearchPlan
from triptych.testing import checkerboard
from triptych.training.space import SearchSpace

TRIALS = 4


def outcome(result: SearchResult) -> dict[str, Any]:
    """Gather all that must be the same, whatever numbers the trials got: points, values, and the best."""
    trials = [
        (json.dumps(trial.settings), trial.state, trial.value, trial.best_epoch) for trial in result.trials
    ]
    assert len({settings for settings, *_ in trials}) == len(trials), "no point twice"
    return {"best": result.best, "value": result.best_value, "trials": sorted(trials)}


def found_in(folder: Path) -> dict[str, Any]:
    """Read what a search of the laboratory found; nothing unfinished may be left of it."""
    assert list((folder / "unfinished").glob("*/*")) == []
    assert leftovers(folder) == []
    return outcome(SearchResult.model_validate_json((folder / "result.json").read_text()))


@pytest.fixture(scope="module")
def whole(
    laboratory: Laboratory, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], dict[str, int]]:
    """Search without a kill, and count the steps."""
    folder = tmp_path_factory.mktemp("search") / "whole"
    report = laboratory.do("searching", folder, TRIALS)
    assert report.status == 0, report.said
    return found_in(folder), report.steps


def killed(laboratory: Laboratory, folder: Path, moments: list[int], only: str | None) -> int:
    """Kill a search at one moment after the other, let it end, and count the kills that hit."""
    hits = [laboratory.do("searching", folder, TRIALS, fault="kill", at=at, only=only) for at in moments]
    assert all(report.killed or report.status == 0 for report in hits), [report.said for report in hits]
    report = laboratory.do("searching", folder, TRIALS)
    assert report.status == 0, report.said
    return sum(report.killed for report in hits)


def test_a_search_killed_in_its_bookkeeping_loses_and_doubles_nothing(
    laboratory: Laboratory, whole, tmp_path: Path
):
    """Between any two entries of its journal, of which giving back a dead one's trial makes some more."""
    expected, steps = whole
    rng = random.Random(4)
    for series in range(4):
        moments = [
            rng.randint(1, steps["journal"] // 2),
            rng.randint(1, 8),
            rng.randint(1, steps["journal"] // 2),
        ]
        folder = tmp_path / str(series)
        assert killed(laboratory, folder, moments, "journal") >= 2
        assert found_in(folder) == expected, moments


@pytest.mark.long
@pytest.mark.timeout(3000)
def test_a_search_killed_at_every_entry_of_its_journal(laboratory: Laboratory, whole, tmp_path: Path, capsys):
    expected, steps = whole
    kills, rng = 0, random.Random(11)
    for at in range(1, steps["journal"] + 1):
        folder = tmp_path / str(at)
        kills += killed(laboratory, folder, [at, rng.randint(1, 6)], "journal")
        assert found_in(folder) == expected, at
        shutil.rmtree(folder)
    for series in range(30):
        moments = [rng.randint(1, sum(steps.values())) for _ in range(3)]
        folder = tmp_path / f"any {series}"
        kills += killed(laboratory, folder, moments, None)
        assert found_in(folder) == expected, moments
        shutil.rmtree(folder)
    with capsys.disabled():
        print(f"\nsearch, one process: {kills} kills")
    assert kills > steps["journal"]


def test_a_line_of_the_journal_that_was_half_written_is_taken_off(
    laboratory: Laboratory, whole, tmp_path: Path
):
    """As a disk that is full or loses its power leaves it; the next entry would go on in the same line."""
    expected, _ = whole
    assert laboratory.do("searching", tmp_path, 2).status == 0
    journal = tmp_path / "search" / "mf-bpr.journal"
    with journal.open("ab") as file:
        file.write(journal.read_bytes().splitlines()[-1][:-9])
    report = laboratory.do("searching", tmp_path, TRIALS)
    assert report.status == 0, report.said
    assert found_in(tmp_path) == expected


def test_a_point_that_another_process_tries_is_waited_for(tmp_path: Path):
    """The defaults and a point that spells them out are one training, which has one folder."""
    board, workshop = checkerboard(8), Workshop(tmp_path, device="cpu", threads=1, k=(2,))
    fixed = {"epochs": 1, "metric": "recall@2", "embedding_dim": 2}
    plan, results = SearchPlan(SearchSpace("mf-bpr", {"learning_rate": (0.1,)}, "here"), 1, fixed=fixed), []
    searching = threading.Thread(target=lambda: results.append(search(plan, board, workshop)))
    with job_lock(plan.job({}).name(board.without_test()), workshop):
        searching.start()
        searching.join(timeout=2)
        assert searching.is_alive()
    searching.join()
    assert [trial.state for trial in results[0].trials] == ["done"]


# Several workers, each a process

SPACE = SearchSpace("lightgcn", {"learning_rate": (0.1, 0.03, 0.01), "n_layers": (1, 2, 3)}, "these tests")
SEARCH = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
from test_search_kills import search_together
from triptych.errors import TrainingError
if __name__ == "__main__":
    try:
        search_together(Path({folder!r}), 3)
    except TrainingError as error:
        sys.exit(f"told: {{error}}")
"""


def search_together(folder: Path, workers: int) -> SearchResult:
    """Try nine points and the defaults."""
    fixed = {"epochs": 40, "patience": 40, "batch_size": 16, "metric": "recall@2", "embedding_dim": 4}
    workshop = Workshop(folder, device="cpu", threads=1, workers=workers, checkpoint_every=5, k=(2,))
    return search(SearchPlan(SPACE, 50, "grid", fixed=fixed), checkerboard(12), workshop)


def children(process: subprocess.Popen[str]) -> list[int]:
    """List the workers of a process."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            parent = f"PPid:\t{process.pid}\n" in status.read_text()
            worker = b"spawn_main" in (status.parent / "cmdline").read_bytes()
        except OSError:
            continue  # it has just ended
        if parent and worker:
            found.append(int(status.parent.name))
    return found


def kill(number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(number, signal.SIGKILL)


@pytest.mark.long
@pytest.mark.timeout(3000)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system does not list processes")
@pytest.mark.parametrize("seed", [1, 2])
def test_workers_killed_at_random_moments(tmp_path: Path, seed: int, capsys):
    """One worker, the one who began them, or all at once, after some more entries of the journal.

    Workers who lost their parent go on beside those of the next search, until they are killed before the last.
    """
    expected = outcome(search_together(tmp_path / "whole", 1))
    rng, kills = random.Random(seed), Counter[str]()
    folder, script = tmp_path / "killed", tmp_path / "script.py"
    script.write_text(SEARCH.format(here=str(Path(__file__).parent), folder=str(folder)))
    journal = folder / "search" / "lightgcn.journal"

    def entries() -> int:
        return journal.read_bytes().count(b"\n") if journal.exists() else 0

    orphans: list[int] = []
    for _ in range(8):
        with (tmp_path / "said.txt").open("w") as said:
            process = subprocess.Popen([sys.executable, str(script)], stderr=said, env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
            target = entries() + rng.randint(3, 60)
            while process.poll() is None and entries() < target:
                time.sleep(0.001)
            workers, who = children(process), rng.choice(["worker", "parent", "all"])
            if process.poll() is None:
                kills[who] += 1
                for number in {
                    "worker": workers[:1],
                    "parent": [process.pid],
                    "all": [process.pid, *workers],
                }[who]:
                    kill(number)
                orphans += workers
            process.wait()
        if who == "worker" and process.returncode:
            assert "told: a process of the search" in (tmp_path / "said.txt").read_text()
        if process.returncode == 0:
            break
    for orphan in orphans:
        kill(orphan)
    with capsys.disabled():
        print(f"\nsearch, three workers: {dict(kills)} killed")
    assert kills.total() >= 4
    assert outcome(search_together(folder, 2)) == expected
    assert list((folder / "unfinished").glob("*/*")) == []
    assert search_together(folder, 1).trials, "and nothing is left to do"
