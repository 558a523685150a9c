"""What if, on the page, in a real Chromium: a row that a person changes, and what versions of a model say of it; and
the whole page as everybody must be able to use it."""

import json
import threading

import pytest

from llmops.errors import EngineError
from tests.at_once import wait_until
from tests.service.conftest import release
from tests.service.tabular_models import WINE, Classes, Hours, row, version
from tests.service.test_page import with_key
from tests.service.test_page_in_browser import VOTABLE, ask, choose, opened

BIKES = [version(1, "previous"), version(2, "champion")]
WINES = [version(1, "champion", name="wine", schema=WINE)]
FORM = "document.querySelector('[data-column]')"
SAID = "!document.querySelector('#what-said').hidden && document.querySelector('#what-said').ariaBusy === 'false'"
HOUR, WEATHER, TEMPERATURE, HOLIDAY = (f"#what-input-{place}" for place in range(4))


def predictor(asked):
    return Classes() if asked.name == "wine" else Hours(float(asked.version), example=row(8))


@pytest.fixture(scope="module")
def modelled(serve_shared):
    releases = release(1, "previous"), release(2, "champion")
    with serve_shared(*releases, tabular=[*BIKES, *WINES], open_tabular=predictor) as running:
        yield running


def shown(browser, running):
    opened(browser, running)
    browser.wait(FORM)


def fill(browser, selector, text):
    browser.run(f"document.querySelector('{selector}').select()")
    if text:
        browser.type(selector, text)
    else:
        browser.press("Delete", 46)


def cards(browser):
    return browser.run("[...document.querySelectorAll('#what-said .answer')].map((card) => card.innerText)")


def wait_for(browser, text):
    browser.wait(f"document.querySelector('#what-said').innerText.includes({json.dumps(text)})")


def test_the_row_begins_as_a_real_one_and_nothing_is_asked_before_a_person_does_something(browser, modelled):
    before = modelled.log.count()
    shown(browser, modelled)
    values = browser.run("[...document.querySelectorAll('[data-column]')].map((input) => input.value)")
    assert values == ["8", '"clear"', "9.5", "false"]  # the example that is stored with the model
    choices = browser.run(f"[...document.querySelectorAll('{WEATHER} option')].map((option) => option.textContent)")
    assert choices == ["clear", "mist"]
    assert browser.run("document.querySelector('#what-said').hidden")
    assert modelled.log.count() == before
    assert browser.complaints == []


def test_a_change_asks_both_versions_in_one_recorded_request_each(browser, modelled):
    before = modelled.log.count()
    shown(browser, modelled)
    fill(browser, HOUR, "12")
    browser.wait(SAID)
    champion, other = cards(browser)
    assert champion.split("\n")[0] == "bike@2 (champion)"
    assert "24count" in champion
    assert "the first row: 16; this is × 1.5" in champion
    assert other.split("\n")[0] == "bike@1 (previous)"
    assert "12count" in other

    records = modelled.records()[before:]
    assert {record.release for record in records} == {"bike@1", "bike@2"}
    assert len(records) == 2
    asked, first, *varied = json.loads(records[0].input)
    assert (asked, first) == (row(12), row(8))
    assert [each["hour"] for each in varied] == list(range(3, 14))  # five around the value that it began with
    assert all({**each, "hour": 12} == asked for each in varied)
    assert browser.run("document.querySelectorAll('#what-chart .line').length") == 2
    assert "count, where hour alone varies" in browser.text("#what-varied")

    fill(browser, "#what-to", "23")
    browser.wait("document.querySelector('#what-chart svg').textContent.endsWith('23')")
    browser.click("#what-form [type=reset]")
    wait_for(browser, "the first row, unchanged")
    assert browser.complaints == []


def test_a_column_of_categories_is_varied_over_all_of_them_in_a_table(browser, modelled):
    shown(browser, modelled)
    choose(browser, "#what-beside", "")
    for column, values in (("weather", ["clear", "mist"]), ("holiday", ["true", "false"])):
        choose(browser, "#what-vary", column)
        browser.wait(f"document.querySelector('#what-table th')?.textContent === '{column}'")
        cells = browser.run(
            "[...document.querySelectorAll('#what-table tr')].map((row) => [...row.cells].map((c) => c.textContent))"
        )
        assert cells == [[column, "bike@2 (champion)"], *([value, "16"] for value in values)]
        assert browser.run("document.querySelector('#what-chart svg')") is None
        assert browser.text("#what-table") != ""  # it is open
    choose(browser, "#what-vary", "")
    browser.wait("document.querySelector('#what-varied').hidden")


