"""Create the environment of SkyRL's Tinker server that the tox environment `tinker` tests against, on a processor.

python tools/make_skyrl.py FOLDER

SkyRL needs Python 3.12 or newer, and with it torch's build for CUDA (6.7 GB). Under Python 3.11 it runs with the build
for processors (2.3 GB) once pydantic accepts `typing.TypedDict`, which `shim/sitecustomize.py` sees to. That is enough
for tests and is not supported by SkyRL.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import venv
from pathlib import Path

SKYRL = "skyrl==0.4.0"
REQUIREMENTS = (
    "torch==2.13.0",
    "jax==0.10.2" if sys.version_info < (3, 12) else "jax==0.12.0.1",
    "flax==0.12.8" if sys.version_info < (3, 12) else "flax==0.12.12",
    "optax==0.2.8",
    "transformers==5.16.1",
    "peft==0.18.1",
    "tinker==0.25.0",
    "aiohttp==3.14.5",  # imported by the server and not declared
    "uv==0.13.9",  # starts the server, and the server starts its engine with it
    "fastapi[standard]",
    "sqlmodel",
    "sqlalchemy[asyncio]",
    "aiosqlite",
    "asyncpg",
    "psycopg2-binary",
    "datasets",
    "pillow",
    "rich",
    "typer",
    "cloudpathlib",
    "zstandard",
    "xxhash",
    "hf_transfer",
)
SHIM = "import typing, typing_extensions; typing.TypedDict = typing_extensions.TypedDict\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="Create the environment of SkyRL's Tinker server.")
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    done = folder / "complete"
    if done.exists():
        return
    venv.create(folder, with_pip=True, clear=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-compile"]
    subprocess.run([*pip, *REQUIREMENTS], check=True)
    subprocess.run([*pip, "--no-deps", "--ignore-requires-python", SKYRL], check=True)
    (folder / "shim").mkdir()
    if sys.version_info < (3, 12):
        (folder / "shim" / "sitecustomize.py").write_text(SHIM)
    done.touch()


if __name__ == "__main__":
    main()
