"""A whole run of verl on a processor, started as `python verl_run.py SETTINGS`: real Ray, queue, trainer and workers.

Only the sampling is made up: there is no server, and completions come from `transformers` with the weights of the base
model. Everything after it is verl's own: its agent loop's bookkeeping, its reward workers with our grader, its trainer
with our subclass, its actor and reference workers over gloo.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import types
from pathlib import Path
from typing import Any

import verl_cpu

if os.environ.get("HARNESS_TEST_VERL_CPU"):  # named in VERL_USE_EXTERNAL_MODULES: every process of the run
    verl_cpu.use_cpu()
    verl_cpu.without_an_accelerator()


class AgentLoops:
    """In the place of verl's manager of agent loops."""

    @classmethod
    def create(cls, config: Any, reward_loop_worker_handles: Any, **_: Any) -> AgentLoops:
        return cls(config, reward_loop_worker_handles)

    def __init__(self, config: Any, rewards: Any) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopWorkerTQ

        path = config.actor_rollout_ref.model.path
        self._config, self._model = config.actor_rollout_ref.rollout, AutoModelForCausalLM.from_pretrained(path)
        self._tokenizer = AutoTokenizer.from_pretrained(path)
        worker_class = AgentLoopWorkerTQ.__ray_metadata__.modified_class
        self._worker = worker_class.__new__(worker_class)
        parts = {
            "reward_loop_worker_handles": rewards,
            "processor": None,
            "distillation_enabled": False,
            "mm_processor_kwargs": None,
        }
        self._worker.__dict__.update(parts, tokenizer=self._tokenizer, config=config)

    def generate_sequences(self, prompts: Any) -> None:
        asyncio.run(self._generate(prompts))

    async def _generate(self, prompts: Any) -> None:
        import transfer_queue as tq
        from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics, AgentLoopOutput

        for i in range(len(prompts)):
            columns = {name: _one(prompts[name], i) for name in prompts.keys()}  # noqa: SIM118
            ids, outputs, logps = self._sample(columns["raw_prompt"])
            for session, (output, logp) in enumerate(zip(outputs, logps, strict=True)):
                made = AgentLoopOutput(
                    prompt_ids=ids,
                    response_ids=output,
                    response_mask=[1] * len(output),
                    response_logprobs=logp,
                    num_turns=2,
                    metrics=AgentLoopMetrics(),
                    extra_fields={"min_global_steps": 0, "max_global_steps": 0},
                )
                await self._worker._agent_loop_postprocess(made, False, session_id=session, **columns)
            await tq.async_kv_put(key=columns["uid"], partition_id="train", tag={"status": "finished"})

    def _sample(self, messages: Any) -> tuple[list[int], list[list[int]], list[list[float]]]:
        import torch

        text = self._tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        ids = self._tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
        found = self._model.generate(
            ids,
            do_sample=True,
            top_k=0,
            temperature=self._config.temperature,
            num_return_sequences=self._config.n,
            max_new_tokens=self._config.response_length,
            return_dict_in_generate=True,
            output_scores=True,
            pad_token_id=self._tokenizer.pad_token_id,
        )
        logps = torch.log_softmax(torch.stack(found.scores, 1).float(), -1)
        outputs, values = [], []
        for row, logp in zip(found.sequences[:, ids.shape[1] :].tolist(), logps, strict=True):
            end = row.index(self._tokenizer.eos_token_id) + 1 if self._tokenizer.eos_token_id in row else len(row)
            outputs.append(row[:end])
            values.append([float(logp[t, token]) for t, token in enumerate(row[:end])])
        return ids[0].tolist(), outputs, values


def _one(column: Any, index: int) -> Any:
    import torch

    value = column if not hasattr(column, "__getitem__") or isinstance(column, str) else column[index]
    return value if isinstance(value, torch.Tensor) else getattr(value, "data", value)


def register_trainer() -> None:
    """Register our trainer without what needs a server."""
    from verl.trainer.ppo.v1 import trainer_base

    from harness.trainers.backends.verl.trainer import ObjectiveTrainer

    nothing = types.SimpleNamespace(update_weights=lambda *_: None, sleep_replicas=lambda: None)
    servers = types.SimpleNamespace(get_replicas=list, get_client=lambda: None)
    trainer_base.CheckpointEngineManager = lambda **_: nothing
    trainer_base.LLMServerManager = types.SimpleNamespace(create_empty=lambda **_: servers)

    class CpuTrainer(ObjectiveTrainer):
        def _setup(self) -> None:
            self._enable_hybrid_replicas = False
            super()._setup()

    trainer_base.register_trainer("harness_cpu")(CpuTrainer)


def run(settings: list[str], environment: dict[str, str]) -> None:
    import ray
    from verl.trainer.main_ppo import TaskRunnerV1

    from harness.trainers.backends.verl.main import compose

    extra = {
        "+actor_rollout_ref.rollout.agent.agent_loop_manager_class": "verl_run.AgentLoops",
        "trainer.device": "cpu",
        "trainer.v1.trainer_mode": "harness_cpu",
        "actor_rollout_ref.model.external_lib": "verl_cpu_engines",
        "actor_rollout_ref.actor.fsdp_config.use_torch_compile": "false",
        "reward.num_workers": "1",
    }
    config = compose([*settings, *(f"{name}={value}" for name, value in extra.items())])
    ray.init("local", num_cpus=16, num_gpus=2, include_dashboard=False, runtime_env={"env_vars": environment})
    register_trainer()
    TaskRunnerV1.__ray_metadata__.modified_class().run(config)
    ray.shutdown()


if __name__ == "__main__":
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    run(job["settings"], job["environment"])
