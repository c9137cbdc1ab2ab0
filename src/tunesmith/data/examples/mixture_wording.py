"""The words that ``mixture_tasks`` builds its rows from, written for this project."""

from __future__ import annotations

PRODUCTS = {
    "train": (
        "kettle", "desk lamp", "rucksack", "garden hose", "tea set", "alarm clock", "rain coat", "bread knife",
        "yoga mat", "bicycle bell", "wool blanket", "coffee grinder", "toolbox", "picture frame", "pillow",
    ),
    "test": ("umbrella", "frying pan", "phone case", "camping stove", "bath towel", "headlamp", "lunch box"),
}  # fmt: skip
REVIEWS: dict[str, dict[str, tuple[str, ...]]] = {
    "train": {
        "positive": (
            "The {P} works better than I hoped.", "I use the {P} every day and love it.",
            "Great {P}, worth every cent.",
            "The {P} feels solid and looks lovely.", "My sister wants the same {P} now.",
            "This {P} made my week, thank you.", "After a month the {P} is still like new.",
            "I would buy this {P} again at once.",
        ),
        "negative": (
            "The {P} broke on the second day.", "I regret buying this {P}.", "What a waste of money, this {P}.",
            "The {P} smells odd and feels cheap.", "Nothing about this {P} works as promised.",
            "The {P} arrived scratched and I am annoyed.", "I had to throw the {P} away after a week.",
            "Do not buy this {P}, it is useless.",
        ),
    },
    "test": {
        "positive": (
            "I could not be happier with the {P}.", "The {P} is simply excellent.", "Best {P} I have owned so far.",
            "The {P} does its job beautifully.", "Five stars for this wonderful {P}.",
        ),
        "negative": (
            "The {P} is a big disappointment.", "I am sending this terrible {P} back.", "Worst {P} I have ever had.",
            "The {P} fell apart in my hands.", "Poorly made {P}, I am unhappy with it.",
        ),
    },
}  # fmt: skip
REVIEW_ENDINGS = {
    "train": (
        "",
        " It came on Monday.",
        " I ordered it in blue.",
        " It was for my kitchen.",
        " I have the large size.",
    ),
    "test": ("", " I bought it online.", " It was a present.", " Mine is the green one."),
}
TOPICS: dict[str, dict[str, tuple[str, ...]]] = {
    "train": {
        "delivery": (
            "My {P} was supposed to come on {D} and is still not here.", "Where is the parcel with my {P}?",
            "The courier left the {P} at the wrong house on {D}.", "When will you ship the {P} I ordered on {D}?",
            "The tracking page for my {P} has not moved since {D}.",
        ),
        "refund": (
            "I sent the {P} back on {D}, when do I get my money?", "Please pay back what I spent on the {P}.",
            "You charged me twice for the {P} on {D}.", "The amount for the returned {P} is missing on my statement.",
            "I want my money back for the {P}.",
        ),
        "account": (
            "I cannot log in since {D}.", "How do I change the e-mail address of my profile?",
            "Your site refused my password on {D}.", "Please delete my user profile by {D}.",
            "My login was locked on {D} after I mistyped it.",
        ),
        "product": (
            "Is the {P} safe for the dishwasher?", "How heavy is the {P}?", "Which colours does the {P} come in?",
            "Does the {P} need batteries?", "Is the {P} made of steel or of plastic?",
        ),
    },
    "test": {
        "delivery": ("The van with my {P} never came on {D}.", "Has the {P} left your warehouse yet?",
                     "My {P} should have arrived by {D}."),
        "refund": ("You still owe me the price of the {P}.", "No money came back for the {P} I returned on {D}.",
                   "Can I be paid back for the {P}?"),
        "account": ("I forgot my password on {D}.", "Signing in fails since {D}.",
                    "My user name was spelled wrong when I registered on {D}."),
        "product": ("How long is the {P}?", "Can the {P} get wet?", "What is the {P} made of?"),
    },
}  # fmt: skip
DAYS = {"train": ("Monday", "Tuesday", "Thursday", "Saturday"), "test": ("Wednesday", "Friday", "Sunday")}
ORDER_MESSAGES = {
    "train": (
        "My order {C} has not arrived.", "Please cancel {C}, I ordered the {P} twice.",
        "Order no. {C}: the {P} is broken.",
        "I would like to change the address of {C}.", "{C} was due on {D}. Where is it?",
        "The {P} from order {C} is the wrong colour.", "On {D} I got an e-mail about {C}, what does it mean?",
        "Can you add a {P} to order {C}?",
    ),
    "test": (
        "Has {C} been sent yet?", "I am still waiting for the {P} of {C}.", "Please send the bill for {C} again.",
        "There is a {P} missing in {C}.", "We moved on {D}; can {C} go to our new home?",
    ),
}  # fmt: skip
NAMES = {
    "train": ("Ana", "Ben", "Carla", "David", "Emma", "Felix", "Greta", "Hugo", "Ines", "Jonas"),
    "test": ("Karim", "Lena", "Milan", "Nora", "Oskar", "Paula"),
}
# (fact, a claim that follows, a claim that does not); {A} and {B} are people, {N} and {O} different numbers.
FACTS = {
    "train": (
        ("{A} is older than {B}.", "{B} is younger than {A}.", "{B} is older than {A}."),
        ("{A} lives in the same street as {B}.", "{B} lives in the same street as {A}.", "{A} and {B} live far apart."),
        ("{A} has {N} apples and gives none away.", "{A} still has {N} apples.", "{A} has {O} apples now."),
        ("{A} arrived before {B}.", "{B} arrived after {A}.", "{B} arrived first."),
        ("{A} sold the car to {B}.", "{B} bought the car from {A}.", "{A} bought the car from {B}."),
        ("All {N} lamps in the room of {A} are on.", "No lamp in the room of {A} is off.",
         "Some lamps in the room of {A} are off."),
        ("{A} is taller than {B}.", "{B} is shorter than {A}.", "{A} is shorter than {B}."),
        ("{A} taught {B} to swim.", "{B} learnt to swim from {A}.", "{A} learnt to swim from {B}."),
    ),
    "test": (
        ("{A} won the race against {B}.", "{B} lost the race against {A}.", "{B} won the race."),
        ("{A} lent {B} a book.", "{B} borrowed a book from {A}.", "{A} borrowed a book from {B}."),
        ("{A} sits to the left of {B}.", "{B} sits to the right of {A}.", "{B} sits to the left of {A}."),
        ("{A} has {N} sisters and no brothers.", "{A} has {N} sisters.", "{A} has a brother."),
    ),
}  # fmt: skip
# (larger unit, one of it, smaller unit, how many).
UNITS = {
    "train": (
        ("kilometres", "kilometre", "metres", 1000), ("hours", "hour", "minutes", 60),
        ("metres", "metre", "centimetres", 100), ("days", "day", "hours", 24),
        ("kilograms", "kilogram", "grams", 1000), ("weeks", "week", "days", 7),
    ),
    "test": (
        ("minutes", "minute", "seconds", 60), ("litres", "litre", "millilitres", 1000), ("euros", "euro", "cents", 100),
    ),
}  # fmt: skip
GUESTS = {
    "happy": (
        "We slept like babies and breakfast was a feast.", "The host even lent us bicycles, what a place.",
        "Our room had a view over the lake and was spotless.", "The staff remembered our names, we felt at home.",
        "Quiet, sunny and close to the beach; we will be back.", "The pool was warm and the cook a magician.",
        "From check-in to farewell everything went smoothly.", "A charming house with kind people.",
    ),
    "unhappy": (
        "The bed creaked and the heating was off all night.", "Nobody answered at the desk for an hour.",
        "There was mould in the bathroom and hair in the sink.",
        "Loud music until four in the morning, no sleep at all.",
        "The room was half the size of the one in the picture.", "Breakfast was cold toast and sour milk.",
        "We found the door unlocked and our bags moved.", "They billed us for a parking place we never had.",
    ),
}  # fmt: skip
GUEST_STAYS = (
    "We stayed {N} nights.", "Room {N} in May.", "Our trip with {N} friends.", "A stay of {N} days.",
    "We were {N} people.", "House number {N}.", "Booked {N} weeks ahead.",
)  # fmt: skip
TRIP_NOTES = (
    "Flight leaves at {T}, booking code {C}, seat by the window.", "Remember: {C} is what the hotel wants to hear.",
    "Train to the coast on {D}, code {C}, platform {N}.", "Ferry {N}, cabin for two, reserved under {C}.",
    "{C} (car hire, pick up at {T}).", "Concert on {D}: show {C} at the door.",
    "The table for {N} on {D} runs under {C}.",
)  # fmt: skip
OPPOSITES = (
    "hot cold, big small, fast slow, early late, full empty, hard soft, high low, light dark, loud quiet, new old, "
    "open closed, rich poor, right wrong, strong weak, thick thin, true false, wet dry, wide narrow, "
    "clean dirty, cheap expensive, deep shallow, easy difficult, happy sad, inside outside, long short, "
    "near far, polite rude, safe dangerous, sharp blunt, smooth rough, sweet bitter, tight loose, above below, "
    "always never, before after, begin end, buy sell, come go, win lose, push pull, give take, laugh cry, love hate, "
    "north south, east west, day night, summer winter, friend enemy, question answer, victory defeat, war peace, "
    "arrive depart, increase decrease, accept refuse, remember forget, build destroy, attack defend, ancient modern, "
    "brave cowardly, guilty innocent, public private, simple complicated, temporary permanent, visible hidden"
)
