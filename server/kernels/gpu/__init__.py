"""The kernels of a forward pass on a GPU, in Triton. Nothing outside this folder imports Triton."""
