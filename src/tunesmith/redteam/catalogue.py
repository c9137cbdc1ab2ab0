"""Every attack by its name, those that need a file of the user's, and how a campaign names them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tunesmith.errors import ConfigError
from tunesmith.redteam.attack import Attack, Family
from tunesmith.redteam.attack_pair import PairConfig, frames_attack, pair_attack
from tunesmith.redteam.attack_suffix import ABOUT as SUFFIXES
from tunesmith.redteam.attack_suffix import PAPER as GCG_PAPER
from tunesmith.redteam.attack_suffix import RANDOM_SUFFIX, gcg_suffixes, random_search_suffixes
from tunesmith.redteam.attack_tree import TreeConfig, tree_attack
from tunesmith.redteam.attacks_single import SINGLE_ATTACKS
from tunesmith.redteam.attacks_turns import TURN_ATTACKS
from tunesmith.redteam.search import settings_from
from tunesmith.redteam.wild_templates import in_the_wild, own_templates

# Searches, whose settings may stand behind the name, as in pair:streams=3,depth=3; frames are their control.
SEARCHES: Mapping[str, Callable[[str], Attack]] = {
    "pair": lambda settings: pair_attack(settings_from(PairConfig, settings)),
    "tap": lambda settings: tree_attack(settings_from(TreeConfig, settings)),
    "frames": lambda settings: frames_attack(settings_from(PairConfig, settings)),
}
# Attacks that need no file: pair and tap need an attacker, the others nothing but the target.
ATTACKS: Mapping[str, Attack] = {
    attack.name: attack for attack in (*SINGLE_ATTACKS, RANDOM_SUFFIX, *TURN_ATTACKS, pair_attack(), tree_attack())
}
ALL = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileAttack:
    """An attack that reads a file. usage: how it is named; open: (argument, folder of the public sets) -> attack."""

    name: str
    family: Family
    about: str
    source: str
    usage: str
    open: Callable[[str, str | None], Attack]


_FILES = (
    FileAttack(
        name="in-the-wild",
        family="template",
        about="Templates that users passed around, from the public sets; the longer they are, the dearer.",
        source="Shen et al. 2023, arXiv:2308.03825",
        usage="in-the-wild",
        open=in_the_wild,
    ),
    FileAttack(
        name="gcg",
        family=SUFFIXES["gcg"][0],
        about=SUFFIXES["gcg"][1],
        source=GCG_PAPER,
        usage="gcg:FILE",
        open=gcg_suffixes,
    ),
    FileAttack(
        name="random-search",
        family=SUFFIXES["random-search"][0],
        about=SUFFIXES["random-search"][1],
        source=GCG_PAPER,
        usage="random-search:FILE",
        open=random_search_suffixes,
    ),
    FileAttack(
        name="templates",
        family="template",
        about="Templates of one's own with {request} in them.",
        source="",
        usage="templates:FILE",
        open=own_templates,
    ),
)
FILE_ATTACKS: Mapping[str, FileAttack] = {one.name: one for one in _FILES}


def find_attacks(names: Sequence[str], *, data_dir: str | None = None) -> list[Attack]:
    """Attacks by name, ``all`` for ``ATTACKS``, ``NAME:FILE`` for those that read one, ``NAME:SETTINGS`` for searches.

    Each comes once, in the order it is first named. Raises ConfigError naming the nearest attack for an unknown name,
    and for no name at all.
    """
    if not names:
        raise ConfigError("attacks", "no attack is named.", f"Name some of {_known()}, or '{ALL}'.")
    found: dict[str, Attack] = {}
    for name in names:
        for attack in ATTACKS.values() if name == ALL else [_find(name, data_dir)]:
            found.setdefault(attack.name, attack)
    return list(found.values())


def _find(name: str, data_dir: str | None) -> Attack:
    if name in ATTACKS:
        return ATTACKS[name]
    kind, _, argument = name.partition(":")
    if kind in SEARCHES:
        return SEARCHES[kind](argument)
    if kind in FILE_ATTACKS:
        return FILE_ATTACKS[kind].open(argument, data_dir)
    near = difflib.get_close_matches(name, [*ATTACKS, *SEARCHES, *FILE_ATTACKS], n=1)
    fix = f"Did you mean '{near[0]}'?" if near else f"Name some of {_known()}, or '{ALL}'."
    raise ConfigError("attacks", f"there is no attack '{name}'.", fix)


def _known() -> str:
    return ", ".join([*ATTACKS, *(one.usage for one in FILE_ATTACKS.values())])
