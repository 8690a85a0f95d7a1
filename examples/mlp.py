"""The smallest net worth the name: two features, one hidden layer of sigmoids, 100 samples, plain gradient descent.

    python examples/mlp.py

A sample belongs to class 1 where its point lies outside of a circle, which no straight line separates.
"""

import fastnn
import fastnn.functional as F
import numpy as np

fastnn.manual_seed(0)
points = np.random.default_rng(0).uniform(-1, 1, (100, 2)).astype(np.float32)
labels = (np.hypot(points[:, :1], points[:, 1:]) > 0.75).astype(np.float32)

net = fastnn.Sequential(fastnn.Linear(2, 16), fastnn.Sigmoid(), fastnn.Linear(16, 1), fastnn.Sigmoid())
optimizer = fastnn.optim.SGD(net.parameters(), lr=2.0, momentum=0.9)

for step in range(1, 1001):
    loss = F.mse_loss(net(points), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 100 == 0:
        print(f"step {step:4}: loss {loss.item():.5f}")

with fastnn.no_grad():
    right = (net(points) > 0.5) == (labels > 0.5)
print(f"accuracy: {100 * right.mean():.1f} %")
