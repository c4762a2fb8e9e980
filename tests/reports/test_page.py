"""The page of a report: what is in the file, without a browser. `test_page_browser.py` opens it."""

import hashlib
import json
import re
from pathlib import Path

import pytest
from page_runs import (
    ATTACKS,
    Drawing,
    kept_group,
    make_pair,
    make_run,
    make_training,
    open_run,
    read_page,
    write_page,
)

from harness.cli import main
from harness.core.protocols import ModelSource
from harness.core.types import Completion, Tokens, Verdict
from harness.models.loading import load_tokenizer, resolve
from harness.reports.compare import compare
from harness.reports.page import build
from harness.reports.page.tokens import TokenTexts
from harness.reports.report import write_report
from harness.runs.folder import RunWriter

CHECKOUT = Path(__file__).parents[2]
EVAL = ["eval", "countdown-tiny", "--tasks", "countdown", "--engine", "scripted", "--n", "1", "--limit", "2", "--quiet"]


@pytest.fixture
def pair(tmp_path):
    return make_pair(tmp_path / "runs")


def index_of(page, task="sums"):
    found = next(one for one in page["main"]["tasks"] if one["id"] == task)
    return page["chunks"][found["chunk"]]


def texts_of(page, columns):
    return [row[0] for number in columns["chunks"] for row in page["chunks"][number]]


def test_every_sample_is_in_the_page_under_its_problem(tmp_path, pair):
    page = read_page(write_page(tmp_path / "out", pair).html)
    index = index_of(page)
    assert [run["label"] for run in page["main"]["runs"]] == ["strong", "weak"]
    strong, weak = index["runs"]
    assert strong["n"] == [4, 4, 4, 4] and len(weak["o"]) == 16
    place = strong["p"].index(index["problems"].index("p1"))
    start = sum(strong["n"][:place])
    assert texts_of(page, strong)[start : start + 4] == ["cut here"] * 4
    assert strong["f"][start : start + 4] == "1111" and strong["o"][start : start + 4] == "0000"
    assert index["groups"][weak["s"][start]] == "f"
    assert weak["g"] == {"legacy": "1333333333333333"}


def test_the_page_has_the_texts_of_models_only_packed(tmp_path, pair):
    page = read_page(write_page(tmp_path / "out", pair).html)
    kept = [text for columns in index_of(page)["runs"] for text in texts_of(page, columns)]
    for text in list(ATTACKS.values())[:8]:
        assert text in kept  # to the character, half a surrogate pair too
        assert text not in page["text"]


def test_pairs_have_the_numbers_of_compare(tmp_path, pair):
    page = read_page(write_page(tmp_path / "out", pair).html)
    [[one, other, n, first, second, difference, low, high, p]] = index_of(page)["pairs"]
    table = compare([pair[0]], [pair[1]], metric="avg_at_k", anyway=True)
    row = dict(zip(table.columns, table.rows[0], strict=True))
    assert (one, other, n) == (0, 1, row["problems"])
    assert (first, second, p) == pytest.approx((row["first"], row["second"], row["p"]), abs=1e-12)
    expected = row["difference"]
    assert (difference, low, high) == pytest.approx((expected.value, expected.low, expected.high), abs=1e-12)


def test_nothing_outside_the_file_is_named_and_only_its_own_script_runs(tmp_path, pair):
    text = write_page(tmp_path / "out", pair).html.read_text()
    script, style = (re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL).group(1) for tag in ("script", "style"))
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text).group(1)
    assert policy == build.policy(script, style, has_folder=False)
    assert "default-src 'none'" in policy and "unsafe" not in policy
    shell = text.replace(script, "").replace(style, "")
    assert not re.search(r'\b(src|href)=|type="module"|\son\w+=|style=', shell)
    assert not re.search(r"https?://|@import|url\(", style)
    assert not re.search(
        r"\bimport\s*\(|(?<!\.)\bfetch\((?!\))|XMLHttpRequest|new Worker|WebSocket|sendBeacon|eval\(", script
    )


def test_a_large_page_is_a_folder_with_the_same_values(tmp_path, pair):
    whole = read_page(write_page(tmp_path / "whole", pair).html)
    files = write_page(tmp_path / "parts", pair, most=100)
    parts = read_page(files.html)
    assert files.folder == tmp_path / "parts" / "report-data"
    assert parts["chunks"] == whole["chunks"]
    assert "'strict-dynamic'" in parts["text"] and "'strict-dynamic'" not in whole["text"].partition("<style>")[0]
    (files.folder / "999.js").write_text("of an earlier report")
    write_page(tmp_path / "parts", pair, most=100)
    assert not (files.folder / "999.js").exists()
    write_page(tmp_path / "parts", pair)
    assert not files.folder.exists()


def test_the_same_runs_give_the_same_bytes(tmp_path, pair):
    one, other = (write_page(tmp_path / name, pair).html.read_bytes() for name in ("one", "other"))
    assert one == other


