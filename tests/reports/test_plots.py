"""Plots: what they show, that the same runs give the same bytes, and that no text in them is markup."""

import itertools
import json
import math
import re
import xml.etree.ElementTree as ET

import pytest
from synthetic_runs import drawn, study, write_eval, write_train

from harness.cli import main
from harness.core.errors import UnknownNameError, UsageError
from harness.reports.plots import collection
from harness.reports.plots.collection import all_plots, chosen, png, write_plots
from harness.reports.plots.evaluations import _shade
from harness.reports.plots.svg import COLOURS, DASHES, Axis, Panel, Series, picture
from harness.reports.report import named_runs, read_runs
from harness.reports.tables.pass_at_k import TABLE
from harness.runs.diversity_file import TaskDiversity, write_diversity

SVG = "{http://www.w3.org/2000/svg}"
STEP = {
    "entropy": 0.5,
    "importance_weight": 1.0,
    "ratio_p99": 1.5,
    "ratio_p50": 1.0,
    "ratio_p01": 0.5,
    "grad_norm": 2.0,
}
LOG_Z = {"log_z": 0.1, "log_z_target": 0.2, "log_z_group": 0.3, "mean_tokens": 90.0, "truncated": 0.1}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    more = [
        write_train(folder / f"more-{seed}", objective={"id": "gflowrl"}, seed=seed, step=lambda n: {**STEP, **LOG_Z})
        for seed in range(2)
    ]
    return read_runs([*study(folder), *more])


@pytest.fixture(scope="module")
def plots(runs):
    return {plot.id: plot for plot in all_plots(runs)}


def texts(svg):
    return [element.text for element in ET.fromstring(svg).iter(f"{SVG}text")]


def lines(svg):
    return [element.attrib for element in ET.fromstring(svg).iter(f"{SVG}polyline")]


def test_every_kind_of_plot_is_there(plots):
    assert list(plots) == [
        *("pass-at-k-aime24-1", "solve-rates-aime24-1", "pass-at-k-math500-1", "solve-rates-math500-1"),
        *("training-reward", "training-length", "training-entropy", "training-stability", "training-weights"),
        *("training-ratios", "training-log-z", "training-time"),
    ]
    for plot in plots.values():
        assert ET.fromstring(plot.svg).find(f"{SVG}title").text is not None


def test_the_same_runs_give_the_same_bytes(runs, plots):
    assert {plot.id: plot for plot in all_plots(runs)} == plots


def test_pass_at_k_is_drawn_at_the_values_of_its_table(runs, plots):
    """The height of a mark on the axis is the value of the cell, and the bar of a line spans its interval."""
    svg = plots["pass-at-k-math500-1"].svg
    root = ET.fromstring(svg)
    ticks = {
        float(t.text): float(t.attrib["y"]) - 4 for t in root.iter(f"{SVG}text") if t.attrib["text-anchor"] == "end"
    }
    (low, low_y), (high, high_y) = min(ticks.items()), max(ticks.items())
    table = next(t for t in TABLE().build(runs) if "math500" in t.title)
    for row, line in zip(table.rows, lines(svg)[: len(table.rows)], strict=True):
        cells = [cell for name, cell in zip(table.columns, row, strict=True) if name.startswith("pass@")]
        ys = [float(point.split(",")[1]) for point in line["points"].split()]
        found = [low + (y - low_y) / (high_y - low_y) * (high - low) for y in ys]
        assert found == pytest.approx([100 * cell.value for cell in cells], abs=0.1)
    bars = [e.attrib for e in root.iter(f"{SVG}line") if e.attrib["stroke-width"] == "1.2"]
    first = table.rows[0][2]
    ends = sorted(low + (float(bars[0][y]) - low_y) / (high_y - low_y) * (high - low) for y in ("y1", "y2"))
    assert ends == pytest.approx([100 * first.low, 100 * first.high], abs=0.1)


def test_seeds_are_one_line_with_a_band_from_smallest_to_largest(plots):
    svg = plots["training-reward"].svg
    assert {"grpo", "flowrl", "gflowrl"} <= set(texts(svg))
    assert len(list(ET.fromstring(svg).iter(f"{SVG}polygon"))) == 2 * 3  # reward and solve rate, three methods
    assert any("from the smallest to the largest seed" in text for text in texts(svg))
    one, other = 3 / 40 + 0.0, 3 / 40 + 0.02  # the reward of step 3 of seeds 0 and 2
    axis = Axis([1 / 40, 20 / 40 + 0.02, 0.0], 234.0, -170.0)
    band = ET.fromstring(svg).find(f"{SVG}polygon").attrib["points"].split()
    heights = sorted(float(point.split(",")[1]) for point in (band[2], band[-3]))
    assert heights[1] - heights[0] == pytest.approx(abs(axis.place(one) - axis.place(other)), rel=0.2)


def test_log_z_is_next_to_what_it_fits(plots):
    assert {"log Z", "what it fits", "partition function of the group", "gflowrl"} <= set(
        texts(plots["training-log-z"].svg)
    )
    assert "grpo" not in texts(plots["training-log-z"].svg)


def test_solve_rates_put_the_hardest_problem_first(tmp_path):
    def rate(task, problem, index):
        return "correct" if index < problem else "incorrect"

    folders = [write_eval(tmp_path / name, name, rate, tasks={"aime24": 9}) for name in "ab"]
    svg = next(plot.svg for plot in all_plots(read_runs(folders)) if plot.id.startswith("solve-rates"))
    cells = [e.attrib for e in ET.fromstring(svg).iter(f"{SVG}rect") if e.attrib.get("height") == "23"]
    assert [cell["fill"] for cell in cells[:9]] == [_shade(n / 8) for n in range(9)]
    assert texts(svg).count("50.0 %") == 2


