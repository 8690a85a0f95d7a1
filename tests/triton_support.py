"""What the tests of the Triton kernels share. Without a GPU the kernels run in triton's interpreter on CPU tensors."""

import pytest

pytest.importorskip("triton", reason="triton is not installed")
torch = pytest.importorskip("torch", reason="torch is not installed")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# The interpreter's dot is wrong for bfloat16; the rest of it is not, but a GPU is what shows rounding.
DTYPES = [torch.float32, torch.float16] + ([torch.bfloat16] if DEVICE == "cuda" else [])
# numpy's in the interpreter, where a GPU returns infinity or NaN without a word
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")
ELEMENTWISE = {torch.float32: 3e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}
REDUCTION = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}


def randn(*shape, dtype=torch.float32, seed=0, scale=1.0):
    """Normal values on the device, rounded to dtype; the same for a seed."""
    generator = torch.Generator().manual_seed(seed + 1000003 * sum(shape))
    return (torch.randn(shape, generator=generator) * scale).to(dtype).to(DEVICE)


def close(out, expected, tolerance):
    """out equals the float64 `expected` within tolerance of each element's size or of the typical size."""
    assert tuple(out.shape) == tuple(expected.shape), (out.shape, expected.shape)
    out, expected = out.detach().cpu().double(), expected.detach().cpu().double()
    assert torch.equal(out.isnan(), expected.isnan()), "NaN in other places"
    assert torch.equal(out.isinf(), expected.isinf()), "infinity in other places"
    fine = expected.isfinite()
    gap = torch.where(fine, (out - expected).abs(), 0.0)
    typical = torch.where(fine, expected, 0.0).square().sum().div(max(1, expected.numel())).sqrt().clamp_min(1e-3)
    allowed = tolerance * (torch.where(fine, expected, 0.0).abs() + typical)
    assert bool((gap <= allowed).all()), f"off by {float((gap / allowed).max()):.3g} tolerances"


def gradients(function, grad, *inputs):
    """Gradients of function(*inputs) in float64 by torch; None inputs and integer ones are passed on."""
    leaves = [
        x.detach().cpu().double().requires_grad_() if x is not None and x.is_floating_point() else x for x in inputs
    ]
    out = function(*[x.cpu() if x is not None and not x.requires_grad else x for x in leaves])
    wanted = [x for x in leaves if x is not None and x.requires_grad]
    return torch.autograd.grad(out, wanted, grad.detach().cpu().double())
