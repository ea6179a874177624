#!/usr/bin/env python3
"""Compares what print_rows reads from every file of a folder with what is read here, in other words.

usage: check_dataset.py PRINT_ROWS FOLDER

Every file is read for every use. Where both read it, all rows have to be equal, with the same numbers; where one
refuses it, the other has to as well. If the folder has a README.md with tables `file | form | rows`, the number of rows
that it states is checked too. Exit status 1 when anything differs.
"""

import csv
import gzip
import io
import json
import os.path
import pathlib
import re
import subprocess
import sys


class Bad(Exception):
    """A row that is broken."""


class Unwanted(Exception):
    """A sound row that is of no use."""


def need(condition, reason):
    if not condition:
        raise Bad(reason)


# Files


def records(path, use):
    """Pairs of a number (of the line, or of the element of an array) and an object."""
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    text = data.decode("utf-8-sig").replace("\r\n", "\n")
    if ".csv" in path.suffixes:
        yield from csv_records(text, use)
        return
    try:
        document = json.loads(text)
    except json.JSONDecodeError:
        document = None
    if isinstance(document, list):
        yield from enumerate(document, 1)
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError:
                yield number, None


def csv_records(text, use):
    reader = csv.reader(io.StringIO(text, newline=""))
    previous = 0
    header = None
    for fields in reader:
        number, previous = previous + 1, reader.line_num
        if not fields:
            continue
        if header is None:
            if use == "multiple_choice" and re.fullmatch("[A-Z]", fields[-1]):
                header = ["question"] + [chr(65 + i) for i in range(len(fields) - 2)] + ["answer"]
            else:
                header = fields
                continue
        yield number, dict(zip(header, fields, strict=True))


# Dialogues: lists of [role, content]


def content(value):
    if isinstance(value, str):
        return value
    need(isinstance(value, list), "content")
    return "".join(part["text"] if "text" in part else part["value"] for part in value)


def speech(turn):
    who = turn["from"] if "from" in turn else turn["role"]
    what = content(turn["value"] if "from" in turn else turn["content"])
    if who == "function_call":
        return ["assistant", f"<tool_call>\n{what}\n</tool_call>"]
    if who in ("observation", "tool", "function"):
        return ["user", f"<tool_response>\n{what}\n</tool_response>"]
    return [{"human": "user", "gpt": "assistant"}.get(who, who), what]


def speeches(value):
    if isinstance(value, str):
        return [["assistant", value]]
    return [speech(turn) for turn in (value if isinstance(value, list) else [value])]


def headed(row, dialogue):
    system = row.get("system") or ""
    tools = row.get("tools") or ""
    if tools and tools != "[]":
        tools = (
            "You can call these functions. Write a call as JSON between <tool_call> and </tool_call>.\n"
            f"<tools>\n{tools}\n</tools>"
        )
        system = system + "\n\n" + tools if system else tools
    if system and dialogue[0][0] != "system":
        return [["system", system]] + dialogue
    return dialogue


def hh(text):
    pieces = re.split(r"\n\n(Human|Assistant):", "\n\n" + text.strip())
    need(not pieces[0].strip(), "text before the first turn")
    names = {"Human": "user", "Assistant": "assistant"}
    dialogue = [[names[name], said.strip()] for name, said in zip(pieces[1::2], pieces[2::2])]
    result = []
    for turn, following in zip(dialogue, dialogue[1:] + [[None, None]]):
        if turn[0] == following[0]:
            other = "Human" if turn[0] == "assistant" else "Assistant"
            parts = re.split(rf"(?<=\s){other}:", turn[1])
            if len(parts) == 2:
                result += [[turn[0], parts[0].strip()], [names[other], parts[1].strip()]]
                continue
        result.append(turn)
    return result


def asked(instruction, addition):
    return [["user", "\n".join(part for part in (instruction, addition) if part and part.strip())]]


def alpaca_prompt(row):
    past = []
    for question, answer in row.get("history") or []:
        past += [["user", question], ["assistant", answer]]
    return headed(row, past + asked(row["instruction"], row.get("input")))


def given_prompt(row):
    prompt = row.get("prompt", row.get("question"))
    return headed(row, [speech(turn) for turn in prompt] if isinstance(prompt, list) else [["user", prompt]])


def cut_text(text, other):
    shared = os.path.commonprefix([text, other])
    at = shared.rfind("\n")
    if at <= 0:
        at = shared.rfind(" ")
    need(at > 0, "no common prompt")
    return [["user", text[:at].strip()], ["assistant", text[at:].strip()]]


def mean_rating(completion):
    ratings = [int(a["Rating"]) for a in completion["annotations"].values() if a["Rating"].isdigit()]
    return sum(ratings) / len(ratings)


