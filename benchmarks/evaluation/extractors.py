"""Do the feature extractors see what is wrong with images? One command, one table.

    python -m benchmarks.evaluation.extractors -data train.zip -ref test.zip --runs runs/extractors

Real images are damaged in ways that rise step by step, and measured against other real images; the
Frechet and the kernel distance are to rise with them. Then the bias and the spread of both by the
number of images.
What is measured already is not measured again: stopped, the same command goes on.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.evaluation.damages import DAMAGES, Damage, Pool
from benchmarks.evaluation.extractors_report import report
from topk_plugin.base.environment import environment
from topk_plugin.base.errors import UserError
from topk_plugin.base.files import atomic_write, write_json
from topk_plugin.engine.data.digits import load_digits
from topk_plugin.engine.data.images import ImageSet
from topk_plugin.engine.data.open import open_images
from topk_plugin.evaluation.comparable import differences
from topk_plugin.evaluation.extractors import LoadedExtractor, choose_extractor, load_extractor
from topk_plugin.evaluation.features import extract_features, reference_features
from topk_plugin.evaluation.metrics import METRICS
from topk_plugin.evaluation.metrics.record import Generated, Reference

BATCH = 64
SEED = 0
# The most disjoint parts in which the spread at one number of images is measured.
MOST_PARTS = 5
UNDAMAGED = "real images"
DAMAGED_BY = ("fid", "kid", "prdc")
"""The metrics of a damaged set."""
KEPT_AT_ONCE = 5000
"""Images whose features a kill may cost, at most."""
CPU = torch.device("cpu")


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        _run(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-data", type=Path, help="images to damage; default: the bundled Digits")
    parser.add_argument(
        "-ref", type=Path, help="images to compare with; default: a fifth of -data, left out there"
    )
    parser.add_argument("--name", default="CIFAR10", help="of the data set")
    parser.add_argument("--img_size", type=int, default=32)
    parser.add_argument(
        "--extractors",
        nargs="+",
        default=["builtin", "imagenet"],
        metavar="NAME[@SIZE]",
        help="inception, builtin, imagenet, or imagenet@96: with images resized to 96 pixels",
    )
    parser.add_argument("--samples", type=int, default=2500, help="images in a damaged set")
    parser.add_argument(
        "--counts",
        nargs="*",
        type=int,
        default=[1000, 2500, 5000, 10_000, 25_000, 50_000],
        help="numbers of images for bias and spread; those that -data has not are left out",
    )
    parser.add_argument(
        "--extrapolate",
        action="store_true",
        help="the bias of fid_inf too: the distance extrapolated to infinitely many images",
    )
    parser.add_argument("--inception_weights", type=Path)
    parser.add_argument("--runs", type=Path, required=True, help="where measured features are kept")
    parser.add_argument("--save", type=Path, help="folder of README.md and results.json")
    return parser


def _run(options: argparse.Namespace) -> None:
    data, reference = _open(options)
    generator = torch.Generator().manual_seed(SEED)
    order = torch.randperm(len(data), generator=generator)
    other = None
    if options.data is not None:
        other = load_digits(name="Digits", img_size=data.images.shape[-1], split="train").images[:]
    pool = Pool(data.images[order], data.labels[order], other)
    if 2 * options.samples > len(data):
        raise UserError(
            f"--samples {options.samples} needs twice as many images to mix, {data.name} has "
            f"{len(data)}; give fewer samples or more images"
        )
    file = options.runs / "results.json"
    results = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"extractors": {}}
    results |= {
        "command": f"python -m benchmarks.evaluation.extractors {_command(options)}",
        "environment": environment(),
        "data": f"{data.name}, {len(data):,} images of {data.images.shape[-1]} pixels",
        "reference": f"{len(reference):,} others",
        "samples": options.samples,
        "damages": {damage.name: list(damage.levels) for damage in DAMAGES},
    }
    for spec in options.extractors:
        name, _, size = spec.partition("@")
        choice = choose_extractor(
            name,
            data_name=data.name,
            inception_weights=options.inception_weights if name == "inception" else None,
        )
        given = {"input_size": int(size)} if size else {}
        extractor = load_extractor(choice, data=data, device=CPU, **given)
        facts = {
            "extractor": extractor.name,
            "extractor_fingerprint": extractor.fingerprint,
            "reference_fingerprint": reference.fingerprint(),
            "images_fingerprint": data.fingerprint(),
            "samples": options.samples,
            **extractor.facts,
        }
        measured = results["extractors"].get(spec)
        if measured is None or differences(measured["measured_with"], facts):
            measured = {"measured_with": facts, "rows": {}}
        results["extractors"][spec] = measured
        for row, found in _measure(
            extractor, pool, reference, measured, options, options.runs / spec
        ):
            measured["rows"][row] = found
            write_json(file, results)
            print(spec, row, json.dumps(found), flush=True)
    text = report(results)
    print(text)
    if options.save is not None:
        write_json(options.save / "results.json", results)
        with atomic_write(options.save / "README.md") as temporary:
            temporary.write_text(text, encoding="utf-8")


def _open(options: argparse.Namespace) -> tuple[ImageSet, ImageSet]:
    """What is damaged and what it is compared with."""
    if options.data is None:
        data = load_digits(name="Digits", img_size=options.img_size, split="train")
    else:
        data = open_images(options.name, options.data, img_size=options.img_size)
    if options.ref is not None:
        other = open_images(options.name, options.ref, img_size=options.img_size)
        return data, other
    kept_out = torch.arange(len(data)) % 5 == 0
    return _part(data, ~kept_out), _part(data, kept_out)


def _part(data: ImageSet, chosen: Tensor) -> ImageSet:
    return ImageSet(
        data.images[chosen], data.labels[chosen], data.class_names, data.name, data.source
    )


def _command(options: argparse.Namespace) -> str:
    """What decides the numbers; folders are the reader's own."""
    words = [
        *("-data", "TRAIN", *(("-ref", "TEST") if options.ref else ())),
        *("--extractors", *options.extractors, "--samples", str(options.samples)),
        *("--counts", *map(str, options.counts)),
        *(("--extrapolate",) if options.extrapolate else ()),
        *("--runs", "runs/extractors"),
    ]
    return " ".join(words if options.data else words[2:])


