#!/usr/bin/env python3
"""Compares heddle's tokenizers with llama.cpp's, both ways.

    tools/compare_tokenizer.py PEER --models DIR [--heddle build/release/heddle] [--lines 20000]

PEER is a folder with llama.cpp's `models/` (vocabularies ggml-vocab-*.gguf with .inp/.out vectors) and its binary
`llama-tokenize`, either in it or below it. DIR holds the GGUF models to compare on generated text.

1. Vectors: every vocabulary with vectors, BPE and SentencePiece ones (others are counted as not covered).
2. Lines: generated text of code, prose, emoji, CJK, Arabic, combining marks, runs of white space and of digits, every
   code point once, control tokens; ids against llama-tokenize, and the text from the ids against the line.

Exit status 1 at any difference. One JSON line a result.
"""
import argparse
import json
import pathlib
import random
import re
import subprocess
import sys
import tempfile
import unicodedata

SEPARATOR = "\n__ggml_vocab_test__\n"
# Kinds of vocabulary whose vectors exist and that heddle does not read.
NOT_COVERED = {"bert-bge": "WordPiece"}
PEER_LINES = 1000  # lines a run of llama-tokenize, whose time grows with the square of the control tokens in the text


def find_one(root, pattern):
    found = sorted(root.glob(pattern)) + sorted(root.glob("*/" + pattern)) + sorted(root.glob("*/*/" + pattern))
    if not found:
        sys.exit(f"{root}: no {pattern} in it or below it")
    return found[0]


def heddle_lines(heddle, model, values, *flags):
    """One process for all values: a JSON value a line in, a JSON value a line out."""
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        for value in values:
            file.write(json.dumps(value) + "\n")
        file.flush()
        command = [*heddle, "tokenize", str(model), "--lines", file.name, *flags]
        run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(f"{' '.join(command)}: {run.stderr.strip()}")
    out = [json.loads(line) for line in run.stdout.split("\n") if line]
    if len(out) != len(values):
        sys.exit(f"{model}: {len(values)} lines in, {len(out)} out")
    return out


def report(name, what, total, differences):
    print(json.dumps({"model": name, "test": what, "count": total, "differences": len(differences)}), flush=True)
    for text, got, expected in differences[:5]:
        print(f"  {text!r}\n    heddle {got}\n    peer   {expected}", file=sys.stderr)
    return len(differences)


def vectors(heddle, folder):
    bad = 0
    for inp in sorted(folder.glob("ggml-vocab-*.gguf.inp")):
        vocabulary = inp.with_suffix("")
        name = vocabulary.name[len("ggml-vocab-"):-len(".gguf")]
        if name in NOT_COVERED:
            print(json.dumps({"model": name, "test": "vectors", "not_covered": NOT_COVERED[name]}))
            continue
        texts = inp.read_bytes().decode().split(SEPARATOR)
        expected = [[int(id) for id in line.split()]
                    for line in inp.with_suffix(".out").read_text().splitlines()]
        if len(texts) == len(expected) + 1 and texts[-1] == "":
            texts.pop()
        if len(texts) != len(expected):
            sys.exit(f"{inp}: {len(texts)} texts, {len(expected)} outputs")
        got = heddle_lines(heddle, vocabulary, texts, "--no-special", "--no-parse-special")
        bad += report(name, "vectors", len(texts),
                      [t for t in zip(texts, got, expected) if t[1] != t[2]])
    return bad


