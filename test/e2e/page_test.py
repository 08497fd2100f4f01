#!/usr/bin/env python3
"""The web page in a real browser (Debian's chromium, headless), against the real server and the real small model.

usage: page_test.py --heddle BINARY [--screenshots FOLDER]
"""
import argparse
import json
import os
import pathlib
import shutil
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from serving import MODEL, Server  # noqa: E402

# What a model might write to break out of its text.
HOSTILE = """<img src=x onerror="window.hacked=1"> <script>window.hacked=1</script> [click](javascript:window.hacked=1)
[data](data:text/html,<script>window.hacked=1</script>) **<b onmouseover=hacked=1>bold</b>** `<svg onload=hacked=1>`

```html"><script>window.hacked=1</script>
</code></pre><script>window.hacked=1</script>
```

- <iframe srcdoc="<script>parent.hacked=1</script>"></iframe>
# <style>*{display:none}</style>
> &lt;script&gt; [ok](https://example.org/?a=1&b="><script>)"""

MARKDOWN = """A short piece with **strong**, *gentle* and ~~struck~~ words, and `code` in a line.

## Warp and weft

1. The warp is strung on the loom:
   - under tension,
   - in order.
2. The weft goes through it.

```python
def weave(warp, weft):
    return [thread for pair in zip(warp, weft) for thread in pair]
```

> A heddle decides which threads are lifted.

More is [written elsewhere](https://example.org/loom)."""


class Browser:
    def __init__(self, url, downloads):
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium")
        for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--window-size=1280,860",
                     "--disable-background-networking", "--disable-component-update", "--no-first-run"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        self.driver.set_script_timeout(60)
        self.driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(downloads)})
        self.expected = []  # parts of console messages that a test provokes
        self.url = url

    def open(self, url=None):
        self.driver.get(url or self.url)
        self.wait("return document.getElementById('model').textContent !== ''")

    def js(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def wait(self, script, seconds=60):
        end = time.time() + seconds
        while time.time() < end:
            value = self.js(script)
            if value:
                return value
            time.sleep(0.05)
        raise AssertionError(f"not within {seconds} s: {script}")

    def keys(self, *keys):
        from selenium.webdriver.common.action_chains import ActionChains
        ActionChains(self.driver).send_keys(*keys).perform()

    def click(self, selector):
        self.driver.find_element("css selector", selector).click()

    def fill(self, name, value):
        field = self.driver.find_element("id", name)
        field.clear()
        field.send_keys(value)

    def say(self, text, wait=True):
        from selenium.webdriver.common.keys import Keys
        before = self.count()
        self.js("document.getElementById('message').focus()")
        self.keys(text, Keys.ENTER)
        self.wait(f"return document.querySelectorAll('.turn').length >= {before + 2}")
        if wait:
            self.finish()

    def finish(self):
        self.wait("return !document.querySelector('.turn.running') && !document.querySelector('#send.running')")

    def count(self):
        return self.js("return document.querySelectorAll('.turn').length")

    def answer(self):
        return self.js("return [...document.querySelectorAll('.turn.assistant .prose')].at(-1).textContent")

    def stats(self):
        return self.js("return [...document.querySelectorAll('.turn.assistant .stats')].at(-1)?.textContent ?? ''")

    def colours(self, scheme):
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})

    def size(self, width, height, mobile=False):
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                                    {"width": width, "height": height, "deviceScaleFactor": 2, "mobile": mobile})

    def picture(self, folder, name):
        if folder:
            time.sleep(0.3)  # transitions
            self.driver.save_screenshot(str(folder / f"{name}.png"))

    def check_console(self):
        for entry in self.driver.get_log("browser"):
            known = any(part in entry["message"] for part in self.expected)
            assert known or entry["level"] not in ("SEVERE", "WARNING"), entry
        self.expected = []


def conversation(name, messages, updated=1):
    return {"id": name, "updated": updated, "system": "", "messages": messages}


def keep(browser, conversations):
    browser.js("localStorage.setItem('heddle.conversations', arguments[0])", json.dumps(conversations))


