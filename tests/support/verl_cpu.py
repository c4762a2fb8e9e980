"""verl on a processor: a platform of its own kind, its FSDP2 engine over gloo, and a worker as verl starts it.

verl ships platforms for accelerators alone. Here a process of `python verl_cpu.py INPUT OUTPUT` is one rank: it makes
verl's own TrainingWorker with our engine, sends it batches, and saves losses, gradients and weights.
"""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

CPU = types.SimpleNamespace(
    max_memory_allocated=lambda: 0,
    max_memory_reserved=lambda: 0,
    memory_allocated=lambda: 0,
    memory_reserved=lambda: 0,
    mem_get_info=lambda: (0, 0),
    current_device=lambda: 0,
    get_device_name=lambda *_: "cpu",
    set_device=lambda _: None,
    empty_cache=lambda: None,
    synchronize=lambda *_: None,
    is_available=lambda: True,
    get_rng_state=torch.get_rng_state,
    set_rng_state=torch.set_rng_state,
)
"""The part of the module torch.cuda that the engine calls."""


def use_cpu() -> None:
    """Register the platform and the engines for it. Called before any other part of verl is imported."""
    os.environ["VERL_PLATFORM"] = "cpu"
    from verl.plugin.platform import platform_base
    from verl.plugin.platform.platform_manager import PlatformRegistry

    @contextlib.contextmanager
    def nothing(_self: Any, _name: str) -> Iterator[None]:
        yield

    answers = {
        "is_available": True,
        "current_device": "cpu",
        "device_count": 1,
        "set_device": None,
        "synchronize": None,
        "manual_seed": None,
        "manual_seed_all": None,
        "set_allocator_settings": None,
        "empty_cache": None,
        "get_device_capability": (None, None),
        "communication_backend_name": "gloo",
        "visible_devices_envvar": "CUDA_VISIBLE_DEVICES",
        "profiler_start": None,
        "profiler_stop": None,
        "ray_resource_name": "GPU",  # as many as the test claims to have
        "ray_noset_envvars": [],
        "is_ipc_supported": False,
        "cudart": None,
    }
    methods: dict[str, Any] = {
        name: functools.partialmethod(lambda _self, answer, *_: answer, answer) for name, answer in answers.items()
    }
    constants = {"device_name": "cpu", "vendor_name": "none", "device_module": CPU}
    properties = {name: property(lambda _self, value=value: value) for name, value in constants.items()}
    platform = type("Cpu", (platform_base.PlatformBase,), {**methods, **properties, "nvtx_range": nothing})
    PlatformRegistry.register(platform="cpu")(platform)


def without_an_accelerator() -> None:
    """verl asks for one backend for the processor and one for the device, which are the same here, and pins memory."""
    torch.Tensor.pin_memory = lambda self, *_: self
    original = torch.distributed.init_process_group

    def init_process_group(backend: str | None = None, **options: Any) -> None:
        original("gloo" if backend == "cpu:gloo,cpu:gloo" else backend, **options)

    torch.distributed.init_process_group = init_process_group


def register_engines() -> None:
    from verl.workers.engine import EngineRegistry

    from harness.trainers.backends.verl.engine import ObjectiveEngine
    from harness.trainers.backends.verl.run import MODEL_TYPE

    EngineRegistry.register(model_type=MODEL_TYPE, backend=["fsdp2"], device="cpu")(ObjectiveEngine)


# --- the parent: starts the ranks -------------------------------------------------------------------------------