def test_a_classifier_shows_how_probable_each_class_is(browser, modelled):
    shown(browser, modelled)
    choose(browser, "#what-model", "wine")
    browser.wait("document.querySelector('#what-version').value === 'wine@1' && described.model === 'wine@1'")
    assert browser.run("document.querySelector('#what-said').hidden")  # answers about bikes are gone
    fill(browser, HOUR, "13.5")
    browser.wait(SAID)
    (card,) = cards(browser)
    assert "1class" in card
    assert [line for line in card.split("\n") if line.endswith("%")] == ["0 %", "100 %"]
    assert browser.run("[...document.querySelectorAll('#what-said meter')].map((meter) => meter.value)") == [0, 1]
    assert browser.run("document.querySelectorAll('#what-chart .line').length") == 2
    assert browser.text("#what-varied-title") == "probability of each class, where alcohol alone varies"


def test_an_empty_input_is_null_and_the_gateway_says_whether_the_model_takes_it(browser, modelled):
    shown(browser, modelled)
    fill(browser, TEMPERATURE, "")
    browser.wait(SAID)
    assert json.loads(modelled.records()[-1].input)[0] == row(8, temperature=None)
    before = modelled.log.count()
    fill(browser, HOUR, "")
    wait_for(browser, "row 0, column 'hour': must be a whole number, not null")
    assert modelled.log.count() == before
    assert browser.run("document.querySelector('#what-varied').hidden")


def test_a_version_that_reads_other_rows_or_fails_says_so_beside_the_one_that_answers(browser, serve):
    def fail(_):
        raise EngineError("secret")

    models = {"bike@1": Classes(), "bike@2": Hours(2.0, example=row(8)), "bike@3": Hours(before=fail)}
    versions = [version(1, schema=WINE), version(2, "champion"), version(3)]
    with serve(tabular=versions, open_tabular=lambda asked: models[asked.ref]) as running:
        shown(browser, running)
        for beside, problem in (("bike@1", "row 0, column 'alcohol': is missing"), ("bike@3", "the model failed")):
            choose(browser, "#what-beside", beside)
            browser.click("#what-ask")
            browser.wait(f"{SAID} && document.querySelectorAll('#what-said h3')[1]?.textContent === '{beside}'")
            champion, failed = cards(browser)
            assert "16count" in champion
            assert problem in failed
            assert "secret" not in failed
            assert browser.run("document.querySelectorAll('#what-chart .line').length") == 1


def test_changes_made_while_it_is_asked_are_asked_once_when_the_answer_has_come(browser, serve):
    may_answer, reached = threading.Event(), threading.Event()

    def wait(_):
        reached.set()
        assert may_answer.wait(30)

    with serve(tabular=BIKES[1:], open_tabular=lambda _: Hours(before=wait, example=row(8))) as running:
        shown(browser, running)
        browser.click("#what-ask")
        wait_until(reached.is_set)
        for hour in (9, 10, 11):
            fill(browser, HOUR, str(hour))
            browser.click("#what-ask")
        may_answer.set()
        wait_for(browser, "11count")
        assert [json.loads(record.input)[0]["hour"] for record in running.records()] == [8, 11]


def test_with_a_key_only_its_models_are_offered_and_its_limit_is_told(browser, tmp_path):
    key = {"name": "person", "apps": ["bike"], "requests_per_minute": 3}
    with with_key(tmp_path, tabular=[*BIKES, *WINES], **key) as (running, secret):
        browser.open(running.url + "/")
        browser.wait("!document.querySelector('#key-section').hidden")
        browser.type("#key-input", secret)
        browser.press("Enter", 13)
        browser.wait(FORM)
        models = browser.run("[...document.querySelector('#what-model').options].map((option) => option.value)")
        assert models == ["bike"]
        for hour in range(10, 14):
            fill(browser, HOUR, str(hour))
            browser.click("#what-ask")
            browser.wait(f"{SAID} && !isAsking")
        assert "requests per minute" in browser.text("#what-said")


def test_without_a_tabular_model_there_is_no_such_section(browser, serve):
    with serve() as running:
        opened(browser, running)
        assert browser.run("document.querySelector('#what-section').hidden")
        assert not browser.run("document.querySelector('#play-section').hidden")


def test_without_an_app_the_models_are_what_is_served(browser, serve):
    with serve(tabular=BIKES, open_tabular=predictor) as running:
        shown(browser, running)
        assert " ".join(browser.text("#apps").split()) == "bike a tabular model bike@2 champion bike@1 previous"
        assert browser.run("document.querySelector('#play-section').hidden")


