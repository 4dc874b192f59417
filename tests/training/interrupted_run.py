"""`intarsia train` that gets SIGTERM after a certain micro-batch: run by test_training_resume."""

import os
import signal
import sys

import torch

from adapters_store.training.loop import LossOf
from adapters_store.training.methods import DeltaMethod
from offline.training import train


def main() -> None:
    file, at = sys.argv[1], int(sys.argv[2])
    original, seen = DeltaMethod.after_micro_batch, [0]

    def signalled(method: DeltaMethod, loss_of: LossOf) -> None:
        original(method, loss_of)
        seen[0] += 1
        if seen[0] == at:
            os.kill(os.getpid(), signal.SIGTERM)

    DeltaMethod.after_micro_batch = signalled  # type: ignore[method-assign,assignment]
    torch.set_num_threads(1)
    train(["--config", file])


if __name__ == "__main__":
    main()
