"""The demo base and the shipped adapters, against transformers: the numbers and the text."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from engines import Collected, RealEngine, request, run_to_end, weights_with
from tiny_adapters import make_adapter
from transformers import AutoModelForCausalLM, PreTrainedModel

from adapters_store import files
from server.adapters.composition import BASE, Composition
from server.engine.sequence import GenerationRequest
from server.model.checkpoint import open_checkpoint
from server.model.text import TextCodec

pytestmark = pytest.mark.demo

SHIPPED = sorted((Path(__file__).parents[2] / "examples" / "adapters").glob("*.safetensors"))
KINDS = ("element", "block 16x16", "block 1x16", "low_rank")
TOLERANCE = 2e-5  # of the largest logit
NEW_TOKENS = 64
QUESTIONS = (
    "What is the capital of France?",
    "Name three colours.",
    "Write a short poem about the sea.",
    "How many legs does a spider have?",
    "Explain gravity to a child.",
    "What is 12 plus 7?",
    "Give me a recipe for pancakes.",
    "Who wrote Romeo and Juliet?",
    "Translate 'good morning' to Spanish.",
    "What do bees make?",
    "List the days of the week.",
    "Why is the sky blue?",
    "What is a prime number?",
    "Describe a cat in one sentence.",
    "What is the largest planet?",
    "How do I boil an egg?",
    "Write 42 in words.",
    "What is the opposite of hot?",
    "Tell me a joke.",
    "What is the past tense of go?",
)


@pytest.fixture(scope="module")
def real(demo_base: Path) -> RealEngine:
    return RealEngine(open_checkpoint(str(demo_base)))


@pytest.fixture(scope="module")
def reference(demo_base: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(demo_base, dtype=torch.float32)


def chat(real: RealEngine, question: str) -> list[int]:
    codec = TextCodec(real.checkpoint.tokenizer)
    messages = [{"role": "user", "content": question}]
    return codec.encode_chat(messages, add_generation_prompt=True)


def assert_greedy_of(
    reference: PreTrainedModel,
    prompt: list[int],
    output: list[int],
    recorded: Mapping[int, torch.Tensor],
) -> None:
    """Every token is transformers' choice after the same text, or one of a near-tie.

    One forward pass over the whole sequence gives transformers' logits at every position.
    """
    with torch.inference_mode():
        expected = reference(torch.tensor([[*prompt, *output]])).logits[0]
    for index, token_id in enumerate(output):
        row = expected[len(prompt) - 1 + index]
        bound = TOLERANCE * float(row.abs().max())
        ours = recorded[len(prompt) - 1 + index]
        assert float((ours - row).abs().max()) <= bound, f"logits at token {index}"
        if token_id != int(row.argmax()):
            behind = float(row.max() - row[token_id])
            assert behind <= 2 * bound, f"token {index} is {behind} behind transformers' choice"
            return  # after a near-tie both texts are right, and differ


Rows = dict[str, dict[int, torch.Tensor]]


def generate(real: RealEngine, requests: list[GenerationRequest]) -> tuple[Collected, Rows]:
    """Run together; the outputs, and the logits of each request by position."""
    sizes = {"max_model_len": 512, "num_pages": 600, "page_size": 16, "max_num_seqs": 64}
    engine, runner = real.engine(**sizes, max_num_batched_tokens=2048)
    collected = run_to_end(engine, requests)
    rows: Rows = {name: {} for name in collected.outputs}
    for (name, position), row in runner.recorded.items():
        rows[name][position] = row
    return collected, rows


def test_text_is_that_of_transformers_over_64_tokens_on_20_prompts(
    real: RealEngine, reference: PreTrainedModel
) -> None:
    prompts = {str(index): chat(real, question) for index, question in enumerate(QUESTIONS)}
    requests = [
        request(name, prompt, max_tokens=NEW_TOKENS, ignore_eos=True)
        for name, prompt in prompts.items()
    ]
    collected, rows = generate(real, requests)
    for name, prompt in prompts.items():
        assert len(collected.tokens(name)) == NEW_TOKENS
        assert_greedy_of(reference, prompt, collected.tokens(name), rows[name])


@pytest.fixture(scope="module", params=SHIPPED, ids=lambda path: path.stem)
def shipped(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


@pytest.fixture
def changed_reference(shipped: Path, reference: PreTrainedModel) -> Iterator[PreTrainedModel]:
    """transformers' model with the shipped adapter added to its weights, taken out afterwards."""
    changes = weights_with(files.read(shipped))
    weights = {layer: reference.get_submodule(layer).weight for layer in changes}
    kept = {layer: weight.detach().clone() for layer, weight in weights.items()}
    with torch.no_grad():
        for layer, change in changes.items():
            weights[layer] += change
        yield reference
        for layer, original in kept.items():
            weights[layer].copy_(original)


def test_shipped_adapter_gives_what_transformers_gives_with_its_weights(
    real: RealEngine, shipped: Path, changed_reference: PreTrainedModel
) -> None:
    digest = real.publish(files.read(shipped))
    prompts = {str(i): chat(real, question) for i, question in enumerate(QUESTIONS[:5])}
    composition = Composition.linear([(digest, 1.0)])
    requests = [
        request(name, prompt, composition, max_tokens=16, ignore_eos=True)
        for name, prompt in prompts.items()
    ]
    collected, rows = generate(real, requests)
    for name, prompt in prompts.items():
        assert_greedy_of(changed_reference, prompt, collected.tokens(name), rows[name])


def test_32_requests_with_shipped_and_other_adapters_give_what_each_gives_alone(
    real: RealEngine,
) -> None:
    digests = [real.publish(files.read(path)) for path in SHIPPED]
    while len(digests) < 28:
        kind = KINDS[len(digests) % len(KINDS)]
        names = [name for name in real.identity.layers if name.endswith("qkv_proj")]
        seed = len(digests)
        made = make_adapter(real.identity, kind, seed, names, spread=0.02, keep_ratio=0.01)
        digests.append(real.publish(made))
    compositions = [Composition.linear([(digest, 1.0)]) for digest in digests] + [BASE] * 4
    requests = [
        request(str(i), chat(real, QUESTIONS[i % 20]), composition, max_tokens=3, ignore_eos=True)
        for i, composition in enumerate(compositions)
    ]
    _, together = generate(real, requests)
    for one in requests:
        _, alone = generate(real, [one])
        name = one.request_id
        for position, row in alone[name].items():
            torch.testing.assert_close(together[name][position], row, rtol=0, atol=1e-4)
