"""What a model, its adapters and its requests take of a device, foretold in bytes and operations.

Arithmetic over sizes: no tensors, no transformers, nothing of the server. From the bottom:
`models`, `devices`, `adapters` describe; `workload` joins them; `memory` and `kernels` count;
`roofline` turns counts into times, `capacity` into limits.
"""
