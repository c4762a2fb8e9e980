"""Curves from counts, comparisons of pairs, the sentences for every outcome, and the picture."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest
from study_frames import DIVERSE, GREEDY, N_SAMPLES, study_frame

from harness.core.errors import UsageError
from harness.reports.frontier import read_curves
from harness.reports.frontier_tables import frontier_tables, matched_tables
from harness.reports.matched import differences, pairs, sentences
from harness.reports.plots.frontier import frontier_svg
from harness.reports.render import to_csv, to_markdown
from harness.stats.intervals import pass_at_k
from harness.stats.paired_tests import holm

BASE = {(0, 1.0): (-0.8, 1.0), (0, 0.6): (-0.1, 1.2)}
ARMS = {"base": BASE, "grpo": GREEDY, "flowrl": DIVERSE, "grpo-kl": DIVERSE}


def only(frame, **settings):
    (curves,) = read_curves(frame, **settings)
    return curves


def said(arms, counts_seeds=True, **settings):
    """Return the sentences for a study of these arms."""
    curves = only(study_frame(arms, **settings), counts_seeds=counts_seeds)
    return sentences(curves, pairs(curves))


# --- curves from counts -----------------------------------------------------------------------------------------


def test_points_are_those_computed_by_hand_from_the_counts():
    frame = study_frame({"grpo": GREEDY}, seeds=[4, 7], n_problems=5)
    curves = only(frame)
    assert curves.seeds == {"grpo": [4, 7]} and list(curves.problems) == sorted(frame["problem"].unique())
    assert [(p.step, p.temperature) for p in curves.arms["grpo"]] == [(80, 1.0), (80, 0.6), (160, 1.0), (160, 0.6)]
    one = frame[(frame.seed == 7) & (frame.step == 160) & (frame.temperature == 0.6)].set_index("problem")
    for place, problem in enumerate(curves.problems):
        counts = [int(c) for c in one.loc[problem, "solutions"].split()]
        point = curves.arms["grpo"][-1]
        assert point.accuracy[1, place] == sum(counts) / N_SAMPLES
        assert point.diversity[1, place] == pytest.approx(len(counts)), "among all samples, the observed number"


def test_solutions_are_counted_among_the_fewest_graded_samples_of_a_cell():
    frame = study_frame({"grpo": GREEDY}, seeds=[1], n_problems=4)
    frame.loc[0, ["n", "correct", "ungraded", "solutions"]] = [40, 20, 10, "15 5"]
    curves = only(frame)
    assert curves.k == 30 and curves.arms["grpo"][0].accuracy[0, 0] == 20 / 30
    row = frame[(frame.step == 160) & (frame.temperature == 0.6)].iloc[0]
    counts = [int(c) for c in row["solutions"].split()]
    assert curves.arms["grpo"][-1].diversity[0, 0] == pytest.approx(sum(pass_at_k([64] * len(counts), counts, 30)))
    assert curves.solved["grpo", (160, 0.6)][0, 0] == pytest.approx(float(pass_at_k(64, row["correct"], 30)))


def test_draws_are_averaged():
    frame = study_frame({"grpo": GREEDY}, seeds=[1], n_problems=6, n_draws=3)
    each = [only(frame[frame.draw == draw]).arms["grpo"][0] for draw in (1, 2, 3)]
    together = only(frame).arms["grpo"][0]
    assert together.diversity == pytest.approx(np.mean([p.diversity for p in each], axis=0))
    assert together.accuracy == pytest.approx(np.mean([p.accuracy for p in each], axis=0))


def test_a_seed_without_a_checkpoint_and_a_problem_without_samples_are_left_out_and_noted():
    frame = study_frame({"grpo": GREEDY, "flowrl": DIVERSE}, seeds=[1, 2, 3], n_problems=6)
    frame = frame[~((frame.arm == "grpo") & (frame.seed == 2) & (frame.step == 160))]
    frame.loc[frame.index[0], "ungraded"] = N_SAMPLES
    curves = only(frame)
    assert curves.seeds == {"grpo": [1, 3], "flowrl": [1, 2, 3]} and len(curves.problems) == 5
    assert curves.notes == [
        "UNFINISHED: 2 evaluations of grpo are left out, because not all of its seeds have the same ones.",
        "1 of 6 problems are left out: not every cell has graded samples of them.",
    ]


def test_without_a_complete_seed_the_checkpoints_that_all_seeds_have_are_used():
    frame = study_frame({"grpo": GREEDY}, seeds=[1, 2], n_problems=4)
    frame = frame[~((frame.seed == 1) & (frame.step == 80) & (frame.temperature == 1))]
    frame = frame[~((frame.seed == 2) & (frame.step == 160) & (frame.temperature == 1))]
    curves = only(frame)
    assert curves.seeds == {"grpo": [1, 2]} and [p.temperature for p in curves.arms["grpo"]] == [0.6, 0.6]


def test_nothing_to_compare_is_an_error_that_names_the_task():
    frame = study_frame({"grpo": GREEDY}, n_problems=4)
    with pytest.raises(UsageError, match="no evaluation has finished"):
        read_curves(frame.iloc[:0])
    other = study_frame({"flowrl": DIVERSE}, n_problems=4).assign(problem=lambda f: "other " + f["problem"])
    with pytest.raises(UsageError, match=r"no problem of countdown \(test\) in common"):
        read_curves(pd.concat([frame, other]))


# --- sentences --------------------------------------------------------------------------------------------------


def test_the_sentences_name_the_arm_that_has_more_whichever_it_is():
    for arms, more, less in ((("grpo", "flowrl"), "flowrl", "grpo"), (("flowrl", "grpo"), "flowrl", "grpo")):
        first, last = said({arm: ARMS[arm] for arm in arms})
        assert f", {more} has 1." in first and f" times the distinct solutions of {less}." in first
        assert first.startswith("At equal pass@1 of 0.")
        assert last == "Intervals are over 60 problems and over the seeds of each arm."
    assert said({"flowrl": GREEDY, "grpo": DIVERSE})[0].split(", ")[1].startswith("grpo has 1.")


def test_equal_arms_do_about_equally_well_or_cant_be_distinguished():
    equal = said({"flowrl": DIVERSE, "grpo-kl": DIVERSE}, seeds=[1, 2, 3, 4], seed_effect=0.02)[0]
    assert "grpo-kl and flowrl do about equally well: grpo-kl has 0." in equal
    unclear = said({"flowrl": DIVERSE, "grpo-kl": DIVERSE}, seeds=[1, 2], seed_effect=0.4)
    assert "grpo-kl and flowrl can't be distinguished: grpo-kl has 0." in unclear[0]
    assert unclear[1].endswith("FEW SEEDS: two a side decide little.")


def test_arms_without_a_common_accuracy_are_not_compared():
    weak = {place: (logit - 2.5, power) for place, (logit, power) in GREEDY.items()}
    first = said({"weak": weak, "flowrl": DIVERSE})[0]
    assert first.startswith(
        "flowrl and weak can't be compared at equal pass@1: their frontiers have no pass@1 in common"
    )
    assert "(weak 0." in first and "and flowrl 0." in first


def test_one_seed_proves_nothing_and_the_sentences_say_so():
    last = said(ARMS, seeds=[1])[-1]
    assert last.startswith("ONE SEED of each arm proves nothing about the methods. Intervals are over 60 problems")
    assert "for these trainings alone" in said(ARMS, seeds=[1, 2], counts_seeds=False)[-1]


def test_a_difference_that_does_not_survive_holm_is_marked():
    frame = study_frame({**ARMS, "more": DIVERSE}, seeds=[1, 2, 3])
    curves = only(frame)
    found = [pair for pair in pairs(curves) if pair.found.ratio_interval.low > 1]
    (weak,) = sentences(curves, [type(found[0])(found[0].arm, found[0].against, found[0].found, p_holm=0.07)])[:1]
    assert weak.endswith("(not significant after Holm, p = 0.07).")


# --- pairs and tables -------------------------------------------------------------------------------------------


def test_all_pairs_of_trained_arms_are_compared_with_holm_over_them():
    curves = only(study_frame(ARMS))
    found = pairs(curves)
    assert [(pair.arm, pair.against) for pair in found] == [
        ("flowrl", "grpo"),
        ("grpo-kl", "grpo"),
        ("grpo-kl", "flowrl"),
    ]
    assert [pair.p_holm for pair in found] == holm([pair.found.p.p for pair in found])
    gaps = differences(curves)
    assert len(gaps) == 3 * 2 * 3 and [gap.p_holm for gap in gaps] == holm([gap.p.p for gap in gaps])
    point, other = (curves.last(arm, 0.6) for arm in ("flowrl", "grpo"))
    (gap,) = [g for g in gaps if (g.arm, g.against, g.temperature, g.metric) == ("flowrl", "grpo", 0.6, "distinct@64")]
    assert gap.value == pytest.approx(point.diversity.mean() - other.diversity.mean())
    assert gap.interval.low < gap.value < gap.interval.high


def test_many_arms_are_each_compared_with_the_first():
    arms = {f"arm-{place}": DIVERSE for place in range(8)}
    found = pairs(only(study_frame(arms, seeds=[1, 2], n_problems=10)))
    assert [pair.against for pair in found] == ["arm-0"] * 7


def test_the_tables_hold_every_point_seed_and_pair():
    curves = only(study_frame(ARMS))
    points, seeds = frontier_tables(curves, dict.fromkeys(curves.problems, 8))
    assert len(points.rows) == 2 + 3 * 4 and len(seeds.rows) == 2 + 3 * 3 * 4
    coverage, distinct = points.rows[-1][-1], points.rows[-1][-3]
    assert coverage.value == pytest.approx(distinct.value / 8) and coverage.high <= 1
    assert {row[4] for row in points.rows} == {"yes", "no"}
    compared, gaps = matched_tables(curves)
    assert compared.notes[:3] == tuple(sentences(curves, pairs(curves))[:3])
    assert [row[0] for row in compared.rows if row[-1] is not None] == ["flowrl", "grpo-kl", "grpo-kl"]
    for table in (points, seeds, compared, gaps):
        assert to_markdown(table).count("\n| ") >= len(table.rows) and to_csv(table).count("\n") >= len(table.rows)
    assert matched_tables(only(study_frame({"grpo": GREEDY}))) == []


def test_a_base_model_alone_has_its_points_and_no_comparison():
    curves = only(study_frame({"base": BASE}, seeds=[1], n_problems=4))
    (points,) = frontier_tables(curves)
    assert len(points.rows) == 2 and "Intervals are over 4 problems; no arm was trained." in points.notes
    assert matched_tables(curves) == []


def test_intervals_without_seeds_are_narrower_and_have_no_p_value():
    frame = study_frame(ARMS, seed_effect=0.3)
    with_seeds, without = (pairs(only(frame, counts_seeds=counts))[0].found for counts in (True, False))
    assert with_seeds.ratio == pytest.approx(without.ratio) and without.p is None
    widths = [f.ratio_interval.high - f.ratio_interval.low for f in (with_seeds, without)]
    assert widths[0] > 1.5 * widths[1]


# --- the picture ------------------------------------------------------------------------------------------------


def test_the_picture_has_a_mark_for_each_point_and_seed_within_its_axes():
    curves = only(study_frame({**ARMS, "a <b>": DIVERSE}, n_problems=20))
    root = ET.fromstring(frontier_svg(curves))
    space = "{http://www.w3.org/2000/svg}"
    marks = [(float(c.get("cx")), float(c.get("cy"))) for c in root.iter(f"{space}circle")]
    assert len(marks) == 5 + (2 + 4 * 4) + 4 * 4 * 3
    assert all(70 <= x <= 575 and 55 <= y <= 375 for x, y in marks)
    texts = [text.text for text in root.iter(f"{space}text")]
    assert "a <b>" in texts and "pass@1" in texts and "dots: seeds" in texts
    assert len(list(root.iter(f"{space}polygon"))) == 5 - (len(curves.frontier("base").points) < 2)
    assert "one seed of each arm" in frontier_svg(only(study_frame(ARMS, seeds=[1], n_problems=5)))
