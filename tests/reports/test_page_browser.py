"""The page of a report in Chromium, from disk, without a network."""

import os
import re
import shutil
import threading
import time
from pathlib import Path

import pytest
from page_runs import (
    ATTACKS,
    TABLES,
    Drawing,
    make_pair,
    make_run,
    make_training,
    many_samples,
    open_run,
    sample,
    write_page,
)

from harness.reports.live import LivePage
from harness.reports.page.serve import PageServer

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
AXE = Path(__file__).parents[2] / "tools/build_page/node_modules/axe-core/axe.min.js"
playwright = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><style>circle {fill: red}</style><circle r="4"/></svg>'
VIEWS = (
    "#/",
    "#/tables",
    "#/plots",
    "#/samples/sums",
    "#/protocol/sums",
    "#/training?step=3",
    "#/run/strong/sums/p2/0",
    "#/search?q=same",
    "#/keys",
)


@pytest.fixture(scope="module")
def chromium():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    runs = [*make_pair(folder), make_training(folder / "train")]
    return write_page(folder / "out", runs, plots=[Drawing("rates", "Solve rates", SVG)]).html


@pytest.fixture
def opened(chromium):
    """Open an address of a page. Anything that asks for a file outside it, or that the page logs, is a failure."""
    contexts, faults = [], []

    def open_page(file, fragment="#/", **options):
        context = chromium.new_context(offline=True, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        allowed = (file.as_uri(), (file.parent / "report-data").as_uri())
        page.on("request", lambda request: _note(faults, request.url, allowed))
        page.goto(file.as_uri() + fragment)
        page.wait_for_selector("main h1")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


def _note(faults, url, allowed):
    if not url.startswith(allowed) and not url.startswith("data:image/svg"):
        faults.append(f"request of {url}")


def problems(page):
    return page.locator(".rows tbody th").all_inner_texts()


def test_texts_of_models_stay_texts(html, opened):
    page = opened(html, "#/samples/sums?p=p2")
    page.wait_for_selector(".sample .text")
    closed = page.locator("details.group:not([open]) > summary")
    while closed.count():
        closed.first.click()
    more = page.get_by_role("button", name=re.compile(r"^\d+ more$"))
    while more.count():
        more.first.click()
    page.wait_for_timeout(300)
    shown = page.locator(".problem").inner_text()
    for name in ("script", "end of the element", "image", "comment", "template", "formula of a spreadsheet"):
        if name in list(ATTACKS)[:8]:
            assert ATTACKS[name] in shown, name
    for escape in ("\\u202e", "\\x1b", "\\ud83d"):
        assert escape in shown
    assert page.evaluate("window.attacked") is None
    assert page.locator("main script, main img, main a[href^=javascript]").count() == 0
    assert page.evaluate("getComputedStyle(document.body).display") == "block"


def test_formulas_of_models_make_no_links_and_load_nothing(tmp_path, opened):
    texts = [
        r"$\href{javascript:window.attacked=1}{x}$ and $\url{https://example.org}$",
        r"\[\includegraphics{https://example.org/x.png}\]",
        r"$\htmlStyle{color: red}{y} \class{top}{z}$",
        "$" + "{" * 500 + "}" * 500 + "$ and $" + r"\def\a{\a\a}\a" + "$",
        "x" * 3_000_000,
    ]
    run = make_run(
        tmp_path / "run", [("p", i, text, "incorrect", {"extracted": text}) for i, text in enumerate(texts)], n=9
    )
    file = write_page(tmp_path / "out", [run]).html
    for number, text in enumerate(texts):
        page = opened(file, f"#/run/run/sums/p/{number}")
        page.wait_for_selector(".sample-page .text")
        assert page.locator("main img, main .text a, main [style*=red], main .text .top").count() == 0
        assert page.evaluate("window.attacked") is None
        assert text[:20].strip("$") in page.locator(".sample-page .text").first.inner_text()


def test_the_policy_stops_a_script_even_if_markup_of_a_model_came_in(html, chromium):
    """The page makes no markup of texts; this puts it in by force."""
    context = chromium.new_context(offline=True)
    page = context.new_page()
    text = html.read_text().replace(
        '<div id="app">', '<img src=x onerror="window.attacked = 1"><script>attacked = 1</script><div id="app">'
    )
    altered = html.with_name("altered.html")
    altered.write_text(text)
    page.goto(altered.as_uri())
    page.wait_for_selector("main h1")
    assert page.evaluate("window.attacked") is None
    with pytest.raises(playwright.Error, match="TrustedHTML"):
        page.evaluate("document.body.innerHTML = '<b>x</b>'")
    with pytest.raises(playwright.Error, match="TrustedScriptURL"):
        page.evaluate("document.createElement('script').src = 'https://example.org/x.js'")
    context.close()


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("A right, B wrong", ["p0"]),
        ("B right, A wrong", ["p1"]),
        ("Only A ever", ["p0"]),
        ("Same rate, other strategies", ["p3"]),
        ("Graders disagree", ["p0"]),
        ("Cut off", ["p1"]),
        ("Not extracted", ["p1", "p2"]),
        ("Ungraded", []),
    ],
)
def test_filters(html, opened, title, expected):
    page = opened(html, "#/samples/sums?a=strong&b=weak")
    button = page.get_by_role("button", name=title, exact=False)
    count = int(button.locator(".count").inner_text())
    button.click()
    page.wait_for_selector("button[data-filter][aria-pressed=true]:not([data-filter=all])")
    assert (problems(page), count) == (expected, len(expected))


