"""The page in a real browser without a window, driven over its debugging pipe: offline, at a desk's and a phone's width.

The browser is what DSRM_BROWSER names, else the first of the usual names on PATH; without one the test is skipped.
"""

import contextlib
import itertools
import json
import os
import select
import shutil
import subprocess

import pytest

from experiments.report.claims import judge_all, load_claims
from experiments.report.plan import CLAIMS, plans_folder
from experiments.report.reproduce import write_report

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "headless_shell")
OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-zygote", "--disable-dev-shm-usage")
PATIENCE = 60  # seconds for one answer
LAYOUT = """JSON.stringify({
  width: innerWidth,
  page: document.documentElement.scrollWidth,
  pictures: [...document.images].map(i => [i.complete, i.naturalWidth, i.getBoundingClientRect().right]),
  tables: [...document.querySelectorAll("table")].map(t => {
    const box = t.parentElement;
    const cell = t.querySelector("td").getBoundingClientRect();
    return [box.getBoundingClientRect().right, getComputedStyle(box).overflowX, cell.height,
      parseFloat(getComputedStyle(t).fontSize)];
  }),
  requests: performance.getEntriesByType("resource").filter(e => !e.name.startsWith("data:")).map(e => e.name),
})"""


def browser():
    named = os.environ.get("DSRM_BROWSER")
    return named or next(filter(None, map(shutil.which, NAMES)), None)


class Tab:
    """One page of a browser, spoken to in JSON messages that end with a zero byte."""

    def __init__(self, write, read):
        self.write, self.read, self.buffer, self.session = write, read, b"", None
        self.numbers, self.events = itertools.count(1), []

    def ask(self, method, **parameters):
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.receive()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def receive(self):
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.read], [], [], PATIENCE)
            assert ready, "the browser does not answer"
            part = os.read(self.read, 1 << 20)
            assert part, "the browser is gone"
            self.buffer += part
        line, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(line)

    def wait_for(self, event):
        while not any(e.get("method") == event for e in self.events):
            self.events.append(self.receive())


@contextlib.contextmanager
def opened(path, folder):
    """Start the browser with an empty page, its debugging pipe on descriptors 3 and 4."""
    to_browser, from_us = os.pipe()
    from_browser, to_us = os.pipe()

    def place():
        source, target = os.dup(to_browser), os.dup(to_us)
        os.dup2(source, 3)
        os.dup2(target, 4)

    process = subprocess.Popen(
        [path, *OPTIONS, f"--user-data-dir={folder}", "--remote-debugging-pipe", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=place,
        close_fds=False,
    )
    os.close(to_browser)
    os.close(to_us)
    try:
        tab = Tab(from_us, from_browser)
        target = tab.ask("Target.createTarget", url="about:blank")["targetId"]
        tab.session = tab.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        yield tab
    finally:
        process.kill()
        process.wait()
        os.close(from_us)
        os.close(from_browser)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_page_reads_well_offline_at_both_widths(findings, tmp_path):
    path = browser()
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is on PATH, and DSRM_BROWSER names none")
    folder = tmp_path / "report"
    folder.mkdir()
    judgements = judge_all(load_claims(plans_folder() / CLAIMS), findings)
    report = write_report(findings, judgements, folder, command="make reproduce")
    with opened(path, tmp_path / "profile") as tab:
        for domain in ("Page", "Runtime", "Log", "Network"):
            tab.ask(f"{domain}.enable")
        tab.ask("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)
        for width, height in ((1280, 900), (390, 844)):
            check_layout(tab, report, width, height)
        faults = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        assert [e for e in tab.events if e.get("method") in faults] == []


def check_layout(tab, report, width, height):
    tab.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
    tab.events = [e for e in tab.events if e.get("method") != "Page.loadEventFired"]
    tab.ask("Page.navigate", url=report.as_uri())
    tab.wait_for("Page.loadEventFired")
    found = json.loads(tab.ask("Runtime.evaluate", expression=LAYOUT)["result"]["value"])
    assert found["width"] == width
    assert found["page"] <= width  # nothing but the tables' boxes scrolls sideways
    assert found["requests"] == []
    assert len(found["pictures"]) >= 7
    assert all(done and natural > 0 and right <= width for done, natural, right in found["pictures"])
    assert len(found["tables"]) >= 15
    for right, overflow, cell_height, font in found["tables"]:
        assert right <= width
        assert overflow == "auto"
        assert 15 <= cell_height <= 0.75 * height  # a row of the ledger fits the screen
        assert font >= 12
    if save := os.environ.get("DSRM_SCREENSHOTS"):
        import base64

        shot = tab.ask("Page.captureScreenshot", captureBeyondViewport=False)["data"]
        with open(f"{save}/report_{width}.png", "wb") as file:
            file.write(base64.b64decode(shot))
