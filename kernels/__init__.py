"""Triton kernels: one file per op, kernels first, then the launchers that take torch tensors.

Launchers take CUDA tensors, or CPU tensors where TRITON_INTERPRET=1 was set before this package was imported. Their
names and arguments follow torch.nn.functional; `f_backward` is the gradient of `f`. They record no gradients:
`torch.ops.fastnn_triton` (fastnn/torch/triton_ops.py) has the same ops with autograd and for torch.compile.

Arithmetic is in float32 whatever the dtype of the tensors (float32, bfloat16 or float16), and every sum has an order
that depends on the shapes only: the same bits in every run and on every card.
"""