def luminance(browser):
    rgb = browser.js("return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    return sum(rgb[:3]) / 3


def test_chat(browser, folder):
    browser.picture(folder, "empty_light")
    browser.click("#open-settings")
    browser.fill("temperature", "0")
    browser.fill("max_tokens", "60")
    browser.fill("system", "You are a helpful assistant.")
    browser.picture(folder, "settings_light")
    browser.click("#close-settings")
    browser.say("What is the capital of France?")
    assert "Paris" in browser.answer(), browser.answer()
    stats = browser.stats()
    assert "tokens/s" in stats and "ms to first" in stats and "0 of" in stats, stats
    first_prompt = int(stats.split(" of ")[1].split()[0])
    browser.say("And of Italy?")
    cached, prompt = browser.stats().split("cached")[0].split("tokens/s")[1].split(" of ")
    assert int(cached) >= first_prompt and int(prompt) > int(cached), browser.stats()
    title = browser.driver.title
    assert title.startswith("What is the capital"), title


def test_streaming_stop_and_retry(browser, folder):
    from selenium.webdriver.common.keys import Keys
    browser.click("#new")
    browser.js("for (const [k, v] of [['max_tokens', 400], ['temperature', 0]]) {"
               "  const f = document.getElementById(k); f.value = v; f.dispatchEvent(new Event('input', {bubbles: true})); }")
    browser.say("Write a long story about a weaver.", wait=False)
    lengths = set()
    while len(lengths) < 4:
        lengths.add(len(browser.answer()))
        assert browser.js("return !!document.querySelector('.turn.running')"), f"ended after {lengths}"
    browser.picture(folder, "streaming_light")
    browser.keys(Keys.ESCAPE)
    browser.finish()
    assert "stopped" in browser.stats() and "about" in browser.stats(), browser.stats()
    kept = browser.answer()
    assert len(kept) >= max(lengths)
    browser.click(".turn:last-child .retry")
    browser.wait("return document.querySelector('.turn.running')")
    browser.wait("return document.querySelector('.turn.running .prose').textContent.length > 20")
    browser.click("#send")  # now the stop button
    browser.finish()
    assert browser.count() == 2 and "stopped" in browser.stats()
    start = min(len(kept), len(browser.answer()), 20)
    assert browser.answer()[:start] == kept[:start], "temperature 0 answers alike"


def test_settings_reach_the_server(browser, folder):
    browser.click("#new")
    browser.js("""window.sent = []; const real = window.fetch;
        window.fetch = (path, options) => { if (options?.body) sent.push([JSON.parse(options.body), options.headers]); return real(path, options); };""")
    browser.click("#open-settings")
    values = {"temperature": "0.5", "top_p": "0.9", "top_k": "40", "min_p": "0.05", "max_tokens": "5", "seed": "7"}
    for name, value in values.items():
        browser.fill(name, value)
    browser.fill("system", "You are brief.")
    browser.fill("key", "a key")
    browser.click("#close-settings")
    browser.say("Tell me about cloth.")
    body, headers = browser.js("return sent.at(-1)")
    for name, value in values.items():
        assert body[name] == float(value), (name, body)
    assert body["messages"][0] == {"role": "system", "content": "You are brief."}, body
    assert headers["Authorization"] == "Bearer a key" and headers["X-Conversation-Id"], headers
    assert "cut off" in browser.stats() and browser.stats().startswith("5 tokens"), browser.stats()
    first = browser.answer()
    browser.click(".turn:last-child .retry")
    time.sleep(0.2)
    browser.finish()
    assert browser.answer() == first, "the same seed"
    # All of it is there after a reload; the key is this tab's alone.
    browser.driver.refresh()
    browser.wait("return document.querySelectorAll('.turn').length === 2")
    assert browser.answer() == first
    assert browser.js("return document.getElementById('top_k').value") == "40"
    assert browser.js("return document.getElementById('system').value") == "You are brief."
    assert browser.js("return sessionStorage.getItem('heddle.key')") == "a key"
    assert "a key" not in browser.js("return JSON.stringify(localStorage)")
    browser.js("sessionStorage.clear()")
    browser.open()
    browser.click("#open-settings")
    browser.click("#defaults")
    browser.fill("max_tokens", "24")
    browser.click("#close-settings")


def test_conversations(browser, folder, downloads):
    assert browser.js("return document.querySelectorAll('#conversations li').length") == 3
    browser.click("#conversations li:nth-child(3) .open")
    assert "Paris" in browser.js("return document.getElementById('log').textContent")
    browser.click("#export")
    for _ in range(100):
        files = list(downloads.glob("*.json"))
        if files:
            break
        time.sleep(0.1)
    exported = json.loads(files[0].read_text())
    assert [m["role"] for m in exported["messages"]] == ["user", "assistant"] * 2 and exported["system"], exported
    browser.js("document.querySelector('#conversations li:nth-child(3) .delete').click()")
    assert browser.js("return document.querySelectorAll('#conversations li').length") == 3, "one press asks"
    browser.js("document.querySelector('#conversations li:nth-child(3) .delete').click()")
    assert browser.js("return document.querySelectorAll('#conversations li').length") == 2
    assert browser.count() == 0
    browser.open()
    assert browser.js("return document.querySelectorAll('#conversations li').length") == 2


def test_hostile_text_stays_text(browser, folder):
    hostile = [{"role": "user", "content": HOSTILE}, {"role": "assistant", "content": HOSTILE, "error": HOSTILE}]
    keep(browser, [conversation("x", hostile), {"id": 5, "messages": "?"}, None,
                   conversation('"><script>window.hacked=1</script>', hostile)])
    browser.open(browser.url + "#x")
    browser.driver.refresh()
    browser.wait("return document.querySelectorAll('.turn').length === 2")
    assert browser.js("return window.hacked") is None
    foreign = browser.js("return [...document.querySelectorAll('#log :is(script, img, iframe, style, svg, b, object)')].length")
    foreign -= browser.js("return document.querySelectorAll('#log .stats b').length")
    assert foreign == 0, browser.js("return document.getElementById('log').innerHTML")
    links = browser.js("return [...document.querySelectorAll('#log a')].map((a) => [a.protocol, a.rel, a.target])")
    assert all(link[0] == "https:" and "noopener" in link[1] for link in links), links
    assert browser.js("return document.querySelector('.said').textContent") == HOSTILE
    assert browser.js("""return (async () => { try { document.body.insertAdjacentHTML('beforeend', '<i></i>'); return 'ran'; }
        catch (error) { return 'refused'; } })()""") == "refused", "the policy lets text become markup"
    browser.expected = ["TrustedHTML", "Trusted"]


def test_markdown(browser, folder):
    keep(browser, [conversation("m", [{"role": "user", "content": "How does weaving work?"},
                                      {"role": "assistant", "content": MARKDOWN,
                                       "stats": {"tokens": 182, "rate": 146.2, "prompt": 171, "cached": 152, "first": 38, "finish": "stop"}},
                                      {"role": "user", "content": "And what does a heddle do in it?\nIn one sentence, please."},
                                      {"role": "assistant", "content": "It lifts some of the warp threads, so that the shuttle passes beneath them.",
                                       "stats": {"tokens": 21, "rate": 151, "prompt": 380, "cached": 353, "first": 24, "finish": "stop"}}], 9),
                   conversation("n", [{"role": "user", "content": "Five names for a cat"}, {"role": "assistant", "content": "Ada"}], 8),
                   conversation("o", [{"role": "user", "content": "A haiku about the sea"}, {"role": "assistant", "content": "Blue"}], 7)])
    browser.open(browser.url + "#m")
    browser.driver.refresh()
    browser.wait("return document.querySelectorAll('.turn').length === 4")
    shape = browser.js("return [...document.querySelectorAll('.prose')[0].children].map((node) => node.localName)")
    assert shape == ["p", "h4", "ol", "figure", "blockquote", "p"], shape
    assert browser.js("return document.querySelector('.prose ol > li > ul').children.length") == 2
    code = browser.js("return document.querySelector('.prose pre code').textContent")
    assert code.startswith("def weave(warp, weft):\n    return"), code
    assert [browser.js(f"return document.querySelector('.prose {name}').textContent") for name in ("strong", "em", "del", "p code")] == \
        ["strong", "gentle", "struck", "code"]
    for scheme in ("light", "dark"):
        browser.colours(scheme)
        browser.picture(folder, f"chat_{scheme}")


def test_colours(browser, folder):
    browser.colours("light")
    light = luminance(browser)
    browser.colours("dark")
    dark = luminance(browser)
    assert light > 200 and dark < 60, (light, dark)
    browser.click("#theme")
    assert luminance(browser) > 200, "the toggle overrides the system"
    browser.driver.refresh()
    assert luminance(browser) > 200, "and is kept"
    browser.colours("light")
    assert luminance(browser) > 200
    browser.click("#theme")
    browser.click("#theme")
    browser.colours("dark")
    assert luminance(browser) < 60, "back to the system's"
    browser.colours("light")
    # Text stands out from its ground (WCAG AA) in both.
    for scheme in ("light", "dark"):
        browser.colours(scheme)
        ratios = browser.js("""
            const channel = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
            const lum = (text) => { const [r, g, b] = text.match(/[\\d.]+/g).map(Number); return 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b); };
            const ground = lum(getComputedStyle(document.body).backgroundColor);
            return ['.said', '.prose', '.who', '.stats', '.keys', '.fine', '.open', '.assistant .who', '.prose a', '.model'].map((selector) => {
              const ink = lum(getComputedStyle(document.querySelector(selector)).color);
              return [selector, (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05)]; });""")
        assert all(ratio >= 4.5 for _, ratio in ratios), (scheme, ratios)
    browser.colours("light")


def test_small_screen(browser, folder):
    browser.size(360, 740, mobile=True)
    too_wide = """return [document.documentElement.scrollWidth, ...[...document.querySelectorAll('body *')].filter((node) =>
        node.checkVisibility({visibilityProperty: true}) && !node.closest('pre, svg, .hidden, .skip') && node.getBoundingClientRect().right > 360.5).map((node) => node.outerHTML.slice(0, 80))]"""
    for name, steps in (("chat", []), ("sidebar", ["#open-sidebar"]), ("settings", ["#close-sidebar", "#open-settings"])):
        for step in steps:
            browser.click(step)
            time.sleep(0.3)
        assert browser.js(too_wide)[1:] == [] and browser.js(too_wide)[0] <= 360, (name, browser.js(too_wide))
        browser.picture(folder, f"phone_{name}")
    browser.click("#close-settings")
    browser.colours("dark")
    browser.picture(folder, "phone_dark")
    browser.click("#open-sidebar")
    time.sleep(0.3)
    browser.click("#new")
    time.sleep(0.3)
    browser.picture(folder, "phone_empty_dark")
    browser.say("Say yes.")
    assert browser.count() == 2
    browser.colours("light")
    browser.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_keyboard_only(browser, folder):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys
    browser.open(browser.url + "#")
    browser.driver.refresh()
    browser.wait("return document.activeElement.id === 'message'")
    browser.keys("one")
    ActionChains(browser.driver).key_down(Keys.SHIFT).send_keys(Keys.ENTER).key_up(Keys.SHIFT).perform()
    browser.keys("two")
    assert browser.js("return document.getElementById('message').value") == "one\ntwo"
    browser.keys(Keys.ENTER)
    browser.wait("return document.querySelectorAll('.turn').length === 2")
    browser.finish()
    assert browser.js("return document.querySelector('.said').textContent") == "one\ntwo"
    # Every control can be reached, says its name, and shows that it has the focus.
    browser.js("document.activeElement.blur(); document.body.focus()")
    seen = []
    for _ in range(60):
        browser.keys(Keys.TAB)
        found = browser.js("""const node = document.activeElement; if (!node || node === document.body) return null;
            const style = getComputedStyle(node); const field = node.closest('.field');
            const shown = style.outlineStyle !== 'none' || (field && getComputedStyle(field).borderColor !== getComputedStyle(document.querySelector('.bar')).borderColor);
            const name = node.ariaLabel || node.textContent.trim() || document.querySelector(`label[for="${node.id}"]`)?.textContent.trim();
            return [node.id || node.className, name, shown];""")
        if found is None and not seen:  # from where the focus was to the end of the page
            continue
        if found is None or (seen and found == seen[0]):
            break
        seen.append(found)
    names = [name for name, _, _ in seen]
    for wanted in ("skip", "new", "open", "delete", "export", "theme", "open-settings", "message"):
        assert any(wanted in name for name in names), (wanted, names)
    assert all(label and shown for _, label, shown in seen), seen
    browser.js("document.getElementById('open-settings').focus()")
    browser.keys(Keys.ENTER)
    assert not browser.js("return document.getElementById('settings').hidden")
    browser.keys(Keys.ESCAPE)
    assert browser.js("return document.getElementById('settings').hidden && document.activeElement.id === 'open-settings'")


def test_errors(browser, folder):
    browser.expected = ["status of 400", "status of 401", "ERR_CONNECTION_REFUSED", "ERR_EMPTY", "ERR_INCOMPLETE"]
    browser.click("#new")
    browser.js("document.getElementById('top_p').value = 0")
    browser.say("Hello")
    text = browser.js("return document.querySelector('.error[role=alert]').textContent")
    assert "top_p" in text, text
    browser.picture(folder, "error_light")
    browser.js("document.getElementById('top_p').value = ''")
    browser.click(".turn:last-child .retry")
    time.sleep(0.2)
    browser.finish()
    assert browser.count() == 2 and browser.answer() and not browser.js("return document.querySelector('.error')")


def test_server_gone(browser, server):
    browser.expected = ["ERR_CONNECTION_REFUSED", "ERR_EMPTY", "ERR_INCOMPLETE", "ERR_CONNECTION_RESET"]
    server.stop()
    browser.say("Are you there?")
    assert "cannot be reached" in browser.js("return document.querySelector('.error').textContent")


def test_api_key(browser, heddle, model):
    server = Server(heddle, model, "--api-key", "secret")
    browser.expected = ["401"]
    url = f"http://127.0.0.1:{server.port}/"
    browser.open(url)
    browser.wait("return document.getElementById('model').textContent === 'API key needed'")
    browser.say("Hello")
    assert "API key" in browser.js("return document.querySelector('.error').textContent")
    browser.wait("return document.activeElement.id === 'key'")
    browser.keys("secret")
    browser.click("#close-settings")
    browser.wait("return document.getElementById('model').textContent.startsWith('SmolLM2')")
    browser.click(".turn:last-child .retry")
    time.sleep(0.2)
    browser.finish()
    assert browser.answer() and not browser.js("return document.querySelector('.error')")
    status, body = server.request("GET", "/")
    assert status == 200 and "<!doctype html>" in body
    assert server.request("GET", "/page/nothing.js")[0] in (401, 404)
    server.stop()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--heddle", required=True)
    parser.add_argument("--screenshots", type=pathlib.Path)
    args = parser.parse_args()
    model = pathlib.Path(os.environ.get("HEDDLE_MODELS_DIR", "")) / MODEL
    if not os.environ.get("HEDDLE_MODELS_DIR") or not model.exists():
        print(f"SKIPPED: {MODEL} is not in HEDDLE_MODELS_DIR")
        return
    if not shutil.which("chromium") or not shutil.which("chromedriver"):
        print("SKIPPED: the page is NOT TESTED: chromium or chromedriver is missing (tools/install_packages.sh browser)")
        return
    if args.screenshots:
        args.screenshots.mkdir(parents=True, exist_ok=True)
    server = Server(args.heddle, model)
    with tempfile.TemporaryDirectory() as name:
        downloads = pathlib.Path(name)
        browser = Browser(f"http://127.0.0.1:{server.port}/", downloads)
        try:
            browser.colours("light")
            browser.open()
            for test in (test_chat, test_streaming_stop_and_retry, test_settings_reach_the_server):
                run(test, browser, args.screenshots)
            run(test_conversations, browser, args.screenshots, downloads)
            for test in (test_hostile_text_stays_text, test_markdown, test_colours, test_small_screen, test_keyboard_only, test_errors):
                run(test, browser, args.screenshots)
            run(test_server_gone, browser, server)
            run(test_api_key, browser, args.heddle, model)
        except Exception:
            browser.picture(args.screenshots, "failed")
            raise
        finally:
            browser.driver.quit()
            if server.process.poll() is None:
                server.stop()


def run(test, browser, *arguments):
    start = time.time()
    test(browser, *arguments)
    browser.check_console()
    print(f"ok {test.__name__} ({time.time() - start:.1f} s)", flush=True)


if __name__ == "__main__":
    main()