def test_a_new_champion_is_offered_and_what_a_person_has_chosen_and_written_stays(browser, serve):
    with serve(tabular=BIKES, open_tabular=predictor) as running:
        shown(browser, running)
        choose(browser, "#what-version", "bike@1")
        choose(browser, "#what-beside", "")
        fill(browser, HOUR, "11")
        running.source.add(version(3, "champion"))
        browser.wait("(look(), [...document.querySelector('#what-version').options].some((o) => o.value === 'bike@3'))")
        chosen = browser.run("['version', 'beside'].map((name) => document.querySelector(`#what-${name}`).value)")
        assert (chosen, browser.run(f"document.querySelector('{HOUR}').value")) == (["bike@1", ""], "11")


def test_numbers_keep_four_digits_that_count(browser, modelled):
    opened(browser, modelled)
    told = {0.0361312: "0.03613", 1234567.8: "1,234,568", 0: "0", 0.0000123: "1.23e-5", "clear": "clear", -2.5: "-2.5"}
    assert browser.run(f"{json.dumps([*told])}.map((value) => predictionText(value))") == [*told.values()]


def ask_everything(browser, running, question="What is the capital of Peru?"):
    """A question of two releases, and a row of two versions of a model."""
    shown(browser, running)
    ask(browser, question)
    browser.wait(VOTABLE)
    browser.run(f"document.querySelector('{HOUR}').focus()")
    browser.press("Enter", 13)
    browser.wait(SAID)


# The lowest contrast of any text with its background, as WCAG computes it, and the text.
CONTRAST = """
(() => {
  const light = ([r, g, b]) => {
    const part = [r, g, b].map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * part[0] + 0.7152 * part[1] + 0.0722 * part[2];
  };
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  let lowest = [21, ""];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.getClientRects().length || element.disabled || element.closest(".skip, noscript")) continue;
    const [a, b] = [light(parse(getComputedStyle(element).color)), light(ground(element))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < lowest[0]) lowest = [ratio, element.textContent.slice(0, 40)];
  }
  return lowest;
})()
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_in_light_and_in_dark_and_moves_for_nobody_who_does_not_want_it(browser, modelled, scheme):
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    ask_everything(browser, modelled)
    browser.click("[data-vote=left]")
    browser.wait("document.querySelector('#play-status').textContent.startsWith('Kept')")
    ratio, text = browser.run(CONTRAST)
    assert ratio >= 4.5, text
    ground = json.loads(browser.run("JSON.stringify(getComputedStyle(document.body).backgroundColor.match(/\\d+/g))"))
    assert (int(ground[0]) < 128) == (scheme == "dark")
    # Who wants no motion sees none.
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": "reduce"}])
    browser.run("document.querySelector('#left-text').setAttribute('aria-busy', 'true')")
    assert browser.run("getComputedStyle(document.querySelector('#left-text'), '::after').animationName") == "none"


def test_everything_that_can_be_used_has_a_name_for_a_screen_reader_and_is_reached_by_keyboard(browser, modelled):
    ask_everything(browser, modelled)
    nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "textbox", "spinbutton", "combobox", "link", "region", "navigation", "heading", "meter", "image"}
    used = [node for node in nodes if not node["ignored"] and node.get("role", {}).get("value") in {*roles, "img"}]
    names = [node.get("name", {}).get("value") for node in used]
    assert len(used) > 20
    assert [node["role"]["value"] for node, name in zip(used, names, strict=True) if not name] == []
    assert {"hour", "temperature (may be empty)", "Predict"} <= set(names)
    assert browser.run("document.documentElement.lang") == "en"
    assert browser.run("document.querySelectorAll('h1').length") == 1
    reached = []
    for _ in range(12):
        browser.press("Tab", 9)
        reached.append(browser.run("document.activeElement.id"))
        assert browser.run("getComputedStyle(document.activeElement).outlineStyle") != "none", reached
    assert {"what-ask", "what-vary", "what-from", "what-to"} <= set(reached)


@pytest.mark.parametrize("width", [320, 390, 768])
def test_on_a_small_screen_nothing_is_cut_off(browser, modelled, width):
    browser.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=2, mobile=True)
    ask_everything(
        browser, modelled, "Donaudampfschifffahrtsgesellschaftskapitänsmützenabzeichenverleihungsurkunde" * 3
    )
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run("document.querySelector('#what-chart svg').getBoundingClientRect().width") <= width
    heights = browser.run(
        "[...document.querySelectorAll('#votes button')].map((b) => b.getBoundingClientRect().height)"
    )
    assert min(heights) >= 40
