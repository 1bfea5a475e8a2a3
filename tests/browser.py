"""A browser without a window, for pages that do something; tests are skipped where there is none.

Debian's packages ``chromium`` and ``chromium-driver`` are enough.
"""

import shutil

import pytest


def chromium():
    """Start Chromium; the caller quits it."""
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("no chromium and chromedriver on this machine")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "hide-scrollbars"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options, Service(shutil.which("chromedriver")))


class Browser:
    """A page in a browser."""

    def __init__(self, driver) -> None:
        self.driver = driver

    def open(self, path, width: int = 1280, height: int = 1000) -> None:
        """Open a file at a size of the window, as wide as a telephone or as a screen."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.media("screen", "light")
        self.driver.get(f"file://{path}")
        self.run("sessionStorage.clear()")  # as nobody has left it
        self.driver.get("about:blank")
        self.driver.get(f"file://{path}")

    def media(self, kind: str, scheme: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"media": kind, "features": features}
        )

    def run(self, script: str, *arguments):
        return self.driver.execute_script(script, *arguments)

    def find(self, css: str):
        return self.driver.find_element("css selector", css)

    def texts(self, css: str) -> list[str]:
        script = "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)"
        return self.run(script, css)

    def errors(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def pick(self, css: str, value: str) -> None:
        """Choose in a list as a hand would: the page hears of it."""
        self.run(
            "const e = document.querySelector(arguments[0]); e.value = arguments[1];"
            "e.dispatchEvent(new Event('change'));",
            css,
            value,
        )

    def type(self, css: str, text: str) -> None:
        field = self.find(css)
        field.clear()
        field.send_keys(text)
