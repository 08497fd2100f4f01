#!/usr/bin/env python3
"""Chat templates against Jinja2: every template x every conversation, equal bytes or refused by both.

    chat_template_test.py --driver build/dev/chat_template_driver [--templates DIR]... [--verbose]

Templates: those of chat_template_styles/ beside this file, every *.jinja of each --templates directory (by default
$HEDDLE_PEER_DIR/models/templates, the peer's collection), and the template inside each *.gguf of $HEDDLE_MODELS_DIR.
Conversations: chat_template_conversations.json. Small expressions: chat_template_snippets.json.
Features: every filter, test, method and loop variable that Jinja and Python have is asked for. Those that a template uses, or that
KEPT names, must be there; all others must be refused by name, so that nothing is kept that nobody reads.
Jinja2 is set up as transformers sets it up. Without python3-jinja2 the test says so and passes.
"""
import argparse
import datetime
import functools
import json
import os
import pathlib
import struct
import subprocess
import sys

# Counted over the peer's collection (llama-cpp-python 0.3.36, 70 templates); with that collection at hand, they are counted again.
USED = {
    "filter": {"default", "dictsort", "indent", "int", "items", "join", "length", "list", "lower", "map", "min", "reject", "rejectattr",
               "replace", "safe", "selectattr", "sort", "string", "tojson", "trim", "unique", "upper"},
    "test": {"boolean", "defined", "equalto", "false", "iterable", "mapping", "none", "number", "sequence", "string", "true", "undefined"},
    "method": {"endswith", "format", "lstrip", "replace", "rstrip", "split", "startswith", "strip"},
    "loop": {"first", "index", "index0", "last", "length", "nextitem", "previtem"},
}
# Other names and twins of those (count: length), and what templates of widely used models outside that collection call:
# role.title() of OpenChat, role|capitalize of SmolVLM, messages|first and |last.
KEPT = {
    "filter": {"capitalize", "count", "d", "first", "last", "max", "select"},
    "test": {"!=", "<", "<=", "==", ">", ">=", "eq", "float", "ge", "greaterthan", "gt", "in", "integer", "le", "lessthan", "lt", "ne"},
    "method": {"capitalize", "lower", "title", "upper"},
    "loop": set(),
}

HERE = pathlib.Path(__file__).resolve().parent
NOW = datetime.datetime(2024, 7, 26, 9, 5, 3)
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}

try:
    import jinja2
    import jinja2.ext
    import jinja2.nodes
    import jinja2.sandbox
except ImportError:
    print("SKIPPED: python3-jinja2 is missing, nothing to compare with")
    sys.exit(0)


class Raised(jinja2.exceptions.TemplateError):
    """raise_exception was called: the refusal that must have its message in common."""


