#!/usr/bin/env python3
"""A mixer is one folder: tools/new_mixer writes it into a copy of the tree, where no other file differs, and there it builds,
passes the contract suite, shows up in `heddle bench kernels`, generates, is served, saved and restored."""
import filecmp
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
NAME = "toy_memory"


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

        # Scalar kernels without optimisation build in a fraction of the time. The cache of compilations knows the copy's files
        # by their names below it.
        environment = dict(os.environ, CCACHE_BASEDIR=str(copy), CCACHE_NOHASHDIR="1")
        build = copy / "build"
        run("cmake", "-S", copy, "-B", build, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Debug",
            "-DCMAKE_CXX_FLAGS=-g0 -DHWY_COMPILE_ONLY_SCALAR", env=environment)
        run("cmake", "--build", build, "--target", "contract_test", "heddle", env=environment)
        tests = run(build / "contract_test", f"--gtest_filter=*{NAME}*", cwd=copy)
        for name in ("AnyChunkingGivesEqualBits", "TreeDraftsEqualEachPathAlone", "FastEqualsReferenceWithinTheBudget",
                     "CostIsWithinAQuarterOfWhatIsCounted", f"EveryWayOfServingGivesEqualBits/{NAME}"):
            assert any(f"[       OK ]" in line and name in line for line in tests.split("\n")), (name, tests[-4000:])
        lines = run(build / "heddle", "bench", "kernels", "--only", NAME, "--seconds", "0", "--json").splitlines()
        found = [line for line in map(json.loads, lines) if line.get("kernel") == NAME]
        assert found and all(line["us"]["median"] > 0 for line in found), lines
        assert any(0 <= line.get("error_over_budget", -1) <= 1 for line in found), found
    print(f"ok: {len(added)} files in {folder}, {tests.count('[       OK ]')} tests")


if __name__ == "__main__":
    main()
