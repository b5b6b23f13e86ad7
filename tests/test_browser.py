"""Reports in a headless Chromium: real events, and what is then to be seen."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pages import browsers, hills, pairs, valley

import landscape
from landscape.store.checkpoints import Run

pytestmark = pytest.mark.browser

EVIL = '"><script>document.title = "evil"</script><img src=x onerror="document.title = 1">'

Show = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    yield from browsers()


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Show]:
    """Opens a page about some sources; whatever it says on the console, or asks the network for, is an error."""
    said: list[str] = []
    opened = []

    def call(*sources: Any, width: int = 1280, scheme: str = "light") -> Any:
        file = landscape.report(*sources, save=tmp_path / "page.html", overwrite=True)
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        opened.append(page)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(dialog.message))
        page.on("request", lambda request: said.append(request.url) if not re.match("file|data", request.url) else None)
        page.goto(file.as_uri())
        return page

    yield call
    for page in opened:
        page.close()
    assert said == []


def over(page: Any, line: int, alpha: float = 0.5) -> None:
    """Move the pointer to a place on the curve of a line."""
    at = page.evaluate(
        """([line, alpha]) => {
            const path = document.querySelector(`.curves path[data-l="${line}"]`);
            const [first, last] = [0, path.getTotalLength()].map((at) => path.getPointAtLength(at).x);
            let low = 0, high = path.getTotalLength();
            for (let k = 0; k < 40; k++) {
                const middle = (low + high) / 2;
                if (path.getPointAtLength(middle).x < first + alpha * (last - first)) low = middle; else high = middle;
            }
            path.scrollIntoView({block: "center"});
            const point = path.getPointAtLength(low).matrixTransform(path.getScreenCTM());
            return [point.x, point.y];
        }""",
        [line, alpha],
    )
    page.mouse.move(*at)


def said(page: Any) -> str:
    return page.inner_text("#told")


def lit(page: Any, selector: str, name: str = "on") -> list[str]:
    """What is lit of these elements: the members that they show."""
    found = page.eval_on_selector_all(
        f"{selector}.{name}", "(all) => all.map((each) => each.dataset.m || each.dataset.l)"
    )
    return sorted(found)


def test_pointing_at_a_line_tells_its_seed_checkpoint_barrier_and_peak_and_lights_it_up_everywhere(show: Show) -> None:
    page = show(hills(8, points=51), valley())
    over(page, 4)
    told = said(page)
    for words in ("to: seed 4", "checkpoint: one/@9", "barrier: 5", "peak alpha: 0.5", "group: solved"):
        assert words in told
    (row,) = page.query_selector_all("tr[data-l].on")
    assert row.get_attribute("data-l") == "4"
    begin, end = row.get_attribute("data-m").split()
    assert lit(page, ".graph g") == lit(page, "tr[data-m]:not([data-l])") == sorted([begin, end])
    assert page.locator(".curves .top path.on").count() == 1
    assert page.locator(".curves .top circle.peak").count() == 1
    page.mouse.move(5, 5)
    assert said(page) == "Nothing is pointed at."
    assert lit(page, "tr") == []


def test_the_nearest_of_many_lines_is_the_one_that_is_told(show: Show) -> None:
    page = show(hills(60, points=51))
    for line in (0, 17, 41, 59):
        over(page, line, 0.5)
        assert f"to: seed {line} ·" in said(page)


def test_a_click_keeps_lines_and_escape_lets_them_go(show: Show) -> None:
    page = show(hills(8, points=51))
    over(page, 1)
    page.mouse.down()
    page.mouse.up()
    over(page, 6)
    page.mouse.down()
    page.mouse.up()
    page.mouse.move(5, 5)
    assert said(page) == "2 kept."
    assert [re.search(r"seed \d", each)[0] for each in page.locator("#kept li").all_inner_texts()] == [
        "seed 1",
        "seed 6",
    ]
    assert page.locator(".curves .top path.kept").count() == 2
    page.locator("#kept button").first.click()
    assert page.locator("#kept li").count() == 1
    page.keyboard.press("Escape")
    assert page.locator("#kept li").count() == 0
    assert lit(page, "tr", "kept") == []


def test_arrows_move_along_lines_in_the_order_of_the_table_and_enter_keeps(show: Show) -> None:
    page = show(hills(8, points=51))
    page.locator("table[aria-label=Lines] th button", has_text=re.compile("^barrier$")).click()
    page.locator("table[aria-label=Lines] th button", has_text=re.compile("^barrier$")).click()
    page.locator("svg.curves").focus()
    seen = []
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "ArrowLeft", "End", "Home"):
        page.keyboard.press(key)
        seen.append(re.search(r"to: (seed \d)", said(page))[1])
    assert seen == ["seed 7", "seed 6", "seed 5", "seed 6", "seed 0", "seed 7"]
    page.keyboard.press("Enter")
    assert "seed 7" in page.inner_text("#kept")


def test_the_tab_key_reaches_every_drawing_which_has_a_name(show: Show) -> None:
    page = show(pairs(), valley())
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.getAttribute('aria-label')"))
    drawings = page.eval_on_selector_all("svg[tabindex]", "(all) => all.map((each) => each.getAttribute('aria-label'))")
    assert len(drawings) == 4
    assert all(re.search("Arrow keys move, Enter keeps, Escape clears", each) for each in drawings)
    assert set(drawings) <= reached
    assert page.get_attribute("#told", "aria-live") == "polite"


@pytest.mark.parametrize(
    ("written", "left"),
    [
        ("seed 1", ["seed 1"]),
        ("barrier>6", ["seed 6", "seed 7", "seed 8", "seed 9", "seed 10", "seed 11"]),
        ("group=solved barrier<=2", ["seed 0", "seed 1"]),
        ("not solved", ["seed 2", "seed 5", "seed 8", "seed 11"]),
        ("nothing like it", []),
        ("L2 length<12 barrier!=1", ["seed 1"]),
        ("seed 3 peak alpha<0.9", ["seed 3"]),
        ("barrier>=10 group!=solved", ["seed 11"]),
        ('to="seed 4"', ["seed 4"]),
        ("L2 length = 12.0", ["seed 2"]),
    ],
)
def test_a_filter_hides_rows_and_their_curves(show: Show, written: str, left: list[str]) -> None:
    page = show(hills(12, points=51))
    page.locator("section.table", has_text="Lines").locator("input").first.fill(written)
    rows = page.locator("table[aria-label=Lines] tbody tr:visible")
    assert [row.split("\t")[1] for row in rows.all_inner_texts()] == left
    assert page.locator(".curves path[data-l]:visible").count() == len(left)
    assert page.locator(".filter output").first.inner_text() == f"{len(left)} of 12"
    page.locator(".filter input").first.fill("")
    assert rows.count() == 12
    assert page.locator(".filter output").first.inner_text() == "12 lines"


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("nosuch>1", "no column is called nosuch"),
        ("seed 1 nosuch=1", "no column is called nosuch"),
        ("barrier>abc", "abc is no number"),
        ("barrier=abc", "abc is no number"),
        ("barrier<", "nothing stands behind <"),
        ("group<3", "that column has no numbers"),
        ("<3", "no column is called nothing"),
    ],
)
def test_a_filter_that_cannot_be_meant_says_why(show: Show, written: str, reason: str) -> None:
    page = show(hills(8))
    page.locator("section.table", has_text="Lines").locator("input").first.fill(written)
    assert page.locator(".filter output").first.inner_text() == f"0 of 8: {reason}"


def test_a_line_that_is_kept_and_pointed_at_is_told_once(show: Show) -> None:
    page = show(hills())
    row = page.locator("table[aria-label=Lines] tbody tr").nth(2)
    row.click()
    assert page.locator("aside").inner_text().count("seed 2") == 1
    assert page.locator("#kept li.on").count() == 1
    page.locator("table[aria-label=Lines] tbody tr").nth(3).hover()
    assert page.locator("#kept li.on").count() == 0
    assert "seed 3" in said(page)


def test_a_click_on_a_head_sorts_by_numbers(show: Show) -> None:
    page = show(hills(12, points=51))
    head = page.locator("table[aria-label=Lines] th", has_text="L2 length")
    column = "table[aria-label=Lines] tbody tr td:nth-child(10)"
    for order in ("ascending", "descending"):
        head.locator("button").click()
        assert head.get_attribute("aria-sort") == order
        values = list(map(float, page.locator(column).all_inner_texts()))
        assert values == sorted(values, reverse=order == "descending")
    page.locator("table[aria-label=Lines] th button", has_text=re.compile("^to$")).click()
    assert page.locator("table[aria-label=Lines] tbody tr td:nth-child(2)").all_inner_texts() == [
        f"seed {k}" for k in range(12)
    ]
    assert head.get_attribute("aria-sort") is None


def test_a_cell_of_the_matrix_is_the_line_between_two_members(show: Show) -> None:
    page = show(pairs())
    matrix = page.locator("svg.matrix")
    order = matrix.get_attribute("data-members").split()
    matrix.scroll_into_view_if_needed()
    for row, column in ((0, 3), (4, 1)):
        at = matrix.evaluate(
            """(svg, [row, column, count]) => {
                const [left, top, width, height] = svg.dataset.box.split(" ").map(Number);
                const point = new DOMPoint(left + (column + 0.5) * width / count, top + (row + 0.5) * height / count)
                    .matrixTransform(svg.getScreenCTM());
                return [point.x, point.y];
            }""",
            [row, column, len(order)],
        )
        page.mouse.move(*at)
        (line,) = page.query_selector_all("tr[data-l].on")
        assert set(line.get_attribute("data-m").split()) == {order[row], order[column]}
        assert matrix.locator(".top rect").count() == 2
        assert len(lit(page, ".graph g")) == 2


def test_a_slider_moves_along_the_training(show: Show) -> None:
    page = show(valley())
    slide, here = page.locator(".slider input"), page.locator(".here")
    marks = page.eval_on_selector_all(
        ".mark circle", "(all) => all.map((c) => [c.getAttribute('cx'), c.getAttribute('cy')])"
    )
    assert page.inner_text(".slider output").startswith("step 1000: loss 3.5")
    slide.focus()
    for place, step in ((2, "step 100"), (1, "step 10:"), (0, "step 0")):
        page.keyboard.press("ArrowLeft")
        assert [here.get_attribute("cx"), here.get_attribute("cy")] == marks[place]
        assert page.inner_text(".slider output").startswith(step)
        assert said(page).startswith(step)
        assert lit(page, ".mark") == [str(place)]
    assert slide.get_attribute("aria-valuetext").startswith("step 0: loss 0.5, 0.75 off the plane")


def test_the_value_under_the_pointer_on_a_plane_is_told(show: Show) -> None:
    surface = valley()
    page = show(surface)
    drawing = page.locator("svg.plane")
    at = drawing.evaluate(
        """(svg) => {
            const [left, top, width, height] = svg.dataset.box.split(" ").map(Number);
            const place = new DOMPoint(left + 0.5 * width / 12, top + 8.5 * height / 9);
            const point = place.matrixTransform(svg.getScreenCTM());
            return [point.x, point.y];
        }"""
    )
    page.mouse.move(*at)
    assert said(page) == f"x -2.00, y -1.00: loss {surface.loss[0, 0]:.3g}"


def test_a_group_lights_up_its_members(show: Show, run: Run) -> None:
    page = show(run)
    card = page.locator(".card").first
    card.hover()
    own = sorted(card.get_attribute("data-m").split())
    assert lit(page, "tbody tr") == own
    assert page.locator(".curves .top path.on").count() == len(own)
    card.click()
    assert page.locator(".card.kept").count() >= 1
    point = page.locator(".at circle").last
    point.hover()
    assert said(page).startswith("step 60: ")


def test_colours_follow_the_system_and_the_button(show: Show) -> None:
    def paper(page: Any) -> int:
        return sum(map(int, re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))[:3]))

    light, dark = show(hills()), show(hills(), scheme="dark")
    assert paper(light) > 700
    assert paper(dark) < 120
    for page in (light, dark):
        before = paper(page)
        page.locator("#theme").click()
        assert abs(paper(page) - before) > 500
    dark.locator("#theme").click()
    dark.emulate_media(media="print", color_scheme="dark")
    assert paper(dark) > 700
    assert not dark.locator(".filter").first.is_visible()


def test_names_with_markup_run_nothing(show: Show) -> None:
    page = show(hills(3, title=EVIL, name=EVIL + "{}"))
    assert page.title() == EVIL
    over(page, 1)
    assert f"to: {EVIL}1" in said(page)
    assert page.locator("img").count() == 0


def test_the_policy_refuses_the_network_and_foreign_scripts(browser: Any, tmp_path: Path) -> None:
    page = browser.new_page()
    page.goto(landscape.report(hills(), save=tmp_path / "page.html").as_uri())
    refused = page.evaluate(
        """async () => {
            const found = [];
            document.addEventListener("securitypolicyviolation", (event) => found.push(event.effectiveDirective));
            await fetch("http://127.0.0.1:9/").catch(() => null);
            const made = document.createElement("script");
            made.textContent = "document.title = 'evil'";
            document.body.append(made);
            await new Promise((done) => setTimeout(done, 50));
            return found;
        }"""
    )
    assert {"connect-src", "script-src-elem"} <= set(refused)
    assert page.title() == "Hills"
    page.close()


@pytest.mark.parametrize("width", [1280, 420])
def test_labels_neither_overlap_nor_leave_their_drawing(show: Show, run: Run, width: int) -> None:
    walked = landscape.walk("presolve", run, points=11)
    between = landscape.walk(run, run, pairs="all", points=5)
    page = show(run, walked, between, valley(), width=width)
    boxes = page.evaluate(
        """() => [...document.querySelectorAll("figure > svg[tabindex]")].map((svg) => {
            const box = (each) => {
                const at = each.getBoundingClientRect();
                return [at.left, at.top, at.right, at.bottom];
            };
            const labels = [...svg.querySelectorAll("text")].map((each) => [each.textContent, box(each)]);
            return [svg.getAttribute("aria-label"), box(svg), labels];
        })"""
    )
    assert len(boxes) >= 7
    for name, around, labels in boxes:
        for text, box in labels:
            assert box[0] >= around[0] - 1, (name, text)
            assert box[1] >= around[1] - 1, (name, text)
            assert box[2] <= around[2] + 1, (name, text)
            assert box[3] <= around[3] + 1, (name, text)
        for place, (text, one) in enumerate(labels):
            for other, two in labels[place + 1 :]:
                apart = one[2] <= two[0] + 1 or two[2] <= one[0] + 1 or one[3] <= two[1] + 2.5 or two[3] <= one[1] + 2.5
                assert apart, (name, text, other)


@pytest.mark.slow
def test_a_page_of_a_thousand_lines_answers_at_once(show: Show) -> None:
    page = show(hills(1000, points=51))
    over(page, 500)
    spent = page.evaluate(
        """() => {
            const svg = document.querySelector(".curves"), box = svg.getBoundingClientRect(), start = performance.now();
            for (let k = 0; k < 20; k++) svg.dispatchEvent(new PointerEvent("pointermove", {
                bubbles: true, clientX: box.left + (0.2 + 0.03 * k) * box.width, clientY: box.top + box.height / 2 }));
            return (performance.now() - start) / 20;
        }"""
    )
    assert np.isfinite(spent)
    assert spent < 200, "milliseconds a move; some five where nothing else runs"
