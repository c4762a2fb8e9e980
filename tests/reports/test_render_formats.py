"""LaTeX, JSON, data frames and CSV of one table: the same values, and nothing of a foreign text obeyed."""

import csv
import dataclasses
import io
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from altered_runs import change_record

import harness
from harness.cli import main
from harness.core.types import Estimate, MarkedEstimate, Table
from harness.reports.render import escape_latex, to_csv, to_frame, to_json, to_latex, to_markdown, to_terminal
from harness.reports.report import tables_of

GOLDEN = Path(__file__).parent / "golden"
BEST = MarkedEstimate("aime24 avg@16", 0.15416, 0.1, 0.2, 30, 480, 2, "t over 30 problems", "best")
TIED = dataclasses.replace(BEST, value=0.1354, mark="tied")
RATING = dataclasses.replace(BEST, name="rating", value=1549.47, low=1400.4, high=1700.6, mark="", in_percent=False)
PLAIN = Estimate("avg@16", 0.5, 0.4, 0.6, 30, 480, 0, "t")
TABLE = Table(
    "Benchmarks: 50% & more",
    ("model", "runs", "aime24", "rating"),
    (("flow_rl β=15", 3, BEST, RATING), ("GRPO", 1, TIED, None), ("none", 2, None, PLAIN)),
    ("† not significantly worse than the best; #1 costs $2",),
)
ATTACKS = (
    r"\input{/etc/passwd}",
    "$\\write18{id}$",
    "% a comment",
    "a & b \\\\ \\end{tabular}",
    "=HYPERLINK(1)",
    "@SUM(A1)",
    "+1+cmd|' /C calc'!A0",
    "<script>alert(1)</script>",
    "[x](javascript:alert(1))",
    "\x1b[31mred\x1b[0m",
    "\u202egnp.exe",
    "half \ud83d pair",
    "中文 and 🙂",
    "two\nlines\r\nand a\ttab",
    "^^5cinput",
    "~ { } # _ ^ | < > \" ` ' --- ?`",
    "[b]",
)
HOSTILE = Table("T " + ATTACKS[0], ("text", ATTACKS[3]), tuple((text, BEST) for text in ATTACKS), ATTACKS)
RENDERED = {"md": to_markdown, "csv": to_csv, "tex": lambda table: to_latex(table, "hostile"), "json": to_json}


@pytest.mark.parametrize(("ending", "table"), [(e, t) for e in RENDERED for t in ("ranked", "hostile")])
def test_a_table_in_every_format_is_as_in_its_golden_file(ending, table):
    text = RENDERED[ending](TABLE if table == "ranked" else HOSTILE)
    assert text.encode() == (GOLDEN / f"{table}.{ending}").read_bytes()


@pytest.mark.parametrize("ending", RENDERED)
def test_no_format_has_control_characters_direction_marks_or_surrogates(ending):
    text = RENDERED[ending](HOSTILE)
    assert not {c for c in text if c not in "\n\t" and not c.isprintable()}
    assert "\u202e" not in text and "\x1b" not in text
    text.encode()  # without a lone surrogate


def test_latex_has_no_command_of_a_text():
    text = escape_latex("".join(map(chr, range(32, 127))))
    left = text
    for known in (r"\textbackslash{}", r"\textasciitilde{}", r"\textasciicircum{}", r"\textless{}", r"\textgreater{}"):
        assert left.count(known) == 1
        left = left.replace(known, "")
    left = left.replace(r"\textbar{}", "")
    for character in "&%$#_{}":
        left = left.replace("\\" + character, "")
    assert "\\" not in left
    assert not set(left) & set("&%$#_^~")


def test_csv_of_a_ranked_table_has_the_marks_and_full_precision():
    rows = list(csv.DictReader(io.StringIO(to_csv(TABLE))))
    assert [row["mark"] for row in rows] == ["best", "", "tied", ""]
    assert float(rows[0]["value"]) == BEST.value
    assert rows[0]["name"] == "aime24 avg@16"


def test_no_cell_of_a_csv_file_is_a_formula():
    for row in csv.reader(io.StringIO(to_csv(HOSTILE))):
        assert not row[0].startswith(("=", "+", "-", "@"))


def test_json_and_frame_have_the_values_of_the_table():
    plain = json.loads(to_json(TABLE))
    assert plain["rows"][0]["aime24"]["value"] == BEST.value
    assert plain["rows"][1]["rating"] is None
    frame = to_frame(TABLE)
    assert list(frame["model"]) == ["flow_rl β=15", "GRPO", "none"]
    assert frame["aime24"][0] == BEST.value and frame["aime24.low"][0] == BEST.low
    assert list(frame["aime24.mark"].fillna("-")) == ["best", "tied", "-"]
    assert frame["rating.n_problems"][2] == 30
    assert frame.attrs["notes"] == list(TABLE.notes)


def test_numbers_that_are_not_finite_are_null_in_json():
    assert json.loads(to_json(Table("t", ("x",), ((float("nan"),),))))["rows"] == [{"x": None}]


