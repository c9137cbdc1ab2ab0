"""token.c: products against NumPy, whole tokens against the operators they stand for, and what happens without it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tunesmith.errors import ConfigError
from tunesmith.kernels import native
from tunesmith.kernels.head_loss import logits_of
from tunesmith.kernels.native import NativeHalf, NativeInt8, NativeWeight, library
from tunesmith.models import packed as packed_module
from tunesmith.models.adapters import AdapterConfig, add_adapter
from tunesmith.models.decoding import start_decoding
from tunesmith.models.native_token import NativeToken
from tunesmith.models.packed import PackedWeights
from tunesmith.models.roles import Base
from tunesmith.randomness import generator

needs_library = pytest.mark.skipif(isinstance(library(), str), reason=f"token.c: {library()}")
SHAPES = [(16, 32), (33, 50), (1, 7), (576, 96), (1100, 40), (2050, 17)]
# Kernels that differ in rows and panels, and blocks of them.
ROWS = [1, 2, 3, 4, 5, 6, 7, 13]


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def drawn(num_in: int, num_out: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    draws = np.random.default_rng(num_in)
    x = draws.standard_normal((rows, num_in)).astype(np.float32)
    # Outliers are what bytes alone cannot hold.
    x[0, num_in // 2] = 80.0
    return x, draws.standard_normal((num_out, num_in)).astype(np.float32)


@needs_library
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rows", ROWS)
def test_half_products_are_those_of_their_numbers(shape: tuple[int, int], rows: int, threads: int) -> None:
    x, weight = drawn(*shape, rows)
    got = NativeHalf(torch.from_numpy(weight)).matmul(torch.from_numpy(x)).numpy()
    numbers = weight.astype(np.float16).astype(np.float64)
    wanted = x.astype(np.float64) @ numbers.T
    # What fp32 may lose of a sum of so many terms.
    bound = 1e-6 + 2.0**-23 * shape[0] * (np.abs(x).astype(np.float64) @ np.abs(numbers).T)
    assert np.all(np.abs(got - wanted) <= bound)
    # The control: fp8's digits are too few.
    coarse = torch.from_numpy(weight).to(torch.float8_e4m3fn).double().numpy()
    assert np.any(np.abs(x.astype(np.float64) @ coarse.T - wanted) > bound)


@needs_library
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rows", ROWS)
def test_int8_products_are_those_of_their_numbers(shape: tuple[int, int], rows: int, threads: int) -> None:
    x, weight = drawn(*shape, rows)
    got = NativeInt8(torch.from_numpy(weight)).matmul(torch.from_numpy(x)).numpy()
    step = np.abs(weight).max(1, keepdims=True).astype(np.float64) / 127
    numbers = np.rint(weight / step) * step
    wanted = x.astype(np.float64) @ numbers.T
    # Half a step of the 15 bits kept of a row, always in one direction, and fp32's own rounding.
    bound = np.abs(x).max(1, keepdims=True) / (2 * 32767) * np.abs(numbers).sum(1)[None] * 1.01
    bound += 1e-5 * (np.abs(x) @ np.abs(numbers).T)
    assert np.all(np.abs(got - wanted) <= bound)
    # With a byte for x (the control) the outlier's row would be far off.
    coarse = np.rint(x / np.abs(x).max(1, keepdims=True) * 127) / 127 * np.abs(x).max(1, keepdims=True)
    assert shape[0] < 16 or np.any(np.abs(coarse @ numbers.T - wanted) > bound)


@needs_library
@pytest.mark.parametrize("kind", [NativeHalf, NativeInt8])
def test_sums_do_not_overflow_at_their_largest(kind: type[NativeWeight]) -> None:
    x, weight = torch.ones(2, 1500), torch.ones(20, 1500)
    weight[3] = -1.0
    wanted = x @ weight.T
    torch.testing.assert_close(kind(weight).matmul(x), wanted, rtol=1e-5, atol=0.0)


@needs_library
@pytest.mark.parametrize("kind", [NativeHalf, NativeInt8])
@pytest.mark.parametrize("at", [3, 48])
def test_what_is_no_number_stays_none(kind: type[NativeWeight], at: int) -> None:
    x, weight = torch.ones(4, 49), torch.randn(20, 49, generator=torch.Generator().manual_seed(1))
    x[1, at], x[2, at] = float("nan"), float("inf")
    got = kind(weight).matmul(x)
    assert got[1].isnan().all() and not got[2].isfinite().any()
    assert got[0].isfinite().all() and got[3].isfinite().all()


@needs_library
@pytest.mark.parametrize("kind", [NativeHalf, NativeInt8])
def test_a_row_has_the_same_bits_whatever_is_beside_it(kind: type[NativeWeight], threads: int) -> None:
    x, weight = (torch.from_numpy(array) for array in drawn(600, 90, 20))
    product = kind(weight)
    whole = product.matmul(x)
    for rows in (1, 2, 3, 5, 6, 11):
        for first in (0, 7):
            assert torch.equal(product.matmul(x[first : first + rows]), whole[first : first + rows])


def ready(load: Callable[..., Any], kind: str, dtype: str = "float32") -> Base:
    """A tiny base whose weights are numbers of fp16, with biases where its maps have them, and two LoRA adapters."""
    base: Base = load(kind, dtype)
    draws = torch.Generator().manual_seed(4)
    for name, parameter in base.model.named_parameters():
        if name.endswith(".bias") or "norm" in name:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=draws).to(parameter.dtype)
        parameter.data = parameter.data.half().to(parameter.dtype)
    for number, rank in enumerate((2, 5)):
        role = add_adapter(base, f"lora-{number}", AdapterConfig(r=rank, lora_alpha=8), seed=number)
        for parameter in role.parameters.values():
            parameter.data += 0.2 * torch.randn(parameter.shape, generator=draws)
    narrow = add_adapter(base, "bottleneck", AdapterConfig(method="bottleneck"), seed=9)
    for parameter in narrow.parameters.values():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=draws)
    return base


@torch.no_grad()
def stepped(base: Base, stepping: Any, head: Any, names: list[str | None]) -> torch.Tensor:
    """(steps, B, V) logits of forced tokens; after three steps rows leave and change places."""
    prompts = [generator(5, "native", row).integers(3, 260, 4 + 3 * row) for row in range(len(names))]
    state, _ = start_decoding(base, prompts, 8, names, stepping)
    forced = generator(6, "native", 0).integers(3, 260, (7, len(names)))
    out = [logits_of(state.step(torch.from_numpy(ids)), head) for ids in forced[:3]]
    kept = list(range(len(names)))[::-1][: max(1, len(names) - 1)]
    state.keep(kept)
    out += [logits_of(state.step(torch.from_numpy(ids[kept])), head) for ids in forced[3:]]
    return torch.cat(out).float()


@needs_library
@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "mistral"])
@pytest.mark.parametrize(
    "names", [[None], ["lora-0"], [None, "lora-1", None, "lora-0", "lora-1"]], ids=["base", "one", "mixed"]
)
def test_a_token_is_what_the_operators_make(
    load: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, kind: str, names: list[str | None], threads: int
) -> None:
    base = ready(load, kind)
    calls = []
    plain = NativeToken.__call__
    monkeypatch.setattr(NativeToken, "__call__", lambda self, *args: calls.append(1) or plain(self, *args))
    packed = PackedWeights(base, "half")
    assert packed.native_reason is None and packed.exact
    wanted, got = stepped(base, None, base.head, names), stepped(base, packed.decoder(), packed.head, names)
    assert len(calls) == 7
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=2e-5 * float(wanted.abs().max()))
    # The control: another adapter answers otherwise.
    others = ["lora-0" if name is None else None for name in names]
    assert not torch.allclose(stepped(base, packed.decoder(), packed.head, others), wanted, rtol=1e-2, atol=1e-2)


@needs_library
def test_an_int8_token_is_that_of_torchs_kernels(load: Callable[..., Any]) -> None:
    base = ready(load, "qwen3")
    names: list[str | None] = [None, "lora-1", "lora-0"]
    ours, theirs = (PackedWeights(base, "int8", native=native) for native in (True, False))
    got, wanted = (stepped(base, one.decoder(), one.head, names) for one in (ours, theirs))
    full = stepped(base, None, base.head, names)
    torch.testing.assert_close(got, wanted, rtol=2e-3, atol=2e-3 * float(wanted.abs().max()))
    assert float((full - wanted).norm()) > 4 * float((got - wanted).norm())


@needs_library
def test_a_base_in_bf16_keeps_its_cache_in_fp32(load: Callable[..., Any]) -> None:
    base, wide = ready(load, "llama", "bfloat16"), ready(load, "llama")
    names: list[str | None] = [None, "lora-0"]
    for parameter, same in zip(wide.model.parameters(), base.model.parameters(), strict=True):
        parameter.data = same.data.float()
    packed = PackedWeights(base, "half")
    got, wanted = stepped(base, packed.decoder(), packed.head, names), stepped(wide, None, wide.head, names)
    plain = stepped(base, None, base.head, names)
    # Only the prompt is read in bf16.
    assert float((got - wanted).norm()) < 0.7 * float((plain - wanted).norm())
    # An adapter that token.c cannot apply goes by the operators, over the same cache.
    mixed = stepped(base, packed.decoder(), packed.head, [None, "bottleneck"])
    assert float((mixed - stepped(base, None, base.head, [None, "bottleneck"])).norm()) < 0.1 * float(mixed.norm())


@needs_library
def test_adapters_beyond_plain_lora_go_by_the_operators(
    load: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = ready(load, "llama")
    packed = PackedWeights(base, "half")

    def fails(*_: Any) -> None:
        raise AssertionError("token.c was given an adapter it does not know")

    monkeypatch.setattr(NativeToken, "__call__", fails)
    for names in (["bottleneck"], [None, "bottleneck", "lora-0"]):
        wanted, got = stepped(base, None, base.head, names), stepped(base, packed.decoder(), packed.head, names)
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=2e-5 * float(wanted.abs().max()))


@needs_library
def test_rows_have_the_same_bits_whatever_is_beside_them(load: Callable[..., Any], threads: int) -> None:
    base = ready(load, "llama")
    packed = PackedWeights(base, "half")
    prompts = [generator(7, "native", row).integers(3, 260, 3 + 5 * row) for row in range(4)]
    names = [None, "lora-0", "lora-1", None]
    state, together = start_decoding(base, prompts, 4, names, packed.decoder())
    token_B = torch.arange(4) + 9
    together = state.step(token_B)
    for row, (prompt, name) in enumerate(zip(prompts, names, strict=True)):
        alone, _ = start_decoding(base, [prompt], 4, [name], packed.decoder())
        # The prompt's own keys are read in packs, whose products may round otherwise: give both the same ones.
        for mine, theirs in zip((*alone.keys, *alone.values), (*state.keys, *state.values), strict=True):
            mine[0, :, : len(prompt)] = theirs[row, :, : len(prompt)]
        assert torch.equal(alone.step(token_B[row : row + 1])[0], together[row])


@needs_library
@pytest.mark.parametrize("kind", ["half", "int8"])
def test_bits_do_not_depend_on_rows_or_threads(load: Callable[..., Any], kind: Any) -> None:
    base = ready(load, "qwen2")
    packed = PackedWeights(base, kind)
    prompts = [generator(9, "native", 0).integers(3, 260, 7)] * 7
    names = [None, "lora-0", "lora-1", None, "lora-0", None, "lora-1"]
    found, before = {}, torch.get_num_threads()
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        for rows in (1, 2, 3, 4, 7):
            # One prompt for all, read by one thread: its keys are the same bits in each state.
            torch.set_num_threads(1)
            state, _ = start_decoding(base, prompts[:rows], 4, names[:rows], packed.decoder())
            torch.set_num_threads(threads)
            for cache in (*state.keys, *state.values):
                cache[:] = torch.sin(torch.arange(cache[0].numel()).reshape(cache[0].shape) * 1.0)
            found[threads, rows] = state.step(torch.full((rows,), 9))
    torch.set_num_threads(before)
    for (_, rows), states in found.items():
        assert torch.equal(states, found[1, 7][:rows])
    assert len({row.numpy().tobytes() for row in found[1, 7]}) == 3


@needs_library
def test_virtual_tokens_go_in_one_call(load: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    base = ready(load, "mistral")
    for method in ("prefix", "prompt"):
        role = add_adapter(base, method, AdapterConfig(method=method, num_virtual_tokens=3), seed=2)
        for parameter in role.parameters.values():
            parameter.data += 0.5 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(8))
    packed = PackedWeights(base, "half")
    names: list[str | None] = ["prefix", None, "prompt", "lora-0"]
    wanted = stepped(base, None, base.head, names)
    calls = []
    plain = NativeToken.__call__
    monkeypatch.setattr(NativeToken, "__call__", lambda self, *args: calls.append(1) or plain(self, *args))
    got = stepped(base, packed.decoder(), packed.head, names)
    assert len(calls) == 7
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=2e-5 * float(wanted.abs().max()))


@needs_library
def test_an_adapter_that_is_no_number_shows(load: Callable[..., Any]) -> None:
    base = ready(load, "llama")
    prompts = [generator(5, "native", row).integers(3, 260, 6) for row in range(2)]
    state, _ = start_decoding(base, prompts, 4, [None, "lora-0"], PackedWeights(base, "half").decoder())
    # After the prompts, whose keys and values would bring it along: only the new token's queries are none.
    with torch.no_grad():
        for name, parameter in base.model.named_parameters():
            if "q_proj.lora_B.lora-0" in name:
                parameter.fill_(float("nan"))
    hidden_BD = state.step(torch.tensor([7, 7]))
    assert hidden_BD[1].isnan().all() and hidden_BD[0].isfinite().all()


@needs_library
def test_it_takes_fp32_whatever_the_default_is(load: Callable[..., Any]) -> None:
    base = ready(load, "qwen2")
    packed = PackedWeights(base, "half")
    wanted = stepped(base, packed.decoder(), packed.head, [None, "lora-0"])
    torch.set_default_dtype(torch.float64)
    try:
        again = PackedWeights(base, "half")
        got = stepped(base, again.decoder(), again.head, [None, "lora-0"])
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


@needs_library
def test_a_token_beyond_the_cache_is_an_error(load: Callable[..., Any]) -> None:
    base = ready(load, "llama")
    state, _ = start_decoding(base, [np.arange(5, 9)], 2, [None], PackedWeights(base, "half").decoder())
    for _ in range(2):
        state.step(torch.tensor([7]))
    with pytest.raises(IndexError, match="6 slots"):
        state.step(torch.tensor([7]))


@needs_library
def test_it_stands_on_torchs_own_openmp() -> None:
    found = native._openmp_of_torch()
    assert found is not None and "torch" in found.as_posix()


@pytest.fixture
def fresh_library() -> Iterator[None]:
    library.cache_clear()
    yield
    library.cache_clear()


def test_without_a_compiler_torchs_kernels_answer_and_it_is_said(
    load: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fresh_library: None
) -> None:
    monkeypatch.setenv("CC", "false")
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path))
    base = load("llama", "float32")
    if not packed_module.packs_here():
        pytest.skip("torch has no kernels for packed weights here")
    packed = PackedWeights(base, "half")
    assert packed.decoder().token is None
    PackedWeights(base, "half")
    assert sum("does not compile" in note for note in base.notes) == 1
    assert "does not compile" in base.notes[-1] and "torch's kernels" in base.notes[-1]
    monkeypatch.setattr(packed_module, "packs_here", lambda: False)
    with pytest.raises(ConfigError, match="does not compile"):
        PackedWeights(base, "half")


@needs_library
def test_it_is_compiled_once_and_again_for_another_source(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fresh_library: None
) -> None:
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path))
    ran = []
    run = native._run
    monkeypatch.setattr(native, "_run", lambda command: ran.append(command) or run(command))
    assert not isinstance(library(), str)
    library.cache_clear()
    assert not isinstance(library(), str)
    assert sum("-c" in command for command in ran) == len(list(native.SOURCES.glob("*.c")))
    # A compiler may be a command with arguments.
    monkeypatch.setenv("CC", f"env {shutil.which('cc') or 'gcc'}")
    library.cache_clear()
    assert not isinstance(library(), str)
    monkeypatch.delenv("CC")
    assert len(list((tmp_path / "native").glob("kernels-*.so"))) == 2
    before = set((tmp_path / "native").iterdir())
    sources = tmp_path / "c"
    shutil.copytree(native.SOURCES, sources)
    with (sources / "products.h").open("a") as header:
        header.write("/* changed */\n")
    monkeypatch.setattr(native, "SOURCES", sources)
    library.cache_clear()
    assert not isinstance(library(), str)
    assert len(list((tmp_path / "native").glob("kernels-*.so"))) == 3
    # A damaged file is written anew; under another path, for this process has the first ones loaded.
    (made,) = [file for file in (tmp_path / "native").glob("kernels-*.so") if file not in before]
    damaged = tmp_path / "other" / "native" / made.name
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"half a file")
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "other"))
    library.cache_clear()
    assert not isinstance(library(), str) and damaged.stat().st_size == made.stat().st_size
    (sources / "token.c").write_text("int missing(")
    library.cache_clear()
    assert "does not compile" in str(library())


def test_a_cache_that_cannot_be_written_costs_a_compilation(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fresh_library: None
) -> None:
    if isinstance(library(), str):
        pytest.skip(str(library()))
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("TUNESMITH_CACHE", str(blocked))
    library.cache_clear()
    assert not isinstance(library(), str)
