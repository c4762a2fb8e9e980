"""SkyRL's Tinker server on a processor, in an environment of its own: `tools/make_skyrl.py` creates it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

VARIABLE = "HARNESS_SKYRL"
"""The environment variable with the folder of SkyRL's virtual environment."""
_START_S = 120


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


class SkyRLServer:
    """Serves one model; the database and the checkpoints in `folder` are there again when it is started again."""

    def __init__(self, model: Path, folder: Path) -> None:
        self.model, self.folder, self.port = model, folder, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        venv = Path(os.environ[VARIABLE]).absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        environment = {
            **os.environ,
            "VIRTUAL_ENV": str(venv),
            "PATH": f"{venv / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(venv / "shim"),
            "JAX_PLATFORMS": "cpu",
            "HF_HUB_OFFLINE": "1",
            "UV_OFFLINE": "1",
            "JAX_COMPILATION_CACHE_DIR": str(venv / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        sizes = {
            "max_lora_adapters": 8,
            "max_lora_rank": 8,
            "sample_max_num_sequences": 64,
            "train_micro_batch_size": 64,
        }
        command = ["uv", "run", "--no-project", "-m", "skyrl.tinker.api", "--backend", "jax"]
        command += ["--base-model", str(self.model), "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-config", json.dumps(sizes), "--database-url", f"sqlite:///{self.folder / 'tinker.db'}"]
        command += ["--checkpoints-base", str(self.folder / "saved")]
        with (self.folder / "log.txt").open("ab") as log:
            self._process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, start_new_session=True, cwd=self.folder
            )
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                urllib.request.urlopen(f"{self.url}/api/v1/healthz", timeout=2).close()
                return
            except OSError:
                time.sleep(0.5)
        log = (self.folder / "log.txt").read_text(errors="replace")[-2000:]
        self.kill()
        raise RuntimeError(f"SkyRL's server did not start:\n{log}")

    def stop(self) -> None:
        """End it as a user would; it ends its engine."""
        if self._process is not None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=30)
            self.kill()

    def kill(self) -> None:
        """Kill the server with its engine, without notice."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
