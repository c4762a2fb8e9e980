"""A Tinker server in this process: the client's methods on a model with adapters, and a health page on loopback.

A test sets how it reduces losses, which calls fail, and when it goes away and comes back.
"""

from __future__ import annotations

import copy
import io
import json
import tarfile
import threading
import time
from concurrent.futures import Future
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save

from harness.core.protocols import ModelSource
from harness.models.loading import load_module, resolve
from harness.trainers.backends.tinker.adapter import ALPHA, PROJECTIONS
from harness.trainers.config import LoraConfig
from harness.trainers.policy.lora import Adapters

_PREFIX = "base_model.model."


def _done(value: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(value)
    return future


class FakeTinker:
    """`reduction` and `gives_norm` are the server's; what is saved outlives a time that it is away."""

    def __init__(self, *, model: str = "countdown-tiny", reduction: str = "sum", gives_norm: bool = True) -> None:
        self.model, self.reduction, self.gives_norm = model, reduction, gives_norm
        self.base = load_module(ModelSource(resolve(model), dtype="float32", device="cpu"))
        self.states: dict[str, Any] = {}
        self.archives: dict[str, bytes] = {}
        self.loaded: list[Any] = []
        self.n_created = 0
        self.calls: list[str] = []
        self.errors: dict[str, Exception] = {}
        """An error to raise for the calls of a name."""
        self.is_away = False
        self.keys: list[str] = []
        self.params: list[Any] = []
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def _handler(self) -> Any:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if fake.is_away:
                    self.connection.close()
                    return
                body = fake.archives.get(self.path.rpartition("/")[2], b"{}")
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        return Handler

    def answer(self, name: str, make: Any) -> Future[Any]:
        """Count a call; raise its error, answer it, or never answer while the server is away."""
        self.calls.append(name)
        if self.is_away:
            return Future()
        if name in self.errors:
            future: Future[Any] = Future()
            future.set_exception(self.errors[name])
            return future
        return _done(make())

    def forget_clients(self) -> None:
        """Lose what is in memory, as a server that is started again does."""
        for client in self.loaded:
            client.is_lost = True
        self.loaded.clear()

    # --- the client's ServiceClient

    def service(self, base_url: str, key: str) -> FakeService:
        assert base_url == self.url
        self.keys.append(key)
        return FakeService(self)

    def unload(self, client: FakeTraining) -> None:
        self.calls.append("unload")
        self.loaded.remove(client)


class FakeService:
    def __init__(self, fake: FakeTinker) -> None:
        self._fake = fake

    def get_server_capabilities(self) -> Any:
        listed = [SimpleNamespace(model_name=self._fake.model), SimpleNamespace(model_name="Qwen/Qwen3-8B")]
        return self._fake.answer("capabilities", lambda: SimpleNamespace(supported_models=listed)).result()

    def create_lora_training_client(self, base_model: str, rank: int, seed: int, train_unembed: bool) -> FakeTraining:
        assert not train_unembed, "the adapters are those of the seven projections"
        return self._fake.answer("create", lambda: FakeTraining(self._fake, rank, seed)).result()

    def create_training_client_from_state_with_optimizer(self, path: str) -> FakeTraining:
        return self._from_state(path, with_optimizer=True)

    def create_training_client_from_state(self, path: str) -> FakeTraining:
        return self._from_state(path, with_optimizer=False)

    def _from_state(self, path: str, *, with_optimizer: bool) -> FakeTraining:
        def make() -> FakeTraining:
            state = self._fake.states[path]
            client = FakeTraining(self._fake, state["rank"], 0)
            client.load(state, with_optimizer=with_optimizer)
            return client

        return self._fake.answer("resume", make).result()

    def create_sampling_client(self, base_model: str | None = None, model_path: str | None = None) -> FakeSampler:
        assert (base_model is None) != (model_path is None)
        return self._fake.answer("sampler", lambda: FakeSampler(self._fake, self._fake.base)).result()

    def create_rest_client(self) -> Any:
        fake = self._fake

        def delete(run: str, name: str) -> Future[None]:
            kind, _, own = name.partition("/")
            path = f"tinker://{run}/{name}" if kind == "weights" else f"tinker://{run}/{own}"
            return fake.answer("delete", lambda: (fake.states.pop(path, None), fake.archives.pop(own, None)))

        return SimpleNamespace(
            get_checkpoint_archive_url=lambda run, name: fake.answer(
                "archive", lambda: SimpleNamespace(url=f"{fake.url}/archive/{name}")
            ),
            delete_checkpoint=delete,
        )


class FakeTraining:
    """A training client: adapters on a copy of the base, their gradient and AdamW."""

    def __init__(self, fake: FakeTinker, rank: int, seed: int) -> None:
        self._fake, self._rank = fake, rank
        fake.n_created += 1
        self.model_id, self.is_lost = f"model-{fake.n_created}", False
        self.module = copy.deepcopy(fake.base)
        config = LoraConfig(rank=rank, alpha=ALPHA, target_modules=PROJECTIONS)
        self._adapters = Adapters(self.module, config, seed, fake.model)
        for parameter in self.module.parameters():
            parameter.requires_grad_(False)
        self._own = self._adapters.parameters()
        for parameter in self._own.values():
            parameter.requires_grad_(True)
        self._optimizer = torch.optim.AdamW(self._own.values(), weight_decay=0.0)
        self._passed: list[tuple[torch.Tensor, int]] = []
        fake.loaded.append(self)

    def _answer(self, name: str, make: Any) -> Future[Any]:
        if self.is_lost:
            future: Future[Any] = Future()
            future.set_exception(RuntimeError(f"Model {self.model_id} not loaded"))
            return future
        return self._fake.answer(name, make)

    def _logprobs(self, datum: Any) -> torch.Tensor:
        ids = torch.tensor([datum.model_input.to_ints()])
        targets = torch.tensor(datum.loss_fn_inputs["target_tokens"].data)
        logits = self.module(input_ids=ids, use_cache=False).logits[0].float()
        return torch.log_softmax(logits, -1).gather(-1, targets[:, None])[:, 0]

    def forward(self, data: Any, loss: str) -> Future[Any]:
        assert loss == "cross_entropy"

        def make() -> Any:
            with torch.no_grad():
                return _output([self._logprobs(datum) for datum in data])

        return self._answer("forward", make)

    def forward_backward(self, data: Any, loss: str) -> Future[Any]:
        assert loss == "importance_sampling", "other losses normalise by weights of any sign"

        def make() -> Any:
            rows = []
            for datum in data:
                now = self._logprobs(datum)
                then, advantages = (torch.tensor(datum.loss_fn_inputs[k].data) for k in ("logprobs", "advantages"))
                total = -((now - then).exp() * advantages).sum()
                self._passed.append((total, len(now)))
                rows.append(now.detach())
            return _output(rows)

        return self._answer("forward_backward", make)

    def optim_step(self, params: Any) -> Future[Any]:
        def make() -> Any:
            self._fake.params.append(params)
            self._optimizer.zero_grad()
            n, tokens = len(self._passed), sum(length for _, length in self._passed)
            share = {"sum": lambda m: 1, "mean_of_means": lambda m: m * n, "token_mean": lambda m: tokens}
            scale = share.get(self._fake.reduction, lambda m: m)
            sum(total / scale(length) for total, length in self._passed).backward()
            self._passed.clear()
            norm = torch.nn.utils.get_total_norm([p.grad for p in self._own.values()])
            for group in self._optimizer.param_groups:
                group |= {"lr": params.learning_rate, "betas": (params.beta1, params.beta2), "eps": params.eps}
                group["weight_decay"] = params.weight_decay
            self._optimizer.step()
            return SimpleNamespace(metrics={"skyrl.ai/grad_norm": float(norm)} if self._fake.gives_norm else None)

        return self._answer("optim_step", make)

    # --- what is saved

    def load(self, state: Any, *, with_optimizer: bool) -> None:
        with torch.no_grad():
            for name, parameter in self._own.items():
                parameter.copy_(state["adapters"][name])
        if with_optimizer:
            self._optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))

    def save_state(self, name: str, overwrite: bool) -> Future[Any]:
        def make() -> Any:
            path = f"tinker://{self.model_id}/weights/{name}"
            self._fake.states[path] = {
                "rank": self._rank,
                "adapters": {key: p.detach().clone() for key, p in self._own.items()},
                "optimizer": copy.deepcopy(self._optimizer.state_dict()),
            }
            return SimpleNamespace(path=path)

        return self._answer("save_state", make)

    def save_weights_for_sampler(self, name: str) -> Future[Any]:
        def make() -> Any:
            weights = {_PREFIX + key.replace(".default.", "."): p.detach().contiguous() for key, p in self._own.items()}
            settings = {"r": self._rank, "lora_alpha": ALPHA, "peft_type": "LORA", "target_modules": None}
            self._fake.archives[name] = _archive(
                {"adapter_config.json": json.dumps(settings).encode(), "adapter_model.safetensors": save(weights)}
            )
            return SimpleNamespace(path=f"tinker://{self.model_id}/{name}")

        return self._answer("save_weights_for_sampler", make)

    def save_weights_and_get_sampling_client(self) -> FakeSampler:
        def make() -> FakeSampler:
            merged = copy.deepcopy(self._fake.base)
            merged.load_state_dict(dict(self._adapters.merged_tensors()))
            return FakeSampler(self._fake, merged)

        return self._answer("sampler", make).result()


