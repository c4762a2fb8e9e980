"""Find and prepare lm-eval's tasks as its command line does: seeds, few-shot settings, requests."""

from __future__ import annotations

import contextlib
import difflib
import functools
import io
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from harness.core import hub
from harness.core.errors import ConfigError, DataError, UnknownNameError
from harness.core.extras import require
from harness.core.types import Message

# The seeds that lm-eval's command line gives Python and numpy; some tasks shuffle their choices with them.
PYTHON_SEED, NUMPY_SEED = 0, 1234


class Settings(Protocol):
    """The settings that change the requests of a task."""

    @property
    def include_path(self) -> str: ...
    @property
    def num_fewshot(self) -> int | None: ...
    @property
    def fewshot_seed(self) -> int: ...
    @property
    def apply_chat_template(self) -> bool: ...
    @property
    def fewshot_as_multiturn(self) -> bool | None: ...
    @property
    def system_instruction(self) -> str: ...
    @property
    def run_unsafe_code(self) -> bool: ...


@dataclass(frozen=True)
class Loaded:
    """Return the tasks of a name with their requests, and the groups among them."""

    tasks: Mapping[str, Any]
    groups: Mapping[str, Any]


def check_name(name: str, settings: Settings) -> None:
    require("lm-eval", f"the task 'lm_eval:{name}'")
    index = _manager(settings.include_path).task_index
    if not name:
        raise ConfigError(
            "lm_eval is a family of tasks; name one, such as lm_eval:gsm8k (`lm-eval ls tasks` lists them)"
        )
    if name not in index:
        # There are thousands: too many to list, or to compare each with the name.
        near = difflib.get_close_matches(name, [known for known in index if known[:1] == name[:1]])
        if near:
            raise UnknownNameError("task of lm-eval", name, near)
        raise ConfigError(f"lm-eval has no task {name!r} and none with a similar name; `lm-eval ls tasks` lists them")


@functools.cache
def load(name: str, settings: Settings) -> Loaded:
    """Load once per name and settings: reading the data and building the prompts is slow."""
    manager = _manager(settings.include_path)
    with _seeded(), hub.offline_if_unreachable() as no_hub:
        try:
            found = manager.load([name])
        except Exception as error:  # an unavailable dataset raises many types of errors
            text = str(error).strip().splitlines()
            reason = f"{type(error).__name__}: {text[0] if text else ''}"
            advice = f"; the hub can't be reached ({no_hub}): run this once with a network" if no_hub else ""
            raise DataError(f"lm-eval can't load its task {name!r}: {reason}{advice}") from error
        for member, task in found["tasks"].items():
            _refuse(member, task, settings)
            _prepare(task, settings)
    return Loaded(found["tasks"], found["groups"])


@functools.cache
def _manager(include_path: str) -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=include_path if include_path else None)


def _refuse(name: str, task: Any, settings: Settings) -> None:
    if getattr(task, "UNSAFE_CODE", False) and not settings.run_unsafe_code:
        raise ConfigError(
            f"lm-eval's task {name!r} executes the model's programs in this process, without a sandbox; set "
            "run_unsafe_code in the task's table to allow it, or use a task of this project, which has a sandbox"
        )
    if getattr(task, "MULTIMODAL", False):
        raise ConfigError(f"lm-eval's task {name!r} has images or audio, which no engine here supports")


def _prepare(task: Any, settings: Settings) -> None:
    own = task.get_config("num_fewshot")
    if settings.num_fewshot is None and own is None:
        task.set_config(key="num_fewshot", value=0)
    elif settings.num_fewshot is not None and own != 0:  # a task with 0 keeps 0
        task.set_config(key="num_fewshot", value=settings.num_fewshot)
    task.set_fewshot_seed(seed=settings.fewshot_seed)
    is_chat, are_turns = settings.apply_chat_template, settings.fewshot_as_multiturn
    with contextlib.redirect_stderr(io.StringIO()):  # hide its progress bar
        task.build_all_requests(
            system_instruction=settings.system_instruction if settings.system_instruction else None,
            apply_chat_template=is_chat,
            fewshot_as_multiturn=are_turns if are_turns is not None else is_chat,
            chat_template=_Conversation if is_chat else None,
            tokenizer_name="harness" if is_chat else "",
        )


class _Conversation(str):
    """Messages that lm-eval handles as a prompt string; the engine applies its chat template later."""

    turns: Sequence[Mapping[str, str]]

    def __new__(cls, turns: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> _Conversation:  # noqa: ARG004
        made = super().__new__(cls, "\n\n".join(turn["content"] for turn in turns))
        made.turns = turns
        return made


def turns_of(context: str) -> tuple[Message, ...] | None:
    """Return the messages of a prompt that is a conversation."""
    if not isinstance(context, _Conversation):
        return None
    return tuple(Message(turn["role"], turn["content"]) for turn in context.turns)


@contextlib.contextmanager
def _seeded() -> Iterator[None]:
    """Seed Python's and numpy's generators as lm-eval's command line does, and restore them afterwards."""
    import numpy as np

    states = random.getstate(), np.random.get_state()
    random.seed(PYTHON_SEED)
    np.random.seed(NUMPY_SEED)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
