"""Prompt templates of the benchmarks: the exact text of each, and its source."""

from __future__ import annotations

import re
from dataclasses import dataclass

from harness.core.types import Message

PLACEHOLDER = "{problem}"


@dataclass(frozen=True, slots=True)
class Prompt:
    """An optional system message and a user message with placeholders such as `{problem}`."""

    user: str
    source: str
    system: str | None = None

    def messages(self, **values: str) -> tuple[Message, ...]:
        """Return the messages with placeholders filled in one pass: braces in a value are left alone."""
        system = (Message("system", self.system),) if self.system is not None else ()
        placeholder = re.compile(r"\{(" + "|".join(values) + r")\}")
        return (*system, Message("user", placeholder.sub(lambda found: values[found.group(1)], self.user)))


_BOXED = "Please reason step by step, and put your final answer within \\boxed{}."

_DAPO = (
    "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
    "$Answer (without quotes) where $Answer is the answer to the problem.\n\n{problem}\n\nRemember to put your "
    'answer on its own line after "Answer:".'
)
_OTHERS = {
    "qwen-math": Prompt(PLACEHOLDER, "Qwen2.5-Math's qwen25-math-cot (QwenLM/Qwen2.5-Math evaluation)", system=_BOXED),
    "deepseek-r1": Prompt(
        f"{PLACEHOLDER}\n{_BOXED}",
        "DeepSeek-R1's usage recommendations: no system message (deepseek-ai/DeepSeek-R1 README)",
    ),
    "simple": Prompt(f"{PLACEHOLDER}\n\nPut the final answer in \\boxed{{}}.", "this project"),
    "lm-eval-aime": Prompt(f"Question: {PLACEHOLDER}\nAnswer:", "lm-eval's aime tasks"),
    "lm-eval-gsm8k": Prompt(
        f"Question: {PLACEHOLDER}\nAnswer:", "lm-eval's gsm8k, which shows five examples before it"
    ),
    "lm-eval-math": Prompt(f"Problem: {PLACEHOLDER}\nAnswer:", "lm-eval's hendrycks_math tasks"),
}


def maths_prompts(flowrl: str = _DAPO) -> dict[str, Prompt]:
    """Return the prompts of a maths task. A task of its own file spells out the default one, `flowrl`."""
    source = (
        "DAPO's template (arXiv 2503.14476, BytedTsinghua-SIA/DAPO eval/aime-2024.parquet), which FlowRL trains and "
        "evaluates with"
    )
    return {"flowrl": Prompt(flowrl, source), **_OTHERS}


MATHS = maths_prompts()

FORMAT = "{format}"
_EXPERT = (
    "You are an expert Python programmer. You will be given a question (problem specification) and will generate a "
    "correct Python program that matches the specification and passes all tests."
)
_STARTER = (
    "You will use the following starter code to write the solution to the problem and enclose your code within "
    "delimiters.\n```python\n{starter_code}\n```\n\n"
)
_STDIN = (
    "Read the inputs from stdin solve the problem and write the answer to stdout (do not directly test on the sample "
    "inputs). Enclose your code within delimiters as follows. Ensure that when the python program runs, it reads the "
    "inputs, runs the algorithm and writes output to STDOUT.\n```python\n# YOUR CODE HERE\n```\n\n"
)

PROGRAMS = {
    "flowrl": Prompt(
        f"{_EXPERT}\n\n{PLACEHOLDER}### Format: {FORMAT}### Answer: (use the provided format with backticks)\n\n",
        "rllm's fetch_live_code_bench_system_prompt (rllm/data/utils.py), which FlowRL's code data are made with",
    ),
    "lcb-official": Prompt(
        f"### Question:\n{PLACEHOLDER}\n\n### Format: {FORMAT}### Answer: (use the provided format with backticks)\n\n",
        "LiveCodeBench's generic chat prompt (lcb_runner/prompts/code_generation.py)",
        system=_EXPERT,
    ),
    "deepseek-r1": Prompt(
        f"{_EXPERT.removeprefix('You are an expert Python programmer. ')}\n\nQuestion: {PLACEHOLDER}\n\n{FORMAT}",
        "LiveCodeBench's prompt for DeepSeek-R1, without the template it is wrapped in there",
    ),
    "simple": Prompt(f"{PLACEHOLDER}\n\n{FORMAT}", "this project"),
}


def program_format(starter_code: str) -> str:
    """Return the instruction on the form of the answer: complete the starter code, or read stdin."""
    return _STARTER.replace("{starter_code}", starter_code) if starter_code else _STDIN


FUNCTIONS = {
    "simple": Prompt(
        "Please provide a self-contained Python script that solves the following problem in a markdown code block:\n"
        f"```python\n{PLACEHOLDER}\n```",
        "evalplus' prompt for a server (evalplus/provider/openai.py); a local model gets the reply's beginning too",
    ),
    "flowrl": Prompt(
        f"{_EXPERT}\n\n```python\n{PLACEHOLDER}\n```\n\nComplete the function and give the whole of it in one "
        "```python block.",
        "the preamble of rllm's code prompts before evalplus' prompt field; the released data were not available",
    ),
}

_LETTERED = "{problem}\n\nA) {A}\nB) {B}\nC) {C}\nD) {D}"

CHOICES = {
    "simple": Prompt(
        "Answer the following multiple choice question. The last line of your response should be of the following "
        "format: 'Answer: $LETTER' (without quotes) where LETTER is one of ABCD. Think step by step before answering."
        f"\n\n{_LETTERED}",
        "openai/simple-evals (common.py), which DeepSeek-R1's and Qwen's reports use",
    ),
    "deepseek-r1": Prompt(
        f"{_LETTERED}\n\nPlease reason step by step, and put the letter of your answer within \\boxed{{}}.",
        "DeepSeek-R1's usage recommendations, for a letter",
    ),
}

QUESTIONS = {
    "simple": Prompt(PLACEHOLDER, "openai/simple-evals (simpleqa_eval.py): the question alone"),
}

EXACT_ANSWERS = {
    "simple": Prompt(
        PLACEHOLDER,
        "the system prompt of HLE's own evaluation (centerforaisafety/hle hle_eval)",
        system="Your response should be in the following format:\nExplanation: {your explanation for your answer "
        "choice}\nAnswer: {your chosen answer}\nConfidence: {your confidence score between 0% and 100% for your "
        "answer}",
    ),
}
