"""How far one side's distributions of the next token are from another's, over many tokens."""

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Distances:
    """Gathers text by text. Nats; every token but the first of a text counts for perplexity."""

    divergences: list[Tensor] = field(default_factory=list)
    agreements: list[Tensor] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)

    def add(self, expected: Tensor, found: Tensor, text: Tensor) -> None:
        """Logits `[tokens, vocab]` of the reference and of this side, of the same text."""
        p, q = (logits.log_softmax(-1) for logits in (expected, found))
        self.divergences.append((p.exp() * (p - q)).sum(-1))
        self.agreements.append(p.argmax(-1) == q.argmax(-1))
        self.losses.append(-q[:-1].gather(-1, text[1:, None])[:, 0])

    def summary(self) -> dict[str, float]:
        divergences, losses = torch.cat(self.divergences).double(), torch.cat(self.losses)
        return {
            "tokens": len(divergences),
            "kl": divergences.mean().item(),
            "kl_standard_error": (divergences.std() / len(divergences) ** 0.5).item(),
            "kl_99th_percentile": divergences.quantile(0.99).item(),
            "perplexity": losses.mean().exp().item(),
            "top_1": torch.cat(self.agreements).double().mean().item(),
        }
