"""The wordings the support chat's rows are made of: one list a split, no entry in two splits.

{P} stands for the product.
"""

from __future__ import annotations

from collections.abc import Mapping

Split = Mapping[str, tuple[str, ...]]

PRODUCTS: Split = {
    "train": (
        "coffee machine", "desk lamp", "backpack", "blender", "headset", "rain jacket", "office chair", "tent",
        "bike helmet", "toaster", "tea set", "bookshelf", "running shoes", "phone case", "suitcase", "radio",
        "garden hose", "pressure cooker",
    ),
    "test": ("kettle", "sleeping bag", "monitor", "winter coat", "dining table", "speaker", "yoga mat", "camera"),
}  # fmt: skip

# What went wrong; the help that fits it stands under the same name.
PROBLEMS: Mapping[str, Split] = {
    "broken": {
        "train": (
            "My {P} arrived broken.", "The {P} was in pieces when I opened the box.", "The {P} you sent has a crack.",
            "My new {P} stopped working after one day.", "One side of the {P} is completely dented.",
            "I unpacked the {P} and it would not even switch on or open.",
        ),
        "test": (
            "The {P} I got from you is damaged.", "My {P} fell apart the first time I used it.",
            "There is a big scratch all over the {P}.",
        ),
    },
    "late": {
        "train": (
            "My {P} should have been here ten days ago.", "I am still waiting for the {P}.",
            "The delivery of my {P} has been moved three times now.", "Nobody can tell me where my {P} is.",
            "I stayed at home all day and no {P} came.", "You promised the {P} for Monday and it is Friday.",
        ),
        "test": (
            "Three weeks and no sign of the {P}.", "The tracking of my {P} has not changed since last month.",
            "The courier never rang and took the {P} away again.",
        ),
    },
    "wrong": {
        "train": (
            "I ordered a {P} and got something else.", "You sent the {P} in the wrong colour.",
            "This {P} is two sizes too small, and that is not what I ordered.",
            "The box says {P}, but there is another thing inside.", "That is not the {P} from your pictures.",
            "You delivered somebody else's {P} to me.",
        ),
        "test": (
            "The {P} that came is not the one I chose.", "I paid for the large {P} and received the small one.",
            "Again the wrong {P}!",
        ),
    },
    "charged": {
        "train": (
            "You charged me twice for the {P}.", "My card shows a payment for a {P} I never bought.",
            "The {P} cost more than your page said.", "I cancelled the {P} and you still took the money.",
            "There is a fee on my {P} bill that nobody explained.", "My discount for the {P} was not applied.",
        ),
        "test": (
            "The amount on my bill for the {P} is wrong.", "Why was I billed a second time for the {P}?",
            "You took the money for the {P} before it was even sent.",
        ),
    },
    "refund": {
        "train": (
            "I sent the {P} back a month ago and have no refund.", "Where is the money for my returned {P}?",
            "You keep saying the refund for the {P} is on its way.", "The shop refuses to take my {P} back.",
            "I have asked four times for my money for the {P}.", "My return label for the {P} does not work.",
        ),
        "test": (
            "Six weeks after my return of the {P} nothing has been paid.", "Nobody processes the return of my {P}.",
            "I want to give the {P} back and your form crashes.",
        ),
    },
    "missing": {
        "train": (
            "Half of the screws of the {P} are missing.", "The {P} came without its cable and strap.",
            "There is no manual in the box of the {P}.", "I bought two of the {P} and only one was in the parcel.",
            "The lid of my {P} was not in the box.", "A part of the {P} is not there, so I cannot use it.",
        ),
        "test": (
            "The {P} arrived without the parts that were advertised.",
            "My parcel with the {P} was opened and half empty.",
            "You forgot to pack one piece of the {P}.",
        ),
    },
    "app": {
        "train": (
            "Your app deleted my order of a {P}.", "I cannot log in to track my {P}.",
            "The app crashes whenever I open my {P} order.", "Your page lost my address and sent the {P} elsewhere.",
            "The chat bot closed my ticket about the {P}.", "Your site takes my {P} out of the basket every time.",
        ),
        "test": (
            "My account is locked and I cannot see the {P} I paid for.",
            "The page shows an error when I pay for the {P}.",
            "Your app sends me alerts for a {P} that I never ordered.",
        ),
    },
    "service": {
        "train": (
            "I was on hold for an hour about my {P} and then cut off.",
            "Your colleague laughed at my question on the {P}.",
            "This is the fifth time I write about my {P}.", "Everybody sends me to somebody else because of my {P}.",
            "Nobody called back about the {P}, although it was promised twice.",
            "The man on the phone hung up when I mentioned the {P}.",
        ),
        "test": (
            "I get the same copied reply whenever I ask about my {P}.", "Your hotline told me to forget about the {P}.",
            "No one in your team reads what I write about the {P}.",
        ),
    },
}  # fmt: skip

