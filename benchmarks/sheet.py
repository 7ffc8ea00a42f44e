"""One picture of several networks' images: input, each network in a column, and the target where there is one.

    python benchmarks/sheet.py DATA --adapter '{"name": "pix2pix"}' --out sheet.png \
        --column teacher=runs/teacher/teacher --column "CAT 5x=runs/rows/5x-0/student"

Every --column is TITLE=FOLDER of a saved teacher or student. Images are whole ones of the source's "eval" split, evenly
spaced.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from itertools import islice
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from gansdk.contracts import MAIN
from gansdk.modules.inference import inferring
from gansdk.pipeline.opening import open_generator, open_source
from gansdk.toolkit.images import Pixels, picture, to_uint8

GAP, TITLE = 4, 18


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--adapter", type=json.loads, required=True)
    parser.add_argument("--column", action="append", required=True, metavar="TITLE=FOLDER")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--split", choices=("train", "all"), default="train")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    columns = dict(text.split("=", 1) for text in asked.column)
    networks = {title: open_generator(folder, asked.adapter) for title, folder in columns.items()}
    first = next(iter(networks.values()))
    contract = first.adapter.contract(first.module)
    source = open_source(asked.data, dataclasses.replace(first, contract=contract), split=asked.split)
    total = sum(1 for _ in source.images("eval"))
    rows: list[dict[str, Pixels]] = []
    for batch in islice(source.images("eval"), 0, total, max(1, total // asked.images)):
        row = {"input": picture(batch.inputs[MAIN][0], contract.input_range)}
        for title, network in networks.items():
            with inferring(network.module, contract):
                row[title] = to_uint8(network.module(batch.inputs[MAIN])[0], contract.output_range)
        if batch.targets:
            row["target"] = picture(batch.targets[MAIN][0], contract.output_range)
        rows.append(row)
    sheet = draw(rows[: asked.images])
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(asked.out)


def draw(rows: list[dict[str, Pixels]]) -> Image.Image:
    """Rows of named images of one size as a table with a title above every column."""
    titles = list(rows[0])
    height, width = rows[0][titles[-1]].shape[:2]
    size = (len(titles) * (width + GAP) - GAP, TITLE + len(rows) * (height + GAP) - GAP)
    sheet = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for number, title in enumerate(titles):
        left = number * (width + GAP)
        pen.text((left + width / 2, TITLE / 2), title, fill="black", font=font, anchor="mm")
        for line, row in enumerate(rows):
            sheet.paste(Image.fromarray(row[title].squeeze()), (left, TITLE + line * (height + GAP)))
    return sheet


if __name__ == "__main__":
    main()
