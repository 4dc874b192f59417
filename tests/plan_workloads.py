"""Workloads to plan: one to vary, and hypothesis' own choice of them."""

from typing import Any

from hypothesis import strategies as st

from server.plan.adapters import KINDS, AdapterShape
from server.plan.devices import GPUS, cpu_device
from server.plan.models import MODELS
from server.plan.workload import Workload

GIB = 1 << 30
A_CPU = cpu_device(bandwidth=20e9, flops=200e9, memory_bytes=16 * GIB)


def workload(**changes: Any) -> Workload:
    """Phi-3-mini on an A10 with 32 element adapters, but for `changes`."""
    usual: dict[str, Any] = {
        "model": MODELS["phi-3-mini-4k"],
        "device": GPUS["A10"],
        "adapter": AdapterShape("element", 0.01),
        "adapters": 32,
        "batch": 32,
        "context": 512,
        "dtype": "bfloat16",
    }
    return Workload(**{**usual, **changes})


def adapters() -> st.SearchStrategy[AdapterShape]:
    return st.builds(
        AdapterShape,
        kind=st.sampled_from(KINDS),
        keep_ratio=st.floats(0.001, 0.2),
        targets=st.sampled_from([("qkv_proj",), ("o_proj", "down_proj")]),
    )


def workloads() -> st.SearchStrategy[Workload]:
    """Of every model, device and kind; whether or not they fit."""
    on_gpu = st.tuples(st.sampled_from([*GPUS.values()]), st.just("bfloat16"))
    on_cpu = st.tuples(st.just(A_CPU), st.just("float32"))
    return st.builds(
        lambda model, where, adapter, adapters, batch, context: Workload(
            model, where[0], adapter, adapters, batch, context, where[1]
        ),
        st.sampled_from([*MODELS.values()]),
        on_gpu | on_cpu,
        adapters(),
        st.integers(0, 200),
        st.integers(1, 200),
        st.integers(1, 4096),
    )
