"""A page in a frame of a headless browser, as wide as a screen."""

import base64
import re
import shutil
import subprocess
from html import escape

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")


def said(text, script, width, folder):
    """What a script at the page's end sends to its parent.

    A window of the headless browser itself is never narrower than 500.
    """
    inner = text.replace("</body>", f"<script>{script}</script></body>")
    encode = "btoa(unescape(encodeURIComponent(e.data)))"
    outer = folder / f"outer{width}.html"
    outer.write_text(
        f"<body><script>onmessage=e=>document.body.setAttribute('data-w',{encode})</script>"
        f'<iframe style="border:0;width:{width}px;height:900px" srcdoc="{escape(inner)}"></iframe>'
        "</body>",
        encoding="utf-8",
    )
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=4000"]
    options += [f"--user-data-dir={folder}/profile", "--window-size=1400,900", "--dump-dom"]
    command = [CHROMIUM, *options, f"file://{outer}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)
    found = re.search(r'data-w="([^"]+)"', done.stdout)
    assert found, "the browser ran no script"
    return base64.b64decode(found.group(1)).decode()