def dialogues(row):
    """The wanted dialogue, and the one that is not (a function that gives it) or None."""
    keys = set(row)
    if {"chosen", "rejected"} <= keys:
        chosen, rejected = row["chosen"], row["rejected"]
        if "instruction" in keys:
            return alpaca_prompt(row) + speeches(chosen), lambda: alpaca_prompt(row) + speeches(rejected)
        if "conversations" in keys:
            before = headed(row, speeches(row["conversations"]))
            return before + speeches(chosen), lambda: before + speeches(rejected)
        if isinstance(chosen, list) and speeches(chosen)[0][0] != "assistant":
            return speeches(chosen), lambda: speeches(rejected)
        if "prompt" in keys:
            return given_prompt(row) + speeches(chosen), lambda: given_prompt(row) + speeches(rejected)
        if re.match(r"\s*Human:", chosen):
            return hh(chosen), lambda: hh(rejected)
        return cut_text(chosen, rejected), lambda: cut_text(rejected, chosen)
    if "chosen_messages" in keys:
        return speeches(row["chosen_messages"]), lambda: speeches(row["rejected_messages"])
    if "preferred_output" in keys:
        before = speeches(row["input"]["messages"])
        return before + speeches(row["preferred_output"]), lambda: before + speeches(row["non_preferred_output"])
    if "safer_response_id" in keys:
        safer = row["safer_response_id"]
        pair = [[["user", row["prompt"]], ["assistant", row[f"response_{i}"]]] for i in (safer, 1 - safer)]
        return pair[0], lambda: pair[1]
    if isinstance(row.get("response"), list):
        return tuple_of_pair(given_prompt(row), row["response"])
    if isinstance(row.get("output"), list):
        return tuple_of_pair(alpaca_prompt(row), row["output"])
    if "completions" in keys:
        ranked = sorted(row["completions"], key=mean_rating)
        best, worst = max(ranked, key=mean_rating), ranked[0]

        def other():
            if best is worst:
                raise Unwanted("rated alike")
            return asked(row["instruction"], "") + [["assistant", worst["response"]]]

        return asked(row["instruction"], "") + [["assistant", best["response"]]], other
    if {"instruction", "output"} <= keys:
        return alpaca_prompt(row) + speeches(row["output"]), None
    if {"instruction", "response"} <= keys:
        return asked(row["instruction"], row.get("context")) + speeches(row["response"]), None
    for key in ("conversations", "messages"):
        if key in keys:
            return headed(row, speeches(row[key])), None
    if {"prompt", "completion"} <= keys:
        return given_prompt(row) + speeches(row["completion"]), None
    if is_question(row):
        answer = row.get("solution") or re.sub(r"<<.*?>>", "", row["answer"], flags=re.S)
        return [["user", row["question"]], ["assistant", answer]], None
    raise Bad("unknown layout")


def is_question(row):
    texts = all(isinstance(row.get(key), str) for key in ("question", "answer"))
    return texts and not {"choices", "A"} & set(row)


def sound(dialogue):
    roles = " ".join(role for role, _ in dialogue)
    need(re.fullmatch(r"(system )?user assistant( user assistant)*", roles), roles)
    need(all(said.strip() for role, said in dialogue if role != "system"), "an empty turn")
    return dialogue


def conversation(row):
    if row.get("label") is False:
        raise Unwanted("label")
    wanted, _ = dialogues(row)
    if "safer_response_id" in row and not row[f"is_response_{row['safer_response_id']}_safe"]:
        raise Unwanted("unsafe")
    return {"messages": sound(wanted)}


def preference(row):
    wanted, other = dialogues(row)
    need(other is not None, "not a pair")
    wanted, other = sound(wanted), sound(other())
    if wanted == other:
        raise Unwanted("the same")
    shared = len(os.path.commonprefix([wanted, other]))
    while shared and wanted[shared - 1][0] != "user":
        shared -= 1
    need(shared, "no common prompt")
    return {"prompt": wanted[:shared], "chosen": wanted[shared:], "rejected": other[shared:]}


def tuple_of_pair(prompt, answers):
    return prompt + speeches(answers[0]), lambda: prompt + speeches(answers[1])


# Evaluation


