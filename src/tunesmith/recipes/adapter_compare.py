"""One adapter looked into, and two compared: how far each moves the linear maps of the base, and where to."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import ModelError, TunesmithError
from tunesmith.models.adapters import adapter_digest, load_adapter, trainable_share
from tunesmith.models.load import load_base
from tunesmith.models.merge import UNMERGEABLE, adapted_maps, map_under, updates
from tunesmith.models.roles import Base
from tunesmith.recipes.adapter_folders import AdapterFolder, base_for, read_adapter_folder

NAMES = ("shown", "other")
# What differs between folders without saying anything of the adapter.
UNTOLD = ("inference_mode", "base_model_name_or_path", "peft_version", "revision")


@dataclass(frozen=True, slots=True, kw_only=True)
class Norm:
    """How far an adapter moves one linear map: Frobenius norms of the update and of the base's weight."""

    map: str
    update: float
    weight: float

    @property
    def relative(self) -> float:
        return self.update / self.weight if self.weight else float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """An adapter's files and what it does to its base; no norms where the base is not at hand or no weight is moved."""

    folder: AdapterFolder
    digest: str | None
    trainable_share: float | None
    norms: list[Norm]
    note: str | None

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        norms = [{**asdict(norm), "relative": norm.relative} for norm in self.norms]
        return {**asdict(self), "norms": norms}


def show_adapter(folder: Path, model: str) -> Shown:
    """Read an adapter, on its base where that can be loaded. Raises ModelError where the folder holds none."""
    files = read_adapter_folder(folder)
    if not files.settings:
        raise ModelError(folder, f"no adapter here: {'; '.join(files.problems)}.", "Check the path.")
    try:
        base = load_base(base_for(folder, model))
        role = load_adapter(base, folder, NAMES[0], trainable=True)
    except TunesmithError as error:
        return Shown(folder=files, digest=files.digest, trainable_share=None, norms=[], note=str(error))
    method = base.methods[NAMES[0]]
    norms = []
    if method not in UNMERGEABLE:
        found = updates(base, NAMES[0])
        norms = [Norm(map=key, update=float(u.norm()), weight=float(w.norm())) for key, u, w in found]
    return Shown(
        folder=files,
        digest=adapter_digest(base, NAMES[0]),
        trainable_share=trainable_share(base, role),
        norms=norms,
        note=f"no norms of updates: {UNMERGEABLE[method]}." if method in UNMERGEABLE else None,
    )


def describe_shown(shown: Shown) -> list[str]:
    """For people."""
    files = shown.folder
    share = "" if shown.trainable_share is None else f", {100 * shown.trainable_share:.2f} % of all"
    lines = [
        f"{files.path}: {files.method or '?'}, {files.num_bytes} bytes",
        f"{files.num_parameters or 0:,} parameters{share}",
        f"base {files.base_name or '?'} {files.base_digest or ''}".rstrip(),
        f"digest {shown.digest or '?'}",
        f"data   {files.data_digest or '?'}",
        f"when   {files.when or '?'}",
        *([f"made of {', '.join(files.parents)}"] if files.parents else []),
        *(f"problem: {problem}" for problem in files.problems),
        "settings: " + ", ".join(f"{k} {v}" for k, v in sorted(files.settings.items()) if _tells(k, v)),
    ]
    if shown.norms:
        width = max(len(norm.map) for norm in shown.norms)
        lines.append(f"{'map'.ljust(width)}  ||update||  ||weight||  relative")
        lines += [f"{n.map.ljust(width)}  {n.update:10.4f}  {n.weight:10.3f}  {n.relative:8.4f}" for n in shown.norms]
    return [*lines, *([shown.note] if shown.note else [])]


@dataclass(frozen=True, slots=True, kw_only=True)
class MapDifference:
    """Two updates of one linear map. cosine: of their angle as vectors, None where one is zero. distance:
    ||second - first|| over the mean of their norms, 0 for equal ones and 2 for opposite ones of one length."""

    map: str
    cosine: float | None
    distance: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Two adapters: settings that differ as name -> (first, second), digests, and each map that either moves."""

    first: AdapterFolder
    second: AdapterFolder
    settings: dict[str, tuple[Any, Any]]
    digests: tuple[str | None, str | None]
    maps: list[MapDifference]
    note: str | None

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return asdict(self)


def compare_adapters(first: Path, second: Path, model: str) -> Difference:
    """Compare two adapters; where they are not of one base, or it is not at hand, by their files alone."""
    files = [read_adapter_folder(folder) for folder in (first, second)]
    for folder, one in zip((first, second), files, strict=True):
        if not one.settings:
            raise ModelError(folder, f"no adapter here: {'; '.join(one.problems)}.", "Check the path.")
    keys = sorted(set(files[0].settings) | set(files[1].settings))
    pairs = {key: (files[0].settings.get(key), files[1].settings.get(key)) for key in keys}
    settings = {key: pair for key, pair in pairs.items() if pair[0] != pair[1] and key not in UNTOLD}
    digests: tuple[str | None, str | None] = (files[0].digest, files[1].digest)
    maps, note = list[MapDifference](), None
    try:
        base = load_base(base_for(first, model))
        for folder, name in zip((first, second), NAMES, strict=True):
            load_adapter(base, folder, name)
        digests = (adapter_digest(base, NAMES[0]), adapter_digest(base, NAMES[1]))
        blocked = [UNMERGEABLE[base.methods[name]] for name in NAMES if base.methods[name] in UNMERGEABLE]
        maps, note = ([], f"updates are not compared: {blocked[0]}.") if blocked else (_differences(base), None)
    except TunesmithError as error:
        note = f"updates are not compared: {error}"
    return Difference(first=files[0], second=files[1], settings=settings, digests=digests, maps=maps, note=note)


def _differences(base: Base) -> list[MapDifference]:
    out = []
    for key, site in adapted_maps(base):
        plain_IO = map_under(base, site, None)[0]
        one, other = (map_under(base, site, name)[0] - plain_IO for name in NAMES)
        norms = float(one.norm()), float(other.norm())
        if max(norms) == 0:
            continue
        cosine = float((one * other).sum()) / (norms[0] * norms[1]) if min(norms) > 0 else None
        out.append(MapDifference(map=key, cosine=cosine, distance=2 * float((other - one).norm()) / sum(norms)))
    return out


def describe_difference(found: Difference) -> list[str]:
    """For people."""
    lines = [f"first   {found.first.path}", f"second  {found.second.path}"]
    same = found.digests[0] is not None and found.digests[0] == found.digests[1]
    lines.append(
        "digests are equal: they give the same answers"
        if same
        else f"digests {found.digests[0] or '?'}\n        {found.digests[1] or '?'}"
    )
    if found.first.base_digest != found.second.base_digest:
        lines.append(f"bases differ: {found.first.base_name} and {found.second.base_name}")
    if found.first.data_digest != found.second.data_digest:
        lines.append(f"data differ: {found.first.data_digest or '?'} and {found.second.data_digest or '?'}")
    lines += [f"{key}: {one} | {other}" for key, (one, other) in found.settings.items()]
    if found.maps:
        width = max(len(one.map) for one in found.maps)
        lines.append(f"{'map'.ljust(width)}  cosine  relative distance")
        for one in found.maps:
            cosine = "     -" if one.cosine is None else f"{one.cosine:6.3f}"
            lines.append(f"{one.map.ljust(width)}  {cosine}  {one.distance:8.4f}")
    return [*lines, *([found.note] if found.note else [])]


def _tells(key: str, value: Any) -> bool:
    return value not in (None, False, [], {}) and key not in UNTOLD
