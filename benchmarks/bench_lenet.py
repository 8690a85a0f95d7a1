"""LeNet: a training step at batch 100, and inference from numpy to numpy at batch 100 and 1."""

from __future__ import annotations

from functools import partial
from itertools import cycle
from math import prod, sqrt
from typing import Any

import numpy as np

from .cases import Arrays, Case, Run, Work

# In the state_dict's order. Layers of the Sequential: 0 conv, 1 relu, 2 pool, 3 conv, 4 relu, 5 pool, 6 flatten,
# 7 linear, 8 relu, 9 linear, 10 relu, 11 linear.
PARAMETERS = {
    "0.weight": (6, 1, 5, 5),
    "0.bias": (6,),
    "3.weight": (16, 6, 5, 5),
    "3.bias": (16,),
    "7.weight": (120, 400),
    "7.bias": (120,),
    "9.weight": (84, 120),
    "9.bias": (84,),
    "11.weight": (10, 84),
    "11.bias": (10,),
}
SIZE = sum(map(prod, PARAMETERS.values()))
LR, MOMENTUM = 0.01, 0.9
BATCHES = 10  # a training loop never sees the same batch twice in a row
CONV1 = 2 * 6 * 28 * 28 * 25
FORWARD = CONV1 + 2 * 16 * 10 * 10 * 150 + 2 * (400 * 120 + 120 * 84 + 84 * 10)  # flops per image


def _make(rng: np.random.Generator, batches: int, batch: int) -> Arrays:
    arrays = {}
    for name, shape in PARAMETERS.items():
        bound = 1 / sqrt(prod(PARAMETERS[name.replace("bias", "weight")][1:]))  # as torch initialises
        arrays[name] = rng.uniform(-bound, bound, shape).astype(np.float32)
    arrays["images"] = rng.standard_normal((batches, batch, 1, 28, 28), dtype=np.float32)
    arrays["labels"] = rng.integers(0, 10, (batches, batch))
    return arrays


def _model(library: Any, arrays: Arrays) -> Any:
    nn = library.lib.nn if library.name == "torch" else library.lib
    layers = [nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU()]
    layers += [nn.MaxPool2d(2), nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(84, 10))
    model.load_state_dict({name: library.tensor(arrays[name]) for name in PARAMETERS})
    return model


def _train(library: Any, arrays: Arrays, variant: str) -> Work:
    """A step as in any training loop, in fastnn or torch."""
    model = _model(library, arrays)
    last = variant == "channels_last"
    if last:
        model.to(memory_format=library.lib.channels_last)
    parameters = list(model.parameters())
    fused = {"fused": True} if library.name == "torch" else {}
    optimizer = library.lib.optim.SGD(parameters, lr=LR, momentum=MOMENTUM, **fused)
    criterion = (library.lib.nn if library.name == "torch" else library.lib).CrossEntropyLoss()

    def forward(images: Any, labels: Any) -> Any:
        return criterion(model(images), labels)

    if variant == "compiled":
        forward = library.compiled(forward)
    pairs = zip(arrays["images"], arrays["labels"], strict=True)
    batches = cycle([(library.tensor(images, False, last), library.tensor(labels)) for images, labels in pairs])

    def step() -> Any:
        images, labels = next(batches)
        optimizer.zero_grad()
        loss = forward(images, labels)
        loss.backward()
        optimizer.step()
        return loss

    def outputs(loss: Any) -> list[np.ndarray]:
        return [library.numpy(value) for value in (loss, *(p.grad for p in parameters), *parameters)]

    return Work(step, outputs)


def _infer(library: Any, arrays: Arrays, variant: str) -> Work:
    """fastnn or torch under no_grad, from numpy to numpy."""
    model = _model(library, arrays)
    model.eval()
    images = arrays["images"][0]
    if library.name == "fastnn":
        no_grad = library.lib.no_grad

        def call() -> Any:
            with no_grad():
                return model(images)

        return Work(call, lambda out: [out])
    torch = library.lib
    last = variant == "channels_last"
    if last:
        model.to(memory_format=torch.channels_last)
    forward = library.compiled(model) if variant == "compiled" else model

    def call_torch() -> Any:
        with torch.no_grad():
            x = torch.from_numpy(images)
            return forward(x.contiguous(memory_format=torch.channels_last) if last else x).numpy()

    return Work(call_torch, lambda out: [out])


def _infer_onnx(library: Any, arrays: Arrays, variant: str) -> Work:
    node = library.onnx.helper.make_node

    def layer(op: str, source: str, index: int, out: str, **attributes: Any) -> Any:
        return node(op, [source, f"{index}.weight", f"{index}.bias"], [out], **attributes)

    pool = {"kernel_shape": [2, 2], "strides": [2, 2]}
    nodes = [
        layer("Conv", "images", 0, "a", pads=[2] * 4),
        node("Relu", ["a"], ["b"]),
        node("MaxPool", ["b"], ["c"], **pool),
        layer("Conv", "c", 3, "d"),
        node("Relu", ["d"], ["e"]),
        node("MaxPool", ["e"], ["f"], **pool),
        node("Flatten", ["f"], ["g"]),
        layer("Gemm", "g", 7, "h", transB=1),
        node("Relu", ["h"], ["i"]),
        layer("Gemm", "i", 9, "j", transB=1),
        node("Relu", ["j"], ["k"]),
        layer("Gemm", "k", 11, "y", transB=1),
    ]
    inputs = {"images": arrays["images"][0]}
    session = library.session(nodes, inputs, {name: arrays[name] for name in PARAMETERS})
    return Work(partial(session.run, None, inputs), lambda outputs: outputs)


