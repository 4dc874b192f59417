"""The kernels of an fp32 forward pass on a CPU: oneDNN's packed products, compiled loops beside."""