def test_a_ranked_table_prints_percents_and_marks():
    assert "15.42 [10.00, 20.00]" in to_terminal(TABLE)
    assert "13.54 [10.00, 20.00] †" in to_terminal(TABLE)
    assert "1549 [1400, 1701]" in to_terminal(TABLE)
    assert "**15.42** [10.00, 20.00]" in to_markdown(TABLE)


def compiled(tmp_path, body, options=""):
    """Compile a document with the packages that a table names; return the log."""
    engine = shutil.which("pdflatex")
    if engine is None:
        assert "HARNESS_NEEDS_TEX" not in os.environ, "install pdflatex with the package booktabs"
        pytest.skip("pdflatex is not installed; `tox -e tex` runs this")
    packages = to_latex(TABLE).partition("\n")[0].removeprefix("% ")
    document = f"\\documentclass{options}{{article}}{packages}\\begin{{document}}\n{body}\\end{{document}}\n"
    (tmp_path / "all.tex").write_text(document, encoding="utf-8")
    done = subprocess.run(
        [engine, "-no-shell-escape", "-halt-on-error", "-interaction=nonstopmode", "all.tex"],
        cwd=tmp_path,
        capture_output=True,
        timeout=120,
    )
    log = done.stdout.decode(errors="replace")
    assert done.returncode == 0, log[-3000:]
    assert "Missing character" not in log
    return log


def test_a_real_tex_compiles_the_tables(tmp_path):
    compiled(tmp_path, "".join(f"{path.read_text()}\\clearpage\n" for path in sorted(GOLDEN.glob("*.tex"))))
    assert (tmp_path / "all.pdf").stat().st_size > 10_000


@pytest.mark.parametrize("options", ["", "[twocolumn]"])
def test_a_real_tex_fits_wide_tables_into_the_line(tmp_path, options):
    columns = tuple(f"benchmark {number}" for number in range(12))
    wide = Table("Wide", ("model", *columns), (("flowrl", *[BEST] * 12), ("grpo", *[BEST] * 12)), ("a note",))
    narrow = Table("Narrow", ("a", "b"), (("one", 1),))
    text = to_latex(wide) + to_latex(narrow)
    assert "Overfull" not in compiled(tmp_path, text, options)
    unscaled = re.sub(r"\\resizebox\{.*\}\{!\}\{%\n", "{", text)
    assert compiled(tmp_path, unscaled, options).count("Overfull") == 1  # the wide one


# --- the command ------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path):
    (tmp_path / "c.toml").write_text(
        'tasks = ["countdown"]\nn = 2\nlimit = 4\n[model]\npath = "countdown-tiny"\n'
        '[engine]\nid = "scripted"\nreplies = ["4*9=36;36+2=38", "nonsense"]\n'
    )
    assert main(["eval", "--config", str(tmp_path / "c.toml"), "--out", str(tmp_path / "run"), "--quiet"]) == 0
    return tmp_path / "run"


def files(folder):
    return {path.name for path in folder.iterdir()}


def test_the_command_writes_the_formats_asked_for_and_removes_the_others(run, tmp_path):
    out = tmp_path / "report"
    common = ["report", str(run), "--table", "results", "--out", str(out)]
    assert main([*common, "--format", "md,csv,tex,json"]) == 0
    assert files(out) == {"report.json", "report.md", "results.csv", "results.tex", "results.json"}
    assert json.loads((out / "results.json").read_text())["title"] == "Results"
    assert main([*common, "--format", "tex"]) == 0
    assert files(out) == {"report.json", "results.tex"}


@pytest.mark.parametrize("label", ["run=GRPO & co", "{folder}=GRPO & co"])
def test_a_label_replaces_the_id_of_a_run(run, tmp_path, label):
    out = tmp_path / "report"
    label = label.format(folder=run)
    assert main(["report", str(run), "--table", "results", "--out", str(out), "--label", label]) == 0
    assert "| GRPO & co |" in (out / "report.md").read_text()


def test_wrong_formats_and_labels_are_refused_in_one_line(run, tmp_path, capsys):
    for arguments, message in (
        (["--format", "pdf"], "no format is called 'pdf'"),
        (["--label", "run"], "--label is RUN=NAME"),
        (["--label", "ran=x"], "no run is called 'ran'"),
    ):
        assert main(["report", str(run), "--out", str(tmp_path / "no"), *arguments]) == 2
        printed = capsys.readouterr().err
        assert message in printed and printed.count("\n") == 1
    assert not (tmp_path / "no").exists()


def test_a_run_of_another_format_is_refused_by_name(run, tmp_path, capsys):
    change_record(run, format=99)
    assert main(["report", str(run), "--out", str(tmp_path / "no")]) == 2
    assert f"{run} has run format 99" in capsys.readouterr().err


def test_tables_in_a_notebook_are_those_of_the_report(run):
    frame, *others = harness.load_runs(run).tables("results", {"run": "Mine"})
    assert (others, frame.attrs["title"], list(frame["run"])) == ([], "Results", ["Mine"])
    (table,) = tables_of([run], ["results"])
    assert frame["avg@2"][0] == table.rows[0][table.columns.index("avg@2")].value
