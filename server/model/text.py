"""Text to token ids and back, safe to use from several threads at once.

Goes straight to the immutable Rust tokenizer: transformers' wrapper changes shared state per call.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from transformers import AddedToken, PreTrainedTokenizerFast

# Where this machine keeps the tokenizer, which is nobody's business.
LOCAL = frozenset({"name_or_path", "is_local", "local_files_only", "cache_dir", "subfolder"})
TEXTS_KEPT = 1 << 16  # texts of single tokens, asked for again and again by log-probabilities


class TextCodec:
    """Encodes prompts and chats as the checkpoint's tokenizer and template say."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self._backend = tokenizer.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()
        self._before = self.encode("a", add_special_tokens=False)[-1:]
        self._length_before = len(self.decode(self._before, False))
        self.token_text = lru_cache(TEXTS_KEPT)(self._token_text)

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        ids: list[int] = self._backend.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool) -> str:
        """Text of `token_ids`; bytes that are no character become U+FFFD."""
        text: str = self._backend.decode(list(token_ids), skip_special_tokens=skip_special_tokens)
        return text

    def inner_text(self, token_ids: Sequence[int]) -> str:
        """Text of tokens inside a text: at the very start some decoders drop a space."""
        return self.decode([*self._before, *token_ids], False)[self._length_before :]

    def _token_text(self, token_id: int) -> str:
        return self.inner_text([token_id])

    def vocabulary_text(self, token_id: int) -> str:
        """A token as the vocabulary writes it, not as text; empty for an id that has no token."""
        return self._backend.id_to_token(token_id) or ""

    def describe(self) -> dict[str, Any]:
        """The tokenizer's configuration as JSON can hold it, without any path."""
        tokenizer = self._tokenizer
        config = {**tokenizer.init_kwargs, **tokenizer.special_tokens_map}
        return {
            **{
                name: _plain(value)
                for name, value in config.items()
                if name not in LOCAL and not name.endswith("_file")
            },
            "tokenizer_class": type(tokenizer).__name__,
            "chat_template": tokenizer.chat_template,
        }

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool,
        add_special_tokens: bool = False,
    ) -> list[int]:
        """Token ids of a conversation. Raises jinja2.TemplateError; ValueError without template.

        `add_special_tokens`: more of them than the template itself writes.
        """
        text: str = self._tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=add_generation_prompt, tokenize=False
        )
        return self.encode(text, add_special_tokens=add_special_tokens)


def _plain(value: Any) -> Any:
    """`value` with added tokens as their text."""
    match value:
        case AddedToken():
            return value.content
        case dict():
            return {str(name): _plain(item) for name, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
    return value