def test_tables_plots_and_warnings_are_in_the_page(tmp_path, pair):
    plots = [Drawing("rates", "Solve rates", "<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>")]
    page = read_page(write_page(tmp_path / "out", pair, plots=plots, warnings=["UNSAFE: x"]).html)
    [table, _], [plot] = page["main"]["tables"], page["main"]["plots"]
    assert table["rows"][0][1]["low"] == 0.25 and table["rows"][1] == ["weak", None] and table["notes"] == ["a note"]
    assert page["chunks"][plot["chunk"]] == plots[0].svg and page["main"]["warnings"] == ["UNSAFE: x"]
    assert "<svg" not in page["text"].partition("<script>")[0]


def test_samples_beyond_n_and_repeated_verdicts_do_not_count(tmp_path):
    samples = [("p", 0, "first", "incorrect", {}), ("p", 0, "again", "correct", {}), ("p", 5, "beyond", "correct", {})]
    page = read_page(write_page(tmp_path / "out", [make_run(tmp_path / "run", samples, n=2)]).html)
    [columns] = index_of(page)["runs"]
    assert (columns["i"], columns["o"], texts_of(page, columns)) == ([0], "1", ["again"])


def test_an_unfinished_run_is_shown_as_one(tmp_path):
    store = open_run(tmp_path / "run")
    store.append_completion("sums", Completion("p", 0, 0, "not judged yet", "stop", Tokens(1, 2)))
    store.append_verdict("sums", "q", 0, "exact", Verdict("ungraded", None, None, "the engine failed"))
    store.close()
    page = read_page(write_page(tmp_path / "out", [tmp_path / "run"]).html)
    [columns] = index_of(page)["runs"]
    assert any("UNFINISHED: run" in line for line in page["main"]["warnings"])
    outcomes = dict(zip(index_of(page)["problems"], columns["o"], strict=True))
    assert outcomes == {"p": "3", "q": "2"} and sorted(texts_of(page, columns)) == ["", "not judged yet"]


def test_an_altered_run_leaves_the_former_report(tmp_path, capsys):
    run = make_run(tmp_path / "run", [("p", 0, "text", "correct", {})])
    write_report([run], tmp_path / "out", ["protocol"])
    former = (tmp_path / "out/report.html").read_bytes()
    path = run / "completions.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"text":"text"', b'"text":"tezt"'))
    assert main(["report", str(run), "--out", str(tmp_path / "out"), "--table", "protocol"]) == 2
    printed = capsys.readouterr().err
    assert "completions.jsonl" in printed and printed.count("\n") == 1
    assert (tmp_path / "out/report.html").read_bytes() == former


def test_samples_have_their_flags(tmp_path):
    samples = [("p", 0, "so 17 it is", "correct", {"extracted": "17"}), ("p", 1, r"\boxed{17}", "incorrect", {})]
    samples += [("p", 2, "again and again. " * 40, "incorrect", {"finish": "length"})]
    page = read_page(write_page(tmp_path / "out", [make_run(tmp_path / "run", samples)]).html)
    names, [columns] = page["main"]["flags"], index_of(page)["runs"]
    flags = [{name for place, name in enumerate(names) if bits >> place & 1} for bits in columns["flags"]]
    assert flags[0] == set() and "right answer not extracted" in flags[1]
    assert flags[2] == {"token limit", "repeated text"}


def test_a_judge_names_strategies_where_no_grader_does(tmp_path):
    run = make_run(tmp_path / "run", [("p", i, "text", "correct", {"extracted": "5"}) for i in range(3)])
    row = {"task": "sums", "problem_id": "p", "judge": "j", "wording": "a", "pass": 0, "indices": [0, 2]}
    lines = [{**row, "labels": None}, {**row, "labels": ["by parts", "by symmetry"]}, {**row, "labels": ["no", "no"]}]
    (run / "judgements.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    page = read_page(write_page(tmp_path / "out", [run]).html)
    index = index_of(page)
    assert [index["groups"][group] for group in index["runs"][0]["s"]] == ["by parts", "5", "by symmetry"]
    assert page["main"]["tasks"][0]["solutions"] is False


def test_problem_texts_come_from_the_data_on_this_machine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*EVAL, "--out", "run"]) == 0
    page = read_page(write_report([tmp_path / "run"], tmp_path / "report").html)
    index = index_of(page, "countdown")
    [number] = index["statements"]["chunks"]
    assert [row[0] for row in page["chunks"][number]] == [
        f"{name.replace('-', ' ').replace('=', ' = ')} :" for name in index["problems"]
    ]


def test_problem_texts_of_runs_with_other_problems_are_added(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*EVAL, "--out", "one"]) == 0 and main([*EVAL, "--set", "problem_seed=5", "--out", "two"]) == 0
    page = read_page(write_report([tmp_path / "one", tmp_path / "two"], tmp_path / "report").html)
    index = index_of(page, "countdown")
    rows = [row for number in index["statements"]["chunks"] for row in page["chunks"][number]]
    assert len(index["problems"]) > 2 and all(row[0] for row in rows)


