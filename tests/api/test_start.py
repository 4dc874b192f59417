"""What `intarsia serve` does around the building of the application."""

import gc

from server.cli import ALLOCATIONS, _making_what_stays


def test_what_a_start_makes_is_never_looked_through_again() -> None:
    usual = gc.get_threshold()
    try:
        with _making_what_stays():
            assert gc.get_threshold()[0] == ALLOCATIONS
            made = [[number] for number in range(1000)]
        assert gc.get_threshold() == usual
        assert gc.get_freeze_count() >= len(made)
    finally:
        gc.unfreeze()