class FakeSampler:
    def __init__(self, fake: FakeTinker, module: Any) -> None:
        self._fake, self._module = fake, module

    def sample(self, prompt: Any, num_samples: int, params: Any) -> Future[Any]:
        assert num_samples == 1, "each completion has its own seed"
        return self._fake.answer("sample", lambda: SimpleNamespace(sequences=[self._sequence(prompt, params)]))

    @torch.no_grad()
    def _sequence(self, prompt: Any, params: Any) -> Any:
        ids, logprobs = prompt.to_ints(), []
        n_prompt, generator = len(ids), torch.Generator().manual_seed(params.seed)
        while len(ids) - n_prompt < params.max_tokens:
            logits = self._module(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].float()
            logp = torch.log_softmax(logits, -1)
            if params.temperature == 0:
                chosen = int(logp.argmax())
            else:
                chosen = int(torch.multinomial((logits / params.temperature).softmax(-1), 1, generator=generator))
            ids = [*ids, chosen]
            logprobs.append(float(logp[chosen]))
            if chosen in params.stop:
                break
        return SimpleNamespace(tokens=ids[n_prompt:], logprobs=logprobs)


def _output(rows: list[torch.Tensor]) -> Any:
    return SimpleNamespace(loss_fn_outputs=[{"logprobs": SimpleNamespace(data=row.tolist())} for row in rows])


def _archive(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(content), int(time.time())
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()
