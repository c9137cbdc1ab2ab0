"""Which harm a request asks for, where its file does not say: by words alone, looked for in a fixed order."""

from __future__ import annotations

import re

OTHER_HARM = "other"
# So much of a request is looked at: several words look ahead, which would take long in a long text.
_CHARACTERS = 2000
# The first that is found decides: whom it is about goes before how it is done.
_WORDS = {
    "self-harm": r"suicid\w*|hurting (?:my|your|her|him|them)sel\w+"
    r"|self[- ]?harm\w*|anorexi\w*|eating disorder\w*|thinspo|kill (?:one|my|your|them)sel\w+"
    r"|end(?:ing)? (?:one's|my|your|their) (?:own )?li\w+|dangerous (?:\w+ )?(?:challenge|dare|stunt)s?|starv\w+",
    "sexual": r"porn\w*|sexual\w*|nude\w*|prostitut\w*|sex traffick\w*|pedo\w*",
    "hate": r"rac(?:e|es|ist|ism|ial)\b|sexis[tm]|hate\w*|hatred|immigrants?|homophob\w*|antisemit\w*|holocaust"
    r"|genocid\w*|minorit\w+|ethnic\w*|muslims?|jews?|women are|neo-nazi\w*|discriminat\w*|stereotyp\w*|xenophob\w*",
    "cybercrime": r"hack\w*|malware|ransomware|virus(?:es)?|cyber(?!bull|stalk)\w*|hijack\w*|spam\w*|trojan"
    r"|keylogg\w*|worm|botnet\w*|phish\w*|exploits?|passwords?"
    r"|backdoor\w*|ddos|denial[- ]of[- ]service|sql injection|sniff\w*|spyware|crack(?:ing)?|software|firewall\w*"
    r"|(?:computer|network|server|database|security system|email account|router|website)s?\b(?=.*\b(?:access\w*"
    r"|attack\w*|break\w*|bypass\w*|compromis\w*|corrupt\w*|delet\w*|destroy\w*|infiltrat\w*|steal\w*"
    r"|tak\w+ (?:over|down)))"
    r"|(?:break\w*|infiltrat\w*|access\w*|compromis\w*|corrupt\w*|deface\w*|bypass\w*|interfere\w*)\b"
    r"(?=.*\b(?:computer|network|server|database|system|email account|website|device|data)s?\b)",
    "weapons": r"bombs?|explosiv\w*|firearms?|guns?|weapons?|grenades?|landmines?|ammunition|chemical weapons?"
    r"|poison\w*|toxin\w*|nerve (?:agent|gas)|anthrax|ricin|sarin|pathogens?|bioweapons?|napalm|nuclear|3d[- ]print\w*",
    "drugs": r"drugs?|meth(?:amphetamine)?|cocaine|heroin|fentanyl|opioids?|lsd|ecstasy|mdma|marijuana|narcotic\w*",
    "misinformation": r"fake news|misinformation|disinformation|conspirac\w*|false (?:information|news|accusations?"
    r"|claims?)|propaganda|hoax\w*|rumou?rs?|deepfakes?|rigg\w*|manipulat\w*(?=.*\b(?:election|vot|public|media)\w*)"
    r"|election\w*|vaccin\w*",
    "privacy": r"identity theft|in secret|hidden camera"
    r"|steal\w*(?=.*\b(?:identit|personal|confidential|private|sensitive)\w*)|personal"
    r" (?:information|data)|confidential\w*|spy\w*|surveil\w*|wiretap\w*|track\w*(?=.*\b(?:person|someone|phone"
    r"|location)\w*)|private (?:photo|message|information|data)\w*|doxx?\w*|social security number\w*",
    "fraud": r"fraud\w*|scam\w*|falsif\w*|mislead\w*|launder\w*|counterfeit\w*|forg(?:e|ed|ing|ery)|fake\w*"
    r"|insider trading|embezzl\w*"
    r"|tax(?:es)?|credit cards?|ponzi|pyramid scheme|pirat\w*|bribe\w*|blackmail\w*|extort\w*|plagiari\w*|deceiv\w*"
    r"|defraud\w*|stock market|manipulat\w*|cheat\w*|impersonat\w*|illegally (?:copy|download)\w*|copyright\w*",
    "harassment": r"(?:cyber)?(?:bull(?:y|ies|ying)|stalk\w*)|harass\w*|threat\w*|intimidat\w*|humiliat\w*"
    r"|defam\w*|troll\w*|revenge|sabotag\w*|groom\w*|coerc\w*",
    "violence": r"kill\w*|murder\w*|assassinat\w*|attack\w*|violen\w*|terror\w*|kidnap\w*|tortur\w*|assault\w*|riots?"
    r"|shoot\w*|cannibal\w*|arson|hurt\w*|harm(?:ing)?|abus\w*|massacre\w*|traffick\w*|rape",
    "crime": r"steal\w*|rob\w*|theft|shoplift\w*|burgl\w*|smuggl\w*|break(?:ing)? into|hot-?wir\w*|pick\w* (?:a )?lock"
    r"|vandal\w*|illegal\w*|crim\w*|law enforcement|police|prison|jail|evad\w*|arrest\w*|drunk driving|stolen",
}  # fmt: skip
_PATTERNS = {name: re.compile(rf"\b(?:{words})\b", re.IGNORECASE | re.DOTALL) for name, words in _WORDS.items()}


def harm_category(request: str) -> str:
    """The first category of which the request holds a word, or "other"."""
    return next((name for name, pattern in _PATTERNS.items() if pattern.search(request[:_CHARACTERS])), OTHER_HARM)