def run_ranks(jobs: Sequence[Mapping[str, Any]], folder: Path, n_ranks: int) -> list[list[Any]]:
    """Run jobs in `n_ranks` processes, which take 20 s to start; return by job the results of each rank."""
    torch.save(list(jobs), folder / "jobs.pt")
    children = [
        subprocess.Popen(
            [sys.executable, __file__, str(folder / "jobs.pt"), str(folder / f"rank-{rank}.pt")],
            env={**os.environ, **_rank_variables(rank, n_ranks, folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(n_ranks)
    ]
    outputs = [child.communicate(timeout=540)[0] for child in children]
    for child, output in zip(children, outputs, strict=True):
        assert child.returncode == 0, output[-4000:]
    by_rank = [torch.load(folder / f"rank-{rank}.pt", weights_only=False) for rank in range(n_ranks)]
    return [list(results) for results in zip(*by_rank, strict=True)]


def _rank_variables(rank: int, n_ranks: int, folder: Path) -> dict[str, str]:
    port = 20_000 + abs(hash((str(folder), n_ranks, os.getpid()))) % 20_000
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(n_ranks),
        "LOCAL_RANK": str(rank),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }


# --- a child: one rank ------------------------------------------------------------------------------------------


def make_worker(model: str) -> Any:
    from verl.trainer.config import CheckpointConfig
    from verl.workers.config import FSDPEngineConfig, FSDPOptimizerConfig, HFModelConfig, TrainingWorkerConfig
    from verl.workers.engine_workers import TrainingWorker

    from harness.trainers.backends.verl.run import MODEL_TYPE

    float32 = {"param_dtype": "fp32", "reduce_dtype": "fp32", "buffer_dtype": "fp32"}
    contents = ["model", "optimizer", "extra"]
    worker = TrainingWorker(
        TrainingWorkerConfig(
            model_type=MODEL_TYPE,
            model_config=HFModelConfig(
                path=model,
                use_remove_padding=False,
                enable_gradient_checkpointing=False,
                override_config={"attn_implementation": "sdpa"},
            ),
            engine_config=FSDPEngineConfig(
                strategy="fsdp2", mixed_precision=float32, use_torch_compile=False, use_dynamic_bsz=True
            ),
            optimizer_config=FSDPOptimizerConfig(lr=1.0, total_training_steps=10),
            checkpoint_config=CheckpointConfig(save_contents=contents, load_contents=contents),
            profiler_config=None,
        )
    )
    worker.reset()
    return worker


def gradients(engine: Any) -> dict[str, torch.Tensor]:
    """Return the whole gradients, of the model and of the objective."""
    found = {
        name: parameter.grad.full_tensor().clone()
        for name, parameter in engine.module.named_parameters()
        if parameter.grad is not None
    }
    own = engine.worker.objective.parameters()
    return found | {f"own.{i}.{j}": p.grad.clone() for i, g in enumerate(own) for j, p in enumerate(g.parameters)}


def keep_gradients(engine: Any) -> list[dict[str, torch.Tensor]]:
    """Record the gradients that every update steps with."""
    kept: list[dict[str, torch.Tensor]] = []
    engine.optimizer.register_step_pre_hook(lambda *_: kept.append(gradients(engine)))
    return kept


def run_job(job: Mapping[str, Any]) -> dict[str, Any]:
    from verl.utils import tensordict_utils as tu

    from harness.trainers.backends.verl.loss import objective_loss
    from harness.trainers.backends.verl.run import RUN_VARIABLE, run_config

    os.environ[RUN_VARIABLE] = job["run"]
    run_config.cache_clear()
    rank = int(os.environ["RANK"])
    worker = make_worker(job["model"])
    worker.set_loss_fn(objective_loss)
    kept = keep_gradients(worker.engine)
    share = job["shares"][rank]
    settings = {"temperature": job["temperature"], "max_token_len_per_gpu": job["tokens"], "use_dynamic_bsz": True}
    passed = tu.get_tensordict(nested(share, without=("old_log_probs", "ref_log_prob", "harness_")))
    tu.assign_non_tensor(passed, **settings, compute_loss=False, calculate_entropy=False, global_token_num=None)
    inferred = worker.infer_batch(passed)
    data = tu.get_tensordict(nested(share))
    tu.assign_non_tensor(
        data,
        **settings,
        calculate_entropy=job["entropy"],
        mini_batch_size=job["mini_batch_size"],
        epochs=job["epochs"],
        seed=1,
        dataloader_kwargs={"shuffle": False},
    )
    output = worker.train_mini_batch(data)
    found = {
        "world": torch.distributed.get_world_size(),
        "metrics": tu.get(output, "metrics"),
        "gradients": kept,
        "logp": [row.clone() for row in inferred["log_probs"].unbind()],
        "values": [row.clone() for row in inferred["values"].unbind()] if "values" in inferred.keys() else None,  # noqa: SIM118
        "weights": {name: tensor.clone() for name, tensor in worker.engine.get_per_tensor_param()[0]},
        "own": dict(worker.engine.worker.objective.state_dict()),
    }
    if job.get("checkpoint"):
        worker.save_checkpoint(job["checkpoint"], global_step=1)
        restored = make_worker(job["model"])
        restored.load_checkpoint(job["checkpoint"])
        found["restored"] = {name: tensor.clone() for name, tensor in restored.engine.get_per_tensor_param()[0]}
        found["restored_own"] = dict(restored.engine.worker.objective.state_dict())
        found["restored_optimizer"] = len(restored.engine.optimizer.state)
    return found


def nested(rows: Mapping[str, Sequence[torch.Tensor] | torch.Tensor], without: Sequence[str] = ()) -> dict[str, Any]:
    """Return lists of rows as verl's nested tensors, and tensors as they are."""
    return {
        name: torch.nested.as_nested_tensor(list(value), layout=torch.jagged) if isinstance(value, list) else value
        for name, value in rows.items()
        if not any(name.startswith(prefix) for prefix in without)
    }


if __name__ == "__main__":
    use_cpu()
    register_engines()
    without_an_accelerator()
    torch.save([run_job(job) for job in torch.load(sys.argv[1], weights_only=False)], sys.argv[2])
    torch.distributed.destroy_process_group()