def test_a_task_that_is_not_known_leaves_out_the_problem_texts(tmp_path, pair):
    page = read_page(write_page(tmp_path / "out", pair).html)
    [task] = page["main"]["tasks"]
    assert "sums" in task["no_texts"]


def test_training_has_curves_and_the_groups_that_were_kept(tmp_path):
    page = read_page(write_page(tmp_path / "out", [make_training(tmp_path / "train")]).html)
    training = page["chunks"][page["main"]["training"][0]["chunk"]]
    assert training["steps"] == [1, 2, 3] and training["metrics"]["reward"] == [0.25, 0.5, 0.75]
    assert training["warnings"] == [[3, "entropy fell"]]
    assert [step for step, _ in training["groups"]] == [2, 3]
    saved, kept = (page["chunks"][number] for _, number in training["groups"])
    assert [group["problem"] for group in saved] == ["first", "second"] and not saved[0]["left_out"]
    assert [row[2] for row in saved[0]["samples"]] == [0.0, 1.0, 0.25, 0.0]
    assert saved[0]["samples"][0][8] == [[7, 8], [-0.01, -3.0]]
    assert saved[0]["samples"][0][9:] == [None, None]
    [group] = kept
    assert group["prompt"] == ATTACKS["image"] and group["prompt"] not in page["text"]
    assert [row[1] for row in group["samples"]] == [ATTACKS["script"], ATTACKS["end of the element"]]
    assert [row[8:] for row in group["samples"]] == [[[[7, 8], [-0.25, None]], None, -0.5], [0, 0.75, 1.5]]


def test_steps_of_both_files_are_in_the_page_once_and_no_more_than_it_takes(tmp_path, monkeypatch):
    run = make_training(tmp_path / "train")
    store = RunWriter.reopen(run, {})
    for step in (2, *range(4, 40)):
        store.append_group(kept_group(step), 10**6)
    store.close()
    page = read_page(write_page(tmp_path / "out", [run]).html)
    training = page["chunks"][page["main"]["training"][0]["chunk"]]
    steps = [step for step, _ in training["groups"]]
    assert len(steps) == len(set(steps)) == 24 and steps[:2] == [2, 4] and steps[-1] == 39
    assert len(page["chunks"][training["groups"][0][1]]) == 2, "those that were saved, which are all"
    monkeypatch.setattr("harness.reports.page.build.MOST_TOKENS", 24 * 3)  # a step has 4 tokens
    page = read_page(write_page(tmp_path / "less", [run]).html)
    training = page["chunks"][page["main"]["training"][0]["chunk"]]
    lenses = [[row[8] for row in page["chunks"][number][0]["samples"]] for _, number in training["groups"]]
    assert all(sum(lens != 0 for lens in step) == 1 for step in lenses)


def test_tokens_have_their_texts_and_a_limit():
    tokens = TokenTexts(["absent", "countdown-tiny"], 5)
    stored = {"completion_ids": [3, 4, 5], "logp_behaviour": [-0.12345, float("-inf"), 0.0]}
    assert tokens.row(stored) == [[3, 4, 5], [-0.123, None, 0.0]]
    assert tokens.row(stored) == 0  # only two more are allowed
    assert TokenTexts([], 9).row({**stored, "logp_behaviour": None}) == 0
    tokenizer = load_tokenizer(ModelSource(resolve("countdown-tiny")))
    assert tokens.to_plain() == {number: tokenizer.decode([number]) for number in (3, 4, 5)}


def test_report_without_html_removes_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*EVAL, "--out", "run"]) == 0
    assert main(["report", "run", "--out", "report"]) == 0
    assert (tmp_path / "report/report.html").exists()
    assert main(["report", "run", "--out", "report", "--format", "md"]) == 0
    assert not (tmp_path / "report/report.html").exists()


def test_the_built_files_are_those_of_the_sources():
    """The digest is the one that tools/build_page/build.mjs writes; `tox -e browser` also builds them again."""
    folder = CHECKOUT / "tools/build_page"
    names = ["package-lock.json", "build.mjs", *sorted(f"src/{path.name}" for path in (folder / "src").iterdir())]
    content = "".join(f"{name}\0{(folder / name).read_text(encoding='utf-8')}\0" for name in names)
    digest = hashlib.sha256(content.encode()).hexdigest()
    for name in ("page.js", "page.css"):
        first = (CHECKOUT / "reports/page" / name).read_text(encoding="utf-8").partition("\n")[0]
        assert first == f"/* built from {digest} by tools/build_page */", (
            "run `npm ci && npm run build` in tools/build_page"
        )


def test_the_code_of_the_page_is_small_and_its_licences_are_shipped():
    folder = CHECKOUT / "reports/page"
    assert sum((folder / name).stat().st_size for name in ("page.js", "page.css")) < 400_000
    licences = (folder / "licences.txt").read_text()
    for name in ("preact", "htm", "temml", "diff"):
        assert re.search(rf"^{name} \d", licences, re.MULTILINE)