CODE = """def f(x): return x**2 if x>0 else -x|\tfor (int i = 0; i < n; ++i) { a[i] += b[i]; }|#include <vector>
template <class T> T&& move(T& t) noexcept;|SELECT * FROM t WHERE id=42 AND name LIKE '%x%';|<div class="a b">&nbsp;</div>
let x = vec![1u8; 0xFF]; // TODO|{"key": [1, 2.5e-3, null, true], "s": "\\u00e9\\n"}|if [ -z "$HOME" ]; then echo ~/a/b; fi
lambda x, *a, **k: {**k}|x := map[string]int{"a": 1}|0b1010_1010 1e10 3.14159f 0x7fff_ffff|--flag=value -abc /usr/bin/env
@decorator\\r\\n|http://example.com/a?b=c&d=%20#frag|a.b@c-d.org|'''doc'''|$$\\frac{a}{b} \\le \\sum_{i=0}^{n}$$"""
WORDS = """the of and to in is you that it he was for on are as with his they I at be this have from or one had by word but
not what all were we when your can said there use an each which she do how their if will up other about out many then them
don't I'll we've they're IT'S can't won't O'Neill's Internationalization antidisestablishmentarianism CamelCaseWord snake_case_word
München straße façade naïve Ελληνικά Привет мир здравствуйте şöyle Việt Nam ngôn ngữ Zażółć gęślą jaźń""".split()
CJK = "我喜欢学习自然语言处理技术東京は日本の首都です今日は天気がいいカタカナ안녕하세요세계한국어繁體中文測試「」、。！？"
ARABIC = "مرحبا بالعالم كيف حالك اليوم שלום עולם नमस्ते दुनिया สวัสดีชาวโลก ທົດສອບ বাংলা தமிழ் తెలుగు"
EMOJI = ["😀", "🦙", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪", "👍🏽", "❤️", "🚀", "✅", "©", "™", "½", "①", "Ⅳ", "→", "∑", "≠", "€", "£"]
MARKS = "\u0300\u0301\u0308\u0327\u20dd\u0489\u093f\u0e31\u064b\u05b0\u200d\ufe0f"
SPACES = [" ", "  ", "   ", "    ", "\t", "\t\t", "\n", "\n\n", "\r\n", " \n", "\n ", "\u00a0", "\u3000", "\u2009",
          "\u0085", "\u000b", "\u000c", "\u2028", "\u1680", "\u200b", "\u180e", "\ufeff", " " * 17, "\n" * 5, "\t" * 33]
CONTROL = ["<|im_start|>", "<|im_end|>", "<bos>", "<start_of_turn>user", "<end_of_turn>", "<|endoftext|>", "<unused7>",
           "<repo_name>", "<jupyter_code>", "<h1>", "</table>", "[multimodal]", "<mask>", "<unk>", "<pad>", "<0x41>"]


def generate(count, seed):
    rng = random.Random(seed)
    code = re.split(r"[|\n]", CODE)

    def digits():
        return "".join(rng.choice("0123456789") for _ in range(rng.choice([1, 2, 3, 4, 5, 7, 9, 12, 20, 40])))

    def letters():
        return "".join(chr(rng.choice([rng.randrange(0x41, 0x7B), rng.randrange(0xC0, 0x250), rng.randrange(0x370, 0x530)]))
                       for _ in range(rng.randrange(1, 12)))

    def anything():
        while True:
            c = chr(rng.randrange(0x110000))
            if unicodedata.category(c) not in ("Cs", "Cn"):
                return c

    parts = [
        (8, lambda: rng.choice(WORDS)), (4, lambda: " " + rng.choice(WORDS)), (3, lambda: rng.choice(code)),
        (2, lambda: "".join(rng.choice(CJK) for _ in range(rng.randrange(1, 15)))),
        (2, lambda: rng.choice(ARABIC.split()) + rng.choice(["", " "])), (2, lambda: rng.choice(EMOJI) * rng.choice([1, 1, 2, 5])),
        (1, lambda: rng.choice(WORDS) + "".join(rng.choice(MARKS) for _ in range(rng.randrange(1, 4)))),
        (4, lambda: rng.choice(SPACES)), (2, digits), (1, letters), (1, anything),
        (2, lambda: rng.choice(["!", "?!", "...", "''", '"', "(", ")", "--", "'", "’s", "'S", "'LL", "`", "~~", "$", "^^", "@@@", "\\n", "_"])),
        (1, lambda: rng.choice(CONTROL)), (1, lambda: chr(rng.randrange(0, 32))),
        (1, lambda: rng.choice("abcdefgh \n\t-=*#") * rng.randrange(2, 70)),
    ]
    weights = [weight for weight, _ in parts]
    lines = []
    # Every assigned code point once, between letters, digits, spaces and signs.
    assigned = [chr(c) for c in range(1, 0x110000) if unicodedata.category(chr(c)) not in ("Cs", "Cn", "Co")]
    around = ["a{}b", " {}1", "1{} ", "{}{}", " {}", ".{},", "\n{}\n"]
    for i in range(0, len(assigned), 16):
        lines.append("".join(around[(i + j) % 7].replace("{}", c) for j, c in enumerate(assigned[i:i + 16])))
    while len(lines) < count:
        lines.append("".join(part() for _, part in rng.choices(parts, weights, k=rng.randrange(1, 24))))
    lines = lines[:max(count, len(assigned) // 16 + 1)]
    rng.shuffle(lines)
    return [line.replace("\0", "") for line in lines]


def peer_ids(peer, model, lines, separator):
    """llama-tokenize's ids and pieces; a control token between lines keeps them apart, so one run does many."""
    with tempfile.NamedTemporaryFile("wb", suffix=".txt") as file:
        file.write(separator.join(lines).encode())
        file.flush()
        command = [str(peer), "-m", str(model), "-f", file.name, "--no-escape", "--no-bos"]
        out = []
        for flags in (["--ids"], []):
            run = subprocess.run(command + flags, capture_output=True)
            if run.returncode != 0:
                sys.exit(f"{peer}: {run.stderr.decode(errors='replace').strip()[-500:]}")
            out.append(run.stdout)
    ids = json.loads(out[0].strip().splitlines()[-1])
    return ids, peer_pieces(out[1], ids)


def peer_pieces(printed, ids):
    """The text of each token, from lines like `   123 -> 'piece'`; pieces may hold line ends and quotes."""
    marks = [b"%6d -> '" % id for id in ids]
    at = printed.index(marks[0]) + len(marks[0])
    pieces = []
    for following in marks[1:]:
        end = printed.index(b"'\n" + following, at)
        pieces.append(printed[at:end])
        at = end + 2 + len(following)
    pieces.append(printed[at:].rstrip(b"\n")[:-1])
    return pieces


def split_lines(ids, pieces, separator):
    lines = [[]]
    texts = [b""]
    for id, piece in zip(ids, pieces):
        if id == separator:
            lines.append([])
            texts.append(b"")
        else:
            lines[-1].append(id)
            texts[-1] += piece
    return lines, [text.decode(errors="replace") for text in texts]


def generated(heddle, peer, model, count, seed, excerpt):
    # A control token that the lines never write.
    for separator in ("<fim_suffix>", "<jupyter_script>", "<unused99>", "<|file_sep|>", "</s>", "<eos>"):
        (ids,) = heddle_lines(heddle, model, [separator], "--no-special")
        if len(ids) == 1:
            break
    else:
        sys.exit(f"{model}: no control token to put between lines")
    lines = generate(count, seed)
    expected, peer_texts = [], []
    for start in range(0, len(lines), PEER_LINES):
        some = peer_ids(peer, model, lines[start:start + PEER_LINES], separator)
        for whole, part in zip((expected, peer_texts), split_lines(*some, ids[0])):
            whole += part
    if len(expected) != len(lines):
        sys.exit(f"{model}: the peer's ids split into {len(expected)} lines, not {len(lines)}")
    got = heddle_lines(heddle, model, lines, "--no-special")
    bad = report(model.name, "encode", len(lines), [t for t in zip(lines, got, expected) if t[1] != t[2]])
    texts = heddle_lines(heddle, model, expected, "--decode", "--keep-special")
    bad += report(model.name, "decode", len(lines),
                  [t for t in zip(expected, texts, peer_texts) if t[1] != t[2]])
    # Not a comparison: how many lines the vocabulary gives back as they were (it may lack bytes).
    same = sum(text == line for text, line in zip(texts, lines))
    print(json.dumps({"model": model.name, "test": "round trip", "count": len(lines), "unchanged": same}))
    if excerpt is not None:
        write_excerpt(excerpt / f"{model.stem}.jsonl", lines, expected)
    return bad


def write_excerpt(path, lines, ids):
    """2,000 of the lines with the peer's ids, for the tests in the repository."""
    chosen = sorted(range(len(lines)), key=lambda i: random.Random(i).random())[:2000]
    with open(path, "w", encoding="utf-8") as file:
        for i in chosen:
            file.write(json.dumps([lines[i], ids[i]], ensure_ascii=False, separators=(",", ":")) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", type=pathlib.Path)
    parser.add_argument("--models", type=pathlib.Path)
    parser.add_argument("--heddle", default="build/release/heddle", help="binary, or a command with arguments")
    parser.add_argument("--lines", type=int, default=20000, help="a model, at least")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--excerpt", type=pathlib.Path, help="write 2,000 lines with the peer's ids there, a file a model")
    args = parser.parse_args()
    heddle = args.heddle.split()
    bad = vectors(heddle, find_one(args.peer, "ggml-vocab-gpt-2.gguf").parent)
    if args.models:
        peer = find_one(args.peer, "llama-tokenize")
        for model in sorted(args.models.glob("*.gguf")):
            bad += generated(heddle, peer, model, args.lines, args.seed, args.excerpt)
    print(json.dumps({"differences": bad}))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
