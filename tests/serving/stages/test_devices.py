import importlib.util

import numpy as np
import onnxruntime
import pytest

from serving.errors import ConfigurationError
from serving.repository.repository import PublishedVersion
from serving.stages.devices import CPU, CUDA, Device, DeviceName, choose_device
from serving.stages.runner import StageRunner, stage_files
from tests.serving.scripted_model import row


def session_really_runs_on(provider: str) -> bool:
    """Return whether onnxruntime runs a session on a provider, checked without our code."""
    if provider not in onnxruntime.get_available_providers():
        return False
    if importlib.util.find_spec("nvidia"):
        onnxruntime.preload_dlls()
    try:
        onnxruntime.set_default_logger_severity(4)
        device = onnxruntime.OrtValue.ortvalue_from_shape_and_type([1], np.float32, "cuda")
    except Exception:  # onnxruntime has a separate exception class for each status
        return False
    finally:
        onnxruntime.set_default_logger_severity(2)
    return bool(device.device_name() == "cuda")


@pytest.fixture(scope="module")
def cuda() -> Device:
    if not session_really_runs_on(CUDA.provider):
        pytest.skip("no CUDA device: onnxruntime cannot allocate on one here")
    return choose_device("cuda")


@pytest.fixture(scope="module")
def no_cuda() -> None:
    if session_really_runs_on(CUDA.provider):
        pytest.skip("a CUDA device is here")


def test_the_cpu_is_always_available() -> None:
    assert choose_device("cpu") == CPU


@pytest.mark.usefixtures("no_cuda")
@pytest.mark.parametrize("name", ["cuda", "tensorrt"])
def test_an_unavailable_device_is_refused_with_the_available_ones(name: DeviceName) -> None:
    with pytest.raises(ConfigurationError, match=rf'^device "{name}": .* sessions run only on: cpu$'):
        choose_device(name)


@pytest.mark.usefixtures("no_cuda")
def test_auto_is_the_cpu_without_cuda() -> None:
    assert choose_device("auto") == CPU


@pytest.mark.usefixtures("no_cuda")
def test_a_probe_that_fails_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    choose_device("auto")

    assert capfd.readouterr() == ("", "")


def test_the_cpu_has_at_least_one_worker() -> None:
    assert CPU.default_workers() >= 1


@pytest.mark.parametrize(
    ("device", "largest", "sizes"),
    [(CPU, 64, []), (CUDA, 64, [8, 64]), (CUDA, 8, [1, 8]), (CUDA, 3, [1, 3]), (CUDA, 1, [1])],
)
def test_batches_on_a_gpu_have_at_most_two_sizes(device: Device, largest: int, sizes: list[int]) -> None:
    assert device.batch_sizes(largest) == sizes


@pytest.mark.gpu
def test_auto_is_cuda_if_a_session_runs_on_it(cuda: Device) -> None:
    assert choose_device("auto") == cuda


@pytest.mark.gpu
def test_the_chain_on_cuda_agrees_with_the_cpu(cuda: Device, version: PublishedVersion) -> None:
    images = np.stack([row(n % 3, n / 3, n / 5, n / 7) for n in range(20)])

    on_cuda, on_cpu = (
        StageRunner(stage_files(version), version.manifest.inputs, device, slots=8).run_every_stage(
            {"image": images}
        )
        for device in (cuda, CPU)
    )

    np.testing.assert_allclose(on_cuda, on_cpu, atol=1e-5)
