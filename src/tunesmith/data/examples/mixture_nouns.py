"""Nouns with their plurals for the shipped mixture."""

from __future__ import annotations

_REGULAR = (
    "apple bag ball banana bell bird boat book bottle bridge button cake camera candle car carpet cat chair clock "
    "cloud coat coin cup curtain desk doctor dog door dream drum eagle egg engine farmer field finger flower "
    "forest fork garden gate ghost gift glove goat guitar hammer hand hat horse hotel house island jacket jar key "
    "king kitten ladder lake lamp leg lemon letter lion map market meadow mirror monkey moon mountain nail needle "
    "nurse ocean onion orange oven owl painter parrot pear pencil pillow pilot pirate plate pocket poem prison "
    "queen rabbit river road robot roof rose sailor school shirt shoe singer sister snake soldier song spoon star "
    "stone street table teacher tent ticket tiger towel tower train tree tunnel uncle valley village wagon wall "
    "window wizard zebra"
)
_WITH_ES = (
    "box fox bus glass dress kiss boss bench church match watch sandwich witch beach peach branch brush dish wish "
    "bush potato tomato hero echo lens fax tax class cross pass ditch stitch torch crash"
)
_WITH_IES = (
    "baby city lady party story country family berry cherry enemy fairy army body copy duty factory hobby jury "
    "library memory penny puppy spy study diary belly bakery lily ferry pony"
)
_IRREGULAR = (
    "child children, man men, woman women, mouse mice, goose geese, tooth teeth, foot feet, ox oxen, sheep sheep, "
    "deer deer, fish fish, leaf leaves, loaf loaves, half halves, wolf wolves, shelf shelves, calf calves, knife "
    "knives, wife wives, life lives, thief thieves, elf elves, scarf scarves, louse lice, person people, penguin "
    "penguins, cactus cacti, crisis crises, basis bases, oasis oases, series series, species species, aircraft "
    "aircraft, salmon salmon, policeman policemen, grandchild grandchildren, stepson stepsons, passer-by "
    "passers-by"
)

NOUNS: tuple[tuple[str, str], ...] = (
    *((word, f"{word}s") for word in _REGULAR.split()),
    *((word, f"{word}es") for word in _WITH_ES.split()),
    *((word, f"{word[:-1]}ies") for word in _WITH_IES.split()),
    *((one, many) for one, _, many in (pair.partition(" ") for pair in _IRREGULAR.split(", "))),
)