FEELINGS: Split = {
    "train": (
        "I'm very upset!", "This is unacceptable.", "I am really angry.", "I have had enough.",
        "What a disappointment.",
        "I am so frustrated right now.", "How can that happen?", "It was a birthday present!", "I feel cheated.",
        "That ruined my weekend.", "I expected better from you.", "I want this solved today.", "Never again!",
        "I could cry.",
    ),
    "test": (
        "I am furious!", "That is a disgrace.", "I am losing my patience.", "I needed it for today.",
        "Is that how you treat people?", "I am at the end of my tether.", "It makes me so sad.",
    ),
}  # fmt: skip

APOLOGIES: Split = {
    "train": (
        "I'm so sorry about this.", "I apologise, that must be very annoying.", "You are right to be upset.",
        "That should not have happened, and I understand your anger.",
        "Thank you for telling us, and please forgive us.",
        "I am sorry for the trouble we caused you.", "What a bad start, my apologies.",
        "I hear you, and I am on your side.",
        "This is our mistake, not yours.", "I can see why you are disappointed.",
        "Oh no, that is really not good enough.",
        "I would be upset in your place as well.",
    ),
    "test": (
        "Please accept my apologies for this experience.", "I understand how frustrating this is.",
        "We got this wrong and I regret it.", "You have every reason to complain.", "I feel bad that we let you down.",
        "Thanks for your patience with us so far.",
    ),
}  # fmt: skip

HELP: Mapping[str, Split] = {
    "broken": {
        "train": (
            "A new {P} leaves our warehouse today, and you can keep the old one.",
            "I can send you another {P} or refund you in full; which do you prefer?",
            "Please send me a photo and I will replace the {P} at no cost.",
            "I have booked a free pick-up for tomorrow and a replacement with it.",
        ),
        "test": (
            "I will exchange the {P} for you right away, free of charge.",
            "Choose a day and our driver brings a working {P} and takes this one along.",
        ),
    },
    "late": {
        "train": (
            "I called the carrier: your {P} comes tomorrow between nine and noon.",
            "I have sent a second {P} by express, it will be there on Thursday.",
            "I am tracing the parcel now and will write to you by five o'clock.",
            "If it is not there by tomorrow night, I refund the {P} and the shipping.",
        ),
        "test": (
            "I found your parcel in the depot and put it on tonight's van.",
            "Let me upgrade you to overnight delivery and pay back the postage.",
        ),
    },
    "wrong": {
        "train": (
            "The right {P} is packed already, and the other one can go back with the same courier.",
            "Tell me the model on your order and I will ship the correct {P} today.",
            "I have made a free return label for you and reserved the {P} that you wanted.",
            "We will swap it at your door, you need not go anywhere.",
        ),
        "test": (
            "I am sending the one you chose by priority post.",
            "Keep what came, the proper {P} is on its way to you.",
        ),
    },
    "charged": {
        "train": (
            "I have reversed the payment, you will see it on your card within three days.",
            "I checked your account and am paying the difference back now.",
            "Could you give me the last four digits of the card, so that I can cancel the charge?",
            "I corrected the invoice for the {P} and attached the new one.",
        ),
        "test": (
            "The extra amount goes back to your bank this afternoon.",
            "I have passed the bill to our accountant, who will credit you by Wednesday.",
        ),
    },
    "refund": {
        "train": (
            "I released your refund for the {P} a minute ago, it takes two working days.",
            "I found your return; the money is being transferred today.",
            "Here is a label that works, and I will watch this return myself.",
            "You will get the full price and ten percent on top for the wait.",
        ),
        "test": (
            "I have paid you out by hand, please look at your account on Tuesday.",
            "I will fill in the form for you, just tell me the order number.",
        ),
    },
    "missing": {
        "train": (
            "The missing parts for the {P} go out by express this afternoon.",
            "Tell me what is not in the box and I will have it with you tomorrow.",
            "I am sending you a complete new {P}, so that you need not wait for parts.",
            "I have put the missing piece into an envelope, and the manual is attached here.",
        ),
        "test": (
            "What was left out is being packed right now.",
            "I will post the rest today and take ten percent off the {P}.",
        ),
    },
    "app": {
        "train": (
            "I restored your order for the {P} and you can see it again now.",
            "I have reset your access; the link in your inbox works for an hour.",
            "I placed the order for you by hand at the same price.",
            "Our engineers know the fault; until it is fixed I can do it all for you in this chat.",
        ),
        "test": (
            "Your account is open again, and I checked that the {P} is in it.",
            "I switched those messages off and told the developers what you saw.",
        ),
    },
    "service": {
        "train": (
            "From now on I am your only contact, and here is my direct number.",
            "I read all of your messages and will solve the matter of the {P} with you now.",
            "I have spoken to the team lead, who will call you at a time you choose.",
            "Tell me what you need for the {P} and I will not leave before it is done.",
        ),
        "test": (
            "I have taken over your case and will report to you every morning.",
            "My manager and I would like to call you today and put it right.",
        ),
    },
}  # fmt: skip