def test_flags_are_filters_and_tags(tmp_path, opened):
    samples = [("p0", 0, "so 17 it is", "correct", {"extracted": "17"}), ("p0", 1, r"\boxed{17}", "incorrect", {})]
    samples += [("p1", 0, "a sum", "incorrect", {"extracted": "3"})]
    page = opened(write_page(tmp_path / "out", [make_run(tmp_path / "run", samples)]).html, "#/samples")
    page.get_by_role("button", name="Right answer not extracted").click()
    playwright.expect(page.locator(".list-head [role=status]")).to_have_text("1 of 2")
    playwright.expect(page.locator(".sample")).to_have_count(1)
    assert "right answer not extracted" in page.locator(".sample header").inner_text()


def test_a_pair_side_by_side_grouped_by_strategy_with_its_p_value(html, opened):
    page = opened(html, "#/samples/sums?a=strong&b=weak&p=p3")
    head = page.locator(".pair-head").inner_text()
    assert "p = 1.000" in head and "temperature 1 / 0.5" in head and "4 problems" in head
    names = page.locator(".side").locator(".group-name").all_inner_texts()
    assert names == ["x", "y"]
    assert page.locator(".side .tag").all_inner_texts() == ["only here", "only here"]
    page.get_by_role("button", name="Swap A and B").click()
    playwright.expect(page.locator(".side h3").first).to_contain_text("weak")


def test_from_the_summary_one_click_leads_to_samples_that_explain_a_difference(html, opened):
    page = opened(html, viewport={"width": 1280, "height": 800})
    page.get_by_role("link", name="compare samples").first.click()
    playwright.expect(page.locator(".problem h2")).to_have_text("p1" if "sort=gain" in page.url else "p0")
    texts = page.locator(".side").all_inner_texts()
    assert len(texts) == 2 and "✓ right" in "".join(texts) and "✗ wrong" in "".join(texts)
    for side in page.locator(".side").all():
        playwright.expect(side.locator(".sample .text").first).to_be_in_viewport()


def test_right_and_wrong_samples_are_in_view_together(tmp_path, opened):
    samples = [("p", i, f"right {i}", "correct", {"solution": f"way {i // 4}"}) for i in range(20)]
    samples += [("p", i, f"wrong {i}", "incorrect", {"extracted": str(i)}) for i in range(20, 26)]
    page = opened(write_page(tmp_path / "out", [make_run(tmp_path / "run", samples, n=26)]).html, "#/samples")
    marks = page.locator(".group > summary .mark")
    playwright.expect(marks).to_have_text(["✓ right"] * 3 + ["✗ wrong"] * 3)
    assert page.locator(".group[open] > summary .mark").all_inner_texts() == ["✓ right", "✗ wrong"]
    page.get_by_role("button", name="2 more groups: right").click()
    playwright.expect(marks).to_have_text(["✓ right"] * 5 + ["✗ wrong"] * 3)


