import pytest

from serving.console.extras import requires_extra


def test_a_missing_package_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end, requires_extra("offramp serve", "serving"):
        raise ModuleNotFoundError("no module", name="onnxruntime.capi")

    assert end.value.code == 2
    assert capsys.readouterr() == (
        "",
        'offramp: error: offramp serve needs the extra "serving", because onnxruntime is not installed: '
        'pip install "offramp[serving]"\n',
    )


@pytest.mark.parametrize("name", ["serving.engine.gone", "training", "offramp.serving.gone", None])
def test_a_missing_module_of_this_project_is_raised(name: str | None) -> None:
    with pytest.raises(ModuleNotFoundError), requires_extra("offramp serve", "serving"):
        raise ModuleNotFoundError("no module", name=name)
