"""The wordings the support desk's rows are made of, one list a split, no entry in two splits.

{P} stands for the product, {O} for the order id, {N} for the customer's name.
"""

from __future__ import annotations

from collections.abc import Mapping

Split = Mapping[str, tuple[str, ...]]

# A product is one word of each list: everything sold here runs on electricity, so that every wording fits it.
BRANDS: Split = {
    "train": (
        "Aurora", "Pebble", "Willow", "Falcon", "Maple", "Orbit", "Cedar", "Tundra", "Comet", "Harbor", "Lotus",
        "Breeze", "Ember", "Quartz", "Panda", "Violet", "Summit", "Coral", "Badger", "Meadow", "Ivory", "Zephyr",
        "Canyon", "Pixel", "Atlas", "Bamboo", "Cactus", "Delta", "Glacier", "Hazel", "Lagoon", "Sierra",
    ),
    "valid": ("Juniper", "Otter", "Granite", "Saffron", "Polar", "Sparrow"),
    "test": (
        "Nimbus", "Walnut", "Lynx", "Indigo", "Heron", "Basil", "Cobalt", "Fern", "Raven", "Velvet", "Onyx", "Tulip",
    ),
}  # fmt: skip
DEVICES: Split = {
    "train": (
        "Lamp", "Speaker", "Blender", "Charger", "Fan", "Grill", "Watch", "Keyboard", "Drill", "Toaster", "Clock",
        "Scale", "Radio", "Heater", "Router", "Mixer", "Vacuum", "Shaver", "Projector", "Scanner", "Tablet",
        "Headset", "Doorbell", "Thermostat", "Microwave", "Fridge", "Mower", "Scooter", "Stove", "Amplifier",
    ),
    "valid": ("Oven", "Sensor", "Tuner", "Modem", "Freezer"),
    "test": (
        "Kettle", "Camera", "Printer", "Monitor", "Juicer", "Humidifier", "Dishwasher", "Torch", "Laptop", "Phone",
    ),
}  # fmt: skip
NAMES: Split = {
    "train": (
        "Anna", "Ben", "Carla", "David", "Elif", "Farid", "Grace", "Hugo", "Ines", "Jonas", "Kemi", "Lars", "Maya",
        "Noah", "Priya", "Rafael", "Sofia", "Tom",
    ),
    "valid": ("Mona", "Nils", "Olga", "Pablo"),
    "test": ("Quinn", "Rosa", "Samir", "Tess", "Umar", "Vera", "Wanda", "Yusuf"),
}  # fmt: skip
PROBLEMS: Mapping[str, Split] = {
    "delivery": {
        "train": (
            "My {P} has still not arrived.", "Where is my {P}? It should have been here days ago.",
            "I am waiting for the {P} and nothing has come.", "The {P} was never delivered.",
            "The parcel with my {P} seems to be lost.", "Tracking says my {P} has not moved for a week.",
            "The courier did not bring the {P}.", "There is no sign of the {P} I bought.",
            "The delivery of my {P} is late.", "I have not received my {P} yet.",
            "My {P} should have come last Monday.", "When will the {P} get here?",
            "The postman left no {P} at my house.", "Your driver delivered the {P} to the wrong street.",
            "The shipping of my {P} takes forever.", "My {P} got lost in the mail.",
            "I expected the {P} on Tuesday and it did not come.", "The {P} is still on its way after two weeks.",
            "My parcel is late, it holds a {P}.", "Nobody delivered my {P}.",
            "The tracking page of my {P} shows nothing.", "I ordered the {P} and got an empty box.",
            "The {P} went to a wrong address.", "How much longer until the {P} is delivered?",
            "My {P} has been in transit for a month.", "I got the wrong parcel, the {P} was not in it.",
            "The {P} did not come with the rest.", "You promised to deliver the {P} yesterday, but nothing came.",
            "The courier cannot find my {P}.", "My neighbour did not get the {P} parcel either.",
            "The {P} has not been shipped yet.",
        ),
        "valid": (
            "The {P} has gone missing on its way.", "My shipment of the {P} is overdue.",
            "The {P} is not here although it was sent.", "The {P} still has not come to me.",
            "Nothing has been delivered, I mean the {P}.",
        ),
        "test": (
            "I am still without the {P}; the package has not turned up.", "The {P} has not reached my door.",
            "My {P} is stuck somewhere with the carrier.", "The van never came with the {P}.",
            "I keep waiting for my {P} to show up.", "The {P} vanished during transport.",
            "My doorstep is empty, no {P} was dropped off.", "The {P} should be here by now, but it is not.",
            "The mailman brought everything except the {P}.", "My {P} was due last week and still is not delivered.",
        ),
    },
    "damaged": {
        "train": (
            "My {P} arrived broken.", "The {P} has a big crack.", "The {P} stopped working after one day.",
            "The {P} came with a scratch all over it.", "My new {P} does not switch on.",
            "The {P} fell apart in my hands.", "A part of the {P} is snapped off.",
            "The {P} was smashed when I opened the box.", "My {P} is faulty.",
            "The {P} is dented and does not work.", "The button of my {P} is broken.",
            "The {P} makes a grinding noise.", "My {P} keeps crashing.", "The {P} has a hole in its case.",
            "The cable of the {P} is torn.", "My {P} is dead on arrival.", "The {P} broke on the first day.",
            "The screen of the {P} is cracked.", "My {P} does not work any more.", "The {P} came damaged.",
            "There is a dent in my {P}.", "The {P} is leaking.", "The plug of the {P} is broken off.",
            "My {P} shuts down all the time.", "The {P} fell to pieces.", "One side of the {P} is scratched.",
            "The {P} does nothing when I press start.", "The box was crushed and the {P} is broken.",
            "My {P} is not working.", "The {P} overheats and stops.",
            "A screw of the {P} is missing and it wobbles.",
        ),
        "valid": ("The {P} is defective.", "The {P} came out of the box in pieces.", "My {P} no longer runs.",
            "The {P} has a broken handle.", "Something in the {P} is snapped.",
        ),
        "test": (
            "The {P} turned up shattered.", "My {P} died within hours.",
            "The {P} has a bent side and a loose piece.", "The {P} I unpacked is cracked and useless.",
            "My {P} quit working.", "The front of the {P} is ruined.", "The {P} will not start and rattles.",
            "My {P} is broken beyond use.", "The {P} has stopped working for good.",
            "The {P} came with a cracked case.",
        ),
    },
    "billing": {
        "train": (
            "I was charged twice for the {P}.", "The invoice for my {P} is wrong.",
            "You took too much money for the {P}.", "My card was billed again for the {P}.",
            "I paid for the {P} but the discount is missing on the bill.",
            "The price on my {P} receipt is not what I agreed to.",
            "There is a payment for a {P} that I did not make.", "Please correct the bill for the {P}.",
            "My refund for the {P} has not been paid out.", "The {P} shows up two times on my bank statement.",
            "You charged me the wrong amount for the {P}.", "I have not got an invoice for the {P}.",
            "The coupon was not taken off the {P} price.", "My payment for the {P} went through twice.",
            "The tax on the {P} bill is wrong.", "I still see a fee for the {P} on my card.",
            "Why was I charged more for the {P}?", "My bank shows two payments for the {P}.",
            "I was billed for two of the {P} but ordered one.", "The bill for the {P} has a mistake.",
            "I want my money for the {P}, you charged it by mistake.", "The {P} invoice has the wrong name.",
            "You charged my card for the {P} after I cancelled.", "The discount code did not work for the {P}.",
            "The {P} costs less on your site than on my bill.", "Please send me a correct invoice for the {P}.",
            "My card was charged for a {P} I never ordered.", "The refund of the {P} is too low.",
            "I paid twice for the {P}.", "There is an extra fee on the {P} invoice.",
            "The payment for my {P} was taken two times.",
        ),
        "valid": (
            "I see a double payment for the {P}.", "The amount on the {P} bill is too high.",
            "My account was charged by mistake for the {P}.", "I was billed too much for the {P}.",
            "The invoice of the {P} has a wrong total.",
        ),
        "test": (
            "You have debited my account two times for the {P}.",
            "The {P} cost more on my statement than in the shop.", "My invoice lists the {P} at the wrong price.",
            "I got billed for a {P} a second time.", "The sum on my {P} invoice does not add up.",
            "I was overcharged for the {P}.", "The voucher is not on the bill of my {P}.",
            "My credit card was charged double for the {P}.", "There is a mistake on the bill for my {P}.",
            "The payment for the {P} is higher than the price I saw.",
        ),
    },
    "return": {
        "train": (
            "I want to send the {P} back.", "How can I return my {P}?",
            "The {P} is too big, I would like to return it.",
            "I changed my mind about the {P} and want to give it back.", "Please take the {P} back.",
            "I would like to swap the {P} for another one.", "The {P} is not for me, I wish to return it.",
            "Can I exchange the {P}?", "I need a return label for the {P}.", "I do not want to keep the {P}.",
            "Where do I send the {P} if I do not want it?", "I am returning the {P}, tell me how.",
            "May I bring the {P} back to the shop?", "I got a {P} as a present and want to exchange it.",
            "Please pick the {P} up, I do not need it after all.",
            "The {P} is the wrong colour, I want another one.", "I would like to return the {P}.",
            "What must I do to send back the {P}?", "I do not like the {P}, can I return it?",
            "I ordered two, so one {P} goes back to you.", "Can I swap the {P} for a larger one?",
            "The {P} does not suit me, I want to send it back.", "How long do I have to return the {P}?",
            "I want to give my {P} back.", "Please exchange my {P} for the red one.",
            "I bought the wrong {P} and want to exchange it.", "I no longer need the {P} and want to return it.",
            "Which form do I use to return the {P}?", "Send me a label, the {P} goes back.",
            "I want to cancel and send the {P} back.", "Can you collect the {P}? I am giving it back.",
        ),
        "valid": (
            "I would like to give the {P} back.", "Please send me a return slip for the {P}.",
            "I wish to change the {P} for a smaller one.", "I want to get rid of the {P} and return it.",
            "Is it possible to exchange the {P}?",
        ),
        "test": (
            "I wish to hand the {P} back to you.", "The {P} is the wrong size, so I am sending it back.",
            "May I trade in the {P} for a different one?",
            "I have decided against the {P}; please arrange a return.",
            "I no longer want the {P}, how do I ship it back?",
            "Could you take the {P} in exchange for another model?",
            "I would rather not keep my {P}, so I want to return it.", "How do I give the {P} back?",
            "Please let me exchange the {P} for a blue one.",
            "The {P} is not what I wanted, I would like to send it back.",
        ),
    },
    "question": {
        "train": (
            "Does the {P} come in blue?", "How do I clean the {P}?", "Is the {P} safe for children?",
            "How long is the warranty of the {P}?", "What does the {P} weigh?", "Can I use the {P} outdoors?",
            "Is there a manual for the {P}?", "Which size of the {P} should I choose?",
            "Will the {P} be in stock again?", "What is the {P} made of?", "How much power does the {P} use?",
            "Do you sell spare parts for the {P}?", "Can the {P} be used abroad?", "How loud is the {P}?",
            "Is the {P} better than the older model?", "I would like to know how to set up the {P}.",
            "Which colours are there for the {P}?", "Does the {P} have a timer?",
            "What is the difference between the {P} and the old one?", "How long does the {P} last?",
            "Does the {P} work with a battery?", "Can I wash the {P}?", "How do I use the {P}?",
            "What comes in the box with the {P}?", "Is the {P} made in Europe?", "Do I need an adapter for the {P}?",
            "How wide is the {P}?", "Is there a smaller {P}?", "Can you tell me more about the {P}?",
            "How old must a child be to use the {P}?", "Do you have the {P} in green?",
        ),
        "valid": ("How big is the {P}?", "Does the {P} need batteries?", "Who makes the {P}?",
            "How much does the {P} weigh?", "Can the {P} be used in the rain?",
        ),
        "test": (
            "What colours does the {P} come in?", "How many years of guarantee does the {P} have?",
            "Could you tell me whether the {P} is waterproof?", "How should I look after the {P}?",
            "Is the {P} suitable for beginners?", "What is the height of the {P}?",
            "I wonder if the {P} works in the cold.", "Does the {P} come with a manual?",
            "How long is the cable of the {P}?", "Can you explain how the {P} works?",
        ),
    },
}  # fmt: skip
DEADLINES: Split = {
    "train": (
        "I need this solved today.", "This is urgent.", "It is a birthday gift for tomorrow.",
        "The party is tonight.", "I travel tomorrow morning and need an answer before.", "Please act immediately.",
        "I need an answer right now.", "Please hurry, I need it by Friday.", "It has to be settled before noon.",
        "My exam is tomorrow and I depend on it.", "I must have it before the weekend.",
        "Please treat this as top priority.", "I can only wait until this evening.", "As soon as possible, please.",
        "The wedding is on Saturday.", "I leave on holiday in two days.", "Every hour counts.",
        "My deadline is tomorrow.", "Answer me within the hour, please.", "We open on Monday and need it by then.",
            "I need it today.", "Please answer today, it is urgent.", "It must be here by tomorrow.",
            "I need help at once.", "The birthday is tomorrow.", "I leave tonight.",
            "Please do it now, I cannot wait.", "I need a solution by Wednesday.", "Our trip starts on Friday.",
            "My mother's party is this weekend.", "It is very urgent for me.", "Quick, please, I need it this week.",
            "The show starts in three hours.", "I have to have it by the end of the day.",
            "Please reply right away.",
        ),
    "valid": ("I must have this sorted by tonight.", "My guests arrive tomorrow.", "Please respond without delay.",
            "It is urgent, I need it this evening.", "I need a reply by Tuesday.",
        ),
    "test": (
        "This cannot wait, I need it by tomorrow.", "It is an emergency.",
        "Please fix it at once, it is for tonight.", "The anniversary is this Sunday.",
        "Get back to me within minutes, please.", "I need it before Thursday.", "We fly out tonight.",
        "Please be quick, it is very urgent.",
            "I need it urgently.", "Our party is tomorrow night.", "I have to know by this afternoon.",
        ),
}  # fmt: skip
DANGERS: Split = {
    "train": (
        "It gave off smoke, this is dangerous.", "It gave me an electric shock.", "It smells of burning.",
        "Sparks came out of it.", "My child cut a finger on it.", "It caught fire for a moment.",
            "It got very hot and started to smoke.", "I got a shock when I touched it.", "I am afraid it will burn.",
            "It is dangerous, there is a bare wire.", "It nearly exploded.",
        ),
    "valid": ("It sparks, and I am afraid of a fire.", "It burned a hole in my table."),
    "test": (
        "It got so hot that it burned my hand.", "Flames shot out of the plug.", "It nearly set my house on fire.",
            "There was smoke coming out of it.",
        ),
}  # fmt: skip
# Neither a deadline nor danger nor a feeling: an extra sentence must not give a label away by being there.
ASIDES: Split = {
    "train": (
        "I bought it two weeks ago.", "It is for my kitchen.", "I ordered it online.", "My sister has the same one.",
        "I found it in your catalogue.", "It is my second one.", "I live on the third floor.",
        "You can reach me by email.", "A friend told me about it.", "I have kept the receipt.",
        "I am at home on most days.", "This is my first order with you.", "I saw it in your spring sale.",
        "My neighbour wants one too.", "It is the white version.", "I ordered it last Tuesday.",
    ),
    "valid": ("I chose it in March.", "It is for the garage.", "My aunt owns one as well."),
    "test": (
        "I got it last month.", "It stands in my office.", "My brother picked it out.",
        "I read about it in a magazine.", "The box is in my hall.", "You have my phone number.",
        "It is the small model.",
    ),
}  # fmt: skip
FEELINGS: Mapping[str, Split] = {
    "angry": {
        "train": (
            "I am furious.", "This is unacceptable!", "I am very upset.", "What a terrible service.",
            "I am really annoyed.", "This makes me so angry!", "I am fed up.", "Worst shop ever.",
            "I am extremely disappointed.", "This is a joke!", "I have lost all patience with you.",
            "You should be ashamed.", "I will never buy from you again!", "I hate dealing with you.",
            "I am very angry.", "This is a disaster.", "You are the worst.", "I am annoyed beyond words.",
            "What a mess!", "I hate this.", "Your service is terrible.", "I am really upset now.",
            "It is a scandal.", "I am disgusted.",
        ),
        "valid": ("I am outraged.", "This is a disgrace!", "I am sick of this.",
            "I am very cross with you.", "Terrible, just terrible!",
        ),
        "test": (
            "I am livid.", "Absolutely awful experience!", "I am so mad about this.", "This is outrageous.",
            "What a horrible company.", "I am beyond frustrated.", "This drives me crazy!",
            "I am really angry with you.", "This is the worst service ever.",
        ),
    },
    "happy": {
        "train": (
            "I love your shop!", "Thanks, you are always great.", "I am a very happy customer.",
            "Your team is wonderful.", "I really enjoy your products!", "You have been fantastic so far.",
            "Great shop, by the way.", "I am delighted with your service.", "You always make me smile.",
            "Best shop in town!", "I tell all my friends how good you are.", "It is a joy to buy from you.",
            "You are awesome!", "I am a big fan of yours.", "I am so happy with you.",
            "Thank you, you are wonderful.", "I love what you do!", "You do a great job.",
            "Everything else was perfect, thank you!", "Your people are so kind.", "I am really pleased.",
            "I like your shop very much.", "You made my day.", "What a great team!",
        ),
        "valid": ("Your shop is amazing.", "I like you a lot!", "You are simply the finest.",
            "I am so glad I found you.", "Great work, everybody!",
        ),
        "test": (
            "You folks are brilliant!", "I am thrilled with your shop.", "Lovely service as always.",
            "I am so pleased with you all.", "Shopping with you is a pleasure.", "Superb work, thank you!",
            "I adore your store.", "I really love your products.", "Your service is excellent, thank you!",
        ),
    },
}  # fmt: skip
GREETINGS: Split = {
    "train": ("Hi!", "Hello.", "Dear team!", "Good morning.", "Hey!", "Hello there."),
    "valid": ("Hi there!", "Good afternoon."),
    "test": ("Greetings.", "Good day.", "Dear support!"),
}
ORDERS: Split = {
    "train": (
        "Order {O}.", "My order number is {O}.", "({O})", "Order id: {O}.", "This is about {O}.",
        "I ordered under {O}.", "See order {O}.", "The number is {O}.", "Order number {O}, if that helps.",
    ),
    "valid": ("The order is {O}.", "Purchase code {O}."),
    "test": ("It is order {O}.", "Reference {O}.", "You will find it under {O}.", "My purchase has the number {O}."),
}  # fmt: skip
CLOSINGS: Split = {
    "train": ("Best, {N}", "Thanks, {N}", "Regards, {N}", "{N}", "Bye, {N}"),
    "valid": ("Cheers, {N}", "With thanks, {N}"),
    "test": ("Yours, {N}", "Kind regards, {N}", "Sincerely, {N}"),
}