def test_a_program_is_shown_with_the_test_that_it_failed(tmp_path, opened):
    source = "def f(x):\n    return x $ 2 $"
    text = f"So:\n\n```python\n{source}\n```\nand $x^2$."
    failure = {
        "verdict": "WA",
        "test": 6,
        "n_tests": 9,
        "n_passed": 6,
        "input": "<b>[3]</b>",
        "expected": "9",
        "got": "8",
    }
    broken = {"verdict": "CE", "test": 0, "cause": "SyntaxError: line 1", "input": "[3]", "expected": "9"}
    samples = [("p", 0, text, "incorrect", {"extracted": source, "reason": "WA on test 7", **failure})]
    samples += [("p", 1, text, "incorrect", {"extracted": source, "reason": "CE on test 1", **broken})]
    samples += [("p", 2, text, "correct", {"extracted": source, "verdict": "AC", "n_tests": 9, "n_passed": 9})]
    samples += [("p", 3, text, "incorrect", {"extracted": source + "\n", "reason": "WA on test 7", **failure})]
    page = opened(write_page(tmp_path / "out", [make_run(tmp_path / "run", samples)]).html, "#/samples")
    names = page.locator(".group .group-name")
    playwright.expect(names).to_have_text(["passes all tests", "WA on test 7", "CE on test 1"])
    failed = page.locator(".failure").nth(1)
    playwright.expect(failed.locator("p")).to_have_text("wrong answer on test 7 of 9, 6 passed")
    assert failed.locator("pre:visible").all_inner_texts() == ["<b>[3]</b>", "9", "8"]
    shown = page.locator(".sample .text").nth(1)
    assert shown.locator("code.program").inner_text() == f"```python\n{source}\n```"
    assert shown.locator("math").count() == 1  # of the formula outside the program
    page.goto(page.url.partition("#")[0] + "#/run/run/sums/p/1")
    playwright.expect(page.locator(".failure p")).to_have_text("does not compile")
    assert page.locator(".failure pre:visible").all_inner_texts() == ["SyntaxError: line 1"]


def test_two_samples_are_compared_word_by_word(html, opened):
    page = opened(html, "#/samples/sums?a=strong&b=weak&p=p3")
    page.locator(".side").nth(0).get_by_role("button", name="compare").first.click()
    page.locator(".side").nth(1).get_by_role("button", name="compare").first.click()
    dialog = page.get_by_role("dialog")
    dialog.locator("del").wait_for()
    assert dialog.locator("del").all_inner_texts() == ["but"] and dialog.locator("ins").all_inner_texts() == ["except"]
    page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")


def test_a_link_opens_a_sample_with_its_formulas(html, opened):
    page = opened(html, "#/run/weak/sums/p1/2")
    page.wait_for_selector(".sample-page math mfrac")
    assert "sample 2 of weak" in page.locator("h1").inner_text() and page.locator("math").count() == 2
    page.get_by_role("button", name="∑").click()
    playwright.expect(page.locator(".sample-page .text")).to_contain_text(r"\frac{1}{2}")
    page.get_by_role("link", name="all samples of this problem").click()
    page.wait_for_selector(".problem h2")
    assert page.locator(".problem h2").inner_text() == "p1"
    assert opened(html, "#/run/weak/sums/none/2").locator("[role=alert]").is_visible()


def test_keys_move_through_problems_and_search(html, opened):
    page = opened(html, "#/samples/sums?a=strong&b=weak")
    page.wait_for_selector(".problem h2")
    for key, expected in (("j", "p1"), ("j", "p2"), ("k", "p1")):
        page.keyboard.press(key)
        playwright.expect(page.locator(".problem h2")).to_have_text(expected)
    page.keyboard.press("/")
    page.keyboard.type("Words Except")
    page.keyboard.press("Enter")
    page.wait_for_selector(".hits li")
    playwright.expect(page.locator("[role=status]").first).to_contain_text("4 samples")
    assert set(page.locator(".hits mark").all_inner_texts()) == {"words except"}
    page.locator(".hits a").first.click()
    page.wait_for_selector(".sample-page")


def test_tables_sort_with_absent_cells_last(html, opened):
    page = opened(html, "#/tables")
    first = page.locator("#table-results tbody tr td:first-child")
    button = page.locator("#table-results").get_by_role("button", name="run")
    button.click()
    assert first.all_inner_texts() == ["strong", "weak"]
    button.click()
    assert first.all_inner_texts() == ["weak", "strong"]
    for _ in range(2):
        page.locator("#table-results").get_by_role("button", name="avg@4").click()
        assert first.all_inner_texts() == ["strong", "weak"]
    assert page.locator("#table-results th").nth(1).get_attribute("aria-sort") == "ascending"


def test_plots_are_drawn_as_images(html, opened):
    page = opened(html, "#/plots")
    load = "async image => { await image.decode(); return image.naturalWidth; }"
    assert page.locator("figure img").evaluate(load) > 0


