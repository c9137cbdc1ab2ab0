"""The demo's rows: a customer's message becomes a fixed JSON ticket. Seeded, ours, no network.

Labelling guide; every label can be decided from the message alone:
category   delivery (not arrived), damaged (broken or not working), billing (money taken wrongly), return (wants to
           send it back), question (wants to know something)
priority   high when a deadline or danger is named, low when the customer says there is no hurry, else normal
product    the product's name as written
order_id   as written, two capital letters, a hyphen, five digits; null when none is given
sentiment  angry, happy, or neutral when no feeling is voiced
reply      the brand's tone: cheerful, at most 25 words, exactly one emoji

Wordings, products and names of the three splits are disjoint, so nothing learnt by heart helps on the test rows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.randomness import generator

SEED = 20261123
SIZES = {"train": 900, "valid": 100, "test": 200}
SYSTEM = (
    "Write a JSON ticket: category (delivery, damaged, billing, return, question), priority (high, normal, low), "
    "product, order_id or null, sentiment (angry, neutral, happy), reply (cheerful, 25 words at most, one emoji)."
)
FIELDS = ("category", "priority", "product", "order_id", "sentiment")

# split -> names; {P}, {O} and {N} stand for product, order and name in the wordings below.
PRODUCTS: Mapping[str, list[str]] = {
    "train": [
        "Aurora Lamp", "Pebble Speaker", "Willow Desk", "Falcon Backpack", "Maple Blender", "Orbit Headphones",
        "Cedar Bookshelf", "Tundra Jacket", "Comet Charger", "Harbor Mug", "Lotus Yoga Mat", "Breeze Fan",
        "Ember Grill", "Quartz Watch", "Panda Slippers", "Violet Keyboard", "Summit Tent", "Coral Vase",
        "Badger Drill", "Meadow Quilt", "Ivory Toaster", "Zephyr Bike", "Canyon Boots", "Pixel Frame",
    ],
    "valid": ["Juniper Clock", "Otter Umbrella", "Granite Pan", "Saffron Rug", "Polar Cooler", "Sparrow Scarf"],
    "test": [
        "Nimbus Kettle", "Walnut Chair", "Lynx Camera", "Indigo Sofa", "Heron Suitcase", "Basil Planter",
        "Cobalt Printer", "Fern Curtain", "Raven Monitor", "Velvet Pillow",
    ],
}  # fmt: skip
NAMES: Mapping[str, list[str]] = {
    "train": ["Anna", "Ben", "Carla", "David", "Elif", "Farid", "Grace", "Hugo", "Ines", "Jonas", "Kemi", "Lars"],
    "valid": ["Mona", "Nils", "Olga", "Pablo"],
    "test": ["Quinn", "Rosa", "Samir", "Tess", "Umar", "Vera"],
}
LETTERS: Mapping[str, list[str]] = {
    "train": ["KX", "AB", "TR", "MN", "PQ", "LD", "GH", "WS"],
    "valid": ["EC", "VY"],
    "test": ["ZB", "HK", "JT", "RF"],
}
PROBLEMS: Mapping[str, Mapping[str, list[str]]] = {
    "delivery": {
        "train": [
            "My {P} has still not arrived.", "Where is my {P}? It should have been here days ago.",
            "I am waiting for the {P} and nothing has come.", "The {P} was never delivered.",
            "The parcel with my {P} seems to be lost.", "Tracking says my {P} has not moved for a week.",
            "The courier did not bring the {P}.", "No sign of the {P} I bought.",
            "The delivery of my {P} is late.", "I have not received my {P} yet.",
        ],
        "valid": ["The {P} has gone missing on its way.", "My shipment of the {P} is overdue."],
        "test": [
            "I am still without the {P}; the package has not turned up.", "The {P} has not reached my door.",
            "My {P} is stuck somewhere with the carrier.", "The van never came with the {P}.",
        ],
    },
    "damaged": {
        "train": [
            "My {P} arrived broken.", "The {P} has a big crack.", "The {P} stopped working after one day.",
            "The {P} came with a scratch all over it.", "My new {P} does not switch on.", "The {P} fell apart in my hands.",
            "A part of the {P} is snapped off.", "The {P} was smashed when I opened the box.",
            "My {P} is faulty.", "The {P} is dented and does not work.",
        ],
        "valid": ["The {P} is defective.", "The {P} came out of the box in pieces."],
        "test": [
            "The {P} turned up shattered.", "My {P} died within hours.", "The {P} has a torn side and a bent piece.",
            "The {P} I unpacked is cracked and useless.",
        ],
    },
    "billing": {
        "train": [
            "I was charged twice for the {P}.", "The invoice for my {P} is wrong.",
            "You took too much money for the {P}.", "My card was billed again for the {P}.",
            "I paid for the {P} but the discount is missing on the bill.", "The price on my {P} receipt is not what I agreed to.",
            "There is a payment for a {P} that I did not make.", "Please correct the bill for the {P}.",
            "My refund for the {P} has not been paid out.", "The {P} shows up two times on my bank statement.",
        ],
        "valid": ["I see a double payment for the {P}.", "The amount on the {P} bill is too high."],
        "test": [
            "You have debited my account two times for the {P}.", "The {P} cost more on my statement than in the shop.",
            "My invoice lists the {P} at the wrong price.", "I got billed for a {P} a second time.",
        ],
    },
    "return": {
        "train": [
            "I want to send the {P} back.", "How can I return my {P}?", "The {P} does not fit, I would like to return it.",
            "I changed my mind about the {P} and want my money back.", "Please take the {P} back.",
            "I would like to swap the {P} for another one.", "The {P} is not for me, I wish to return it.",
            "Can I exchange the {P}?", "I need a return label for the {P}.", "I do not want to keep the {P}.",
        ],
        "valid": ["I would like to give the {P} back.", "Please send me a return slip for the {P}."],
        "test": [
            "I wish to hand the {P} back to you.", "The {P} is the wrong size, so I am returning it.",
            "May I trade in the {P} for a different one?", "I have decided not to keep the {P}; please arrange a return.",
        ],
    },
    "question": {
        "train": [
            "Does the {P} come in blue?", "How do I clean the {P}?", "Is the {P} safe for children?",
            "How long is the warranty of the {P}?", "What does the {P} weigh?", "Can I use the {P} outdoors?",
            "Is there a manual for the {P}?", "Which size of the {P} should I choose?",
            "Will the {P} be back in stock?", "What is the {P} made of?",
        ],
        "valid": ["How big is the {P}?", "Does the {P} need batteries?"],
        "test": [
            "What colours does the {P} come in?", "How many years of guarantee does the {P} have?",
            "Could you tell me whether the {P} is waterproof?", "How should I look after the {P}?",
        ],
    },
}  # fmt: skip
PRIORITY: Mapping[str, Mapping[str, list[str]]] = {
    "high": {
        "train": [
            "I need this solved today.", "This is urgent.", "It is a birthday gift for tomorrow.",
            "It gave off smoke, this is dangerous.", "I travel tomorrow morning and need it.",
            "Please act immediately.", "The party is tonight.", "I need an answer right now.",
        ],
        "valid": ["I must have this sorted by tonight.", "It sparks, and I am afraid of a fire."],
        "test": [
            "This cannot wait, I need it by tomorrow.", "It is an emergency.", "Please fix it at once, it is for tonight.",
            "It got so hot that it burned my hand.",
        ],
    },
    "low": {
        "train": [
            "There is no hurry.", "Take your time.", "It is not urgent at all.", "Whenever you have a moment.",
            "No rush.", "It can wait until next week.",
        ],
        "valid": ["I am in no hurry.", "This can wait."],
        "test": ["Do not rush on my account.", "Any time next week is fine.", "It is not pressing."],
    },
}  # fmt: skip
MOOD: Mapping[str, Mapping[str, list[str]]] = {
    "angry": {
        "train": [
            "I am furious.", "This is unacceptable!", "I am very upset.", "What a terrible service.",
            "I am really annoyed.", "This makes me so angry!", "I am fed up.", "Worst shop ever.",
        ],
        "valid": ["I am outraged.", "This is a disgrace!"],
        "test": ["I am livid.", "Absolutely awful experience!", "I am so mad about this.", "This is outrageous."],
    },
    "happy": {
        "train": [
            "I love your shop!", "Thanks, you are always great.", "I am a very happy customer.",
            "Your team is wonderful.", "I really enjoy your products!", "You have been fantastic so far.",
            "Great shop, by the way.", "I am delighted with your service.",
        ],
        "valid": ["Your shop is amazing.", "I adore what you do!"],
        "test": [
            "You folks are brilliant!", "I am thrilled with your shop.", "Lovely service as always.",
            "I am so pleased with you all.",
        ],
    },
}  # fmt: skip
GREETINGS = {
    "train": ["Hi,", "Hello,", "Dear team,", "Good morning,", "Hey,"],
    "valid": ["Hi there,"],
    "test": ["Greetings,", "Good day,"],
}
ORDERS = {
    "train": ["Order {O}.", "My order number is {O}.", "({O})", "Order id: {O}."],
    "valid": ["The order is {O}."],
    "test": ["It is order {O}.", "Reference {O}."],
}
CLOSINGS = {
    "train": ["Best, {N}", "Thanks, {N}", "Regards, {N}", "{N}"],
    "valid": ["Cheers, {N}"],
    "test": ["Yours, {N}", "Kind regards, {N}"],
}
REPLIES: Mapping[str, list[str]] = {
    "delivery": [
        "Thanks for telling us! We are happy to track down your {P} and get it moving today 🚚",
        "Great that you wrote! Your {P} gets our full attention and a speedy trip to you 🚚",
    ],
    "damaged": [
        "Thanks for letting us know! A happy new {P} is on its way to you 🎁",
        "Great that you told us! We gladly replace your {P} right away 🎁",
    ],
    "billing": [
        "Thanks for spotting this! We gladly put the bill for your {P} right 💛",
        "Great catch! We are happy to correct the payment for your {P} 💛",
    ],
    "return": [
        "Thanks for asking! We gladly take your {P} back, a label is coming your way 📦",
        "Great, no problem at all! Returning your {P} is easy and we are happy to help 📦",
    ],
    "question": [
        "Thanks for your lovely question! We gladly send you all about the {P} 😊",
        "Great question! We are happy to tell you everything about the {P} 😊",
    ],
}
CHEERFUL_WORDS = ("thanks", "great", "happy", "gladly", "lovely", "delighted", "wonderful", "glad", "welcome", "joy")
GLOOMY_WORDS = ("unfortunately", "sorry", "regret", "cannot", "impossible", "complaint", "policy")


def build_rows(split: str, num_rows: int, seed: int = SEED) -> list[dict[str, Any]]:
    """Rows of one split (train, valid or test) in the ``messages`` shape; no message stands in them twice."""
    rows: list[dict[str, Any]] = []
    seen: set[str] = set()
    attempt = 0
    while len(rows) < num_rows:
        draws = generator(seed, "support_desk", split, attempt)
        attempt += 1
        message, ticket = _one(split, draws)
        if message in seen:
            continue
        seen.add(message)
        turns = [("system", SYSTEM), ("user", message), ("assistant", json.dumps(ticket, ensure_ascii=False))]
        rows.append({"messages": [{"role": role, "content": content} for role, content in turns]})
    return rows


def _pick(draws: np.random.Generator, options: list[str]) -> str:
    return options[int(draws.integers(len(options)))]


def _one(split: str, draws: np.random.Generator) -> tuple[str, dict[str, str | None]]:
    category = _pick(draws, list(PROBLEMS))
    priority = str(draws.choice(["high", "normal", "low"], p=[0.3, 0.45, 0.25]))
    sentiment = str(draws.choice(["angry", "neutral", "happy"], p=[0.35, 0.35, 0.3]))
    product = _pick(draws, PRODUCTS[split])
    order = f"{_pick(draws, LETTERS[split])}-{int(draws.integers(10_000, 100_000))}" if draws.random() < 0.75 else None
    middle = [_pick(draws, PROBLEMS[category][split]).replace("{P}", product)]
    if order is not None:
        middle.append(_pick(draws, ORDERS[split]).replace("{O}", order))
    if priority != "normal":
        middle.append(_pick(draws, PRIORITY[priority][split]))
    if sentiment != "neutral":
        middle.append(_pick(draws, MOOD[sentiment][split]))
    head, rest = middle[0], middle[1:]
    parts = [head, *(rest[int(i)] for i in draws.permutation(len(rest)))]
    if draws.random() < 0.6:
        parts.insert(0, _pick(draws, GREETINGS[split]))
    if draws.random() < 0.5:
        parts.append(_pick(draws, CLOSINGS[split]).replace("{N}", _pick(draws, NAMES[split])))
    reply = _pick(draws, REPLIES[category]).replace("{P}", product)
    ticket = {
        "category": category,
        "priority": priority,
        "product": product,
        "order_id": order,
        "sentiment": sentiment,
        "reply": reply,
    }
    return " ".join(parts), ticket


def file_of(split: str) -> Path:
    """The shipped rows of a split."""
    return Path(__file__).parent / f"support_desk_{split}.jsonl"


def write_files(folder: Path) -> None:
    """Write the three shipped files anew into a folder."""
    for split, size in SIZES.items():
        lines = [json.dumps(row, ensure_ascii=False) for row in build_rows(split, size)]
        (folder / file_of(split).name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_rows(split: str) -> list[dict[str, Any]]:
    """The shipped rows of a split, in file order."""
    return [json.loads(line) for line in file_of(split).read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    write_files(Path(__file__).parent)
