"""The demo base's tokenizer, built from the tokens and merges that its GGUF file carries.

`transformers` can read it too, in half a minute; built directly it takes a second.
"""

from gguf import GGUFReader, TokenType
from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from transformers import PreTrainedTokenizerFast

from server.model.demo_weights import metadata


def demo_tokenizer(reader: GGUFReader) -> PreTrainedTokenizerFast:
    """Byte-level BPE with single digits, special tokens and the chat template of the file.

    The vocabulary lacks some bytes of control characters and unassigned planes; these are dropped.
    """
    tokens = metadata(reader, "tokenizer.ggml.tokens")

    def special(role: str) -> str:
        token: str = tokens[metadata(reader, f"tokenizer.ggml.{role}_token_id")]
        return token

    return PreTrainedTokenizerFast(
        tokenizer_object=_byte_level_bpe(reader, tokens),
        bos_token=special("bos"),
        eos_token=special("eos"),
        unk_token=special("unknown"),
        pad_token=special("padding"),
        chat_template=metadata(reader, "tokenizer.chat_template"),
        model_max_length=metadata(reader, "llama.context_length"),
        clean_up_tokenization_spaces=False,
    )


def _byte_level_bpe(reader: GGUFReader, tokens: list[str]) -> Tokenizer:
    merges = [tuple(merge.split(" ")) for merge in metadata(reader, "tokenizer.ggml.merges")]
    tokenizer = Tokenizer(BPE({token: id for id, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = Sequence(
        [Digits(individual_digits=True), ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    tokenizer.decoder = ByteLevelDecoder()
    kinds = metadata(reader, "tokenizer.ggml.token_type")
    tokenizer.add_special_tokens(
        [
            AddedToken(token, normalized=False, special=True)
            for token, kind in zip(tokens, kinds, strict=True)
            if kind == TokenType.CONTROL
        ]
    )
    return tokenizer