def test_a_step_of_a_training_shows_its_groups(html, opened):
    page = opened(html, "#/training")
    assert page.locator(".curve").first.locator(".kept").count() == 2
    page.locator(".curve svg").first.click(position={"x": 4, "y": 60})
    head = page.locator(".rollouts h3")
    assert head.inner_text() == "Rollouts of train, step 2 the nearest of which it kept some"  # step 1 kept none
    groups = page.locator(".rollouts .group")
    playwright.expect(groups).to_have_count(2)
    assert groups.first.locator(".sample b").all_inner_texts() == ["reward 1", "reward 0"]
    assert groups.first.locator(".sample .tag").all_inner_texts() == ["best", "worst"]
    assert groups.nth(1).locator(".tag").all_inner_texts() == ["all equal"]
    bins = page.locator(".histogram button")
    assert bins.locator(".count").all_inner_texts() == ["2", "1", "5"]
    bins.nth(1).click()
    playwright.expect(page.locator(".rollouts .sample")).to_have_count(1)
    assert page.locator(".rollouts .sample .tag").count() == 0, "neither the best nor the worst"
    page.get_by_role("button", name="token probabilities").click()
    assert page.locator(".text.lens .token").all_inner_texts() == ["⟨7⟩", "⟨8⟩"]
    assert page.locator(".text.lens .l4").get_attribute("title") == "p = 0.04979, log -3, token 8"
    page.get_by_role("button", name="show all").click()
    playwright.expect(page.locator(".rollouts .sample")).to_have_count(4)


def test_keys_move_through_the_steps_with_rollouts_and_choose_bins(html, opened):
    page = opened(html, "#/training")
    page.wait_for_selector(".kept-steps button")
    head = playwright.expect(page.locator(".rollouts h3"))
    for key, step in (("j", 2), ("j", 3), ("j", 3), ("k", 2)):
        page.keyboard.press(key)
        head.to_have_text(f"Rollouts of train, step {step}")
    chosen = page.locator(".kept-steps [aria-pressed=true]")
    assert chosen.all_inner_texts() == ["2"]
    page.locator(".histogram button").first.focus()
    page.keyboard.press("Enter")
    playwright.expect(page.locator(".rollouts .sample")).to_have_count(2)
    chosen.click()
    playwright.expect(page.locator(".rollouts")).to_have_count(0)


def test_groups_that_were_kept_are_texts_with_their_advantages(html, opened):
    page = opened(html, "#/training?step=3")
    page.wait_for_selector(".rollouts .sample")
    page.locator(".rollouts summary", has_text="Prompt").click()
    shown = page.locator(".rollouts").inner_text()
    for name in ("script", "end of the element", "image"):
        assert ATTACKS[name] in shown, name
    assert page.evaluate("window.attacked") is None
    assert page.locator("main script, main img, main a[href^=javascript]").count() == 0
    best, worst = page.locator(".rollouts .sample header").all_inner_texts()
    assert "trained on 0.75" in best and "advantage +1.5" in best and "best" in best
    assert "trained on" not in worst and "advantage -0.5" in worst and "worst" in worst
    page.get_by_role("button", name="token probabilities").click()
    assert page.locator(".text.lens .token").nth(1).get_attribute("title") == "p = –, log –, token 8"


def test_the_theme_follows_the_system_and_can_be_changed(html, opened):
    page = opened(html, color_scheme="dark")
    body, white = playwright.expect(page.locator("body")), "rgb(255, 255, 255)"
    body.not_to_have_css("background-color", white)
    page.get_by_role("button", name="light").click()
    body.to_have_css("background-color", white)


def test_a_page_with_a_folder_works_from_disk(tmp_path, opened):
    files = write_page(tmp_path / "out", make_pair(tmp_path), most=100)
    page = opened(files.html, "#/samples/sums?p=p2")
    page.wait_for_selector(".sample .text")
    assert page.evaluate("window.attacked") is None


def test_a_run_alone_has_no_pair(tmp_path, opened):
    run = make_run(tmp_path / "run", [("p", 0, "text", "ungraded", {"reason": "no time"})])
    page = opened(write_page(tmp_path / "out", [run]).html, "#/samples")
    page.wait_for_selector(".sample .text")
    assert page.locator(".side").count() == 1 and page.locator("[data-filter=a-right]").count() == 0
    assert "no time" in page.locator(".side").inner_text()


