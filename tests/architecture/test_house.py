"""The house keeps its order: what the import linter can't say."""

import ast
import subprocess
from pathlib import Path

import pytest

from cli.settings import page

ROOT = Path(__file__).parents[2]
PACKAGES = ("metering", "ingest", "sink", "billing", "api", "cli", "deploy")
VAGUE = {"utils", "util", "helpers", "helper", "common", "manager", "base", "misc"}


def modules() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def tracked(*patterns: str) -> list[str]:
    listing = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=False)
    return listing.stdout.split()


def test_modules_say_what_they_are() -> None:
    assert [path for path in modules() if path.stem in VAGUE] == []


def test_cmd_is_no_package_and_hides_none() -> None:
    scripts = sorted((ROOT / "cmd").glob("*.py"))
    assert scripts
    assert not (ROOT / "cmd" / "__init__.py").exists()
    assert [script for script in scripts if script.stem in PACKAGES] == []


@pytest.mark.parametrize(
    "path", [path for path in modules() if "domain" in path.parts], ids=lambda path: str(path.relative_to(ROOT))
)
def test_no_float_for_usage_or_money(path: Path) -> None:
    calls = [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "float"
    ]
    assert calls == []


def test_locks_carry_no_addresses() -> None:
    locks = tracked("requirements/*.txt", "*package-lock.json")
    assert locks
    assert [lock for lock in locks if "://" in (ROOT / lock).read_text()] == []


def test_the_page_of_settings_is_up_to_date() -> None:
    assert (ROOT / "docs" / "settings.md").read_text() == page(), (
        "run `weighbridge settings --markdown > docs/settings.md`"
    )
