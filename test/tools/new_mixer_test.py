#!/usr/bin/env python3
"""A mixer is one folder: tools/new_mixer writes it into a copy of the tree, where no other file differs, and there it builds,
passes the contract suite, shows up in `heddle bench kernels`, generates, is served, saved and restored.

The copy takes the objects of unchanged files from the build of the tree (HEDDLE_BUILD, else build/dev), so that the new folder
alone is compiled; what is not built there, or is older than its source, is compiled too."""
import filecmp
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BUILD = pathlib.Path(os.environ.get("HEDDLE_BUILD", ROOT / "build" / "dev"))
NAME = "toy_memory"

# Stands before the compiler, where a build has its cache. COPY, ROOT, BUILD: as below; NEW: the new folder.
LAUNCHER = """#!/bin/sh
for argument; do
  case $previous in -o) object=$argument ;; -c) source=$argument ;; -MF) depends=$argument ;; esac
  previous=$argument
done
case $source in
  COPY/build/* | COPY/NEW/*) ;;
  COPY/*)
    if [ "BUILD/$object" -nt "ROOT/${source#COPY/}" ]; then
      echo "$object:" >"$depends" && exec cp "BUILD/$object" "$object"
    fi ;;
esac
echo "$source" >>COPY.compiled
exec "$@"
"""
# What of a build's settings its objects depend on.
SETTINGS = re.compile(r"(CMAKE_BUILD_TYPE|CMAKE_CXX_COMPILER|CMAKE_CXX_FLAGS\w*|CMAKE_EXE_LINKER_FLAGS\w*|HEDDLE_\w+):\w+=.*")


def run(*command, **options):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}")
    return done.stdout


def files_of(root):
    return {path.relative_to(root) for path in root.rglob("*") if path.is_file() and "build" not in path.relative_to(root).parts[:1]}


def main():
    with tempfile.TemporaryDirectory() as temporary:
        copy = pathlib.Path(temporary) / "tree"
        tracked = run("git", "-C", ROOT, "ls-files", "-z").split("\0")
        for name in filter(None, tracked):
            if (ROOT / name).is_file() and not name.startswith("test/golden/data/real"):
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, copy / name)
        before = files_of(copy)
        run(copy / "tools" / "new_mixer", NAME)
        added = files_of(copy) - before
        folder = pathlib.Path("src/mixers") / NAME
        assert added and all(path.parent == folder for path in added), added
        assert all(filecmp.cmp(ROOT / path, copy / path, shallow=False) for path in before)

        launcher = pathlib.Path(temporary) / "launcher"
        text = LAUNCHER
        for name, path in (("COPY", copy), ("ROOT", ROOT), ("BUILD", BUILD), ("NEW", folder)):
            text = text.replace(name, str(path))
        launcher.write_text(text)
        launcher.chmod(0o755)
        cache = (BUILD / "CMakeCache.txt").read_text().split("\n")
        settings = ["-D" + line for line in cache if SETTINGS.fullmatch(line)]
        build = copy / "build"
        run("cmake", "-S", copy, "-B", build, "-G", "Ninja", *settings, f"-DCCACHE={launcher}")
        run("cmake", "--build", build, "--target", "contract_test", "heddle")
        tests = run(build / "contract_test", f"--gtest_filter=*{NAME}*", cwd=copy)
        for name in ("AnyChunkingGivesEqualBits", "TreeDraftsEqualEachPathAlone", "FastEqualsReferenceWithinTheBudget",
                     "CostIsWithinAQuarterOfWhatIsCounted", f"EveryWayOfServingGivesEqualBits/{NAME}"):
            assert any(f"[       OK ]" in line and name in line for line in tests.split("\n")), (name, tests[-4000:])
        lines = run(build / "heddle", "bench", "kernels", "--only", NAME, "--seconds", "0", "--json").splitlines()
        found = [line for line in map(json.loads, lines) if line.get("kernel") == NAME]
        assert found and all(line["us"]["median"] > 0 for line in found), lines
        assert any(0 <= line.get("error_over_budget", -1) <= 1 for line in found), found
        compiled = pathlib.Path(f"{copy}.compiled").read_text().split()
    print(f"ok: {len(added)} files in {folder}, {len(compiled)} compiled, {tests.count('[       OK ]')} tests")


if __name__ == "__main__":
    main()
