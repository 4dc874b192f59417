"""What evaluating costs and whether its numbers are right, beside transformers and PEFT."""
