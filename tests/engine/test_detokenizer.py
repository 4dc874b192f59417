"""Text as it comes: whole characters only, nothing lost, no stop string ever shown."""

from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny_models import make_tiny_tokenizer
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from server.engine.detokenizer import REPLACEMENT, WINDOW_TOKENS, Detokenizer
from server.engine.sampling_params import SamplingParams
from server.model.text import TextCodec

BYTE_LEVEL = TextCodec(make_tiny_tokenizer())


def make_byte_fallback() -> TextCodec:
    """Like Llama's tokenizer: `▁` for spaces, which a first token loses, and bytes as <0xNN>."""
    pieces = ["▁", "▁a", "b", "▁bc"] + [f"<0x{byte:02X}>" for byte in range(256)]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return TextCodec(PreTrainedTokenizerFast(tokenizer_object=tokenizer))


BYTE_FALLBACK = make_byte_fallback()


def params(*stop: str, **fields: object) -> SamplingParams:
    return SamplingParams(max_tokens=999, stop=stop, **fields)  # type: ignore[arg-type]


def stream(codec: TextCodec, prompt: list[int], output: list[int]) -> list[str]:
    detokenizer = Detokenizer.start(codec.decode, params(), prompt)
    pieces: list[str] = []
    for token_id in output:
        detokenizer.push(token_id)
        pieces.append(detokenizer.take(final=False))
    detokenizer.finish()
    return [*pieces, detokenizer.take(final=True)]


@settings(max_examples=200, deadline=None)
@given(
    text=st.text(max_size=60),
    prompt=st.text(max_size=8).filter(lambda prompt: not prompt.endswith(REPLACEMENT)),
)
def test_pieces_join_to_the_text(text: str, prompt: str) -> None:
    output = BYTE_LEVEL.encode(text, add_special_tokens=False)
    pieces = stream(BYTE_LEVEL, BYTE_LEVEL.encode(prompt, add_special_tokens=False), output)
    assert "".join(pieces) == BYTE_LEVEL.decode(output, True)


@settings(max_examples=200, deadline=None)
@given(text=st.text(min_size=1, max_size=40).filter(lambda t: REPLACEMENT not in t))
def test_no_piece_ends_inside_a_character(text: str) -> None:
    pieces = stream(BYTE_LEVEL, [], BYTE_LEVEL.encode(text, add_special_tokens=False))
    assert not any(REPLACEMENT in piece for piece in pieces)


@settings(max_examples=200, deadline=None)
@example(output=[0] * 14 + [99] + [0] * 16)
@given(output=st.lists(st.integers(0, 259), max_size=60))
def test_any_bytes_are_streamed_to_the_end(output: list[int]) -> None:
    """A piece may end in U+FFFD once no later byte can make a character of what it stands for."""
    assert "".join(stream(BYTE_LEVEL, [], output)) == BYTE_LEVEL.decode(output, True)


@settings(max_examples=100, deadline=None)
@given(words=st.lists(st.sampled_from([0, 1, 2, 3]), min_size=1, max_size=40))
def test_space_that_a_first_token_would_lose_is_kept(words: list[int]) -> None:
    prompt = [1, 2]
    joined = BYTE_FALLBACK.decode([*prompt, *words], True)
    assert "".join(stream(BYTE_FALLBACK, prompt, words)) == joined[len("ab") :]


def as_bytes(text: str) -> list[int]:
    return [4 + byte for byte in text.encode()]


@settings(max_examples=200, deadline=None)
@given(text=st.text("aé中文😀", max_size=40), prompt=st.text("aé中文😀", max_size=8))
def test_long_runs_of_byte_tokens_are_read_right(text: str, prompt: str) -> None:
    pieces = stream(BYTE_FALLBACK, [1, *as_bytes(prompt)], as_bytes(text))
    assert "".join(pieces) == text


