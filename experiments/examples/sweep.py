"""Compares learning rates on validation; the training step is compiled once."""

import pandas as pd

from cnn_jax import plan, train

rows = []
for rate in (0.01, 0.03, 0.1):
    config = plan.config(plan.Plan())
    config.model.name = "lenet"
    config.train.update(epochs=5.0, batch_size=64)
    config.optim.learning_rate = rate
    outcome = train.run(config, progress=False)
    rows += [{"rate": rate, **row} for row in outcome.history]

table = pd.DataFrame(rows)
last = table[table.split == "validation"].groupby("rate").tail(1)
print(last[["rate", "step", "loss", "top1"]].to_string(index=False))
# Runs with work directories make the same table: pd.DataFrame(runs.read("runs"))
