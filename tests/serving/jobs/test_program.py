"""The training program as a process: what it is held to, and what it may fail at."""

import sys
from pathlib import Path

import psutil
import pytest

from serving.errors import Unsupported
from serving.jobs import program as program_module
from serving.jobs.jobs import Jobs
from serving.jobs.program import Program
from tests.serving.jobs.conftest import MakeJobs
from tests.serving.jobs.training_jobs import start_held


def process_of(jobs: Jobs, job_id: str) -> psutil.Process:
    return psutil.Process(jobs._store.folder(job_id).process_id())


@pytest.mark.asyncio
async def test_a_job_runs_at_the_lowest_priority(jobs: Jobs) -> None:
    job = await start_held(jobs)

    assert process_of(jobs, job.id).nice() == 19


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("code", "complaint"),
    [
        ("import sys; sys.exit('error: broken')", "lists no recipes: error: broken"),
        ("import sys; sys.exit(3)", "exit code 3"),
        ("print('[]')", "lists no recipes: "),
        ("print('{')", "lists no recipes: "),
        ("print('{\"recipes\": [{}]}')", "lists no recipes: recipes.0.name: Field required"),
    ],
)
async def test_a_program_that_lists_no_recipes_is_unsupported(code: str, complaint: str) -> None:
    with pytest.raises(Unsupported) as refusal:
        await Program((sys.executable, "-c", code)).recipes()

    assert complaint in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.asyncio
async def test_a_program_that_never_answers_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program_module, "RECIPES_SECONDS", 0.5)
    before = set(psutil.Process().children())

    with pytest.raises(Unsupported, match=r"no answer within 0\.5 s"):
        await Program((sys.executable, "-c", "import time; time.sleep(1000)")).recipes()

    assert set(psutil.Process().children()) <= before


@pytest.mark.asyncio
async def test_a_program_that_failed_once_is_asked_again(make_jobs: MakeJobs, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("raise SystemExit('error: not yet')")
    jobs = make_jobs(program=Program((sys.executable, str(program))))
    with pytest.raises(Unsupported, match="not yet"):
        await jobs.recipes()

    program.write_text("print('{\"recipes\": []}')")

    assert (await jobs.recipes()).recipes == ()


def test_an_installation_without_torch_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program_module, "NEEDED_PACKAGES", ("training", "torch_that_is_not_there"))

    assert Program().why_not() == (
        "this installation has no torch_that_is_not_there: pip install offramp[training]"
    )


def test_an_installation_with_all_of_it_lacks_nothing() -> None:
    assert Program().why_not() is None
