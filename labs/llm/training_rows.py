"""The rows that the guide fine-tunes on: customer messages made from templates, with the right JSON beside each.

Templates, products and side remarks are other ones than in `eval_sets/extract`, so that the suite's rows stay held out.
`python -m labs.llm.training_rows` writes `eval_sets/extract_training/rows.jsonl` anew; a test compares.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROWS = Path(__file__).parents[2] / "eval_sets" / "extract_training" / "rows.jsonl"
ROWS_OF_EACH_KIND = 30

NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 8: "eight", 10: "ten", 12: "twelve"}

# One thing, and several of it. `{some}` in a template is a number and the plural; `{one}` the singular.
PRODUCTS = (
    ("fleece blanket", "fleece blankets"), ("tea pot", "tea pots"), ("cutting board", "cutting boards"),
    ("steel ladder", "steel ladders"), ("bath mat", "bath mats"), ("reading lamp", "reading lamps"),
    ("travel mug", "travel mugs"), ("silk scarf", "silk scarves"), ("bike helmet", "bike helmets"),
    ("water filter", "water filters"), ("canvas shoe", "canvas shoes"), ("picnic basket", "picnic baskets"),
    ("oak shelf", "oak shelves"), ("lunch box", "lunch boxes"), ("rice cooker", "rice cookers"),
    ("photo album", "photo albums"), ("hammock", "hammocks"), ("desk fan", "desk fans"),
    ("baking tray", "baking trays"), ("tool chest", "tool chests"), ("cotton apron", "cotton aprons"),
    ("alarm clock", "alarm clocks"), ("storage bin", "storage bins"), ("table cloth", "table cloths"),
    ("laser printer", "laser printers"), ("plant stand", "plant stands"), ("ski jacket", "ski jackets"),
    ("glass vase", "glass vases"), ("board game", "board games"), ("snow shovel", "snow shovels"),
    ("soap dispenser", "soap dispensers"), ("keyboard", "keyboards"), ("beach towel", "beach towels"),
    ("bird feeder", "bird feeders"), ("spice rack", "spice racks"), ("swim cap", "swim caps"),
    ("doll house", "doll houses"), ("guitar strap", "guitar straps"), ("laundry bag", "laundry bags"),
    ("vacuum cleaner", "vacuum cleaners"), ("fishing rod", "fishing rods"), ("milk frother", "milk frothers"),
    ("curtain rod", "curtain rods"), ("school bag", "school bags"), ("chess set", "chess sets"),
    ("pepper mill", "pepper mills"), ("monitor stand", "monitor stands"), ("clay pot", "clay pots"),
)  # fmt: skip

TEMPLATES: dict[str, dict[str, tuple[str, ...]]] = {
    "order": {
        "plain": (
            "May I have {some} delivered?", "Put {some} on my account.", "We need {some} for the office.",
            "I am after {a_one}.", "Could I get {some} from you?", "Add {a_one} to my basket and send it.",
        ),
        "chatty": (
            "Greetings! We moved house last week and the place is empty. We will take {some}. All the best, Mira",
            "Dear all, my son turns {age} soon and this is his wish: {a_one}. Please ship it. Warmly, Tom",
            "Evening! I saw your spring catalogue and fell for it, so make it {some} for me. Ta!",
            "Hiya, long time customer here. Time for a treat: {some}, please.",
        ),
        "messy": (
            "gimme {some} pls", "{plural}, {n} pcs, express!!", "wud like {a_one}, zip code {code}",
            "{n}x {plural} plz, same card as b4", "can i hav {some} by friday??",
        ),
    },
    "complaint": {
        "plain": (
            "Your {one} fell apart.", "{Some} in my parcel were damaged.", "The {one} is far too loud.",
            "I am not satisfied with the {one}.", "The {one} stopped working on day {age}.",
            "{Some} from my last parcel have stains.",
        ),
        "chatty": (
            "Hello there, I hate to write this, but the {one} has a big dent. My wife cried. So unfair!",
            "Good day. We had such hopes, and then {some} came torn. What a shame. Regards, Olu",
            "Dear support, our whole family waited for the {one}, and now it will not even switch on. Sigh.",
            "Hey folks! Big fan, but {some} lost their colour in the first wash. Not happy at all.",
        ),
        "messy": (
            "{one} useless!!! wont start", "wrong {plural} came, {n} of them, ridiculous", "{one} leaks, ref {code}",
            "{n} {plural} w/ holes in them, refund!!", "worst {one} ever, handle snapped",
        ),
    },
    "question": {
        "plain": (
            "Can the {one} be used outside?", "Do you also sell the {one} in green?", "How heavy is the {one}?",
            "Is there a discount if I take {some}?", "Which material is the {one} made of?",
            "Would {some} fit into a small car?",
        ),
        "chatty": (
            "Hello! Your photos look lovely. Tell me, does the {one} need batteries? Greetings from rainy Leeds!",
            "Good morning, I am {age} years young and curious: how do I clean the {one}? Bless you.",
            "Hi all, we plan a school fair. What would {some} cost us? Thanks a million, Ines",
            "Dear shop, I am comparing a few things tonight. How long is the warranty on the {one}?",
        ),
        "messy": (
            "{one} in stock??", "whats the diff between ur {plural}", "{n} {plural} how much incl shipping?",
            "does {one} work w/ 110v", "any chance {one} comes in xl? size {age} shoe here lol",
        ),
    },
    "cancel": {
        "plain": (
            "Cancel the {one}, please.", "Please take the {one} off my order.", "I would like to call off {some}.",
            "Do not ship the {some_bare}, I have changed my plans.", "Withdraw my order of the {one}.",
            "Please annul the purchase of {some}.",
        ),
        "chatty": (
            "Hi dear people, bad news, we lost our flat, so we must drop the {one}. Sorry and thank you!",
            "Good evening. My aunt bought me the same thing, can you believe it? Please cancel {some}. Yours, Pia",
            "Hello, it is raining on our budget, ha. Kindly undo the order for the {one}. Be well!",
            "Hey team, our event moved to next year, so {some} can be cancelled. Cheers!",
        ),
        "messy": (
            "stop the {one}!! dont send", "no {plural} 4 me, cancel all {n}", "cancl {one} ordr {code}",
            "dont need {some} anymore", "plz cancel {one}, found cheaper",
        ),
    },
}  # fmt: skip


def rows(seed: int = 0) -> Iterator[dict[str, Any]]:
    """Rows in the form of `eval_sets`: as many of each intent and style."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    seen: set[str] = set()
    kinds = [(intent, style) for intent, styles in TEMPLATES.items() for style in styles]
    for intent, style in kinds * ROWS_OF_EACH_KIND:
        text, product, quantity = _message(chance, chance.choice(TEMPLATES[intent][style]))
        while text in seen:
            text, product, quantity = _message(chance, chance.choice(TEMPLATES[intent][style]))
        seen.add(text)
        yield {
            "id": f"train-{len(seen):03d}",
            "inputs": {"text": text},
            "expectations": {"expected_json": {"intent": intent, "product": product, "quantity": quantity}},
            "tags": {"intent": intent, "style": style},
        }