def test_shades_and_lines_differ_without_colour():
    def grey(colour):
        return sum(w * int(colour[i : i + 2], 16) for w, i in zip((0.299, 0.587, 0.114), (1, 3, 5), strict=True))

    shades = [grey(_shade(step / 10)) for step in range(11)]
    assert all(a - b > 10 for a, b in itertools.pairwise(shades))
    assert len(set(DASHES)) == len(COLOURS) == len(set(COLOURS))


def test_many_problems_are_drawn_together(tmp_path):
    folders = [write_eval(tmp_path / n, n, drawn(0.5, 1), tasks={"big": 450}, n=2) for n in "ab"]
    svg = next(plot.svg for plot in all_plots(read_runs(folders)) if plot.id.startswith("solve-rates"))
    assert any("A column is about 2.2 problems." in text for text in texts(svg))
    assert len(svg) < 60_000


def test_the_judge_is_drawn_with_its_agreements(tmp_path):
    folder = write_eval(tmp_path / "a", "a", drawn(0.5, 1), tasks={"aime24": 4})
    card = {
        "model": "judge-x",
        "adjusted Rand between orders": "0.71 [0.60, 0.80]",
        "adjusted Rand between wordings": "not defined",
    }
    write_diversity(folder, {"aime24": TaskDiversity(4, 2, ("a",), {}, {"judge": card})})
    (plot,) = [plot for plot in all_plots(read_runs([folder])) if plot.id.startswith("judge")]
    assert {"between orders", "judge-x"} <= set(texts(plot.svg))
    assert "between wordings" not in texts(plot.svg)


def test_markup_and_control_characters_in_labels_stay_text(tmp_path):
    label = "<script>alert(1)</script>&\x1b[0m\u202ex\ud83d"
    runs = read_runs([write_eval(tmp_path / n, n, drawn(0.5, 1), tasks={"a<b>/..": 4}) for n in "ab"])
    for plot in all_plots(named_runs(runs, {"a": label})):
        root = ET.fromstring(plot.svg.encode())
        assert {element.tag.removeprefix(SVG) for element in root.iter()} <= {
            *("svg", "title", "rect", "line", "text", "polyline", "polygon", "circle"),
        }
        assert re.fullmatch(r"[A-Za-z0-9_.-]+", plot.id)
        assert any((text or "").startswith("<script>alert(1)") for text in texts(plot.svg))


@pytest.mark.parametrize("is_log", [False, True])
@pytest.mark.parametrize("values", [[0.0], [1.0, 1.0], [1e-9, 1e9], [-5.0, 7.0], [math.nan, 2.0], []])
def test_axes_hold_their_values_and_begin_and_end_at_ticks(values, is_log):
    axis = Axis(values, 0.0, 100.0, is_log=is_log)
    assert 2 <= len(axis.ticks) <= 12
    for value in values:
        if axis.holds(value) and (not is_log or value > 0):
            assert -1e-6 <= axis.place(value) <= 100 + 1e-6
    assert (axis.place(axis.ticks[0]), axis.place(axis.ticks[-1])) == pytest.approx((0, 100))


def test_values_that_are_not_finite_are_left_out():
    svg = picture("t", [Panel("p", "x", [Series("a", [1, 2, 3], [0.1, math.nan, math.inf])])])
    assert "nan" not in svg and "inf" not in svg


# --- files and the command --------------------------------------------------------------------------------------


def test_the_command_writes_svg_and_png_and_removes_what_is_gone(runs, tmp_path, capsys):
    pytest.importorskip("resvg_py", reason="PNG needs the extra plots")
    folders = [str(run.folder) for run in runs]
    out = tmp_path / "plots"
    assert main(["plot", *folders, "--out", str(out), "--plot", "pass-at-k", "--format", "svg,png", "--json"]) == 0
    names = [f"pass-at-k-{task}-1.{ending}" for task in ("aime24", "math500") for ending in ("svg", "png")]
    assert sorted(path.rpartition("/")[2] for path in json.loads(capsys.readouterr().out)["plots"]) == sorted(names)
    assert {path.name for path in out.iterdir()} == {*names, "plots.json"}
    assert (out / names[1]).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert main(["plot", *folders, "--out", str(out), "--plot", "training-reward"]) == 0
    assert {path.name for path in out.iterdir()} == {"training-reward.svg", "plots.json"}


def test_a_label_names_a_line(runs, tmp_path):
    folders = [str(run.folder) for run in runs]
    label = ["--label", "base-T0.6=Qwen base"]
    assert main(["plot", *folders, "--out", str(tmp_path / "p"), "--plot", "pass-at-k", *label]) == 0
    assert "Qwen base" in (tmp_path / "p" / "pass-at-k-aime24-1.svg").read_text()


def test_unknown_plots_formats_and_foreign_folders_are_refused(runs, plots, tmp_path):
    with pytest.raises(UnknownNameError, match="training-reward"):
        chosen(list(plots.values()), ["training-rewards"])
    with pytest.raises(UnknownNameError, match="gif"):
        write_plots(list(plots.values()), tmp_path / "x", ["gif"])
    with pytest.raises(UsageError, match="nothing to plot"):
        chosen([], None)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("precious")
    with pytest.raises(UsageError, match="not a folder of plots"):
        write_plots(list(plots.values()), tmp_path / "mine", ["svg"])
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_a_machine_without_fonts_gets_a_line_and_not_an_empty_picture(plots, monkeypatch):
    pytest.importorskip("resvg_py", reason="PNG needs the extra plots")
    monkeypatch.setattr(collection, "PROBE", "")
    with pytest.raises(UsageError, match="needs a font"):
        png(plots["training-reward"].svg)
