#!/usr/bin/env python3
"""tokenizer.json against the `tokenizers` package: small BPEs trained here under the settings of seven families.

    test/e2e/tokenizer_json_test.py --heddle build/dev/heddle [--lines 3000]

Needs the package `tokenizers`; without it the test says so and exits with 77 (skipped).
"""
import argparse
import importlib.util
import json
import pathlib
import subprocess
import sys
import tempfile
import unicodedata

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.dont_write_bytecode = True
spec = importlib.util.spec_from_file_location("compare_tokenizer", ROOT / "tools" / "compare_tokenizer.py")
compare = importlib.util.module_from_spec(spec)
spec.loader.exec_module(compare)

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
TAIL = r"\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + TAIL
QWEN2 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + TAIL
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
O200K = (rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{CONTRACTIONS}?|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{CONTRACTIONS}?"
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + TAIL)
NO_HAN = "&&[^\\p{Han}]]"
KIMI = (rf"[\p{{Han}}]+|[^\r\n\p{{L}}\p{{N}}]?{UPPER[:-1]}{NO_HAN}*{LOWER[:-1]}{NO_HAN}+{CONTRACTIONS}?"
        rf"|[^\r\n\p{{L}}\p{{N}}]?{UPPER[:-1]}{NO_HAN}+{LOWER[:-1]}{NO_HAN}*{CONTRACTIONS}?"
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + TAIL)
DEEPSEEK = (r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
            r"| ?[\p{P}\p{S}]+[\r\n]*|" + TAIL)


def families():
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    def split(pattern):
        return pre_tokenizers.Split(Regex(pattern), behavior="isolated", invert=False)

    def byte_level(name, pieces, normalizer=None, words=False, vocab=900, ignore_merges=False, bos=None, added=()):
        t = Tokenizer(models.BPE(ignore_merges=ignore_merges))
        if normalizer is not None:
            t.normalizer = normalizer
        t.pre_tokenizer = pre_tokenizers.Sequence(
            [*pieces, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=words)])
        t.decoder = decoders.ByteLevel()
        special = [bos or "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
        trainer = trainers.BpeTrainer(vocab_size=vocab, special_tokens=special, show_progress=False,
                                      initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
        return name, t, trainer, bos, added

    def gemma():
        t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
        t.normalizer = normalizers.Replace(" ", "▁")
        t.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous", invert=False)
        t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
        special = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{b:02X}>" for b in range(256))]
        trainer = trainers.BpeTrainer(vocab_size=1500, special_tokens=special, show_progress=False,
                                      limit_alphabet=300)
        added = [AddedToken("\n" * n, normalized=False) for n in range(2, 9)] + [AddedToken("<table>", normalized=False)]
        return "gemma", t, trainer, "<bos>", added

    def llama2():
        t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
        t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                       decoders.Strip(" ", 1, 0)])
        special = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256))]
        trainer = trainers.BpeTrainer(vocab_size=1200, special_tokens=special, show_progress=False, limit_alphabet=250)
        return "llama2", t, trainer, "<s>", [AddedToken("<tool>", lstrip=True, rstrip=True),
                                              AddedToken("hello", single_word=True, normalized=True)]

    yield byte_level("llama3", [split(LLAMA3)], ignore_merges=True, bos="<|begin_of_text|>")
    yield byte_level("qwen", [split(QWEN2)], normalizer=normalizers.NFC())
    yield byte_level("smollm2", [pre_tokenizers.Digits(individual_digits=True)], words=True)
    yield gemma()
    yield byte_level("deepseek_v3", [split(r"\p{N}{1,3}"), split("[一-龥぀-ゟ゠-ヿ]+"), split(DEEPSEEK)],
                     normalizer=normalizers.Sequence([]), bos="<｜begin▁of▁sentence｜>",
                     added=[AddedToken("<｜User｜>", normalized=False)])
    yield byte_level("gpt_oss", [split(O200K)], bos="<|startoftext|>")
    yield byte_level("kimi", [split(KIMI)])
    yield llama2()
    yield byte_level("nfkc", [pre_tokenizers.Punctuation(), pre_tokenizers.Digits()], words=True,
                     normalizer=normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), normalizers.Strip()]),
                     added=[AddedToken("ring", lstrip=True, normalized=True)])


def check(heddle, name, tokenizer, trainer, bos, added, lines):
    from tokenizers import processors
    if name == "nfkc":
        # Its punctuation and compatibility tables follow an older Unicode than ours: characters both know.
        old = unicodedata.ucd_3_2_0
        lines = [line for line in lines if all(old.category(c) != "Cn" for c in line)]
    tokenizer.train_from_iterator(lines[::3], trainer)
    for token in added:
        tokenizer.add_tokens([token])
    if bos:
        id = tokenizer.token_to_id(bos)
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, id)])
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "tokenizer.json"
        tokenizer.save(str(path))
        for merges in ("lists", "strings"):
            if merges == "strings":  # how older files write them
                data = json.loads(path.read_text())
                if any(" " in part for merge in data["model"]["merges"] for part in merge):
                    continue
                data["model"]["merges"] = [" ".join(merge) for merge in data["model"]["merges"]]
                path.write_text(json.dumps(data))
            encodings = tokenizer.encode_batch(lines)
            expected = [encoding.ids for encoding in encodings]
            got = compare.heddle_lines(heddle, folder, lines)
            bad += compare.report(name, f"encode, merges as {merges}", len(lines),
                                  [t for t in zip(lines, got, expected) if t[1] != t[2]])
        texts = compare.heddle_lines(heddle, folder, expected, "--decode")
        back = tokenizer.decode_batch(expected, skip_special_tokens=True)
        bad += compare.report(name, "decode", len(lines),
                              [t for t in zip(expected, texts, back) if t[1] != t[2]])
    return bad


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--heddle", required=True)
    parser.add_argument("--lines", type=int, default=3000)
    parser.add_argument("--only", help="one family")
    args = parser.parse_args()
    try:
        import tokenizers  # noqa: F401
    except ImportError:
        print("skipped: the Python package tokenizers is not installed")
        return 77
    lines = compare.generate(0, seed=2)[:args.lines // 2] + compare.generate(12000, seed=3)[-args.lines // 2:]
    bad = sum(check(args.heddle.split(), *family, lines) for family in families()
              if args.only in (None, family[0]))
    print(json.dumps({"differences": bad}))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