class GenerationTag(jinja2.ext.Extension):
    """{% generation %} ... {% endgeneration %} prints its body, in a scope of its own."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        call = self.call_method("_print_body")
        return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _print_body(self, caller):
        return caller()


class CheckedNamespace(jinja2.utils.Namespace):
    def __init__(*args, **kwargs):  # a keyword may be named `self`
        self, values = args[0], dict(*args[1:], **kwargs)
        for name in values:
            refuse_underscore(name)
        jinja2.utils.Namespace.__init__(self, values)

    def __setitem__(self, name, value):
        refuse_underscore(name)
        super().__setitem__(name, value)


def refuse_underscore(name):
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"underscore-prefixed attribute {name!r}")


def environment():
    def raise_exception(message):
        raise Raised(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(
            x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
        )

    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, jinja2.ext.loopcontrols]
    )
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = NOW.strftime
    env.globals["dict"] = lambda *args, **kwargs: dict(*args, **kwargs)
    env.globals["namespace"] = CheckedNamespace
    return env


def with_reasoning_names(message):
    if not isinstance(message, dict):
        return message
    names = ("reasoning_content", "thinking", "reasoning")
    found = next((message[n] for n in names if message.get(n) is not None), None)
    if found is None:
        return message
    return {"thinking": found, **message, "reasoning_content": found}


@functools.lru_cache(maxsize=None)
def compiled(env, source):
    """The template, or the exception that compiling it raised (raised again by every use)."""
    try:
        return env.from_string(source)
    except Exception as error:
        return error


def reference(env, source, case):
    """(text, None) or (None, (kind, message)); kind is `raise` for raise_exception and `error` for all else."""
    try:
        template = compiled(env, source)
        if isinstance(template, Exception):
            raise template
        text = template.render(
            messages=[with_reasoning_names(m) for m in case["messages"]],
            tools=case.get("tools"),
            add_generation_prompt=case.get("add_generation_prompt", True),
            **{"documents": None, **TOKENS, **case.get("extra", {})},
        )
        return text, None
    except Raised as error:
        return None, ("raise", str(error))
    except Exception as error:  # any failure inside the template
        return None, ("error", f"{type(error).__name__}: {error}")


class Driver:
    def __init__(self, path):
        self.process = subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def render(self, source, case):
        request = {
            "template": source,
            "messages": case["messages"],
            "tools": case.get("tools"),
            "extra": case.get("extra", {}),
            "add_generation_prompt": case.get("add_generation_prompt", True),
            "tokens": TOKENS,
            "now": [NOW.year, NOW.month, NOW.day, NOW.hour, NOW.minute, NOW.second,
                    NOW.isoweekday() % 7, NOW.timetuple().tm_yday - 1],
        }
        self.process.stdin.write((json.dumps(request) + "\n").encode())
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"the driver died (exit status {self.process.wait()})")
        reply = json.loads(line)
        return (reply["text"], None) if reply["ok"] else (None, reply["error"])


def gguf_template(path):
    """The value of tokenizer.chat_template in a GGUF v3 file, or None."""
    sizes = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
    with open(path, "rb") as file:
        def number(form):
            return struct.unpack("<" + form, file.read(struct.calcsize(form)))[0]

        def skip_value(kind):
            if kind == 8:
                file.seek(number("Q"), 1)
            elif kind == 9:
                item, count = number("I"), number("Q")
                if item in sizes:
                    file.seek(sizes[item] * count, 1)
                else:
                    for _ in range(count):
                        skip_value(item)
            else:
                file.seek(sizes[kind], 1)

        if file.read(4) != b"GGUF":
            return None
        number("I")
        number("Q")
        for _ in range(number("Q")):
            key, kind = file.read(number("Q")), number("I")
            if key == b"tokenizer.chat_template":
                return file.read(number("Q")).decode()
            skip_value(kind)
    return None


def collect(directories):
    templates = [(p.name, p.read_text()) for p in sorted((HERE / "chat_template_styles").glob("*.jinja"))]
    if not directories and os.environ.get("HEDDLE_PEER_DIR"):
        directories = [pathlib.Path(os.environ["HEDDLE_PEER_DIR"]) / "models" / "templates"]
    found = []
    for directory in directories:
        found += [(p.name, p.read_bytes().decode()) for p in sorted(pathlib.Path(directory).glob("*.jinja"))]
    if not found:
        print("SKIPPED: the peer's templates (give --templates DIR or set HEDDLE_PEER_DIR)")
    real = []
    models = os.environ.get("HEDDLE_MODELS_DIR")
    for path in sorted(pathlib.Path(models).glob("*.gguf")) if models else []:
        template = gguf_template(path)
        if template is not None:
            real.append((path.name, template))
    if not real:
        print("SKIPPED: templates of real models (no *.gguf in HEDDLE_MODELS_DIR)")
    return templates + found + real


def count_features(env, sources):
    used = {kind: set() for kind in USED}
    for source in sources:
        tree = env.parse(source)
        for node in tree.find_all(jinja2.nodes.Filter):
            used["filter"].add(node.name)
            names = [a.value for a in node.args if isinstance(a, jinja2.nodes.Const)]
            if node.name == "map" and names:
                used["filter"].add(names[0])
            skip = {"select": 0, "reject": 0, "selectattr": 1, "rejectattr": 1}.get(node.name)
            if skip is not None and len(names) > skip:
                used["test"].add(names[skip])
        used["test"] |= {node.name for node in tree.find_all(jinja2.nodes.Test)}
        for node in tree.find_all(jinja2.nodes.Getattr):
            if isinstance(node.node, jinja2.nodes.Name) and node.node.name == "loop":
                used["loop"].add(node.attr)
        calls = [c.node.attr for c in tree.find_all(jinja2.nodes.Call) if isinstance(c.node, jinja2.nodes.Getattr)]
        used["method"] |= set(calls) & set(dir(str))
    return {kind: names & known_features(env)[kind] for kind, names in used.items()}


def known_features(env):
    return {"filter": set(env.filters), "test": set(env.tests),
            "method": {name for name in dir(str) if not name.startswith("_")},
            "loop": {name for name in dir(jinja2.runtime.LoopContext) if not name.startswith("_")}}


def check_features(env, driver, sources, complete):
    """Wrong ones, as text: features that are there without need, or needed and not there."""
    wrong = []
    counted = count_features(env, sources)
    for kind, names in known_features(env).items():
        if complete and counted[kind] != USED[kind]:
            wrong.append(f"{kind}: USED should differ by {sorted(counted[kind] ^ USED[kind])}")
        for name in sorted(names):
            source, refusal = {
                "filter": ("{{ '' | %s }}" % name, "No filter named"),
                "test": ("{{ 1 is %s }}" % name if name.isidentifier() else "{{ [1]|select('%s')|list }}" % name, "No test named"),
                "method": ("{{ ''.%s() }}" % name, "has no attribute"),
                "loop": ("{%% for x in [1] %%}{{ loop.%s.x }}{%% endfor %%}" % name, "has no attribute '%s'" % name),
            }[kind]
            _, error = driver.render(source, {"messages": []})
            there = error is None or refusal not in error
            if there != (name in USED[kind] or name in KEPT[kind]):
                wrong.append(f"{kind} {name}: {'there, though no template uses it' if there else 'missing: ' + error}")
    return wrong


def compare(name, case_name, expected, got, show):
    (want, refused), (text, error) = expected, got
    if refused is None and error is None and want == text:
        return "equal"
    if refused is not None and error is not None:
        if refused[0] != "raise" or refused[1] in error:
            return "refused"
    if show:
        print(f"DIFFERENT: {name} / {case_name}\n  jinja2: {refused or repr(want)}\n  heddle: {error or repr(text)}")
    return "different"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--driver", help="the chat_template_driver binary")
    parser.add_argument("--heddle", help="the heddle binary; the driver is looked for beside it")
    parser.add_argument("--templates", action="append", default=[], help="directory of *.jinja files")
    parser.add_argument("--verbose", action="store_true", help="one line for each template")
    arguments = parser.parse_args()
    path = arguments.driver or pathlib.Path(arguments.heddle or ".").parent / "chat_template_driver"
    driver = Driver(str(path))
    env = environment()

    totals = {"equal": 0, "refused": 0, "different": 0}
    conversations = json.loads((HERE / "chat_template_conversations.json").read_text())
    templates = collect(arguments.templates)
    for name, source in templates:
        counts = dict.fromkeys(totals, 0)
        for case in conversations:
            expected, got = reference(env, source, case), driver.render(source, case)
            verdict = compare(name, case["name"], expected, got, totals["different"] < 20)
            counts[verdict] += 1
            totals[verdict] += 1
        if arguments.verbose:
            print(f"{name}: {counts['equal']} equal, {counts['refused']} refused by both, {counts['different']} different")
    print(f"{len(templates)} templates x {len(conversations)} conversations: {totals['equal']} byte-equal, "
          f"{totals['refused']} refused by both, {totals['different']} different")

    snippets = json.loads((HERE / "chat_template_snippets.json").read_text())
    context = snippets["context"]
    small = {"equal": 0, "refused": 0, "different": 0}
    for source in snippets["templates"]:
        case = {"messages": [], "extra": context}
        expected, got = reference(env, source, case), driver.render(source, case)
        small[compare(source, "", expected, got, small["different"] < 40)] += 1
    print(f"{len(snippets['templates'])} snippets: {small['equal']} byte-equal, "
          f"{small['refused']} refused by both, {small['different']} different")
    wrong = check_features(env, driver, [source for _, source in templates], len(templates) > 60)
    print("\n".join(wrong) or "features: those that templates use, and no others")
    if totals["different"] or small["different"] or wrong:
        sys.exit(1)
    if totals["equal"] == 0 or small["equal"] == 0:
        sys.exit("nothing was compared")


if __name__ == "__main__":
    main()
