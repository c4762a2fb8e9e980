"""`harness show` of tasks and problems; what else it shows is in test_cli."""

import pytest
from command_output import output

from harness.commands import show
from harness.core import config as configs
from harness.core.recipes import recipes

pytestmark = pytest.mark.usefixtures("mirror")


def test_show_prints_the_card_the_files_the_prompts_and_the_errata(capsys):
    printed = output(capsys, "show", "minerva").out
    for part in ("svc-huggingface/minerva-math/test.jsonl", "126: the box has a plus", "qwen-math: Qwen2.5-Math's"):
        assert part in printed


@pytest.mark.parametrize("preset", ["flowrl", "qwen-math", "deepseek-r1", "simple"])
def test_show_prints_a_problem_as_a_preset_asks_it(capsys, preset):
    printed = output(capsys, "show", "aime24", "--problem", "1", "--preset", preset).out
    task = configs.parse_plugin("tasks", {"id": "aime24", "prompt": preset}).build()
    problem = list(task.problems("test", 0))[1]
    asked = "\n\n".join(f"[{message.role}]\n{message.content}" for message in problem.messages)
    assert f"problem {problem.id} ()\n\n{asked}\n\n[reference]" in printed


@pytest.mark.parametrize(
    ("command", "match"),
    [
        (["--problem", "2"], "no problem number 2"),
        (["--problem", "-1"], "counted from 0"),
        (["--problem", "0", "--split", "train"], "no train split"),
        (["--problem", "0", "--preset", "qwen"], "there is flowrl, qwen-math"),
    ],
)
def test_show_refuses_problems_and_presets_that_do_not_exist(capsys, command, match):
    assert match in output(capsys, "show", "aime24", *command, code=2).err


OURS = "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} {% endfor %}<assistant>"


def model(folder, template):
    """A tokenizer that puts a BOS before every text by itself, with a chat template of ours."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = [
        "[UNK]",
        "<s>",
        "</s>",
        "<think>",
        "<user>",
        "<system>",
        "<assistant>",
        "What",
        "is",
        "+",
        "?",
        "1",
        "2",
        "4",
    ]
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="[UNK]",
        additional_special_tokens=["<think>"],
    )
    fast.chat_template = template
    fast.save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return str(folder)


@pytest.mark.parametrize(
    ("template", "bos", "reasoning"),
    [
        (OURS, "0", "left to the model"),
        ("{{ bos_token }}" + OURS, "1", "left to the model"),
        ("{{ bos_token }}{{ bos_token }}" + OURS, "2 (one too many)", "left to the model"),
        ("{{ bos_token }}" + OURS + " <think>\n", "1", "opened by the template"),
    ],
)
def test_show_prints_a_problem_as_a_models_template_writes_it(tmp_path, capsys, template, bos, reasoning):
    path = model(tmp_path / "model", template)
    printed = output(capsys, "show", "aime24", "--problem", "0", "--preset", "qwen-math", "--model", path).out
    facts = dict(line.strip().split(": ", 1) for line in printed.partition("about it:\n")[2].splitlines()[:4])
    assert facts["leading BOS tokens"] == bos
    assert facts["reasoning"] == reasoning
    assert facts["system message"] == "the task's"
    written = printed.partition("reads it]\n")[2].partition("\n\nabout it")[0]
    assert written.count("<s>") == int(bos[0])
    assert len(written.split()) == int(facts["tokens"])


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("countdown", ["task countdown", "grader countdown"]),
        ("flowrl", ["objective flowrl", "FlowRL's evaluation, as its code was released"]),
        ("tasks/countdown", ["task countdown"]),
        ("recipes/countdown-grpo", ["GRPO on countdown"]),
    ],
)
def test_show_prints_everything_of_a_name(capsys, name, parts):
    printed = output(capsys, "show", name).out.split(show.SEPARATOR)
    assert len(printed) == len(parts)
    assert all(part in text for part, text in zip(parts, printed, strict=True))


def test_recipes_are_listed_with_a_sentence_each(capsys):
    listed = output(capsys, "list", "recipes").out.splitlines()
    assert [line.split()[0] for line in listed] == list(recipes())
    assert any(line.endswith("FlowRL on countdown with the bundled base") for line in listed)
    assert all(len(line) < 150 for line in listed)
