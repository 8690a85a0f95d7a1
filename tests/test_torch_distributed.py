"""DDP and FSDP2 over two real processes (gloo): swapped models give the gradients of one process."""

import os
import socket
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")
if not torch.distributed.is_available():
    pytest.skip("torch is built without distributed", allow_module_level=True)

WORLD = 2


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _full(tensor):
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def _wrap(kind: str, model):
    if kind == "ddp":
        return torch.nn.parallel.DistributedDataParallel(model)
    from torch.distributed.fsdp import fully_shard

    for module in getattr(model, "h", model.children()):
        fully_shard(module)
    return fully_shard(model)


def _train(kind: str, name: str, when: str, rank: int, inputs):
    """(gradients of the second step, state_dict after it), gathered from all processes."""
    import fastnn
    from fastnn.torch import nn as fnn
    from torch_models import make

    def is_swapped(model):
        return any(isinstance(m, tuple(fnn.ORIGINALS)) for m in model.modules())

    model, _ = make(name)
    if when == "before":
        fastnn.swap(model)
    wrapped = _wrap(kind, model)
    report = fastnn.swap(wrapped) if when == "after" else None
    assert is_swapped(wrapped)
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        wrapped(inputs[rank::WORLD]).square().mean().backward()
        grads = [_full(p.grad).clone() for p in wrapped.parameters()]
        optimizer.step()
    state = {key.removeprefix("module."): _full(value).clone() for key, value in wrapped.state_dict().items()}
    if report is not None:
        report.undo()
        assert not is_swapped(wrapped)
    return grads, state


def _worker(rank: int, port: int, kind: str, name: str, folder: str) -> None:
    import fastnn
    import torch.distributed as dist

    torch.set_num_threads(1)
    fastnn.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=WORLD)
    inputs = torch.load(f"{folder}/inputs.pt")
    results = {when: _train(kind, name, when, rank, inputs) for when in ("before", "after")}
    if rank == 0:
        torch.save(results, f"{folder}/results.pt")
    dist.destroy_process_group()


@pytest.mark.full
@pytest.mark.parametrize("name", ["lenet", "gpt"])  # without norms over the batch, whose statistics are per process
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_gradients_of_two_processes(kind, name, tmp_path):
    """Swapped before and after the model is wrapped."""
    from torch_models import make

    model, inputs = make(name)
    torch.save(inputs, tmp_path / "inputs.pt")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model(inputs).square().mean().backward()
        optimizer.step()
    port = str(_free_port())
    workers = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), port, kind, name, str(tmp_path)], stderr=subprocess.PIPE, text=True
        )
        for rank in range(WORLD)
    ]
    for worker in workers:
        _, error = worker.communicate(timeout=300)
        assert worker.returncode == 0, error
    for grads, state in torch.load(tmp_path / "results.pt").values():
        for a, b in zip(grads, model.parameters(), strict=True):
            torch.testing.assert_close(a, b.grad, rtol=1e-4, atol=1e-5 * float(b.grad.abs().max() + 1e-3))
        assert state.keys() == model.state_dict().keys()
        for key, value in model.state_dict().items():
            torch.testing.assert_close(state[key], value, rtol=1e-4, atol=1e-5, msg=key)


if __name__ == "__main__":
    _worker(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
    # As multiprocessing's children end. In the interpreter's shutdown one worker of thirty aborted on a busy machine
    # ("terminate called without an active exception"); whose thread it was is not known.
    os._exit(0)
