"""The status page in Chromium, served by a real receiver while a study arrives.

Console messages, requests and policy violations of the browser are collected during each test.
Screenshots are written to build/screenshots.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Locator,
    Page,
    Route,
    expect,
    sync_playwright,
)

from oxidicom.admin import model
from tests.support.data import Instance
from tests.support.pacs import answering, scripted_pacs
from tests.support.ports import free_port
from tests.support.raw_peer import EXPLICIT, RawPeer
from tests.support.receiver import PROJECT, Receiver

PAGE = PROJECT / "src" / "oxidicom" / "admin" / "page" / "index.html"
SCREENSHOTS = PROJECT / "build" / "screenshots"
HOSTILE = b"<img src=x id=h>"
"""An AE title is any sixteen characters (PS3.5 6.2); as markup, this one would load x."""

PHONE = (360, 740)
LAPTOP = (1280, 800)

FORBIDDEN = "addEventListener('securitypolicyviolation', e => console.error('CSP', e.blockedURI))"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    if chromium is None:
        if os.environ.get("OXIDICOM_TEST_BROKERS") == "required":
            pytest.fail("chromium is not installed")
        pytest.skip("chromium is not installed")
    with sync_playwright() as playwright:
        expect.set_options(timeout=20_000)  # of a machine that does much else
        browser = playwright.chromium.launch(executable_path=chromium)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    """Start a receiver whose PACS CT1 answers 40 instances to each count query."""
    with (
        scripted_pacs(answering(40)) as pacs,
        Receiver(
            tmp_path_factory.mktemp("receiver"),
            OXIDICOM_ADMIN_PORT="0",
            OXIDICOM_PACS_ADDRESS=f"CT1=127.0.0.1:{pacs.port}",
        ) as receiver,
    ):
        yield receiver


class Viewer:
    """A browser with the page of a receiver; `complaints` are the errors in its console."""

    def __init__(
        self, browser: Browser, size: tuple[int, int] = LAPTOP, theme: str | None = None
    ) -> None:
        self.context: BrowserContext = browser.new_context(
            viewport={"width": size[0], "height": size[1]},
            color_scheme="light" if theme == "light" else "dark",
        )
        self.context.set_default_timeout(15_000)
        self.page: Page = self.context.new_page()
        self.complaints: list[str] = []
        self.hosts: set[str] = set()
        self.page.add_init_script(FORBIDDEN)
        self.page.on("console", self._listen)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self._note(request.url))

    def _listen(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def _note(self, url: str) -> None:
        if not url.startswith("data:"):
            self.hosts.add(urlsplit(url).netloc)

    def open(self, receiver: Receiver) -> None:
        port = receiver.wait_for_log("listening")["admin_port"]
        answer = self.page.goto(f"http://127.0.0.1:{port}/")
        assert answer is not None
        assert answer.status == 200
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        expect(self.state).to_have_text("ready")

    def part(self, name: str) -> Locator:
        return self.page.locator(f"#{name}")

    @property
    def state(self) -> Locator:
        return self.part("sentence")

    def picture(self, name: str) -> None:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(
            path=SCREENSHOTS / f"{name}.png", full_page=True, animations="disabled"
        )

    def wait_for_height(self, selector: str, pixels: int) -> None:
        """Wait until the plot is higher than that many pixels."""
        height = "s => document.querySelector(s[0]).getBoundingClientRect().height > s[1]"
        self.page.wait_for_function(height, arg=[selector, pixels], polling=100)

    def fits(self) -> bool:
        """Return whether the page fits without horizontal scrolling."""
        width = "document.documentElement.scrollWidth <= window.innerWidth"
        return bool(self.page.evaluate(width))

    def leave(self) -> None:
        self.context.close()


def send(peer: RawPeer, series: str, numbers: range) -> None:
    for number in numbers:
        instance = Instance(series=series, number=number, pixels=60_000, PatientName="Geheim^X")
        assert peer.store(instance.sop_instance, instance.encode(EXPLICIT)).status == 0


def test_the_page_shows_a_study_that_arrives(browser: Browser, receiver: Receiver) -> None:
    series = Instance().series
    viewer = Viewer(browser)
    viewer.open(receiver)
    expect(viewer.part("no-series")).to_contain_text("No series yet")
    expect(viewer.part("no-associations")).to_be_visible()
    with RawPeer(receiver.port) as peer, RawPeer(receiver.port) as stranger:
        peer.associate(calling=b"CT1")
        stranger.associate(calling=HOSTILE)
        send(peer, series, range(10))
        row = viewer.part("series").get_by_role("listitem")
        bar = row.get_by_role("progressbar")
        send(stranger, Instance().series, range(3))  # no PACS is set for this title
        expect(row.nth(0).locator("[data-part=tally]")).to_have_text("3")
        expect(row.nth(0).locator("progress:indeterminate")).to_be_visible()
        expect(row.nth(1).locator("[data-part=tally]")).to_have_text("10 / 40")
        expect(bar.nth(1)).to_have_js_property("value", 10)
        send(peer, series, range(10, 30))
        expect(bar.nth(1)).to_have_js_property("value", 30)
        expect(row.nth(1).locator("[data-part=uid]")).to_have_text(series)

        associations = viewer.part("associations").get_by_role("row")
        expect(associations).to_have_count(2)
        expect(associations.nth(1)).to_contain_text("CT1")
        expect(associations.nth(0).locator(".aet")).to_have_text(HOSTILE.decode())

        for plot in ("plot-instances", "plot-bytes"):
            line = viewer.part(plot).locator(".line")
            expect(line).to_have_attribute("d", re.compile("M.*L"))
            # Rates are drawn one second after the counts.
            viewer.wait_for_height(f"#{plot} .line", 5)
        viewer.picture("arriving")

        viewer.page.set_viewport_size({"width": PHONE[0], "height": PHONE[1]})
        viewer.page.emulate_media(color_scheme="light")
        assert viewer.fits()
        viewer.picture("arriving-phone")
        peer.release()
    lost = viewer.part("failures").get_by_role("listitem").first
    expect(lost.locator(".who")).to_have_text(f"{HOSTILE.decode()} 127.0.0.1")
    assert viewer.page.locator("img").count() == 0
    done = viewer.part("recent").get_by_role("listitem").filter(has_text="CT1")
    expect(done.locator("[data-part=tally]")).to_have_text("30 / 40")
    expect(done.locator("[data-part=uid]")).to_have_attribute("title", series)
    expect(viewer.part("no-associations")).to_be_visible()
    assert viewer.fits()
    viewer.picture("complete-phone")
    assert "Geheim" not in viewer.page.content()
    assert viewer.complaints == []
    assert viewer.hosts == {urlsplit(viewer.page.url).netloc}
    viewer.leave()


def test_the_page_reconnects_to_a_restarted_receiver(browser: Browser, tmp_path: Path) -> None:
    with Receiver(tmp_path, OXIDICOM_ADMIN_PORT=str(free_port())) as receiver:
        viewer = Viewer(browser, theme="light")
        viewer.open(receiver)
        receiver.stop()
        expect(viewer.state).to_have_text(re.compile(r"not connected since \d\d:\d\d:\d\d"))
        expect(viewer.part("stale")).to_be_visible()
        viewer.picture("not-connected")
        receiver.start()
        expect(viewer.state).to_have_text("ready")
        expect(viewer.part("stale")).to_be_hidden()
        # The only errors are failed connections; browsers name them differently.
        assert all(line.startswith("Failed to load resource") for line in viewer.complaints)
        viewer.leave()


def test_the_page_keeps_the_selected_theme(browser: Browser, receiver: Receiver) -> None:
    viewer = Viewer(browser)
    viewer.open(receiver)

    def ground() -> str:
        return str(viewer.page.evaluate("getComputedStyle(document.body).backgroundColor"))

    dark = ground()
    button = viewer.part("theme")
    button.press("Enter")
    expect(button).to_have_text("Theme: dark")
    assert ground() == dark
    button.press("Enter")
    expect(button).to_have_text("Theme: light")
    light = ground()
    assert light != dark
    viewer.page.reload()
    expect(button).to_have_text("Theme: light")
    assert ground() == light
    button.press("Enter")
    assert ground() == dark
    assert viewer.complaints == []
    viewer.leave()


def bad_night(now: float) -> model.ReceiverStatus:
    """Return a status with the longest lists, names and numbers."""
    series = [
        model.Series(
            pacs_name=f"MODALITY_{number:07}",
            series_instance_uid=f"1.2.826.0.1.3680043.8.498.{10**36 + number}",
            modality="CT",
            received=number * 1_000,
            expected=None if number % 3 else 100_000,
            state="receiving" if number % 7 else "settling",
            since=now - 10 * number,
            latest=now,
        )
        for number in range(80)
    ]
    associations = [
        model.OpenAssociation(
            ulid=f"01J{number:023}",
            calling_aet=f"MODALITY_{number:07}",
            called_aet="ChRIS",
            peer="[2001:db8:85a3:8d3:1319:8a2e:370:7348]:65535",
            since=now - 3_599 * number,
            stored=number * 10_000,
            refused=number,
            bytes=10**12 + number,
            tls="TLSv1.3",
        )
        for number in range(50)
    ]
    failures = [
        model.Failure(
            at=now - number,
            kind="storage",
            who=f"MODALITY_{number:07} 2001:db8:85a3:8d3:1319:8a2e:370:7348",
            reason="No space left on device: " + "SERVICES/PACS/" * 8,
            status="A700H",
            count=1_000,
        )
        for number in range(50)
    ]
    return model.ReceiverStatus(
        version="0.1.0",
        aet="SIXTEEN_LETTERS_",
        started_at=now - 10_000_000,
        now=now,
        workers=64,
        ready=False,
        checks=[
            model.Check(name="storage", state="failed", detail="No space left on device"),
            model.Check(name="broker", state="degraded", detail="refuses connections"),
            model.Check(name="nats", state="ok", detail="connected"),
        ],
        now_rates=model.Rates(instances=123_456.7, bytes=2.5e9),
        totals=model.Totals(associations=10**9, associations_aborted=10**6, refused=10**6),
        associations_open=150,
        associations=associations,
        series_open=80,
        series=series,
        recent_series=[],
        outbox=model.OutboxStatus(pending=12, refused=2, oldest_at=now - 400),
        failures=failures,
    )


def test_the_page_fits_every_screen_with_many_failures(browser: Browser) -> None:
    viewer = Viewer(browser)
    page = viewer.page

    def serve(route: Route) -> None:
        if urlsplit(route.request.url).path == "/":  # and no events but ours
            route.fulfill(path=PAGE)

    now = 1_800_000_000
    page.clock.set_fixed_time(now * 1_000)  # so that none are missed, either
    page.route("**/*", serve)
    page.goto("http://receiver/")
    page.evaluate(
        "status => receive(JSON.parse(status))", msgspec.json.encode(bad_night(now)).decode()
    )
    for width, height in (PHONE, (768, 1024), (2560, 1440), LAPTOP):
        page.set_viewport_size({"width": width, "height": height})
        assert viewer.fits(), f"wider than {width}"
    viewer.picture("bad-night")
    expect(viewer.state).to_have_text("not ready: storage")
    expect(viewer.part("checks").get_by_role("listitem").nth(1)).to_contain_text(
        "degraded: refuses"
    )
    expect(viewer.part("outbox-pending")).to_contain_text("12 series wait")
    expect(viewer.part("outbox-refused")).to_contain_text("2 series refused by CUBE")
    expect(viewer.part("associations-count")).to_have_text("50 of 150")
    expect(viewer.part("series").get_by_role("progressbar")).to_have_count(80)
    failures = viewer.part("failures").get_by_role("listitem")
    expect(failures).to_have_count(8)  # others are not shown
    page.get_by_role("button", name="Show all 50").click()
    expect(failures).to_have_count(50)
    assert viewer.complaints == []
    viewer.leave()