def _message(chance: random.Random, template: str) -> tuple[str, str, int | None]:
    """A message, the product that it names, and how many; None where it does not say."""
    one, plural = chance.choice(PRODUCTS)
    number = chance.choice([*NUMBERS, 7, 9, 11, 14, 15, 16, 18, 20, 24, 25, 30, 36, 45, 60, 75, 80, 100, 120])
    spelt = NUMBERS.get(number, str(number)) if chance.random() < 0.5 else str(number)
    article = "an" if one[0] in "aeiou" else "a"
    counted, single = any(word in template for word in ("{some", "{Some", "{n}")), "{a_one}" in template
    # "a lamp" orders one; "the lamp", which somebody has or asks about, says nothing of how many.
    alone = chance.choice([article, "one"])
    values = {"some": f"{spelt} {plural}", "Some": f"{spelt.capitalize()} {plural}", "some_bare": f"{spelt} {plural}"}
    values |= {"one": one, "plural": plural, "n": str(number), "a_one": f"{alone} {one}"}
    values |= {"age": str(chance.randint(3, 70)), "code": str(chance.randint(10_000, 99_999))}
    quantity = number if counted else 1 if single else None
    return template.format(**values), plural if counted or "{plural}" in template else one, quantity


if __name__ == "__main__":
    ROWS.parent.mkdir(exist_ok=True)
    ROWS.write_text("".join(json.dumps(row) + "\n" for row in rows()), encoding="utf-8")