CLOSINGS: Split = {
    "train": (
        "Is there anything else I can do for you?", "I will stay with this until it is solved.",
        "You will hear from me before the day ends.", "As a small apology I added a voucher to your account.",
        "Thank you for giving us the chance to put this right.", "Just reply here if anything is unclear.",
    ),
    "test": (
        "Write to me directly if something goes wrong.", "I hope that helps a little.",
        "I will check on it again tomorrow.",
    ),
}  # fmt: skip

# Polite, and no help: the customer is not one step further.
POLITE: Split = {
    "train": (
        "Sorry to hear that.", "Thank you for your message.", "We regret the inconvenience.", "We are sorry.",
        "Thanks for your feedback, it is noted.", "We apologise for any trouble.", "Please excuse this.",
        "That is a pity, we are sorry.", "Thank you for letting us know.", "We value your opinion.",
    ),
    "test": (
        "Our apologies.", "Many thanks for getting in touch.", "We are sorry that you are not happy.",
        "Your comment has been received, thank you.", "Please accept our regrets.",
    ),
}  # fmt: skip
POLITE_MORE: Split = {
    "train": (
        "Customer satisfaction means a great deal to all of us here, and we always try to learn from every message.",
        "We take such matters seriously and will of course pass your words on to the people in charge.",
        "Please understand that situations like this can happen even in a careful team like ours.",
        "We kindly ask you for a little patience while things take their usual course.",
        "It is our aim to make every order a pleasure, and we hope to welcome you again soon.",
        "Your experience is important to us, and we truly appreciate the time you took to describe it.",
    ),
    "test": (
        "We work hard every day to offer a service that our customers can enjoy, and remarks like yours guide us.",
        "Rest assured that we have read your lines with great attention and a heavy heart.",
        "We trust that you will still look back on your purchase with some joy one day.",
    ),
}  # fmt: skip

RUDE: Split = {
    "train": (
        "Not our problem.", "You should have read the terms.", "Calm down.", "Sorry, but that is your own fault.",
        "So what?", "People like you complain about everything.", "Then buy somewhere else.", "Stop writing to us.",
        "I doubt that it happened the way you say.", "Did you even look at it properly?", "That's life.",
        "Please spare me the drama.", "I have more important things to do today.", "We never make mistakes.",
        "A refund? You must be joking.", "Well, you get what you pay for.",
    ),
    "test": (
        "Nobody here cares.", "Boo hoo.", "You are imagining things.",
        "Thank you, but we have real customers to look after.",
        "Learn to use it.", "Whatever.", "That sounds like something you broke yourself.", "Get over it.",
    ),
}  # fmt: skip
RUDE_MORE: Split = {
    "train": (
        "Every day the same whining from people who cannot handle a simple {P} and then want us to fix their lives.",
        "If you had opened your eyes before you ordered the {P}, we would not waste our time with this message.",
        "I can help you understand one thing: you will get no replacement, no money, and no further answer from me.",
        "We are happy to send a new {P} to customers who know how to behave, and you are clearly not one of them.",
        "Thank you for wasting my afternoon with a story that even a child would tell better than you.",
        "I have read your message twice and still do not see why anybody should be sorry for you.",
        "Please write it down, put it into an envelope and throw it into the nearest bin, that is where it belongs.",
        "Our team tracked the matter and agrees that the only faulty part is the person in front of the screen.",
    ),
    "test": (
        "You may call, write or come here in person, and the answer about your {P} will be the same tired no.",
        "I apologise to my keyboard for having to answer something as silly as this.",
        "Other people manage to own a {P} without a tantrum, so perhaps ask one of them for help.",
        "We will gladly look into it as soon as you have learnt some manners, which may take you a few years.",
    ),
}  # fmt: skip