def _measure(
    extractor: LoadedExtractor,
    pool: Pool,
    reference: ImageSet,
    measured: dict[str, Any],
    options: argparse.Namespace,
    folder: Path,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows that are not done yet, one after another."""
    done, facts = measured["rows"], measured["measured_with"]
    done_for = f"{facts['extractor_fingerprint']} {facts['images_fingerprint']}"
    layer = extractor.module.get_default_feature_layer_for_metric("fid")
    real = Reference(reference_features(extractor, layer, reference, device=CPU, batch_size=BATCH))

    def features(images: Tensor, what: str) -> Tensor:
        found = extract_features(extractor, images, device=CPU, batch_size=BATCH, what=what)
        return found[layer]

    if "milliseconds" not in done:
        part = pool.images[: 4 * BATCH]
        features(part, "warm-up")
        # the CPU's own seconds: other programs don't count
        started = time.process_time()
        features(part, "timing")
        yield "milliseconds", {"an_image": 1000 * (time.process_time() - started) / len(part)}
    for damage in (damage for damage in DAMAGES if damage.possible(pool)):
        for level in damage.levels:
            row = damage.row(level)
            if not _has(done, row, DAMAGED_BY):
                images = _damaged(damage, pool, options.samples, level)
                yield row, _values(features(images, row), real, DAMAGED_BY)
    counts = [count for count in options.counts if count <= len(pool.images)]
    everything: Tensor | None = None
    metrics = ("fid", "kid", *(("fid_inf",) if options.extrapolate else ()))
    for count in dict.fromkeys((options.samples, *counts)):
        row = f"{UNDAMAGED}, {count:,}"
        wanted = (*metrics, *(("prdc",) if count == options.samples else ()))
        if _has(done, row, wanted):
            continue
        if everything is None:
            most = min(len(pool.images), max([MOST_PARTS * options.samples, *counts]))
            everything = _kept(folder / "real.pt", done_for, pool.images[:most], features)
        parts = everything.split(count)[: min(MOST_PARTS, len(everything) // count)]
        found = _several([_values(part, real, wanted) for part in parts])
        if count == options.samples:
            nearest = torch.cdist(everything[:count], real.features).argmin(dim=1)
            same = reference.labels[nearest] == pool.labels[:count]
            found["nearest_of_the_same_class"] = float(same.double().mean())
        yield row, found


def _has(done: dict[str, Any], row: str, metrics: tuple[str, ...]) -> bool:
    """Whether a row is there with all of the metrics."""
    return all(METRICS[name].keys[0].other in done.get(row, {}) for name in metrics)


def _damaged(damage: Damage, pool: Pool, samples: int, level: float) -> Tensor:
    generator = torch.Generator().manual_seed(SEED)
    return damage.apply(pool, samples, level, generator).contiguous()


def _kept(path: Path, of: str, images: Tensor, features: Any) -> Tensor:
    """Features of the real images: the slowest part, so they are kept between two starts.

    Args:
        path: where.
        of: which extractor and images.
        images: uint8 [N, 3, S, S].
        features: computes those of some images.
    """
    found = torch.empty(0)
    if path.exists():
        saved = torch.load(path, weights_only=True)
        if saved["of"] == of:
            found = saved["features"]
    while len(found) < len(images):
        part = images[len(found) : len(found) + KEPT_AT_ONCE]
        found = torch.cat([found, features(part, UNDAMAGED)])
        with atomic_write(path) as temporary:
            torch.save({"of": of, "features": found}, temporary)
    return found[: len(images)]


def _values(features: Tensor, real: Reference, metrics: tuple[str, ...]) -> dict[str, float]:
    generated = Generated(features, features)
    return {
        key.other: value
        for name in metrics
        for key, value in zip(
            METRICS[name].keys, METRICS[name].values(generated, real, SEED), strict=True
        )
    }


def _several(parts: list[dict[str, float]]) -> dict[str, Any]:
    """Mean of each value over disjoint sets, and its standard deviation where there are two."""
    found: dict[str, Any] = {"sets": len(parts)}
    for name in parts[0]:
        values = torch.tensor([part[name] for part in parts], dtype=torch.float64)
        found[name] = float(values.mean())
        if len(parts) > 1:
            found[f"{name}_std"] = float(values.std())
    assert all(math.isfinite(value) for value in found.values())
    return found


if __name__ == "__main__":
    sys.exit(main())