def _jax_forward(jax: Any, parameters: list[Any], x: Any) -> Any:
    it = iter(parameters)
    for padding in (2, 0):
        x = jax.lax.conv_general_dilated(x, next(it), (1, 1), [(padding, padding)] * 2) + next(it).reshape(-1, 1, 1)
        x = jax.nn.relu(x)
        x = jax.lax.reduce_window(x, -jax.numpy.inf, jax.lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")
    x = x.reshape(len(x), -1)
    for hidden in (True, True, False):
        x = x @ next(it).T + next(it)
        x = jax.nn.relu(x) if hidden else x
    return x


def _train_jax(library: Any, arrays: Arrays, variant: str) -> Work:
    jax = library.lib

    def loss_of(parameters: list[Any], images: Any, labels: Any) -> Any:
        scores = jax.nn.log_softmax(_jax_forward(jax, parameters, images))
        return -jax.numpy.take_along_axis(scores, labels[:, None], axis=1).mean()

    def step(parameters: list[Any], momenta: list[Any], images: Any, labels: Any) -> Any:
        loss, gradients = jax.value_and_grad(loss_of)(parameters, images, labels)
        momenta = [MOMENTUM * m + g for m, g in zip(momenta, gradients, strict=True)]
        return loss, [p - LR * m for p, m in zip(parameters, momenta, strict=True)], momenta

    jitted = jax.jit(step, donate_argnums=(0, 1))
    parameters = [library.tensor(arrays[name]) for name in PARAMETERS]
    held = [(parameters, [jax.numpy.zeros_like(p) for p in parameters])]
    pairs = zip(arrays["images"], arrays["labels"], strict=True)
    batches = cycle([(library.tensor(images), library.tensor(labels)) for images, labels in pairs])

    def call() -> Any:
        loss, *held[0] = jax.block_until_ready(jitted(*held[0], *next(batches)))
        return loss

    def outputs(loss: Any) -> list[np.ndarray]:  # the first momenta are the gradients
        parameters, momenta = held[0]
        return [library.numpy(value) for value in (loss, *momenta, *parameters)]

    return Work(call, outputs)


def _infer_jax(library: Any, arrays: Arrays, variant: str) -> Work:
    jitted = library.lib.jit(partial(_jax_forward, library.lib))
    parameters = [library.tensor(arrays[name]) for name in PARAMETERS]
    images = arrays["images"][0]
    return Work(lambda: library.numpy(jitted(parameters, images)), lambda out: [out])


def _reference(arrays: Arrays, train: bool) -> list[np.ndarray]:
    """Logits; or the loss, the gradients, and the parameters after the first step with the first batch."""
    from fastnn import reference

    from . import gradients

    x, labels = arrays["images"][0], arrays["labels"][0]
    tape: list[Any] = []  # what each layer's gradient needs

    def run(op: str, x: np.ndarray, *args: np.ndarray, **kwargs: int) -> np.ndarray:
        tape.append((op, (x, *args), kwargs))
        return getattr(reference, op)(x, *args, **kwargs)

    for layer, padding in ((0, 2), (3, 0)):
        x = run("conv2d", x, arrays[f"{layer}.weight"], arrays[f"{layer}.bias"], padding=padding)
        x = run("max_pool2d", run("relu", x), kernel_size=2)
    images = x.shape
    x = x.reshape(len(x), -1)
    for layer in (7, 9, 11):
        x = run("linear", x, arrays[f"{layer}.weight"], arrays[f"{layer}.bias"])
        x = run("relu", x) if layer != 11 else x
    if not train:
        return [x]

    (grad,) = gradients.cross_entropy(np.ones(()), x, labels)
    found: list[np.ndarray] = []
    for op, args, kwargs in reversed(tape):
        if op == "relu":
            grad = grad * (args[0] > 0)
            continue
        if op == "max_pool2d" and grad.ndim == 2:  # the flatten in between
            grad = grad.reshape(images)
        grad, *others = gradients.gradient(op)(grad, *args, **kwargs)
        found = others + found
    parameters = [arrays[name] for name in PARAMETERS]
    after = [reference.sgd(p, g, {}, lr=LR, momentum=MOMENTUM)[0] for p, g in zip(parameters, found, strict=True)]
    return [np.asarray(reference.cross_entropy(x, labels)), *found, *after]


def _inference(batch: int) -> Case:
    return Case(
        op="lenet",
        name=f"inference batch {batch}",
        direction="fwd",
        make=partial(_make, batches=1, batch=batch),
        reference=partial(_reference, train=False),
        runs={
            "fastnn": Run(("",), _infer),
            "torch": Run(("eager", "channels_last", "compiled"), _infer),
            "onnxruntime": Run(("",), _infer_onnx),
            "jax": Run(("jit",), _infer_jax),
        },
        flops=batch * FORWARD,
        traffic=lambda itemsize: ((batch * 28 * 28 + SIZE) * itemsize, batch * 10 * itemsize),
        dtypes=("float32",),
    )


TRAINING = Case(
    op="lenet",
    name="training step batch 100",
    direction="bwd",
    make=partial(_make, batches=BATCHES, batch=100),
    reference=partial(_reference, train=True),
    runs={
        "fastnn": Run(("",), _train),
        "torch": Run(("eager", "channels_last", "compiled"), _train),
        "jax": Run(("jit",), _train_jax),
    },
    # The images have no gradient.
    flops=100 * (3 * FORWARD - CONV1),
    # Images, labels, parameters and momenta in; parameters and momenta out.
    traffic=lambda itemsize: ((100 * 28 * 28 + 2 * SIZE) * itemsize + 800, 2 * SIZE * itemsize),
    stateful=True,
    dtypes=("float32",),
)

CASES = [TRAINING, _inference(100), _inference(1)]
