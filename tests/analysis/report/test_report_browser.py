"""The pages in a real browser: wide and narrow, light and dark, with everything unfolded, without the network."""

import shutil

import pytest
from axe_core_python.selenium import Axe
from report_pages import altered
from selenium import webdriver

from analysis.report import write_report, write_sweep_report

pytestmark = pytest.mark.browser

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "disable-quic", "no-first-run",
    "disable-background-networking", "disable-component-update", "disable-sync", "disable-extensions",
    "no-default-browser-check", "host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE localhost",
)  # fmt: skip
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
PAGES = ("complete", "diverged", "linear", "sweep")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    binary, driver = next(filter(None, map(shutil.which, BROWSERS)), None), shutil.which("chromedriver")
    assert binary, f"none of {', '.join(BROWSERS)} is installed"
    assert driver, "chromedriver is not installed"
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in FLAGS:
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('browser')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    opened.set_script_timeout(60)
    yield opened
    opened.quit()


@pytest.fixture(scope="module")
def addresses(run, regression, sweep, tmp_path_factory):
    """Pages of a run, of one with diverged seeds, of a linear regression and of a sweep."""
    out = tmp_path_factory.mktemp("pages")
    pages = {
        "complete": write_report(run, out / "complete"),
        "diverged": write_report(altered(run, out / "run", diverged=[1, 2, 3, 4, 5]), out / "diverged"),
        "linear": write_report(regression, out / "linear"),
        "sweep": write_sweep_report(sweep[1], out / "sweep"),
    }
    return {name: page.resolve().as_uri() for name, page in pages.items()}


def show(browser, address, width, scheme):
    """Open a page with everything unfolded; the log of an earlier one is dropped."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    scheme = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme)
    browser.get_log("browser")
    browser.get(address)
    browser.execute_script("document.querySelectorAll('details').forEach(part => { part.open = true })")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_whole_and_accessible(browser, addresses, name, width, scheme):
    show(browser, addresses[name], width, scheme)
    assert browser.get_log("browser") == []
    assert browser.execute_script("return innerWidth") == width
    wide = """
        return [...document.querySelectorAll('body *')]
            .filter(e => !e.closest('.scroll table, pre, .skip, .hidden'))
            .filter(e => e.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5)
            .map(e => e.outerHTML.slice(0, 120))
    """
    assert browser.execute_script(wide) == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    images = browser.execute_script("return [...document.images].map(i => [i.complete, i.naturalWidth, i.alt])")
    assert len(images) >= 3
    assert all(complete and natural > 0 and alt for complete, natural, alt in images)
    fetched = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert [name for name in fetched if not name.startswith("data:")] == []
    dark = browser.execute_script("return getComputedStyle(document.body).backgroundColor") != "rgb(251, 251, 249)"
    assert dark == (scheme == "dark")
    result = Axe().run(browser, options=RULES)
    found = [(v["id"], [node["html"][:120] for node in v["nodes"]]) for v in result["violations"]]
    assert found == []
    assert result["passes"]
    assert browser.get_log("browser") == []


def test_links_and_keyboard_reach_every_section(browser, addresses):
    show(browser, addresses["complete"], 1280, "light")
    for link in browser.execute_script("return [...document.querySelectorAll('nav a')].map(a => a.hash)"):
        browser.execute_script(
            "document.documentElement.style.scrollBehavior = 'auto'; location.hash = arguments[0]", link
        )
        top = browser.execute_script("return document.querySelector(arguments[0]).getBoundingClientRect().top", link)
        bottom = browser.execute_script(
            "return Math.abs(scrollY + innerHeight - document.documentElement.scrollHeight) < 2"
        )
        assert abs(top) < 40 or bottom
    hidden = "return [...document.querySelectorAll('[tabindex]')].filter(e => e.tabIndex < 0).length"
    assert browser.execute_script(hidden) == 0


def test_what_a_run_brings_does_not_run(browser, addresses):
    show(browser, addresses["complete"], 1280, "light")
    assert browser.execute_script("return document.scripts.length") == 0
    assert "<script>alert(1)</script>" in browser.execute_script("return document.querySelector('h1').textContent")


def test_the_checks_see_what_is_broken(browser, tmp_path):
    bad = """<!doctype html><html lang="en"><title>bad</title><meta name="viewport" content="width=device-width">
        <main style="width: 2000px"><h1 style="color: #ccc">grey on white</h1><img src="data:,none"></main>
        <script>console.error("seen")</script>"""
    (tmp_path / "bad.html").write_text(bad, encoding="utf-8")
    show(browser, (tmp_path / "bad.html").as_uri(), 1280, "light")
    assert any("seen" in entry["message"] for entry in browser.get_log("browser"))
    assert {"color-contrast", "image-alt"} <= {v["id"] for v in Axe().run(browser, options=RULES)["violations"]}
    assert browser.execute_script("return document.images[0].naturalWidth") == 0
    assert browser.execute_script("return document.documentElement.scrollWidth") > 1280