@pytest.mark.parametrize("codec", [BYTE_LEVEL, BYTE_FALLBACK], ids=["byte level", "byte fallback"])
def test_bytes_that_stay_broken_come_in_time_and_cost_no_more_and_more(codec: TextCodec) -> None:
    broken = next(i for i in range(4, 260) if codec.decode([i] * 4, True) == REPLACEMENT * 4)
    longest = 0

    def decode(token_ids: Sequence[int], skip_special_tokens: bool) -> str:
        nonlocal longest
        longest = max(longest, len(token_ids))
        return codec.decode(token_ids, skip_special_tokens)

    detokenizer = Detokenizer.start(decode, params(), [])
    for count in range(1, 200):
        detokenizer.push(broken)
        detokenizer.take(final=False)
        assert detokenizer.sent >= count - 2 * WINDOW_TOKENS
    detokenizer.finish()
    assert detokenizer.text == REPLACEMENT * 199
    assert longest <= 2 * WINDOW_TOKENS + 1


def test_character_of_many_tokens_comes_when_it_is_whole() -> None:
    face = [4 + byte for byte in "😀".encode()]
    assert stream(BYTE_FALLBACK, [1], face) == ["", "", "", "😀", ""]


def push_all(detokenizer: Detokenizer, text: str, min_tokens: int = 0) -> list[str]:
    pieces: list[str] = []
    for count, token_id in enumerate(BYTE_LEVEL.encode(text, add_special_tokens=False), start=1):
        detokenizer.push(token_id)
        if count < min_tokens:
            detokenizer.skip_stops()
        match = detokenizer.find_stop()
        if match is not None:
            detokenizer.truncate(match.end)
            return [*pieces, detokenizer.take(final=True)]
        pieces.append(detokenizer.take(final=False))
    return [*pieces, detokenizer.take(final=True)]


@pytest.mark.parametrize(
    ("text", "stops", "shown"),
    [
        ("one END two", ["END"], "one "),
        ("one EN two", ["END"], "one EN two"),
        ("aab", ["ab"], "a"),
        ("xyz", ["z", "yz"], "x"),
        ("no stop", ["\n\n"], "no stop"),
        ("a\n\nb", ["\n\n"], "a"),
        ("ENDEND", ["END"], ""),
        ("é—END", ["—E"], "é"),
    ],
)
def test_text_ends_before_the_first_stop_string(text: str, stops: list[str], shown: str) -> None:
    detokenizer = Detokenizer.start(BYTE_LEVEL.decode, params(*stops), [])
    assert "".join(push_all(detokenizer, text)) == shown


def test_stop_string_before_min_tokens_stands_and_a_later_one_ends() -> None:
    detokenizer = Detokenizer.start(BYTE_LEVEL.decode, params("END"), [])
    pieces = push_all(detokenizer, "one END two END three", min_tokens=9)
    assert "".join(pieces) == "one END two "


def test_stop_string_that_straddles_min_tokens_ends() -> None:
    detokenizer = Detokenizer.start(BYTE_LEVEL.decode, params("END"), [])
    assert "".join(push_all(detokenizer, "one END two", min_tokens=6)) == "one "


def test_stop_string_is_kept_where_asked_for() -> None:
    wanted = params("END", include_stop_str_in_output=True)
    detokenizer = Detokenizer.start(BYTE_LEVEL.decode, wanted, [])
    assert "".join(push_all(detokenizer, "one END two")) == "one END"


@settings(max_examples=200, deadline=None)
@given(
    text=st.text("abE ", max_size=30),
    stops=st.lists(st.text("abE ", min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_nothing_of_a_stop_string_leaks_and_nothing_else_is_lost(
    text: str, stops: list[str]
) -> None:
    detokenizer = Detokenizer.start(BYTE_LEVEL.decode, params(*stops), [])
    pieces = push_all(detokenizer, text)
    shown = "".join(pieces)
    assert text.startswith(shown)
    assert not any(stop in shown for stop in stops)
    if not any(stop in text for stop in stops):
        assert shown == text


@pytest.mark.parametrize("words", [[1], [3, 2], [1, 3, 0, 2]])
def test_texts_of_single_tokens_join_to_the_text(words: list[int]) -> None:
    """Log-probabilities show each token's text; a decoder that strips must not eat its space."""
    shown = "".join(BYTE_FALLBACK.token_text(token_id) for token_id in words)
    assert shown == BYTE_FALLBACK.decode([2, *words], True)[len("b") :]
