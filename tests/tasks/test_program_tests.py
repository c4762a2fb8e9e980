"""Tests of programs in the forms they are published in, and found again in parquet files when they are needed."""

import json

import pytest
from official_shapes import write

from harness.core.errors import DataError
from harness.graders.code.reference import HeldTests, ProgramTest
from harness.tasks._base import program_tests
from harness.tasks._base.parquet_tests import CellTests, JoinedTests, TableTests, cell, located_rows
from harness.tasks._base.program_tests import function_name_of

PAIRS = [("1 2\n", "3\n"), ("4", "5\n\n"), ('a "b" \\ é\n', "")]
EXPECTED = tuple(ProgramTest(given, expected, "official") for given, expected in PAIRS)
LISTED = [{"input": given, "output": expected, "type": "stdin_stdout"} for given, expected in PAIRS]
PAIRED = {"inputs": [given for given, _ in PAIRS], "outputs": [expected for _, expected in PAIRS]}


@pytest.mark.parametrize("form", [LISTED, PAIRED, json.dumps(LISTED), json.dumps(PAIRED)])
def test_every_stored_form_gives_the_same_program_tests(form):
    assert program_tests.tests_of(form, "official", "row 1") == EXPECTED


def test_non_text_values_of_program_tests_are_written_as_json():
    published = {"fn_name": "f", "inputs": [[1, [2, "x"]], ["a", "b"], []], "outputs": [None, True, [1.5]]}
    assert [(test.input, test.output) for test in program_tests.tests_of(published, "official", "row 1")] == [
        ('[1, [2, "x"]]', "null"),
        ("a\nb", "true"),
        ("[]", "[1.5]"),
    ]


@pytest.mark.parametrize(
    "published",
    ["nonsense", "", "5", "null", '"text"', [1], {"inputs": ["1"]}, {"inputs": ["1"], "outputs": []}, [{"input": "1"}]],
)
def test_value_that_is_not_a_list_of_tests_is_refused(published):
    with pytest.raises(DataError, match="the tests of row 1 can't be read"):
        program_tests.tests_of(published, "official", "row 1")


@pytest.mark.parametrize(
    ("published", "expected"),
    [
        ({"fn_name": "solve", "inputs": [], "outputs": []}, "solve"),
        (json.dumps({"fn_name": "solve", "inputs": [], "outputs": []}), "solve"),
        ([{"input": "1", "output": "2", "metadata": {"func_name": "solve"}}], "solve"),
        ([{"input": "1", "output": "2", "fn_name": "solve"}], "solve"),
        ([{"input": "1", "output": "2", "metadata": {"func_name": None}}], None),
        ([{"input": "1", "output": "2", "metadata": None}], None),
        (PAIRED, None),
        ([], None),
    ],
)
def test_name_of_the_tested_function_is_found(published, expected):
    assert function_name_of(published) == expected


# --- in parquet -------------------------------------------------------------------------------------------------


@pytest.fixture
def deepcoder(tmp_path):
    """Nine rows in three row groups, tests as JSON text in one cell a problem, as in DeepCoder's files."""
    rows = [
        {
            "problem": f"Problem {n}",
            "solutions": ["pass"],
            "tests": json.dumps([{"input": f"{n}", "output": f"{n + 1}"}] if n % 2 else {**PAIRED, "fn_name": f"f{n}"}),
            "starter_code": None,
        }
        for n in range(9)
    ]
    return write(tmp_path / "train-00000-of-00005.parquet", rows)


def test_rows_of_the_test_table_are_found_by_group_and_position(deepcoder):
    found = list(located_rows(deepcoder, ["problem"], optional=["starter_code", "absent"]))
    assert [(group, row) for group, row, _ in found] == [(n // 4, n % 4) for n in range(9)]
    assert [record for _, _, record in found] == [{"problem": f"Problem {n}", "starter_code": None} for n in range(9)]
    for number, (group, row, _) in enumerate(found):
        tests = CellTests(deepcoder, group, row, "tests", "official").read()
        assert tests == ((ProgramTest(str(number), str(number + 1), "official"),) if number % 2 else EXPECTED)
        assert cell(deepcoder, group, row, "problem") == f"Problem {number}"


@pytest.fixture
def codeforces(tmp_path):
    """Problems with their official tests in a cell, and generated tests in another table, as in open-r1/codeforces."""
    problems = [
        {"id": f"20{n}/A", "official_tests": LISTED if n else None, "time_limit": 2.0, "generated_checker": None}
        for n in range(3)
    ]
    generated = [
        {"problem_id": f"20{n}/A", "input": f"{n} {k}", "output": f"{n + k}", "test_case_i": k}
        for k in range(5)
        for n in range(3)
    ]
    return write(tmp_path / "test.parquet", problems), write(tmp_path / "test_cases_20.parquet", generated)


def test_official_and_generated_tests_are_joined(codeforces):
    problems, generated = codeforces
    sources = (
        HeldTests((ProgramTest("s", "t", "sample"),)),
        CellTests(problems, 0, 1, "official_tests", "official"),
        TableTests(generated, "201/A", "generated"),
    )
    made = tuple(ProgramTest(f"1 {k}", str(1 + k), "generated") for k in range(5))
    assert tuple(JoinedTests(sources).read()) == (ProgramTest("s", "t", "sample"), *EXPECTED, *made)


def test_empty_cell_and_missing_problem_have_no_tests(codeforces):
    problems, generated = codeforces
    assert CellTests(problems, 0, 0, "official_tests", "official").read() == ()
    assert TableTests(generated, "999/Z", "generated").read() == ()


def test_missing_column_of_the_test_table_is_named(deepcoder):
    with pytest.raises(DataError, match="has no column 'prompt'"):
        list(located_rows(deepcoder, ["problem", "prompt"]))


def test_moved_test_is_refused(deepcoder, codeforces):
    for source in (
        CellTests(deepcoder, 0, 0, "absent", "official"),
        CellTests(deepcoder, 0, 7, "tests", "official"),
        CellTests(deepcoder, 9, 0, "tests", "official"),
        CellTests(deepcoder, 0, 0, "problem", "official"),
        TableTests(deepcoder, "201/A", "generated"),
        TableTests(codeforces[0], "201/A", "generated"),
    ):
        with pytest.raises(DataError, match=r"can't be read"):
            source.read()


def test_damaged_or_missing_test_table_is_refused(deepcoder, tmp_path):
    whole = deepcoder.read_bytes()
    for content in (b"", whole[: len(whole) // 2], b"PAR1" + b"\x00" * 100):
        deepcoder.write_bytes(content)
        for read in (
            lambda: list(located_rows(deepcoder, ["problem"])),
            CellTests(deepcoder, 0, 0, "tests", "official").read,
            TableTests(deepcoder, "201/A", "generated").read,
        ):
            with pytest.raises(DataError, match="can't be read"):
                read()
    with pytest.raises(DataError, match="can't be read"):
        CellTests(tmp_path / "absent.parquet", 0, 0, "tests", "official").read()


@pytest.mark.parametrize("missing", ["input", "output"])
def test_null_is_a_missing_field_except_as_a_function_argument(missing):
    published = {"input": "1", "output": "1", missing: None}
    with pytest.raises(DataError, match="null where the text"):
        program_tests.tests_of([published], "official", "p")
    (test,) = program_tests.tests_of([{**published, "fn_name": "f"}], "official", "p")
    assert getattr(test, missing) == "null"
