"""Train the compact U-Net that mIoU is measured with, on photographs with label maps.

    python benchmarks/segmenter.py PHOTOS LABELS VAL_PHOTOS VAL_LABELS --classes 11 --out camvid-unet.safetensors

Labels are 8-bit images of class ids with the photographs' names; ids from `--classes` on are neither learnt nor scored.
One CPU thread; stops after `--minutes` of CPU time. Prints the mIoU on the second folders, and each class's IoU.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.classification import multiclass_jaccard_index

from gansdk_metrics.segmenter import UNet, save_unet

CROP = (160, 208)


def read(photos: Path, labels: Path) -> tuple[Tensor, Tensor]:
    """uint8 (N, 3, H, W) and (N, H, W), in the order of their names."""
    named = {path.stem: path for path in sorted(labels.iterdir())}
    paths = [path for path in sorted(photos.iterdir()) if path.stem in named]
    if not paths:
        raise SystemExit(f"No photograph in {photos} has a label map of its name in {labels}.")
    images = [np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1) for path in paths]
    maps = [np.asarray(Image.open(named[path.stem])) for path in paths]
    return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(maps))


def drawn(images: Tensor, labels: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """One crop of 60 to 100 % of the sides, resized to CROP, flipped and brightened at random."""
    height, width = labels.shape[1:]
    index, share = int(rng.integers(len(labels))), rng.uniform(0.6, 1.0)
    rows, columns = int(share * height), int(share * width)
    top, left = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
    window = (slice(top, top + rows), slice(left, left + columns))
    image = images[index][(slice(None), *window)].float()[None] / 255
    image = F.interpolate(image, CROP, mode="bilinear", antialias=True)[0]
    label = F.interpolate(labels[index][window].float()[None, None], CROP, mode="nearest-exact")[0, 0].long()
    gains = torch.tensor(rng.uniform(0.8, 1.2, 1) * rng.uniform(0.95, 1.05, 3), dtype=torch.float32)
    image = (image * gains.view(3, 1, 1)).clamp(0, 1)
    return (image.flip(2), label.flip(1)) if rng.integers(2) else (image, label)


def class_weights(labels: Tensor, classes: int) -> Tensor:
    """(classes,): one over the square root of how often a class is seen, mean 1 over the pixels' classes."""
    counts = torch.bincount(labels.flatten().long(), minlength=classes)[:classes].double()
    weights = counts.clamp(min=1).rsqrt()
    return (weights * counts.sum() / (weights * counts).sum()).float()


@torch.no_grad()
def iou(network: UNet, images: Tensor, labels: Tensor) -> Tensor:
    """(classes,): intersection over union of all pixels of the set; unlabelled pixels count nowhere."""
    network.eval()
    found = torch.cat([network(image[None].float() / 255).argmax(1) for image in images])
    truth = labels.long().clamp(max=network.classes)
    scores: Tensor = multiclass_jaccard_index(
        found, truth, num_classes=network.classes, ignore_index=network.classes, average="none"
    )
    return scores


def main() -> None:
    """Train, save, and say how well it does."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for folder in ("photos", "labels", "val_photos", "val_labels"):
        parser.add_argument(folder, type=Path)
    parser.add_argument("--classes", type=int, required=True)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(asked.seed)
    images, labels = read(asked.photos, asked.labels)
    network = UNet(asked.classes, asked.width).to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(network.parameters(), lr=asked.learning_rate, weight_decay=1e-3)
    weights = class_weights(labels, asked.classes)
    began, step, done = time.process_time(), 0, 0.0
    while done < 1:
        rate = min(step / 50, 1.0) * (0.5 + 0.5 * math.cos(math.pi * done))
        optimiser.param_groups[0]["lr"] = asked.learning_rate * max(rate, 1e-3)
        rng = np.random.default_rng([asked.seed, step])
        batch = [drawn(images, labels, rng) for _ in range(asked.batch_size)]
        crops, truth = (torch.stack(part) for part in zip(*batch, strict=True))
        logits = network(crops.contiguous(memory_format=torch.channels_last))
        truth[truth >= asked.classes] = -1
        loss = F.cross_entropy(logits, truth, weight=weights, ignore_index=-1)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        step += 1
        done = (time.process_time() - began) / (60 * asked.minutes)
        if step % 50 == 0:
            print(f"step {step}, {100 * done:.0f} %, loss {loss.item():.3f}", flush=True)
    each = iou(network, *read(asked.val_photos, asked.val_labels))
    facts = {
        "steps": step,
        "batch_size": asked.batch_size,
        "seed": asked.seed,
        "training_images": len(images),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "validation_miou": round(float(each.mean()), 4),
        "validation_iou": [round(float(value), 4) for value in each],
    }
    network = network.to(memory_format=torch.contiguous_format)
    save_unet(network, asked.out, {name: json.dumps(value) for name, value in facts.items()})
    print(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()
