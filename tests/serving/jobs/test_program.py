"""The arguments of a job's process."""

from pathlib import Path

from serving.jobs.job import Job
from serving.jobs.program import run_arguments
from serving.jobs.store import JobFolder

JOB = Job(
    id="0" * 16,
    recipe="digits",
    model="m",
    overrides={},
    serve=False,
    created_seconds=0.0,
    started_seconds=0.0,
)


def test_a_job_resumes_only_if_it_has_output(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path)
    assert "--resume" not in run_arguments(JOB, folder, tmp_path, None)

    folder.run.mkdir()
    assert "--resume" not in run_arguments(JOB, folder, tmp_path, None)

    (folder.run / "recipe.json").touch()
    assert "--resume" in run_arguments(JOB, folder, tmp_path, None)
