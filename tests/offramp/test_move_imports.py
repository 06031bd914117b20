"""How the build changes the import statements of the modules in the wheel."""

import runpy
from collections.abc import Callable

import pytest

from tests.offramp.installation import ROOT

move_imports: Callable[[str], str] = runpy.run_path(str(ROOT / "setup.py"))["move_imports"]


@pytest.mark.parametrize(
    ("source", "moved"),
    [
        ("from serving import a", "from offramp.serving import a"),
        ("from training.data import a", "from offramp.training.data import a"),
        ("from serving.api import (\n    a,\n)", "from offramp.serving.api import (\n    a,\n)"),
        ("if a:\n    from serving import b", "if a:\n    from offramp.serving import b"),
        ('a = "from b"; from serving import c', 'a = "from b"; from offramp.serving import c'),
        ("from servings import a", "from servings import a"),
        ("from .serving import a", "from .serving import a"),
        ("from ..training.data import a", "from ..training.data import a"),
        ("from . import serving", "from . import serving"),
        ('"""from serving import a"""', '"""from serving import a"""'),
    ],
)
def test_absolute_imports_of_moved_packages_change(source: str, moved: str) -> None:
    assert move_imports(source) == moved


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("import serving.api", "line 1: expected `from PACKAGE import NAME`"),
        ("a\nimport b, training", "line 2: expected `from PACKAGE import NAME`"),
        ("from serving import a; from serving import b", "line 1: expected `from ` at column 23"),
        ('a = "é"; from serving import b', "line 1: expected `from ` at column 10"),
    ],
)
def test_an_import_that_cannot_be_changed_is_refused(source: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        move_imports(source)
