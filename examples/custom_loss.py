"""Your own loss in five lines: a Tversky loss on `region_sums` trains a small network on real MRI slices.

    python examples/custom_loss.py [--steps 100]

White matter of the MNI152 brain that nilearn ships (nothing is downloaded), in coronal slices of one hemisphere; the
other hemisphere is scored.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from nilearn.datasets import load_mni152_template, load_mni152_wm_template
from torch import Tensor, nn

from fastmed.functional import confusion_counts, region_sums
from fastmed.metrics import functional as metrics


def tversky(logits: Tensor, labels: Tensor, alpha: float = 0.3, beta: float = 0.7) -> Tensor:
    """Salehi et al., 2017: false negatives cost more than false positives where beta > alpha."""
    s = region_sums(logits, labels, activation="softmax", nll=False)
    fp, fn = s.pred - s.tp, s.target - s.tp
    return (1 - s.tp / (s.tp + alpha * fp + beta * fn)).mean()


def slices() -> tuple[Tensor, Tensor]:
    """Coronal slices (S, 1, X, Z), scaled by the brightest voxels, and their labels (S, X, Z): white matter or not."""
    image = np.asarray(load_mni152_template(resolution=2).dataobj, dtype=np.float32)
    white = np.asarray(load_mni152_wm_template(resolution=2).dataobj) > 0.5
    inside = image.sum((0, 2)) > 0
    scaled = torch.from_numpy(image[:, inside] / np.percentile(image[image > 0], 99))
    labels = torch.from_numpy(white[:, inside].astype(np.uint8))
    return scaled.movedim(1, 0).unsqueeze(1), labels.movedim(1, 0)


def network() -> nn.Sequential:
    """Three convolutions, enough for a tissue that is told by intensity and edges."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.ReLU()),
        *(nn.Conv2d(16, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.ReLU()),
        nn.Conv2d(16, 2, 1),
    )


def main() -> None:
    """Trains on the left half of every slice, scores the right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    steps = parser.parse_args().steps
    torch.manual_seed(0)
    images, labels = slices()
    middle = images.shape[2] // 2
    model = network()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(steps):
        batch = torch.randint(len(images), (8,))
        loss = tversky(model(images[batch, :, :middle]), labels[batch, :middle])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 10 == 0 or step == steps - 1:
            print(f"step {step:3d}  Tversky loss {loss.item():.3f}", flush=True)
    model.eval()
    with torch.inference_mode():
        logits = model(images[:, :, middle:])
    table = metrics.one_versus_rest(confusion_counts(logits, labels[:, middle:], 2, pool="batch"))
    print(f"other hemisphere: Dice of white matter {metrics.dice(table)[1]:.3f}")


if __name__ == "__main__":
    main()