def multiple_choice(row):
    if "answerKey" in row:
        choices = row["question"]["choices"]
        answer = [choice["label"] for choice in choices].index(row["answerKey"])
        return {"question": row["question"]["stem"], "choices": [c["text"] for c in choices], "answer": answer}
    if isinstance(row.get("choices"), list):
        return {key: row[key] for key in ("question", "choices", "answer")}
    if {"question", "A", "B", "answer"} <= set(row):
        choices = [row[key] for key in sorted(row) if len(key) == 1]
        return {"question": row["question"], "choices": choices, "answer": ord(row["answer"]) - ord("A")}
    if "instruction" in row and "answer" in row:
        match = re.fullmatch(r"[^:]*: (.*?)\n\n(\w+?1: .*)\n\nAnswer format:.*", row["instruction"], flags=re.S)
        need(match, "not templated")
        choices = [text.strip() for text in re.split(r"\w+?\d: ", match[2])[1:]]
        return {"question": match[1].strip(), "choices": choices, "answer": int(row["answer"][-1]) - 1}
    if "Best Answer" in row:
        wrong = [text.strip() for text in row["Incorrect Answers"].split(";") if text.strip()]
        return {"question": row["Question"], "choices": [row["Best Answer"]] + wrong, "answer": 0}
    raise Bad("unknown layout")


def question(row):
    need(is_question(row), "not a question")
    match = re.search(r"####\s*(\S+)\s*$", row["answer"])
    return {"question": row["question"], "answer": match[1].replace(",", "") if match else row["answer"]}


def prompt(row):
    text = row.get("forbidden_prompt", row.get("prompt"))
    need(isinstance(text, str), "no prompt")
    return {"prompt": text, "category": row.get("type", row.get("category", ""))}


USES = {
    "conversations": conversation,
    "preferences": preference,
    "multiple_choice": multiple_choice,
    "questions": question,
    "prompts": prompt,
}
FORMS = {
    "sft": "conversations",
    "pref": "preferences",
    "prefmsg": "preferences",
    "mc": "multiple_choice",
    "qa": "questions",
    "prompts": "prompts",
}


def read_here(path, use):
    rows, bad, unwanted = [], [], 0
    for number, row in records(path, use):
        try:
            rows.append(dict(USES[use](row), number=number))
        except Unwanted:
            unwanted += 1
        except (Bad, AttributeError, IndexError, KeyError, TypeError, ValueError):
            bad.append(number)
    return rows, bad, unwanted


def read_there(program, path, use):
    done = subprocess.run([program, use, path], capture_output=True)
    if done.returncode != 0:
        return None, done.stderr.decode().strip()
    lines = [json.loads(line) for line in done.stdout.decode().split("\n") if line]
    return lines[:-1], lines[-1]


def compare(program, path, use, stated):
    """How many rows were compared, and what differs."""
    rows, bad, unwanted = read_here(path, use)
    others, last = read_there(program, path, use)
    if others is None:
        return 0, [f"is refused: {last}"] if rows else []
    differences = []
    if [number for number, _ in last["bad"]] != bad or sum(last["dropped"].values()) != unwanted:
        differences.append(f"bad {last['bad']}, dropped {last['dropped']}; here bad {bad}, dropped {unwanted}")
    if len(rows) != len(others):
        differences.append(f"{len(others)} rows; here {len(rows)}")
    if stated is not None and len(others) != stated:
        differences.append(f"{len(others)} rows; {stated} are stated")
    differences += [f"{other} here {row}" for row, other in zip(rows, others) if row != other]
    return len(others), differences


def stated_rows(folder):
    """What README.md states: the form and the number of rows of a file."""
    readme = folder / "README.md"
    if not readme.exists():
        return {}
    found = re.findall(r"^\| `([^`]+)` \| (\w+) \| (\d+) \|", readme.read_text(encoding="utf-8"), flags=re.M)
    return {name: (FORMS[form], int(rows)) for name, form, rows in found if form in FORMS}


def main():
    program, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    stated = stated_rows(folder)
    kinds = {".json", ".jsonl", ".csv"}
    files = [p for p in sorted(folder.rglob("*")) if kinds & set(p.suffixes) and p.name != "manifest.json"]
    total = {use: [0, 0] for use in USES}
    different, checked, unread = 0, 0, []
    for path in files:
        readable = False
        for use in USES:
            form, rows = stated.get(path.name, (None, None))
            count, differences = compare(program, path, use, rows if form == use else None)
            checked += form == use
            readable = readable or count > 0
            total[use][0] += count > 0
            total[use][1] += count
            different += len(differences)
            for text in differences:
                print(f"{path.relative_to(folder)} as {use}: {text[:1000]}")
        if not readable:
            unread.append(str(path.relative_to(folder)))
    for use, (count, rows) in total.items():
        print(f"{use}: {count} files, {rows} rows compared")
    print(f"{len(files)} files, of which {len(unread)} cannot be read for any use {unread or ''}".rstrip())
    print(f"{checked} stated numbers of rows checked")
    print(f"{sum(rows for _, rows in total.values())} rows compared, {different} differences")
    return 1 if different or unread else 0


if __name__ == "__main__":
    sys.exit(main())
