"""Training on the simulated device, step by step: the embedded network on flowers drawn by formula.

    python examples/train_flowers.py [--epochs 2] [--limit 160]

Cells are marked with `# %%`, so that editors and notebooks can run them one at a time. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
from collections import Counter

import numpy as np

import sasimc
from sasimc.datasets.dataset import open_dataset
from sasimc.datasets.images import Augment
from sasimc.datasets.loader import Loader
from sasimc.training.evaluation import evaluate
from sasimc.training.level import Level
from sasimc.training.recipe import Recipe
from sasimc.zoo.zoo import default_model_path

# %% Options
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--epochs", type=int, default=2)
parser.add_argument("--limit", type=int, default=160, help="images of each split")
options = parser.parse_args()

# %% Compile the network and put it on a device. `fused` is the fast engine; all engines give the same bits.
program = sasimc.compile(default_model_path(), batch=8)
device = sasimc.Device(program, engine="fused")
print(f"{len(program.code)} instructions, classes: {', '.join(device.labels)}")

# %% Data: images as uint8 RGB. Any folder with one sub-folder a class would do.
data = open_dataset("drawn-flowers", size=device.input_shape[0])
print(data.note, data.counts())
loader = Loader(data, "train", device.preprocess, device.batch_size, seed=0, augment=Augment(), limit=options.limit)

# %% Before training: the new classifier is random.
before, _ = evaluate(device, data, "test", limit=options.limit)
print(f"before training: top-1 {before:.1f} %")

# %% The loop. One call is one run of the program's `train_step`: forward, loss, backward, update, all on the device.
recipe, step, steps = Recipe(epochs=options.epochs), 0, len(loader) * options.epochs
level = Level.of(device.classes, recipe.modules)  # of the loss; the modules join when it is low enough
for epoch in range(options.epochs):
    losses, right, seen = [], 0, 0
    for images, labels, _ in loader.epoch(epoch):
        head_exponent, module_exponent = recipe.exponents(step, steps, level)
        result = device.train_step(images, labels, head_exponent=head_exponent, module_exponent=module_exponent)
        losses.append(result.loss)
        level = level.after(result.words, recipe.modules)
        right, seen, step = right + result.correct, seen + len(labels), step + 1
    print(
        f"epoch {epoch + 1}: loss {np.mean(losses):.3f}, train {100 * right / seen:.1f} %, device time {device.simulated_s:.2f} s"
    )

# %% After training, and where the device's time went: cycles by layer of the ONNX file.
after, _ = evaluate(device, data, "test", limit=options.limit)
print(f"after training: top-1 {after:.1f} %")
layers: Counter[str] = Counter()
for index, (_, cycles) in device.interpreter.instruction_cycles.items():
    layers[program.code[index].origin.node] += cycles
for node, cycles in layers.most_common(5):
    print(f"  {100 * cycles / layers.total():4.1f} % of all cycles: {node}")