@pytest.fixture
def live_page(tmp_path, monkeypatch, chromium):
    """A run that grows, and its page as `harness view` serves it: any other request, or a line logged, is a failure."""
    monkeypatch.setattr("harness.reports.live.EVERY_S", 0.05)
    monkeypatch.setattr("harness.reports.live.MOST_SHARE", 100.0)
    playwright.expect.set_options(timeout=60_000)
    growing = open_run(tmp_path / "runs/growing")
    for problem in ("p0", "p1"):
        sample(growing, problem, 0, f"first of {problem}", "correct", solution="a")
    make_pair(tmp_path / "runs")
    faults, context = [], chromium.new_context(viewport={"width": 1280, "height": 800})
    with PageServer(0) as server, LivePage([tmp_path / "runs"], {}) as live:
        thread = threading.Thread(target=server.serve, args=(live,))
        thread.start()
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: _note(faults, request.url, server.address))
        page.goto(f"{server.address}#/samples/sums?a=growing&b=weak&p=p1")
        page.wait_for_selector(".side .sample .text")
        yield page, growing
        playwright.expect.set_options(timeout=5_000)
        context.close()
        server.shutdown()
        thread.join()
    assert faults == []


def test_a_served_page_shows_new_samples_in_the_place_that_is_open(live_page):
    page, growing = live_page
    page.evaluate("document.querySelector('.side .sample').mark = 'the same element'")
    text = page.locator(".side").first.locator(".sample .text")
    playwright.expect(text).to_have_text("first of p1")
    sample(growing, "p0", 1, "another problem's", "correct", solution="b")
    sample(growing, "p1", 1, "second of p1", "correct", solution="a")
    playwright.expect(text).to_have_text(["first of p1", "second of p1"])
    assert page.evaluate("document.querySelector('.side .sample').mark") == "the same element"
    assert page.url.endswith("#/samples/sums?a=growing&b=weak&p=p1")
    page.get_by_role("link", name="Summary").click()
    playwright.expect(page.locator("main")).to_contain_text("growing: 4 samples of sums, 4 of 4 graded right so far")
    growing.finish("done")
    playwright.expect(page.locator(".warning")).to_have_count(0)


def test_a_served_page_can_wait_and_names_what_is_wrong(live_page, tmp_path):
    page, growing = live_page
    page.get_by_label("live").uncheck()
    sample(growing, "p1", 1, "second of p1", "correct", solution="a")
    page.get_by_role("button", name="show what is new").click()
    playwright.expect(page.locator(".side").first.locator(".sample")).to_have_count(2)
    growing.finish("done")
    path = tmp_path / "runs/weak/completions.jsonl"
    path.write_bytes(path.read_bytes().replace(b"no idea", b"no ideb"))
    playwright.expect(page.get_by_role("alert")).to_contain_text("weak/completions.jsonl, line 1 does not fit")
    assert page.locator(".side").count() == 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_every_view_fits_and_has_no_fault_of_accessibility(html, opened, scheme, width, tmp_path):
    pictures = Path(os.environ.get("HARNESS_SCREENSHOTS", tmp_path))
    pictures.mkdir(parents=True, exist_ok=True)
    for number, view in enumerate(VIEWS):
        page = opened(html, view, color_scheme=scheme, viewport={"width": width, "height": 800})
        page.wait_for_timeout(200)
        page.screenshot(path=pictures / f"{scheme}-{width}-{number}.png")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, view
        if AXE.exists():
            page.evaluate(AXE.read_text())
            found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
            assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == [], view
    assert AXE.exists() or os.environ.get("HARNESS_SCREENSHOTS") is None, "run npm ci in tools/build_page"


def test_the_tables_of_the_module_are_shown(html, opened):
    assert TABLES[0][1].title in opened(html).locator("main").inner_text()


@pytest.mark.slow
def test_any_filter_of_100_000_samples_takes_less_than_200_ms(tmp_path, opened):
    runs = [many_samples(tmp_path, f"run{i}", n_problems=500, n=20, right=0.3 + 0.04 * i) for i in range(10)]
    began = time.process_time()
    file = write_page(tmp_path / "out", runs).html
    assert time.process_time() - began < 15 and file.stat().st_size < 20_000_000
    page = opened(file, "#/samples/sums")
    page.wait_for_selector(".rows tbody th")
    paints = page.evaluate("performance.getEntriesByType('paint').map(entry => entry.startTime)")
    assert max(paints) < 1000
    for name in page.locator("[data-filter]").evaluate_all("buttons => buttons.map(button => button.dataset.filter)"):
        times = []
        for _ in range(3):  # the machine may be busy with something else
            page.locator("[data-filter=all]").click()
            times.append(page.evaluate(CLICK, name))
        assert min(times) < 200, name


CLICK = """async name => {
  const button = document.querySelector(`[data-filter="${name}"]`);
  const began = performance.now();
  button.click();
  while (button.getAttribute('aria-pressed') !== 'true') await new Promise(resolve => setTimeout(resolve));
  await new Promise(resolve => requestAnimationFrame(() => setTimeout(resolve)));
  return performance.now() - began;
}"""
